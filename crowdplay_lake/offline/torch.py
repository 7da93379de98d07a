"""Transitions for PyTorch, without d3rlpy. Needs the extra `torch`.

`TransitionDataset` gives any transition by its index, for torch's own samplers and `TransitionSampler`;
`TransitionStream` whole batches of an epoch in a shuffled order that reads the lake in runs. Both work with any number
of workers, forked or spawned; workers read the lake's Parquet parts, or a memory map, themselves.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import InvalidArgument, MissingExtra
from .epoch_order import EpochOrder, Shuffle
from .selection import Selection
from .transition_reader import Arrays, Screens, TransitionReader, Window

try:
    import torch
    from torch.utils.data import Dataset, DistributedSampler, IterableDataset, get_worker_info
except ImportError as error:
    raise MissingExtra("torch", "torch") from error

__all__ = ["Batch", "TransitionDataset", "TransitionSampler", "TransitionStream"]

Batch = dict[str, torch.Tensor]


class TransitionDataset(Dataset[Batch]):
    """The transitions of selections, by index: those of `to_mdp_dataset`, in d3rlpy's order.

    ``dataset[i]`` is one, ``dataset[[3, 1, 4]]`` a batch, made at once. Each is a dict of tensors, of a batch of B:

    ================== ============================= ==================================================================
    observation        uint8 (B, n_frames, 84, 84)   the step's screen and those before it, oldest first; zeros where
                                                     the episode had not begun
    action             int64 (B,)                    index into the game's action set, below ``action_size``
    reward             float32 (B,)                  as the selection's `Conversion` credits it
    next_observation   uint8 (B, n_frames, 84, 84)   only with ``next_observations``; zeros after a terminal
    terminal           bool (B,)                     the game ended for the agent with this step
    timeout            bool (B,)                     the episode was cut off after the next observation
    agent              int64 (B,)                    index into ``agents``
    episode            int64 (B,)                    index into ``episode_ids``
    step               int64 (B,)                    the step of the episode
    ================== ============================= ==================================================================

    ``selections``: made by `select`; several ones, of several agents for instance, follow each other. ``n_frames``:
    screens of an observation. ``observations``: an array of the selection's observations, uint8 (n, 1, 84, 84), such as
    `map_observations` makes, or `LazyObservations` with parameters of your own; of several selections a list. By
    default they are made when they are asked for.

    >>> selection = select(lake.episodes("game = 'breakout'"), Conversion())          # doctest: +SKIP
    >>> loader = DataLoader(TransitionDataset(selection), 256, shuffle=True)          # doctest: +SKIP

    Raises InvalidArgument for what does not fit together. What cannot be read raises InvalidLake with the episode, in
    workers, too.
    """

    def __init__(
        self,
        *selections: Selection,
        n_frames: int = 4,
        next_observations: bool = False,
        observations: Screens | Sequence[Screens] | None = None,
    ) -> None:
        whole = observations is None or isinstance(observations, list | tuple)
        screens: Any = observations if whole else [observations]
        self._reader = TransitionReader(selections, screens, n_frames, next_observations)

    @property
    def action_size(self) -> int:
        """How many actions there are."""
        return self._reader.action_size

    @property
    def agents(self) -> list[str]:
        """The agents, by the number that a transition has."""
        return list(self._reader.agents)

    @property
    def episode_ids(self) -> list[str]:
        """The episodes, by the number that a transition has."""
        return list(self._reader.episode_ids)

    def __len__(self) -> int:
        return len(self._reader)

    def __repr__(self) -> str:
        shape = (self._reader.n_frames, *self._reader.image_shape)
        return f"TransitionDataset({len(self)} transitions, observation={shape}, episodes={len(self.episode_ids)})"

    def __getitem__(self, index: int | slice | Sequence[int] | torch.Tensor) -> Batch:
        """A transition by its number, several by a slice or a sequence of numbers. Raises IndexError."""
        chosen = np.asarray(range(len(self))[index] if isinstance(index, slice) else index)
        if chosen.ndim > 1 or (chosen.size and chosen.dtype.kind not in "iu"):
            raise IndexError(f"transitions are indexed by whole numbers, one or several in a row, not by {index!r}")
        chosen = chosen.astype(np.int64)
        found = _tensors(self._reader.batch(np.where(chosen < 0, chosen + len(self), chosen).reshape(-1)))
        return found if chosen.ndim else {name: tensor[0] for name, tensor in found.items()}

    def __getitems__(self, indices: Sequence[int]) -> list[Batch]:
        """Several transitions, made at once: what a DataLoader asks for."""
        found = self[indices]
        return [{name: tensor[at] for name, tensor in found.items()} for at in range(len(indices))]


def _tensors(arrays: Arrays) -> Batch:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


class TransitionSampler(DistributedSampler[int]):
    """torch's `DistributedSampler` that can begin in the middle of an epoch, and needs no process group.

    ``rank`` and ``world_size``: by default those of the process group, without one 0 of 1. The order depends on
    ``seed`` and the epoch only.

    >>> sampler = TransitionSampler(dataset, seed=7)           # doctest: +SKIP
    >>> sampler.set_epoch(3, start=128 * 256)                  # doctest: +SKIP
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        rank, world_size = _place(rank, world_size)
        super().__init__(dataset, world_size, rank, shuffle, seed, drop_last)
        self._start = 0

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Which epoch the next iteration is of, and at which of this rank's samples it begins.

        ``start``: batches taken times their size. Batches that workers made ahead and nobody took do not count.
        """
        _check_position(epoch, start, len(self))
        super().set_epoch(epoch)
        self._start = start

    def __iter__(self) -> Iterator[int]:
        return itertools.islice(super().__iter__(), self._start, None)


class TransitionStream(IterableDataset[Batch]):
    """The batches of an epoch of a `TransitionDataset`, shuffled, reading the lake in runs of neighbours.

    Give it to a DataLoader with ``batch_size=None``: what it yields are batches. Their order depends on the arguments,
    the epoch, ``rank`` and ``world_size``, and not on the number of workers; `set_epoch` begins anywhere.

    ``run``: neighbouring transitions that are read together. ``buffer``: transitions that are in memory, in all workers
    together (7 KB each), and shuffled. ``lanes``: batches come in turn from so many parts of the buffer, which workers
    share; best a multiple of the number of workers, else some of them make the same things. ``rank`` and
    ``world_size``: by default those of the process group, without one 0 of 1; ranks have disjoint transitions and equal
    numbers of batches, see `EpochOrder`. ``drop_last``: leave out what does not fill a batch.

    >>> stream = TransitionStream(TransitionDataset(selection), 256)                        # doctest: +SKIP
    >>> stream.set_epoch(3, start=128)                                                      # doctest: +SKIP
    >>> for batch in DataLoader(stream, batch_size=None, num_workers=4):                    # doctest: +SKIP
    ...     batch["observation"]                                                            # uint8 (256, 4, 84, 84)
    """

    def __init__(
        self,
        dataset: TransitionDataset,
        batch_size: int = 256,
        seed: int = 0,
        *,
        run: int = 64,
        buffer: int = 32_768,
        lanes: int = 12,
        rank: int | None = None,
        world_size: int | None = None,
        drop_last: bool = False,
    ) -> None:
        own, ranks = _place(rank, world_size)
        self._reader = dataset._reader
        self._shuffle = Shuffle(batch_size, seed, run, buffer, lanes, own, ranks, drop_last)
        # The epoch and the first batch. Shared, so that workers that stay from epoch to epoch hear of it.
        self._position = torch.zeros(2, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Which epoch the next iteration is of, and at which of this rank's batches it begins: those taken so far.

        To be called before the iteration; workers look at it when they begin.
        """
        _check_position(epoch, start, len(self))
        self._position[:] = torch.tensor([epoch, start])

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return len(EpochOrder(len(self._reader), self._shuffle, 0))

    def __iter__(self) -> Iterator[Batch]:
        epoch, start = self._position.tolist()
        return self._batches(EpochOrder(len(self._reader), self._shuffle, epoch), start)

    def _batches(self, order: EpochOrder, start: int) -> Iterator[Batch]:
        worker = get_worker_info()
        # A DataLoader takes a batch of each worker in turn.
        first, every = (start, 1) if worker is None else (start + worker.id, worker.num_workers)
        held: dict[int, _Held] = {}
        for number in range(first, len(order), every):
            lane, window, begin, end = order.place(number)
            if lane not in held or held[lane].window != window:
                # The one before goes first: memory is for as many windows as there are lanes.
                held.pop(lane, None)
                indices = order.window(lane, window)
                held[lane] = _Held(window, indices, self._reader.window(indices))
            yield _tensors(held[lane].transitions.batch(held[lane].indices[begin:end]))


class _Held(NamedTuple):
    """The window that a lane's batches come from now."""

    window: int
    indices: npt.NDArray[np.int64]  # in the order of its batches
    transitions: Window


def _place(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """(rank, world size), of the process group where they are not given."""
    if (rank is None) != (world_size is None):
        raise InvalidArgument("rank and world_size go together: give both, or neither")
    if rank is not None and world_size is not None:
        if not 0 <= rank < world_size:
            raise InvalidArgument(f"rank must be 0 to {world_size - 1}, below world_size, not {rank}")
        return rank, world_size
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _check_position(epoch: int, start: int, length: int) -> None:
    for name, value in (("epoch", epoch), ("start", start)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
            raise InvalidArgument(f"{name} must be a whole number of at least 0, not {value!r}")
    if start > length:
        raise InvalidArgument(f"start must be 0 to {length}, what an epoch has, not {start}")
