"""Frames of a video: the screen enlarged, the processed image beside it, and what was done below it.

They are drawn as indices into a table of colours: what has few colours stays so, and GIF and APNG keep every one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import InvalidArgument
from ..pixels import Screen
from .drawing import BACKGROUND, FAINT, GAP, TEXT, enlarged, flat_shape, text_mask
from .facts import Moment, clock

__all__ = ["Panel"]

Bytes = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.uint16]

AI = (255, 170, 60)
# The table's colours after those of the screen.
INKS = (BACKGROUND, TEXT, FAINT, AI)
GROUND, BRIGHT, DIM, OTHER = range(len(INKS))
MOST_COLORS = 256
PROCESSED = 84
# Where the stick points to, by the words of an action's name.
DIRECTIONS = {"UP": (-1, 0), "DOWN": (1, 0), "LEFT": (0, -1), "RIGHT": (0, 1)}


@dataclass(frozen=True)
class Panel:
    """How frames of one video are laid out."""

    screen: Screen
    scale: int
    overlay: bool
    processed: bool
    # GIF: 256 colours for all. Those of the screen are exact; the greys of the processed image get what is left.
    limited: bool
    # H.264 wants even sizes.
    even: bool

    def __post_init__(self) -> None:
        if self.limited and len(self.screen.palette) + len(INKS) > MOST_COLORS - 16 * self.processed:
            raise InvalidArgument(
                f"this episode has {len(self.screen.palette)} colours, too many for a GIF: write .mp4 or .apng"
            )

    @property
    def colors(self) -> Bytes:
        """What indices stand for: RGB, uint8 (colours, 3)."""
        palette = self.screen.palette
        screen = palette if palette.shape[1] == 3 else np.repeat(palette, 3, axis=1)
        greys = np.linspace(0, 255, self._greys).round().astype(np.uint8)
        return np.concatenate([screen, np.array(INKS, np.uint8), np.repeat(greys[:, None], 3, axis=1)])

    @property
    def _greys(self) -> int:
        if not self.processed:
            return 0
        return MOST_COLORS - len(self.screen.palette) - len(INKS) if self.limited else 256

    @property
    def _screen_size(self) -> tuple[int, int]:
        height, width = flat_shape(self.screen)
        return height * self.scale, width * self.scale

    @property
    def _processed_scale(self) -> int:
        return max(1, self._screen_size[0] // PROCESSED)

    @property
    def _text_size(self) -> int:
        return max(12, 7 * self.scale)

    @property
    def _line(self) -> int:
        return self._text_size + self._text_size // 3 + 2

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a frame of the video, in pixels."""
        height, width = self._screen_size
        if self.processed:
            width += GAP + PROCESSED * self._processed_scale
            height = max(height, PROCESSED * self._processed_scale)
        if self.overlay:
            height += 3 * self._line + GAP
        return (height + height % 2, width + width % 2) if self.even else (height, width)

    def draw(self, screen: Bytes, moment: Moment | None, processed: Bytes | None) -> Indices:
        """One frame, uint16 ``size``: of palette indices (pixels,), what is known, and the processed image (84, 84)."""
        inks = len(self.screen.palette)
        whole = np.full(self.size, inks + GROUND, np.uint16)
        height, width = self._screen_size
        whole[:height, :width] = enlarged(screen.reshape(flat_shape(self.screen)), self.scale)
        if processed is not None:
            # To the nearest grey there is: exact where all are.
            greys = (processed.astype(np.uint32) * (self._greys - 1) + 127) // 255
            image = enlarged(greys.astype(np.uint8), self._processed_scale)
            whole[: image.shape[0], width + GAP : width + GAP + image.shape[1]] = image + np.uint16(inks + len(INKS))
            height = max(height, image.shape[0])
        if moment is not None:
            self._write(whole[height + GAP // 2 :], moment, inks)
        return whole

    def _write(self, band: Indices, moment: Moment, inks: int) -> None:
        side = 3 * self._line - GAP
        cell = max(1, side // 3)
        words = moment.action_name.upper()
        down, right = (sum(way[axis] for word, way in DIRECTIONS.items() if word in words) for axis in (0, 1))
        for y in range(3):
            for x in range(3):
                pressed = (y, x) == (1 + down, 1 + right) and (y, x) != (1, 1)
                fires = (y, x) == (1, 1) and "FIRE" in words
                color = BRIGHT if pressed else OTHER if fires else DIM
                edge = 1 if pressed or fires else cell // 3
                top, left = GAP // 2 + y * cell, GAP // 2 + x * cell
                band[top + edge : top + cell - edge, left + edge : left + cell - edge] = inks + color
        lives = "" if moment.lives is None else f"   lives {moment.lives}"
        # What may be cut off where the picture is narrow comes last.
        who = f"{moment.player}   " if moment.player else ""
        lines = [
            (f"score {moment.score:,}{lives}", BRIGHT),
            (moment.action_name, BRIGHT),
            (f"{who}{clock(moment.seconds)}   step {moment.step:,}", OTHER if moment.player == "AI" else DIM),
        ]
        for number, (text, color) in enumerate(lines):
            mask = text_mask(text, self._text_size)
            place = band[number * self._line :, side + GAP :][: mask.shape[0], : mask.shape[1]]
            place[mask[: place.shape[0], : place.shape[1]]] = inks + color
