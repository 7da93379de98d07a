"""What somebody did: how often each action."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import polars as pl

from .base import Result, Running, Runs

__all__ = ["ActionDistribution"]

ACTIONS = 18  # of the console; games use fewer


class ActionDistribution(Running):
    """The share of each action in the steps so far."""

    name = "actions"
    key = "action_dist_data"
    columns = ("action",)
    dtype = pl.Array(pl.Float64, ACTIONS)
    unit = "share, 0 to 1, of each of 18 actions"
    definition = (
        "The share of the steps so far in which the agent did each action, by its index in the game's action set"
        " (`action_meanings` of `episodes`). Stored: a dict of `action_0` to `action_17` and `episode_length`."
    )
    quirk = (
        "This is what CrowdPlay stores. Its running class never adds to what it keeps: that one says the share of the"
        " first action and this step's."
    )

    def running(self, steps: pl.DataFrame, runs: Runs) -> npt.NDArray[np.float64]:
        action = steps["action"].to_numpy()
        counts = runs.counts()
        shares = np.empty((runs.rows, ACTIONS), np.float64)
        for index in range(ACTIONS):
            np.divide(runs.sum(action == index), counts, out=shares[:, index])
        return shares

    def results(self, steps: pl.DataFrame, values: pl.DataFrame) -> Iterator[Result]:
        runs = Runs.of(steps)
        last = values[runs.last].select("episode_id", "agent_id", "value")
        for (episode_id, agent_id, shares), length in zip(last.iter_rows(), runs.lengths.tolist(), strict=True):
            if shares is not None:
                named = {f"action_{index}": share for index, share in enumerate(shares)}
                yield Result(episode_id, agent_id, {**named, "episode_length": length})
