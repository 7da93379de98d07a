"""One commit of a lake, as a reader sees it: the version of every table, and the parts that make it up."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from . import forked
from .errors import InvalidLake, UnknownCommit, did_you_mean, nearest
from .layout import LakePaths, Part, open_parquet
from .remote_faults import told
from .schema import COMMITS, FORMAT_VERSION, OLDEST_FORMAT, TABLES
from .storage import AnyPath, address, as_path

if TYPE_CHECKING:
    from upath import UPath

__all__ = ["Snapshot", "delta_table", "history", "is_table", "new_commit_name", "open_snapshot"]


@dataclass(frozen=True)
class Snapshot:
    """One commit of a lake: its number and the version of every table."""

    paths: LakePaths
    number: int
    time: datetime
    operation: str
    versions: Mapping[str, int]
    counts: Mapping[str, int]
    row: str  # the part of `commits` that holds all this

    @cached_property
    def _parts(self) -> dict[str, list[Part]]:
        return {}

    def parts(self, table: str) -> list[Part]:
        """The parts of a table in this commit, by path."""
        # Delta's log percent-encodes paths once more than the disk has them; the action list gives them back so.
        if table not in self._parts:
            delta = delta_table(self.paths.table(table), self.versions[table])
            actions = pa.table(delta.get_add_actions(flatten=True))
            key = TABLES[table].partition
            self._parts[table] = sorted(
                (
                    Part(
                        table,
                        unquote(row["path"]),
                        row["size_bytes"],
                        row["num_records"],
                        row[f"partition.{key}"] if key else None,
                    )
                    for row in actions.to_pylist()
                ),
                key=lambda part: part.path,
            )
        return self._parts[table]

    def files(self, table: str) -> list[AnyPath]:
        """The files of `parts`."""
        return [self.paths.part(table, part.path) for part in self.parts(table)]

    def files_by_partition(self, table: str) -> dict[str | None, list[AnyPath]]:
        """The files of `parts`, by the value of the partition key; None where the table has none."""
        found: dict[str | None, list[AnyPath]] = {}
        for part in self.parts(table):
            found.setdefault(part.partition, []).append(self.paths.part(table, part.path))
        return found

    def read(
        self,
        table: str,
        partitions: Collection[str] | None = None,
        columns: Sequence[str] | None = None,
        encoded: Sequence[str] = (),
    ) -> pa.Table:
        """A whole table, or some partitions or columns; texts that are ``encoded`` come as dictionaries.

        For small tables: `steps` and `frames` go through `Lake`.
        """
        chosen = [part for part in self.parts(table) if partitions is None or part.partition in partitions]
        names = TABLES[table].schema.names if columns is None else columns
        return self.read_parts(chosen, names, encoded) if chosen else _schema(table, names, encoded).empty_table()

    def read_parts(
        self, parts: Sequence[Part], columns: Sequence[str] | None = None, encoded: Sequence[str] = ()
    ) -> pa.Table:
        """Some parts of one table, all columns or some."""
        pieces = []
        for part in parts:
            table = TABLES[part.table]
            names = table.schema.names if columns is None else columns
            stored = [name for name in names if name != table.partition]
            file = open_parquet(self.paths.part(part.table, part.path), encoded)
            rows = file.read(columns=None if columns is None else stored, use_threads=False)
            if table.partition in names:
                value = pa.repeat(pa.scalar(part.partition, pa.string()), len(rows))
                rows = rows.append_column(table.partition, value)
            pieces.append(rows.select(names).cast(_schema(part.table, names, encoded)))
        return pa.concat_tables(pieces)


def _schema(table: str, names: Sequence[str], encoded: Sequence[str]) -> pa.Schema:
    """Some columns of a table, some of them as dictionaries."""
    fields = [TABLES[table].schema.field(name) for name in names]
    return pa.schema([f.with_type(pa.dictionary(pa.int32(), f.type)) if f.name in encoded else f for f in fields])


def delta_table(path: AnyPath, version: int | None = None) -> DeltaTable:
    """The Delta table in a folder."""
    forked.check_use()
    return DeltaTable(address(path), version=version)


def is_table(path: AnyPath) -> bool:
    """Whether a folder holds a Delta table."""
    forked.check_use()
    return DeltaTable.is_deltatable(address(path))


def open_snapshot(root: str | PathLike[str] | UPath, commit: int | None = None) -> Snapshot:
    """The last commit of the lake at ``root``, or the one with that number.

    Raises InvalidLake where there is none, or one of a format that is not read here.
    """
    paths = LakePaths(as_path(root))
    if forked.is_cut_off():
        return _asked_snapshot(paths, commit)
    rows = _commit_rows(paths, commit)
    if not rows:
        raise InvalidLake(_no_lake(paths.root)) if commit is None else _no_commit(paths, commit)
    row = max(rows, key=lambda row: row["number"])
    version = row["format_version"]
    if not OLDEST_FORMAT <= version <= FORMAT_VERSION:
        do = "upgrade it" if version > FORMAT_VERSION else "ingest the raw files into a new lake"
        raise InvalidLake(
            f"{root}: has format {version}, this software reads {OLDEST_FORMAT} to {FORMAT_VERSION}; {do}"
        )
    return _snapshot(paths, row)


def _asked_snapshot(paths: LakePaths, commit: int | None) -> Snapshot:
    """The same, as another process sees it: Delta can't be used in this one."""
    told = forked.ask("snapshot", root=str(paths.root), commit=commit)
    parts = told.pop("parts")
    snapshot = Snapshot(paths, **told)
    for table, rows in parts.items():
        snapshot._parts[table] = [Part(table, *row) for row in rows]
    return snapshot


def history(root: str | PathLike[str] | UPath) -> list[Snapshot]:
    """Every commit of the lake at ``root`` that can still be opened, the first one first."""
    paths = LakePaths(as_path(root))
    open_snapshot(root)
    return [_snapshot(paths, row) for row in sorted(_rows(_commit_parts(paths)), key=lambda row: row["number"])]


def _snapshot(paths: LakePaths, row: Mapping[str, Any]) -> Snapshot:
    versions, counts = dict(row["versions"]), dict(row["counts"])
    return Snapshot(paths, row["number"], row["time"], row["operation"], versions, counts, row["part"])


def _no_commit(paths: LakePaths, commit: int) -> InvalidLake:
    numbers = [_commit_number(part) for part in _commit_parts(paths)]
    if not numbers:
        return InvalidLake(_no_lake(paths.root))
    vacuumed = "; earlier ones were vacuumed" if 0 <= commit < min(numbers) else ""
    return UnknownCommit(f"{paths.root}: has no commit {commit}; it has {min(numbers)} to {max(numbers)}{vacuumed}")


def _no_lake(root: AnyPath) -> str:
    beside = root.parent
    lakes = []
    # On object storage the folder above may hold anything, in any number.
    if isinstance(root, Path) and root.parent.is_dir():
        lakes = [path.name for path in root.parent.iterdir() if path != root and LakePaths(path).commits.is_dir()]
    hint = did_you_mean(str(beside / name) for name in nearest(root.name, lakes))
    return f"{root}: no lake here{hint or f'; make one with: crowdplay-lake ingest RAW {root}'}"


def _commit_parts(paths: LakePaths) -> list[AnyPath]:
    """The parts of the table of commits: one a commit, named by its number; the last one last."""
    if isinstance(paths.commits, Path):
        if not paths.commits.is_dir():
            return []
    else:
        # Whether it can be reached at all is asked here: what Delta says of it is long, and comes late.
        with told(str(paths.root)):
            if not paths.commits.fs.exists(f"{paths.commits.path}/_delta_log"):
                return []
    try:
        # By name: the addresses that Delta gives are percent-encoded, folders above the lake among them.
        names = [uri.rpartition("/")[2] for uri in delta_table(paths.commits).file_uris()]
    except TableNotFoundError:
        return []
    except DeltaError as error:
        raise InvalidLake(f"{paths.root}: the table of commits cannot be read: {_first_line(error)}") from error
    return [paths.part(COMMITS.name, name) for name in sorted(names)]


def _first_line(error: DeltaError) -> str:
    # Some carry a page of where in Delta they arose.
    return (str(error).splitlines() or [type(error).__name__])[0]


def _commit_rows(paths: LakePaths, commit: int | None) -> list[dict[str, Any]]:
    parts = _commit_parts(paths)
    # The one that is wanted is the only one opened.
    return _rows(parts[-1:] if commit is None else [part for part in parts if _commit_number(part) == commit])


def _rows(parts: Iterable[AnyPath]) -> list[dict[str, Any]]:
    """Rows of the table of commits, each with the name of its part."""
    return [{**row, "part": part.name} for part in parts for row in open_parquet(part).read().to_pylist()]


def new_commit_name(number: int) -> str:
    """A name, that no other part has, for the one that will hold the row of a lake commit."""
    return f"commit-{number:012d}-{uuid.uuid4().hex[:12]}"


def _commit_number(part: AnyPath) -> int:
    return int(part.stem.split("-")[1])
