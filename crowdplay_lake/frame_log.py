"""Where the change log of a screen of an episode lies in a lake, and its rows, read as far as they are needed."""

from __future__ import annotations

from dataclasses import dataclass

from .layout import LakePaths, read_rows
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


class CachedFrameLog:
    """A screen's change log that keeps what it read last."""

    def __init__(self, frames: FrameLog) -> None:
        self.screen = frames.screen
        self._frames = frames
        self._cached: ChangeLog | None = None

    def __len__(self) -> int:
        return len(self._frames)

    def log(self, first_step: int, last_step: int) -> ChangeLog:
        cached = self._cached
        if cached is not None and cached.first_step <= first_step and last_step < cached.first_step + len(cached):
            return cached
        self._cached = log = self._frames.log(first_step, last_step)
        return log


def read_group(paths: LakePaths, part: str, start: int, stop: int) -> ChangeLog:
    """A row group of a part of `frames`, rows ``start`` to ``stop``; its steps are the part's rows."""
    return change_log(start, read_rows(paths, FRAMES.name, part, start, stop, COLUMNS)[1])
