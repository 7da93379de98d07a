"""Who holds the joystick of a recorded episode: people and AIs, both scripted and seeded.

A *policy* looks at the 128 bytes of the console's memory and names a key (an index into the game's minimal
action set). A :class:`Person` puts a policy behind human eyes and a network: the key arrives some steps after
the screen that caused it, which is what CrowdPlay stores as ``action_step_iter``. A :class:`Machine` acts on
the latest screen, as CrowdPlay's AI policies do.

Memory addresses were found by playing: an address is named here when moving the thing on the screen moved
the byte.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Protocol

__all__ = ["AI", "HUMAN", "SKILLED", "Machine", "Person", "Player", "Policy", "Replay", "make_policy"]

HUMAN = 1
AI = 2

Policy = Callable[[Sequence[int]], int]


class Player(Protocol):
    """One agent's controls. ``user_type`` is CrowdPlay's: 1 a person, 2 an AI."""

    user_type: int

    def press(self, ram: Sequence[int], shown: int) -> tuple[int, int] | None:
        """The key held from now on and the step it answers to; None where nothing new arrived.

        ``ram`` is the memory after step ``shown``, the latest that is on the screen (0: none played yet).
        """


class Person:
    """A policy with a reaction time: 3 to 11 steps (50 to 180 ms) between screen and key."""

    user_type = HUMAN

    def __init__(self, policy: Policy, seed: str) -> None:
        self._policy = policy
        self._random = random.Random(seed)
        self._usual_delay = self._random.randint(3, 9)
        self._wanted = 0
        self._on_the_way: deque[tuple[int, int, int]] = deque()  # (arrives at, key, pressed at)

    def press(self, ram: Sequence[int], shown: int) -> tuple[int, int] | None:
        """See :class:`Player`. Keys never overtake each other; of two that come together the later counts."""
        key = self._policy(ram)
        if key != self._wanted:
            self._wanted = key
            arrives = shown + self._usual_delay + self._random.randint(0, 2)
            if self._on_the_way:
                arrives = max(arrives, self._on_the_way[-1][0])
            self._on_the_way.append((arrives, key, shown))
        arrived = None
        while self._on_the_way and self._on_the_way[0][0] <= shown:
            _, key, pressed = self._on_the_way.popleft()
            arrived = key, pressed
        return arrived


class Machine:
    """A policy that answers every screen at once."""

    user_type = AI

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def press(self, ram: Sequence[int], shown: int) -> tuple[int, int] | None:
        """See :class:`Player`: a key at every step."""
        return self._policy(ram), shown


class Replay:
    """The keys of an episode that was played before, whatever is on the screen."""

    def __init__(self, keys: Sequence[int]) -> None:
        self._left = iter(keys)

    def __call__(self, ram: Sequence[int]) -> int:
        return next(self._left)


class StickyKeys:
    """Holds a random key for 4 to 60 steps, then another: a person who has not understood the game."""

    def __init__(self, keys: int, seed: str) -> None:
        self._keys = keys
        self._random = random.Random(seed)
        self._key = 0
        self._left = 0

    def __call__(self, ram: Sequence[int]) -> int:
        if self._left == 0:
            self._key = self._random.randrange(self._keys)
            self._left = self._random.randint(4, 60)
        self._left -= 1
        return self._key


class SpaceInvadersPlayer:
    """Steps out of the way of bombs, otherwise goes where the nearest aliens will be, and shoots there.

    Only one shot can fly at a time, and one that misses takes twice as long to come back as one that hits; so
    it fires only under a column. Positions are pixels; heights grow downwards and are two pixels each.
    """

    _SHIPS = (0x1C, 0x1D)
    _MUZZLE = 5  # the shot leaves this far right of a ship's position
    _SHIP_RANGE = (35, 117)
    _ALIEN_ROWS = range(0x12, 0x18)  # six bits each, bit 0 the left-most column
    _ALIEN_BLOCK = 0x1A
    _COLUMN_WIDTH, _COLUMN_CENTRE = 16, 5
    _FLIGHT = 50  # steps that a shot takes to the aliens
    _BOMBS = ((0x51, 0x53), (0x52, 0x54))  # (height, position) of the two that can fall at a time
    _DANGER = range(58, 98)  # heights from which a bomb can still be dodged, to just below the ship
    _DANGER_WIDTH = 8
    _AIM = 2
    _NOTHING, _FIRE, _RIGHT, _LEFT = 0, 1, 2, 3
    _FIRING = MappingProxyType({_NOTHING: _FIRE, _RIGHT: 4, _LEFT: 5})

    def __init__(self, agent: int = 0) -> None:
        self._ship = self._SHIPS[agent]
        self._blocks: deque[int] = deque(maxlen=48)  # where the aliens were in the last steps

    def __call__(self, ram: Sequence[int]) -> int:
        self._blocks.append(ram[self._ALIEN_BLOCK])
        muzzle = ram[self._ship] + self._MUZZLE
        columns = self._columns(ram)
        target = min(columns, key=lambda column: abs(column - muzzle), default=float(muzzle))
        bombs = [
            ram[position]
            for height, position in self._BOMBS
            if ram[height] in self._DANGER and abs(ram[position] - muzzle) < self._DANGER_WIDTH
        ]
        if bombs:
            key = self._dodge(muzzle, min(bombs, key=lambda bomb: abs(bomb - muzzle)))
        else:
            key = self._towards(muzzle, target)
        return self._FIRING[key] if abs(target - muzzle) <= self._AIM + 1 else key

    def _dodge(self, muzzle: int, bomb: int) -> int:
        left_end, right_end = (end + self._MUZZLE for end in self._SHIP_RANGE)
        go_right = muzzle >= bomb
        if go_right and bomb + self._DANGER_WIDTH > right_end:
            go_right = False
        elif not go_right and bomb - self._DANGER_WIDTH < left_end:
            go_right = True
        return self._RIGHT if go_right else self._LEFT

    def _towards(self, muzzle: int, target: float) -> int:
        if abs(target - muzzle) <= self._AIM:
            return self._NOTHING
        return self._RIGHT if target > muzzle else self._LEFT

    def _columns(self, ram: Sequence[int]) -> list[float]:
        """Where the columns that have aliens will be when a shot fired now gets there."""
        alive = 0
        for row in self._ALIEN_ROWS:
            alive |= ram[row]
        moved = self._blocks[-1] - self._blocks[0]
        if abs(moved) > self._COLUMN_WIDTH:
            moved = 0  # a new wave, or the block is counted from another column
        left = self._blocks[-1] + self._COLUMN_CENTRE + self._FLIGHT * moved / len(self._blocks)
        return [left + self._COLUMN_WIDTH * column for column in range(6) if alive & (1 << column)]


class BreakoutPlayer:
    """Foresees where the falling ball comes down, goes there in taps of the right length, and serves.

    The paddle crosses the screen in half a second, less than twice a person's delay: who steers by looking at
    the paddle overshoots. So a tap is planned whole, and the next one only when its effect is on the screen.
    Positions are in pixels.
    """

    _BALL_X, _BALL_Y, _PADDLE_X = 0x63, 0x65, 0x48
    _PADDLE_CENTRE, _PADDLE_HEIGHT, _PADDLE_SPEED = 9, 178, 6
    _LEFT_WALL, _RIGHT_WALL = 57, 201
    _CLOSE_ENOUGH = 5
    _SETTLING = 16  # steps from a key's release until the paddle stands still
    _FIRE, _RIGHT, _LEFT = 1, 2, 3

    def __init__(self, agent: int = 0) -> None:
        self._seen: deque[tuple[int, int]] = deque(maxlen=4)
        self._tap = (0, 0)  # (key, steps left)
        self._settling = 0

    def __call__(self, ram: Sequence[int]) -> int:
        x, y = ram[self._BALL_X], ram[self._BALL_Y]
        self._seen.append((x, y))
        key, left = self._tap
        if left > 0:
            self._tap = key, left - 1
            return key
        if y == 0:
            self._seen.clear()
            return self._FIRE
        if self._settling > 0:
            self._settling -= 1
            return 0
        self._plan(self._landing() - ram[self._PADDLE_X] - self._PADDLE_CENTRE)
        return 0

    def _plan(self, way: float) -> None:
        if abs(way) > self._CLOSE_ENOUGH:
            self._tap = self._RIGHT if way > 0 else self._LEFT, max(1, round(abs(way) / self._PADDLE_SPEED))
            self._settling = self._SETTLING

    def _landing(self) -> float:
        """Where the ball meets the paddle's height, with the bounces off the side walls; else where it is."""
        (first_x, first_y), (x, y) = self._seen[0], self._seen[-1]
        fallen = y - first_y
        if fallen <= 0 or y >= self._PADDLE_HEIGHT:
            return x
        width = self._RIGHT_WALL - self._LEFT_WALL
        unfolded = (x - self._LEFT_WALL + (x - first_x) * (self._PADDLE_HEIGHT - y) / fallen) % (2 * width)
        return self._LEFT_WALL + (unfolded if unfolded <= width else 2 * width - unfolded)


#: Game -> the policy that plays it well, by the number of the agent. The others have only sticky keys.
SKILLED: dict[str, Callable[[int], Policy]] = {
    "breakout": BreakoutPlayer,
    "space_invaders": SpaceInvadersPlayer,
    "space_invaders_2p": SpaceInvadersPlayer,
    "space_invaders_ai": SpaceInvadersPlayer,
}


def make_policy(kind: str, game: str, keys: int, agent: int, seed: str) -> Policy:
    """The policy ``kind`` ("sticky" or "skilled") of agent number ``agent``; the game has ``keys`` keys."""
    if kind == "skilled":
        return SKILLED[game](agent)
    return StickyKeys(keys, seed)
