"""What SQL sees of a lake: its tables, steps beside their episode, and the wide metadata of `wide`; all documented."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial

import pyarrow as pa

from .catalog import Catalog, Definition, View
from .query import Database, identifier, literal
from .schema import EPISODES, STEPS, TABLES, Table
from .snapshot import Snapshot
from .storage import AnyPath
from .wide import WIDE, WIDE_VIEWS, KeywordTypes, wide_view

__all__ = ["VIEWS", "define_tables", "define_views", "store_wide"]


# Names that are no tables, in the order in which they are shown.
VIEWS = (WIDE, "environment_agents", "episode_steps")
# What is kept in memory of the wide view: some 200 MB at the most.
_MOST_CELLS = 20_000_000

_SQL_TYPES = {
    pa.string(): "VARCHAR",
    pa.binary(): "BLOB",
    pa.bool_(): "BOOLEAN",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.float64(): "DOUBLE",
}


# What a step's episode adds to it. Its user and its keywords are a join with `episode_agents` away, which costs more.
_OF_EPISODE = ("environment_id", "task_id", "task", "source", "created_on", "n_steps")

_EPISODE_STEPS = View(
    "episode_steps",
    "One row per episode, agent and step: `steps`, with what is known of the episode.",
    f"SELECT s.*, {', '.join(f'e.{name}' for name in _OF_EPISODE)} FROM steps s JOIN episodes e USING (episode_id)",
    {c.name: c.doc for c in (*STEPS.columns, *EPISODES.columns) if c.name in {*STEPS.schema.names, *_OF_EPISODE}},
)


def define_views(database: Database, snapshot: Snapshot) -> None:
    """Every table of the snapshot as a view of its name, then `VIEWS`, with comments in the catalog on all of them.

    Each is defined when a query names it, all when it may name any.
    """
    # The database owns its catalog; known to it in turn, only the collector of cycles would close it.
    known: Database = weakref.proxy(database)
    keywords = KeywordTypes(known)
    definitions = {name: Definition(partial(_table_view, table, snapshot)) for name, table in TABLES.items()}
    for wide in WIDE_VIEWS:
        definitions[wide.name] = Definition(partial(wide_view, known, wide, keywords), wide.needs)
    definitions[_EPISODE_STEPS.name] = Definition(lambda: _EPISODE_STEPS, (STEPS.name, EPISODES.name))
    database.catalog = Catalog(known, definitions)


def store_wide(database: Database) -> None:
    """Keep the rows of `episode_agents` in the database, for who asks more than once: then an answer takes 3 ms of
    10,000 episodes, where putting them together takes 50. Not where there are very many.
    """
    if database.catalog is None:
        return
    view = database.catalog.view(WIDE)
    ((episodes,),) = database.fetch("SELECT count(*) FROM episodes")
    if episodes * 2 * len(view.columns) <= _MOST_CELLS:
        # In a schema of its own: SHOW TABLES and `names` tell of what is the lake's.
        store = f"CREATE SCHEMA _kept; CREATE TABLE _kept._{WIDE} AS SELECT * FROM {WIDE}"
        database.catalog.replace(replace(view, sql=f"SELECT * FROM _kept._{WIDE}"), store)


def define_tables(database: Database, snapshot: Snapshot, names: Iterable[str]) -> None:
    """Tables of the snapshot as views of their names, in the place of those of another snapshot."""
    database.define([_table_view(TABLES[name], snapshot).definition() for name in names])


def _table_view(table: Table, snapshot: Snapshot) -> View:
    by_partition = snapshot.files_by_partition(table.name)
    if by_partition:
        source = _parquet(table, by_partition)
    else:
        columns = [f"CAST(NULL AS {_sql_type(c.type)}) AS {identifier(c.name)}" for c in table.columns]
        source = f"SELECT {', '.join(columns)} WHERE false"
    return View(table.name, f"One row per {table.row}.", source, {c.name: c.doc for c in table.columns})


def _sql_type(kind: pa.DataType) -> str:
    """The SQL type of a column, as the database reads it from Parquet."""
    if pa.types.is_list(kind):
        return f"{_sql_type(kind.value_type)}[]"
    return "TIMESTAMP" if pa.types.is_timestamp(kind) else _SQL_TYPES[kind]


def _parquet(table: Table, by_partition: Mapping[str | None, list[AnyPath]]) -> str:
    """A SELECT over the table's parts: columns in the schema's order, times as plain UTC timestamps."""
    columns = [
        f"CAST({identifier(c.name)} AS TIMESTAMP) AS {identifier(c.name)}"
        if pa.types.is_timestamp(c.type)
        else identifier(c.name)
        for c in table.columns
    ]
    if table.partition and any("=" in str(files[0].parents[1]) for files in by_partition.values()):
        # A folder above the lake looks like a partition: don't let the database take it for one.
        return " UNION ALL BY NAME ".join(
            f"SELECT * REPLACE ({literal(str(value))} AS {identifier(table.partition)}) FROM ("
            + f"SELECT {', '.join(columns)} FROM (SELECT *, NULL AS {identifier(table.partition)} FROM "
            + f"read_parquet([{_listed(files)}], hive_partitioning = false)))"
            for value, files in by_partition.items()
        )
    listed = _listed(itertools.chain.from_iterable(by_partition.values()))
    # The partition's type is said: engines infer odd values differently ("007" becomes an integer).
    hive = f", hive_partitioning = true, hive_types = {{'{table.partition}': VARCHAR}}" if table.partition else ""
    return f"SELECT {', '.join(columns)} FROM read_parquet([{listed}]{hive})"


def _listed(files: Iterable[AnyPath]) -> str:
    return ", ".join(literal(str(file)) for file in files)
