"""What somebody shot in Space Invaders: how many aliens, how well, in which order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from .base import Running, Runs, Share

__all__ = ["ORDERS", "Accuracy", "AliensInOrder", "AliensShot", "Order", "ShareInOrder"]

INVADERS = ("space_invaders", "space_invaders_2p", "space_invaders_ai")
# Six rows of aliens, the lowest first; a bit a column, the leftmost first.
ROWS = tuple(f"ram_{address:02x}" for address in range(0x12, 0x18))
ALL = 0x3F
COLUMNS = range(6)

Bits: TypeAlias = npt.NDArray[np.uint8]  # (n,): a row of aliens, or a set of columns


@dataclass(frozen=True)
class Sky:
    """The aliens of each step: those that it removed, and those that are left."""

    gone: tuple[Bits, ...]  # by row, from below
    left: tuple[Bits, ...]

    @classmethod
    def of(cls, steps: pl.DataFrame, runs: Runs) -> Sky:
        """A new wave refills the sky and removes nothing; before the first step all are there."""
        left = tuple(steps[name].to_numpy().astype(np.uint8) & np.uint8(ALL) for name in ROWS)
        return cls(tuple(runs.before(row, ALL) & ~row for row in left), left)

    def count(self) -> npt.NDArray[np.int64]:
        """How many aliens each step removed."""
        return _count(self.gone)


def _count(rows: tuple[Bits, ...]) -> npt.NDArray[np.int64]:
    total = np.zeros(len(rows[0]), np.int64)
    for row in rows:
        total += np.bitwise_count(row)
    return total


Order: TypeAlias = Callable[[Sky], tuple[Bits, ...]]  # by row, the columns in which an alien may be shot


def row_by_row(sky: Sky) -> tuple[Bits, ...]:
    """From below: no alien may be left in a lower row."""
    below = np.zeros_like(sky.left[0])
    allowed = []
    for row in sky.left:
        allowed.append(np.where(below == 0, np.uint8(ALL), np.uint8(0)))
        below = below | row
    return tuple(allowed)


def _by_columns(before: Callable[[int], range]) -> Order:
    """``before``: the columns that have to be empty before a column."""
    masks = [sum(1 << other for other in before(column)) for column in COLUMNS]
    table = np.array([sum(1 << c for c in COLUMNS if not left & masks[c]) for left in range(ALL + 1)], np.uint8)

    def allowed(sky: Sky) -> tuple[Bits, ...]:
        left = sky.left[0]
        for row in sky.left[1:]:
            left = left | row
        return (table[left],) * len(sky.left)

    return allowed


def columns_135(sky: Sky) -> tuple[Bits, ...]:
    """The first, third and fifth column, whenever."""
    return (np.full_like(sky.left[0], 0b010101),) * len(sky.left)


ORDERS: dict[str, Order] = {
    "rowbyrow": row_by_row,
    "outsidein": _by_columns(lambda column: range(column) if column < 3 else range(column + 1, 6)),
    "insideout": _by_columns(lambda column: range(column + 1, 3) if column < 3 else range(3, column)),
    "rows135": columns_135,
}

_ORDER_DEFINITIONS = {
    "rowbyrow": "row by row from below: no alien was left in a lower row",
    "outsidein": "column by column from both edges: none was left between its column and the edge of its half",
    "insideout": "column by column from the middle: none was left between its column and the middle",
    "rows135": "in the first, third and fifth column",
}
_ORDER_QUIRKS = {
    "rows135": "CrowdPlay says rows, and counts columns.",
}
_JUDGED = "An alien is judged by those that are left after its step."
_RECORDED = "Recorded, where it is the task's order, as 'Correct aliens shot ({0})' or 'Aliens hit in order{1}'."


class AliensShot(Running):
    """How many aliens went."""

    name = "aliens_shot"
    key = "Aliens shot"
    games = INVADERS
    columns = ROWS
    dtype = pl.Int64
    unit = "aliens"
    definition = "How many aliens are gone that were there a step before."
    quirk = "The sky is shared: of two players each gets every alien."

    def running(self, steps: pl.DataFrame, runs: Runs) -> npt.NDArray[Any]:
        return runs.sum(Sky.of(steps, runs).count())


class AliensInOrder(Running):
    """How many aliens were shot in a prescribed order."""

    games = INVADERS
    columns = ROWS
    dtype = pl.Int64
    unit = "aliens"

    def __init__(self, order: str) -> None:
        self.name = self.key = f"{order}_total"
        self.order = order
        self.definition = f"Aliens shot {_ORDER_DEFINITIONS[order]}."
        self.quirk = _quirk(order, "total", "")

    def running(self, steps: pl.DataFrame, runs: Runs) -> npt.NDArray[Any]:
        sky = Sky.of(steps, runs)
        return _in_order(sky, self.order, runs)


class ShareInOrder(Share):
    """The share of the aliens shot that were shot in a prescribed order."""

    games = INVADERS
    columns = ROWS

    def __init__(self, order: str) -> None:
        self.name = self.key = order
        self.order = order
        self.definition = (
            f"The share of the aliens shot that were shot {_ORDER_DEFINITIONS[order]}. 0 before the first."
        )
        self.quirk = _quirk(order, "fraction", " (fraction)")

    def counts(self, steps: pl.DataFrame, runs: Runs) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        sky = Sky.of(steps, runs)
        return _in_order(sky, self.order, runs), runs.sum(sky.count())


def _quirk(order: str, *recorded: str) -> str:
    return " ".join(filter(None, (_ORDER_QUIRKS.get(order, _JUDGED), _RECORDED.format(*recorded))))


def _in_order(sky: Sky, order: str, runs: Runs) -> npt.NDArray[np.int64]:
    allowed = ORDERS[order](sky)
    good = tuple(gone & columns for gone, columns in zip(sky.gone, allowed, strict=True))
    return runs.sum(_count(good))


class Accuracy(Share):
    """Hits per shot."""

    name = "accuracy"
    key = "Accuracy"
    games = INVADERS
    columns = ("reward", "ram_18", "ram_55", "ram_56")
    unit = "hits a shot"
    definition = (
        "The signs of the agent's rewards, added up, per step in which a shot of the agent's left its ship. 0 before"
        " the first shot."
    )
    quirk = (
        "A shot leaves where one of two slots is at height 0x55; a bit per slot says whose it is. Two in one step count"
        " as one. The bonus for the other player's death counts as a hit, so it can exceed 1."
    )

    _START = 0x55
    _SLOTS = (("ram_55", 0x4), ("ram_56", 0x8))  # where the height is, the bit of ram_18 that says it is the second's

    def counts(self, steps: pl.DataFrame, runs: Runs) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        agents = steps["agent_id"][runs.starts]
        episodes = steps["episode_id"][runs.starts]
        is_second = np.repeat(np.array([not agent.endswith("0") for agent in agents], np.bool_), runs.lengths)
        # Alone, one is always the shooter.
        is_alone = np.repeat((episodes.is_unique()).to_numpy(), runs.lengths)
        owners = steps["ram_18"].to_numpy()
        fired = np.zeros(runs.rows, np.bool_)
        for height, bit in self._SLOTS:
            is_own = is_alone | ((owners & bit != 0) == is_second)
            fired |= (steps[height].to_numpy() == self._START) & is_own
        hits = np.sign(steps["reward"].to_numpy()).astype(np.int64)
        return runs.sum(hits), runs.sum(fired)
