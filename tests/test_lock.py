"""One writer at a time: two never both hold a lake, and the lock heals when its holder is gone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from crowdplay_ingest.pipeline import IngestOptions, ingest
from crowdplay_lake import Lake, lock
from crowdplay_lake.commit import Change, writing
from crowdplay_lake.errors import LakeBusy
from crowdplay_lake.layout import Part
from crowdplay_lake.snapshot import history
from crowdplay_lake.storage import as_path
from crowdplay_lake.verify import verify

HERE = IngestOptions(workers=0)

# Holds a lake until it is told to commit, which takes a part out of the table of users.
HOLDER = """
import sys
from crowdplay_lake import lock
from crowdplay_lake.commit import Change, writing
from crowdplay_lake.errors import LakeBusy
lock.BEAT, lock.PATIENCE = map(float, sys.argv[2:4])
try:
    with writing(sys.argv[1]) as writer:
        print("holds it", flush=True)
        sys.stdin.readline()
        writer.commit("late", {"users": Change(remove=writer.snapshot.parts("users"))}, {})
    print("committed", flush=True)
except LakeBusy as error:
    print(error, flush=True)
"""
QUICK = (0.2, 1.5)
# The same, and it waits when it has looked for the last time whether the lock is its own.
LATE = HOLDER.replace(
    "try:",
    """
from crowdplay_lake import commit
real = commit._write_commit_row
def late(*arguments):
    print("writes its row", flush=True)
    sys.stdin.readline()
    return real(*arguments)
commit._write_commit_row = late
try:""",
    1,
)


def holder(lake: object, beat: float = 5, patience: float = 20, script: str = HOLDER) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, str(lake), str(beat), str(patience)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "holds it\n"
    return process


def test_the_second_waits_and_a_killed_holder_holds_nothing(small_lake: Path, tmp_path: Path) -> None:
    lake = Path(shutil.copytree(small_lake, tmp_path / "lake"))
    with holder(lake) as process:
        with pytest.raises(LakeBusy, match=rf"process {process.pid} on .* \(since .*\) is writing to it; wait"):
            _take(lake, 0.2)
        began = time.monotonic()
        threading.Timer(1.0, _let_go, [process]).start()
        _take(lake, 20)
        assert time.monotonic() - began > 0.5
    with holder(lake) as process:
        left_over = lake / "steps" / "part-of-a-crash.parquet"
        left_over.write_bytes(b"half")
        process.kill()
        process.wait()
        _take(lake, 5)
        assert not left_over.exists()
    assert not (lake / ".lock-holder").exists()


def _let_go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def _take(lake: object, wait: float) -> None:
    with writing(str(lake), wait):
        pass


def test_a_recovery_that_was_interrupted_is_made_up_for(small_lake: Path, tmp_path: Path) -> None:
    lake = Path(shutil.copytree(small_lake, tmp_path / "lake"))
    left_over = lake / "steps" / "part-of-a-crash.parquet"
    left_over.write_bytes(b"half")
    (lake / ".lock-holder").write_text("{}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("crowdplay_lake.commit._complete_checksums", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            _take(lake, 1)
    assert left_over.exists()
    _take(lake, 1)
    assert not left_over.exists()


def _interrupted(*arguments: object) -> None:
    raise KeyboardInterrupt


# On object storage


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT", QUICK[0])
    monkeypatch.setattr(lock, "PATIENCE", QUICK[1])


@pytest.mark.usefixtures("quick")
def test_two_never_hold_the_lease(bucket: str) -> None:
    root = as_path(f"s3://{bucket}/lake")
    inside: list[int] = []
    most: list[int] = []
    taken: list[bool] = []
    faults: list[BaseException] = []

    def contend(number: int) -> None:
        try:
            for turn in range(3):
                if number == 0 and turn == 1:
                    # Somebody who dies: takes it and says nothing more.
                    lock._take(root / ".lock", 60)
                    return
                with lock.locked(root, 60) as hold:
                    inside.append(number)
                    most.append(len(inside))
                    hold.check()
                    taken.append(hold.unclean)
                    time.sleep(0.05)
                    hold.unclean = False
                    inside.remove(number)
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=contend, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert faults == []
    assert max(most) == 1
    assert len(taken) == 4 * 3 + 1
    # Who dies may have been the last.
    with lock.locked(root, 60) as hold:
        taken.append(hold.unclean)
    # One of them was told that the holder before had died.
    assert taken.count(True) == 1


@pytest.mark.usefixtures("quick")
def test_a_dead_holder_is_waited_for_a_living_one_is_told(bucket: str) -> None:
    root = as_path(f"s3://{bucket}/lake")
    with lock.locked(root, 0), pytest.raises(LakeBusy, match=r"is writing to it; wait for it to end, then run this"):
        lock._take(root / ".lock", 2 * QUICK[0])
    lock._take(root / ".lock", 0)  # and says nothing more
    with pytest.raises(LakeBusy, match=r"no sign of life in the 0\.\d seconds .* shows to who waits 0\.4 seconds"):
        lock._take(root / ".lock", QUICK[0])
    assert lock._take(root / ".lock", 2 * QUICK[0])[1]


def test_a_holder_that_slept_too_long_refuses_to_commit(bucket: str) -> None:
    lake = f"s3://{bucket}/lake"
    # Of the one who holds it then, and no commit names it yet.
    part = as_path(lake) / "steps" / "game=breakout" / "part-to-be-committed.parquet"

    def late() -> None:
        with writing(lake) as writer:
            assert lock._Lease(writer.paths.root / ".lock", 2).create()
            part.write_bytes(b"soon")
            writer.commit("late", {"users": Change(add=[Part("users", "late.parquet", 1, 1)])}, {})

    with pytest.raises(LakeBusy, match="somebody else took it; nothing was changed"):
        late()
    assert part.exists()
    assert Lake(lake).commit == 0


@pytest.mark.usefixtures("quick")
def test_a_holder_that_sleeps_as_it_commits_changes_nothing(bucket: str, small_raw: Path) -> None:
    lake = f"s3://{bucket}/lake"
    ingest(small_raw, lake, IngestOptions(metadata_only=True))
    with holder(lake, *QUICK, LATE) as process:
        _let_go(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "writes its row\n"
        os.kill(process.pid, signal.SIGSTOP)
        _take(lake, 30)
        before = Lake(lake).snapshot
        os.kill(process.pid, signal.SIGCONT)
        told, _ = process.communicate("\n")
    assert "somebody else is writing to commits at the same time; nothing was changed" in told
    after = Lake(lake).snapshot
    assert (after.number, after.row, after.versions) == (before.number, before.row, before.versions)
    report = verify(lake)
    assert report.findings == []
    # What it had done before, and was undone, waits for the next commit of that table; its row is gone.
    assert all(note.startswith("users/_delta_log/") for note in report.notes)
    assert [commit.operation for commit in history(lake)] == ["create", "ingest", "recover"]


def test_two_who_believe_that_they_hold_it_do_not_mix(small_lake: Path, tmp_path: Path) -> None:
    """Were the lock of no use at all: whoever comes second finds the tables changed, and stops."""
    lake = Path(shutil.copytree(small_lake, tmp_path / "lake"))
    with writing(lake) as first:
        (lake / ".lock").unlink()
        with writing(lake) as second:
            second._commit_table("users", Change(remove=second.snapshot.parts("users")), 99)
        with pytest.raises(LakeBusy, match="somebody else is writing to users"):
            first.commit("late", {"users": Change(remove=first.snapshot.parts("users"))}, {})
    _take(lake, 1)
    assert len(Lake(lake).sql("FROM users")) > 0


@pytest.mark.usefixtures("quick")
def test_killed_while_it_writes_to_object_storage_it_goes_on(bucket: str, small_raw: Path, small_lake: Path) -> None:
    from test_crash import start

    lake = f"s3://{bucket}/lake"
    point = "crowdplay_lake.commit,Writer._append_row,2,0"
    with start("ingest", small_raw, lake, "--workers", "0", point=point) as process:
        _, told = process.communicate()
    assert process.returncode == -signal.SIGKILL, told
    ingest(small_raw, lake, IngestOptions(workers=0, lock_wait=5))
    assert hashes(lake) == hashes(small_lake)


def hashes(lake: Any) -> dict[str, str]:
    return dict(Lake(lake).sql("SELECT episode_id, content_hash FROM episodes WHERE n_steps IS NOT NULL").fetchall())
