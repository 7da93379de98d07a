"""Observations as CrowdPlay makes them (max, grey, warp, stack), computed when they are asked for.

The definition, for an emitted step i of an agent whose raw frame at step k is F[k] (black for k < 0):

1. max: M[k] = the pixel-wise maximum of F[k], F[k-1], … F[k-max_n+1], on RGB;
2. grey: OpenCV's fixed-point luma, (9798 R + 19235 G + 3735 B + 16384) >> 15;
3. warp: area averaging to warp_height x warp_width (see `warp`);
4. stack: stack_n of those, skip_n steps apart, oldest first, along the last axis or the first.

Source: CrowdPlay's MaxAndSkipAndWarpAndScaleAndStackFrameBuffer, met to the byte.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .errors import InvalidArgument, InvalidLake
from .pixels import DAMAGED, Bytes, ChangeLog, Screen
from .warp import warp_for

__all__ = [
    "ObservationParameters",
    "Observations",
    "ScreenLog",
    "emitted_steps",
    "luma",
    "maxed_screens",
    "processed_screens",
]

# Steps handled at a time by the plain path, which draws whole RGB frames (100 KB each).
PLAIN_BLOCK = 256
# Observations made at a time while iterating.
ITERATION_BLOCK = 512
# Indices of the axes of one observation that mean the same with and without the steps before them.
_BASIC = (int, np.integer, slice, type(Ellipsis))


class ScreenLog(Protocol):
    """Where an agent's screens come from: the lake's frames table, or anything else that holds a change log."""

    @property
    def screen(self) -> Screen:
        """Shape and palette."""

    def __len__(self) -> int:
        """Steps of the episode."""

    def log(self, first_step: int, last_step: int) -> ChangeLog:
        """Rows from the last keyframe at or before ``first_step`` to ``last_step`` or beyond."""

    def stretches(self, first_step: int, last_step: int) -> Iterable[tuple[int, int]]:
        """These steps in pieces, (first, last) of each, as it is best to ask `log` for them one after the other."""


@dataclass(frozen=True, slots=True)
class ObservationParameters:
    """What CrowdPlay's frame buffer can be told, with its names and defaults."""

    framestack_axis_first: bool = False
    max_n: int = 2
    skip_n: int = 4
    stack_n: int = 4
    warp: bool = True
    scale: bool = False
    warp_width: int = 84
    warp_height: int = 84

    def __post_init__(self) -> None:
        for name in ("max_n", "skip_n", "stack_n", "warp_width", "warp_height"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise InvalidArgument(f"{name} must be a whole number of at least 1, not {value!r}")

    @property
    def lookback(self) -> int:
        """Steps before an emitted one that its observation shows."""
        return (self.stack_n - 1) * self.skip_n + self.max_n - 1

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of an observation: uint8, or float32 in [0, 1] with scale."""
        return np.dtype(np.float32 if self.scale else np.uint8)

    def shape(self, frame_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of one observation of raw frames of ``frame_shape``. Raises InvalidArgument where they are not RGB."""
        if not (len(frame_shape) == 3 and frame_shape[2] == 3):
            raise InvalidArgument(
                f"frames of shape {frame_shape} are processed already (an AI roll-out): "
                "take them from get_raw_trajectory()"
            )
        image = (self.warp_height, self.warp_width) if self.warp else frame_shape[:2]
        channels = self.stack_n if self.warp else 3 * self.stack_n
        return (channels, *image) if self.framestack_axis_first else (*image, channels)


def emitted_steps(n_steps: int, frequency: int = 1, offset: int = 0, final_step: bool = True) -> npt.NDArray[np.int64]:
    """The steps a processed trajectory holds, ascending.

    Those with ``i % frequency == offset``, and the last step of the episode. ``final_step=False`` leaves the last step
    out where CrowdPlay does: its condition for it only ever holds in episodes of at most ``frequency`` steps.
    """
    for name, value in (("downsample_frequency", frequency), ("downsample_offset", offset)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise InvalidArgument(f"{name} must be a whole number, not {value!r}")
    if frequency < 1:
        raise InvalidArgument(f"downsample_frequency must be at least 1, not {frequency}")
    if not 0 <= offset < frequency:
        raise InvalidArgument(f"downsample_offset must be 0 to {frequency - 1}, not {offset}: no step would qualify")
    steps = np.arange(offset, n_steps, frequency, dtype=np.int64)
    last = n_steps - 1
    wants_last = final_step or n_steps <= frequency
    if wants_last and n_steps and (len(steps) == 0 or steps[-1] != last):
        steps = np.append(steps, last)
    return steps


def luma(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """OpenCV's grey of RGB (…, 3), uint8 (…)."""
    channels = rgb.astype(np.int32)
    weighted = 9798 * channels[..., 0] + 19235 * channels[..., 1] + 3735 * channels[..., 2]
    return ((weighted + 16384) >> 15).astype(np.uint8)


class Observations:
    """An array of observations that are computed when indexed: ``[i]``, slices, index arrays, iteration, np.asarray.

    ``shape`` (n, 84, 84, 4) by default, (n, 4, 84, 84) with framestack_axis_first; without warp the RGB frames are
    stacked on the last axis, (n, 210, 160, 12). ``dtype`` uint8, or float32 in [0, 1] with scale.

    >>> observations = episode.observations(stack_n=4, downsample_frequency=4)   # doctest: +SKIP
    >>> observations.shape, observations[10].shape                               # doctest: +SKIP
    ((175, 84, 84, 4), (84, 84, 4))
    """

    def __init__(self, source: ScreenLog, steps: npt.NDArray[np.int64], parameters: ObservationParameters) -> None:
        screen = source.screen
        self.shape: tuple[int, ...] = (len(steps), *parameters.shape(screen.shape))
        self.dtype: np.dtype[Any] = parameters.dtype
        self._source = source
        self._steps = steps
        self._parameters = parameters
        if parameters.warp:
            # Refuses an enlargement here, before anything is computed.
            warp_for(screen.shape[:2], (parameters.warp_height, parameters.warp_width))

    @property
    def steps(self) -> npt.NDArray[np.int64]:
        """The step of the episode each observation belongs to, int64 (n,)."""
        return self._steps

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """What ``np.asarray`` of it would show; a stack of every step is a view and takes a fraction."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"Observations(shape={self.shape}, dtype={self.dtype})"

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        head, *rest = (index or (slice(None),)) if isinstance(index, tuple) else (index,)
        if head is None or head is Ellipsis or not all(isinstance(part, _BASIC) for part in rest):
            # What does not choose steps first, or several axes at once: only the whole array knows.
            return np.asarray(self)[index]  # type: ignore[no-any-return]
        chosen = self._steps[head]
        computed = self._compute(chosen.reshape(-1)).reshape(chosen.shape + self.shape[1:])
        return computed[(slice(None),) * chosen.ndim + tuple(rest)] if rest else computed

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        for start in range(0, len(self), ITERATION_BLOCK):
            yield from self[start : start + ITERATION_BLOCK]

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("observations are computed: there is no array to share, use copy=None")
        array = self._compute(self._steps)
        if copy and not array.flags.writeable:
            array = array.copy()
        return array if dtype is None else array.astype(dtype, copy=False)

    def _compute(self, steps: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        if len(steps) == 0:
            return np.empty((0, *self.shape[1:]), self.dtype)
        ascending, order = np.unique(steps, return_inverse=True)
        stacked: npt.NDArray[Any] = self._stack(ascending)
        if len(ascending) != len(steps) or (np.diff(steps) < 0).any():
            stacked = stacked[order]
        if self._parameters.scale:
            stacked = stacked.astype(np.float32) / np.float32(255.0)
        return np.moveaxis(stacked, -1, 1) if self._parameters.framestack_axis_first else stacked

    def _stack(self, steps: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Stacked on the last axis; ``steps`` unique and ascending."""
        p = self._parameters
        offsets = np.arange(p.stack_n - 1, -1, -1, dtype=np.int64) * p.skip_n
        wanted = steps[:, None] - offsets  # (n, stack_n)
        if len(steps) > 1 and (np.diff(steps) == 1).all():
            # A run of single steps: the stack is a strided view of the padded array, and costs no memory.
            images = processed_screens(self._source, np.arange(wanted[0, 0], steps[-1] + 1), p)
            strides = (images.strides[0], *images.strides[1:], images.strides[0] * p.skip_n)
            shape = (len(steps), *images.shape[1:], p.stack_n)
            view = np.lib.stride_tricks.as_strided(images, shape, strides, writeable=False)
            return view if p.warp else _colors_last(view)
        unique, inverse = np.unique(wanted, return_inverse=True)
        images = processed_screens(self._source, unique, p)
        if p.stack_n == 1:
            return images[..., None] if p.warp else images
        stacked = np.moveaxis(images[inverse.reshape(wanted.shape)], 1, -1)
        return stacked if p.warp else _colors_last(stacked)


def processed_screens(
    source: ScreenLog, steps: npt.NDArray[np.int64], parameters: ObservationParameters
) -> npt.NDArray[np.uint8]:
    """What observations are stacked from: the maxed, grey, warped screens at unique ascending ``steps``.

    uint8 (n, warp_height, warp_width), without warp the maxed RGB frames (n, h, w, 3); black before step 0.
    """
    p = parameters
    screen = source.screen
    before = int(np.searchsorted(steps, 0))
    image = (p.warp_height, p.warp_width) if p.warp else (*screen.shape[:2], 3)
    images = np.empty((len(steps), *image), np.uint8)
    images[:before] = 0
    wanted = steps[before:]
    if len(wanted) == 0:
        return images
    first, last = max(0, int(wanted[0]) - (p.max_n - 1)), int(wanted[-1])
    warp = warp_for(screen.shape[:2], image) if p.warp else None
    if warp is not None and p.max_n <= 2 and warp.factors is None:
        from .warp_kernel import Processor

        process = Processor(_grey_of_max(screen.palette.tobytes(), p.max_n), warp, images[before:])
        needed = np.zeros(last + 1 - first, np.bool_)
        needed[wanted - first] = True
        # Piece by piece: what is decompressed is still in the processor's caches when it is drawn.
        for start, stop in source.stretches(first, last):
            # To replay what lies before costs a fraction of processing it.
            log = source.log(start, stop).within(start, stop, screen.pixels)
            if not process(log, needed[start - first : stop + 1 - first]):
                raise InvalidLake(DAMAGED)
        return images
    log = source.log(first, last).within(first, last, screen.pixels)
    for start in range(0, len(wanted), PLAIN_BLOCK):
        block = wanted[start : start + PLAIN_BLOCK]
        maximum = maxed_screens(log, screen, block, p.max_n)
        images[before + start : before + start + len(block)] = maximum if warp is None else warp.apply(luma(maximum))
    return images


@functools.lru_cache(maxsize=64)
def _grey_of_max(colors: bytes, max_n: int) -> Bytes:
    palette = np.frombuffer(colors, np.uint8).reshape(-1, 3)
    if max_n == 1:
        return np.repeat(luma(palette)[:, None], len(palette), axis=1)
    return luma(np.maximum(palette[:, None], palette[None, :]))


def maxed_screens(log: ChangeLog, screen: Screen, steps: npt.NDArray[np.int64], max_n: int) -> npt.NDArray[np.uint8]:
    """The definition, step by step over drawn frames."""
    shown = np.unique(np.clip(steps[:, None] - np.arange(max_n), 0, None))
    frames = screen.draw(log.decode(shown, screen.pixels))
    maximum = frames[np.searchsorted(shown, steps)].copy()
    for back in range(1, max_n):
        exists = steps - back >= 0
        earlier = frames[np.searchsorted(shown, steps[exists] - back)]
        maximum[exists] = np.maximum(maximum[exists], earlier)
    return maximum


def _colors_last(stacked: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """(n, h, w, 3, stack) to (n, h, w, stack * 3): one RGB frame after the other."""
    frames = np.moveaxis(stacked, -1, -2)
    return frames.reshape(*frames.shape[:3], -1)
