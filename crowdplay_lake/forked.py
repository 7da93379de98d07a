"""Lakes in forked processes, such as those of `multiprocessing.Pool` on Linux: CrowdPlay's own scripts write from them.

The library that reads and writes Delta's logs runs threads, which a fork leaves behind: a process that was forked
after Delta was used cannot use it. There another process does that part, a fresh one, as long as the forked one lives.
They speak JSON over pipes, a line each way.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from . import errors
from .errors import CrowdPlayLakeError
from .tagged import dumps, loads

__all__ = ["ask", "check_use", "is_cut_off", "serve"]

_used_by: int | None = None  # the process in which Delta was used first
_helper: tuple[int, subprocess.Popen[str]] | None = None  # and the process whose helper it is
_lock = threading.Lock()

_START = "import sys; sys.path[:] = {path!r}; from crowdplay_lake.forked import serve; serve()"


def check_use() -> None:
    """Delta is about to be used in this process. Raises CrowdPlayLakeError where it cannot be."""
    global _used_by
    if _used_by is None:
        _used_by = os.getpid()
    if is_cut_off():
        raise CrowdPlayLakeError(
            "a process that was forked after a lake was used can open lakes and write keyword data, and no more; "
            "start processes with multiprocessing.get_context('spawn') for the rest"
        )


def is_cut_off() -> bool:
    """Whether this process was forked after Delta was used."""
    return _used_by is not None and _used_by != os.getpid()


def ask(task: str, **arguments: Any) -> Any:
    """Have another process run a task of `serve`. Raises what it raises."""
    with _lock:
        helper = _running()
        request = {"task": task, "arguments": dumps(arguments)}
        try:
            print(json.dumps(request), file=helper.stdin, flush=True)
            answer = helper.stdout.readline() if helper.stdout else ""
        except OSError:
            answer = ""
        if not answer:
            _forget()
            raise CrowdPlayLakeError(
                "the process that reads and writes lakes for this forked one ended; run it again, or start processes"
                " with multiprocessing.get_context('spawn')"
            )
    told = json.loads(answer)
    if "error" in told:
        kind = getattr(errors, told["error"], CrowdPlayLakeError)
        error = kind.__new__(kind)
        error.args = (told["message"],)
        raise error
    return loads(told["result"])


def _running() -> subprocess.Popen[str]:
    global _helper
    if _helper is None or _helper[0] != os.getpid():
        # Its input ends with this process, and it with its input.
        command = [sys.executable, "-c", _START.format(path=sys.path)]
        started = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        _helper = os.getpid(), started
    return _helper[1]


def _forget() -> None:
    global _helper
    _helper = None


def _after_fork() -> None:
    # Whoever held it was left behind.
    global _lock
    _lock = threading.Lock()


# Where there is no fork, there is no need.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


# On the other side


def serve() -> None:
    """Answer requests on the standard input until it ends."""
    requests, answers = sys.stdin, sys.stdout
    # What a library prints is no answer.
    sys.stdout = sys.stderr
    tasks: Mapping[str, Callable[..., Any]] = {"snapshot": _snapshot, "write": _write}
    for line in requests:
        request = json.loads(line)
        try:
            answer = {"result": dumps(tasks[request["task"]](**loads(request["arguments"])))}
        except CrowdPlayLakeError as error:
            answer = {"error": type(error).__name__, "message": str(error)}
        except Exception as error:
            answer = {"error": CrowdPlayLakeError.__name__, "message": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


def _snapshot(root: str, commit: int | None) -> dict[str, Any]:
    from .schema import TABLES
    from .snapshot import open_snapshot

    snapshot = open_snapshot(root, commit)
    parts = {name: [[p.path, p.size, p.rows, p.partition] for p in snapshot.parts(name)] for name in TABLES}
    return {
        "number": snapshot.number,
        "time": snapshot.time,
        "operation": snapshot.operation,
        "versions": dict(snapshot.versions),
        "counts": dict(snapshot.counts),
        "row": snapshot.row,
        "parts": parts,
    }


def _write(root: str, rows: list[tuple[str, dict[str, Any]]], operation: str, lock_wait: float) -> int:
    from .annotations import write_checked

    return write_checked(root, rows, operation, lock_wait).number
