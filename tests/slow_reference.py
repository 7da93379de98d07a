"""CrowdPlay's preprocessing over raw step dicts, written down from its definition: slow, obvious, with OpenCV.

Nothing here knows of the lake; the tests hold the lake's observations against it, byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np


class Processed(NamedTuple):
    observations: np.ndarray
    actions: list[int]
    rewards: list[float]
    terminals: list[int]


class SlowReference:
    """One agent of one raw trajectory."""

    def __init__(self, trajectory: Sequence[Mapping[str, Any]], agent: str) -> None:
        self._frames = [step["prev_obs"][agent]["image"] for step in trajectory]
        self._actions = [int(step["action"][agent]["game"]) for step in trajectory]
        self._rewards = [float(step["reward"][agent]) for step in trajectory]
        self._done = [int(step["done"][agent]) for step in trajectory]
        self._images: dict[tuple[Any, ...], np.ndarray] = {}

    def process(
        self,
        framestack_axis_first: bool = False,
        downsample_frequency: int = 1,
        downsample_offset: int = 0,
        max_n: int = 2,
        skip_n: int = 4,
        stack_n: int = 4,
        warp: bool = True,
        scale: bool = False,
        warp_width: int = 84,
        warp_height: int = 84,
    ) -> Processed:
        """What CrowdPlay returns, its faulty condition for the last step included."""
        size = (warp_width, warp_height) if warp else None
        n_steps = len(self._frames)
        result = Processed(np.empty(0), [], [], [])
        observations = []
        reward = 0.0
        for i in range(n_steps):
            reward += self._rewards[i]
            phase = i % downsample_frequency
            # CrowdPlay means "i is the last step" by the second condition, and compares the phase with it.
            if phase != downsample_offset and phase != n_steps - 1:
                continue
            shown = [self._image(i - back * skip_n, max_n, size) for back in reversed(range(stack_n))]
            observation = np.concatenate(shown, axis=-1)
            if scale:
                observation = observation.astype(np.float32) / 255.0
            observations.append(np.moveaxis(observation, 2, 0) if framestack_axis_first else observation)
            result.actions.append(self._actions[i])
            result.rewards.append(reward)
            result.terminals.append(self._done[i])
            reward = 0.0
        return result._replace(observations=np.array(observations))

    def _image(self, k: int, max_n: int, size: tuple[int, int] | None) -> np.ndarray:
        """(height, width, 1) of step k, or without a ``size`` (height, width, 3)."""
        key = (k, max_n, size)
        if key not in self._images:
            maximum = np.maximum.reduce([self._frame(k - back) for back in range(max_n)])
            if size is not None:
                grey = cv2.cvtColor(maximum, cv2.COLOR_RGB2GRAY)
                maximum = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)[:, :, None]
            self._images[key] = maximum
        return self._images[key]

    def _frame(self, k: int) -> np.ndarray:
        return self._frames[k] if k >= 0 else np.zeros_like(self._frames[0])
