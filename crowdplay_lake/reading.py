"""Whole episodes, read one after the other in the order in which they lie in their parts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .layout import LakePaths, open_parquet
from .parts import EpisodeRows
from .schema import FRAMES, STEPS, Table

__all__ = ["EpisodeReader", "in_order"]


@dataclass
class _OpenPart:
    """A part, and the row group of it that was read last."""

    path: str
    file: pq.ParquetFile
    starts: list[int]  # first row of each row group, and the number of rows
    group: int = -1
    rows: pa.Table | None = None

    def read(self, group: int, columns: list[str]) -> pa.Table:
        if self.rows is None or group != self.group:
            self.rows = None
            self.rows = self.file.read_row_group(group, columns=columns)
            self.group = group
        return self.rows


class EpisodeReader:
    """Reads the rows of episodes piece by piece: holds a row group of `steps` and one of `frames`.

    Asked for episodes as they lie in their parts (`in_order`), it decodes each row group once.
    """

    def __init__(self, paths: LakePaths) -> None:
        self._paths = paths
        self._open: dict[str, _OpenPart] = {}

    def read(self, row: Mapping[str, Any]) -> EpisodeRows:
        """The rows of an episode; ``row`` is its row of `episodes`. Pieces end where row groups do."""
        steps = itertools.chain.from_iterable(self.steps(row, index) for index in range(len(row["agents"])))
        return EpisodeRows(steps, [self.frames(row, index) for index in range(len(row["screen_agents"]))])

    def steps(self, row: Mapping[str, Any], index: int) -> Iterator[pa.Table]:
        """The rows of `steps` of the agent with that index among the sorted ones."""
        return self._pieces(STEPS, row["steps_part"], row["steps_first_row"] + index * row["n_steps"], row["n_steps"])

    def frames(self, row: Mapping[str, Any], index: int) -> Iterator[pa.Table]:
        """The rows of `frames` of the screen agent with that index."""
        first = row["frames_first_row"] + index * row["n_steps"]
        return self._pieces(FRAMES, row["frames_part"], first, row["n_steps"])

    def _pieces(self, table: Table, path: str, first: int, count: int) -> Iterator[pa.Table]:
        part = self._part(table, path)
        columns = table.stored_schema.names
        group = int(np.searchsorted(part.starts, first, side="right")) - 1
        at, stop = first, first + count
        while at < stop:
            start, end = part.starts[group], min(part.starts[group + 1], stop)
            yield part.read(group, columns).slice(at - start, end - at)
            at, group = end, group + 1

    def _part(self, table: Table, path: str) -> _OpenPart:
        known = self._open.get(table.name)
        if known is None or known.path != path:
            file = open_parquet(self._paths.part(table.name, path))
            counts = (file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups))
            known = _OpenPart(path, file, list(itertools.accumulate(counts, initial=0)))
            self._open[table.name] = known
        return known


def in_order(row: Mapping[str, Any]) -> tuple[str, int]:
    """Sorts rows of `episodes` as their episodes lie in their parts."""
    return row["steps_part"], row["steps_first_row"]
