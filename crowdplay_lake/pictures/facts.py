"""What is known of an agent at each step, as it stood when the frame of that step was on the screen.

The frame of step i is what the agent saw *before* it acted: so its score is the sum of the rewards before step i and
its lives are those after step i - 1, beside the action that it then took. Rows of AI roll-outs tell reward and done of
the step before already.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import InvalidArgument

if TYPE_CHECKING:
    from ..episode import Episode

__all__ = ["Moment", "Moments", "agent_of", "clock", "known_rewards", "scores_before", "steps_per_second"]

PLAYERS = {1: "human", 2: "AI"}
ROLLOUT = "rollout"


def agent_of(episode: Episode, agent: str | None) -> str:
    """``agent``, or the episode's first one. Raises UnknownAgent, and NoTrajectory where there are no steps."""
    chosen = episode.agents[0] if agent is None and episode.agents else agent or ""
    episode.frame_log(chosen)
    return chosen


def steps_per_second(episode: Episode) -> int:
    """60 frames of the emulator; of an AI roll-out 15 decisions, four frames each."""
    return 15 if episode.row["variant"] == ROLLOUT else 60


def clock(seconds: float) -> str:
    """83.4 → '1:23.4'."""
    tenths = int(seconds * 10 + 1e-6)
    return f"{tenths // 600}:{tenths // 10 % 60:02}.{tenths % 10}"


@dataclass(frozen=True, slots=True)
class Moment:
    """What an agent's frame shows, and what the agent does then."""

    step: int
    seconds: float  # since the episode began
    score: float  # before the step
    lives: int | None  # before the step; None where it is not known
    action: int | None
    action_name: str  # 'RIGHTFIRE'; the number where the game is unknown, '-' without an action
    reward: float | None  # of the step itself
    player: str  # 'human' or 'AI'; empty where it is not known


class Moments:
    """The moments of an agent's episode, by step."""

    def __init__(self, episode: Episode, agent: str) -> None:
        rows = episode.steps(agent, ("action", "reward", "lives", "user_type"))
        self._rate = steps_per_second(episode)
        self._meanings = episode.action_meanings or []
        self._whole = episode.row["reward_type"] == "int"
        self._actions, self._lives, self._types = (rows[name].to_pylist() for name in ("action", "lives", "user_type"))
        rewards = rows["reward"].to_pylist()
        self._rewards: list[float | None] = rewards
        self._tells_before = episode.row["variant"] == ROLLOUT
        self.scores = scores_before(rewards, self._tells_before)

    def __len__(self) -> int:
        return len(self._actions)

    def __getitem__(self, step: int) -> Moment:
        """Raises InvalidArgument beyond the episode."""
        if not 0 <= step < len(self):
            raise InvalidArgument(f"step {step}: this episode has steps 0 to {len(self) - 1}")
        action = self._actions[step]
        before = step if self._tells_before else step - 1
        return Moment(
            step,
            step / self._rate,
            self._number(self.scores[step]),
            self._lives[before] if before >= 0 else None,
            action,
            self._action_name(action),
            None if self._rewards[step] is None else self._number(self._rewards[step]),
            PLAYERS.get(self._types[step], ""),
        )

    def _number(self, value: Any) -> float:
        return int(value) if self._whole and float(value).is_integer() else float(value)

    def _action_name(self, action: int | None) -> str:
        if action is None:
            return "-"
        return self._meanings[action] if 0 <= action < len(self._meanings) else str(action)


def scores_before(rewards: list[float | None], tells_before: bool) -> npt.NDArray[np.float64]:
    """The score that stands on the screen of each step, float64 (n,).

    ``tells_before``: each reward is that of the step before (AI roll-outs).
    """
    known = known_rewards(rewards)
    sums = np.cumsum(known)
    return sums if tells_before else np.concatenate([[0.0], sums[:-1]])[: len(sums)]


def known_rewards(rewards: list[float | None]) -> npt.NDArray[np.float64]:
    """Rewards to add up, float64 (n,): 0 where there is none, or no finite number."""
    return np.nan_to_num(np.array([reward or 0 for reward in rewards], np.float64), nan=0.0, posinf=0.0, neginf=0.0)
