"""What a run learns from: episodes as d3rlpy's buffers, in one of CrowdPlay's three ways to cut them into decisions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ...episode import Episode
from ...errors import UnknownName
from ...observations import ObservationParameters
from ..mapped import AUTO, describe, map_observations
from ..selection import Selection, select
from ..stream import stream
from ..transitions import Conversion
from .algorithms import d3rlpy_library

if TYPE_CHECKING:
    from d3rlpy.dataset import EpisodeBase, ReplayBuffer, Transition

__all__ = [
    "CONVERSIONS",
    "IMAGE",
    "OBSERVATION_SHAPE",
    "SKIP_N",
    "STACK_N",
    "Dataset",
    "Decisions",
    "SpacedFrames",
    "Tell",
    "conversion_named",
    "make_dataset",
]

STACK_N, SKIP_N = 4, 4
#: One image of an observation; what an agent sees is `STACK_N` of them, `SKIP_N` steps apart.
IMAGE = ObservationParameters(framestack_axis_first=True, stack_n=1)
OBSERVATION_SHAPE = (STACK_N, IMAGE.warp_height, IMAGE.warp_width)

#: Told of work: what, how much is done, of how much.
Tell = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Decisions:
    """How an episode becomes decisions, in training, and for how many steps an agent keeps to one when it plays.

    An observation is the same in all of them: `STACK_N` images, `SKIP_N` steps apart.
    """

    name: str
    every: int  # steps from one decision to the next
    offsets: tuple[int, ...] = (0,)  # of the first one; each makes a copy of the episode

    @property
    def spacing(self) -> int:
        """Decisions from one image of a stack to the next."""
        return SKIP_N // self.every


CONVERSIONS: Mapping[str, Decisions] = {
    decisions.name: decisions
    for decisions in (
        Decisions("downsample", every=4),
        Decisions("downsample_with_augment", every=4, offsets=(0, 1, 2, 3)),
        Decisions("every_step", every=1),
    )
}


def conversion_named(name: str) -> Decisions:
    """The conversion of that name. Raises UnknownName with the nearest."""
    if name not in CONVERSIONS:
        raise UnknownName(name, CONVERSIONS, "the benchmark's conversions")
    return CONVERSIONS[name]


@dataclass(frozen=True)
class Dataset:
    """What d3rlpy samples from."""

    buffer: ReplayBuffer
    action_size: int
    episodes: int  # of the lake
    decisions: int


def make_dataset(
    episodes: Sequence[Episode],
    decisions: Decisions,
    action_size: int | None = None,
    memory_map: str | None = None,
    tell: Tell | None = None,
) -> Dataset:
    """The decisions of ``episodes``, with one image each, uint8 (1, 84, 84); they are stacked when they are sampled.

    ``memory_map``: a folder to keep the images in instead of memory, where every run of the same episodes finds them,
    or "auto" for the cache folder. Raises InvalidArgument for no episodes, and for games of different actions.
    """
    d3rlpy = d3rlpy_library()
    selections = [
        select(episodes, Conversion(downsample_frequency=decisions.every, downsample_offset=offset), action_size)
        for offset in decisions.offsets
    ]
    made = [
        d3rlpy.dataset.Episode(
            images[start:stop], selection.actions[start:stop, None], selection.rewards[start:stop, None], terminal
        )
        for selection, images in _with_images(selections, memory_map, tell)
        for start, stop, terminal in _bounds(selection)
    ]
    actions = max(selection.action_size for selection in selections)
    buffer = d3rlpy.dataset.ReplayBuffer(
        d3rlpy.dataset.InfiniteBuffer(),
        episodes=made,
        transition_picker=SpacedFrames(STACK_N, decisions.spacing),
        observation_signature=made[0].observation_signature,
        action_signature=made[0].action_signature,
        reward_signature=made[0].reward_signature,
        action_space=d3rlpy.ActionSpace.DISCRETE,
        action_size=actions,
        # Nothing is recorded into it.
        cache_size=1,
    )
    return Dataset(buffer, actions, len(episodes), sum(map(len, selections)))


def _bounds(selection: Selection) -> Iterator[tuple[int, int, bool]]:
    """(first step, the one after the last, whether the game ended) of each segment."""
    ends = selection.ends.tolist()
    yield from zip([0, *ends[:-1]], ends, [segment.terminal for segment in selection.segments], strict=True)


def _with_images(
    selections: Sequence[Selection], memory_map: str | None, tell: Tell | None
) -> Iterator[tuple[Selection, npt.NDArray[np.uint8]]]:
    """Each selection with the images of its steps, uint8 (n, 1, 84, 84)."""
    total = sum(map(len, selections))
    before = 0

    def told(done: int) -> None:
        if tell is not None:
            tell("observations", before + done, total)

    for selection in selections:
        if memory_map is None:
            images = np.empty((len(selection), 1, IMAGE.warp_height, IMAGE.warp_width), np.uint8)
            done = 0
            for run in stream(selection, IMAGE, None):
                images[done : done + len(run)] = run
                done += len(run)
                told(done)
        else:
            where = memory_map if memory_map == AUTO else Path(memory_map) / describe(selection, IMAGE).key
            images = map_observations(selection, IMAGE, where, tell=told)
        yield selection, images
        before += len(selection)


class SpacedFrames:
    """d3rlpy's transition picker for images that are stacked ``spacing`` decisions apart: black before the first.

    With a spacing of 1 it is `d3rlpy.dataset.FrameStackTransitionPicker`. With decisions at every step, stacking
    neighbours would show four frames of a fifteenth of a second; apart by 4 they show what CrowdPlay's observations do.
    """

    def __init__(self, n_frames: int, spacing: int) -> None:
        self._back = np.arange(n_frames - 1, -1, -1) * spacing

    def __call__(self, episode: EpisodeBase, index: int) -> Transition:
        from d3rlpy.dataset import Transition

        observation = self._stack(episode, index)
        is_last = index == len(episode) - 1
        if is_last:
            # The last one is picked only where the game ended with it.
            next_observation, next_action = np.zeros_like(observation), np.zeros_like(episode.actions[index])
        else:
            next_observation, next_action = self._stack(episode, index + 1), episode.actions[index + 1]
        return Transition(
            observation=observation,
            action=episode.actions[index],
            reward=episode.rewards[index],
            next_observation=next_observation,
            next_action=next_action,
            terminal=float(is_last),
            interval=1,
            rewards_to_go=episode.rewards[index:],
        )

    def _stack(self, episode: EpisodeBase, index: int) -> npt.NDArray[np.uint8]:
        wanted = index - self._back
        images: npt.NDArray[np.uint8] = np.asarray(episode.observations)[np.maximum(wanted, 0), 0]
        images[wanted < 0] = 0
        return images
