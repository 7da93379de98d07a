"""What a statistic is, and the runs of rows that statistics work on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from ..schema import ALL_AGENTS

__all__ = ["EVERY_GAME", "IDENTITY", "Result", "Running", "Runs", "Share", "Statistic", "Values"]

#: What `Statistic.values` may give: a value a row, or a frame with rows of its own (the columns of `IDENTITY` besides
#: `value`).
Values: TypeAlias = pl.Series | npt.NDArray[Any] | pl.Expr | pl.DataFrame
DType: TypeAlias = pl.DataType | type[pl.DataType]

# The columns that every frame of steps has, whatever a statistic reads besides.
IDENTITY = ("episode_id", "agent_id", "step")
EVERY_GAME = None


class Result(NamedTuple):
    """What a statistic says of a whole episode: a keyword value."""

    episode_id: str
    agent_id: str  # or 'all'
    value: Any


@dataclass(frozen=True)
class Runs:
    """The runs of a frame of steps: the rows of one agent in one episode, one after the other, from step 0 on.

    Arrays here have a value a row; "running" means over the run so far, the row itself included.
    """

    starts: npt.NDArray[np.int64]  # first row of each run
    rows: int

    @classmethod
    def of(cls, steps: pl.DataFrame) -> Runs:
        """The runs of whole episodes: a run begins at each step 0."""
        return cls(np.flatnonzero(steps["step"].to_numpy() == 0), len(steps))

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Rows of each run."""
        return np.diff(self.starts, append=self.rows)

    @property
    def last(self) -> npt.NDArray[np.int64]:
        """The last row of each run."""
        return self.starts + self.lengths - 1

    def counts(self) -> npt.NDArray[np.int64]:
        """1, 2, 3, … along each run."""
        return np.arange(1, self.rows + 1, dtype=np.int64) - np.repeat(self.starts, self.lengths)

    def sum(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The running sum: int64, or float64 added up in the order of the steps."""
        if values.dtype.kind != "f":
            whole = np.cumsum(values, dtype=np.int64)
            before = whole[self.starts] - values[self.starts]
            whole -= np.repeat(before, self.lengths)
            return whole
        # One after the other within an episode, as it was played: float sums depend on it.
        sums = np.empty(self.rows, np.float64)
        for start, length in zip(self.starts, self.lengths, strict=True):
            np.cumsum(values[start : start + length], out=sums[start : start + length])
        return sums

    def before(self, values: npt.NDArray[Any], first: Any) -> npt.NDArray[Any]:
        """The value of the row before; ``first`` where there is none."""
        shifted = np.empty_like(values)
        shifted[1:] = values[:-1]
        shifted[self.starts] = first
        return shifted

    def since(self, event: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """Steps since the last event, 0 at one; the moment before the first row counts as one."""
        rows = np.arange(self.rows, dtype=np.int64)
        latest = np.where(event, rows, -1)
        # The row before a run is later than whatever is in the runs before it.
        latest[self.starts] = np.where(event[self.starts], self.starts, self.starts - 1)
        return rows - np.maximum.accumulate(latest)


class Statistic(ABC):
    """One behavioural statistic: a value for each step of each agent, computed for many episodes at a time.

    A statistic of your own is a class with the method `values`; the attributes are optional:

    >>> class Leaps(Statistic):
    ...     columns = ("ram_1c",)
    ...     games = ("space_invaders",)
    ...     def values(self, steps):
    ...         run = pl.struct("episode_id", "agent_id")
    ...         return (pl.col("ram_1c").diff().abs() > 4).cast(pl.Float64).fill_null(0).cum_sum().over(run)
    """

    #: How it is asked for.
    name: str = ""
    #: The key under which `annotate` stores it; its name by default.
    key: str | None = None
    #: The games it is defined for; None: every game.
    games: Sequence[str] | None = EVERY_GAME
    #: The columns of `steps` that it reads, besides those of `IDENTITY`; also `game`, `task_id` and `reward_type` of
    #: the episode. None: every column but `extra`, which takes longer to read.
    columns: Sequence[str] | None = None
    #: The Polars type of a value.
    dtype: DType = pl.Float64
    unit: str = ""
    #: What it is, and where CrowdPlay's own number is odd: a sentence each.
    definition: str = ""
    quirk: str = ""

    @abstractmethod
    def values(self, steps: pl.DataFrame) -> Values:
        """The value of each row of ``steps``: whole episodes of one game, sorted by episode, agent and step.

        A Series, an array, or an expression over ``steps``; null where there is none. A value of no one agent is
        returned as a frame of episode_id, agent_id ('all'), step and value.
        """

    def dtype_for(self, episodes: Sequence[Mapping[str, Any]]) -> DType:
        """The type of the values of these episodes, rows of `episodes`."""
        del episodes
        return self.dtype

    def results(self, steps: pl.DataFrame, values: pl.DataFrame) -> Iterable[Result]:
        """What is stored of each episode and agent: the value of the last step. None is stored where it is null."""
        del steps
        last = values.group_by("episode_id", "agent_id", maintain_order=True).last()
        for episode_id, agent_id, value in last.select("episode_id", "agent_id", "value").iter_rows():
            if value is not None:
                yield Result(episode_id, agent_id, value)


class Running(Statistic):
    """A statistic that runs along an agent's steps. Where a step lacks what it needs, the rest of the run is null."""

    columns: Sequence[str] = ()

    @abstractmethod
    def running(self, steps: pl.DataFrame, runs: Runs) -> npt.NDArray[Any]:
        """A value a row; what is missing in ``steps`` is 0, and the value there is not used."""

    def values(self, steps: pl.DataFrame) -> pl.Series:
        runs = Runs.of(steps)
        steps, unknown = without_nulls(steps, self.columns, runs)
        values = as_series(self.running(steps, runs), self.dtype)
        return values if unknown is None else pl.select(pl.when(~pl.lit(unknown)).then(pl.lit(values))).to_series()


class Share(Running):
    """So many of so many. As CrowdPlay has it, a share of nothing is 0, the whole number."""

    dtype = pl.Float64
    unit = "share, 0 to 1"

    @abstractmethod
    def counts(self, steps: pl.DataFrame, runs: Runs) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """So many, and of so many, both running."""

    def running(self, steps: pl.DataFrame, runs: Runs) -> npt.NDArray[np.float64]:
        some, of_all = self.counts(steps, runs)
        return np.divide(some, of_all, out=np.zeros(runs.rows), where=of_all != 0)

    def results(self, steps: pl.DataFrame, values: pl.DataFrame) -> Iterator[Result]:
        runs = Runs.of(steps)
        _, of_all = self.counts(without_nulls(steps, self.columns, runs)[0], runs)
        # Every run gives one result or, unknown, none.
        empty = dict(zip(_owners(steps, runs), of_all[runs.last] == 0, strict=True))
        for result in super().results(steps, values):
            yield result._replace(value=0) if empty[result[:2]] else result


def _owners(steps: pl.DataFrame, runs: Runs) -> list[tuple[str, str]]:
    return steps[runs.last].select("episode_id", "agent_id").rows()


def without_nulls(
    steps: pl.DataFrame, columns: Sequence[str], runs: Runs
) -> tuple[pl.DataFrame, npt.NDArray[np.bool_] | None]:
    """``steps`` with 0 for null in ``columns``, and the rows from the first null of their run on; None: no nulls."""
    needed = [name for name in columns if steps.schema[name] != pl.String and steps[name].null_count()]
    if not needed:
        return steps, None
    missing = steps.select(pl.any_horizontal(pl.col(needed).is_null())).to_series().to_numpy()
    filled = steps.with_columns(
        pl.col(name).fill_null(False if steps.schema[name] == pl.Boolean else 0) for name in needed
    )
    return filled, runs.sum(missing) > 0


def as_series(values: npt.NDArray[Any] | pl.Series, dtype: DType) -> pl.Series:
    """An array as a column of ``dtype``; whole seconds become durations."""
    if isinstance(values, np.ndarray) and dtype == pl.Duration:
        return pl.Series("value", values * 1_000_000).cast(dtype)
    return pl.Series("value", values)


def of_everybody(steps: pl.DataFrame, value: pl.Expr) -> pl.DataFrame:
    """One row a step of an episode under 'all'; ``value`` aggregates over the agents."""
    return (
        steps.group_by("episode_id", "step", maintain_order=True)
        .agg(value.alias("value"))
        .select("episode_id", pl.lit(ALL_AGENTS).alias("agent_id"), "step", "value")
    )
