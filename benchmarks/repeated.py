"""Recorded episodes repeated under other ids: lakes of a size that nobody here has recorded.

A copy is its recording to the byte, ids aside, and in every table; `crowdplay-lake verify` passes it. Parquet
compresses each row group by itself. Where what is recorded of a game fills a row group of `steps`, none holds the same
episode twice, so no copy is compressed away by another; `sample` records as much.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from crowdplay_ingest.recorder import GAMES, TASKS, EnvironmentPlan, EpisodePlan, RecordingOptions, record
from crowdplay_lake.commit import Change, writing
from crowdplay_lake.content import content_hash
from crowdplay_lake.layout import LakePaths, Part
from crowdplay_lake.parts import EpisodeRows, GameWriter
from crowdplay_lake.reading import EpisodeReader, in_order
from crowdplay_lake.schema import (
    ENVIRONMENT_KEYWORD_DATA,
    ENVIRONMENTS,
    EPISODES,
    FRAMES,
    KEYWORD_DATA,
    STEPS,
    USERS,
)

__all__ = ["copy_id", "repeat_episodes", "sample"]

# Steps of a part: `compact` makes parts of a few millions.
STEPS_A_PART = 2_000_000
EPISODES_A_SITTING = 3
# One to two minutes of play.
SHORTEST, LONGEST = 3_600, 7_200
# Their rows are copied with other ids.
METADATA = (ENVIRONMENTS, USERS, ENVIRONMENT_KEYWORD_DATA, KEYWORD_DATA)
IDS = ("episode_id", "environment_id", "user_id", "permanent_user_id")


def sample(raw: Path, rows: int = STEPS.row_group_rows, processes: int = 1) -> None:
    """Record every game until `steps` will have so many rows of it: episodes of one to two minutes, or to their end."""
    # The slowest first, so that all processes end together.
    games = sorted(GAMES, key=lambda game: (len(GAMES[game].agents), game), reverse=True)
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as executor:
        for _ in executor.map(_record_game, games, [raw] * len(games), [rows] * len(games)):
            pass


def _record_game(game: str, raw: Path, rows: int) -> None:
    tasks = sorted(name for name, task in TASKS.items() if task.game == game)
    agents, people = len(GAMES[game].agents), GAMES[game].people
    chance = random.Random(game)
    recorded = seed = 0
    while recorded < rows:
        episodes = [
            EpisodePlan(chance.randint(SHORTEST, LONGEST), _players(game, seed)) for _ in range(EPISODES_A_SITTING)
        ]
        who = tuple(f"{game} {seed // 2} {seat}" for seat in range(people))
        plan = EnvironmentPlan(tasks[seed % len(tasks)], tuple(episodes), who)
        recorded += agents * record(raw / game, [plan], RecordingOptions(seed=seed, protocol=5, compression="gz")).steps
        seed += 1


def _players(game: str, number: int) -> tuple[str, ...]:
    """Every second sitting is of people who play well, where the recorder has them."""
    skilled = number % 2 == 0 and (game == "breakout" or game.startswith("space_invaders"))
    return ("skilled" if skilled else "sticky",) * len(GAMES[game].agents)


def repeat_episodes(path: Path, steps: int, processes: int = 1) -> int:
    """Add copies of all of the lake's episodes until it has at least so many steps; returns how often each is in."""
    with writing(path) as writer:
        originals = [row for row in writer.snapshot.read(EPISODES.name).to_pylist() if row["n_steps"] is not None]
        copies = range(1, -(-steps // sum(row["n_steps"] for row in originals)))
        work = _work(writer.paths, originals, copies)
        parts: dict[str, list[Part]] = {STEPS.name: [], FRAMES.name: []}
        rows = list(originals)
        for own, added in _done(work, processes):
            rows += own
            for name, found in added.items():
                parts[name] += found
        changes = {name: Change(added) for name, added in parts.items()}
        changes[EPISODES.name] = writer.replacement(EPISODES.name, pa.Table.from_pylist(rows, EPISODES.schema))
        for table in METADATA:
            before = writer.snapshot.read(table.name)
            after = pa.concat_tables([before, *(_renamed(before, number) for number in copies)])
            changes[table.name] = writer.replacement(table.name, after)
        writer.commit("generate", changes, {"episodes": len(rows)})
    return len(copies) + 1


@dataclass(frozen=True)
class _Copies:
    """What becomes one part: copies of a game's episodes, by number."""

    paths: LakePaths
    game: str
    originals: Sequence[Mapping[str, Any]]
    numbers: range


_Written = tuple[list[dict[str, Any]], dict[str, list[Part]]]  # rows of `episodes`, and the parts


def _work(paths: LakePaths, originals: Sequence[Mapping[str, Any]], copies: range) -> list[_Copies]:
    work = []
    for game in sorted({row["game"] for row in originals}):
        own = [row for row in originals if row["game"] == game]
        a_part = max(1, STEPS_A_PART // sum(row["n_steps"] * len(row["agents"]) for row in own))
        work += [_Copies(paths, game, own, copies[first : first + a_part]) for first in range(0, len(copies), a_part)]
    return work


def _done(work: Sequence[_Copies], processes: int) -> list[_Written]:
    if processes == 1:
        return [_write(copies) for copies in work]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as executor:
        return list(executor.map(_write, work))


def _write(copies: _Copies) -> _Written:
    """Write one part of copies, sorted by id."""
    reader = EpisodeReader(copies.paths)
    held = {row["episode_id"]: _held(reader.read(row)) for row in sorted(copies.originals, key=in_order)}
    parts: dict[str, list[Part]] = {STEPS.name: [], FRAMES.name: []}
    rows = []
    with GameWriter(copies.paths, copies.game) as part:
        for number in copies.numbers:
            for row in sorted(copies.originals, key=lambda row: str(row["episode_id"])):
                episode = _held(held[row["episode_id"]], number)
                facts = {
                    **row,
                    "episode_id": copy_id(number, row["episode_id"]),
                    "environment_id": row["environment_id"] and copy_id(number, row["environment_id"]),
                    "source_name": f"generated: copy {number} of {row['source_name']}",
                }
                rows.append({**facts, **part.write(episode), "content_hash": content_hash(episode, facts)})
        part.close(parts)
    return rows, parts


def _held(episode: EpisodeRows, number: int = 0) -> EpisodeRows:
    """An episode's rows in memory, of a copy if there is a ``number``."""
    steps = [_renamed(rows, number) for rows in episode.steps]
    return EpisodeRows(steps, [[_renamed(rows, number) for rows in pieces] for pieces in episode.frames])


def copy_id(number: int, name: str) -> str:
    """The id of a copy of what is called ``name``; of the original with 0."""
    return _prefix(number) + name


def _prefix(number: int) -> str:
    return f"generated-{number:06}-" if number else ""


def _renamed(rows: pa.Table, number: int) -> pa.Table:
    """The rows with the ids of a copy; those of the original with 0."""
    if number:
        for name in set(IDS) & set(rows.column_names):
            ids = pc.binary_join_element_wise(_prefix(number), rows[name], "")
            rows = rows.set_column(rows.column_names.index(name), name, ids)
    return rows
