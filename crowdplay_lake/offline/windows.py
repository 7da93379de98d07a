"""Which transitions a selection has, and how they are chosen: uniformly, or through a shuffle buffer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import InvalidArgument
from .lazy import LazyObservations
from .numbering import TransitionNumbers
from .selection import Selection

__all__ = ["ShuffleBuffer", "Transitions", "Window"]

# Observations that are read in one go into a shuffle buffer.
RUN = 128


class Window(NamedTuple):
    """What a transition needs: where it is, and the observations around it."""

    segment: int
    place: int  # of the transition in its segment
    first: int  # place of the window's first observation in the segment
    images: npt.NDArray[np.uint8]  # (k, 1, 84, 84): up to n_frames of the stack, and the next one where there is one


class Transitions(TransitionNumbers):
    """The transitions of a selection, and the observations around them."""

    def __init__(self, selection: Selection, observations: LazyObservations, n_frames: int) -> None:
        super().__init__(selection.ends, np.array([segment.terminal for segment in selection.segments]))
        self.n_frames = n_frames
        self._observations = observations

    @property
    def window_shape(self) -> tuple[int, ...]:
        """Of the images of the longest window."""
        return (self.n_frames + 1, *self._observations.shape[1:])

    def windows(self, numbers: npt.NDArray[np.int64]) -> list[Window]:
        """The windows of transitions, made together."""
        segments, places = self.locate(numbers)
        starts = self.starts[segments]
        firsts = np.maximum(places - self.n_frames + 1, 0)
        lasts = np.minimum(places + 1, self.ends[segments] - starts - 1)
        lengths = lasts - firsts + 1
        ends = np.cumsum(lengths)
        wanted = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts + firsts - (ends - lengths), lengths)
        images = self._observations[wanted]
        rows = zip(segments.tolist(), places.tolist(), firsts.tolist(), np.split(images, ends[:-1]), strict=True)
        return [Window(*row) for row in rows]

    def runs(self) -> npt.NDArray[np.int64]:
        """(first, stop) of runs of successive transitions in one segment: int64 (k, 2)."""
        found = []
        for start, stop in zip(self.firsts.tolist(), self.stops.tolist(), strict=True):
            found += [(first, min(first + RUN, stop)) for first in range(start, stop, RUN)]
        return np.array(found, np.int64).reshape(-1, 2)


class ShuffleBuffer:
    """Some transitions in memory, of which samples are drawn; what was drawn is replaced by what is read next.

    Runs of successive transitions are read in a random order, all of them before any is read again. So samples are
    only nearly uniform: two transitions of a run are more likely to come close after each other than any two, the more
    so the smaller the buffer. A transition in it takes ``n_frames + 1`` observations: 35 KB of four stacked 84 x 84.
    """

    def __init__(self, transitions: Transitions, size: int, random: np.random.Generator) -> None:
        self._transitions = transitions
        self._random = random
        self._size = size
        self._stream = self._read()
        self._held: list[Window] = []

    def draw(self, count: int) -> list[Window]:
        """So many different ones. Raises InvalidArgument where the buffer holds fewer."""
        if count > self._size:
            raise InvalidArgument(f"a batch of {count} from a shuffle buffer of {self._size}: make it larger")
        if not self._held:
            # One array for all, that stays: small ones that come and go would leave holes in the process's memory.
            self._images = np.empty((self._size, *self._transitions.window_shape), np.uint8)
            self._held = [self._taken(at) for at in range(self._size)]
        chosen = self._random.choice(self._size, count, replace=False)
        images = self._images[chosen]
        drawn = []
        for number, at in enumerate(chosen.tolist()):
            held = self._held[at]
            drawn.append(held._replace(images=images[number, : len(held.images)]))
            self._held[at] = self._taken(at)
        return drawn

    def _taken(self, at: int) -> Window:
        """What is read next, in its place in the buffer."""
        window = next(self._stream)
        place = self._images[at, : len(window.images)]
        place[:] = window.images
        return window._replace(images=place)

    def _read(self) -> Iterator[Window]:
        runs = self._transitions.runs()
        while True:
            for first, stop in runs[self._random.permutation(len(runs))].tolist():
                yield from self._transitions.windows(np.arange(first, stop))
