"""The one way to change a lake: an atomic commit over several Delta tables.

Delta is atomic for one table, a change here touches several. So a writer takes the lock, brings every table back to
the versions in the last row of `commits` (which removes what a crash left), writes parts, commits each table, and
appends a row to `commits`. That row *is* the commit: a reader opens the last row and pins the versions it names, so it
sees all of a change or nothing, and keeps its snapshot while others write.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Schema
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction, Transaction, create_table_with_add_actions

from .errors import InvalidArgument, InvalidLake, LakeBusy, did_you_mean, nearest
from .layout import LakePaths, Part, PartWriter, write_parts
from .schema import COMMITS, FORMAT_VERSION, TABLES, Table

__all__ = ["Change", "Snapshot", "Writer", "open_snapshot", "writing"]

# The name under which lake commits appear in Delta's application transactions.
APPLICATION = "crowdplay-lake"
# A lake commit names versions of tables: they stay readable, where Delta would drop its log after 30 days.
_CONFIGURATION = {"delta.enableExpiredLogCleanup": "false"}


@dataclass(frozen=True)
class Snapshot:
    """One commit of a lake: its number and the version of every table."""

    paths: LakePaths
    number: int
    time: datetime
    operation: str
    versions: Mapping[str, int]
    counts: Mapping[str, int]

    @cached_property
    def _parts(self) -> dict[str, list[Part]]:
        return {}

    def parts(self, table: str) -> list[Part]:
        """The parts of a table in this commit, by path."""
        if table not in self._parts:
            delta = _delta(self.paths.table(table), self.versions[table])
            actions = pa.table(delta.get_add_actions(flatten=True))
            key = TABLES[table].partition
            self._parts[table] = sorted(
                (
                    Part(
                        table,
                        _decoded(row["path"]),
                        row["size_bytes"],
                        row["num_records"],
                        row[f"partition.{key}"] if key else None,
                    )
                    for row in actions.to_pylist()
                ),
                key=lambda part: part.path,
            )
        return self._parts[table]

    def files(self, table: str) -> list[Path]:
        """The files of `parts`."""
        return [self.paths.part(table, part.path) for part in self.parts(table)]

    def files_by_partition(self, table: str) -> dict[str | None, list[Path]]:
        """The files of `parts`, by the value of the partition key; None where the table has none."""
        found: dict[str | None, list[Path]] = {}
        for part in self.parts(table):
            found.setdefault(part.partition, []).append(self.paths.part(table, part.path))
        return found

    def read(self, table: str) -> pa.Table:
        """A whole table, all columns. For the small ones: `steps` and `frames` go through `Lake`."""
        schema = TABLES[table].schema
        pieces = []
        for part in self.parts(table):
            rows = pq.ParquetFile(self.paths.part(table, part.path), pre_buffer=False).read(use_threads=False)
            key = TABLES[table].partition
            if key is not None:
                rows = rows.append_column(key, pa.repeat(pa.scalar(part.partition, pa.string()), len(rows)))
            pieces.append(rows.select(schema.names).cast(schema))
        return pa.concat_tables(pieces) if pieces else schema.empty_table()


@dataclass
class Change:
    """What a commit does to one table."""

    add: list[Part] = field(default_factory=list)
    remove: list[Part] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.add or self.remove)


def _decoded(path: str) -> str:
    # Delta's log percent-encodes paths once more than the disk has them; the action list gives them back so.
    return unquote(path)


def _delta_schema(table: Table) -> Schema:
    """The table's schema with its docs as column comments: written once, in the log, not in every part."""
    return Schema.from_arrow(pa.schema([pa.field(c.name, c.type, metadata={"comment": c.doc}) for c in table.columns]))


def _address(path: Path) -> str:
    """A path as Delta takes it: as an address, for in a plain text it would decode '%41'."""
    return path.absolute().as_uri()


def _delta(path: Path, version: int | None = None) -> DeltaTable:
    return DeltaTable(_address(path), version=version)


def _is_table(path: Path) -> bool:
    return DeltaTable.is_deltatable(_address(path))


def open_snapshot(root: Path | str, commit: int | None = None) -> Snapshot:
    """The last commit of the lake at ``root``, or the one with that number.

    Raises InvalidLake where there is none, or one of a newer format.
    """
    paths = LakePaths(Path(root).absolute())
    rows = _commit_rows(paths, commit)
    if not rows:
        raise InvalidLake(_no_lake(paths.root) if commit is None else f"{root}: has no commit {commit}")
    row = max(rows, key=lambda row: row["number"])
    if row["format_version"] > FORMAT_VERSION:
        raise InvalidLake(
            f"{root}: has format {row['format_version']}, this software reads up to {FORMAT_VERSION}; upgrade it"
        )
    return Snapshot(paths, row["number"], row["time"], row["operation"], dict(row["versions"]), dict(row["counts"]))


def _no_lake(root: Path) -> str:
    beside = root.absolute().parent
    lakes = (
        [path.name for path in beside.iterdir() if path != root.absolute() and LakePaths(path).commits.is_dir()]
        if beside.is_dir()
        else []
    )
    close = nearest(root.name, lakes)
    hint = did_you_mean(str(root.parent / name) for name in close)
    return f"{root}: no lake here{hint or f'; make one with: crowdplay-lake ingest RAW {root}'}"


def _commit_rows(paths: LakePaths, commit: int | None) -> list[dict[str, Any]]:
    if not paths.commits.is_dir():
        return []
    try:
        # By name: the addresses that Delta gives are percent-encoded, folders above the lake among them.
        listed = [paths.part(COMMITS.name, uri.rpartition("/")[2]) for uri in _delta(paths.commits).file_uris()]
    except TableNotFoundError:
        return []
    except DeltaError as error:
        raise InvalidLake(f"{paths.root}: the table of commits cannot be read: {error}") from error
    # One part per commit, named by its number: the one that is wanted is the only one opened.
    by_name = {path.name: path for path in listed}
    if commit is None:
        wanted = [by_name[max(by_name)]] if by_name else []
    else:
        wanted = [by_name[name] for name in [f"{_commit_name(commit)}.parquet"] if name in by_name]
    return [row for path in wanted for row in pq.ParquetFile(path).read().to_pylist()]


def _commit_name(number: int) -> str:
    return f"commit-{number:012d}"


class Writer:
    """Changes a lake, while it holds the lock. Made by `writing`."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.paths = snapshot.paths

    def commit(self, operation: str, changes: Mapping[str, Change], counts: Mapping[str, int]) -> Snapshot:
        """Make ``changes`` visible, all at once. Without a change there is no commit."""
        changes = {name: change for name, change in changes.items() if change}
        if not changes:
            return self.snapshot
        unknown = [name for name in changes if name not in TABLES]
        if unknown:
            raise InvalidArgument(f"no table {unknown[0]!r}; nearest: {nearest(unknown[0], TABLES)}")
        last = open_snapshot(self.paths.root)
        if last.number != self.snapshot.number:
            raise LakeBusy(
                f"{self.paths.root}: somebody committed {last.number} while this was based on {self.snapshot.number};"
                " nothing was changed, run it again"
            )
        number = self.snapshot.number + 1
        versions = dict(self.snapshot.versions)
        for name in TABLES:
            if name in changes:
                versions[name] = self._commit_table(name, changes[name], number)
        self._append_row(number, operation, versions, counts)
        self.snapshot = open_snapshot(self.paths.root)
        return self.snapshot

    def replacement(self, table: str, rows: pa.Table) -> Change:
        """The change that makes ``rows`` the table's content. Partitions that are so already stay as they are."""
        spec = TABLES[table]
        order = [(name, "ascending") for name in spec.sort]
        before = self.snapshot.read(table).sort_by(order)
        after = rows.select(before.schema.names).cast(before.schema).sort_by(order)
        change = Change()
        parts = self.snapshot.parts(table)
        for value in sorted({*_partition_values(spec, before), *_partition_values(spec, after)}, key=str):
            new = _partition(spec, after, value)
            if not _same(_partition(spec, before, value), new):
                change.add += write_parts(self.paths, spec, new)
                change.remove += [part for part in parts if part.partition == value]
        return change

    def _commit_table(self, name: str, change: Change, number: int) -> int:
        table = _delta(self.paths.table(name))
        now = int(time.time() * 1000)
        removed = [
            RemoveAction(part.path, True, now, size=part.size, partition_values=part.partition_values)
            for part in change.remove
        ]
        table.create_write_transaction(
            [*removed, *map(_add_action, change.add)],
            "append",
            _delta_schema(TABLES[name]),
            partition_by=_partition_by(TABLES[name]),
            commit_properties=CommitProperties(app_transactions=[Transaction(APPLICATION, number)]),
        )
        return int(_delta(self.paths.table(name)).version())

    def _append_row(self, number: int, operation: str, versions: Mapping[str, int], counts: Mapping[str, int]) -> None:
        part = _write_commit_row(self.paths, number, operation, versions, counts)
        _delta(self.paths.commits).create_write_transaction(
            [_add_action(part)],
            "append",
            _delta_schema(COMMITS),
            commit_properties=CommitProperties(app_transactions=[Transaction(APPLICATION, number)]),
        )


def _same(before: pa.Table, after: pa.Table) -> bool:
    """Equal row for row; unlike in Arrow, NaN equals NaN."""
    return len(before) == len(after) and all(_bits(before[n]).equals(_bits(after[n])) for n in after.column_names)


def _bits(column: pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    if not pa.types.is_floating(column.type):
        return column
    bits = column.fill_null(0.0).to_numpy().view(np.int64)
    return pa.array(bits, mask=column.is_null().to_numpy())


def _partition_values(table: Table, rows: pa.Table) -> list[str | None]:
    return [None] if table.partition is None else list(rows[table.partition].unique().to_pylist())


def _partition(table: Table, rows: pa.Table, value: str | None) -> pa.Table:
    return rows if table.partition is None else rows.filter(pc.equal(rows[table.partition], value))


def _partition_by(table: Table) -> list[str]:
    return [] if table.partition is None else [table.partition]


def _add_action(part: Part) -> AddAction:
    now = int(time.time() * 1000)
    return AddAction(part.path, part.size, part.partition_values, now, True, part.statistics)


def _write_commit_row(
    paths: LakePaths, number: int, operation: str, versions: Mapping[str, int], counts: Mapping[str, int]
) -> Part:
    row = {
        "number": number,
        "time": datetime.now(UTC),
        "operation": operation,
        "format_version": FORMAT_VERSION,
        "versions": list(versions.items()),
        "counts": list(counts.items()),
    }
    name = _commit_name(number)
    # A crash between the part and its registration left a part of this name; it was never visible.
    paths.part(COMMITS.name, f"{name}.parquet").unlink(missing_ok=True)
    with PartWriter(paths, COMMITS, name=name) as writer:
        writer.write(pa.Table.from_pylist([row], COMMITS.schema))
        return writer.close()


def _create(paths: LakePaths) -> None:
    """Empty tables, then commit 0. A crash in between is finished by the next writer."""
    for table in TABLES.values():
        path = paths.table(table.name)
        if not _is_table(path):
            path.mkdir(parents=True, exist_ok=True)
            create_table_with_add_actions(
                _address(path),
                _delta_schema(table),
                [],
                partition_by=_partition_by(table),
                configuration=_CONFIGURATION,
                name=table.name,
                description=f"crowdplay-lake: one row per {table.row}",
            )
    part = _write_commit_row(paths, 0, "create", dict.fromkeys(TABLES, 0), {})
    create_table_with_add_actions(
        _address(paths.commits),
        _delta_schema(COMMITS),
        [_add_action(part)],
        configuration=_CONFIGURATION,
        name=COMMITS.name,
    )


def _recover(snapshot: Snapshot) -> None:
    """Bring every table back to the snapshot: what a crash left beyond it was never visible."""
    for name, version in snapshot.versions.items():
        table = _delta(snapshot.paths.table(name))
        last_write = table.version()
        if last_write > version and not _restored_to(table, version):
            table.restore(version, ignore_missing_files=True)


def _restored_to(table: DeltaTable, version: int) -> bool:
    """Whether the last version is already a restoration of ``version``, by a recovery that had nothing to add."""
    last = table.history(1)[0]
    parameters = last.get("operationParameters", {})
    return last.get("operation") == "RESTORE" and str(parameters.get("version")) == str(version)


@contextmanager
def writing(root: Path | str, wait: float = 10.0) -> Iterator[Writer]:
    """Hold the lake at ``root`` (made if there is none) for writing.

    ``wait``: seconds to wait for another writer before LakeBusy. The lock is the operating system's: it is gone when
    its process is, so a crash leaves nothing to clean up.
    """
    import filelock

    paths = LakePaths(Path(root).absolute())
    if paths.root.exists() and not paths.root.is_dir():
        raise InvalidLake(f"{root}: is a file; a lake is a folder")
    foreign = paths.root.is_dir() and not paths.commits.exists() and not _is_started(paths)
    # A crash while the lake was made leaves its lock and the folders of its tables.
    ours = {".lock", ".lock-holder", *TABLES}
    if foreign and any(entry.name not in ours for entry in paths.root.iterdir()):
        raise InvalidLake(f"{root}: is a folder with something else in it; name an empty or a new one")
    paths.root.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(paths.lock)
    holder = paths.root / ".lock-holder"
    try:
        lock.acquire(timeout=wait)
    except filelock.Timeout as error:
        raise LakeBusy(
            f"{root}: {_holder(holder)} is writing to it; wait for it to end, then run this again"
        ) from error
    try:
        holder.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}))
        if not _is_table(paths.commits):
            _create(paths)
        snapshot = open_snapshot(root)
        _recover(snapshot)
        yield Writer(snapshot)
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _is_started(paths: LakePaths) -> bool:
    """Whether an earlier run began to make a lake here and did not get to its first commit."""
    return any(_is_table(paths.table(name)) for name in TABLES)


def _holder(path: Path) -> str:
    try:
        who = json.loads(path.read_text())
        since = datetime.fromtimestamp(who["since"]).strftime("%H:%M:%S")
        return f"process {who['pid']} on {who['host']} (since {since})"
    except (OSError, ValueError, KeyError):
        return "another process"
