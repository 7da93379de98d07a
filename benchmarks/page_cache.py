"""The system's cache of files: made to forget them, and asked what it still has."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["forget", "share_in_memory"]


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


def forget(folder: Path) -> None:
    """Have the pages of all files below ``folder`` dropped; those that somebody maps stay. Needs no rights."""
    for path in _files(folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            # Pages that are not yet on the disk would stay.
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def share_in_memory(folder: Path) -> float:
    """Of the pages of all files below ``folder``, those that a reading of them would not fetch: 0 to 1."""
    libc = ctypes.CDLL(None, use_errno=True)
    pages = there = 0
    for path in _files(folder):
        size = path.stat().st_size
        count = -(-size // mmap.PAGESIZE)
        state = (ctypes.c_ubyte * count)()
        with path.open("rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY) as mapped:
            start = (ctypes.c_char * size).from_buffer(mapped)
            failed = libc.mincore(ctypes.byref(start), ctypes.c_size_t(size), state)
            del start
        if failed:
            raise OSError(ctypes.get_errno(), "mincore", str(path))
        pages += count
        there += sum(one & 1 for one in state)
    return there / pages if pages else 0.0
