"""The server: a socket on this machine, and the application behind it until it is interrupted."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Callable

from ..errors import InvalidArgument, MissingExtra
from ..storage import AnyPath

try:
    import uvicorn

    from .app import Limits, create_app
except ImportError as error:
    raise MissingExtra(str(error.name or "starlette"), "web") from error

__all__ = ["Limits", "is_loopback", "listening", "run"]


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens on ``host`` and ``port``; 0: any free one. Raises InvalidArgument where it cannot."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise InvalidArgument(f"--host {host}: no address of this machine ({error})") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise InvalidArgument(_cannot_listen(host, port, error)) from error
    return listener


def _cannot_listen(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        with listening(host, 0) as free:
            other = free.getsockname()[1]
        return f"port {port} of {host} is in use; try --port {other}, or --port 0 for any free one"
    if error.errno == errno.EACCES:
        return f"port {port} is not for everybody on this machine: choose one from 1024 on, such as --port 8765"
    return f"{host}:{port}: cannot listen there ({error.strerror or error})"


def run(path: AnyPath, listener: socket.socket, limits: Limits, host: str, ready: Callable[[str], None]) -> None:
    """Serve the lake on ``listener`` until interrupted. ``ready`` is told the address once it can be asked.

    Raises InvalidLake where there is no lake.
    """
    names = [host] if is_loopback(host) else [host, socket.gethostname()]
    app = create_app(path, limits, names)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=1, lifespan="on"
    )
    port = listener.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    server = _Server(config, lambda: ready(f"http://{shown}:{port}/"))
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        # It has ended in good order, and was asked to.
        return


class _Server(uvicorn.Server):
    """Tells when it is up."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()
