"""Who does the work: this process, others beside it, a cluster; and what happens to the work of one that dies."""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from crowdplay_ingest import workers
from crowdplay_ingest.machine import Limits
from crowdplay_ingest.pipeline import IngestOptions, Progress, ingest
from crowdplay_lake import Lake
from crowdplay_lake.errors import InvalidArgument, WorkersLost

# Episodes each a task of its own.
ONE_BY_ONE = 0.0


def contents(lake: Path) -> dict[str, str]:
    return dict(Lake(lake).sql("SELECT episode_id, content_hash FROM episodes WHERE n_steps IS NOT NULL").fetchall())


def parts_nobody_names(lake: Path) -> set[Path]:
    snapshot = Lake(lake).snapshot
    named = {path for table in ("steps", "frames") for path in snapshot.files(table)}
    return {path for table in ("steps", "frames") for path in (lake / table).rglob("*.parquet")} - named


def children() -> list[int]:
    """The processes that this one, in any of its threads, has started and that live."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            found += [int(pid) for pid in (task / "children").read_text().split()]
    return found


def has_open(pid: int, path: Path) -> bool:
    with contextlib.suppress(OSError):
        return any(os.readlink(f"/proc/{pid}/fd/{fd}") == str(path) for fd in os.listdir(f"/proc/{pid}/fd"))
    return False


@pytest.fixture(scope="module")
def some(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six episodes of the session's, with their metadata. Not to be changed."""
    folder = tmp_path_factory.mktemp("some")
    shutil.copy(raw / "dataset.sqlite", folder)
    for path in sorted(raw.glob("*.pickle.gz"), key=lambda path: path.stat().st_size)[:6]:
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def expected(some: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The contents of the lake of `some`, made in one process."""
    lake = tmp_path_factory.mktemp("expected") / "lake"
    ingest(some, lake, IngestOptions(workers=0))
    return contents(lake)


class Told(Progress):
    """Remembers what was told."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.read: list[int] = []

    def advanced(self, steps: int, read_bytes: int) -> None:
        self.steps.append(steps)
        self.read.append(read_bytes)


class Kill(Progress):
    """Kills a worker as soon as the first results are in the lake."""

    def __init__(self) -> None:
        self.killed = 0

    def committed(self, commit: int, episodes: int, steps: int) -> None:
        if not self.killed:
            # The last ones that were started are the workers; what helps them came first.
            self.killed = children()[-1]
            os.kill(self.killed, signal.SIGKILL)


def test_processes_make_the_same_lake_and_tell_every_step_and_byte(
    some: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    told = Told()
    summary = ingest(some, tmp_path / "lake", IngestOptions(workers=2, task_seconds=ONE_BY_ONE), told)
    assert summary.commits >= 1
    assert (sum(told.steps), sum(told.read)) == (summary.steps, summary.bytes_in)
    assert contents(tmp_path / "lake") == expected
    assert parts_nobody_names(tmp_path / "lake") == set()


@pytest.mark.parametrize("executor", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_any_executor_makes_the_same_lake(executor: type, some: Path, expected: dict[str, str], tmp_path: Path) -> None:
    import multiprocessing

    how = {"mp_context": multiprocessing.get_context("spawn")} if executor is ProcessPoolExecutor else {}
    with executor(2, **how) as pool:
        ingest(some, tmp_path / "lake", IngestOptions(executor=pool, task_seconds=ONE_BY_ONE))
        assert pool.submit(os.getpid).result()  # it is still its owner's
    assert contents(tmp_path / "lake") == expected


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="workers are found in /proc")
def test_the_work_of_a_killed_worker_is_done_again(some: Path, expected: dict[str, str], tmp_path: Path) -> None:
    kill = Kill()
    summary = ingest(some, tmp_path / "lake", IngestOptions(workers=2, task_seconds=ONE_BY_ONE), kill)
    assert kill.killed
    assert summary.rejected == ()
    assert contents(tmp_path / "lake") == expected
    assert parts_nobody_names(tmp_path / "lake") == set()


@contextlib.contextmanager
def killing_whoever_opens(path: Path) -> Iterator[list[int]]:
    """Every child that has ``path`` open is killed; gives the list of those that were."""
    killed: list[int] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.005):
            for pid in children():
                if has_open(pid, path):
                    killed.append(pid)
                    with contextlib.suppress(OSError):
                        os.kill(pid, signal.SIGKILL)
                    time.sleep(0.1)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield killed
    finally:
        stop.set()
        watching.join()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="workers are found in /proc")
def test_a_file_that_its_workers_die_of_is_rejected_and_nothing_else(
    some: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    raw = Path(shutil.copytree(some, tmp_path / "raw"))
    victim = max(raw.glob("*.pickle.gz"), key=lambda path: path.stat().st_size)
    told = Told()
    with killing_whoever_opens(victim) as killed:
        summary = ingest(raw, tmp_path / "lake", IngestOptions(workers=2), told)
    assert len(killed) >= 2
    # What is done again is not told again, nor taken back.
    assert min(told.steps) >= 0
    assert sum(told.steps) >= summary.steps
    (rejection,) = summary.rejected
    assert rejection.name == victim.name
    assert "its worker died" in rejection.reason
    alone = victim.name.partition(".")[0]
    assert contents(tmp_path / "lake") == {name: sha for name, sha in expected.items() if name != alone}
    assert parts_nobody_names(tmp_path / "lake") == set()

    # Nobody kills it any more.
    ingest(raw, tmp_path / "lake", IngestOptions(workers=0, retry_rejected=True))
    assert contents(tmp_path / "lake") == expected
    assert Lake(tmp_path / "lake").scan("rejected").collect().is_empty()


def test_a_worker_has_a_limit_on_its_memory(some: Path, expected: dict[str, str], tmp_path: Path) -> None:
    raw = Path(shutil.copytree(some, tmp_path / "raw"))
    huge = 600 * 2**20
    with (raw / "huge.pickle").open("wb") as file:
        # A list of one step whose one value takes more than the worker may have.
        file.write(b"\x80\x04]\x94}\x94\x8c\x01x\x94\x8e" + huge.to_bytes(8, "little"))
        file.truncate(file.tell() + huge)
        file.seek(0, os.SEEK_END)
        file.write(b"sa.")
    limits = Limits(max_item_bytes=2 * huge, max_step_bytes=4 * huge)
    summary = ingest(raw, tmp_path / "lake", IngestOptions(workers=1, worker_memory=400 << 20, limits=limits))
    (rejection,) = summary.rejected
    assert rejection.name == "huge.pickle"
    assert "memory" in rejection.reason
    assert contents(tmp_path / "lake") == expected


def test_what_says_that_a_worker_is_too_small() -> None:
    assert workers._is_lost(MemoryError())
    assert workers._is_lost(OSError("ZSTD compression failed: Allocation error : not enough memory"))
    assert not workers._is_lost(OSError(12, "not enough memory"))
    assert not workers._is_lost(ValueError("not enough memory"))


def test_an_executor_that_is_broken_is_told(some: Path, tmp_path: Path) -> None:
    import multiprocessing

    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        worker = pool.submit(os.getpid).result()
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(WorkersLost, match="the executor is broken"):
            ingest(some, tmp_path / "lake", IngestOptions(executor=pool))
    # The lake is there, and whole.
    assert len(Lake(tmp_path / "lake").scan("steps").collect()) == 0


def test_one_says_who_does_the_work(some: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="who is to do the work"):
        ingest(some, tmp_path / "lake", IngestOptions(workers=1, dask="tcp://127.0.0.1:1"))
    for options in (
        IngestOptions(dask="tcp://127.0.0.1:1", worker_memory=1 << 30),
        IngestOptions(workers=0, worker_memory=1 << 30),
    ):
        with pytest.raises(InvalidArgument, match="worker_memory limits processes"):
            ingest(some, tmp_path / "lake", options)
    with pytest.raises(InvalidArgument, match="workers is -1"):
        ingest(some, tmp_path / "lake", IngestOptions(workers=-1))


# A real cluster: a scheduler and two worker processes, over TCP


@pytest.fixture(scope="module")
def cluster() -> Iterator[object]:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None
    ) as cluster:
        yield cluster


def test_a_dask_cluster_makes_the_same_lake_though_a_worker_is_killed(
    cluster: object, some: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    pids = [nanny.process.process.pid for nanny in cluster.workers.values()]  # type: ignore[attr-defined]
    assert len(pids) == 2

    class KillOne(Progress):
        killed = False

        def committed(self, commit: int, episodes: int, steps: int) -> None:
            if not self.killed:
                self.killed = True
                os.kill(pids[0], signal.SIGKILL)

    kill = KillOne()
    address = cluster.scheduler_address  # type: ignore[attr-defined]
    assert address.startswith("tcp://")
    summary = ingest(some, tmp_path / "lake", IngestOptions(dask=address, task_seconds=ONE_BY_ONE), kill)
    assert kill.killed
    assert summary.rejected == ()
    assert contents(tmp_path / "lake") == expected


def test_a_cluster_that_is_not_there_is_told(some: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(workers, "ANSWERING", 0.5)
    with pytest.raises(WorkersLost, match=r"127\.0\.0\.1:9: no Dask scheduler answers there"):
        ingest(some, tmp_path / "lake", IngestOptions(dask="tcp://127.0.0.1:9"))


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """(the address of a scheduler with one worker, its process)"""
    pytest.importorskip("distributed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    how = ["--no-dashboard", "--host", "127.0.0.1"]
    begun = [
        subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.dask_{kind}", *options, *how], stderr=subprocess.DEVNULL
        )
        for kind, *options in (
            ("scheduler", "--port", str(port)),
            ("worker", address, "--nthreads", "1", "--no-nanny", "--local-directory", str(tmp_path / "dask")),
        )
    ]
    yield address, begun[0]
    for process in begun:
        process.kill()
        process.wait()


def test_a_scheduler_that_vanishes_is_told_and_what_was_done_is_in(
    own_cluster: tuple[str, subprocess.Popen[bytes]],
    some: Path,
    expected: dict[str, str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    address, scheduler = own_cluster

    class KillScheduler(Progress):
        episodes = 0

        def finished(self, episode_id: str) -> None:
            # Before the commit, which takes as long as some of the other tasks.
            scheduler.kill()

        def committed(self, commit: int, episodes: int, steps: int) -> None:
            self.episodes += episodes

    kill = KillScheduler()
    options = IngestOptions(dask=address, task_seconds=ONE_BY_ONE)
    with pytest.raises(WorkersLost, match="connection to the Dask scheduler is lost; what was done until then is in"):
        ingest(some, tmp_path / "lake", options, kill)
    assert len(contents(tmp_path / "lake")) == kill.episodes > 0
    assert contents(tmp_path / "lake").items() <= expected.items()
    assert not [record for record in caplog.records if record.name == "distributed.client"]


def test_work_that_is_cancelled_is_done_again_and_nobody_waits_for_it(
    some: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    class Cancelling(ThreadPoolExecutor):
        """Calls the second task off, as somebody may in a cluster; the sixth lasts until a seventh has come."""

        def __init__(self) -> None:
            super().__init__(1)
            self.futures: list[Future[Any]] = []
            self.others_done: list[bool] = []
            self.called_off, self.come = threading.Event(), threading.Event()

        def submit(self, function: Any, *arguments: Any, **options: Any) -> Future[Any]:
            number = len(self.futures)
            until = {0: self.called_off, 5: self.come}.get(number)

            def run() -> Any:
                if until is not None:
                    until.wait(20)
                return function(*arguments, **options)

            self.others_done.append(all(future.done() for future in self.futures))
            self.futures.append(super().submit(run))
            if number == 5:
                assert self.futures[1].cancel()
                self.called_off.set()
            if number == 6:
                self.come.set()
            return self.futures[-1]

    with Cancelling() as pool:
        summary = ingest(some, tmp_path / "lake", IngestOptions(executor=pool, task_seconds=ONE_BY_ONE))
    assert (summary.rejected, contents(tmp_path / "lake")) == ((), expected)
    assert len(pool.futures) == 7
    assert not pool.others_done[6]


def test_a_task_travels_as_plain_data(some: Path) -> None:
    from crowdplay_ingest.sources import open_source
    from crowdplay_ingest.tasks import plan

    tasks = plan(open_source(str(some)).episodes(), lambda file: "breakout", ONE_BY_ONE)
    assert pickle.loads(pickle.dumps(tasks)) == tasks
