"""A d3rlpy dataset whose observations are made when they are sampled. Needs the extra `d3rlpy`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from d3rlpy.dataset import Episode, PartialTrajectory, ReplayBuffer, Signature, Transition, TransitionMiniBatch

from ..errors import InvalidArgument
from .lazy import LazyObservations
from .prefetch import Prefetcher
from .selection import Selection
from .windows import ShuffleBuffer, Transitions, Window

__all__ = ["Feeding", "LazyDataset"]

READ_ONLY = "this dataset is made of a lake's episodes and takes no others"


@dataclasses.dataclass(frozen=True)
class Feeding:
    """How a `LazyDataset` chooses transitions, and what it may take for that.

    ``shuffle_buffer``: 0 samples uniformly, as d3rlpy does; else transitions are read in runs, in a random order, and
    drawn from so many of them (`ShuffleBuffer`): faster, and only nearly uniform. ``prefetch``: batches that a thread
    makes ahead; 0 makes them when they are asked for, of the very transitions that d3rlpy would choose by numpy's
    global random numbers. ``seed``: of what a thread or a buffer chooses; by default one of those numbers.
    ``memory``: bytes of packed change logs that are kept at most; a shuffle buffer needs none.
    """

    shuffle_buffer: int = 0
    prefetch: int = 1
    seed: int | None = None
    memory: int = 256 << 20

    def __post_init__(self) -> None:
        for name in ("shuffle_buffer", "prefetch", "memory"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
                raise InvalidArgument(f"{name} must be a whole number of at least 0, not {value!r}")


class LazyEpisode:
    """An episode whose observations are made whenever they are asked for, all of them. As `d3rlpy.dataset.Episode`."""

    def __init__(self, observations: LazyObservations, selection: Selection, number: int) -> None:
        stop = int(selection.ends[number])
        self._range = slice(stop - len(selection.segments[number]), stop)
        self._observations = observations
        self.actions = selection.actions[self._range, None]
        self.rewards = selection.rewards[self._range, None]
        self.terminated = selection.segments[number].terminal

    @property
    def observations(self) -> npt.NDArray[np.uint8]:
        return self._observations[self._range]

    @property
    def observation_signature(self) -> Signature:
        return Signature(dtype=[self._observations.dtype], shape=[self._observations.shape[1:]])

    @property
    def action_signature(self) -> Signature:
        return Signature(dtype=[self.actions.dtype], shape=[self.actions.shape[1:]])

    @property
    def reward_signature(self) -> Signature:
        return Signature(dtype=[self.rewards.dtype], shape=[self.rewards.shape[1:]])

    def window(self, first: int, stop: int, images: npt.NDArray[np.uint8] | None = None) -> Episode:
        """It from its observation ``first`` on, with the observations before ``stop`` only."""
        if images is None:
            start = self._range.start
            images = self._observations[start + first : start + stop]
        return Episode(images, self.actions[first:], self.rewards[first:], self.terminated)

    def size(self) -> int:
        return len(self.actions)

    def __len__(self) -> int:
        return len(self.actions)

    def compute_return(self) -> float:
        return float(np.sum(self.rewards))

    def serialize(self) -> dict[str, Any]:
        names = ("observations", "actions", "rewards", "terminated")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def deserialize(cls, serialized: dict[str, Any]) -> Episode:
        return Episode.deserialize(serialized)

    @property
    def transition_count(self) -> int:
        return len(self) - (not self.terminated)


class _Buffer:
    """d3rlpy's list of all transitions, without the list."""

    def __init__(self, episodes: Sequence[LazyEpisode], transitions: Transitions) -> None:
        self._all = episodes
        self._transitions = transitions
        # Those of one step that were cut off have no transition; d3rlpy does not list them.
        self.episodes = [episode for episode in episodes if episode.transition_count]

    @property
    def transition_count(self) -> int:
        return len(self._transitions)

    def __len__(self) -> int:
        return len(self._transitions)

    def __getitem__(self, index: int) -> tuple[LazyEpisode, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"transition {index} of {len(self)}")
        (segment,), (place,) = self._transitions.locate(np.array([index % len(self)]))
        return self._all[segment], int(place)

    def append(self, episode: object, index: int) -> None:
        raise InvalidArgument(READ_ONLY)


class LazyDataset(ReplayBuffer):  # type: ignore[misc]
    """What `algo.fit` takes, of a selection: transitions as in d3rlpy's own dataset, observations made when sampled.

    Close it, or use it in a `with`, to end its thread at once; otherwise that ends with the dataset.
    """

    def __init__(
        self,
        selection: Selection,
        observations: LazyObservations,
        feeding: Feeding,
        n_frames: int,
        **settings: Any,
    ) -> None:
        self._lazy = [LazyEpisode(observations, selection, number) for number in range(len(selection.segments))]
        self._transitions = Transitions(selection, observations, n_frames)
        if not len(self._transitions):
            raise InvalidArgument("no transitions in the selection: every episode has one decision and was cut off")
        first = self._lazy[0]
        super().__init__(
            _Buffer(self._lazy, self._transitions),
            observation_signature=first.observation_signature,
            action_signature=first.action_signature,
            reward_signature=first.reward_signature,
            action_size=selection.action_size,
            # Nothing is recorded into it.
            cache_size=1,
            **settings,
        )
        self._feeding = feeding
        self._n_frames = n_frames
        self._batches: Prefetcher[TransitionMiniBatch] | None = None
        self._batch_size = 0
        self._shuffled: ShuffleBuffer | None = None

    # What d3rlpy asks

    def sample_transition(self) -> Transition:
        number = np.random.randint(len(self._transitions))  # noqa: NPY002
        return self._picked(self._transitions.windows(np.array([number])))[0]

    def sample_transition_batch(self, batch_size: int) -> TransitionMiniBatch:
        """``batch_size`` transitions; what goes wrong in the thread that makes them is raised here."""
        if self._batches is None or batch_size != self._batch_size:
            self.close()
            self._batch_size = batch_size
            make = self._maker(batch_size)
            if not self._feeding.prefetch:
                return make()
            self._batches = Prefetcher(make, self._feeding.prefetch)
        return self._batches.next()

    def sample_trajectory(self, length: int) -> PartialTrajectory:
        number = np.random.randint(len(self._transitions))  # noqa: NPY002
        episode, end = self.buffer[number]
        # Only the observations that it shows: d3rlpy would cut them out of all.
        first = max(0, end + 1 - length - (self._n_frames - 1))
        found = self.trajectory_slicer(episode.window(first, end + 1), end - first, length)
        return dataclasses.replace(found, timesteps=found.timesteps + (first * found.masks).astype(np.int64))

    def append(self, observation: object, action: object, reward: object) -> None:
        raise InvalidArgument(READ_ONLY)

    def append_episode(self, episode: object) -> None:
        raise InvalidArgument(READ_ONLY)

    def clip_episode(self, terminated: bool) -> None:
        raise InvalidArgument(READ_ONLY)

    # How it is made

    def _maker(self, batch_size: int) -> Callable[[], TransitionMiniBatch]:
        """Makes the next batch. Knows nothing of this object, which a thread would keep alive."""
        picked = partial(_picked, self._lazy, self.transition_picker)
        feeding = self._feeding
        if not feeding.shuffle_buffer and not feeding.prefetch:
            return partial(_batch, picked, partial(_as_d3rlpy, self._transitions, batch_size))
        if feeding.shuffle_buffer:
            if self._shuffled is None:
                self._shuffled = ShuffleBuffer(self._transitions, feeding.shuffle_buffer, self._generator())
            return partial(_batch, picked, partial(self._shuffled.draw, batch_size))
        return partial(_batch, picked, partial(_uniform, self._transitions, batch_size, self._generator()))

    def _generator(self) -> np.random.Generator:
        seed = self._feeding.seed
        return np.random.default_rng(np.random.randint(2**31) if seed is None else seed)  # noqa: NPY002

    def _picked(self, windows: Sequence[Window]) -> list[Transition]:
        return _picked(self._lazy, self.transition_picker, windows)

    def close(self) -> None:
        """End the thread; the next batch starts another."""
        if self._batches is not None:
            self._batches.close()
        self._batches = None

    def __enter__(self) -> LazyDataset:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _as_d3rlpy(transitions: Transitions, count: int) -> list[Window]:
    """The transitions that d3rlpy would sample next."""
    return transitions.windows(np.array([np.random.randint(len(transitions)) for _ in range(count)]))  # noqa: NPY002


def _uniform(transitions: Transitions, count: int, random: np.random.Generator) -> list[Window]:
    return transitions.windows(random.integers(len(transitions), size=count))


def _picked(episodes: Sequence[LazyEpisode], picker: Any, windows: Sequence[Window]) -> list[Transition]:
    """By d3rlpy's own picker, which sees of each episode what the window shows."""
    return [
        picker(episodes[segment].window(first, first + len(images), images), place - first)
        for segment, place, first, images in windows
    ]


def _batch(
    picked: Callable[[Sequence[Window]], list[Transition]], choose: Callable[[], Sequence[Window]]
) -> TransitionMiniBatch:
    return TransitionMiniBatch.from_transitions(picked(choose()))
