"""Keywords as columns: the views `episode_agents` and `environment_agents`, one row per agent with all that is known.

Any key that anybody stored becomes a column, named in snake_case and typed by its commonest values.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from .catalog import View
from .query import Database, identifier, literal
from .schema import ALL_AGENTS, ENVIRONMENTS, EPISODES, TABLES, USERS

__all__ = ["WIDE", "WIDE_VIEWS", "KeywordTypes", "column_name", "wide_view"]

WIDE = "episode_agents"

# Value types that share a column, by the SQL type of the column.
_INTEGERS = {"int", "bool"}
_NUMBERS = {"int", "bool", "float", "timedelta"}


@dataclass(frozen=True)
class _KeywordColumn:
    """One keyword as a column of a wide view."""

    keys: tuple[str, ...]  # of several spellings the first one an agent has
    cast: str  # of the picked value, {}
    value: str  # the column of a keyword table
    name: str
    doc: str


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


@dataclass(frozen=True)
class _Join:
    """The keywords of one owner, as columns."""

    table: str
    owner: str  # the column of whose keywords they are
    by_agent: bool  # those of each agent, or those under 'all'
    prefix: str
    whose: str  # for the documentation

    @property
    def keys(self) -> list[str]:
        """What a pivoted row is known by. The partition is among them: so a query about one game reads no other's."""
        partition = TABLES[self.table].partition
        return [self.owner, *(["agent_id"] if self.by_agent else []), *([partition] if partition else [])]

    @property
    def agents(self) -> str:
        return f"{'<>' if self.by_agent else '='} {literal(ALL_AGENTS)}"


class KeywordTypes:
    """Which keys there are, and of which types their values; asked of each table once."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rows: dict[str, list[tuple[bool, str, str, int, float | None]]] = {}

    def of(self, join: _Join) -> list[tuple[str, str, int, float | None]]:
        """By key and type: (key, type, number of values, the largest without its sign)."""
        if join.table not in self._rows:
            self._rows[join.table] = self._database.fetch(
                f"SELECT agent_id <> {literal(ALL_AGENTS)}, key, value_type, count(*), max(abs(value_double)) "
                f"FROM {join.table} WHERE agent_id IS NOT NULL GROUP BY ALL ORDER BY key, value_type"
            )
        return [row[1:] for row in self._rows[join.table] if row[0] == join.by_agent]

    @cached_property
    def reserved(self) -> set[str]:
        """Words that cannot be the name of a column."""
        chosen = "keyword_category IN ('reserved', 'type_function')"
        return {word for (word,) in self._database.fetch(f"SELECT keyword_name FROM duckdb_keywords() WHERE {chosen}")}


def _keyword_columns(database: Database, join: _Join, taken: set[str], keywords: KeywordTypes) -> list[_KeywordColumn]:
    rows = keywords.of(join)
    apart = _kept_apart(database, join, {key for key, *_ in rows})
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
        name = base = column_name(folded, keywords.reserved, join.prefix)
        number = 1
        while name in taken:
            number += 1
            name = f"{base}_{number}"
        taken.add(name)
        keys = tuple(keys_of[folded])
        columns.append(_KeywordColumn(keys, *_expression(types, largest[folded]), name, _told(keys, join, types)))
    return columns


def _kept_apart(database: Database, join: _Join, keys: set[str]) -> set[str]:
    """Keys, in small letters, whose spellings have columns of their own, since somebody has more than one.

    CrowdPlay itself writes both 'Active playtime' and 'Active Playtime': one thing, so one column.
    """
    spellings: dict[str, list[str]] = {}
    for key in keys:
        spellings.setdefault(key.lower(), []).append(key)
    several = [literal(key) for found in spellings.values() if len(found) > 1 for key in found]
    if not several:
        return set()
    found = database.fetch(
        f"SELECT DISTINCT lower(key) FROM {join.table} WHERE agent_id {join.agents} AND key IN ({', '.join(several)}) "
        f"GROUP BY {join.owner}, agent_id, lower(key) HAVING count(*) > 1"
    )
    return {folded for (folded,) in found}


def _told(keys: Iterable[str], join: _Join, types: Mapping[str, int]) -> str:
    """What a keyword's column means: whose keyword it is, and which values it has."""
    values = ", ".join(f"{count:,} {name}" for name, count in types.items())
    unit = "; in seconds" if "timedelta" in types else ""
    return f"keyword {' or '.join(map(repr, keys))} of {join.whose}: {values}{unit}"


def _pivot(join: _Join, columns: list[_KeywordColumn]) -> str:
    """Keys as columns: one row per owner, or per owner and agent."""
    picked = []
    for c in columns:
        # The order costs, and counts where there are several spellings only.
        value = c.value if len(c.keys) == 1 else f"{c.value} ORDER BY key"
        first = f"any_value({value}) FILTER (key IN ({', '.join(map(literal, c.keys))}))"
        picked.append(f"{c.cast.format(first)} AS {identifier(c.name)}")
    return (
        f"SELECT {', '.join([*join.keys, *picked])} FROM {join.table} WHERE agent_id {join.agents} "
        f"GROUP BY {', '.join(join.keys)}"
    )


# One user an agent, should several have held it.
_USER_OF = """
user_of AS (
    SELECT environment_id, agent_id, max(user_id) AS user_id, arg_max(permanent_user_id, user_id) AS permanent_user_id
    FROM users GROUP BY environment_id, agent_id
)"""

_OF_EPISODE = ("episode_id", "environment_id", "task_id", "game", "task", "source", "created_on", "n_steps")

_AGENTS_OF_EPISODES = f"""
agents_of AS (
    SELECT {", ".join(_OF_EPISODE)}, unnest(agents) AS agent_id, unnest(first_done_step) AS first_done_step,
           unnest(frame_limit_reached) AS frame_limit_reached
    FROM episodes
)"""

# An episode without a trajectory has the agents that its metadata tells of. Where there is none such, looking for them
# took half of a question's time.
_AGENTS_OF_ALL_EPISODES = f"""
untold AS (SELECT {", ".join(_OF_EPISODE)} FROM episodes WHERE agents IS NULL),
agents_of AS (
    SELECT {", ".join(_OF_EPISODE)}, unnest(agents) AS agent_id, unnest(first_done_step) AS first_done_step,
           unnest(frame_limit_reached) AS frame_limit_reached
    FROM episodes
    UNION ALL
    SELECT {", ".join(f"untold.{name}" for name in _OF_EPISODE)}, known.agent_id, CAST(NULL AS INTEGER),
           CAST(NULL AS BOOLEAN)
    FROM untold JOIN (
        SELECT episode_id, agent_id FROM keyword_data SEMI JOIN untold USING (episode_id, game) WHERE agent_id <> 'all'
        UNION
        SELECT untold.episode_id, users.agent_id FROM untold JOIN users USING (environment_id)
    ) known USING (episode_id)
)"""

_AGENTS_OF_ENVIRONMENTS = """
agents_of AS (
    SELECT environment_id, unnest(agents) AS agent_id FROM episodes
    UNION
    SELECT environment_id, agent_id FROM users
    UNION
    SELECT environment_id, agent_id FROM environment_keyword_data WHERE agent_id <> 'all'
),
played AS (
    SELECT environment_id, count(*) AS n_episodes, sum(n_steps)::BIGINT AS n_steps FROM episodes GROUP BY environment_id
)"""


@dataclass(frozen=True)
class _Wide:
    """What is said of each agent beside its keywords."""

    name: str
    doc: str
    owner: str
    common: tuple[str, ...]  # table expressions
    base: str  # FROM …, of `a` (the agent, and its owner), `u` (its user)
    columns: tuple[str, ...]
    joins: tuple[_Join, ...]
    docs: Mapping[str, str]
    needs: tuple[str, ...]  # the tables that it reads


def _documented(*names: str) -> dict[str, str]:
    """What the tables say of columns that a view takes over."""
    known = {c.name: c.doc for table in (USERS, EPISODES, ENVIRONMENTS) for c in table.columns}
    return {name: known[name] for name in names}


_USER_JOIN = "LEFT JOIN user_of u ON u.environment_id = a.environment_id AND u.agent_id = a.agent_id"

_EPISODE_AGENTS = _Wide(
    WIDE,
    "One row per episode and agent: what is known of the episode, its environment and user, every keyword a column.",
    "episode_id",
    (_AGENTS_OF_EPISODES, _USER_OF),
    f"agents_of a {_USER_JOIN}",
    (
        "a.episode_id",
        "a.agent_id",
        "a.environment_id",
        "a.task_id",
        "a.game",
        "a.task",
        "a.source",
        "a.created_on",
        "a.n_steps",
        "a.first_done_step",
        "a.frame_limit_reached",
        "u.user_id",
        "u.permanent_user_id",
    ),
    (
        _Join("keyword_data", "episode_id", True, "", "the agent on its episode"),
        _Join("keyword_data", "episode_id", False, "episode_", "the episode"),
        _Join("environment_keyword_data", "environment_id", True, "environment_", "the agent on its environment"),
        _Join("environment_keyword_data", "environment_id", False, "environment_", "the environment"),
    ),
    {
        **_documented("episode_id", "agent_id", "environment_id", "task_id", "game", "task", "source", "created_on"),
        **_documented("n_steps", "user_id", "permanent_user_id"),
        "first_done_step": "the agent's first step with done set; null where there is none",
        "frame_limit_reached": "whether that done was the frame limit (everybody done, lives left), not the game's end",
    },
    (EPISODES.name, USERS.name, "keyword_data", "environment_keyword_data"),
)

_ENVIRONMENT_AGENTS = _Wide(
    "environment_agents",
    "One row per environment and agent: what is known of the sitting and its user, every keyword a column.",
    "environment_id",
    (_AGENTS_OF_ENVIRONMENTS, _USER_OF),
    f"agents_of a JOIN environments e USING (environment_id) LEFT JOIN played p USING (environment_id) {_USER_JOIN}",
    (
        "e.environment_id",
        "a.agent_id",
        "e.task_id",
        "e.game",
        "e.task",
        "e.source",
        "e.created_on",
        "coalesce(p.n_episodes, 0) AS n_episodes",
        "p.n_steps",
        "u.user_id",
        "u.permanent_user_id",
    ),
    (
        _Join("environment_keyword_data", "environment_id", True, "", "the agent on its environment"),
        _Join("environment_keyword_data", "environment_id", False, "environment_", "the environment"),
    ),
    {
        **_documented("environment_id", "agent_id", "task_id", "game", "task", "source", "created_on"),
        **_documented("user_id", "permanent_user_id"),
        "n_episodes": "how many episodes it has, with and without a trajectory",
        "n_steps": "steps of all its episodes; null where no trajectory is known",
    },
    (ENVIRONMENTS.name, EPISODES.name, USERS.name, "environment_keyword_data"),
)


WIDE_VIEWS = (_EPISODE_AGENTS, _ENVIRONMENT_AGENTS)


def wide_view(database: Database, wide: _Wide, keywords: KeywordTypes) -> View:
    """A wide view over the tables that ``database`` has, with a column for every keyword in them."""
    taken = {re.split(r"[. ]", column)[-1] for column in wide.columns}
    docs = dict(wide.docs)
    common, selected, joined = list(wide.common), list(wide.columns), []
    if _AGENTS_OF_EPISODES in common and database.fetch("SELECT 1 FROM episodes WHERE agents IS NULL LIMIT 1"):
        common[common.index(_AGENTS_OF_EPISODES)] = _AGENTS_OF_ALL_EPISODES
    for index, join in enumerate(wide.joins):
        columns = _keyword_columns(database, join, taken, keywords)
        # Each costs a query time, also one that asks for none of them.
        if columns:
            common.append(f"k{index} AS ({_pivot(join, columns)})")
            selected += [f"k{index}.{identifier(c.name)}" for c in columns]
            docs |= {c.name: c.doc for c in columns}
            on = " AND ".join(f"k{index}.{key} = a.{key}" for key in join.keys)
            joined.append(f"LEFT JOIN k{index} ON {on}")
    sql = f"WITH {', '.join(common)} SELECT {', '.join(selected)} FROM {wide.base} {' '.join(joined)}"
    return View(wide.name, wide.doc, sql, docs)
