"""The steps of many episodes, read in blocks: whole episodes of one game, as they lie in their parts."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from ..layout import LakePaths, read_rows
from ..reading import in_order
from ..schema import STEPS

__all__ = ["EPISODE_COLUMNS", "Block", "blocks", "read"]

# What a block takes at most, about: rows, and numbers that are read.
MAX_ROWS = 1_000_000
MAX_NUMBERS = 16_000_000

# Columns of `episodes` that a frame of steps can have.
EPISODE_COLUMNS = ("game", "task_id", "reward_type")
_FACTS = ("episode_id", "agents", "n_steps", "steps_part", "steps_first_row", *EPISODE_COLUMNS)


@dataclass(frozen=True)
class Block:
    """Episodes of one game that lie in one part: their rows of `episodes`, as far as they are needed, in its order."""

    part: str
    episodes: tuple[Mapping[str, Any], ...]

    @property
    def rows(self) -> int:
        """Rows of `steps`."""
        return sum(map(_rows, self.episodes))


def _rows(episode: Mapping[str, Any]) -> int:
    return int(episode["n_steps"]) * len(episode["agents"])


def blocks(episodes: Iterable[Mapping[str, Any]], columns: int) -> Iterator[Block]:
    """Episodes (rows of `episodes` with a trajectory) in blocks of a size that suits so many ``columns``."""
    limit = min(MAX_ROWS, MAX_NUMBERS // max(columns, 1))
    ordered = sorted(episodes, key=in_order)
    for part, of_part in itertools.groupby(ordered, key=lambda row: row["steps_part"]):
        chosen: list[Mapping[str, Any]] = []
        rows = 0
        for row in of_part:
            if chosen and rows + _rows(row) > limit:
                yield Block(part, tuple(chosen))
                chosen, rows = [], 0
            chosen.append({name: row[name] for name in _FACTS})
            rows += _rows(row)
        yield Block(part, tuple(chosen))


def read(paths: LakePaths, block: Block, columns: Sequence[str]) -> pl.DataFrame:
    """The steps of a block: episode_id, agent_id, step, and ``columns`` of `steps` or `EPISODE_COLUMNS`."""
    frame = _identity(block, [name for name in columns if name in EPISODE_COLUMNS])
    stored = [name for name in columns if name in STEPS.stored_schema.names and name not in frame.columns]
    if not stored:
        return frame
    pieces = [
        read_rows(paths, STEPS.name, block.part, first, stop, stored)[1] for first, stop in _ranges(block.episodes)
    ]
    read_columns = pl.from_arrow(pa.concat_tables(pieces), rechunk=True)
    return frame.hstack(pl.DataFrame(read_columns))


def _ranges(episodes: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, int]]:
    """The rows of the part that hold the episodes; those that follow each other as one."""
    first = stop = -1
    for episode in episodes:
        begin = episode["steps_first_row"]
        if begin != stop:
            if stop >= 0:
                yield first, stop
            first = begin
        stop = begin + _rows(episode)
    yield first, stop


def _identity(block: Block, facts: Sequence[str]) -> pl.DataFrame:
    """Whose each row is, from the book of episodes: reading it from the steps would take longer."""
    lengths = [_rows(episode) for episode in block.episodes]
    of_episode = np.repeat(np.arange(len(lengths), dtype=np.uint32), lengths)
    runs = [(agent, episode["n_steps"]) for episode in block.episodes for agent in sorted(episode["agents"])]
    steps = np.concatenate([np.arange(n, dtype=np.int32) for _, n in runs])
    of_run = np.repeat(np.arange(len(runs), dtype=np.uint32), [n for _, n in runs])
    columns = {
        "episode_id": pl.Series([row["episode_id"] for row in block.episodes], dtype=pl.String).gather(of_episode),
        "agent_id": pl.Series([agent for agent, _ in runs], dtype=pl.String).gather(of_run),
        "step": pl.Series(steps),
    }
    for name in facts:
        columns[name] = pl.Series([row[name] for row in block.episodes], dtype=pl.String).gather(of_episode)
    return pl.DataFrame(columns)
