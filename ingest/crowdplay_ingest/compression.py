"""How raw files are packed."""

from __future__ import annotations

import bz2
import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

__all__ = ["open_decompressed"]


@contextmanager
def open_decompressed(file: BinaryIO, compression: str) -> Iterator[BinaryIO]:
    """The unpacked bytes of ``file``; ``compression`` is none, gzip or bz2."""
    if compression == "bz2":
        with bz2.BZ2File(file) as stream:
            yield stream  # type: ignore[misc]
    elif compression == "gzip":
        with gzip.GzipFile(fileobj=file, mode="rb") as stream:
            yield stream  # type: ignore[misc]
    else:
        yield file
