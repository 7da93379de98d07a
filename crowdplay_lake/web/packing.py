"""Binary answers: packed as the browser can take them, and not sent again where it has them."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from importlib.metadata import version

import anyio.to_thread
import pyarrow as pa
from starlette.requests import Request
from starlette.responses import Response

from ..lake import Lake

__all__ = ["binary", "packed"]

ZSTD_LEVEL = 3
GZIP_LEVEL = 4


def packed(data: bytes, accepted: str) -> tuple[bytes, str | None]:
    """``data`` and its Content-Encoding: zstd, else gzip, else as it is."""
    names = {part.split(";")[0].strip() for part in accepted.lower().split(",")}
    if "zstd" in names:
        return pa.Codec("zstd", compression_level=ZSTD_LEVEL).compress(data, asbytes=True), "zstd"
    if "gzip" in names:
        packer = zlib.compressobj(GZIP_LEVEL, wbits=31)
        return packer.compress(data) + packer.flush(), "gzip"
    return data, None


async def binary(request: Request, lake: Lake, make: Callable[[], bytes]) -> Response:
    """What ``make`` gives. A commit never changes: the browser asks again, and is told to take what it has.

    It always asks: of an episode that was removed from the lake no copy is shown.
    """
    accepted = request.headers.get("accept-encoding", "")
    about = f"{version('crowdplay-lake')} {lake.snapshot.row} {request.url.path}?{request.url.query} {accepted}"
    tag = f'"{hashlib.sha256(about.encode()).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache", "Vary": "Accept-Encoding"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    data, encoding = await anyio.to_thread.run_sync(lambda: packed(make(), accepted))
    if encoding:
        headers["Content-Encoding"] = encoding
    return Response(data, media_type="application/octet-stream", headers=headers)
