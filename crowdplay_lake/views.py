"""The SQL views over a lake's tables: the tables themselves, and `episode_agents`, the wide metadata."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pyarrow as pa

from .query import Database, identifier, literal
from .schema import ALL_AGENTS, TABLES, Table
from .snapshot import Snapshot
from .storage import AnyPath

__all__ = ["WIDE", "column_name", "define_tables", "define_views", "store_wide"]

WIDE = "episode_agents"
# What is kept in memory of it: some 200 MB at the most.
_MOST_CELLS = 20_000_000

# Value types that share a column, by the SQL type of the column.
_INTEGERS = {"int", "bool"}
_NUMBERS = {"int", "bool", "float", "timedelta"}

_SQL_TYPES = {
    pa.string(): "VARCHAR",
    pa.binary(): "BLOB",
    pa.bool_(): "BOOLEAN",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.float64(): "DOUBLE",
}


def define_views(database: Database, snapshot: Snapshot) -> None:
    """Every table of the snapshot as a view of its name, and `episode_agents`."""
    define_tables(database, snapshot)
    database.define([_episode_agents(database)])


def store_wide(database: Database) -> None:
    """Keep the rows of `episode_agents` in the database, for who asks more than once: then an answer takes 3 ms of
    10,000 episodes, where putting them together takes 50. Not where there are very many.
    """
    ((episodes,),) = database.fetch("SELECT count(*) FROM episodes")
    if episodes * 2 * len(database.names()[WIDE]) <= _MOST_CELLS:
        stored = f"CREATE OR REPLACE TABLE _{WIDE} AS SELECT * FROM {WIDE}"
        database.define([stored, f"CREATE OR REPLACE VIEW {WIDE} AS SELECT * FROM _{WIDE}"])


def define_tables(database: Database, snapshot: Snapshot, names: Iterable[str] = tuple(TABLES)) -> None:
    """Tables of the snapshot as views of their names, in the place of those of another snapshot."""
    statements = []
    for table in (TABLES[name] for name in names):
        by_partition = snapshot.files_by_partition(table.name)
        if by_partition:
            source = _parquet(table, by_partition)
        else:
            columns = [f"CAST(NULL AS {_sql_type(c.type)}) AS {identifier(c.name)}" for c in table.columns]
            source = f"SELECT {', '.join(columns)} WHERE false"
        statements.append(f"CREATE OR REPLACE VIEW {identifier(table.name)} AS {source}")
    database.define(statements)


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


@dataclass(frozen=True)
class _KeywordColumn:
    """One keyword as a column of the wide view."""

    keys: tuple[str, ...]  # of several spellings the first one an agent has
    cast: str  # of the picked value, {}
    value: str  # the column of a keyword table
    name: str


def column_name(key: str, reserved: Iterable[str] = (), prefix: str = "") -> str:
    """The snake_case column of a key: 'Correct aliens shot (fraction)' → correct_aliens_shot_fraction.

    A reserved SQL word gets a trailing underscore (`left_`).
    """
    name = prefix + re.sub(r"[^0-9a-z]+", "_", key.casefold()).strip("_")
    if not name or name[0].isdigit():
        name = f"_{name}"
    return f"{name}_" if name in set(reserved) else name


def _expression(types: Mapping[str, int], largest: float | None) -> tuple[str, str]:
    """(cast, column) of a key whose values have ``types`` (type → how many). The common type wins.

    The cast is for the picked value: before, it would meet the values of other keys, which may not fit.
    """
    plain: dict[str, int] = {}
    for name, count in types.items():
        bare = name.removeprefix("numpy.")
        bare = re.sub(r"^u?int\d+$", "int", re.sub(r"^float\d+$", "float", bare))
        if bare != "none":
            plain[bare] = plain.get(bare, 0) + count
    numbers = sum(count for name, count in plain.items() if name in _NUMBERS)
    if not plain or (numbers * 2 >= sum(plain.values()) and numbers):
        present = set(plain) & _NUMBERS
        if present == {"bool"}:
            return "CAST({} AS BOOLEAN)", "value_double"
        # Beyond 2^53 a double no longer counts in ones.
        if present and present <= _INTEGERS and (largest or 0) < 2**53:
            return "CAST({} AS BIGINT)", "value_double"
        return "{}", "value_double"
    common = max(sorted(plain), key=lambda name: plain[name])
    return "{}", {"str": "value_text", "datetime": "value_timestamp"}.get(common, "value_json")


def _keyword_columns(
    database: Database, table: str, agents: str, prefix: str, taken: set[str], reserved: set[str]
) -> list[_KeywordColumn]:
    rows = database.fetch(
        f"SELECT key, value_type, count(*), max(abs(value_double)) FROM {table} WHERE agent_id {agents} "
        "GROUP BY ALL ORDER BY key, value_type"
    )
    # CrowdPlay itself writes both 'Active playtime' and 'Active Playtime': one thing, one column, unless somebody has
    # both.
    owner = TABLES[table].sort[0]
    apart = {
        folded
        for (folded,) in database.fetch(
            f"SELECT DISTINCT lower(key) FROM {table} GROUP BY {owner}, agent_id, lower(key) HAVING count(*) > 1"
        )
    }
    types_of: dict[str, dict[str, int]] = {}
    keys_of: dict[str, dict[str, None]] = {}
    largest: dict[str, float] = {}
    for key, value_type, count, size in rows:
        folded = key if key.lower() in apart else key.lower()
        keys_of.setdefault(folded, {})[key] = None
        types = types_of.setdefault(folded, {})
        types[value_type] = types.get(value_type, 0) + count
        largest[folded] = max(largest.get(folded, 0.0), size or 0.0)
    columns = []
    for folded, types in types_of.items():
        name = base = column_name(folded, reserved, prefix)
        number = 1
        while name in taken:
            number += 1
            name = f"{base}_{number}"
        taken.add(name)
        columns.append(_KeywordColumn(tuple(keys_of[folded]), *_expression(types, largest[folded]), name))
    return columns


def _pivot(table: str, owner: str, agents: str, by_agent: bool, columns: list[_KeywordColumn]) -> str:
    """Keys as columns: one row per owner, or per owner and agent."""
    keys = [owner, "agent_id"] if by_agent else [owner]
    picked = [
        c.cast.format(f"any_value({c.value} ORDER BY key) FILTER (key IN ({', '.join(map(literal, c.keys))}))")
        + f" AS {identifier(c.name)}"
        for c in columns
    ]
    return f"SELECT {', '.join([*keys, *picked])} FROM {table} WHERE agent_id {agents} GROUP BY {', '.join(keys)}"


_BASE = """
agents_of AS (
    SELECT episode_id, unnest(agents) AS agent_id, unnest(first_done_step) AS first_done_step,
           unnest(frame_limit_reached) AS frame_limit_reached
    FROM episodes
    UNION ALL
    -- An episode without a trajectory has the agents that its metadata tells of.
    SELECT DISTINCT e.episode_id, known.agent_id, CAST(NULL AS INTEGER), CAST(NULL AS BOOLEAN)
    FROM episodes e JOIN (
        SELECT episode_id, agent_id FROM keyword_data WHERE agent_id <> 'all'
        UNION
        SELECT episodes.episode_id, users.agent_id FROM episodes JOIN users USING (environment_id)
    ) known USING (episode_id)
    WHERE e.agents IS NULL
),
-- One user an agent, should several have held it.
user_of AS (
    SELECT environment_id, agent_id, max(user_id) AS user_id, arg_max(permanent_user_id, user_id) AS permanent_user_id
    FROM users GROUP BY environment_id, agent_id
)"""

_BASE_COLUMNS = (
    "e.episode_id",
    "a.agent_id",
    "e.environment_id",
    "e.task_id",
    "e.game",
    "e.task",
    "e.source",
    "e.created_on",
    "e.n_steps",
    "a.first_done_step",
    "a.frame_limit_reached",
    "u.user_id",
    "u.permanent_user_id",
)


def _episode_agents(database: Database) -> str:
    """One row per episode and agent: the metadata of the episode, its environment and its user, typed.

    Keys of the agent on its episode have bare names, those of the environment the prefix ``environment_``, those under
    'all' on the episode ``episode_``. Durations are seconds.
    """
    reserved = {
        word
        for (word,) in database.fetch(
            "SELECT keyword_name FROM duckdb_keywords() WHERE keyword_category IN ('reserved', 'type_function')"
        )
    }
    taken = {name.split(".")[1] for name in _BASE_COLUMNS}
    one, everyone = f"<> {literal(ALL_AGENTS)}", f"= {literal(ALL_AGENTS)}"
    joins = [
        # table, owner, agents, a row per agent, prefix
        ("keyword_data", "episode_id", one, True, ""),
        ("keyword_data", "episode_id", everyone, False, "episode_"),
        ("environment_keyword_data", "environment_id", one, True, "environment_"),
        ("environment_keyword_data", "environment_id", everyone, False, "environment_"),
    ]
    pivots, selected, joined = [], list(_BASE_COLUMNS), []
    for index, (table, owner, agents, by_agent, prefix) in enumerate(joins):
        columns = _keyword_columns(database, table, agents, prefix, taken, reserved)
        pivots.append(f"k{index} AS ({_pivot(table, owner, agents, by_agent, columns)})")
        selected += [f"k{index}.{identifier(c.name)}" for c in columns]
        on = f"k{index}.{owner} = e.{owner}" + (f" AND k{index}.agent_id = a.agent_id" if by_agent else "")
        joined.append(f"LEFT JOIN k{index} ON {on}")
    return (
        f"CREATE VIEW episode_agents AS WITH {_BASE}, {', '.join(pivots)} SELECT {', '.join(selected)} "
        "FROM agents_of a JOIN episodes e USING (episode_id) "
        "LEFT JOIN user_of u ON u.environment_id = e.environment_id AND u.agent_id = a.agent_id " + " ".join(joined)
    )
