"""What is trained on: the trainer's episodes of a choice of episodes, with everything of them but the observations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..episode import Episode
from ..errors import InvalidArgument
from .transitions import Conversion, Segment, segments

__all__ = ["Selection", "common_action_size", "nothing_selected", "select"]


@dataclass(frozen=True)
class Selection:
    """The steps of ``segments``, one after the other; n of them. Every trainer's dataset is made from this."""

    conversion: Conversion
    segments: tuple[Segment, ...]
    ends: npt.NDArray[np.int64]  # (segments,) the index after the last step of each
    actions: npt.NDArray[np.int64]  # (n,)
    rewards: npt.NDArray[np.float32]  # (n,)
    terminals: npt.NDArray[np.bool_]  # (n,) at a segment's last step, where the game ended for the agent
    timeouts: npt.NDArray[np.bool_]  # (n,) at a segment's last step, where it was cut off
    action_size: int

    def __len__(self) -> int:
        return len(self.actions)

    def locate(self, index: int) -> tuple[int, int]:
        """The segment that the step with that index belongs to, and its place there."""
        if not 0 <= index < len(self):
            raise IndexError(f"step {index} of {len(self)}")
        segment = int(np.searchsorted(self.ends, index, side="right"))
        return segment, index - (int(self.ends[segment - 1]) if segment else 0)


def select(episodes: Iterable[Episode], conversion: Conversion, action_size: int | None = None) -> Selection:
    """The trainer's episodes of ``episodes``. Reads a few columns of `steps` and no frame.

    ``action_size``: by default that of the game's action set; for an unknown game the largest action seen decides.

    Raises InvalidArgument for an empty selection, and where games have different action sets and no ``action_size`` is
    given; UnknownAgent; NoTrajectory.
    """
    chosen = tuple(segments(episodes, conversion))
    if not chosen:
        raise nothing_selected(conversion)
    ends = np.cumsum([len(segment) for segment in chosen], dtype=np.int64)
    terminals = np.zeros(ends[-1], np.bool_)
    timeouts = np.zeros_like(terminals)
    is_terminal = np.array([segment.terminal for segment in chosen])
    terminals[ends[is_terminal] - 1] = True
    timeouts[ends[~is_terminal] - 1] = True
    actions = np.concatenate([segment.actions for segment in chosen])
    return Selection(
        conversion,
        chosen,
        ends,
        actions,
        np.concatenate([segment.rewards for segment in chosen]).astype(np.float32),
        terminals,
        timeouts,
        common_action_size((segment.episode for segment in chosen), int(actions.max()) + 1, action_size),
    )


def nothing_selected(conversion: Conversion) -> InvalidArgument:
    """What is wrong with an empty selection."""
    who = conversion.controlled_by
    what = "no episodes" if who is None else f"no steps of {conversion.agent!r} played by {who!r}"
    return InvalidArgument(f"{what} in the selection: nothing to train on")


def common_action_size(episodes: Iterable[Episode], seen: int, told: int | None = None) -> int:
    """The number of actions of ``episodes``, of which ``seen`` were seen. ``told``: that number, whatever they are.

    Raises InvalidArgument where games have different action sets and none is told, or where more were seen.
    """
    if told is not None:
        if told < seen:
            raise InvalidArgument(f"action_size {told} is too small: there are actions up to {seen - 1}")
        return told
    sets: dict[object, Episode] = {}
    for episode in episodes:
        meanings = episode.action_meanings
        sets.setdefault(tuple(meanings) if meanings else episode.game, episode)
    if len(sets) > 1:
        named = ", ".join(f"{_named(episode)} in {episode.game}" for episode in sets.values())
        raise InvalidArgument(
            f"an action means different things in the games selected: {named}; choose episodes of one action set, or "
            "say action_size to train on them as they are"
        )
    return max(*(len(episode.action_meanings or ()) for episode in sets.values()), seen)


def _named(episode: Episode) -> str:
    meanings = episode.action_meanings
    return f"{len(meanings)} actions ({' '.join(meanings)})" if meanings else "unknown actions"
