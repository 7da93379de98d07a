"""The order of an epoch: which transitions are in which batch, known without reading anything.

Transitions are read in runs of neighbours, which is fast, and shuffled so that neighbours part: the runs are dealt at
random to windows that fit in memory, and each window is shuffled. Several *lanes* take turns in giving a batch, each
from windows of its own; workers share the lanes, and the batches are the same however many workers there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import InvalidArgument

__all__ = ["EpochOrder", "Place", "Shuffle"]

_Indices = npt.NDArray[np.int64]
# What randomness is drawn for: the streams of one epoch do not depend on each other.
_RUNS, _REST, _WINDOW = range(3)


@dataclass(frozen=True)
class Shuffle:
    """How batches are made up, the same in every epoch."""

    batch_size: int
    seed: int = 0
    run: int = 64
    buffer: int = 32_768
    lanes: int = 12
    rank: int = 0
    world_size: int = 1
    drop_last: bool = False

    def __post_init__(self) -> None:
        for name in ("batch_size", "run", "buffer", "lanes"):
            _require_whole(name, getattr(self, name), 1)
        _require_whole("seed", self.seed, 0)


def _require_whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise InvalidArgument(f"{name} must be a whole number of at least {least}, not {value!r}")


class Place(NamedTuple):
    """Where a batch comes from."""

    lane: int
    window: int
    start: int  # in the window's order
    stop: int  # beyond its end for a last batch that is small


class EpochOrder:
    """The batches of one epoch for one rank: ``len`` of them, the same number for every rank.

    Over all ranks each of the ``n`` transitions comes once. What does not fill a batch of every lane of every rank is
    shuffled as a whole and comes last; without ``drop_last`` the last batch may be a small one, and at most
    ``world_size - 1`` transitions come twice so that all ranks have as many.
    """

    def __init__(self, n: int, shuffle: Shuffle, epoch: int) -> None:
        self._n = n
        self._shuffle = s = shuffle
        self._epoch = epoch
        together = s.world_size * s.lanes * s.batch_size
        self._batches = n // together  # of each lane
        self._body = self._batches * together
        rest = n - self._body
        own = rest // s.world_size if s.drop_last else -(-rest // s.world_size)
        self._own_rest = own
        self._rest_batches = own // s.batch_size if s.drop_last else -(-own // s.batch_size)
        self._window_batches = max(1, s.buffer // (s.lanes * s.batch_size))

    def __len__(self) -> int:
        return self._batches * self._shuffle.lanes + self._rest_batches

    def batch(self, number: int) -> _Indices:
        """The transitions of a batch. For many of them, see `place`: a window has those of several."""
        place = self.place(number)
        return self.window(place.lane, place.window)[place.start : place.stop]

    def place(self, number: int) -> Place:
        """The window that a batch is part of. What comes last is a window of a lane more."""
        s = self._shuffle
        turn, lane = divmod(number, s.lanes)
        if turn >= self._batches:
            start = (number - self._batches * s.lanes) * s.batch_size
            return Place(s.lanes, 0, start, start + s.batch_size)
        # Lanes begin with windows of different lengths, so that not all of them are due for a new one at once.
        window = (turn + self._ahead(lane)) // self._window_batches
        first, _ = self._turns(lane, window)
        return Place(lane, window, (turn - first) * s.batch_size, (turn - first + 1) * s.batch_size)

    def window(self, lane: int, window: int) -> _Indices:
        """Its transitions, in the order of its batches."""
        s = self._shuffle
        if lane == s.lanes:
            return self._rest()
        first, end = self._turns(lane, window)
        begin = (s.rank * s.lanes + lane) * self._batches
        positions = np.arange((begin + first) * s.batch_size, (begin + end) * s.batch_size)
        shuffled = self._random(_WINDOW, s.rank * s.lanes + lane, window).permutation(positions)
        return self._at(shuffled)

    def _rest(self) -> _Indices:
        s = self._shuffle
        shuffled = self._random(_REST).permutation(np.arange(self._body, self._n))
        own = np.resize(shuffled, self._own_rest * s.world_size)[s.rank :: s.world_size]
        return self._at(own[: self._rest_batches * s.batch_size])

    def _ahead(self, lane: int) -> int:
        return lane * self._window_batches // self._shuffle.lanes

    def _turns(self, lane: int, window: int) -> tuple[int, int]:
        """Which of its lane's batches are a window's: (the first, the end)."""
        first = window * self._window_batches - self._ahead(lane)
        return max(0, first), min(self._batches, first + self._window_batches)

    def _at(self, positions: _Indices) -> _Indices:
        """The transitions at positions of all runs laid end to end.

        Where the first run begins is random, too, so that the last one, which is short, is another one in every epoch.
        """
        run = self._shuffle.run
        numbers, places = np.divmod(positions, run)
        whole = numbers < len(self._runs)
        numbers[whole] = self._runs[numbers[whole]]
        return (numbers * run + places + self._shift) % self._n

    @cached_property
    def _runs(self) -> _Indices:
        return self._random(_RUNS).permutation(self._n // self._shuffle.run)

    @cached_property
    def _shift(self) -> int:
        return int(self._random(_RUNS, 1).integers(self._n))

    def _random(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence([self._shuffle.seed, self._epoch], spawn_key=purpose))
