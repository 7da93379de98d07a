"""A zip archive, read in place: a member is a range of the archive's bytes, on disk or elsewhere.

Python's `zipfile` reads the archive's directory, once. A member is then opened by its place alone, so that a worker,
on this machine or another, needs neither the directory nor the rest of the archive.
"""

from __future__ import annotations

import errno
import io
import struct
import zipfile
import zlib
from bisect import bisect_right
from typing import BinaryIO

from crowdplay_lake.errors import BrokenPickle, InvalidArgument, LimitExceeded, UnsupportedTrajectory
from crowdplay_lake.remote_faults import shown

from .stored import Listing, StoredFile, ZipMember, is_wanted

__all__ = ["list_zip", "open_member"]

# A directory takes some 120 bytes a member: a million members.
MAX_DIRECTORY_BYTES = 128 << 20
# The longest raw file there can be, unpacked, is some 20 GB: 100,000 steps of a two-player game.
MAX_MEMBER_BYTES = 64 << 30

_LOCAL_HEADER = struct.Struct("<4s22xHH")
_ENCRYPTED = 0x1 | 0x40
_CHUNK = 1 << 16
# What the system says of a place before a file's beginning, or beyond any end.
_NO_PLACE = (errno.EINVAL, errno.EOVERFLOW)


class _CarefulReader(io.BufferedReader):
    """Refuses to read at once what no directory can be: its size is whatever the archive says."""

    # `zipfile` takes a fault of the network for the end of the archive.
    fault: OSError | None = None

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            here = self.tell()
            size = self.seek(0, io.SEEK_END) - here
            self.seek(here)
        if size > MAX_DIRECTORY_BYTES:
            raise LimitExceeded(f"its directory is longer than {MAX_DIRECTORY_BYTES >> 20} MiB")
        try:
            return super().read(size)
        except OSError as error:
            self.fault = error
            raise


def list_zip(archive: StoredFile, file: io.RawIOBase) -> Listing:
    """The wanted members of ``archive``, whose bytes ``file`` reads.

    Of members of one name the last counts, as for every unpacker. Raises InvalidArgument where it is no whole zip.
    """
    reader = _CarefulReader(file, 1 << 16)
    try:
        with zipfile.ZipFile(reader) as opened:
            members = opened.infolist()
        if any(not 0 <= member.header_offset < archive.size for member in members):
            raise zipfile.BadZipFile("it says that members lie outside of it")
    except InvalidArgument:
        raise  # it is a ValueError too
    except (zipfile.BadZipFile, LimitExceeded, ValueError, NotImplementedError, struct.error, EOFError) as error:
        if reader.fault is not None and reader.fault.errno not in _NO_PLACE:
            raise reader.fault from None
        raise _damaged(archive, error) from None
    except OSError as error:
        if error.errno in _NO_PLACE:
            raise _damaged(archive, error) from None
        raise
    # Members without order or with room between them: each ends where the next one begins.
    starts = sorted({member.header_offset for member in members})
    found: dict[str, StoredFile] = {}
    for member in members:
        name = member.filename.replace("\\", "/")
        if not name.endswith("/") and is_wanted(name):
            following = bisect_right(starts, member.header_offset)
            end = starts[following] if following < len(starts) else archive.size
            found[name] = _stored(archive, member, name, end)
    return Listing(list(found.values()))


def _damaged(archive: StoredFile, error: Exception) -> InvalidArgument:
    return InvalidArgument(
        f"{shown(archive.location)}: not a whole zip archive ({error}); one that was not copied to its end looks so"
    )


def _stored(archive: StoredFile, member: zipfile.ZipInfo, name: str, end: int) -> StoredFile:
    place = ZipMember(
        member.header_offset, end, member.compress_size, member.compress_type, member.CRC, member.flag_bits
    )
    return StoredFile(name, archive.location, member.file_size, f"crc:{member.CRC:08x}", place)


def open_member(file: BinaryIO, member: ZipMember, size: int) -> BinaryIO:
    """The ``size`` bytes of a member, from ``file``, which stands at its beginning; they are checked as they are read.

    Raises RawDataError for a member that cannot be taken, reading it BrokenPickle where it is damaged.
    """
    if member.flags & _ENCRYPTED:
        raise UnsupportedTrajectory("encrypted in the archive: unpack that with its password")
    if member.method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UnsupportedTrajectory(
            f"packed in the archive by method {member.method}: of zip, stored and deflated members are read"
        )
    if size > MAX_MEMBER_BYTES:
        raise LimitExceeded(f"unpacks to {size:,} bytes, more than {MAX_MEMBER_BYTES:,}")
    header = file.read(_LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\x03\x04"):
        raise BrokenPickle("not where the archive's directory says: the archive is damaged, or has changed")
    _, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    if member.offset + _LOCAL_HEADER.size + name_length + extra_length + member.packed > member.end:
        raise BrokenPickle("reaches into another member of the archive")
    file.read(name_length + extra_length)
    return io.BufferedReader(_MemberReader(file, member, size), _CHUNK)


class _MemberReader(io.RawIOBase):
    """The bytes of one member, its length and checksum held against the directory's."""

    def __init__(self, file: BinaryIO, member: ZipMember, size: int) -> None:
        self._file = file
        self._member = member
        self._packed_left = member.packed
        self._left = size
        self._crc = 0
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS) if member.method == zipfile.ZIP_DEFLATED else None
        self._waiting = b""  # read, not yet inflated

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self._left == 0:
            return 0
        count = min(len(buffer), self._left)
        data = self._read_packed(count) if self._inflate is None else self._read_inflated(self._inflate, count)
        if not data:
            raise BrokenPickle("truncated in the archive")
        self._crc = zlib.crc32(data, self._crc)
        self._left -= len(data)
        if self._left == 0 and self._crc != self._member.crc:
            raise BrokenPickle("damaged in the archive: its checksum is another than the archive's directory says")
        buffer[: len(data)] = data
        return len(data)

    def _read_packed(self, count: int) -> bytes:
        data = self._file.read(min(count, self._packed_left))
        self._packed_left -= len(data)
        return data

    def _read_inflated(self, inflate: zlib._Decompress, count: int) -> bytes:
        while not inflate.eof:
            packed = self._waiting or self._read_packed(_CHUNK)
            try:
                data = inflate.decompress(packed, count)
            except zlib.error as error:
                raise BrokenPickle(f"damaged in the archive ({error})") from None
            self._waiting = inflate.unconsumed_tail
            if data or not packed:
                return data
        return b""
