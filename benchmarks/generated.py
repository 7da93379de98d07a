"""Metadata of so many episodes as nobody has recorded, made up at random; `repeated` repeats recorded ones, whole.

What is made here is for measuring only. Its episodes say so: their ids begin with "generated", and their trajectories
do not exist.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from crowdplay_lake.commit import Change, writing
from crowdplay_lake.keywords import keyword_columns
from crowdplay_lake.layout import LakePaths, Part, PartWriter, write_parts
from crowdplay_lake.schema import (
    ENVIRONMENT_KEYWORD_DATA,
    ENVIRONMENTS,
    EPISODES,
    KEYWORD_DATA,
    USERS,
    Table,
)

__all__ = ["AGENT", "made_up_metadata"]

AGENT = "game_0>player_0"
GAMES = ("beam_rider", "breakout", "montezuma_revenge", "qbert", "riverraid", "space_invaders")
TASKS = ("plain", "left", "right", "insideout", "outsidein", "rowbyrow")
SOURCES = ("mturk", "email", "socialmedia")
EPISODES_A_SITTING = 3
# Episodes whose keyword rows are made at a time.
CHUNK = 50_000

_BEGAN = datetime(2021, 9, 15, tzinfo=UTC)
# Key → the values that episodes have of it.
KEYS: Mapping[str, list[Any]] = {
    "Score": list(range(3000)),
    "Time played": [timedelta(seconds=s) for s in range(5, 1200)],
    "Active playtime": [timedelta(seconds=s) for s in range(5, 1200)],
    "Accuracy": [n / 997 for n in range(998)],
    "Aliens shot": list(range(300)),
    "Correct aliens shot (fraction)": [n / 499 for n in range(500)],
    "Correct aliens shot (total)": list(range(300)),
    "Time spent on left side (fraction)": [n / 997 for n in range(998)],
    "Latency": [n / 60 for n in range(120)],
    "visitor": [f"visitor {n}" for n in range(500)],
}


def made_up_metadata(path: Path, episodes: int, seed: int = 0) -> None:
    """A lake with the metadata of so many episodes: ten keys each, sittings of three; no trajectory behind any."""
    random = np.random.default_rng(seed)
    with writing(path) as writer:
        changes = {name: Change() for name in (ENVIRONMENTS.name, USERS.name, EPISODES.name, KEYWORD_DATA.name)}
        changes[ENVIRONMENT_KEYWORD_DATA.name] = Change()
        sittings = _sittings(-(-episodes // EPISODES_A_SITTING), random)
        for table, rows in _of_sittings(sittings):
            changes[table.name].add += write_parts(writer.paths, table, rows)
        rows = _episodes(episodes, sittings, random)
        changes[EPISODES.name].add += write_parts(writer.paths, EPISODES, rows)
        changes[KEYWORD_DATA.name].add += _keywords(writer.paths, rows, random)
        writer.commit("generate", changes, {"episodes": episodes})


def _sittings(count: int, random: np.random.Generator) -> pa.Table:
    columns: dict[str, Any] = {
        "environment_id": [f"generated-{n:022x}" for n in range(count)],
        "game": np.array(GAMES)[random.integers(0, len(GAMES), count)],
        "task": np.array(TASKS)[random.integers(0, len(TASKS), count)],
        "source": np.array(SOURCES)[random.integers(0, len(SOURCES), count)],
        "created_on": [_BEGAN + timedelta(minutes=int(m)) for m in np.sort(random.integers(0, 20_000, count))],
    }
    task_id = [f"{game}_{task}" for game, task in zip(columns["game"], columns["task"], strict=True)]
    return pa.table({**columns, "task_id": task_id})


def _of_sittings(sittings: pa.Table) -> list[tuple[Table, pa.Table]]:
    count = len(sittings)
    ids = sittings["environment_id"]
    users = {
        "user_id": [f"visit-{n:022x}" for n in range(count)],
        "permanent_user_id": [f"person-{n // 2:022x}" for n in range(count)],
        "task_id": sittings["task_id"],
        "environment_id": ids,
        "agent_id": pa.repeat(AGENT, count),
    }
    facts = []
    for key in ("game", "task", "source", "created_on"):
        known: dict[Any, int] = {}
        index = [known.setdefault(value, len(known)) for value in sittings[key].to_pylist()]
        values = _values(known).take(pa.array(index))
        facts.append(_with(values, environment_id=ids, agent_id=pa.repeat("all", count), key=pa.repeat(key, count)))
    keywords = pa.concat_tables(facts)
    return [(ENVIRONMENTS, sittings), (USERS, pa.table(users)), (ENVIRONMENT_KEYWORD_DATA, keywords)]


def _episodes(count: int, sittings: pa.Table, random: np.random.Generator) -> pa.Table:
    of = sittings.take(pa.array(np.arange(count) // EPISODES_A_SITTING))
    lists = {"agents": AGENT, "first_done_step": 100, "frame_limit_reached": False, "screen_agents": "all"}
    columns = {
        **{name: of[name] for name in of.column_names},
        "episode_id": [f"generated-{n:022x}" for n in range(count)],
        "n_steps": random.integers(300, 72_000, count).astype(np.int32),
        **{name: pa.repeat(pa.scalar([value]), count) for name, value in lists.items()},
    }
    absent = {c.name: pa.nulls(count, c.type) for c in EPISODES.columns if c.name not in columns}
    return pa.table({**columns, **absent}).select(EPISODES.schema.names).cast(EPISODES.schema)


def _values(values: Iterable[Any]) -> pa.Table:
    """The value columns of a keyword table, a row a value."""
    schema = pa.schema([field for field in KEYWORD_DATA.schema if field.name.startswith("value_")])
    return pa.Table.from_pylist([keyword_columns(value) for value in values], schema)


def _with(values: pa.Table, **columns: Any) -> pa.Table:
    absent = pa.nulls(len(values), pa.string())
    for name, column in {**columns, "commit": pa.repeat(1, len(values)), "replaced_json": absent}.items():
        values = values.append_column(name, column)
    return values


def _keywords(paths: LakePaths, episodes: pa.Table, random: np.random.Generator) -> list[Part]:
    pools = {key: _values(values) for key, values in KEYS.items()}
    parts = []
    for game in GAMES:
        ids = episodes.filter(pc.equal(episodes["game"], game))["episode_id"]
        with PartWriter(paths, KEYWORD_DATA, game) as part:
            for start in range(0, len(ids), CHUNK):
                some = ids.slice(start, CHUNK)
                n = len(some)
                rows = [
                    _with(
                        pool.take(pa.array(random.integers(0, len(pool), n))),
                        episode_id=some,
                        agent_id=pa.repeat(AGENT, n),
                        key=pa.repeat(key, n),
                    )
                    for key, pool in pools.items()
                ]
                table = pa.concat_tables(rows).sort_by([(name, "ascending") for name in KEYWORD_DATA.sort])
                part.write(table.select(KEYWORD_DATA.stored_schema.names).cast(KEYWORD_DATA.stored_schema))
            parts.append(part.close())
    return parts
