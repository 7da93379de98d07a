"""The canonical content of an episode: what must be equal for two lakes to be equal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from .parts import EpisodeRows

__all__ = ["ContentHasher", "content_hash"]

# What `episodes` says and the rows need to become steps again: a log of colours means nothing without its palette.
FACTS = ("agents", "screen_agents", "frame_shape", "palettes", "reward_type", "variant")


class ContentHasher:
    """SHA-256 over the rows of a table that comes in pieces, the same wherever it was cut.

    Names, nulls and values count, not how they are stored: three digests a column (which rows hold a value, how long
    each is, the values' bytes), each fed piece by piece, become one at the end.
    """

    def __init__(self) -> None:
        self._columns: dict[str, _Column] = {}

    def add(self, rows: pa.Table) -> None:
        """The next rows."""
        for name in rows.column_names:
            column = self._columns.setdefault(name, _Column())
            for chunk in rows[name].chunks:
                column.add(chunk)

    def hexdigest(self) -> str:
        """Of the rows so far; more may follow."""
        digest = hashlib.sha256()
        for name, column in sorted(self._columns.items()):
            if column.rows:
                digest.update(f"{name}\0{column.rows}\0{column.hexdigests()}\0".encode())
        return digest.hexdigest()


class _Column:
    def __init__(self) -> None:
        self.rows = 0
        self._valid, self._lengths, self._values = (hashlib.sha256() for _ in range(3))

    def hexdigests(self) -> str:
        return "\0".join(digest.hexdigest() for digest in (self._valid, self._lengths, self._values))

    def add(self, values: pa.Array) -> None:
        self.rows += len(values)
        if values.null_count:
            self._valid.update(values.is_valid().to_numpy(zero_copy_only=False).tobytes())
        else:
            self._valid.update(b"\1" * len(values))
        kind = values.type
        if pa.types.is_binary(kind) or pa.types.is_string(kind):
            self._add_bytes(pc.fill_null(values.cast(pa.binary()), b"") if values.null_count else values)
            return
        if values.null_count:
            values = values.fill_null(pa.scalar(0).cast(kind))
        self._values.update(np.ascontiguousarray(values.to_numpy(zero_copy_only=False)).data)

    def _add_bytes(self, values: pa.Array) -> None:
        _, offsets, data = values.buffers()
        if offsets is None or not len(values):
            return
        ends = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1]
        self._lengths.update(np.diff(ends).astype("<i4", copy=False).tobytes())
        if data is not None:
            self._values.update(memoryview(data)[int(ends[0]) : int(ends[-1])])


def content_hash(rows: EpisodeRows, facts: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of an episode: its rows in order, and those of ``facts``, its row of `episodes`, that they need."""
    steps, frames = ContentHasher(), ContentHasher()
    for piece in rows.steps:
        steps.add(piece)
    for pieces in rows.frames:
        for piece in pieces:
            frames.add(piece)
    told = json.dumps([facts[name] for name in FACTS], default=bytes.hex)
    return hashlib.sha256(f"{steps.hexdigest()}\0{frames.hexdigest()}\0{told}".encode()).hexdigest()
