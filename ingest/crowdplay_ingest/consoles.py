"""Atari consoles to record from: one emulator for one-player games, another for two players.

Both emulators are optional and heavy, and are imported only when a console is made. The cartridges are those
that come with ``ale-py``; nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from crowdplay_lake.errors import MissingExtra

__all__ = ["Console", "OnePlayerConsole", "TwoPlayerConsole", "can_play_two"]

#: CrowdPlay's ``env_factory`` seeds every console with 1.
_CONSOLE_SEED = 1


class Console(Protocol):
    """What an episode needs of an emulator: one frame per :meth:`act`, no key repeated by chance."""

    keys: int
    """The size of the game's minimal action set; a key is an index into it."""

    def reset(self) -> None:
        """Starts a new game."""

    def act(self, keys: Sequence[int]) -> NDArray[np.int32]:
        """Plays one frame with a key per agent; the reward per agent."""

    def screen(self) -> NDArray[np.uint8]:
        """The screen: (210, 160, 3), RGB, a fresh array."""

    def ram(self) -> list[int]:
        """The 128 bytes of memory, a fresh list of plain ints."""

    def lives(self) -> NDArray[np.int32]:
        """The lives of each agent as CrowdPlay's emulator counts them."""

    def game_over(self) -> bool:
        """Whether the game has ended for everybody."""


def _cartridge(rom: str) -> str:
    try:
        from ale_py import roms
    except ImportError as cause:
        raise MissingExtra("ale-py", "record") from cause
    return str(roms.get_rom_path(rom))


def can_play_two() -> bool:
    """Whether the emulator for two players is installed; its wheels end with CPython 3.11."""
    try:
        import multi_agent_ale_py  # noqa: F401
    except ImportError:
        return False
    return True


class OnePlayerConsole:
    """A one-player game on ``ale_py``."""

    #: Multi-Agent-ALE, which CrowdPlay plays on, counts Space Invaders' spare ships (2, 1, 0, and −1 at the
    #: end) where ale_py counts ships (3 to 0). The other games agree.
    _LIVES_OFFSET = {"space_invaders": -1}  # noqa: RUF012

    def __init__(self, rom: str) -> None:
        cartridge = _cartridge(rom)
        import ale_py

        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self._ale: Any = ale_py.ALEInterface()
        self._ale.setInt("random_seed", _CONSOLE_SEED)
        self._ale.setFloat("repeat_action_probability", 0.0)
        self._ale.setInt("frame_skip", 1)
        self._ale.loadROM(cartridge)
        self._actions = self._ale.getMinimalActionSet()
        self._lives_offset = self._LIVES_OFFSET.get(rom, 0)
        self.keys = len(self._actions)

    def reset(self) -> None:
        self._ale.reset_game()

    def act(self, keys: Sequence[int]) -> NDArray[np.int32]:
        return np.array([self._ale.act(self._actions[keys[0]])], dtype=np.int32)

    def screen(self) -> NDArray[np.uint8]:
        screen: NDArray[np.uint8] = self._ale.getScreenRGB()
        return screen

    def ram(self) -> list[int]:
        ram: list[int] = self._ale.getRAM().tolist()
        return ram

    def lives(self) -> NDArray[np.int32]:
        return np.array([self._ale.lives() + self._lives_offset], dtype=np.int32)

    def game_over(self) -> bool:
        return bool(self._ale.game_over())


class TwoPlayerConsole:
    """A game for two at once on ``multi_agent_ale_py``, in the mode CrowdPlay chose: the first for two.

    Raises :class:`~crowdplay_lake.errors.MissingExtra` where that emulator is not installed; its wheels end
    with CPython 3.11.
    """

    def __init__(self, rom: str) -> None:
        cartridge = _cartridge(rom)
        try:
            import multi_agent_ale_py
        except ImportError as cause:
            raise MissingExtra("multi-agent-ale-py", "record") from cause

        multi_agent_ale_py.ALEInterface.setLoggerMode("error")
        self._ale: Any = multi_agent_ale_py.ALEInterface()
        self._ale.setInt(b"random_seed", _CONSOLE_SEED)
        self._ale.setFloat(b"repeat_action_probability", 0.0)
        self._ale.loadROM(cartridge)
        self._ale.setMode(self._ale.getAvailableModes(2)[0])
        self._actions = self._ale.getMinimalActionSet()
        self.keys = len(self._actions)

    def reset(self) -> None:
        self._ale.reset_game()

    def act(self, keys: Sequence[int]) -> NDArray[np.int32]:
        rewards: NDArray[np.int32] = self._ale.act(self._actions[np.array(keys)])
        return rewards

    def screen(self) -> NDArray[np.uint8]:
        screen: NDArray[np.uint8] = self._ale.getScreenRGB()
        return screen

    def ram(self) -> list[int]:
        ram: list[int] = self._ale.getRAM().tolist()
        return ram

    def lives(self) -> NDArray[np.int32]:
        lives: NDArray[np.int32] = self._ale.allLives()
        return lives

    def game_over(self) -> bool:
        return bool(self._ale.game_over())
