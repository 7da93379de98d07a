"""Lakes of a size that nobody has recorded: metadata made up at random, and recorded steps repeated under other ids.

What is made here is for measuring only. Its episodes say so: their ids begin with "generated", and the trajectories of
made-up metadata do not exist.
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
from crowdplay_lake.parts import EpisodeRows, GameWriter
from crowdplay_lake.reading import EpisodeReader
from crowdplay_lake.schema import (
    ENVIRONMENT_KEYWORD_DATA,
    ENVIRONMENTS,
    EPISODES,
    FRAMES,
    KEYWORD_DATA,
    RAM_COLUMNS,
    STEPS,
    USERS,
    Table,
)

__all__ = ["made_up_metadata", "repeat_episodes", "repeat_steps"]

AGENT = "game_0>player_0"
GAMES = ("beam_rider", "breakout", "montezuma_revenge", "qbert", "riverraid", "space_invaders")
TASKS = ("plain", "left", "right", "insideout", "outsidein", "rowbyrow")
SOURCES = ("mturk", "email", "socialmedia")
EPISODES_A_SITTING = 3
# Episodes whose keyword rows are made at a time.
CHUNK = 50_000
# Steps of a part: about what `compact` makes of them.
STEPS_A_PART = 2_000_000

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


def repeat_steps(path: Path, steps: int) -> None:
    """Add copies of the lake's episodes, under other ids, until it has so many steps; their frames are the originals'.

    The RAM bytes of copy n are the recorded ones plus n, modulo 256. Recording and ingesting as many would take days,
    and what is measured on them reads no frame.
    """
    with writing(path) as writer:
        originals = writer.snapshot.read(EPISODES.name).to_pylist()
        reader = EpisodeReader(writer.snapshot.paths)
        held = {row["episode_id"]: pa.concat_tables(reader.read(row).steps) for row in originals}
        recorded = sum(row["n_steps"] for row in originals)
        rows, parts = list(originals), []
        copies = max(0, steps - recorded) // recorded
        for game in sorted({row["game"] for row in originals}):
            own = [row for row in originals if row["game"] == game]
            length = sum(len(held[row["episode_id"]]) for row in own)
            a_part = max(1, STEPS_A_PART // length)
            for first in range(0, copies, a_part):
                numbers = range(first, min(first + a_part, copies))
                with PartWriter(writer.paths, STEPS, game) as part:
                    rows += _copy(part, own, held, numbers)
                    parts.append(part.close())
        episodes = writer.replacement(EPISODES.name, pa.Table.from_pylist(rows, EPISODES.schema))
        writer.commit("generate", {STEPS.name: Change(parts), EPISODES.name: episodes}, {"episodes": len(rows)})


def repeat_episodes(path: Path, steps: int) -> None:
    """Add copies of the lake's episodes, whole ones with their frames, under other ids, until it has so many steps."""
    with writing(path) as writer:
        originals = writer.snapshot.read(EPISODES.name).to_pylist()
        recorded = sum(row["n_steps"] for row in originals)
        reader = EpisodeReader(writer.snapshot.paths)
        parts: dict[str, list[Part]] = {STEPS.name: [], FRAMES.name: []}
        rows = list(originals)
        for game in sorted({row["game"] for row in originals}):
            own = {row["episode_id"]: (row, _held(reader.read(row))) for row in originals if row["game"] == game}
            names = [f"generated-{n:06}-{name}" for n in range(max(0, steps - recorded) // recorded) for name in own]
            a_part = max(1, STEPS_A_PART * len(own) // sum(row["n_steps"] for row, _ in own.values()))
            for first in range(0, len(names), a_part):
                with GameWriter(writer.paths, game) as part:
                    for name in names[first : first + a_part]:
                        row, held = own[name.split("-", 2)[2]]
                        rows.append({**row, "episode_id": name, **part.write(_renamed(held, name))})
                    part.close(parts)
        changes = {name: Change(added) for name, added in parts.items()}
        changes[EPISODES.name] = writer.replacement(EPISODES.name, pa.Table.from_pylist(rows, EPISODES.schema))
        writer.commit("generate", changes, {"episodes": len(rows)})


def _held(episode: EpisodeRows) -> EpisodeRows:
    return EpisodeRows(list(episode.steps), [list(pieces) for pieces in episode.frames])


def _renamed(episode: EpisodeRows, name: str) -> EpisodeRows:
    def named(rows: pa.Table) -> pa.Table:
        return rows.set_column(0, "episode_id", pa.repeat(pa.scalar(name), len(rows)))

    return EpisodeRows(map(named, episode.steps), [map(named, pieces) for pieces in episode.frames])


def _shifted(steps: pa.Table, by: int) -> pa.Table:
    """The steps with other RAM bytes: copies would otherwise be compressed away, one by the other."""
    for name in RAM_COLUMNS:
        shifted = pc.bit_wise_and(pc.add(steps[name], pa.scalar(by % 256, pa.int32())), pa.scalar(255, pa.int32()))
        steps = steps.set_column(steps.schema.get_field_index(name), name, shifted)
    return steps


def _copy(
    part: PartWriter, originals: list[dict[str, Any]], held: Mapping[str, pa.Table], numbers: Iterable[int]
) -> list[dict[str, Any]]:
    """Write the copies of these numbers; returns their rows of `episodes`. Sorted by id, as every part is."""
    rows, first, waiting = [], part.rows, []
    named = sorted((f"generated-{number:06}-{row['episode_id']}", row) for number in numbers for row in originals)
    for name, row in named:
        steps = _shifted(held[row["episode_id"]], int(name.split("-")[1]))
        rows.append({**row, "episode_id": name, "steps_part": part.relative, "steps_first_row": first})
        waiting.append(steps.set_column(0, "episode_id", pa.repeat(pa.scalar(name), len(steps))))
        first += len(steps)
        if sum(map(len, waiting)) > STEPS.row_group_rows:
            part.write(pa.concat_tables(waiting).combine_chunks())
            waiting = []
    if waiting:
        part.write(pa.concat_tables(waiting).combine_chunks())
    return rows
