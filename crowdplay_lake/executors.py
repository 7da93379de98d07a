"""Work on an executor, in order: processes here, threads, a Dask cluster, whatever has `submit`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from typing import TypeVar

from .errors import WorkersLost

__all__ = ["in_order"]

_Task = TypeVar("_Task")
_Answer = TypeVar("_Answer")


def in_order(
    function: Callable[[_Task], _Answer], tasks: Iterable[_Task], executor: Executor | None, ahead: int, what: str
) -> Iterator[tuple[_Task, _Answer]]:
    """Each task with ``function`` of it, in the order of ``tasks``.

    ``executor``: who does it; None is this thread. ``ahead``: how many answers may wait for the one that is wanted
    next. ``what``: what a worker does, for an error. Raises WorkersLost where a worker dies or the executor is broken,
    and whatever ``function`` raises; what was not begun then is cancelled.
    """
    if executor is None:
        for task in tasks:
            yield task, function(task)
        return
    waiting: deque[tuple[_Task, Future[_Answer]]] = deque()
    try:
        for task in tasks:
            waiting.append((task, _submit(executor, function, task)))
            if len(waiting) > ahead:
                yield _next(waiting, what)
        while waiting:
            yield _next(waiting, what)
    finally:
        for _, future in waiting:
            future.cancel()


def _submit(executor: Executor, function: Callable[[_Task], _Answer], task: _Task) -> Future[_Answer]:
    try:
        return executor.submit(function, task)
    except BrokenExecutor as error:
        raise WorkersLost(f"the executor is broken, and only whoever made it can make another: {error}") from error


def _next(waiting: deque[tuple[_Task, Future[_Answer]]], what: str) -> tuple[_Task, _Answer]:
    task, future = waiting[0]
    try:
        answer = future.result()
    except Exception as error:
        if not _is_lost(error):
            raise
        raise WorkersLost(f"a worker died while it {what}: {error}; is there too little memory?") from error
    waiting.popleft()
    return task, answer


def _is_lost(error: Exception) -> bool:
    """Whether the worker is gone, or was too small. Dask's errors are told by name: it may be missing."""
    return isinstance(error, BrokenExecutor | MemoryError) or type(error).__name__ in ("KilledWorker", "CancelledError")
