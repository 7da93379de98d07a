"""From raw frames to observations with OpenCV, the same for all ways that keep raw frames.

CrowdPlay's algorithm: maximum of two frames, grey, 84 x 84 by area. Each image is made once, though a stack of four
needs it four times; CrowdPlay makes it four times (`benchmarks.crowdplay_way`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["SKIP", "WARPED", "Arrays", "Bytes", "Steps", "arrays", "emitted", "stacks"]

Bytes = npt.NDArray[np.uint8]
Steps = npt.NDArray[np.int64]

WARPED = (84, 84)
SKIP = 4


class Arrays(NamedTuple):
    """What d3rlpy's dataset is made from."""

    observations: Bytes  # (m, stack_n, 84, 84)
    actions: npt.NDArray[np.int64]  # (m,)
    rewards: npt.NDArray[np.float64]  # (m,) since the step before
    terminals: npt.NDArray[np.int64]  # (m,)


def emitted(n: int, frequency: int) -> Steps:
    """The steps that CrowdPlay's reader emits; the last one only where its remainder happens to be n - 1."""
    steps = np.arange(n)
    chosen: Steps = steps[(steps % frequency == 0) | (steps % frequency == n - 1)]
    return chosen


def images(take: Callable[[Steps], Bytes], steps: Steps) -> Bytes:
    """The images of sorted steps: (len(steps), 84, 84). ``take`` gives the frames of sorted steps."""
    needed = np.union1d(steps, np.maximum(steps - 1, 0))
    frames = take(needed)
    made = np.empty((len(steps), *WARPED), np.uint8)
    for number, at in enumerate(np.searchsorted(needed, steps)):
        # Before the first step there is a black frame, which is never the greater one.
        newest = frames[at] if steps[number] == 0 else np.maximum(frames[at], frames[at - 1])
        grey = cv2.cvtColor(newest, cv2.COLOR_RGB2GRAY)
        made[number] = cv2.resize(grey, WARPED, interpolation=cv2.INTER_AREA)
    return made


def stacks(take: Callable[[Steps], Bytes], steps: Steps, stack_n: int) -> Bytes:
    """The stacks of sorted steps, oldest image first: (len(steps), stack_n, 84, 84)."""
    wanted = steps[:, None] - SKIP * np.arange(stack_n)[::-1]  # (len(steps), stack_n)
    needed = np.unique(wanted[wanted >= 0])
    made = images(take, needed)
    stacked: Bytes = made[np.searchsorted(needed, np.maximum(wanted, 0))]
    stacked[wanted < 0] = 0
    return stacked


def arrays(
    observations: Bytes,
    steps: Steps,
    actions: npt.NDArray[np.int64],
    rewards: npt.NDArray[np.float64],
    dones: npt.NDArray[np.bool_],
) -> Arrays:
    """With the columns of all steps, of which ``steps`` are emitted."""
    starts = np.concatenate([[0], steps[:-1] + 1])
    summed = np.add.reduceat(rewards[: steps[-1] + 1], starts)
    return Arrays(observations, actions[steps], summed, dones[steps].astype(np.int64))
