"""The machine a benchmark runs on: held to one core, and described."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import cv2
import pyarrow as pa

__all__ = ["cores", "processor", "stay_on_one_core", "versions"]

LIBRARIES = ("crowdplay-lake", "numpy", "numba", "polars", "pyarrow", "deltalake", "opencv-python-headless")


def cores() -> int:
    """Cores of the machine, whatever this process may use of them."""
    return os.cpu_count() or 1


def stay_on_one_core() -> str:
    """Hold this process to one core and its libraries to one thread; says what was possible."""
    cv2.setNumThreads(1)
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    if not hasattr(os, "sched_setaffinity"):
        return "one thread (this system cannot hold a process to a core)"
    core = max(os.sched_getaffinity(0))
    # Each thread by itself: those that the libraries started when they were imported keep their own mask.
    for thread in _threads():
        # Some end meanwhile.
        with suppress(ProcessLookupError):
            os.sched_setaffinity(thread, {core})
    return "one core, one thread"


def _threads() -> Iterable[int]:
    own = Path("/proc/self/task")
    return [int(thread.name) for thread in own.iterdir()] if own.is_dir() else [0]


def processor() -> str:
    """The processor's name."""
    facts = Path("/proc/cpuinfo")
    if facts.is_file():
        for line in facts.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def versions(others: Iterable[str] = ()) -> str:
    """Python and what does the work, and ``others``."""
    python = ".".join(map(str, sys.version_info[:3]))
    return ", ".join([f"Python {python}", *(f"{name} {version(name)}" for name in (*LIBRARIES, *others))])
