"""What memory this process has, and the most that it has had."""

from __future__ import annotations

import re
import resource
import threading
from pathlib import Path

__all__ = ["Anonymous", "peak"]


def peak() -> int:
    """Bytes. From /proc where there is one: `getrusage` counts what the parent had when it started this process."""
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.is_file() else None
    return 1024 * int(found[1]) if found else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class Anonymous:
    """The anonymous part of this process's resident memory: its own, without what is mapped from files."""

    def __init__(self) -> None:
        self.most = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.most = max(self.most, self.now())
            threading.Event().wait(0.05)

    @staticmethod
    def now() -> int:
        """Bytes. Raises OSError where there is no /proc."""
        found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return 1024 * int(found[1]) if found else 0
