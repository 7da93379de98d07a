"""Statistics over many episodes: which episodes, read in blocks, computed here or by an executor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any, TypeVar

import numpy as np
import polars as pl
from polars.io.plugins import register_io_source

from ..errors import InvalidArgument, UnknownColumn
from ..executors import in_order
from ..findings import first_line
from ..layout import LakePaths
from ..schema import STEPS
from .base import IDENTITY, DType, Result, Statistic, as_series
from .blocks import EPISODE_COLUMNS, Block, blocks, read
from .stepped import Stepped

__all__ = ["Work", "final_results", "results_of_blocks", "step_values", "values_of_steps"]

_Answer = TypeVar("_Answer")

# Blocks that an executor works on ahead of the one that is wanted next. The values of steps wait in memory; of what is
# stored there is little.
AHEAD = 16
AHEAD_OF_RESULTS = 1_000


class Work:
    """A statistic and the episodes it is to be computed of.

    ``episodes``: rows of `episodes`. ``chosen``: they were named, so each must be of a game that the statistic is
    defined for; otherwise the others are left out. Raises InvalidArgument, UnknownColumn.
    """

    def __init__(
        self,
        paths: LakePaths,
        commit: int,
        statistic: Statistic,
        episodes: Sequence[Mapping[str, Any]],
        chosen: bool,
    ) -> None:
        self.paths = paths
        self.commit = commit
        self.statistic = statistic
        self.columns = _columns(statistic)
        self.without_trajectory = sum(row["n_steps"] is None for row in episodes)
        with_steps = [row for row in episodes if row["n_steps"] is not None]
        self.episodes = _defined(statistic, with_steps, chosen)
        self.of_other_games = len(with_steps) - len(self.episodes)
        self.dtype = statistic.dtype_for(self.episodes)

    def blocks(self) -> list[Block]:
        """The episodes, in blocks that are computed one by one; each is of one game."""
        # Slow ones in small blocks, so that many can help.
        width = 16_000 if isinstance(self.statistic, Stepped) else len(self.columns) + len(IDENTITY)
        return list(blocks(self.episodes, width))


def _columns(statistic: Statistic) -> list[str]:
    known = [*STEPS.schema.names, *EPISODE_COLUMNS]
    if statistic.columns is None:
        return [*EPISODE_COLUMNS, *(name for name in STEPS.stored_schema.names if name not in (*IDENTITY, "extra"))]
    if isinstance(statistic.columns, str):
        raise InvalidArgument(f"{statistic.name}: columns must be a list of names, such as [{statistic.columns!r}]")
    for name in statistic.columns:
        if name not in known:
            raise UnknownColumn(name, known, f"steps, which {statistic.name} wants to read")
    return [name for name in dict.fromkeys(statistic.columns) if name not in IDENTITY]


def _defined(statistic: Statistic, episodes: list[Mapping[str, Any]], chosen: bool) -> list[Mapping[str, Any]]:
    """The episodes of the games that a statistic is defined for. Raises InvalidArgument where another was chosen."""
    if statistic.games is None:
        return episodes
    inside = [row for row in episodes if row["game"] in statistic.games]
    others = sorted({row["game"] for row in episodes} - set(statistic.games))
    if others and chosen:
        raise InvalidArgument(
            f"{statistic.name} is defined for {', '.join(statistic.games)}, and there are episodes of"
            f" {', '.join(others)}; choose with: game IN ({', '.join(map(repr, statistic.games))})"
        )
    return inside


# One block, in whatever process


def values_of_block(
    paths: LakePaths, commit: int, statistic: Statistic, columns: Sequence[str], dtype: DType, block: Block
) -> pl.DataFrame:
    """A row per step of each agent: episode_id, agent_id, step, value."""
    if isinstance(statistic, Stepped):
        frames = [statistic.of_episode(episode) for episode in _episodes(paths, commit, block)]
        return pl.concat([frame for frame in frames if frame.width])
    steps = read(paths, block, columns)
    return values_of_steps(statistic, steps, dtype)


def results_of_block(
    paths: LakePaths, commit: int, statistic: Statistic, columns: Sequence[str], dtype: DType, block: Block
) -> list[Result]:
    """What is to be stored of each episode and agent."""
    if isinstance(statistic, Stepped):
        return [result for episode in _episodes(paths, commit, block) for result in statistic.final(episode)]
    steps = read(paths, block, columns)
    return list(statistic.results(steps, values_of_steps(statistic, steps, dtype)))


def _episodes(paths: LakePaths, commit: int, block: Block) -> Iterator[Any]:
    from ..lake import Lake

    lake = Lake(paths.root, commit)
    return (lake.episode(row["episode_id"]) for row in block.episodes)


def values_of_steps(statistic: Statistic, steps: pl.DataFrame, dtype: DType) -> pl.DataFrame:
    """episode_id, agent_id, step and value of ``steps``: whole episodes of one game, with what the statistic reads."""
    try:
        found = statistic.values(steps)
        if isinstance(found, pl.DataFrame):
            return _own_rows(statistic, found, dtype)
        if isinstance(found, pl.Expr):
            found = steps.select(found.alias("value")).to_series()
        if isinstance(found, np.ndarray):
            found = as_series(found, dtype)
        if not isinstance(found, pl.Series):
            raise InvalidArgument(
                f"{statistic.name}: values() gives a Series, an array, an expression or a frame, not"
                f" {type(found).__name__}"
            )
        column = found.alias("value").cast(dtype)
    except pl.exceptions.PolarsError as error:
        raise InvalidArgument(
            f"{statistic.name} cannot be computed, or is not of its dtype {dtype}: {first_line(error)}"
        ) from error
    if len(column) != len(steps):
        raise InvalidArgument(
            f"{statistic.name}: values() gave {len(column):,} values for {len(steps):,} steps; it gives one for each,"
            f" or a frame of {', '.join(IDENTITY)} and value"
        )
    return steps.select(IDENTITY).with_columns(column)


def _own_rows(statistic: Statistic, found: pl.DataFrame, dtype: DType) -> pl.DataFrame:
    wanted = [*IDENTITY, "value"]
    if missing := [name for name in wanted if name not in found.columns]:
        raise InvalidArgument(f"{statistic.name}: the frame that values() gave lacks {', '.join(missing)}")
    types = {"episode_id": pl.String, "agent_id": pl.String, "step": pl.Int32, "value": dtype}
    return found.select(pl.col(name).cast(kind) for name, kind in types.items())


# All blocks


def _over_blocks(
    function: Callable[..., _Answer], work: Work, executor: Executor | None, ahead: int
) -> Iterator[tuple[Block, _Answer]]:
    call = partial(function, work.paths, work.commit, work.statistic, work.columns, work.dtype)
    yield from in_order(call, work.blocks(), executor, ahead, "computed a statistic")


def step_values(work: Work, executor: Executor | None = None) -> pl.LazyFrame:
    """episode_id, agent_id, step and value, computed block by block when they are asked for."""
    schema = {"episode_id": pl.String, "agent_id": pl.String, "step": pl.Int32, "value": work.dtype}

    def source(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        del batch_size
        left = n_rows
        for _, frame in _over_blocks(values_of_block, work, executor, AHEAD):
            frame = frame if left is None else frame.head(left)
            left = None if left is None else left - len(frame)
            frame = frame if predicate is None else frame.filter(predicate)
            yield frame if with_columns is None else frame.select(with_columns)
            if left == 0:
                return

    return register_io_source(source, schema=schema, explain_name=f"statistic {work.statistic.name}")


def results_of_blocks(work: Work, executor: Executor | None = None) -> Iterator[tuple[int, list[Result]]]:
    """(rows of `steps` done, what is to be stored of their episodes), block by block."""
    for block, results in _over_blocks(results_of_block, work, executor, AHEAD_OF_RESULTS):
        yield block.rows, results


def final_results(work: Work, executor: Executor | None = None) -> list[Result]:
    """What is to be stored of all episodes."""
    return [result for _, results in results_of_blocks(work, executor) for result in results]
