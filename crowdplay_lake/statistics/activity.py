"""The time in which somebody played."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import polars as pl

from .base import Running, Runs
from .score import STEPS_PER_SECOND

__all__ = ["ActivePlaytime"]

MINUTE = 60 * STEPS_PER_SECOND
REWARD_TIMEOUT = MINUTE
ACTION_TIMEOUT = MINUTE // 3

# The tasks that give their players another time to the next reward. Source: CrowdPlay's `environments`.
REWARD_TIMEOUTS: Mapping[str, int] = {
    "montezuma_revenge_mturk": 10 * MINUTE,
    **dict.fromkeys(
        ("demo_si_2p", "entombed_comp", "entombed_coop", "space_invaders_2p_coop", "space_invaders_2p_plain"),
        60 * MINUTE,
    ),
}


class ActivePlaytime(Running):
    """Whole seconds in which the agent was awake.

    ``reward_timeout``, ``action_timeout``: steps. Without the first, the time-out is that of the episode's task.
    """

    name = "active_playtime"
    key = "Active playtime"
    columns = ("reward", "action", "task_id")
    dtype = pl.Duration("us")
    unit = "whole seconds"
    definition = (
        "A step counts if the agent's last reward other than 0 is at most 3,600 steps ago and its last action other"
        " than 0 at most 1,200; the start of the episode counts as both. Counted steps // 60."
    )
    quirk = (
        "The reward's time-out is the task's: 36,000 steps in montezuma_revenge_mturk. CrowdPlay's docstring says a"
        " reward *or* an action; its code wants both. Some tasks spell the key 'Active Playtime'."
    )

    def __init__(self, reward_timeout: int | None = None, action_timeout: int | None = ACTION_TIMEOUT) -> None:
        self.reward_timeout = reward_timeout
        self.action_timeout = action_timeout

    def running(self, steps: pl.DataFrame, runs: Runs) -> npt.NDArray[np.int64]:
        active = runs.since(steps["reward"].to_numpy() != 0) <= self._reward_timeouts(steps, runs)
        if self.action_timeout is not None:
            active &= runs.since(steps["action"].to_numpy() != 0) <= self.action_timeout
        seconds: npt.NDArray[np.int64] = runs.sum(active) // STEPS_PER_SECOND
        return seconds

    def _reward_timeouts(self, steps: pl.DataFrame, runs: Runs) -> npt.NDArray[np.int64] | int:
        if self.reward_timeout is not None:
            return self.reward_timeout
        tasks = steps["task_id"][runs.starts].to_list()
        timeouts = np.array([REWARD_TIMEOUTS.get(task or "", REWARD_TIMEOUT) for task in tasks], np.int64)
        return np.repeat(timeouts, runs.lengths)
