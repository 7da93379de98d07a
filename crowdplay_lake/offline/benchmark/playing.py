"""Agents on the real game: what they see is what the lake's observations are, and what they press is kept.

An emulator without chance plays the same keys to the same game, so the keys of an episode are the episode: it can be
played again, and recorded into a lake.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ...errors import InvalidArgument
from ...games import ACTION_MEANINGS
from ...observations import luma
from ...warp import warp_for
from .data import IMAGE, OBSERVATION_SHAPE, SKIP_N, STACK_N, Tell

__all__ = ["Console", "Game", "MakeConsole", "PlayOptions", "Played", "Policy", "play_episodes", "random_policy"]

NOOP, FIRE = 0, 1
# Steps for which FIRE is held to begin.
FIRE_STEPS = 4
# Games played at the same time, so that a network answers for all of them at once.
AT_ONCE = 32
# Steps before the present one that an observation shows.
_REACH = (STACK_N - 1) * SKIP_N

#: Observations uint8 (n, 4, 84, 84) of the games that are on, and which these are → a key each, int (n,).
Policy = Callable[[npt.NDArray[np.uint8], npt.NDArray[np.int64]], npt.NDArray[np.integer]]


class Console(Protocol):
    """An emulator, as `crowdplay_ingest.consoles` has them: a frame a step, no key repeated by chance."""

    keys: int

    def reset(self) -> None:
        """Starts a new game."""

    def act(self, keys: Sequence[int]) -> npt.NDArray[np.int32]:
        """Plays one frame with a key per agent; the reward per agent."""

    def screen(self) -> npt.NDArray[np.uint8]:
        """The screen: (210, 160, 3), RGB."""

    def ram(self) -> list[int]:
        """The 128 bytes of memory."""

    def lives(self) -> npt.NDArray[np.int32]:
        """The lives of each agent."""

    def game_over(self) -> bool:
        """Whether the game has ended."""


MakeConsole = Callable[[str], Console]  # from a game's name


@dataclass(frozen=True)
class PlayOptions:
    """How episodes are played.

    ``no_ops``: an episode begins with 1 to so many steps without a key, by lot; 0: with none. ``fire``: FIRE is pressed
    after that, and after every life that is lost. ``epsilon``: the share of decisions that are made by lot. Without
    it a policy without chance plays few different games: Space Invaders answers no key for its first 120 steps, so
    that the lot of no-ops only moves decisions by 0 to 3 steps.
    """

    episodes: int = 10
    seed: int = 0
    no_ops: int = 30
    fire: bool = True
    epsilon: float = 0.01
    max_steps: int = 30_000  # then an episode is cut off

    def __post_init__(self) -> None:
        for name, least in (("episodes", 1), ("no_ops", 0), ("max_steps", 1)):
            if getattr(self, name) < least:
                raise InvalidArgument(f"{name} is {getattr(self, name)}; at least {least}")
        if not 0 <= self.epsilon <= 1:
            raise InvalidArgument(f"epsilon is {self.epsilon}; from 0 to 1")


@dataclass(frozen=True)
class Played:
    """One episode: what was pressed at each step, and what came of it; as rows of `steps` have it."""

    keys: npt.NDArray[np.uint8]  # (n,)
    rewards: npt.NDArray[np.int64]  # (n,)
    ram: npt.NDArray[np.uint8]  # (n, 128) after each step
    terminal: bool  # whether the game ended; else it was cut off

    @property
    def score(self) -> int:
        """The sum of the rewards."""
        return int(self.rewards.sum())

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"Played(steps={len(self)}, score={self.score}, {'terminal' if self.terminal else 'cut off'})"


class Game:
    """One game that is on, and what an agent sees of it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        console.reset()
        self._lives = int(console.lives()[0])
        # As many as an observation reaches back, the latest last; black before the first.
        first = console.screen()
        self._screens = deque([np.zeros_like(first), first], maxlen=_REACH + IMAGE.max_n)
        self._images: dict[int, npt.NDArray[np.uint8]] = {}  # step → image, of those that were asked for
        self._warp = warp_for((first.shape[0], first.shape[1]), (IMAGE.warp_height, IMAGE.warp_width))
        self._keys: list[int] = []
        self._rewards: list[int] = []
        self._ram: list[list[int]] = []

    def __len__(self) -> int:
        """Steps played."""
        return len(self._keys)

    @property
    def is_over(self) -> bool:
        """Whether the game has ended."""
        return self._console.game_over()

    def press(self, key: int) -> bool:
        """Play one step. Returns whether it cost a life."""
        self._rewards.append(int(self._console.act([key])[0]))
        self._keys.append(key)
        self._ram.append(self._console.ram())
        self._screens.append(self._console.screen())
        before, self._lives = self._lives, int(self._console.lives()[0])
        return self._lives < before

    def observation(self) -> npt.NDArray[np.uint8]:
        """What the agent sees before the next step: uint8 (4, 84, 84)."""
        step = len(self)
        self._images = {shown: image for shown, image in self._images.items() if shown >= step - _REACH}
        return np.stack([self._image(step - back) for back in range(_REACH, -1, -SKIP_N)])

    def _image(self, step: int) -> npt.NDArray[np.uint8]:
        if step < 0:
            return np.zeros(OBSERVATION_SHAPE[1:], np.uint8)
        if step not in self._images:
            at = step - len(self) - 1  # from the end
            grey = luma(np.maximum(self._screens[at], self._screens[at - 1]))
            self._images[step] = self._warp.apply(grey[None])[0]
        return self._images[step]

    def played(self) -> Played:
        """All of it so far."""
        return Played(
            np.array(self._keys, np.uint8),
            np.array(self._rewards, np.int64),
            np.array(self._ram, np.uint8).reshape(-1, 128),
            self.is_over,
        )


def play_episodes(
    make_console: MakeConsole,
    game: str,
    policy: Policy,
    hold: int,
    options: PlayOptions | None = None,
    tell: Tell | None = None,
) -> list[Played]:
    """Episodes of ``game`` that ``policy`` plays, holding each key for ``hold`` steps.

    Episode k depends on the seed, k and the policy alone, not on how many are played beside it. ``policy`` may be
    asked for the keys of several games at once. Raises MissingExtra where the emulator is not installed.
    """
    options = options or PlayOptions()
    played: list[Played] = []
    for start in range(0, options.episodes, AT_ONCE):
        numbers = range(start, min(start + AT_ONCE, options.episodes))
        sessions = [_Session(make_console(game), game, number, hold, options) for number in numbers]
        _play(sessions, policy, options, tell, start)
        played += [session.game.played() for session in sessions]
    return played


def _play(sessions: Sequence[_Session], policy: Policy, options: PlayOptions, tell: Tell | None, done: int) -> None:
    while running := [session for session in sessions if not session.is_over]:
        seen = np.stack([session.game.observation() for session in running])
        keys = policy(seen, np.array([session.number for session in running]))
        for session, key in zip(running, np.asarray(keys).tolist(), strict=True):
            session.decide(int(key))
            if session.is_over:
                done += 1
                if tell is not None:
                    tell("playing", done, options.episodes)


class _Session:
    """An episode that is being played: how it begins, and what is pressed besides the policy's keys."""

    def __init__(self, console: Console, game: str, number: int, hold: int, options: PlayOptions) -> None:
        self.number = number
        self.game = Game(console)
        self._keys = console.keys
        self._hold = hold
        self._options = options
        self._chance = np.random.default_rng([options.seed, number])
        self._presses_fire = options.fire and ACTION_MEANINGS[game][FIRE] == "FIRE"
        if options.no_ops:
            self._press(NOOP, int(self._chance.integers(1, options.no_ops + 1)))
        if self._presses_fire:
            self._press(FIRE, FIRE_STEPS)

    @property
    def is_over(self) -> bool:
        return self.game.is_over or len(self.game) >= self._options.max_steps

    def decide(self, key: int) -> None:
        """Hold ``key``, unless chance has another."""
        if self._options.epsilon and self._chance.random() < self._options.epsilon:
            key = int(self._chance.integers(self._keys))
        if self._press(key, self._hold) and self._presses_fire:
            self._press(FIRE, FIRE_STEPS)

    def _press(self, key: int, steps: int) -> bool:
        """Hold a key, to the episode's end at the most. Returns whether that cost a life."""
        lost = False
        for _ in range(steps):
            if self.is_over:
                break
            lost |= self.game.press(key)
        return lost


def random_policy(keys: int, seed: int) -> Policy:
    """A key by lot at every decision, of each episode's own random numbers."""
    chances: dict[int, np.random.Generator] = {}

    def choose(seen: npt.NDArray[np.uint8], numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.integer]:
        del seen
        for number in numbers.tolist():
            chances.setdefault(number, np.random.default_rng([seed, number, 1]))
        return np.array([chances[number].integers(keys) for number in numbers.tolist()])

    return choose
