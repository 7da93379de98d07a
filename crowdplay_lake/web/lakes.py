"""The commits of the lake that pages look at: the newest one, and earlier ones by number."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict

from ..lake import Lake
from ..storage import AnyPath

__all__ = ["Lakes"]

# Commits that are kept open: that of a list, and those of players that were opened before.
OPEN = 4
# For so many seconds the newest commit is taken to be the newest.
FRESH = 1.0


class Lakes:
    """One lake at several commits. Raises InvalidLake where there is none at ``path``."""

    def __init__(self, path: AnyPath) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._open: OrderedDict[str, Lake] = OrderedDict()
        self._newest = self._kept(Lake(path))
        self._checked = time.monotonic()

    def newest(self) -> Lake:
        """The lake at its last commit: somebody may be writing."""
        with self._lock:
            if time.monotonic() - self._checked > FRESH:
                self._newest = self._kept(Lake(self.path))
                self._checked = time.monotonic()
            return self._newest

    def at(self, commit: int | None) -> Lake:
        """The lake at that commit, the newest one for None. Raises InvalidLake where it was vacuumed."""
        newest = self.newest()
        if commit is None or commit == newest.commit:
            return newest
        with self._lock:
            for lake in self._open.values():
                if lake.commit == commit:
                    return lake
            return self._kept(Lake(self.path, commit))

    def _kept(self, lake: Lake) -> Lake:
        """The same commit as it was opened before, with what was read of it."""
        # Of a lake that was made anew under this path the commits have other names.
        kept = self._open.setdefault(lake.snapshot.row, lake)
        self._open.move_to_end(lake.snapshot.row)
        while len(self._open) > OPEN:
            self._open.popitem(last=False)
        return kept
