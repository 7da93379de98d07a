"""Where files lie: a folder on disk, or one on object storage (`s3://bucket/lake`), under one kind of path.

On disk a path is `pathlib.Path`, elsewhere universal_pathlib's `UPath`, which speaks the same language over fsspec.
Credentials come from the environment, as the storage's own tools take them, and never from an address.
"""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import unquote, urlsplit

from .errors import CannotWrite, InvalidArgument, MissingExtra

if TYPE_CHECKING:
    from upath import UPath

__all__ = [
    "AnyPath",
    "address",
    "as_path",
    "cannot_write",
    "files_below",
    "is_local",
    "make_folder",
    "naming",
    "remove",
    "sync",
    "write_file",
]

AnyPath: TypeAlias = "Path | UPath"

_SYNCING = 8

# A pathlib.Path made of an address has lost one of its slashes.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/{1,2}(?=[^/])|(file):///")
# What object stores, fsspec and Delta agree upon without escaping.
_PLAIN = re.compile(r"[A-Za-z0-9_.=/+-]*")


def as_path(where: str | os.PathLike[str] | UPath) -> AnyPath:
    """The absolute path of a folder or file on disk, or of an address such as ``s3://bucket/lake``.

    Raises InvalidArgument for an address that holds a password or characters that stores disagree upon, MissingExtra
    where the library for such addresses is not installed.
    """
    text = str(where)
    if "\0" in text:
        raise InvalidArgument(f"{text!r} cannot be a path")
    scheme = _SCHEME.match(text)
    if scheme is None:
        return Path(text).expanduser().absolute()
    protocol = (scheme[1] or scheme[2]).lower()
    rest = text[scheme.end() :]
    if protocol in ("file", "local"):
        return Path("/", unquote(rest))
    _check_address(protocol, rest)
    from upath import UPath

    try:
        # Listings are not cached: others write here, too.
        path = UPath(f"{protocol}://{rest.rstrip('/')}", use_listings_cache=False)
        _ = path.fs
    except ImportError as error:
        raise MissingExtra(f"what reads {protocol}:// addresses", "remote") from error
    except ValueError as error:
        raise InvalidArgument(f"{protocol}://: no storage of that kind is known") from error
    return path


def _check_address(protocol: str, rest: str) -> None:
    split = urlsplit(f"{protocol}://{rest}")
    if "@" in split.netloc:
        # Not repeated: it may well be a password.
        raise InvalidArgument(
            f"the {protocol}:// address holds credentials; take them out and set them in the environment"
            " (for S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile)"
        )
    if not _PLAIN.fullmatch(rest):
        raise InvalidArgument(
            f"{protocol}://{split.netloc}/…: the address of a lake takes letters, digits and . _ - = + / only"
        )


def is_local(path: AnyPath) -> bool:
    """Whether the path is one on disk."""
    return isinstance(path, Path)


def address(path: AnyPath) -> str:
    """A path as Delta takes it: as an address, for in a plain text it would decode '%41'."""
    return path.as_uri() if isinstance(path, Path) else str(path)


def make_folder(path: AnyPath) -> None:
    """Make a folder and those above it. Object storage has none, and a bucket is its owner's to make."""
    if isinstance(path, Path):
        made = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(parents=True, exist_ok=True)
        sync(folder.parent for folder in made)


def sync(paths: Iterable[AnyPath]) -> None:
    """Wait until the disk has these files, and the names in these folders: a power cut leaves them as they are now.

    Object storage has what it has taken. Raises OSError where the disk has lost what was written.
    """
    local = [path for path in dict.fromkeys(paths) if isinstance(path, Path)]
    if len(local) < 3:
        for path in local:
            _sync_one(path)
        return
    # Many at once cost little more than one: the file system writes its journal for all of them together.
    with ThreadPoolExecutor(min(len(local), _SYNCING), "crowdplay-lake sync") as pool:
        for _ in pool.map(_sync_one, local):
            pass


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems know no such thing for folders.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            error.filename = str(path)
            raise
    finally:
        os.close(descriptor)


def remove(path: AnyPath) -> None:
    """Remove a file, if it is there."""
    path.unlink(missing_ok=True)


def write_file(path: AnyPath, data: bytes) -> None:
    """Write a file whole or not at all: who is killed meanwhile, or has a power cut, leaves the old one, or none."""
    if not isinstance(path, Path):
        path.write_bytes(data)
        return
    unfinished = path.with_name(f".{path.name}.tmp")
    try:
        with naming(path):
            unfinished.write_bytes(data)
            sync([unfinished])
        unfinished.replace(path)
        sync([path.parent])
    except OSError:
        with suppress(OSError):
            unfinished.unlink()
        raise


@contextmanager
def naming(path: object) -> Iterator[None]:
    """An OSError that does not say of which file it tells, names ``path``."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
# Delta passes the system's errors on as text.
_SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")


def cannot_write(root: AnyPath, error: Exception) -> CannotWrite | None:
    """What a failed write means to the user, None for a failure of another kind. ``root``: the lake's folder."""
    told = _SYSTEM_ERROR.search(str(error))
    code = int(told[1]) if told else getattr(error, "errno", None)
    where = str(getattr(error, "filename", None) or root)
    again = "then run this again: it goes on from the last commit"
    if code in _FULL:
        if not where.startswith(str(root)) and where.startswith(tempfile.gettempdir()):
            return CannotWrite(
                f"{tempfile.gettempdir()}: no space is left for temporary files; free some there or name another"
                f" folder in the environment variable TMPDIR, {again}"
            )
        return CannotWrite(f"{where}: no space is left on that disk; free some, {again}")
    if code in _FORBIDDEN and where.startswith(str(root)):
        return CannotWrite(f"{where}: may not be written to ({os.strerror(code)}); make it writable, {again}")
    return None


def files_below(folder: AnyPath) -> Iterator[tuple[str, int]]:
    """Every file below a folder: (path relative to it, with forward slashes; its size), sorted."""
    if isinstance(folder, Path):
        found = []
        for root, _, names in os.walk(folder):
            for name in names:
                path = Path(root, name)
                found.append((path.relative_to(folder).as_posix(), path.lstat().st_size))
    else:
        base = folder.path.rstrip("/") + "/"
        listed = folder.fs.find(folder.path, detail=True)
        found = [(name.removeprefix(base), info["size"]) for name, info in listed.items()]
    yield from sorted(found)
