"""On which side of the screen somebody was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from .base import Runs, Share

__all__ = ["LEFT", "RIGHT", "RIVER_LEFT", "RIVER_RIGHT", "SHIP_LEFT", "SHIP_RIGHT", "Range", "Side"]


@dataclass(frozen=True)
class Range:
    """Where an agent's place is in RAM, and the places that count, both ends included."""

    address: str  # of the first player
    second: str  # of the second player
    low: int
    high: int


# The ship is at 0x23 at the left end of its way, at 0x75 at the right end; the plane at 0x4c in the middle.
SHIP_LEFT = Range("ram_1c", "ram_1d", 0x23, 0x4C)
SHIP_RIGHT = Range("ram_1c", "ram_1d", 0x4C, 0x75)
RIVER_LEFT = Range("ram_33", "ram_33", -1_000, 0x4C + 5)
RIVER_RIGHT = Range("ram_33", "ram_33", 0x4C - 5, 1_000)
_INVADERS = ("space_invaders", "space_invaders_2p", "space_invaders_ai")


class Side(Share):
    """The share of steps in which the agent was in a range of places; by game."""

    def __init__(self, name: str, ranges: Mapping[str, Range], definition: str, quirk: str = "") -> None:
        self.name = self.key = name
        self.games = tuple(ranges)
        self.ranges = ranges
        self.columns = ("game", *sorted({a for one in ranges.values() for a in (one.address, one.second)}))
        self.definition = definition
        self.quirk = quirk

    def counts(self, steps: pl.DataFrame, runs: Runs) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        one = self.ranges[steps["game"][0]]
        place = steps[one.address].to_numpy()
        if one.second != one.address:
            is_first = np.array([agent.endswith("0") for agent in steps["agent_id"][runs.starts]], np.bool_)
            place = np.where(np.repeat(is_first, runs.lengths), place, steps[one.second].to_numpy())
        return runs.sum((one.low <= place) & (place <= one.high)), runs.counts()


LEFT = Side(
    "left",
    {**dict.fromkeys(_INVADERS, SHIP_LEFT), "riverraid": RIVER_LEFT},
    "The share of steps in which the ship is on the left half of its way, or the plane at most 5 pixels to the right of"
    " the middle.",
    "The middle counts as left and as right; a place outside of the ship's way as neither."
    " Recorded as 'Time spent on left side of screen (fraction)' or 'Time spent on left side (fraction)'.",
)
RIGHT = Side(
    "right",
    {**dict.fromkeys(_INVADERS, SHIP_RIGHT), "riverraid": RIVER_RIGHT},
    "The share of steps in which the ship is on the right half of its way, or the plane at most 5 pixels to the left"
    " of the middle.",
    "As `left`. In montezuma_revenge_email CrowdPlay recorded River Raid's measure of another game's memory; that"
    " number means nothing, and this statistic is not defined there.",
)
