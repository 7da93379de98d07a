"""What a listing says of a file: its name, where its bytes lie, its size, and a stamp that tells a change."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

__all__ = [
    "METADATA_NAME",
    "SUFFIXES",
    "Listing",
    "StoredFile",
    "ZipMember",
    "is_archive",
    "is_remote",
    "is_wanted",
    "local_path",
    "split_name",
]

METADATA_NAME = "dataset.sqlite"

# In CrowdPlay's order of preference, where one episode lies there in more than one form.
SUFFIXES: Mapping[str, str] = {".pickle": "none", ".pickle.gz": "gzip", ".pickle.bz2": "bz2"}

# Beside a database: what a program that did not end well, or has not ended, still holds back from it.
UNFINISHED = ("-wal", "-journal")

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


@dataclass(frozen=True)
class ZipMember:
    """Where a member lies in its archive, so that it is read without the archive's directory."""

    offset: int  # of its local header
    end: int  # where the next member begins
    packed: int  # bytes it takes there
    method: int
    crc: int  # of what it holds
    flags: int


@dataclass(frozen=True)
class StoredFile:
    """A file of a source. ``location`` alone (and ``member``) is enough to open it, on any machine that reaches it."""

    name: str  # relative to the source, with forward slashes; never used as a path
    location: str = field(repr=False)  # absolute path or URI; a signed URL is a secret, so never shown
    size: int
    stamp: str
    member: ZipMember | None = field(default=None, repr=False)

    @property
    def path(self) -> Path | None:
        """Of a plain local file; None in an archive or elsewhere."""
        return None if self.member is not None or is_remote(self.location) else Path(self.location)


@dataclass
class Listing:
    """What a source holds."""

    files: list[StoredFile] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)  # names of folders and files, each with the reason


def is_remote(location: str) -> bool:
    """Whether this is a URI, not a path. A file:// is one, too: see `local_path`."""
    return _SCHEME.match(location) is not None


def local_path(location: str) -> Path | None:
    """The path of something on this machine, or None."""
    if not is_remote(location):
        return Path(location)
    parts = urlsplit(location)
    if parts.scheme.lower() != "file" or parts.netloc not in ("", "localhost"):
        return None
    return Path(url2pathname(parts.path))


def split_name(name: str) -> tuple[str, str] | None:
    """(episode id, suffix) of a raw file's name, or None for any other file."""
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name.endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)], suffix
    return None


def is_archive(name: str) -> bool:
    return name.lower().endswith(".zip")


def is_wanted(name: str) -> bool:
    """Whether a file of that name, relative to the source, is read or matters otherwise.

    Hidden files are not: among them are the `._x.pickle` that macOS puts beside every file of an archive.
    """
    *folders, last = name.split("/")
    if any(part == "__MACOSX" or (part.startswith(".") and part not in (".", "..")) for part in (*folders, last)):
        return False
    kept_back = last in {METADATA_NAME + suffix for suffix in UNFINISHED}
    return split_name(last) is not None or last == METADATA_NAME or kept_back or is_archive(last)
