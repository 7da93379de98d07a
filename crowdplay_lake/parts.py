"""Episodes into the parts of `steps` and `frames`, and from one game's parts into another's."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from .commit import Change, Writer
from .games import ACTION_MEANINGS, is_frame_limit
from .layout import LakePaths, Part, PartWriter, read_rows
from .schema import FRAMES, RAM_COLUMNS, STEPS, Table

__all__ = ["EpisodeRows", "GameWriter", "read_episode", "rewritten"]

Row = MutableMapping[str, Any]


@dataclass(frozen=True)
class EpisodeRows:
    """The rows of one episode in pieces, so that no one has to hold them all. Iterate each once."""

    steps: Iterable[pa.Table]  # stored columns of STEPS, sorted by agent and step
    frames: Sequence[
        Iterable[pa.Table]
    ]  # per screen agent, sorted; stored columns of FRAMES, each begins with a keyframe


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

    def write(self, episode: EpisodeRows) -> dict[str, Any]:
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
        for frames in itertools.chain.from_iterable(episode.frames):
            self._frames.write(frames)
        for steps in episode.steps:
            self._waiting.append(steps)
            self._waiting_rows += len(steps)
            if self._waiting_rows >= STEPS.row_group_rows:
                self._flush(self._waiting_rows - self._waiting_rows % STEPS.row_group_rows)
        return place

    def _flush(self, count: int) -> None:
        """Write the first ``count`` of the rows that wait."""
        if self._steps is not None and count:
            rows = pa.concat_tables(self._waiting)
            self._steps.write(rows.slice(0, count))
            self._waiting, self._waiting_rows = [rows.slice(count)], len(rows) - count

    def close(self, parts: Mapping[str, list[Part]]) -> None:
        """Finish the parts and add them to ``parts``, by table."""
        self._flush(self._waiting_rows)
        if self._steps is not None and self._frames is not None:
            parts[STEPS.name].append(self._steps.close())
            parts[FRAMES.name].append(self._frames.close())
        self._steps = self._frames = None
        self._waiting, self._waiting_rows = [], 0

    def __enter__(self) -> GameWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        # After `close` there is nothing left to discard.
        for writer in (self._steps, self._frames):
            if writer is not None:
                writer.discard()


def rewritten(
    writer: Writer, episodes: Mapping[str, Row], games: Mapping[str, str], gone: Collection[str] = ()
) -> dict[str, Change]:
    """Move episodes to the partitions of other ``games`` (by id), and leave out the rows of those that are ``gone``.

    The parts they lie in are written anew, for the episodes that stay in them too. ``episodes`` (all rows of the
    table, by id) is brought up to date, but for those that are gone.
    """
    snapshot = writer.snapshot
    rows = _sharing_parts([r for r in episodes.values() if r["n_steps"] is not None], {*games, *gone})
    left = {STEPS.name: {r["steps_part"] for r in rows}, FRAMES.name: {r["frames_part"] for r in rows}}
    changes = {t: Change([], [p for p in snapshot.parts(t) if p.path in paths]) for t, paths in left.items()}
    added: dict[str, list[Part]] = {STEPS.name: [], FRAMES.name: []}
    staying = sorted((row for row in rows if row["episode_id"] not in gone), key=_game_and_id)
    for game, group in itertools.groupby(staying, key=lambda row: str(row["game"])):
        with GameWriter(snapshot.paths, game) as parts:
            for row in group:
                whole = read_episode(snapshot.paths, row)
                if row["episode_id"] in games:
                    row.update(_of_game(game, row, snapshot.paths))
                row.update(parts.write(whole))
            parts.close(added)
    for table, parts_of_table in added.items():
        changes[table].add += parts_of_table
    return changes


def _sharing_parts(rows: Sequence[Row], ids: Collection[str]) -> list[Row]:
    """The rows of these episodes, and of all that lie in the same parts, or in the same as those."""
    steps: set[str] = set()
    frames: set[str] = set()
    found: list[Row] = []
    more = [row for row in rows if row["episode_id"] in ids]
    while len(more) > len(found):
        found = more
        steps |= {row["steps_part"] for row in found}
        frames |= {row["frames_part"] for row in found}
        more = [row for row in rows if row["steps_part"] in steps or row["frames_part"] in frames]
    return found


def _game_and_id(row: Row) -> tuple[str, str]:
    return row["game"], row["episode_id"]


def read_episode(paths: LakePaths, row: Mapping[str, Any]) -> EpisodeRows:
    """The rows of an episode, as they were written; ``row`` is its row of `episodes`."""
    n = row["n_steps"]

    def pieces(table: Table, part: str, first: int, count: int) -> Iterator[pa.Table]:
        columns = table.stored_schema.names
        for begin in range(first, first + count, FRAMES.row_group_rows):
            yield read_rows(paths, table.name, part, begin, min(begin + FRAMES.row_group_rows, first + count), columns)[
                1
            ]

    steps = pieces(STEPS, row["steps_part"], row["steps_first_row"], n * len(row["agents"]))
    frames = [
        pieces(FRAMES, row["frames_part"], row["frames_first_row"] + index * n, n)
        for index in range(len(row["screen_agents"]))
    ]
    return EpisodeRows(steps, frames)


def _of_game(game: str, row: Row, paths: LakePaths) -> dict[str, Any]:
    """What the game decides: the names of the actions, and whether an end with lives left is the game's own."""
    limits = []
    n = row["n_steps"]
    columns = ["lives", "done_all", *RAM_COLUMNS]
    for agent, step, at_limit in zip(row["agents"], row["first_done_step"], row["frame_limit_reached"], strict=True):
        if step is not None:
            first = row["steps_first_row"] + sorted(row["agents"]).index(agent) * n
            _, own = read_rows(paths, STEPS.name, row["steps_part"], first, first + step + 1, columns)
            ram = own.select(RAM_COLUMNS).slice(step, 1).to_pylist()[0].values()
            known = None if None in ram else np.array(list(ram), np.uint8)
            everybody = own["done_all"][step].as_py()
            *before, lives = own["lives"].to_pylist()
            at_limit = bool(everybody) and is_frame_limit(game, step, lives, 0 in before, known)
        limits.append(at_limit)
    meanings = ACTION_MEANINGS.get(game)
    return {"frame_limit_reached": limits, "action_meanings": None if meanings is None else list(meanings)}
