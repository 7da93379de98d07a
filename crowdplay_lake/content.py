"""The canonical content of an episode: what must be equal for two lakes to be equal."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["content_hash"]


def content_hash(tables: Iterable[pa.Table]) -> str:
    """SHA-256 (hex) over the rows of ``tables`` in order: names, nulls and values, not how they are stored."""
    digest = hashlib.sha256()
    for table in tables:
        for name in table.column_names:
            digest.update(f"{name}\0{table.num_rows}\0".encode())
            _add_column(digest, table[name].combine_chunks())
    return digest.hexdigest()


def _add_column(digest: hashlib._Hash, column: pa.Array) -> None:
    digest.update(np.packbits(column.is_valid().to_numpy(zero_copy_only=False)).tobytes())
    if pa.types.is_binary(column.type) or pa.types.is_string(column.type):
        filled = column.cast(pa.binary()).fill_null(b"")
        lengths = pc.binary_length(filled).to_numpy(zero_copy_only=False)
        digest.update(lengths.astype("<i4").tobytes())
        ends = np.frombuffer(filled.buffers()[1], np.int32)[filled.offset : filled.offset + len(filled) + 1]
        data = filled.buffers()[2]
        if data is not None and len(ends):
            digest.update(memoryview(data)[int(ends[0]) : int(ends[-1])])
    elif pa.types.is_boolean(column.type):
        digest.update(column.fill_null(False).to_numpy(zero_copy_only=False).tobytes())
    else:
        digest.update(np.ascontiguousarray(column.fill_null(0).to_numpy(zero_copy_only=False)).tobytes())
