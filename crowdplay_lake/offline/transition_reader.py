"""Transitions of selections by their index, some at a time, as arrays: what datasets of batches are made from.

They are d3rlpy's, index for index: one for each step that has a next one or ends in a terminal, so that a segment that
was cut off has one fewer than steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import CrowdPlayLakeError, InvalidArgument, InvalidLake
from .lazy import LazyObservations
from .numbering import TransitionNumbers
from .selection import Selection
from .stacks import ImagesAt, screens_of_stacks, stacked

__all__ = ["Arrays", "Screens", "TransitionReader", "Window"]

Arrays = dict[str, npt.NDArray[Any]]
Screens = npt.NDArray[np.uint8] | LazyObservations
_Indices = npt.NDArray[np.int64]


class TransitionReader:
    """The transitions of ``selections``, one selection after the other.

    ``screens``: for each selection its observations, uint8 (n, 1, height, width): an array, mapped from a file or not,
    or `LazyObservations`, which is the default. Holds no episode and no lake. Pickled, an array that is mapped from a
    file goes by the file's name.

    Raises InvalidArgument for what does not fit together, or has no transition.
    """

    def __init__(
        self, selections: Sequence[Selection], screens: Sequence[Screens] | None, n_frames: int, next_observations: bool
    ) -> None:
        _check(selections, n_frames)
        if screens is None:
            screens = [LazyObservations(selection) for selection in selections]
        _check_screens(selections, screens)
        self.n_frames = n_frames
        self.action_size = selections[0].action_size
        self.image_shape: tuple[int, ...] = screens[0].shape[2:]
        self._next_observations = next_observations
        self._screens = list(screens)
        self._offsets = np.cumsum([0, *map(len, selections)])
        segments = [segment for selection in selections for segment in selection.segments]
        self.agents, self._agent = _numbered([s.conversion.agent for s in selections for _ in s.segments])
        self.episode_ids, self._episode = _numbered([segment.episode.episode_id for segment in segments])
        self._terminal = np.array([segment.terminal for segment in segments])
        self._numbers = TransitionNumbers(np.cumsum([len(segment) for segment in segments]), self._terminal)
        # By row. Packed: workers are sent it.
        self._actions = np.concatenate([s.actions for s in selections]).astype(np.min_scalar_type(self.action_size))
        self._rewards = np.concatenate([s.rewards for s in selections])
        self._steps = np.concatenate([segment.steps for segment in segments]).astype(np.int32)
        if not len(self):
            raise InvalidArgument("every episode of the selection was cut off after one step: nothing to train on")

    def __len__(self) -> int:
        return len(self._numbers)

    def batch(self, indices: npt.ArrayLike, images_at: ImagesAt | None = None) -> Arrays:
        """The transitions with these indices, in their order. Raises IndexError; InvalidLake, with the episode."""
        segment, row = self._locate(np.asarray(indices, np.int64))
        ends = row == self._numbers.ends[segment] - 1
        found: Arrays = {
            "action": self._actions[row].astype(np.int64),
            "reward": self._rewards[row],
            "terminal": ends,
            "timeout": ~self._terminal[segment] & (row == self._numbers.ends[segment] - 2),
            "agent": self._agent[segment],
            "episode": self._episode[segment],
            "step": self._steps[row].astype(np.int64),
        }
        # What follows a terminal shows nothing.
        shown = np.concatenate([row, row[~ends] + 1]) if self._next_observations else row
        starts = self._numbers.starts[np.concatenate([segment, segment[~ends]]) if self._next_observations else segment]
        stacks = stacked(images_at or self._images, shown, starts, self.n_frames, self.image_shape)
        found["observation"] = stacks[: len(row)]
        if self._next_observations:
            following = stacks[len(row) :]
            if ends.any():
                following = np.zeros((len(row), *stacks.shape[1:]), np.uint8)
                following[~ends] = stacks[len(row) :]
            found["next_observation"] = following
        return found

    def window(self, indices: _Indices) -> Window:
        """The transitions with these indices, with every screen that they show in memory."""
        segment, row = self._locate(indices)
        wanted, exists = screens_of_stacks(row, self._numbers.starts[segment], self.n_frames)
        shown = wanted[exists]
        if self._next_observations:
            shown = np.concatenate([shown, np.minimum(row + 1, self._numbers.ends[segment] - 1)])
        shown = np.unique(shown)
        return Window(self, shown, self._images(shown))

    def _locate(self, indices: _Indices) -> tuple[_Indices, _Indices]:
        """The segment and the row of transitions."""
        segment, place = self._numbers.locate(indices)
        return segment, place + self._numbers.starts[segment]

    def _images(self, rows: _Indices) -> npt.NDArray[np.uint8]:
        try:
            return self._read(rows)
        except (CrowdPlayLakeError, OSError) as error:
            raise self._told(error, rows) from error

    def _read(self, rows: _Indices) -> npt.NDArray[np.uint8]:
        cuts = np.searchsorted(rows, self._offsets).tolist()
        found = [
            _images_at(screens, rows[start:stop] - offset)
            for screens, offset, start, stop in zip(
                self._screens, self._offsets.tolist(), cuts[:-1], cuts[1:], strict=False
            )
            if stop > start
        ]
        if len(found) == 1:
            return found[0]
        return np.concatenate(found) if found else np.empty((0, *self.image_shape), np.uint8)

    def _told(self, error: Exception, rows: _Indices) -> Exception:
        """The error, with the episode that it is of: found by asking for them one by one."""
        segments = np.searchsorted(self._numbers.ends, rows, side="right")
        for segment in np.unique(segments).tolist():
            own = rows[segments == segment]
            try:
                self._read(own)
            except (CrowdPlayLakeError, OSError) as its:
                first, last = self._steps[own[[0, -1]]].tolist()
                episode = self.episode_ids[self._episode[segment]]
                return InvalidLake(f"episode {episode}, steps {first} to {last}: {its}")
        return error

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_screens": [_Mapping.of(screens) or screens for screens in self._screens]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._screens = [screens.open() if isinstance(screens, _Mapping) else screens for screens in self._screens]


class Window:
    """Transitions whose screens are in memory. What `TransitionReader.window` makes."""

    def __init__(self, reader: TransitionReader, rows: _Indices, images: npt.NDArray[np.uint8]) -> None:
        self._reader = reader
        self._rows = rows
        self._images = images

    def batch(self, indices: npt.ArrayLike) -> Arrays:
        """As `TransitionReader.batch`, of transitions of this window."""
        return self._reader.batch(indices, lambda rows: self._images[self._rows.searchsorted(rows)])


def _images_at(screens: Screens, indices: _Indices) -> npt.NDArray[np.uint8]:
    return screens.images_at(indices) if isinstance(screens, LazyObservations) else screens[indices, 0]


def _numbered(names: Sequence[str]) -> tuple[list[str], npt.NDArray[np.int64]]:
    """(each name once, in order; which of them each is)."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return list(numbers), np.array([numbers[name] for name in names], np.int64)


def _check(selections: Sequence[object], n_frames: int) -> None:
    if isinstance(n_frames, bool) or not isinstance(n_frames, int | np.integer) or n_frames < 1:
        raise InvalidArgument(f"n_frames must be a whole number of at least 1, not {n_frames!r}")
    if not selections:
        raise InvalidArgument("no selection: nothing to train on")
    chosen = [selection for selection in selections if isinstance(selection, Selection)]
    if len(chosen) < len(selections):
        raise InvalidArgument("transitions are of selections: make one of episodes with select(episodes, Conversion())")
    if len(sizes := {selection.action_size for selection in chosen}) > 1:
        told = " and ".join(map(str, sorted(sizes)))
        raise InvalidArgument(f"selections with {told} actions: give select() the same action_size for all of them")


def _check_screens(selections: Sequence[Selection], screens: Sequence[Screens]) -> None:
    if len(screens) != len(selections):
        raise InvalidArgument(f"observations of {len(screens)} selections, for {len(selections)}: one array for each")
    for array, selection in zip(screens, selections, strict=True):
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[:2] != (len(selection), 1):
            raise InvalidArgument(
                f"observations are uint8 ({len(selection)}, 1, height, width) for this selection, not {array.dtype}"
                f" {array.shape}"
            )
        if isinstance(array, LazyObservations) and not np.array_equal(array.ends, selection.ends):
            raise InvalidArgument("the observations are of another selection: give LazyObservations(selection)")
    if len({array.shape[2:] for array in screens}) > 1:
        raise InvalidArgument("observations of different heights or widths: give all of them the same")


@dataclass(frozen=True)
class _Mapping:
    """Where in a file an array is mapped from."""

    file: str
    offset: int
    shape: tuple[int, ...]

    @classmethod
    def of(cls, array: Screens) -> _Mapping | None:
        """None for what is in memory, or computed."""
        origin: Any = array
        while isinstance(origin, np.ndarray) and isinstance(origin.base, np.ndarray):
            origin = origin.base
        if not isinstance(array, np.ndarray) or not isinstance(origin, np.memmap) or not array.flags.c_contiguous:
            return None
        offset = origin.offset + array.ctypes.data - origin.ctypes.data
        return cls(str(origin.filename), offset, array.shape)

    def open(self) -> npt.NDArray[np.uint8]:
        return np.asarray(np.memmap(self.file, np.uint8, "r", self.offset, self.shape))
