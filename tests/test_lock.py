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
from crowdplay_lake.commit import writing
from crowdplay_lake.errors import LakeBusy
from crowdplay_lake.storage import as_path

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


def holder(lake: object, beat: float = 5, patience: float = 20) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDER, str(lake), str(beat), str(patience)]
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
        threading.Timer(1.0, lambda: process.communicate("\n")).start()
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
    # One of them was told that the holder before had died.
    assert taken.count(True) == 1


@pytest.mark.usefixtures("quick")
def test_a_holder_that_slept_too_long_refuses_to_commit(bucket: str, small_raw: Path) -> None:
    lake = f"s3://{bucket}/lake"
    ingest(small_raw, lake, HERE)
    before = Lake(lake).commit
    with holder(lake, *QUICK) as process:
        os.kill(process.pid, signal.SIGSTOP)
        with writing(lake, 30) as writer:
            # Parts of the one who holds it now, which no commit names yet.
            part = writer.paths.part("steps", "game=breakout/part-to-be-committed.parquet")
            part.write_bytes(b"soon")
            os.kill(process.pid, signal.SIGCONT)
            told, _ = process.communicate("\n")
            assert "somebody else took it; nothing was changed" in told
            assert part.exists()
            part.unlink()
    assert Lake(lake).commit == before
    assert len(Lake(lake).sql("FROM users")) > 0


def test_two_who_believe_that_they_hold_it_do_not_mix(small_lake: Path, tmp_path: Path) -> None:
    """Were the lock of no use at all: whoever comes second finds the tables changed, and stops."""
    from crowdplay_lake.commit import Change

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
