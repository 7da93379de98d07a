"""Where the bytes of a lake lie: table by table and column by column, from the footers of its parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .layout import open_parquet
from .schema import COMMITS, EPISODES, TABLES
from .snapshot import Snapshot

__all__ = ["ByteCounts", "ColumnBytes", "count_bytes"]


@dataclass(frozen=True, slots=True)
class ColumnBytes:
    """A column of a table: bytes in its parts, and those bytes decompressed."""

    table: str
    column: str
    compressed: int
    uncompressed: int


@dataclass(frozen=True, slots=True)
class ByteCounts:
    """Every byte of the files below a lake's folder, once."""

    columns: list[ColumnBytes]  # of the parts of this commit, table by table in the schema's order
    footers: Mapping[str, int]  # table → bytes of its parts that are no column's: footers, and the file's frame
    logs: int  # Delta's transaction logs, of all tables
    commits: int  # parts of the table of commits
    checksums: int
    other: int  # parts of other commits, until a vacuum, and what is no part of the lake
    steps: int

    @property
    def total(self) -> int:
        columns = sum(column.compressed for column in self.columns)
        return columns + sum(self.footers.values()) + self.logs + self.commits + self.checksums + self.other

    def rows(self) -> list[dict[str, Any]]:
        """A row for every column and for everything else: table, column, compressed, uncompressed, bytes_a_step, share.

        ``column`` is in brackets where it is none; ``uncompressed`` None where that is no question.
        """
        told: list[tuple[str, str, int, int | None]] = []
        for table, footers in self.footers.items():
            told += [(c.table, c.column, c.compressed, c.uncompressed) for c in self.columns if c.table == table]
            told.append((table, "(footers)", footers, None))
        told += [
            (COMMITS.name, "(parts)", self.commits, None),
            ("all", "(transaction logs)", self.logs, None),
            ("all", "(checksums)", self.checksums, None),
            ("all", "(other files)", self.other, None),
        ]
        steps, total = max(self.steps, 1), max(self.total, 1)
        names = ("table", "column", "compressed", "uncompressed", "bytes_a_step", "share")
        return [dict(zip(names, (*row, row[2] / steps, row[2] / total), strict=True)) for row in told]


def count_bytes(snapshot: Snapshot) -> ByteCounts:
    """Count the bytes of a lake as this commit sees it. Reads footers only. Raises InvalidLake for a damaged part.

    >>> max(count_bytes(lake.snapshot).columns, key=lambda column: column.compressed).column   # doctest: +SKIP
    'gaps'
    """
    columns: list[ColumnBytes] = []
    footers: dict[str, int] = {}
    for name in TABLES:
        compressed: Counter[str] = Counter()
        uncompressed: Counter[str] = Counter()
        size = 0
        for part in snapshot.parts(name):
            size += part.size
            footer = open_parquet(snapshot.paths.part(name, part.path)).metadata
            for group in map(footer.row_group, range(footer.num_row_groups)):
                for chunk in map(group.column, range(footer.num_columns)):
                    column = chunk.path_in_schema.partition(".")[0]
                    compressed[column] += chunk.total_compressed_size
                    uncompressed[column] += chunk.total_uncompressed_size
        columns += [ColumnBytes(name, column, compressed[column], uncompressed[column]) for column in compressed]
        footers[name] = size - sum(compressed.values())
    files = _files(snapshot)
    other = files["table"] - sum(column.compressed for column in columns) - sum(footers.values())
    steps = sum(count or 0 for count in snapshot.read(EPISODES.name)["n_steps"].to_pylist())
    return ByteCounts(
        columns, footers, files["log"], files[COMMITS.name], files["checksums"], other + files["else"], steps
    )


def _files(snapshot: Snapshot) -> Counter[str]:
    """Bytes of all files of the lake, by what they are."""
    paths = snapshot.paths
    sizes: Counter[str] = Counter()
    folders = {paths.table(name): "table" for name in TABLES}
    folders |= {paths.commits: COMMITS.name, paths.checksums: "checksums"}
    for path in paths.root.rglob("*"):
        if path.is_file():
            kind = next((kind for folder, kind in folders.items() if folder in path.parents), "else")
            sizes["log" if "_delta_log" in path.parts and kind != "else" else kind] += path.stat().st_size
    return sizes
