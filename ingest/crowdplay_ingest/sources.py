"""Where raw episodes come from: a folder, or a single file.

A source yields `RawFile`s and the paths of metadata files. To read another kind of source, write another class with
the same two methods and name it in `open_source`.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from crowdplay_lake.errors import InvalidArgument, UnknownPath

from .compression import open_decompressed

__all__ = ["METADATA_NAME", "RawFile", "Source", "open_source", "split_name", "unknown_path"]

METADATA_NAME = "dataset.sqlite"

# In CrowdPlay's order of preference, where one episode lies there in more than one form.
SUFFIXES: Mapping[str, str] = {".pickle": "none", ".pickle.gz": "gzip", ".pickle.bz2": "bz2"}


class _HashingReader(io.RawIOBase):
    """Passes bytes on and hashes them: the file is read once."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.consumed = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self._digest.update(data)
        self.consumed += len(data)
        return len(data)

    def finish(self) -> str:
        """SHA-256 of the whole file, what nobody read included."""
        while data := self._file.read(1 << 20):
            self._digest.update(data)
            self.consumed += len(data)
        return self._digest.hexdigest()


@dataclass(frozen=True)
class OpenRawFile:
    """A raw file being read: ``stream`` gives its pickle's bytes."""

    stream: BinaryIO
    _reader: _HashingReader

    @property
    def consumed(self) -> int:
        """Bytes of the file read so far."""
        return self._reader.consumed

    def sha256(self) -> str:
        """Of the whole file; reads what is left of it."""
        return self._reader.finish()


@dataclass(frozen=True, order=True)
class RawFile:
    """One raw episode."""

    episode_id: str
    name: str  # relative to the source, with forward slashes
    path: Path
    compression: str
    size: int
    mtime_ns: int

    @contextmanager
    def open(self) -> Iterator[OpenRawFile]:
        """The file, decompressed on the way."""
        with self.path.open("rb") as file:
            reader = _HashingReader(file)
            buffered = io.BufferedReader(reader, 1 << 20)
            with open_decompressed(buffered, self.compression) as stream:
                yield OpenRawFile(stream, reader)


class Source(Protocol):
    """Raw episodes and their metadata."""

    def episodes(self) -> list[RawFile]:
        """Every episode once, ordered by id."""

    def metadata(self) -> list[Path]:
        """The metadata files, in the order in which they apply."""


def split_name(name: str) -> tuple[str, str] | None:
    """(episode id, suffix) of a raw file's name, or None for any other file."""
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name.endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)], suffix
    return None


def _raw_file(path: Path, root: Path) -> RawFile | None:
    split = split_name(path.name)
    if split is None or not path.is_file():
        return None
    status = path.stat()
    name = path.relative_to(root).as_posix()
    return RawFile(split[0], name, path, SUFFIXES[split[1]], status.st_size, status.st_mtime_ns)


class FolderSource:
    """A folder and everything below it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def episodes(self) -> list[RawFile]:
        best: dict[str, RawFile] = {}
        order = list(SUFFIXES.values())
        for path in sorted(self.root.rglob("*.pickle*")):
            found = _raw_file(path, self.root)
            if found is None:
                continue
            known = best.get(found.episode_id)
            if known is None or order.index(found.compression) < order.index(known.compression):
                best[found.episode_id] = found
        return [best[episode_id] for episode_id in sorted(best)]

    def metadata(self) -> list[Path]:
        return sorted(self.root.rglob(METADATA_NAME))


class FileSource:
    """One raw file; its metadata lies beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def episodes(self) -> list[RawFile]:
        found = _raw_file(self.path, self.path.parent)
        return [] if found is None else [found]

    def metadata(self) -> list[Path]:
        beside = self.path.parent / METADATA_NAME
        return [beside] if beside.is_file() else []


def open_source(raw: Path) -> Source:
    """The source at ``raw``. Raises UnknownPath for a path that is not there, naming the nearest that are."""
    if raw.is_dir():
        return FolderSource(raw)
    if raw.is_file():
        if split_name(raw.name) is None:
            raise InvalidArgument(f"{raw}: not a raw episode; those end in {', '.join(SUFFIXES)}")
        return FileSource(raw)
    raise unknown_path(raw)


def unknown_path(path: Path) -> UnknownPath:
    """The error for a path that is not there: names what is, where it stops being right."""
    parent = next(p for p in (path.absolute(), *path.absolute().parents) if p.is_dir())
    # Compared by name: whole paths are all alike.
    name = path.absolute().relative_to(parent).parts[0]
    return UnknownPath(name, [entry.name for entry in parent.iterdir()], str(parent))
