"""Where the change log of a screen of an episode lies in a lake, and its rows, read as far as they are needed."""

from __future__ import annotations

from dataclasses import dataclass

from .layout import LakePaths, read_rows
from .pixels import ChangeLog, Screen, change_log
from .schema import FRAMES

__all__ = ["FrameLog", "read_group"]

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


def read_group(paths: LakePaths, part: str, start: int, stop: int) -> ChangeLog:
    """A row group of a part of `frames`, rows ``start`` to ``stop``; its steps are the part's rows."""
    return change_log(start, read_rows(paths, FRAMES.name, part, start, stop, COLUMNS)[1])
