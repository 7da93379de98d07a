"""What is known of each game: its actions, and what in its RAM tells a lost game from the frame limit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["ACTION_MEANINGS", "game_has_ended"]

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


def game_has_ended(game: str, ram: npt.NDArray[np.uint8] | None) -> bool:
    """Whether the RAM (128 bytes) says that the game is over although lives are left.

    Only Space Invaders ends so, when the aliens land: bit 7 of byte 0x18. Source: the emulator's terminal condition
    for the game (ALE, SpaceInvaders.cpp).
    """
    return game.startswith("space_invaders") and ram is not None and bool(ram[0x18] & 0x80)
