"""Delta tables as a lake writes them: a version is made by one writer, or not at all.

Left to itself, Delta puts what two writers commit at once in a row. Here that would mix two lake commits, so a
version is created only as the one after the version that its writer knows: the log entry of that number, which the
disk or the object store lets only one create.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Schema
from deltalake.exceptions import CommitFailedError
from deltalake.transaction import AddAction, RemoveAction, Transaction, create_table_with_add_actions

from .errors import LakeBusy
from .layout import Part
from .schema import RAM_COLUMNS, Column, Table
from .snapshot import delta_table
from .storage import AnyPath, address, remove

__all__ = ["append_version", "create_table", "made_with", "remove_torn_table", "restore_version"]

# The name under which lake commits appear in Delta's application transactions.
APPLICATION = "crowdplay-lake"
_LOG = "_delta_log"
# Tells who made a version.
_TOKEN = "crowdplayLakeToken"
# A lake commit names versions of tables: they stay readable, where Delta would drop its log after 30 days.
_CONFIGURATION = {"delta.enableExpiredLogCleanup": "false"}


def create_table(path: AnyPath, table: Table, description: str | None = None, parts: Iterable[Part] = ()) -> None:
    """Version 0 of a table, made of ``parts``."""
    create_table_with_add_actions(
        address(path),
        _delta_schema(table),
        [*map(_add_action, parts)],
        partition_by=_partition_by(table),
        configuration=_CONFIGURATION,
        name=table.name,
        description=description,
    )


def append_version(
    path: AnyPath, table: Table, version: int, add: Iterable[Part], remove: Iterable[Part], number: int
) -> int:
    """Make the version after ``version``, for lake commit ``number``; returns it.

    Raises LakeBusy where ``version`` is not the last one, or somebody else makes the next one first: nothing is
    changed then.
    """
    delta = delta_table(path)
    if delta.version() != version:
        raise _taken(path, table)
    token = uuid.uuid4().hex
    try:
        delta.create_write_transaction(
            [*map(_remove_action, remove), *map(_add_action, add)],
            "append",
            _delta_schema(table),
            partition_by=_partition_by(table),
            # Delta's retries would make it the version after somebody else's.
            commit_properties=CommitProperties({_TOKEN: token}, 0, [Transaction(APPLICATION, number)]),
        )
    except CommitFailedError as error:
        last = delta_table(path)
        if last.version() == version:
            raise
        # Where the answer of an object storage was lost, and the same asked again, it is there already: our own.
        if last.history(1)[0].get(_TOKEN) != token:
            raise _taken(path, table) from error
    return version + 1


def restore_version(path: AnyPath, version: int) -> int:
    """Make a table what it was at ``version``, by a version more; returns the last version.

    Log entries beyond ``version`` that a power cut tore are removed: nothing was ever made of them.
    """
    for torn in _torn_logs(path, version):
        remove(torn)
    table = delta_table(path)
    if int(table.version()) > version and not _is_restored(table, version):
        table.restore(version, ignore_missing_files=True)
    return int(table.version())


def _is_restored(table: DeltaTable, version: int) -> bool:
    """Whether the last version is already a restoration of ``version``, by a recovery that had nothing to add."""
    last = (table.history(1) or [{}])[0]
    parameters = last.get("operationParameters", {})
    return last.get("operation") == "RESTORE" and str(parameters.get("version")) == str(version)


def remove_torn_table(path: AnyPath) -> None:
    """Remove the first log entry of a table where a power cut tore it: then there is no table yet."""
    for torn in _torn_logs(path, -1):
        remove(torn)


def _torn_logs(path: AnyPath, version: int) -> list[Path]:
    """The log entries beyond a version that are not whole, and all after those. Object storage has whole files."""
    if not isinstance(path, Path):
        return []
    entries = sorted(entry for entry in (path / _LOG).glob("*.json") if entry.stem.isdigit())
    beyond = [entry for entry in entries if int(entry.stem) > version]
    first = next((index for index, entry in enumerate(beyond) if not _is_whole(entry)), len(beyond))
    return beyond[first:]


def _is_whole(entry: Path) -> bool:
    try:
        return bool([json.loads(line) for line in entry.read_bytes().splitlines()])
    except ValueError:
        return False


def made_with(path: AnyPath, version: int, parts: Iterable[Part] = ()) -> set[AnyPath]:
    """The files and folders on disk that a version of a table has made: its ``parts``, log entry and checkpoint."""
    if not isinstance(path, Path):
        return set()
    log = path / _LOG
    checkpoints = {log / f"{number:020d}.checkpoint.parquet" for number in (version - 1, version)}
    checkpoints = {checkpoint for checkpoint in checkpoints if checkpoint.exists()}
    files = {log / f"{version:020d}.json", *checkpoints, *(path / part.path for part in parts)}
    if checkpoints and (log / "_last_checkpoint").exists():
        files.add(log / "_last_checkpoint")
    return {*files, *(file.parent for file in files)}


def _taken(path: AnyPath, table: Table) -> LakeBusy:
    return LakeBusy(
        f"{path.parent}: somebody else is writing to {table.name} at the same time; nothing was changed, run it again"
    )


def _delta_schema(table: Table) -> Schema:
    """The table's schema with its docs as column comments: written once, in the log, not in every part."""
    return Schema.from_arrow(pa.schema([_field(column) for column in table.columns]))


def _field(column: Column) -> pa.Field:
    # 127 comments that say what the name says were a third of a small lake's log.
    if column.name in RAM_COLUMNS[1:]:
        return pa.field(column.name, column.type)
    return pa.field(column.name, column.type, metadata={"comment": column.doc})


def _partition_by(table: Table) -> list[str]:
    return [] if table.partition is None else [table.partition]


def _add_action(part: Part) -> AddAction:
    now = int(time.time() * 1000)
    return AddAction(part.path, part.size, part.partition_values, now, True, part.statistics)


def _remove_action(part: Part) -> RemoveAction:
    now = int(time.time() * 1000)
    return RemoveAction(part.path, True, now, size=part.size or None, partition_values=part.partition_values)
