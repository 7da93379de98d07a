"""Shrinking a grey screen by area averaging, to the byte as OpenCV's INTER_AREA does it.

scikit-image *defines* the operator: `resize_local_mean` applied to an identity matrix gives its weights, and as float32
they equal OpenCV's. OpenCV *fixes* the arithmetic: float32 sums, along the rows first and then down the columns,
rounded half to even; where both factors are whole numbers, a sum of integers and one rounding instead.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

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
    # The same in whole numbers: source ``s`` is ``parts[s, j]`` of ``whole`` parts of output ``fed[s] + j``.
    fed: npt.NDArray[np.uint64]  # (sources,)
    parts: npt.NDArray[np.uint64]  # (sources, 2): where nothing is enlarged, a source feeds two outputs at most
    whole: int


@dataclass(frozen=True, slots=True)
class Warp:
    """How a screen of ``source`` becomes one of ``target``, both (height, width)."""

    source: tuple[int, int]
    target: tuple[int, int]
    columns: AreaWeights
    rows: AreaWeights
    packed: tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]  # see `_packed`
    doubtful: int  # see `_doubtful`

    @property
    def factors(self) -> tuple[int, int] | None:
        """(vertical, horizontal) where both are whole numbers, OpenCV's other arithmetic; else None."""
        (height, width), (out_height, out_width) = self.source, self.target
        if not (_is_whole(height, out_height) and _is_whole(width, out_width)):
            return None
        return height // out_height, width // out_width

    @property
    def whole(self) -> int:
        """Parts of an output pixel: its value, in whole numbers, is a sum of (parts x grey)."""
        return self.columns.whole * self.rows.whole

    @property
    def lane(self) -> np.dtype[Any]:
        """Of such a sum."""
        return _lane(self.whole)

    @property
    def words(self) -> int:
        """64-bit words of the sums of an output row, and one more."""
        return self.target[1] * self.lane.itemsize // 8 + 2

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
    # An output is sources/outputs of a source, so every share is a whole number of parts of the reduced numerator.
    whole = sources // math.gcd(sources, outputs)
    parts = np.zeros((sources, 2), np.uint64)
    fed = feeds.argmax(axis=0)
    for j in range(2):
        output = np.minimum(fed + j, outputs - 1)
        parts[:, j] = np.where(fed + j < outputs, np.rint(exact[output, np.arange(sources)] * whole), 0)
    return AreaWeights(first.astype(np.int64), weights, fed.astype(np.uint64), parts, whole)


def _lane(whole: int) -> np.dtype[Any]:
    return np.dtype(np.uint16 if 255 * whole < 1 << 16 else np.uint32)


def _packed(columns: AreaWeights, lane: np.dtype[Any]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """What a source column feeds, in words of several sums each: (the first word, the parts in it and in the next).

    Words can be added and multiplied as they are. A negative part borrows from its neighbours, and the whole sums,
    which are not negative and fit, are right again.
    """
    lanes = 8 // lane.itemsize
    sums = np.zeros((len(columns.fed), 2, lanes), lane)
    output = columns.fed.astype(np.int64)
    for j in range(2):
        place = output % lanes + j
        sums[np.arange(len(sums)), place // lanes, place % lanes] = columns.parts[:, j]
    return (output // lanes).astype(np.uint64), sums.view(np.uint64)[..., 0]


def _doubtful(columns: AreaWeights, rows: AreaWeights) -> int:
    """From which distance on, in halves of a part, a total in whole numbers is too far from its rounded value to prove
    that the float32 sums round to it too.

    They round each weight, product and sum by 2**-24 of its value at most, and no value is above 255. Whoever divides
    the total in float32 errs by less.
    """
    roundings: int = columns.weights.shape[1] + rows.weights.shape[1] + 4
    error = 1.01 * 255 * roundings / (1 << 24)
    return math.ceil(columns.whole * rows.whole * (1 - 2 * error))


@lru_cache(maxsize=32)
def warp_for(source: tuple[int, int], target: tuple[int, int]) -> Warp:
    """The operator from ``source`` to ``target`` (height, width).

    Raises InvalidArgument for enlarging, which OpenCV does by interpolation and this software does not do.
    """
    for name, have, want in zip(("warp_height", "warp_width"), source, target, strict=True):
        if not 1 <= want <= have:
            raise InvalidArgument(f"{name}={want} would enlarge the screen: it has {have} pixels, ask for 1 to {have}")
    columns, rows = _area_weights(source[1], target[1]), _area_weights(source[0], target[0])
    packed = _packed(columns, _lane(columns.whole * rows.whole))
    return Warp(source, target, columns, rows, packed, _doubtful(columns, rows))
