"""The statistics CrowdPlay keeps while people play, re-made from their definitions.

Each class is one statistic of CrowdPlay's ``environment_callables``: fed one step at a time, it gives the
value so far for each agent. What a step stores is this value *after* the step. The definitions are kept with
their quirks, because the point is data like CrowdPlay's: see the notes on each class.

Value types are those of the published data (numpy 1 under CrowdPlay): ``numpy.int64`` scores,
``numpy.float64`` accuracies, plain ints and floats for the rest, and a plain ``0`` for a fraction of nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import numpy as np

__all__ = [
    "Accuracy",
    "ActiveTime",
    "AliensInOrder",
    "AliensShot",
    "Outcome",
    "PositionShare",
    "Score",
    "Statistic",
    "TimePlayed",
    "Value",
    "by_columns_inside_out",
    "by_columns_outside_in",
    "by_rows",
    "riverraid_position",
    "space_invaders_position",
]

Value = int | float | timedelta | np.int64 | np.float64

_STEPS_PER_SECOND = 60
_ROWS = range(6)
_COLUMNS = range(6)
_FIRST_ALIEN_ROW = 0x12


@dataclass(frozen=True, slots=True)
class Outcome:
    """One step as the statistics see it: keys held, rewards given, and the memory after it."""

    keys: Mapping[str, int]
    rewards: Mapping[str, int]
    ram: Sequence[int]


class Statistic(Protocol):
    """Value so far per agent, from outcomes in playing order."""

    def __call__(self, outcome: Outcome) -> dict[str, Value]: ...


class Score:
    """The sum of the rewards."""

    def __init__(self, agents: Iterable[str]) -> None:
        self._total = dict.fromkeys(agents, 0)

    def __call__(self, outcome: Outcome) -> dict[str, Value]:
        for agent in self._total:
            self._total[agent] += outcome.rewards[agent]
        return {agent: np.int64(total) for agent, total in self._total.items()}


class TimePlayed:
    """Whole seconds of play: steps // 60, whatever the agent did."""

    def __init__(self, agents: Iterable[str]) -> None:
        self._agents = tuple(agents)
        self._steps = 0

    def __call__(self, outcome: Outcome) -> dict[str, Value]:
        self._steps += 1
        return {agent: timedelta(seconds=self._steps // _STEPS_PER_SECOND) for agent in self._agents}


class ActiveTime:
    """Whole seconds in which the agent was awake.

    A step counts if the agent's last reward is at most ``reward_timeout`` steps ago and its last key, other
    than "no operation", at most ``key_timeout``; the start of play counts as both. CrowdPlay's defaults are a
    minute and 20 seconds.
    """

    def __init__(self, agents: Iterable[str], reward_timeout: int = 60 * 60, key_timeout: int = 20 * 60) -> None:
        self._active = dict.fromkeys(agents, 0)
        self._last_reward = dict.fromkeys(self._active, 0)
        self._last_key = dict.fromkeys(self._active, 0)
        self._reward_timeout = reward_timeout
        self._key_timeout = key_timeout
        self._step = 0

    def __call__(self, outcome: Outcome) -> dict[str, Value]:
        self._step += 1
        for agent in self._active:
            if outcome.rewards[agent] != 0:
                self._last_reward[agent] = self._step
            if outcome.keys[agent] != 0:
                self._last_key[agent] = self._step
            self._active[agent] += (
                self._step - self._last_reward[agent] <= self._reward_timeout
                and self._step - self._last_key[agent] <= self._key_timeout
            )
        return {agent: timedelta(seconds=steps // _STEPS_PER_SECOND) for agent, steps in self._active.items()}


def space_invaders_position(ram: Sequence[int], agent: int) -> float:
    """Where the ship of agent number ``agent`` is: 0 its left-most place, 1 its right-most."""
    return (ram[0x1C + agent] - 0x23) / (0x75 - 0x23)


def riverraid_position(ram: Sequence[int], agent: int) -> float:
    """Pixels from the middle of the river, to the right positive."""
    return ram[0x33] - 0x4C


class PositionShare:
    """The share of steps in which the agent is between two positions, both included."""

    def __init__(
        self,
        agents: Iterable[str],
        position: Callable[[Sequence[int], int], float],
        low: float,
        high: float,
    ) -> None:
        self._inside = dict.fromkeys(agents, 0)
        self._position = position
        self._low, self._high = low, high
        self._steps = 0

    def __call__(self, outcome: Outcome) -> dict[str, Value]:
        self._steps += 1
        for number, agent in enumerate(self._inside):
            self._inside[agent] += self._low <= self._position(outcome.ram, number) <= self._high
        return {agent: steps / self._steps for agent, steps in self._inside.items()}


Aliens = frozenset[tuple[int, int]]  # (row from the bottom, column from the left)
Order = Callable[[tuple[int, int], Aliens], bool]

_ALL_ALIENS: Aliens = frozenset((row, column) for row in _ROWS for column in _COLUMNS)


def aliens_alive(ram: Sequence[int]) -> Aliens:
    """The aliens of Space Invaders that are left: six bytes of six bits, the lowest row first."""
    return frozenset((row, column) for row, column in _ALL_ALIENS if ram[_FIRST_ALIEN_ROW + row] >> column & 1)


def by_rows(alien: tuple[int, int], left: Aliens) -> bool:
    """Row by row from the bottom: no alien may be left in a lower row."""
    return all(row >= alien[0] for row, _ in left)


def by_columns_outside_in(alien: tuple[int, int], left: Aliens) -> bool:
    """Columns from both edges inwards: none left between the alien's column and the edge of its half."""
    between = range(alien[1]) if alien[1] < 3 else range(alien[1] + 1, 6)
    return all(column not in between for _, column in left)


def by_columns_inside_out(alien: tuple[int, int], left: Aliens) -> bool:
    """Columns from the middle outwards: none left between the alien's column and the middle of the screen."""
    between = range(alien[1] + 1, 3) if alien[1] < 3 else range(3, alien[1])
    return all(column not in between for _, column in left)


class _AlienWatch:
    """Which aliens a step removed. A new wave refills the sky and removes nothing."""

    def __init__(self) -> None:
        self._alive = _ALL_ALIENS

    def shot(self, ram: Sequence[int]) -> tuple[Aliens, Aliens]:
        """The aliens this step removed, and those left."""
        before, self._alive = self._alive, aliens_alive(ram)
        return before - self._alive, self._alive


class AliensShot:
    """How many aliens went. The sky is shared: in a two-player game both agents get every alien."""

    def __init__(self, agents: Iterable[str]) -> None:
        self._shot = dict.fromkeys(agents, 0)
        self._watch = _AlienWatch()

    def __call__(self, outcome: Outcome) -> dict[str, Value]:
        gone, _ = self._watch.shot(outcome.ram)
        for agent in self._shot:
            self._shot[agent] += len(gone)
        return {agent: shot for agent, shot in self._shot.items()}  # noqa: C416 - widens the value type


class AliensInOrder:
    """Aliens shot in a prescribed order: their number, or their share of all that were shot.

    An alien is judged against the aliens left after its step. The share is the plain int 0 before the first.
    """

    def __init__(self, agents: Iterable[str], order: Order, share: bool) -> None:
        self._agents = tuple(agents)
        self._order = order
        self._share = share
        self._watch = _AlienWatch()
        self._good = 0
        self._all = 0

    def __call__(self, outcome: Outcome) -> dict[str, Value]:
        gone, left = self._watch.shot(outcome.ram)
        self._good += sum(self._order(alien, left) for alien in gone)
        self._all += len(gone)
        value: Value = self._good
        if self._share:
            value = self._good / self._all if self._all else 0
        return dict.fromkeys(self._agents, value)


class Accuracy:
    """Hits per shot in Space Invaders: the signs of the rewards over the steps in which a shot left the ship.

    A shot starts at height 0x55 in one of two slots; a bit per slot says whose it is. A bonus for the other
    player's death counts as a hit, as in CrowdPlay. The plain int 0 before the first shot.
    """

    _SLOTS = ((0x55, 0x4), (0x56, 0x8))  # (address of the height, bit of the owner)
    _START, _OWNERS = 0x55, 0x18

    def __init__(self, agents: Iterable[str]) -> None:
        self._agents = tuple(agents)
        self._hits = dict.fromkeys(self._agents, 0)
        self._shots = dict.fromkeys(self._agents, 0)

    def __call__(self, outcome: Outcome) -> dict[str, Value]:
        shooting = {
            self._agents[1 if len(self._agents) > 1 and outcome.ram[self._OWNERS] & bit else 0]
            for height, bit in self._SLOTS
            if outcome.ram[height] == self._START
        }
        for agent in self._agents:
            reward = outcome.rewards[agent]
            self._hits[agent] += (reward > 0) - (reward < 0)
            self._shots[agent] += agent in shooting
        return {agent: self._share(agent) for agent in self._agents}

    def _share(self, agent: str) -> Value:
        shots = self._shots[agent]
        return np.float64(self._hits[agent] / shots) if shots else 0
