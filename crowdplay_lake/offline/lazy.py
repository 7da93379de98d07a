"""Observations of a `Selection` at any index, made when they are asked for: what every trainer's dataset can read."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InvalidArgument
from ..frame_log import FrameLog
from ..observations import ObservationParameters, processed_screens
from ..warp import warp_for
from .packed_logs import PackedLog, PackedLogs
from .selection import Selection
from .stacks import stacked

__all__ = ["MEMORY", "SINGLE", "LazyObservations"]

# One screen an observation: trainers stack them when they sample.
SINGLE = ObservationParameters(framestack_axis_first=True, stack_n=1)
MEMORY = 256 << 20
# Steps between two observations that are made in one go: fewer are replayed faster than a change log is unpacked.
_NEAR = 128


class LazyObservations:
    """The observations of a selection, as an array (n, 1, 84, 84) of uint8 that computes what is indexed.

    ``parameters``: of one screen an observation (``stack_n=1, framestack_axis_first=True``); `stacks` stacks those of
    successive indices. ``memory``: bytes of packed change logs that are kept at most; with too little of it, it is
    slower. Can be used by several threads, in forked processes, and pickled to others, which read the lake themselves
    (its Parquet parts only).

    >>> selection = select(lake.episodes("game = 'breakout'"), Conversion())       # doctest: +SKIP
    >>> observations = LazyObservations(selection)                                 # doctest: +SKIP
    >>> observations[[5, 17]].shape, observations.stacks([5, 17], 4).shape         # doctest: +SKIP
    ((2, 1, 84, 84), (2, 4, 84, 84))
    """

    def __init__(self, selection: Selection, parameters: ObservationParameters = SINGLE, memory: int = MEMORY) -> None:
        p = parameters
        if p.stack_n != 1 or not p.framestack_axis_first or not p.warp or p.scale:
            raise InvalidArgument(
                "single screens are made here: parameters with stack_n=1, framestack_axis_first=True, warp=True and"
                " scale=False"
            )
        self.shape = (len(selection), 1, p.warp_height, p.warp_width)
        self.dtype = np.dtype(np.uint8)
        self.ends = selection.ends
        self._parameters = p
        self._starts = np.concatenate([[0], selection.ends[:-1]])
        self._steps = np.concatenate([segment.steps for segment in selection.segments]).astype(np.int32)
        self._frames, self._frames_of = _frame_logs(selection)
        for frames in self._frames:
            p.shape(frames.screen.shape)
            # Refuses an enlargement here, before anything is computed.
            warp_for(frames.screen.shape[:2], (p.warp_height, p.warp_width))
        lakes = dict.fromkeys(frames.paths for frames in self._frames)
        logs = {paths: PackedLogs(paths, memory // len(lakes)) for paths in lakes}
        self._logs = [logs[frames.paths] for frames in self._frames]

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """What all of them would take in memory."""
        return int(np.prod(self.shape))

    @property
    def used_memory(self) -> int:
        """Bytes of the packed change logs that are kept now."""
        return sum(logs.used for logs in {id(logs): logs for logs in self._logs}.values())

    def __repr__(self) -> str:
        return f"LazyObservations(shape={self.shape}, dtype={self.dtype})"

    def __getitem__(self, index: Any) -> npt.NDArray[np.uint8]:
        """By a number, a slice, a mask, or numbers in any order: uint8 (..., 1, 84, 84). Raises IndexError."""
        chosen = self._chosen(index)
        flat, back = np.unique(chosen.reshape(-1), return_inverse=True)
        images = self.images_at(flat)
        return images[back].reshape(*chosen.shape, *self.shape[1:])

    def _chosen(self, index: Any) -> npt.NDArray[np.int64]:
        """The indices that are meant. Never a list of all, which would take longer than to make what is wanted."""
        n = len(self)
        if isinstance(index, slice):
            return np.arange(*index.indices(n))
        chosen = np.asarray(index)
        if chosen.dtype == np.bool_ and chosen.shape == (n,):
            return np.flatnonzero(chosen)
        if isinstance(index, tuple) or (chosen.size and chosen.dtype.kind not in "iu"):
            raise IndexError(f"observations are indexed by whole numbers, a slice, or a mask of {n}, not by {index!r}")
        chosen = chosen.astype(np.int64)
        if chosen.size and not (chosen.min() >= -n and chosen.max() < n):
            raise IndexError(f"indices are {-n} to {n - 1}")
        return np.where(chosen < 0, chosen + n, chosen)

    def stacks(self, indices: npt.ArrayLike, n_frames: int) -> npt.NDArray[np.uint8]:
        """Each index with the ``n_frames - 1`` before it in its segment, oldest first: uint8 (k, n_frames, 84, 84).

        Zeros where the segment had not begun.
        """
        last = np.asarray(indices, np.int64)
        if last.size and not (last.min() >= 0 and last.max() < len(self)):
            raise IndexError(f"indices are 0 to {len(self) - 1}")
        starts = self._starts[np.searchsorted(self.ends, last, side="right")]
        return stacked(self.images_at, last, starts, n_frames, self.shape[2:])

    def images_at(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """At unique ascending indices: uint8 (k, 84, 84). What an index array gives, with nothing to sort out."""
        images = np.empty((len(indices), *self.shape[2:]), np.uint8)
        for segment, start, stop in self._runs(indices):
            episode = self._frames_of[segment]
            source = PackedLog(self._logs[episode], self._frames[episode])
            steps = self._steps[indices[start:stop]].astype(np.int64)
            images[start:stop] = processed_screens(source, steps, self._parameters)
        return images

    def _runs(self, indices: npt.NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
        """(segment, start, stop) in ``indices`` of those that lie near each other in one segment."""
        if not len(indices):
            return
        segments = np.searchsorted(self.ends, indices, side="right")
        apart = (np.diff(segments) != 0) | (np.diff(self._steps[indices]) > _NEAR)
        edges = [0, *(np.flatnonzero(apart) + 1).tolist(), len(indices)]
        for start, stop in itertools.pairwise(edges):
            yield int(segments[start]), start, stop


def _frame_logs(selection: Selection) -> tuple[list[FrameLog], npt.NDArray[np.int32]]:
    """The logs of the selection's episodes, each once, and which of them each segment is of."""
    known: dict[int, int] = {}
    logs: list[FrameLog] = []
    index = np.empty(len(selection.segments), np.int32)
    for number, segment in enumerate(selection.segments):
        at = known.setdefault(id(segment.episode), len(logs))
        if at == len(logs):
            logs.append(segment.episode.frame_log(selection.conversion.agent))
        index[number] = at
    return logs, index
