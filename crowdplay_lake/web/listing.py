"""What the list of episodes asks: a page of those that satisfy a form and an SQL condition, and what to choose from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..errors import InvalidArgument, UnknownColumn
from ..query import Stop, identifier, literal
from .values import cell

if TYPE_CHECKING:
    from ..lake import Lake

__all__ = ["PAGE_ROWS", "about", "page_of"]

PAGE_ROWS = 50
LONGEST_CONDITION = 20_000
MOST_COLUMNS = 12
WIDE = "episode_agents"
# The same for all agents of an episode.
_OF_EPISODE = ("environment_id", "task_id", "game", "task", "source", "created_on", "n_steps")
_SHOWN = ("game", "task", "source", "created_on", "n_steps")
_TEXT_FIELDS = {"game": "game", "task": "task", "source": "source", "participant": "permanent_user_id"}
_LEAST_FIELDS = {"min_steps": "n_steps", "min_score": "score"}


def page_of(lake: Lake, asked: Mapping[str, Any], stop: Stop) -> dict[str, Any]:
    """One page of episodes.

    ``asked``: texts of the form's fields (`game`, `task`, `source`, `participant`, `min_steps`, `min_score`, `film`),
    `where` (an SQL condition over `episode_agents`), `sort` (a column) and `desc`, `page` from 1, and `columns`, names
    with commas between. Raises UnknownColumn, QueryError, InvalidArgument.
    """
    known = lake.tables()[WIDE]
    extra = _columns(asked.get("columns", ""), known)
    sort = asked.get("sort") or "episode_id"
    if sort not in known:
        raise UnknownColumn(sort, known, WIDE)
    number = _whole(asked.get("page") or "1", "page", 1)
    chosen = _chosen(lake, asked, known, stop)
    of, tables = "", {}
    if chosen is not None:
        of, tables = "WHERE episode_id IN (SELECT episode_id FROM chosen)", {"chosen": chosen}
    direction = "DESC" if asked.get("desc") else "ASC"
    order = "episode_id" if sort == "episode_id" else f"max({identifier(sort)}) {direction} NULLS LAST, episode_id"
    order = f"episode_id {direction}" if sort == "episode_id" else order
    ids = lake.sql(
        f"SELECT episode_id FROM {WIDE} {of} GROUP BY episode_id ORDER BY {order} "
        f"LIMIT {PAGE_ROWS} OFFSET {(number - 1) * PAGE_ROWS}",
        tables=tables,
        stop=stop,
    ).arrow()["episode_id"]
    # Whatever the condition gives, counted is what there is.
    ((total,),) = lake.sql(f"SELECT count(*) FROM episodes {of}", tables=tables, stop=stop).fetchall()
    return {
        "commit": lake.commit,
        "total": total,
        "page": number,
        "page_rows": PAGE_ROWS,
        "columns": extra,
        "episodes": _rows(lake, ids.to_pylist(), extra, known, stop),
    }


def _columns(text: str, known: Sequence[str]) -> list[str]:
    names = [name for name in dict.fromkeys(part.strip() for part in text.split(",")) if name]
    for name in names:
        if name not in known:
            raise UnknownColumn(name, known, WIDE)
    if len(names) > MOST_COLUMNS:
        raise InvalidArgument(f"columns: {len(names)} are more than fit; choose at most {MOST_COLUMNS}")
    return [name for name in names if name not in ("episode_id", "agent_id", *_SHOWN)]


def _whole(text: str, name: str, least: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 12 and int(text) >= least):
        raise InvalidArgument(f"{name} is a whole number from {least} on, not {text[:40]!r}")
    return int(text)


def _chosen(lake: Lake, asked: Mapping[str, Any], known: Sequence[str], stop: Stop) -> pa.Table | None:
    """The ids of the episodes that qualify; None: all."""
    conditions = []
    for field, column in _TEXT_FIELDS.items():
        if value := asked.get(field):
            conditions.append(f"{_known(column, field, known)} = {literal(value)}")
    for field, column in _LEAST_FIELDS.items():
        if value := asked.get(field):
            conditions.append(f"{_known(column, field, known)} >= {_number(value, field)}")
    if asked.get("film"):
        conditions.append("n_steps IS NOT NULL")
    where = asked.get("where") or ""
    if len(where) > LONGEST_CONDITION:
        raise InvalidArgument(f"where: a condition of {len(where):,} characters is too long")
    if where.strip():
        # Last, and the line break ends a comment in it.
        conditions.append(f"(\n{where}\n)")
    if not conditions:
        return None
    found = lake.sql(f"SELECT DISTINCT episode_id FROM {WIDE} WHERE {' AND '.join(conditions)}", stop=stop).arrow()
    if found.column_names != ["episode_id"] or not pa.types.is_string(found.schema.field(0).type):
        raise InvalidArgument("where is a condition over episode_agents, such as: score >= 50 AND task = 'plain'")
    return found


def _known(column: str, field: str, known: Sequence[str]) -> str:
    if column not in known:
        raise InvalidArgument(f"{field}: no episode of this lake has a {column}")
    return identifier(column)


def _number(text: str, name: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    # Neither NaN nor an infinity is a bound.
    if not abs(number) < 1e300:
        raise InvalidArgument(f"{name} is a number, not {text[:40]!r}")
    return number


def _rows(
    lake: Lake, ids: Sequence[str], extra: Sequence[str], known: Sequence[str], stop: Stop
) -> list[dict[str, Any]]:
    """The page's rows, in the order of ``ids``; what differs between agents is a list, in the order of `agents`."""
    if not ids:
        return []
    per_agent = [name for name in ("score", *extra) if name in known and name not in _OF_EPISODE]
    once = [name for name in (*_SHOWN, *extra) if name in _OF_EPISODE]
    columns = [
        "list(agent_id ORDER BY agent_id) AS agents",
        *(f"any_value({identifier(name)}) AS {identifier(name)}" for name in dict.fromkeys(once)),
        *(f"list({identifier(name)} ORDER BY agent_id) AS {identifier(name)}" for name in dict.fromkeys(per_agent)),
    ]
    listed = ", ".join(map(literal, ids))
    query = f"SELECT episode_id, {', '.join(columns)} FROM {WIDE} WHERE episode_id IN ({listed}) GROUP BY episode_id"
    found = lake.sql(query, stop=stop)
    by_id = {row[0]: dict(zip(found.columns, map(_cells, row), strict=True)) for row in found.fetchall()}
    return [by_id[name] for name in ids]


def _cells(value: Any) -> Any:
    return [cell(item) for item in value] if isinstance(value, list) else cell(value)


def about(lake: Lake, asked: Mapping[str, Any], stop: Stop) -> dict[str, Any]:
    """The lake, and what the form can offer: games, tasks, sources, columns."""
    del asked
    games = lake.sql(
        "SELECT game, count(*) AS episodes, coalesce(sum(n_steps), 0)::BIGINT AS steps "
        "FROM episodes GROUP BY game ORDER BY game",
        stop=stop,
    )
    kinds = lake.sql("SELECT DISTINCT task, source FROM episodes", stop=stop).fetchall()
    columns = [row for row in lake.schema(WIDE).fetchall() if row[1]]
    return {
        "name": lake.path.name,
        "commit": lake.commit,
        "time": lake.snapshot.time.isoformat(),
        "operation": lake.snapshot.operation,
        "games": [{"game": game, "episodes": episodes, "steps": steps} for game, episodes, steps in games.fetchall()],
        "tasks": sorted({task for task, _ in kinds if task is not None}),
        "sources": sorted({source for _, source in kinds if source is not None}),
        "columns": [{"name": name, "type": kind, "meaning": meaning} for _, name, kind, meaning in columns],
    }
