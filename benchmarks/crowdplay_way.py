"""CrowdPlay's way from a raw file to training arrays: decompress, unpickle, process frame by frame with OpenCV.

The yardstick of `benchmarks.reader`. It is the algorithm of CrowdPlay's reader, written anew: the whole trajectory is
held in memory, every frame goes into a ring of recent frames, and where a step is emitted the newest frames are taken
from the ring, maxed, made grey, shrunk and stacked.
"""

from __future__ import annotations

import bz2
import gzip

# Unpickling runs whatever code a file names, and the library never does it. Here it is what is being measured, and the
# files are recordings of the person's own.
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["Processed", "load", "process"]

WARPED = (84, 84)


class Processed(NamedTuple):
    """What CrowdPlay's reader returns: lists with an entry for each emitted step."""

    observations: list[npt.NDArray[np.uint8]]  # each (stack_n, 84, 84)
    actions: list[int]
    rewards: list[float]
    terminals: list[int]


class _FrameRing:
    """The most recent frames of an agent, newest at the pointer, black where nothing has been seen yet."""

    def __init__(self, shape: Sequence[int], max_n: int, skip_n: int, stack_n: int) -> None:
        self._max_n, self._skip_n, self._stack_n = max_n, skip_n, stack_n
        self._length = (stack_n - 1) * skip_n + max_n
        self._frames = np.zeros((self._length, *shape), np.uint8)
        self._newest = 0

    def push(self, frame: npt.NDArray[np.uint8]) -> None:
        # Backwards, so that going back in time is counting up.
        self._newest = (self._newest - 1) % self._length
        self._frames[self._newest] = frame

    def _image(self, steps_back: int) -> npt.NDArray[np.uint8]:
        """Max, grey and warp of the frames that end so many steps back: (84, 84, 1)."""
        first = self._newest + steps_back
        recent = self._frames.take(range(first, first + self._max_n), axis=0, mode="wrap")
        grey = cv2.cvtColor(recent.max(axis=0), cv2.COLOR_RGB2GRAY)
        image: npt.NDArray[np.uint8] = cv2.resize(grey, WARPED, interpolation=cv2.INTER_AREA)
        return image[:, :, None]

    def observation(self) -> npt.NDArray[np.uint8]:
        """The stack, oldest first: (84, 84, stack_n)."""
        back = [i * self._skip_n for i in reversed(range(self._stack_n))]
        return np.concatenate([self._image(steps) for steps in back], axis=-1)


def load(path: Path) -> list[dict[str, Any]]:
    """A raw trajectory in bz2, gzip or nothing, whole: about 100 KB of memory a step."""
    opener: Any = {".bz2": bz2.open, ".gz": gzip.open}.get(path.suffix, open)
    with opener(path, "rb") as file:
        trajectory: list[dict[str, Any]] = pickle.load(file)
    return trajectory


def process(trajectory: Sequence[dict[str, Any]], agent: str, downsample_frequency: int, stack_n: int) -> Processed:
    """The processed trajectory with the stack as the first axis. The last step is emitted where it fits only."""
    processed = Processed([], [], [], [])
    ring: _FrameRing | None = None
    reward = 0.0
    for number, step in enumerate(trajectory):
        frame = step["prev_obs"][agent]["image"]
        if ring is None:
            ring = _FrameRing(frame.shape, max_n=2, skip_n=4, stack_n=stack_n)
        ring.push(frame)
        reward += step["reward"][agent]
        if number % downsample_frequency == 0 or number % downsample_frequency == len(trajectory) - 1:
            processed.observations.append(np.moveaxis(ring.observation(), 2, 0))
            processed.actions.append(step["action"][agent]["game"])
            processed.rewards.append(reward)
            processed.terminals.append(int(step["done"][agent]))
            reward = 0.0
    return processed
