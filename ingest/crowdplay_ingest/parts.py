"""Episodes into the parts of `steps` and `frames`, and from one game's parts into another's."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, MutableMapping
from typing import Any

import numpy as np
import pyarrow as pa

from crowdplay_lake.commit import Change, Writer
from crowdplay_lake.games import ACTION_MEANINGS, is_frame_limit
from crowdplay_lake.layout import LakePaths, Part, PartWriter, read_rows
from crowdplay_lake.schema import FRAMES, RAM_COLUMNS, STEPS

from .convert import ConvertedEpisode

__all__ = ["GameWriter", "moved"]

Row = MutableMapping[str, Any]


class GameWriter:
    """The parts that a task writes for a game: one of `steps`, one of `frames`, begun with its first whole episode."""

    def __init__(self, paths: LakePaths, game: str) -> None:
        self._paths = paths
        self._game = game
        self._steps: PartWriter | None = None
        self._frames: PartWriter | None = None
        # Rows of short episodes wait here until they fill a row group: a footer entry has 131 columns.
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0

    def write(self, episode: ConvertedEpisode) -> dict[str, Any]:
        """Append an episode; returns where its rows are."""
        if self._steps is None or self._frames is None:
            self._steps = PartWriter(self._paths, STEPS, self._game)
            self._frames = PartWriter(self._paths, FRAMES, self._game)
        place = {
            "steps_part": self._steps.relative,
            "steps_first_row": self._steps.rows + self._waiting_rows,
            "frames_part": self._frames.relative,
            "frames_first_row": self._frames.rows,
        }
        for frames in episode.frames:
            self._frames.write(frames)
        self._waiting.append(episode.steps)
        self._waiting_rows += len(episode.steps)
        if self._waiting_rows >= STEPS.row_group_rows:
            self._flush()
        return place

    def _flush(self) -> None:
        if self._steps is not None and self._waiting:
            self._steps.write(pa.concat_tables(self._waiting))
        self._waiting, self._waiting_rows = [], 0

    def close(self, parts: Mapping[str, list[Part]]) -> None:
        """Finish the parts and add them to ``parts``, by table."""
        self._flush()
        if self._steps is not None and self._frames is not None:
            parts[STEPS.name].append(self._steps.close())
            parts[FRAMES.name].append(self._frames.close())
        self._steps = self._frames = None

    def __enter__(self) -> GameWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        # After `close` there is nothing left to discard.
        for writer in (self._steps, self._frames):
            if writer is not None:
                writer.discard()


def moved(writer: Writer, episodes: Mapping[str, Row], games: Mapping[str, str]) -> dict[str, Change]:
    """Move episodes to the partitions of other ``games`` (by id), with all that depends on the game.

    The parts they lie in are written anew, for the episodes that stay in them too. ``episodes`` (all rows of the
    table, by id) is brought up to date.
    """
    snapshot = writer.snapshot
    left = {episodes[episode_id]["steps_part"] for episode_id in games}
    rows = [row for row in episodes.values() if row["n_steps"] is not None and row["steps_part"] in left]
    names = {STEPS.name: left, FRAMES.name: {row["frames_part"] for row in rows}}
    changes = {t: Change([], [p for p in snapshot.parts(t) if p.path in paths]) for t, paths in names.items()}
    added: dict[str, list[Part]] = {STEPS.name: [], FRAMES.name: []}
    for game, group in itertools.groupby(sorted(rows, key=_game_and_id), key=lambda row: str(row["game"])):
        with GameWriter(snapshot.paths, game) as parts:
            for row in group:
                whole = _read(snapshot.paths, row)
                if row["episode_id"] in games:
                    row.update(_of_game(game, row, whole.steps))
                row.update(parts.write(whole))
            parts.close(added)
    for table, parts_of_table in added.items():
        changes[table].add += parts_of_table
    return changes


def _game_and_id(row: Row) -> tuple[str, str]:
    return row["game"], row["episode_id"]


def _read(paths: LakePaths, row: Row) -> ConvertedEpisode:
    n = row["n_steps"]
    first = row["steps_first_row"]
    columns = STEPS.stored_schema.names
    _, steps = read_rows(paths, STEPS.name, row["steps_part"], first, first + n * len(row["agents"]), columns)
    frames = []
    for index in range(len(row["screen_agents"])):
        first = row["frames_first_row"] + index * n
        columns = FRAMES.stored_schema.names
        frames.append(read_rows(paths, FRAMES.name, row["frames_part"], first, first + n, columns)[1])
    return ConvertedEpisode(steps, frames, {})


def _of_game(game: str, row: Row, steps: pa.Table) -> dict[str, Any]:
    """What the game decides: the names of the actions, and whether an end with lives left is the game's own."""
    limits = []
    n = row["n_steps"]
    for agent, step, at_limit in zip(row["agents"], row["first_done_step"], row["frame_limit_reached"], strict=True):
        if step is not None:
            own = steps.slice(sorted(row["agents"]).index(agent) * n, n)
            ram = own.select(RAM_COLUMNS).slice(step, 1).to_pylist()[0].values()
            known = None if None in ram else np.array(list(ram), np.uint8)
            everybody = own["done_all"][step].as_py()
            at_limit = bool(everybody) and is_frame_limit(game, step, own["lives"].to_pylist(), known)
        limits.append(at_limit)
    meanings = ACTION_MEANINGS.get(game)
    return {"frame_limit_reached": limits, "action_meanings": None if meanings is None else list(meanings)}
