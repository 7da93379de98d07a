"""Delta tables as a lake writes them: a version is made by one writer, or not at all.

Left to itself, Delta puts what two writers commit at once in a row. Here that would mix two lake commits, so a
version is created only as the one after the version that its writer knows: the log entry of that number, which the
disk or the object store lets only one create.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable

import pyarrow as pa
from deltalake import CommitProperties, Schema
from deltalake.exceptions import CommitFailedError
from deltalake.transaction import AddAction, RemoveAction, Transaction, create_table_with_add_actions

from .errors import LakeBusy
from .layout import Part
from .schema import Table
from .snapshot import delta_table
from .storage import AnyPath, address

__all__ = ["append_version", "create_table"]

# The name under which lake commits appear in Delta's application transactions.
APPLICATION = "crowdplay-lake"
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


def _taken(path: AnyPath, table: Table) -> LakeBusy:
    return LakeBusy(
        f"{path.parent}: somebody else is writing to {table.name} at the same time; nothing was changed, run it again"
    )


def _delta_schema(table: Table) -> Schema:
    """The table's schema with its docs as column comments: written once, in the log, not in every part."""
    return Schema.from_arrow(pa.schema([pa.field(c.name, c.type, metadata={"comment": c.doc}) for c in table.columns]))


def _partition_by(table: Table) -> list[str]:
    return [] if table.partition is None else [table.partition]


def _add_action(part: Part) -> AddAction:
    now = int(time.time() * 1000)
    return AddAction(part.path, part.size, part.partition_values, now, True, part.statistics)


def _remove_action(part: Part) -> RemoveAction:
    now = int(time.time() * 1000)
    return RemoveAction(part.path, True, now, size=part.size or None, partition_values=part.partition_values)
