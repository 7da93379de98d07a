"""All observations of a selection, in order, some at a time: here, or by an executor."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..executors import in_order
from ..frame_log import FrameLog
from ..observations import ObservationParameters, processed_screens
from .selection import Selection

__all__ = ["RUN", "Run", "make", "runs", "stream"]

# Observations that are made at a time: 7 MB of 84 x 84.
RUN = 1024
# Runs that an executor makes ahead of the one that is wanted next.
_AHEAD = 32


class Run(NamedTuple):
    """Successive steps of one episode. What a worker is sent: it needs no open lake."""

    frames: FrameLog
    steps: npt.NDArray[np.int64]


def runs(selection: Selection, first: int = 0) -> Iterator[Run]:
    """The steps of a selection, from the one with index ``first`` on."""
    agent = selection.conversion.agent
    number, skip = selection.locate(first) if first < len(selection) else (len(selection.segments), 0)
    for segment in selection.segments[number:]:
        frames = segment.episode.frame_log(agent)
        for start in range(skip, len(segment), RUN):
            yield Run(frames, segment.steps[start : start + RUN])
        skip = 0


def make(parameters: ObservationParameters, run: Run) -> npt.NDArray[np.uint8]:
    """The screens of a run: uint8 (steps, warp_height, warp_width)."""
    return processed_screens(run.frames, run.steps, parameters)


def stream(
    selection: Selection, parameters: ObservationParameters, executor: Executor | None, first: int = 0
) -> Iterator[npt.NDArray[np.uint8]]:
    """The observations from index ``first`` on, some at a time: uint8 (k, 1, warp_height, warp_width).

    ``parameters`` of one screen an observation. Raises WorkersLost where the executor loses one.
    """
    made = in_order(partial(make, parameters), runs(selection, first), executor, _AHEAD, "made observations")
    for _, images in made:
        yield images[:, None]
