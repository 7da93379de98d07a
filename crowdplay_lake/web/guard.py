"""Who may ask the server, and what every answer says of itself.

The pages have no password: what keeps other sites out is that a browser tells where a request comes from. Asked for
under a stranger's name (DNS rebinding), or by a stranger's page, nothing is answered.
"""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import printable

__all__ = ["SECURITY_HEADERS", "Guard"]

# Nothing from elsewhere, nothing inline, no text becomes markup, nobody frames a page.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
SECURITY_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_SAME = ("same-origin", "none")


class Guard:
    """Refuses strangers, adds the headers, and turns faults into one line: the outermost layer of the application."""

    def __init__(self, app: ASGIApp, names: Collection[str] = ()) -> None:
        """``names``: host names, besides localhost and addresses, under which the server is asked."""
        self._app = app
        self._names = {"localhost", *(name.lower() for name in names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers[name] = value
                # Of styles and scripts the browser keeps what it has, and asks whether it is still so.
                headers.setdefault("Cache-Control", "no-cache" if scope["path"].startswith("/static/") else "no-store")
            await send(message)

        refusal = self._refusal(scope)
        try:
            await (refusal or self._app)(scope, receive, send_with_headers)
        except Exception as error:
            # One line here, one there: a traceback is nobody's answer.
            print(printable(f"error: {scope['path']}: {type(error).__name__}: {error}"), file=sys.stderr)
            if not started:
                await PlainTextResponse("this failed on the server", 500)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._is_ours(host):
            return PlainTextResponse("this server is not asked under that name", 421)
        if scope["method"] not in ("GET", "HEAD", "POST"):
            return PlainTextResponse("nothing can be changed here", 405, {"Allow": "GET, HEAD, POST"})
        origin = headers.get("origin")
        is_foreign = origin is not None and urlsplit(origin).netloc.lower() != host.lower()
        # A link may lead here from elsewhere; what pages fetch, they fetch themselves.
        is_page = headers.get("sec-fetch-mode") == "navigate" and not scope["path"].startswith("/api/")
        if is_foreign or (headers.get("sec-fetch-site", "none") not in _SAME and not is_page):
            return PlainTextResponse("pages of other sites may not ask this server", 403)
        return None

    def _is_ours(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        if name in self._names or name.endswith(".localhost"):
            return True
        try:
            # A stranger's site has a name: an address that leads here is ours.
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True
