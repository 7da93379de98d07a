"""What is known of each game: its actions, and what in its RAM tells a lost game from the frame limit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .schema import UNKNOWN

__all__ = ["ACTION_MEANINGS", "FRAME_LIMIT", "is_frame_limit"]

_MOVES = ("NOOP", "FIRE", "UP", "RIGHT", "LEFT", "DOWN", "UPRIGHT", "UPLEFT", "DOWNRIGHT", "DOWNLEFT")
_ALL = (*_MOVES, *(f"{move}FIRE" for move in _MOVES[2:]))
_SPACE_INVADERS = ("NOOP", "FIRE", "RIGHT", "LEFT", "RIGHTFIRE", "LEFTFIRE")

# The emulator's minimal action sets, which CrowdPlay's actions index. Source: ale-py's getMinimalActionSet.
ACTION_MEANINGS: dict[str, Sequence[str]] = {
    "beam_rider": ("NOOP", "FIRE", "UP", "RIGHT", "LEFT", "UPRIGHT", "UPLEFT", "RIGHTFIRE", "LEFTFIRE"),
    "breakout": ("NOOP", "FIRE", "RIGHT", "LEFT"),
    "montezuma_revenge": _ALL,
    "qbert": _MOVES[:6],
    "riverraid": _ALL,
    "space_invaders": _SPACE_INVADERS,
    "space_invaders_2p": _SPACE_INVADERS,
    "space_invaders_ai": _SPACE_INVADERS,
}


# CrowdPlay's limit on the frames of an episode; it sets everybody done, as the end of a game does.
FRAME_LIMIT = 100_000


def is_frame_limit(
    game: str, step: int, lives: int | None, played_with_none: bool, ram: npt.NDArray[np.uint8] | None
) -> bool:
    """Whether everybody being done at ``step`` is the frame limit, and not the end of the game.

    ``lives``: the agent's after the step, ``ram``: the 128 bytes after it; ``played_with_none``: whether the agent had
    0 lives after an earlier step. Told by lives that are left: how many a lost player has depends on the emulator (0,
    or -1 where the last life is number 0), so a player who was seen playing with 0 has not lost with 0. Space Invaders
    can end with lives left, when the aliens land: bit 7 of byte 0x18 says so. Source: the emulator's terminal condition
    for the game (ALE, SpaceInvaders.cpp), seen in landings of one-player and two-player games. An unknown game might be
    Space Invaders. A recording may have had a lower limit than CrowdPlay's; from CrowdPlay's on it is the limit
    whatever the RAM says.
    """
    if lives is None or lives < 0 or (lives == 0 and not played_with_none):
        return False
    if step >= FRAME_LIMIT - 1 or ram is None:
        return True
    return not (game.startswith(("space_invaders", UNKNOWN)) and ram[0x18] & 0x80)
