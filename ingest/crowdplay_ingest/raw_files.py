"""Raw files and metadata files of a source, and how they are opened: from what the listing says of them alone."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from crowdplay_lake.errors import LimitExceeded

from .compression import open_decompressed
from .source_remote import open_remote
from .source_zip import open_member
from .stored import StoredFile, ZipMember, is_remote

__all__ = ["MetadataFile", "OpenRawFile", "RawFile"]


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
    """One raw episode, and all that is needed to open it, wherever it lies."""

    episode_id: str
    name: str  # relative to the source, with forward slashes; never used as a path
    location: str = field(repr=False)  # absolute path or URI; a signed URL is a secret, so never shown
    compression: str
    size: int  # of the raw file itself, in an archive too
    stamp: str  # another one where the file has changed
    member: ZipMember | None = field(default=None, repr=False, compare=False)

    @contextmanager
    def open(self) -> Iterator[OpenRawFile]:
        """The file, decompressed on the way. Raises OSError; RawDataError for a member that cannot be taken."""
        with _open(StoredFile(self.name, self.location, self.size, self.stamp, self.member)) as file:
            reader = _HashingReader(file)
            with open_decompressed(io.BufferedReader(reader, 1 << 20), self.compression) as stream:
                yield OpenRawFile(stream, reader)


@dataclass(frozen=True)
class MetadataFile:
    """A dataset.sqlite."""

    stored: StoredFile
    # What lies beside it and holds back some of it: see stored.UNFINISHED.
    unfinished: str | None = None

    @property
    def name(self) -> str:
        return self.stored.name

    @property
    def size(self) -> int:
        return self.stored.size

    @property
    def stamp(self) -> str:
        return self.stored.stamp

    @property
    def path(self) -> Path | None:
        """Of a plain local file, which SQLite opens itself; anything else is to be read."""
        return self.stored.path

    def read(self, limit: int) -> bytes:
        """All its bytes. Raises LimitExceeded for more than ``limit``, OSError, RawDataError for a damaged member."""
        if self.size > limit:
            raise LimitExceeded(
                f"{self.size:,} bytes, and no more than {limit:,} are read from an archive or a remote place: "
                "copy it to a local file and name that with --metadata"
            )
        with _open(self.stored) as file:
            return file.read(self.size)


@contextmanager
def _open(stored: StoredFile) -> Iterator[BinaryIO]:
    """The bytes of a file as they are stored; of a member, as they went into the archive."""
    member = stored.member
    start, end = (0, stored.size) if member is None else (member.offset, member.end)
    remote = is_remote(stored.location)
    with open_remote(stored.location, start, end) if remote else open(stored.location, "rb") as file:
        if member is None:
            yield file
            return
        if not remote:
            file.seek(start)
        with open_member(file, member, stored.size) as unpacked:
            yield unpacked
