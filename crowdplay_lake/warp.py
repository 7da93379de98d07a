"""Shrinking a grey screen by area averaging, to the byte as OpenCV's INTER_AREA does it.

scikit-image *defines* the operator: `resize_local_mean` applied to an identity matrix gives its weights, and as float32
they equal OpenCV's. OpenCV *fixes* the arithmetic: float32 sums, along the rows first and then down the columns,
rounded half to even; where both factors are whole numbers, a sum of integers and one rounding instead.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from .errors import InvalidArgument

__all__ = ["AreaWeights", "Warp", "warp_for"]

# OpenCV leaves out a source pixel of which less than this share is covered.
LEAST_COVERAGE = 1e-3


@dataclass(frozen=True, slots=True)
class AreaWeights:
    """One axis of the operator: output ``d`` sums ``weights[d, j] * source[first[d] + j]`` over j, in order."""

    first: npt.NDArray[np.int64]  # (outputs,)
    weights: npt.NDArray[np.float32]  # (outputs, taps), zero beyond an output's last source
    touched_by: npt.NDArray[np.int64]  # (sources, 2): the first and one past the last output that a source feeds


@dataclass(frozen=True, slots=True)
class Warp:
    """How a screen of ``source`` becomes one of ``target``, both (height, width)."""

    source: tuple[int, int]
    target: tuple[int, int]
    columns: AreaWeights
    rows: AreaWeights

    @property
    def factors(self) -> tuple[int, int] | None:
        """(vertical, horizontal) where both are whole numbers, OpenCV's other arithmetic; else None."""
        (height, width), (out_height, out_width) = self.source, self.target
        if not (_is_whole(height, out_height) and _is_whole(width, out_width)):
            return None
        return height // out_height, width // out_width

    def apply(self, grey: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Grey screens (n, *source) to (n, *target): the plain way, whole screens at a time."""
        if self.factors is not None:
            return _whole_factors(grey, *self.factors)
        averaged = _weighted_sum(grey.astype(np.float32), self.columns, axis=2)
        summed = _weighted_sum(averaged, self.rows, axis=1)
        return _to_bytes(summed)


def _is_whole(source: int, target: int) -> bool:
    """Whether OpenCV sees a whole factor: it divides twice in floating point, and 1 / (1 / 210) is not 210."""
    factor = 1.0 / (target / source)
    return abs(factor - round(factor)) < sys.float_info.epsilon


def _weighted_sum(values: npt.NDArray[np.float32], axis_weights: AreaWeights, axis: int) -> npt.NDArray[np.float32]:
    last = values.shape[axis] - 1
    shape = [1, 1, 1]
    shape[axis] = -1
    total: npt.NDArray[np.float32] | None = None
    for tap in range(axis_weights.weights.shape[1]):
        source = np.minimum(axis_weights.first + tap, last)
        term = np.take(values, source, axis=axis) * axis_weights.weights[:, tap].reshape(shape)
        total = term if total is None else total + term
    if total is None:
        raise InvalidArgument("an axis without weights")
    return total


def _whole_factors(grey: npt.NDArray[np.uint8], vertical: int, horizontal: int) -> npt.NDArray[np.uint8]:
    n, height, width = grey.shape
    blocks = grey.reshape(n, height // vertical, vertical, width // horizontal, horizontal)
    sums = blocks.sum(axis=(2, 4), dtype=np.int64)
    if (vertical, horizontal) == (2, 2):
        means: npt.NDArray[np.uint8] = ((sums + 2) >> 2).astype(np.uint8)
        return means
    scale = np.float32(1.0 / (vertical * horizontal))
    return _to_bytes(sums.astype(np.float32) * scale)


def _to_bytes(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Rounded half to even, as OpenCV rounds."""
    rounded: npt.NDArray[np.uint8] = np.rint(values).clip(0, 255).astype(np.uint8)
    return rounded


def _area_weights(sources: int, outputs: int) -> AreaWeights:
    from skimage.transform import resize_local_mean

    exact = resize_local_mean(np.eye(sources), (outputs, sources))
    exact[exact * (sources / outputs) <= LEAST_COVERAGE] = 0.0
    feeds = exact > 0
    first = feeds.argmax(axis=1)
    taps = int(feeds.sum(axis=1).max())
    weights = np.zeros((outputs, taps), np.float32)
    for output in range(outputs):
        row = exact[output, first[output] : first[output] + taps]
        weights[output, : len(row)] = row
    touched = np.stack([feeds.argmax(axis=0), outputs - feeds[::-1].argmax(axis=0)], axis=1)
    touched[~feeds.any(axis=0)] = 0
    return AreaWeights(first.astype(np.int64), weights, touched.astype(np.int64))


@lru_cache(maxsize=32)
def warp_for(source: tuple[int, int], target: tuple[int, int]) -> Warp:
    """The operator from ``source`` to ``target`` (height, width).

    Raises InvalidArgument for enlarging, which OpenCV does by interpolation and this software does not do.
    """
    for name, have, want in zip(("warp_height", "warp_width"), source, target, strict=True):
        if not 1 <= want <= have:
            raise InvalidArgument(f"{name}={want} would enlarge the screen: it has {have} pixels, ask for 1 to {have}")
    return Warp(source, target, _area_weights(source[1], target[1]), _area_weights(source[0], target[0]))
