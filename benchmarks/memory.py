"""The most memory that this process has had."""

from __future__ import annotations

import re
import resource
from pathlib import Path

__all__ = ["peak"]


def peak() -> int:
    """Bytes. From /proc where there is one: `getrusage` counts what the parent had when it started this process."""
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.is_file() else None
    return 1024 * int(found[1]) if found else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
