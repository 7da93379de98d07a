"""Raw files, decompressed as they are read: bz2 and gzip, by Python's own libraries.

Others were measured in one thread, in processor time, on recorded episodes: bz2 took as long in cramjam and, within a
tenth, in indexed_bzip2; for gzip, isal is six times as fast, but few files are gzip and a step costs more elsewhere.
"""

from __future__ import annotations

import bz2
import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

__all__ = ["open_decompressed"]


@contextmanager
def open_decompressed(file: BinaryIO, compression: str) -> Iterator[BinaryIO]:
    """What ``file`` holds, for reading from start to end. ``compression``: "none", "gzip" or "bz2".

    Memory is bounded, whatever the file expands to. A damaged or truncated one raises OSError or EOFError once what
    precedes the damage has been read. Several streams in a row are read as one.
    """
    if compression == "bz2":
        with bz2.BZ2File(file) as stream:
            yield cast(BinaryIO, stream)
    elif compression == "gzip":
        with gzip.GzipFile(fileobj=file, mode="rb") as unpacked:
            yield cast(BinaryIO, unpacked)
    else:
        yield file
