"""Score and time played."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from .base import DType, Result, Running, Runs

__all__ = ["STEPS_PER_SECOND", "Score", "TimePlayed"]

STEPS_PER_SECOND = 60


class Score(Running):
    """The sum of the rewards."""

    name = "score"
    key = "Score"
    columns = ("reward", "reward_type")
    dtype = pl.Float64
    unit = "points"
    definition = "The sum of the agent's rewards. A whole number where the rewards are."
    quirk = "In a cooperative task both agents get both agents' rewards."

    def running(self, steps: pl.DataFrame, runs: Runs) -> npt.NDArray[Any]:
        return runs.sum(steps["reward"].to_numpy())

    def dtype_for(self, episodes: Sequence[Mapping[str, Any]]) -> DType:
        return pl.Int64 if all(row["reward_type"] == "int" for row in episodes) else pl.Float64

    def results(self, steps: pl.DataFrame, values: pl.DataFrame) -> Iterator[Result]:
        kinds = dict(steps.group_by("episode_id").agg(pl.col("reward_type").first()).iter_rows())
        for result in super().results(steps, values):
            yield result._replace(value=int(result.value)) if kinds[result.episode_id] == "int" else result


class TimePlayed(Running):
    """Whole seconds of play."""

    name = "time_played"
    key = "Time played"
    dtype = pl.Duration("us")
    unit = "whole seconds"
    definition = "Steps // 60, whatever the agent did."
    quirk = (
        "It goes on after an agent is done, until the episode ends. A row of an AI roll-out is a decision, four frames,"
        " and counts as one step."
    )

    def running(self, steps: pl.DataFrame, runs: Runs) -> npt.NDArray[np.int64]:
        return runs.counts() // STEPS_PER_SECOND
