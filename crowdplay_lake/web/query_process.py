"""The process that runs other people's SQL for the server: one that can be killed where a query cannot be stopped.

It reads a request a line on stdin, as JSON, and answers on stdout with a line each: the request's number, an HTTP
status, and a JSON document. It ends when stdin does.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from ..errors import CrowdPlayLakeError
from ..lake import Lake
from ..query import Stop
from .answers import refusal
from .console import rows_of, schema_of
from .listing import about, page_of
from .values import as_json

__all__ = ["TASKS", "serve"]

TASKS: Mapping[str, Callable[[Lake, Mapping[str, Any], Stop], dict[str, Any]]] = {
    "about": about,
    "episodes": page_of,
    "schema": schema_of,
    "sql": rows_of,
}
# Commits of the lake that are kept open.
OPEN_LAKES = 2


class _Lakes:
    """Commits of one lake, the last ones asked for kept open."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._open: OrderedDict[str, Lake] = OrderedDict()
        self._lock = threading.Lock()

    def open_newest(self) -> None:
        """Have the lake at hand as it is now, before somebody asks."""
        with suppress(CrowdPlayLakeError, OSError), self._lock:
            lake = Lake(self._path)
            self._open[lake.snapshot.row] = _warm(lake)

    def at(self, commit: int, row: str) -> Lake:
        """``row``: the part that holds the commit, which tells it from one of the same number in a lake made anew."""
        with self._lock:
            if row not in self._open:
                self._open[row] = _warm(Lake(self._path, commit))
            self._open.move_to_end(row)
            while len(self._open) > OPEN_LAKES:
                self._open.popitem(last=False)
            return self._open[row]


def _warm(lake: Lake) -> Lake:
    # Asked for twice, the wide view is kept in memory.
    for _ in range(2):
        lake.sql("SELECT 1 FROM episode_agents LIMIT 1")
    return lake


class _Process:
    def __init__(self, path: str, answers: TextIO) -> None:
        self._lakes = _Lakes(path)
        self._answers = answers
        self._lock = threading.Lock()
        self._stops: dict[int, Stop] = {}

    def open_newest(self) -> None:
        self._lakes.open_newest()

    def take(self, request: Mapping[str, Any]) -> None:
        if "stop" in request:
            with self._lock:
                stop = self._stops.get(request["stop"])
            if stop is not None:
                stop()
            return
        stop = Stop()
        with self._lock:
            self._stops[request["id"]] = stop
        threading.Thread(target=self._run, args=(request, stop), daemon=True).start()

    def _run(self, request: Mapping[str, Any], stop: Stop) -> None:
        number = request["id"]
        try:
            lake = self._lakes.at(request["commit"], request["row"])
            status, answer = 200, as_json(TASKS[request["task"]](lake, request["asked"], stop))
        except (CrowdPlayLakeError, OSError, MemoryError) as error:
            status, answer = refusal(error)
        except Exception as error:
            # Whatever it is, whoever asked gets an answer.
            status, answer = refusal(error)
            print(f"a query failed: {type(error).__name__}: {error}", file=sys.stderr)
        with self._lock:
            self._stops.pop(number, None)
            print(number, status, answer.decode(), file=self._answers, flush=True)


def serve(path: str, memory: int) -> None:
    """Answer until stdin ends. ``memory``: bytes beyond what the process begins with."""
    # Nothing that a library prints may come between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
    os.dup2(2, 1)
    _limit_memory(memory)
    process = _Process(path, answers)
    process.open_newest()
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        process.take(json.loads(line))
    # Not after the threads: a query may be at work that nobody waits for.
    os._exit(0)


def _limit_memory(memory: int) -> None:
    """Let this process take ``memory`` bytes more; beyond them a query fails. On Linux; elsewhere nothing."""
    with suppress(ImportError, OSError, ValueError, StopIteration):
        import resource

        status = Path("/proc/self/status").read_text()
        used = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData:")) * 1024
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (used + memory, hard))
