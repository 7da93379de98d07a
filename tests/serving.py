"""A small HTTP server of a folder, with ranges and pages of links, that counts what it sends."""

from __future__ import annotations

import html
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote


@dataclass
class Served:
    """A running server, and what was asked of it."""

    root: Path
    ranges: bool = True  # without, every answer is the whole file
    tags: bool = True  # ETag and Last-Modified
    lengths: bool = True
    statuses: list[int] = field(default_factory=list)  # of the next answers, instead of the right ones
    url: str = ""
    sent: int = 0  # bytes of files
    requests: list[str] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: Served

    def do_HEAD(self) -> None:
        self._answer(False)

    def do_GET(self) -> None:
        self._answer(True)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, with_body: bool) -> None:
        served = self.served
        served.requests.append(f"{self.command} {self.path} {self.headers.get('Range', '')}".strip())
        path = served.root / unquote(self.path.partition("?")[0]).lstrip("/")
        status = served.statuses.pop(0) if served.statuses else 200
        if status != 200 or not path.exists():
            self._send(status if status != 200 else 404, b"", {}, with_body)
        elif path.is_dir():
            links = "".join(f'<a href="{html.escape(link)}">x</a>\n' for link in _links(path))
            self._send(200, links.encode(), {"Content-Type": "text/html"}, with_body)
        else:
            self._send_file(path, with_body)

    def _send_file(self, path: Path, with_body: bool) -> None:
        served, size = self.served, path.stat().st_size
        headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"} if served.ranges else {}
        if served.tags:
            headers |= {"ETag": f'"{path.stat().st_mtime_ns:x}"', "Last-Modified": "Wed, 21 Oct 2026 07:28:00 GMT"}
        wanted = re.match(r"bytes=(\d+)-(\d*)$", self.headers.get("Range", "")) if served.ranges else None
        start, end, status = 0, size, 200
        if wanted:
            start, end, status = int(wanted[1]), min(int(wanted[2] or size) + 1, size), 206
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        with path.open("rb") as file:
            file.seek(start)
            data = file.read(end - start)
        served.sent += len(data) if with_body else 0
        self._send(status, data, headers, with_body)

    def _send(self, status: int, data: bytes, headers: dict[str, str], with_body: bool) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if self.served.lengths:
            self.send_header("Content-Length", str(len(data)))
        else:
            self.close_connection = True
        self.end_headers()
        if with_body:
            try:
                self.wfile.write(data)
            except ConnectionError:
                self.close_connection = True  # whoever asked has read enough


def _links(folder: Path) -> Iterator[str]:
    """As web servers write them, with those that lead nowhere new."""
    yield from ("../", "?C=N;O=D", "/", "#top", "https://example.org/other.pickle", "./")
    for path in sorted(folder.iterdir()):
        yield quote(path.name) + ("/" if path.is_dir() else "")


@contextmanager
def serving(root: Path, **how: bool) -> Iterator[Served]:
    """``root`` on a free port of this machine."""
    served = Served(root, **how)  # type: ignore[arg-type]
    handler = type("Handler", (_Handler,), {"served": served})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    served.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
