"""What a trainer gets of an episode: where it ends and why, which rewards follow a decision, and who plays.

CrowdPlay's processed trajectories are wrong for learning in three ways, mended here (`semantics` in the docs): an
agent's trajectory goes on after its end, a time limit or an interruption looks like nothing or like a loss, and with
frame skipping a reward is credited to the decision after the one that earned it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..episode import DEFAULT_AGENT, Episode, rewards_since_last
from ..errors import InvalidArgument
from ..observations import emitted_steps

__all__ = ["ControlledBy", "Conversion", "Rewards", "Segment", "segments"]

Rewards = Literal["following", "crowdplay"]
ControlledBy = Literal["human", "ai"]

_USER_TYPES = {"human": 1, "ai": 2}


@dataclass(frozen=True)
class Conversion:
    """How episodes become a trainer's episodes.

    ``rewards``: "following" credits a decision with the rewards from its step up to just before the next one;
    "crowdplay" with those since the one before, as CrowdPlay does. ``controlled_by``: only the steps that a human, or
    an AI, plays; an episode is split where control changes hands.
    """

    agent: str = DEFAULT_AGENT
    downsample_frequency: int = 4
    downsample_offset: int = 0
    rewards: Rewards = "following"
    controlled_by: ControlledBy | None = None

    def __post_init__(self) -> None:
        if self.rewards not in ("following", "crowdplay"):
            raise InvalidArgument(f"rewards must be 'following' or 'crowdplay', not {self.rewards!r}")
        if self.controlled_by not in (None, *_USER_TYPES):
            raise InvalidArgument(f"controlled_by must be 'human', 'ai' or None, not {self.controlled_by!r}")
        emitted_steps(0, self.downsample_frequency, self.downsample_offset)


@dataclass(frozen=True)
class Segment:
    """One episode of a trainer: a run of steps of one episode of the lake, ending in a terminal or a timeout."""

    episode: Episode
    steps: npt.NDArray[np.int64]  # (n,) emitted steps of the episode, the segment's last one among them
    actions: npt.NDArray[np.int64]  # (n,)
    rewards: npt.NDArray[np.float64]  # (n,)
    terminal: bool  # whether the game ended for the agent; else it was cut off

    def __len__(self) -> int:
        return len(self.steps)

    def __repr__(self) -> str:
        end = "terminal" if self.terminal else "timeout"
        return f"Segment({self.episode.episode_id!r}, steps={self.steps[0]}..{self.steps[-1]}, n={len(self)}, {end})"


def segments(episodes: Iterable[Episode], conversion: Conversion) -> Iterator[Segment]:
    """The trainer's episodes, in order. Reads a few columns of `steps` and no frame.

    Raises UnknownAgent, NoTrajectory, and InvalidArgument for steps without an action or reward.
    """
    for episode in episodes:
        rows = episode.steps(conversion.agent, ("action", "reward", "done", "user_type"))
        done, at_frame_limit = episode.first_done(conversion.agent)
        end = len(episode) if done is None else done + 1
        user_type = rows["user_type"].fill_null(0).to_numpy()[:end]
        # What comes after the agent's end is not its trajectory.
        rows = rows.slice(0, end)
        episode.require(rows.select(["action", "reward"]), conversion.agent)
        actions = rows["action"].to_numpy().astype(np.int64)
        rewards = rows["reward"].to_numpy().astype(np.float64)
        for start, stop in _runs(user_type, conversion.controlled_by):
            terminal = done is not None and stop == end and not at_frame_limit
            frequency, offset = conversion.downsample_frequency, conversion.downsample_offset
            emitted = emitted_steps(stop - start, frequency, offset)
            own = _rewards(rewards[start:stop], emitted, conversion.rewards)
            yield Segment(episode, emitted + start, actions[emitted + start], own, terminal)


def _runs(user_type: npt.NDArray[np.int32], controlled_by: ControlledBy | None) -> Iterator[tuple[int, int]]:
    """(start, stop) of the runs of steps that the wanted kind of player plays; one run of all for None."""
    if controlled_by is None:
        yield 0, len(user_type)
        return
    wanted = np.concatenate([[False], user_type == _USER_TYPES[controlled_by], [False]])
    edges = np.flatnonzero(wanted[1:] != wanted[:-1])
    yield from ((int(start), int(stop)) for start, stop in edges.reshape(-1, 2))


def _rewards(
    rewards: npt.NDArray[np.float64], emitted: npt.NDArray[np.int64], kind: Rewards
) -> npt.NDArray[np.float64]:
    if kind == "crowdplay":
        return rewards_since_last(rewards, emitted)
    # From each emitted step up to just before the next. What comes before the first (an offset) belongs to nobody's
    # decision; it goes to the first, so that no reward is lost.
    starts = emitted.copy()
    starts[0] = 0
    return np.add.reduceat(rewards, starts)
