"""What SQL sees of a lake: its tables, steps beside their episode, and the wide metadata of `wide`; all documented."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

import pyarrow as pa

from .query import Database, identifier, literal
from .schema import EPISODES, RAM_COLUMNS, STEPS, TABLES, Table
from .snapshot import Snapshot
from .storage import AnyPath
from .wide import WIDE, View, wide_views

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
    """Every table of the snapshot as a view of its name, then `VIEWS`, with comments in the catalog on all of them."""
    tables = define_tables(database, snapshot)
    views = [*wide_views(database), _EPISODE_STEPS]
    database.define([_create(view) for view in views])
    database.define([statement for view in (*tables, *views) for statement in _comments(view)])


def store_wide(database: Database) -> None:
    """Keep the rows of `episode_agents` in the database, for who asks more than once: then an answer takes 3 ms of
    10,000 episodes, where putting them together takes 50. Not where there are very many.
    """
    ((episodes,),) = database.fetch("SELECT count(*) FROM episodes")
    if episodes * 2 * len(database.names()[WIDE]) > _MOST_CELLS:
        return
    # A view that takes the place of another has none of its comments.
    ((doc,),) = database.fetch(f"SELECT comment FROM duckdb_views() WHERE view_name = {literal(WIDE)}")
    docs = database.fetch(f"SELECT column_name, comment FROM duckdb_columns() WHERE table_name = {literal(WIDE)}")
    stored = View(WIDE, doc, f"SELECT * FROM _{WIDE}", dict(docs))
    store = f"CREATE OR REPLACE TABLE _{WIDE} AS SELECT * FROM {WIDE}"
    database.define([store, _create(stored), *_comments(stored)])


def define_tables(database: Database, snapshot: Snapshot, names: Iterable[str] = tuple(TABLES)) -> list[View]:
    """Tables of the snapshot as views of their names, in the place of those of another snapshot."""
    tables = []
    for table in (TABLES[name] for name in names):
        by_partition = snapshot.files_by_partition(table.name)
        if by_partition:
            source = _parquet(table, by_partition)
        else:
            columns = [f"CAST(NULL AS {_sql_type(c.type)}) AS {identifier(c.name)}" for c in table.columns]
            source = f"SELECT {', '.join(columns)} WHERE false"
        docs = {c.name: c.doc for c in table.columns}
        tables.append(View(table.name, f"One row per {table.row}.", source, docs))
    database.define([_create(view) for view in tables])
    return tables


def _create(view: View) -> str:
    return f"CREATE OR REPLACE VIEW {identifier(view.name)} AS {view.sql}"


def _comments(view: View) -> list[str]:
    comments = [f"COMMENT ON VIEW {identifier(view.name)} IS {literal(view.doc)}"]
    for name, doc in view.columns.items():
        # 128 comments that say the same take as long as all others together: the first RAM byte speaks for all.
        if name in RAM_COLUMNS[1:]:
            continue
        text = doc.replace("byte 0x00", "bytes, ram_00 to ram_7f,")
        comments.append(f"COMMENT ON COLUMN {identifier(view.name)}.{identifier(name)} IS {literal(text)}")
    return comments


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
