"""Frame stacks: which screens they are made of, and what they are then, wherever the screens come from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

__all__ = ["ImagesAt", "screens_of_stacks", "stacked"]

# Unique ascending indices → screens, uint8 (k, height, width).
ImagesAt = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.uint8]]


def screens_of_stacks(
    indices: npt.NDArray[np.int64], starts: npt.NDArray[np.int64], n_frames: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """What the stack at each index shows, oldest first: (int64 (k, n_frames), whether that one exists).

    ``starts``: where the segment of each index begins; nothing exists before.
    """
    wanted = indices[:, None] - np.arange(n_frames - 1, -1, -1)
    return wanted, wanted >= starts[:, None]


def stacked(
    images_at: ImagesAt,
    indices: npt.NDArray[np.int64],
    starts: npt.NDArray[np.int64],
    n_frames: int,
    image_shape: tuple[int, ...],
) -> npt.NDArray[np.uint8]:
    """The stack at each index: uint8 (k, n_frames, height, width); zeros where its segment had not begun."""
    wanted, exists = screens_of_stacks(indices, starts, n_frames)
    unique, back = np.unique(wanted[exists], return_inverse=True)
    images = images_at(unique)
    if exists.all():
        return images[back.reshape(wanted.shape)]
    stacks = np.zeros((*wanted.shape, *image_shape), np.uint8)
    stacks[exists] = images[back]
    return stacks
