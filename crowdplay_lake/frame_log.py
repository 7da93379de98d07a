"""Where the change log of a screen of an episode lies in a lake, and its rows, read as far as they are needed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from .layout import LakePaths, group_starts, read_rows
from .pixels import ChangeLog, Screen, change_log
from .schema import FRAMES

__all__ = ["CachedFrameLog", "FrameLog", "read_group"]

COLUMNS = ("keyframe", "gaps", "colors")


@dataclass(frozen=True)
class FrameLog:
    """Rows of a part of `frames`: one for each step of an episode. Can be pickled, and needs no open lake."""

    paths: LakePaths
    part: str
    first_row: int
    steps: int
    screen: Screen

    def __len__(self) -> int:
        return self.steps

    def log(self, first_step: int, last_step: int) -> ChangeLog:
        """Rows from the last keyframe at or before ``first_step``, or earlier, to ``last_step``."""
        first, last = self.first_row + first_step, self.first_row + last_step
        start, rows = read_rows(self.paths, FRAMES.name, self.part, first, last + 1, COLUMNS, whole_groups=True)
        return change_log(start - self.first_row, rows)

    def stretches(self, first_step: int, last_step: int) -> Iterator[tuple[int, int]]:
        """These steps as they lie in row groups: (first, last) of each."""
        starts = group_starts(self.paths, FRAMES.name, self.part) - self.first_row
        edges = [first_step, *starts[(starts > first_step) & (starts <= last_step)].tolist(), last_step + 1]
        return ((start, stop - 1) for start, stop in itertools.pairwise(edges))


class CachedFrameLog:
    """A screen's change log that keeps what it read last, and before: a window may lie in two row groups."""

    def __init__(self, frames: FrameLog) -> None:
        self.screen = frames.screen
        self._frames = frames
        self._cached: list[ChangeLog] = []

    def __len__(self) -> int:
        return len(self._frames)

    def log(self, first_step: int, last_step: int) -> ChangeLog:
        for cached in self._cached:
            if cached.first_step <= first_step and last_step < cached.first_step + len(cached):
                return cached
        log = self._frames.log(first_step, last_step)
        self._cached = [*self._cached[-1:], log]
        return log

    def stretches(self, first_step: int, last_step: int) -> Iterator[tuple[int, int]]:
        return self._frames.stretches(first_step, last_step)


def read_group(paths: LakePaths, part: str, start: int, stop: int) -> ChangeLog:
    """A row group of a part of `frames`, rows ``start`` to ``stop``; its steps are the part's rows."""
    return change_log(start, read_rows(paths, FRAMES.name, part, start, stop, COLUMNS)[1])
