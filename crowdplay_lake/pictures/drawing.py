"""Pictures from arrays: enlarging without blurring, plain text, PNG."""

from __future__ import annotations

import functools
import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from ..errors import InvalidArgument
from ..pixels import Screen

__all__ = ["BACKGROUND", "FAINT", "GAP", "TEXT", "enlarged", "flat_shape", "font", "png_of", "rgb_of", "text_mask"]

Bytes = npt.NDArray[np.uint8]

BACKGROUND = (24, 24, 24)
TEXT = (240, 240, 240)
FAINT = (150, 150, 150)
GAP = 8  # pixels between pictures


def flat_shape(screen: Screen) -> tuple[int, int]:
    """Height and width of a screen's frames. Raises InvalidArgument where a frame is no single picture."""
    shape = screen.shape[:2] if screen.is_rgb else tuple(size for size in screen.shape if size != 1)
    if len(shape) != 2:
        raise InvalidArgument(f"frames of shape {screen.shape} are no single picture")
    return shape[0], shape[1]


def rgb_of(frame: Bytes) -> Bytes:
    """A frame as RGB, uint8 (height, width, 3): RGB itself, or grey with axes of 1."""
    if frame.ndim == 3 and frame.shape[2] == 3:
        return frame
    grey = np.squeeze(frame)
    if grey.ndim != 2:
        raise InvalidArgument(f"a frame of shape {frame.shape} is no single picture")
    return np.repeat(grey[..., None], 3, axis=2)


def enlarged(pixels: Bytes, factor: int) -> Bytes:
    """(height, width, …), each pixel as a square of ``factor`` times ``factor``."""
    return pixels if factor == 1 else pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def png_of(pixels: Bytes) -> bytes:
    """RGB (height, width, 3) as PNG: with a palette where that holds its colours, in a third of the bytes."""
    keys = pixels.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    colors, indices = np.unique(keys, return_inverse=True)
    if len(colors) <= 256:
        image = Image.fromarray(indices.reshape(keys.shape).astype(np.uint8), "P")
        image.putpalette(np.stack([colors >> 16, colors >> 8 & 255, colors & 255], axis=1).astype(np.uint8).tobytes())
    else:
        image = Image.fromarray(pixels)
    packed = io.BytesIO()
    image.save(packed, "PNG", optimize=True)
    return packed.getvalue()


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font that comes with Pillow: the same on every machine."""
    return ImageFont.load_default(size)


@functools.lru_cache(maxsize=4096)
def text_mask(text: str, size: int) -> npt.NDArray[np.bool_]:
    """Where ``text`` covers the ground, bool (height, width): no shades, so that it costs one colour."""
    height = size + size // 3
    # Letters without shades can be wider than the font says.
    image = Image.new("1", (size * (len(text) + 1), height))
    draw = ImageDraw.Draw(image)
    draw.fontmode = "1"
    draw.text((0, 0), text, fill=1, font=font(size))
    whole = np.array(image)
    used = np.flatnonzero(whole.any(axis=0))
    mask = whole[:, : used[-1] + 1 if len(used) else 1]
    mask.flags.writeable = False
    return mask
