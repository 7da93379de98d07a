"""Queries with limits: run in a process of their own, stopped when their page goes or their time is over."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ..errors import QueryError
from ..snapshot import Snapshot
from ..storage import AnyPath

__all__ = ["Answer", "Queries"]

# Queries that run at a time; others wait for their turn.
AT_ONCE = 4
POLL = 0.1
# Tasks that say the same of a commit whoever asks, and how many such answers are kept.
_OF_COMMIT = ("about", "schema")
KEPT = 8
# What a query that was stopped may still take, before its process is killed.
GRACE = 1.5
_START = (
    "import sys; sys.path[:] = {path!r}; from crowdplay_lake.web.query_process import serve; serve({lake!r}, {memory})"
)
_ENDED = "the process of queries ended: another one there could not be stopped, or took too much memory; ask again"

Answer = tuple[int, bytes]


@dataclass
class _Process:
    """A running process, and what it was asked and has not answered."""

    popen: subprocess.Popen[str]
    waiting: dict[int, Future[Answer]] = field(default_factory=dict)
    has_ended: bool = False
    telling: threading.Lock = field(default_factory=threading.Lock)
    lock: threading.Lock = field(default_factory=threading.Lock)  # of what waits
    ready: threading.Event = field(default_factory=threading.Event)

    def expect(self, number: int) -> Future[Answer]:
        """The answer to a request that is about to be told."""
        future: Future[Answer] = Future()
        with self.lock:
            if self.has_ended:
                raise QueryError(_ENDED)
            self.waiting[number] = future
        return future

    def tell(self, request: Mapping[str, Any]) -> None:
        # A process that is gone is noticed where its answers are read.
        with suppress(OSError, ValueError), self.telling:
            print(json.dumps(request), file=self.popen.stdin, flush=True)

    def read(self) -> None:
        """Hand out answers until the process ends."""
        for line in self.popen.stdout or ():
            if line == "ready\n":
                self.ready.set()
                continue
            number, status, document = line.split(" ", 2)
            with self.lock:
                future = self.waiting.pop(int(number))
            future.set_result((int(status), document.encode()))
        self.popen.wait()
        with self.lock:
            self.has_ended = True
        self.ready.set()
        for future in self.waiting.values():
            future.set_exception(QueryError(_ENDED))

    def end(self) -> None:
        with suppress(OSError):
            self.popen.kill()


class Queries:
    """Runs the tasks of `query_process`. ``seconds``: the longest of a query; ``memory``: bytes for all of them."""

    def __init__(self, path: AnyPath, seconds: float, memory: int) -> None:
        self._path = path
        self._seconds = seconds
        self._memory = memory
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._numbers = 0
        self._kept: dict[tuple[str, str], bytes] = {}

    def start(self) -> _Process:
        """The running process; a new one where there is none."""
        with self._lock:
            if self._process is None or self._process.has_ended or self._process.popen.poll() is not None:
                code = _START.format(path=sys.path, lake=str(self._path), memory=self._memory)
                popen = subprocess.Popen(
                    [sys.executable, "-c", code],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    encoding="utf-8",
                    # An interrupt at the keyboard is for the server, which ends this one.
                    start_new_session=True,
                )
                self._process = _Process(popen)
                threading.Thread(target=self._process.read, daemon=True).start()
            return self._process

    def close(self) -> None:
        """End the process, with whatever it does."""
        with self._lock:
            if self._process is not None:
                self._process.end()
                self._process = None

    def _kill(self, process: _Process) -> None:
        """End a process that listens to nothing; whoever asks next gets another one."""
        with self._lock:
            process.end()
            if self._process is process:
                self._process = None
        # It is needed soon.
        threading.Thread(target=self.start, daemon=True).start()

    async def ask(
        self, task: str, snapshot: Snapshot, asked: Mapping[str, Any], gone: Callable[[], Awaitable[bool]]
    ) -> Answer:
        """Status and JSON document. ``gone`` tells whether nobody waits any more.

        Raises QueryError for a query that took too long, or was ended with another one.
        """
        if task not in _OF_COMMIT:
            return await self._asked(task, snapshot, asked, gone)
        # The lake of a kept answer may have been made anew, with the same numbers: the row's name tells.
        key = (task, snapshot.row)
        if key not in self._kept:
            status, document = await self._asked(task, snapshot, asked, gone)
            if status != 200:
                return status, document
            self._kept[key] = document
            while len(self._kept) > KEPT:
                self._kept.pop(next(iter(self._kept)))
        return 200, self._kept[key]

    async def _asked(
        self, task: str, snapshot: Snapshot, asked: Mapping[str, Any], gone: Callable[[], Awaitable[bool]]
    ) -> Answer:
        async with self._turns:
            if await gone():
                return 499, b"{}"
            process = await asyncio.to_thread(self.start)
            await asyncio.to_thread(process.ready.wait)
            self._numbers += 1
            number = self._numbers
            answer = asyncio.wrap_future(process.expect(number))
            request = {"id": number, "task": task, "commit": snapshot.number, "row": snapshot.row, "asked": asked}
            threading.Thread(target=process.tell, args=(request,), daemon=True).start()
            return await self._answer(process, number, answer, gone)

    async def _answer(
        self, process: _Process, number: int, answer: asyncio.Future[Answer], gone: Callable[[], Awaitable[bool]]
    ) -> Answer:
        late = time.monotonic() + self._seconds
        stopped: float | None = None
        while True:
            await asyncio.wait({answer}, timeout=POLL)
            now = time.monotonic()
            if answer.done():
                if stopped is None or answer.result()[0] == 200:
                    return answer.result()
                break
            if stopped is None and (now >= late or await gone()):
                stopped = now
            if stopped is not None:
                # Again and again: a query that is just beginning may miss it.
                threading.Thread(target=process.tell, args=({"stop": number},), daemon=True).start()
                if now > stopped + GRACE:
                    self._kill(process)
                    answer.add_done_callback(lambda future: future.exception())
                    break
        raise QueryError(
            f"the query was stopped: it may take {self._seconds:g} s; ask for less, or start the server with a longer"
            " --time-limit"
        )
