"""What is wanted next, made ahead of time by a thread."""

from __future__ import annotations

import os
import queue
import threading
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

__all__ = ["Prefetcher"]

_Item = TypeVar("_Item")

# Seconds after which a thread looks whether it is still wanted.
_LOOK = 0.1


class Prefetcher(Generic[_Item]):
    """Calls ``make`` again and again in a thread; ``ahead`` of what it makes, or is making, waits for `next`.

    What ``make`` raises is raised by `next`, once what was made before is taken; a later call starts anew. The thread
    ends with `close`, with this object, and with the process. After a fork the child starts its own.
    """

    def __init__(self, make: Callable[[], _Item], ahead: int) -> None:
        self._make = make
        self._ahead = ahead
        self._process = -1
        self._close: Callable[[], Any] = _nothing

    def next(self) -> _Item:
        """What was made first."""
        if self._process != os.getpid():
            self._start()
        while True:
            try:
                item, error = self._made.get(timeout=_LOOK)
            except queue.Empty:
                if self._thread.is_alive() or not self._made.empty():
                    continue
                raise RuntimeError("the thread that makes batches ended; it was closed meanwhile") from None
            self._free.release()
            if error is not None:
                self.close()
                raise error
            made: _Item = item
            return made

    def _start(self) -> None:
        self._made: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._free = threading.Semaphore(self._ahead)
        stop = threading.Event()
        work = (self._make, self._made, self._free, stop)
        # A daemon, for an exit does not wait for it to notice; the finalizer, which runs at exit too, ends it before.
        self._thread = threading.Thread(target=_run, args=work, name="crowdplay-lake prefetch", daemon=True)
        self._thread.start()
        self._close = weakref.finalize(self, _stop, self._thread, stop)
        self._process = os.getpid()

    def close(self) -> None:
        """End the thread; `next` would start another."""
        if self._process == os.getpid():
            self._close()
        self._process = -1


def _nothing() -> None:
    pass


def _run(
    make: Callable[[], Any], made: queue.SimpleQueue[Any], free: threading.Semaphore, stop: threading.Event
) -> None:
    while not stop.is_set():
        if not free.acquire(timeout=_LOOK):
            continue
        try:
            made.put((make(), None))
        except BaseException as error:
            made.put((None, error))
            return


def _stop(thread: threading.Thread, stop: threading.Event) -> None:
    stop.set()
    # Garbage may be collected in any thread.
    if thread is not threading.current_thread():
        thread.join()
