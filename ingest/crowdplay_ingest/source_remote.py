"""Object storage and HTTP, through fsspec: listed in one go, read in ranges.

Credentials come from the environment, as the command line of the storage takes them, and from nowhere else. Every fault
leaves here as an `OSError` with a number and words of our own: what a library says may repeat a signed address.
"""

from __future__ import annotations

import errno
import html
import io
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

from crowdplay_lake.errors import CrowdPlayLakeError, InvalidArgument, MissingExtra
from crowdplay_lake.remote_faults import shown, translated

from .stored import Listing, StoredFile, is_wanted

__all__ = ["RangedFile", "checked_uri", "list_remote", "open_remote", "stat_remote"]

BLOCK = 4 << 20  # bytes of one request: 20 s of unpacking, in bz2
PARALLEL_REQUESTS = 16
# Of a listing on HTTP, whose links are whatever a server says.
MAX_FOLDERS = 10_000
MAX_DEPTH = 30
ATTEMPTS = 3
CONNECT_SECONDS, READ_SECONDS = 20.0, 60.0
PAUSE = 0.5  # seconds before the second attempt

_LIBRARIES = {"s3": "s3fs", "http": "aiohttp", "https": "aiohttp"}


def checked_uri(uri: str) -> str:
    """``uri``, if it is one that is read here and holds no password."""
    scheme, _, rest = uri.partition("://")
    scheme = scheme.lower()
    if scheme not in _LIBRARIES:
        raise InvalidArgument(f"{scheme}://… is not read; s3://, http:// and https:// are, and paths")
    host = rest.replace("?", "/").replace("#", "/").partition("/")[0]
    if "@" in host or (scheme == "s3" and ":" in host and not host.startswith("arn:")):
        raise InvalidArgument(
            f"the {scheme}:// address has a user or a password in it, which would end up in logs: leave them out, and "
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, for s3://, a .netrc file for http://"
        )
    try:
        valid = bool(host) and (scheme == "s3" or (bool(urlsplit(uri).hostname) and urlsplit(uri).port != 0))
    except ValueError:
        valid = False
    if not valid:
        raise InvalidArgument(f"the {scheme}:// address names no {'bucket' if scheme == 's3' else 'host and port'}")
    if scheme == "s3" and ("?" in rest or "#" in rest):
        raise InvalidArgument(f"s3://{host}/…: an address of this kind has no '?' and no '#'")
    return f"{scheme}://{rest}"


def stat_remote(uri: str) -> StoredFile | None:
    """The file at ``uri``, or None for a folder. Raises UnknownPath where there is neither, OSError."""
    with _told(uri):
        return _stat(_filesystem(uri), uri, _last_name(uri))


def list_remote(uri: str) -> Listing:
    """Every wanted file below the folder at ``uri``."""
    root = uri.rstrip("/")
    with _told(uri):
        if _is_http(root):
            return _list_http(root)
        return _list_objects(root)


class RangedFile(io.RawIOBase):
    """The bytes of a remote file from ``start`` up to ``end``, each read of it one request."""

    def __init__(self, uri: str, start: int, end: int) -> None:
        self._uri = uri
        self._start = start
        self._end = end
        self._at = start
        self._filesystem = _filesystem(uri)
        self.in_order = False
        # Of a server that knows no ranges: the whole file in one answer.
        self._stream: Any = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: self._start, io.SEEK_CUR: self._at, io.SEEK_END: self._end}[whence]
        if base + offset < self._start:
            raise OSError(errno.EINVAL, "before the beginning of the file")
        self._at = base + offset
        return self._at - self._start

    def tell(self) -> int:
        return self._at - self._start

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = min(len(buffer), self._end - self._at)
        if count <= 0:
            return 0
        data = self._fetch(count)[:count]
        if not data:
            raise OSError(errno.EIO, "ends before the size it was listed with: it has changed", shown(self._uri))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
        super().close()

    def _fetch(self, count: int) -> bytes:
        pauses = [PAUSE * 4**attempt for attempt in range(ATTEMPTS - 1)]
        while True:
            try:
                with _told(self._uri):
                    return self._request(count)
            except (TimeoutError, ConnectionError):
                if not pauses:
                    raise
            time.sleep(pauses.pop(0))

    def _request(self, count: int) -> bytes:
        if not _is_http(self._uri):
            data: bytes = self._filesystem.cat_file(_path(self._uri), start=self._at, end=self._at + count)
            return data
        if self._stream is not None:
            stream, self._stream = self._stream, None  # until it has answered
            data = stream.read(count)
            self._stream = stream
            return data
        try:
            # Without a cache a read is a request for exactly its bytes, and never an answer that is longer.
            with self._filesystem.open(self._uri, block_size=BLOCK, cache_type="none", size=self._at + count) as file:
                file.seek(self._at)
                return bytes(file.read(count))
        except ValueError:
            return self._stream_on(count)

    def _stream_on(self, count: int) -> bytes:
        """The server answers with the whole file only: take that, from its beginning on."""
        if self._start or not self.in_order:
            raise InvalidArgument(f"{shown(self._uri)}: the server does not answer ranged requests; download it")
        self._stream = self._filesystem.open(self._uri, block_size=0, size=self._end)
        behind = self._at
        while behind and (skipped := self._stream.read(min(behind, BLOCK))):
            behind -= len(skipped)
        data: bytes = self._stream.read(count)
        return data


def open_remote(uri: str, start: int, end: int) -> BinaryIO:
    """The bytes of a remote file from ``start`` up to ``end``, to be read in order."""
    file = RangedFile(uri, start, end)
    file.in_order = True
    return io.BufferedReader(file, max(1, min(BLOCK, end - start)))


def _is_http(uri: str) -> bool:
    return uri.startswith("http")


def _path(uri: str) -> str:
    """What a filesystem of fsspec calls ``uri``."""
    return uri if _is_http(uri) else uri.partition("://")[2]


def _filesystem(uri: str) -> Any:
    """fsspec's filesystem for ``uri``: one of each kind in a thread, which fsspec keeps."""
    scheme = uri.partition("://")[0]
    try:
        import fsspec

        return fsspec.filesystem(scheme, use_listings_cache=False, **(_http_options() if _is_http(uri) else {}))
    except ImportError:
        raise MissingExtra(_LIBRARIES[scheme], "remote") from None


def _http_options() -> dict[str, Any]:
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS)
    return {
        # Passwords from .netrc, proxies from the environment. A file's bytes come as they are stored.
        "client_kwargs": {"trust_env": True, "timeout": timeout, "auto_decompress": False},
        "headers": {"Accept-Encoding": "identity"},
    }


@contextmanager
def _told(uri: str) -> Iterator[None]:
    """Turns what the libraries raise into our words; the cause is cut off, its text may hold a signature."""
    try:
        yield
    except CrowdPlayLakeError:
        raise
    except Exception as error:
        raise translated(error, uri) from None


def _last_name(uri: str) -> str:
    name = shown(uri).rstrip("/").rpartition("/")[2]
    return unquote(name) if _is_http(uri) else name


def _stat(filesystem: Any, uri: str, name: str) -> StoredFile | None:
    info = filesystem.info(_path(uri))
    if info["type"] != "file":
        return None
    if info.get("size") is None:
        raise InvalidArgument(f"{shown(uri)}: the server does not say how long it is; download it and name the file")
    return StoredFile(name, uri, int(info["size"]), _stamp(info))


def _stamp(info: Mapping[str, Any]) -> str:
    if tag := info.get("ETag"):
        return f"etag:{str(tag).strip(chr(34))}"
    return f"modified:{info.get('LastModified') or info.get('Last-Modified') or 'unknown'}"


def _list_objects(root: str) -> Listing:
    filesystem, prefix = _filesystem(root), _path(root)
    listing = Listing()
    found = filesystem.find(prefix, detail=True)
    if not found and "/" in prefix:
        raise FileNotFoundError
    for path, info in sorted(found.items()):
        name = path[len(prefix) + 1 :]
        if info["type"] == "file" and name and is_wanted(name):
            listing.files.append(StoredFile(name, f"s3://{path}", int(info["size"]), _stamp(info)))
    return listing


def _list_http(root: str) -> Listing:
    """By the links of the server's own pages; sizes are asked for one by one, many at a time."""
    filesystem = _filesystem(root)
    if "?" in root or "#" in root:
        raise InvalidArgument(f"{shown(root)}: a folder's address has no query; name the files or an archive")
    pages = [f"{root}/"]
    addresses: list[str] = []
    for page in pages:
        links = {html.unescape(link) for link in filesystem.ls(page, detail=False)}
        below = sorted(link for link in links if link.startswith(page) and link != page and _is_plain(link))
        pages += [link for link in below if link.endswith("/")]
        if len(pages) > MAX_FOLDERS or page.count("/") - root.count("/") > MAX_DEPTH:
            raise InvalidArgument(f"{shown(root)}: its pages of links go on without end; name the files or an archive")
        addresses += [link for link in below if is_wanted(unquote(link[len(root) + 1 :]))]
    listing = Listing()
    with ThreadPoolExecutor(PARALLEL_REQUESTS) as executor:
        names = [unquote(address[len(root) + 1 :]) for address in addresses]
        for found in executor.map(partial(_stat_or_reason, filesystem), addresses, names):
            (listing.files if isinstance(found, StoredFile) else listing.unreadable).append(found)  # type: ignore[arg-type]
    return listing


def _is_plain(link: str) -> bool:
    """Not a page's own sorting links, and nothing that leads up again."""
    return not {"?", "#"} & set(link) and not {".", ".."} & set(link.split("/"))


def _stat_or_reason(filesystem: Any, address: str, name: str) -> StoredFile | tuple[str, str]:
    try:
        with _told(address):
            found = _stat(filesystem, address, name)
    except OSError as error:
        return name, f"cannot be read: {error.strerror}"
    except InvalidArgument:
        return name, "the server does not say how long it is"
    return found or (name, "is no file")
