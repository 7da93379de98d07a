"""The change log of a screen: one byte a pixel through the episode's palette, and only the pixels that changed.

Row k of a log is either a **keyframe** (`colors` holds every pixel, `gaps` is empty) or the **changes** since row k-1:
`gaps` are little-endian uint16, the first one the position of the first changed pixel (row-major), each further one
the distance from the changed pixel before; `colors` holds the new palette index of each. A row without changes is
empty. Lossless for up to 256 colours and 65,536 pixels; an Atari 2600 frame has at most 128 colours.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .errors import InvalidArgument, InvalidLake, UnsupportedTrajectory

__all__ = ["KEYFRAME_INTERVAL", "ChangeLog", "Screen", "ScreenEncoder", "change_log", "screens_of"]

KEYFRAME_INTERVAL = 256
MAX_COLORS = 256
MAX_PIXELS = 65_536
DAMAGED = "a change log draws beyond its screen or palette: its part is damaged, ingest the episode again"

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Screen:
    """What the rows of an episode's change logs draw: the frame's shape and its colours.

    ``shape``: of a raw frame, (height, width, 3) for RGB, or without a colour axis for the grey frames of AI roll-outs.
    ``palette``: uint8 (colours, 3) or (colours, 1).
    """

    shape: tuple[int, ...]
    palette: Bytes  # (colours, channels)

    @property
    def is_rgb(self) -> bool:
        return len(self.shape) == 3 and self.shape[2] == 3

    @property
    def pixels(self) -> int:
        """Pixels of one frame."""
        return int(np.prod(self.shape) // self.palette.shape[1])

    def draw(self, indices: Bytes) -> Bytes:
        """Palette indices (n, pixels) to frames (n, *shape)."""
        if indices.size and int(indices.max()) >= len(self.palette):
            raise InvalidLake(DAMAGED)
        frames: Bytes = np.take(self.palette, indices, axis=0).reshape(len(indices), *self.shape)
        return frames


@dataclass(frozen=True, slots=True)
class ChangeLog:
    """Rows ``first_step`` … of one screen's log, as flat arrays; the first row is a keyframe."""

    first_step: int
    keyframe: npt.NDArray[np.bool_]  # (n,)
    gap_ends: npt.NDArray[np.int64]  # (n + 1,) into gaps
    gaps: npt.NDArray[np.uint16]
    color_ends: npt.NDArray[np.int64]  # (n + 1,) into colors
    colors: Bytes

    def __len__(self) -> int:
        return len(self.keyframe)

    def __repr__(self) -> str:
        return f"ChangeLog(first_step={self.first_step}, rows={len(self)}, changes={len(self.gaps)})"

    def decode(self, steps: npt.ArrayLike, pixels: int) -> Bytes:
        """The screens at ``steps`` (ascending), as palette indices, uint8 (len(steps), pixels)."""
        wanted = np.asarray(steps, dtype=np.int64) - self.first_step
        if len(wanted) and (wanted[0] < 0 or wanted[-1] >= len(self) or (np.diff(wanted) < 0).any()):
            raise InvalidArgument(f"steps must ascend within {self.first_step}..{self.first_step + len(self) - 1}")
        screens = np.empty((len(wanted), pixels), np.uint8)
        from .kernel import decode

        if not decode(self.keyframe, self.gap_ends, self.gaps, self.color_ends, self.colors, wanted, screens):
            raise InvalidLake(DAMAGED)
        return screens

    def within(self, first_step: int, last_step: int, pixels: int) -> ChangeLog:
        """The rows of those steps only. The first one is a keyframe: drawn, where it was none."""
        start, stop = first_step - self.first_step, last_step + 1 - self.first_step
        if start == 0 and stop == len(self):
            return self
        gaps = self.gaps[self.gap_ends[start] : self.gap_ends[stop]]
        gap_ends = self.gap_ends[start : stop + 1] - self.gap_ends[start]
        color_ends = self.color_ends[start : stop + 1] - self.color_ends[start]
        colors = self.colors[self.color_ends[start] : self.color_ends[stop]]
        if self.keyframe[start]:
            return ChangeLog(first_step, self.keyframe[start:stop], gap_ends, gaps, color_ends, colors)
        screen = self.decode([first_step], pixels)[0]
        keyframe = self.keyframe[start:stop].copy()
        keyframe[0] = True
        # In the place of the first row's changes.
        colors = np.concatenate([screen, colors[color_ends[1] :]])
        color_ends[1:] += pixels - color_ends[1]
        gaps = gaps[gap_ends[1] :]
        gap_ends[1:] -= gap_ends[1]
        return ChangeLog(first_step, keyframe, gap_ends, gaps, color_ends, colors)


def change_log(first_step: int, rows: pa.Table) -> ChangeLog:
    """The change log in rows of `frames`, the first of which is a keyframe."""
    gap_ends, gaps = _flat(rows["gaps"])
    color_ends, colors = _flat(rows["colors"])
    return ChangeLog(first_step, rows["keyframe"].to_numpy(), gap_ends // 2, gaps.view("<u2"), color_ends, colors)


def _flat(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.int64], Bytes]:
    """(n + 1 ends, bytes) of a binary column, without a copy where it is one chunk."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    _, ends_buffer, data = array.buffers()
    width = np.int64 if pa.types.is_large_binary(array.type) else np.int32
    ends = np.frombuffer(ends_buffer, width)[array.offset : array.offset + len(array) + 1].astype(np.int64)
    flat = np.frombuffer(data if data is not None else b"", np.uint8)
    return ends - ends[0], flat[ends[0] : ends[-1]]


def screens_of(row: Mapping[str, Any]) -> list[Screen]:
    """The screens of an episode, by its row of `episodes`: one for each of its screen agents."""
    shape = tuple(row["frame_shape"])
    channels = 3 if len(shape) == 3 and shape[2] == 3 else 1
    return [Screen(shape, np.frombuffer(palette, np.uint8).reshape(-1, channels)) for palette in row["palettes"]]


class ScreenEncoder:
    """Frames in, change-log rows out. Keeps the last frame only, whatever the episode's length.

    A palette grows as colours appear, in their order of appearance, and is whole once the last frame is in.
    """

    def __init__(self, shape: tuple[int, ...], keyframe_interval: int = KEYFRAME_INTERVAL) -> None:
        self.shape = shape
        self.channels = 3 if len(shape) == 3 and shape[2] == 3 else 1
        size = int(np.prod(shape)) if shape else 0
        self.pixels = size // self.channels
        if len(shape) < 2 or not 0 < self.pixels <= MAX_PIXELS:
            raise UnsupportedTrajectory(
                f"a frame of shape {shape} is not an Atari frame: RGB or grey, 1 to {MAX_PIXELS:,} pixels"
            )
        self.keyframe_interval = keyframe_interval
        self.rows = 0
        self._previous: Bytes | None = None  # the last frame, flat, three bytes a pixel
        self._screen = np.zeros(self.pixels, np.uint8)
        self._slots = np.full(1024, -1, np.int16)
        self._palette_keys = np.zeros(MAX_COLORS, np.int64)
        self._n_colors = 0
        self._gaps = np.empty(self.pixels, "<u2")
        self._colors = np.empty(self.pixels, np.uint8)

    @property
    def palette(self) -> Bytes:
        """uint8 (colours so far, channels)."""
        keys = self._palette_keys[: self._n_colors]
        rgb = np.stack([keys >> 16 & 255, keys >> 8 & 255, keys & 255], axis=1).astype(np.uint8)
        return rgb[:, : self.channels]

    @property
    def at_keyframe(self) -> bool:
        """Whether the next row will be a keyframe."""
        return self.rows % self.keyframe_interval == 0

    @property
    def until_keyframe(self) -> int:
        """How many rows come before the next keyframe."""
        return -self.rows % self.keyframe_interval

    def fork(self) -> ScreenEncoder:
        """An encoder in the same state, for an agent whose screen differs from here on."""
        other = ScreenEncoder(self.shape, self.keyframe_interval)
        other.rows = self.rows
        other._n_colors = self._n_colors
        other._previous = self._previous
        for name in ("_screen", "_slots", "_palette_keys"):
            getattr(other, name)[:] = getattr(self, name)
        return other

    def add(self, frame: Bytes) -> tuple[bool, bytes, bytes]:
        """The row of the next frame: (is a keyframe, gaps, colors). A read-only frame must not change until the next.

        Raises UnsupportedTrajectory for another shape or dtype than the first frame's, or a 257th colour.
        """
        if frame.shape != self.shape or frame.dtype != np.uint8:
            raise UnsupportedTrajectory(
                f"the frame is {frame.dtype} {frame.shape}, the episode began with uint8 {self.shape}"
            )
        flat = self._flat(frame)
        is_keyframe = self.at_keyframe
        # Nothing is "unchanged" yet: differ from the first frame in every pixel.
        previous = np.invert(flat) if self._previous is None else self._previous
        n_changes, self._n_colors = _encode()(
            flat, previous, self._slots, self._palette_keys, self._n_colors, self._screen, self._gaps, self._colors
        )
        if n_changes < 0:
            raise UnsupportedTrajectory(f"the frames have more than {MAX_COLORS} colours: not an Atari screen")
        self._previous = flat
        self.rows += 1
        if is_keyframe:
            return True, b"", self._screen.tobytes()
        return False, self._gaps[:n_changes].tobytes(), self._colors[:n_changes].tobytes()

    def add_many(self, data: Bytes, starts: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], bytes, bytes] | None:
        """The rows of the next RGB frames, which begin at ``starts`` in ``data``; none of them may be a keyframe.

        Returns (where each row ends in colors, gaps, colors), or None, and has added none, where the frames have more
        colours than a palette.
        """
        from .kernel import encode_many

        previous = self._previous
        if previous is None or len(starts) > self.until_keyframe:
            raise InvalidArgument("there is a keyframe among these rows: add it by itself")
        kept = self._screen.copy(), self._slots.copy(), self._palette_keys.copy()
        size = 3 * self.pixels
        ends = np.empty(len(starts), np.int64)
        gaps = np.empty(len(starts) * self.pixels, "<u2")
        colors = np.empty(len(starts) * self.pixels, np.uint8)
        n_colors = encode_many(
            data, starts, np.array(previous), self._slots, self._palette_keys, self._n_colors, self._screen,
            gaps, colors, ends
        )  # fmt: skip
        if n_colors < 0:
            self._screen, self._slots, self._palette_keys = kept
            return None
        self._n_colors = n_colors
        self._previous = data[starts[-1] : starts[-1] + size].copy()
        self.rows += len(starts)
        return ends, gaps[: ends[-1]].tobytes(), colors[: ends[-1]].tobytes()

    def _flat(self, frame: Bytes) -> Bytes:
        """The frame's bytes, three a pixel, in an array that nobody changes."""
        flat = frame.reshape(-1)
        if self.channels == 1:
            return np.repeat(flat, 3)
        # What the machine makes is read-only, and needs no copy.
        return np.array(flat) if frame.flags.writeable else flat


@functools.cache
def _encode() -> Callable[..., tuple[int, int]]:
    from .kernel import encode

    kernel: Callable[..., tuple[int, int]] = encode
    return kernel
