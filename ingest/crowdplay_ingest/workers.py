"""Who does the tasks: this process, processes beside it, or any `concurrent.futures.Executor`, such as a cluster's.

A worker that dies is replaced, and its tasks are done again: alone, so that the one that killed it shows; the files of
that one each alone, so that the culprit is rejected and nothing else.
"""

from __future__ import annotations

import logging
import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from crowdplay_lake.errors import CrowdPlayLakeError, MissingExtra, WorkersLost
from crowdplay_lake.layout import LakePaths
from crowdplay_lake.storage import naming

from .machine import Limits
from .task_queue import TaskQueue
from .tasks import Counters, Rejection, Task, TaskResult, run_task

__all__ = ["Workers", "dask_executor", "on_executor", "on_processes", "run_tasks", "this_process"]

POLL = 0.25  # seconds between two looks at the counters
# Seconds that the running tasks of somebody else's executor may take to end, where the ingest ends before them.
STOPPING = 300.0
# Seconds in which a Dask scheduler answers, if there is one.
ANSWERING = 10.0


class Workers(Protocol):
    """Somebody who does tasks."""

    at_once: int  # tasks worth handing over at once
    has_lost: bool  # a task that was begun: what it wrote, nobody will name

    def submit(self, task: Task) -> Future[TaskResult]:
        """Have a task done."""

    def renew(self) -> None:
        """Replace workers that died."""

    def check(self) -> None:
        """Raises WorkersLost where what was handed over will never be done, nor told to be lost."""

    def progress(self) -> tuple[int, int] | None:
        """(steps, raw bytes) done so far, or None where that shows with the results only."""


class _ThisProcess:
    """Does a task when it is asked to."""

    at_once = 1
    has_lost = False

    def __init__(self, paths: LakePaths, limits: Limits, tell: Callable[[int, int], None]) -> None:
        self._paths = paths
        self._limits = limits
        self._tell = tell
        self._done = (0, 0)

    def submit(self, task: Task) -> Future[TaskResult]:
        steps, read_bytes = self._done

        def tell(task_steps: int, task_bytes: int) -> None:
            self._done = (steps + task_steps, read_bytes + task_bytes)
            self._tell(*self._done)

        future: Future[TaskResult] = Future()
        future.set_result(run_task(self._paths, task, self._limits, tell))
        return future

    def renew(self) -> None:
        pass

    def check(self) -> None:
        pass

    def progress(self) -> tuple[int, int]:
        return self._done


class _OnExecutor:
    """Hands tasks to an executor that somebody else looks after."""

    def __init__(self, executor: Executor, paths: LakePaths, limits: Limits) -> None:
        self._executor = executor
        self._paths = paths
        self._limits = limits
        # A cluster may grow: let it see all there is to do. It tells nothing before a task is done.
        self.at_once = 1_000_000
        self.has_lost = False
        self._futures: set[Future[TaskResult]] = set()

    def submit(self, task: Task) -> Future[TaskResult]:
        try:
            future = self._executor.submit(run_task, self._paths, task, self._limits)
            self._futures.add(future)
            future.add_done_callback(self._futures.discard)
            return future
        except BrokenExecutor as error:
            raise WorkersLost(f"the executor is broken, and only whoever made it can make another: {error}") from error

    def renew(self) -> None:
        pass

    def check(self) -> None:
        # Of Dask's executor. When its scheduler is gone some futures are cancelled, others never end.
        client = getattr(self._executor, "_client", None)
        if getattr(client, "status", "running") != "running":
            raise WorkersLost(
                "the connection to the Dask scheduler is lost; what was done until then is in the lake: see that the"
                " scheduler runs, and run this again to go on from there"
            )

    def stop(self) -> None:
        """Begin no more tasks, and wait for those that run: what they write, nobody would name."""
        # Those that could be cancelled may never be told so, where a connection is lost.
        wait([future for future in list(self._futures) if not future.cancel()], timeout=STOPPING)

    def progress(self) -> None:
        return None


class _Processes:
    """Processes on this machine, each with a limit on its memory."""

    def __init__(self, count: int, memory: int, paths: LakePaths, limits: Limits, counters: Path, slots: int) -> None:
        # One more than there are workers, so that none has to wait for the next.
        self.at_once = count + 1
        self.has_lost = False
        self._count = count
        self._memory = memory
        self._paths = paths
        self._limits = limits
        self._counters_path = counters
        self._counters = Counters.create(counters, slots)
        self._executor = self._start()

    def _start(self) -> Executor:
        # loky starts workers without the caller's script, so that one without `if __name__ == "__main__"` works.
        from loky import ProcessPoolExecutor

        # Its semaphores lie there.
        with naming("/dev/shm"):
            executor: Executor = ProcessPoolExecutor(
                self._count, timeout=60, initializer=_prepare_worker, initargs=(self._memory,)
            )
        return executor

    def submit(self, task: Task) -> Future[TaskResult]:
        if task.of is not None:
            # What its worker had told before it died is told again, by the parts of it.
            self._counters.set(task.of, 0, 0)
        arguments = (self._paths, task, self._limits, self._counters_path, os.getpid())
        try:
            return self._executor.submit(run_task_of, *arguments)
        except BrokenExecutor as error:
            # One died while nobody looked: told where the others' deaths are.
            lost: Future[TaskResult] = Future()
            lost.set_exception(error)
            return lost

    def renew(self) -> None:
        self.kill()
        self._executor = self._start()

    def check(self) -> None:
        pass

    def progress(self) -> tuple[int, int]:
        return self._counters.total()

    def kill(self) -> None:
        self._executor.shutdown(wait=True, kill_workers=True)  # type: ignore[call-arg]


def run_task_of(paths: LakePaths, task: Task, limits: Limits, counters: Path, parent: int) -> TaskResult:
    """`run_task` in a worker process: tells its progress in a file, and gives up when its parent is gone."""
    shared = Counters(counters)

    def tell(steps: int, read_bytes: int) -> None:
        shared.set(task.number, steps, read_bytes)
        if os.getppid() != parent:
            raise SystemExit("whoever asked for this work is gone")

    return run_task(paths, task, limits, tell)


def _prepare_worker(memory: int) -> None:
    # An interrupt is for whoever asked for the work: it ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    limit_memory(memory)


def limit_memory(memory: int) -> None:
    """Let this process take ``memory`` bytes beyond what it has; more is a MemoryError. On Linux; elsewhere nothing."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        status = Path("/proc/self/status").read_text()
        used = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData:")) * 1024
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (used + memory, hard))


@contextmanager
def this_process(paths: LakePaths, limits: Limits, tell: Callable[[int, int], None]) -> Iterator[Workers]:
    """The process that asks: for little work, which is done before others have started. No memory limit of its own."""
    yield _ThisProcess(paths, limits, tell)


@contextmanager
def on_processes(count: int, memory: int, paths: LakePaths, limits: Limits, tasks: Sequence[Task]) -> Iterator[Workers]:
    """``count`` processes, each of which may take ``memory`` bytes, for ``tasks`` and what these are cut into."""
    slots = len(tasks) + sum(len(task.files) for task in tasks)
    with tempfile.TemporaryDirectory(prefix="crowdplay-lake-") as folder:
        workers = _Processes(count, memory, paths, limits, Path(folder, "counters"), slots)
        try:
            yield workers
        finally:
            workers.kill()


@contextmanager
def on_executor(executor: Executor, paths: LakePaths, limits: Limits) -> Iterator[Workers]:
    """An executor of the caller's."""
    workers = _OnExecutor(executor, paths, limits)
    try:
        yield workers
    finally:
        workers.stop()


@contextmanager
def dask_executor(address: str) -> Iterator[Executor]:
    """The executor of the Dask cluster at ``address``. Raises MissingExtra; WorkersLost where there is none."""
    try:
        from distributed import Client
    except ImportError as error:
        raise MissingExtra("distributed", "dask") from error
    try:
        client = Client(address, timeout=f"{ANSWERING}s", set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise WorkersLost(f"{address}: no Dask scheduler answers there ({error}); is it running?") from error
    # It tells of a lost connection with pages of traces; `_OnExecutor.check` tells what it means.
    log = logging.getLogger("distributed.client")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with client:
            yield client.get_executor(pure=False)
    finally:
        log.setLevel(level)


def run_tasks(workers: Workers, tasks: Sequence[Task], looked: Callable[[], None]) -> Iterator[list[TaskResult]]:
    """Have tasks done; yields the results as they come, whatever is there at a time.

    ``looked`` is called a few times a second. Raises what a task raises, and WorkersLost where workers keep dying.
    """
    queue = TaskQueue(tasks)
    running: dict[Future[TaskResult], Task] = {}
    while queue or running:
        workers.check()
        for task in queue.next(workers.at_once, len(running)):
            running[_submitted(workers, task)] = task
        done, _ = wait(running, timeout=POLL, return_when=FIRST_COMPLETED)
        if is_broken := any(isinstance(_error(future), BrokenExecutor) for future in done):
            # All that ran there is lost; it takes a moment until each of them knows.
            done, _ = wait(running)
        results = []
        for future in done:
            task = running.pop(future)
            error = _error(future)
            workers.has_lost |= error is not None
            if error is None:
                results.append(future.result())
            elif _is_cancelled(error):
                queue.cancelled(task)
            elif _is_lost(error):
                results += map(_blamed, queue.lost(task))
            else:
                raise _explained(error)
        if is_broken:
            queue.count_death()
            workers.renew()
        if results:
            queue.deaths = 0
        looked()
        if results:
            yield results


def _submitted(workers: Workers, task: Task) -> Future[TaskResult]:
    try:
        return workers.submit(task)
    except BrokenExecutor as error:
        # A worker died while it had nothing to do.
        future: Future[TaskResult] = Future()
        future.set_exception(error)
        return future


def _error(future: Future[TaskResult]) -> BaseException | None:
    return CancelledError() if future.cancelled() else future.exception()


def _is_lost(error: BaseException) -> bool:
    """Whether an error says that the worker is gone, or was too small. Dask's are told by name: it may be missing."""
    # What zstd lacks memory for comes as an OSError of no number.
    is_memory = isinstance(error, OSError) and error.errno is None and "not enough memory" in str(error)
    return is_memory or isinstance(error, BrokenExecutor | MemoryError) or type(error).__name__ == "KilledWorker"


def _is_cancelled(error: BaseException) -> bool:
    """Whether a task was called off, or the connection to who does it was lost; its workers may be well."""
    return any(kind.__name__.endswith("CancelledError") for kind in type(error).__mro__)


def _blamed(task: Task) -> TaskResult:
    ((_, file),) = task.files
    reason = "its worker died, each time alone with it: most likely it needs more memory than there is"
    return TaskResult(rejected=[Rejection(file.name, file.size, None, None, reason)])


def _explained(error: BaseException) -> BaseException:
    """The error of a task, as the user should read it."""
    if isinstance(error, CrowdPlayLakeError | OSError | KeyboardInterrupt):
        return error
    if isinstance(error, ImportError):
        return WorkersLost(f"the workers lack a module ({error}): install crowdplay-lake, the same version, there too")
    return error
