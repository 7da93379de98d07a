"""Which steps of segments have a transition, and their numbers: as d3rlpy numbers them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["TransitionNumbers"]

_Numbers = npt.NDArray[np.int64]


class TransitionNumbers:
    """The transitions of segments, one segment after the other.

    A step has one where it has a next step or is a terminal: a segment that was cut off has none at its last step.
    ``ends``: int64 (segments,), the index after the last step of each; ``terminal``: bool (segments,), whether it ends
    in a terminal.
    """

    def __init__(self, ends: _Numbers, terminal: npt.NDArray[np.bool_]) -> None:
        lengths = np.diff(ends, prepend=0)
        # Of steps, by segment.
        self.starts = ends - lengths
        self.ends = ends
        # Of transitions, by segment: the number of its first, and the number after its last.
        self.stops = np.cumsum(lengths - ~terminal)
        self.firsts = np.concatenate([[0], self.stops[:-1]])

    def __len__(self) -> int:
        return int(self.stops[-1])

    def locate(self, numbers: _Numbers) -> tuple[_Numbers, _Numbers]:
        """(the segment, the place in it) of transitions. Raises IndexError."""
        if numbers.size and not (numbers.min() >= 0 and numbers.max() < len(self)):
            raise IndexError(f"transitions are 0 to {len(self) - 1}")
        segments = np.searchsorted(self.stops, numbers, side="right")
        return segments, numbers - self.firsts[segments]
