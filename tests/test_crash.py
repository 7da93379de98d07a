"""Ingest is killed, with its workers, at any moment: the next run finishes the job as if undisturbed."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from test_commit import content, is_whole

from crowdplay_ingest.pipeline import IngestOptions, ingest
from crowdplay_ingest.recording_metadata import put_rows
from crowdplay_ingest.verify_raw import RawSample, verify_raw
from crowdplay_lake import Lake
from crowdplay_lake.compact import compact
from crowdplay_lake.lock import LOCK_NAMES
from crowdplay_lake.verify import verify

pytest.importorskip("ale_py")
pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are found in /proc")

# The command, with an episode a task; it kills itself and all it has started when a function is called the n-th time,
# before or after that did its work. Arguments: module, function, count, whether after, and the command's own.
SCRIPT = """
import importlib, os, signal, sys
from crowdplay_ingest import pipeline, tasks
from crowdplay_lake.cli import main
pipeline.plan = lambda files, game_of, seconds: tasks.plan(files, game_of, 0.0)
module, name, count, after = sys.argv[1].split(",")
calls = 0
if module:
    owner = importlib.import_module(module)
    *classes, name = name.split(".")
    for one in classes:
        owner = getattr(owner, one)
    real = getattr(owner, name)
    def killing(*arguments, **options):
        global calls
        calls += 1
        if calls == int(count) and after == "0":
            os.killpg(0, signal.SIGKILL)
        result = real(*arguments, **options)
        if calls == int(count):
            os.killpg(0, signal.SIGKILL)
        return result
    setattr(owner, name, killing)
sys.argv = ["crowdplay-lake", *sys.argv[2:]]
main()
"""
NEVER = ",,,"


def start(*arguments: str | Path, point: str = NEVER, **options: Any) -> subprocess.Popen[str]:
    """The command in a process group of its own."""
    command = [sys.executable, "-c", SCRIPT, point, *map(str, arguments)]
    return subprocess.Popen(command, start_new_session=True, text=True, stderr=subprocess.PIPE, **options)


def processes_of(group: int) -> list[int]:
    """The living processes of a process group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, of_group = path.read_text().rpartition(")")[2].split()[:3]
            if int(of_group) == group and state not in "ZX":
                found.append(int(path.parent.name))
    return found


def all_gone(group: int) -> bool:
    for _ in range(100):
        if not processes_of(group):
            return True
        time.sleep(0.05)
    return False


def equal_content(path: Path) -> dict[str, Any]:
    """What a lake holds, however often its ingest was killed."""
    found = content(path)
    for row in found["rejected"]:
        del row["time"], row["source"]
    return found


def proven(path: Path, raw: Path) -> None:
    """The lake is whole and equal to its raw files, and no file lies in it that no commit names."""
    report = verify(path)
    assert (report.findings, report.notes) == ([], [])
    assert verify_raw(path, raw, RawSample(all=True))[1] == []
    unknown = {name for name in os.listdir(path) if name.startswith(".")} - LOCK_NAMES
    assert not unknown


@pytest.fixture(scope="module")
def undisturbed(small_raw: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("undisturbed") / "lake"
    ingest(small_raw, path, IngestOptions(workers=0))
    return equal_content(path)


@pytest.fixture
def begun(small_raw: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A raw folder, and a lake that has one episode of it."""
    raw, lake = tmp_path / "raw", tmp_path / "lake"
    first = min(small_raw.glob("?" * 32 + ".pickle"))
    raw.mkdir()
    shutil.copy(first, raw)
    ingest(raw, lake, IngestOptions(workers=0))
    shutil.copytree(small_raw, raw, dirs_exist_ok=True)
    return raw, lake


POINTS = [
    ("2", "crowdplay_ingest.pipeline,_Run._look,3,0", "while workers convert"),
    ("0", "crowdplay_ingest.pipeline,_Run._take,3,0", "between conversion and commit"),
    ("0", "crowdplay_lake.commit,Writer._append_row,2,0", "between a table's commit and the commit's row"),
    ("2", "crowdplay_lake.commit,_record_checksums,2,0", "between the commit's row and its checksums"),
]


@pytest.mark.parametrize(("workers", "point"), [pytest.param(w, p, id=f"{what}, {w}") for w, p, what in POINTS])
def test_killed_with_its_workers_it_goes_on(
    begun: tuple[Path, Path], undisturbed: dict[str, Any], workers: str, point: str
) -> None:
    raw, lake = begun
    reader = Lake(lake)
    with start("ingest", raw, lake, "--workers", workers, point=point) as process:
        _, told = process.communicate()
    assert process.returncode == -signal.SIGKILL, told
    assert all_gone(process.pid)
    assert is_whole(Lake(lake))

    ingest(raw, lake, IngestOptions(workers=0, lock_wait=5))
    assert equal_content(lake) == undisturbed
    proven(lake, raw)
    # Who had it open before all this still sees what was there.
    assert (reader.commit, len(reader.episodes())) == (1, 1)
    (episode,) = reader.episodes()
    assert len(episode.get_raw_trajectory()) * len(episode.agents) == reader.scan("steps").collect().height


def test_killed_while_it_recovers_it_goes_on(begun: tuple[Path, Path], undisturbed: dict[str, Any]) -> None:
    raw, lake = begun
    for point in (
        "crowdplay_lake.commit,Writer._append_row,1,0",
        "crowdplay_lake.commit,_complete_checksums,1,0",  # the tables are restored by then
        "crowdplay_lake.commit,Writer.remove_leftovers,1,0",
    ):
        with start("ingest", raw, lake, "--workers", "0", point=point) as process:
            _, told = process.communicate()
        assert process.returncode == -signal.SIGKILL, told
    assert is_whole(Lake(lake))
    ingest(raw, lake, IngestOptions(workers=0))
    assert equal_content(lake) == undisturbed
    proven(lake, raw)


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT to all", "SIGTERM soon"])
def test_told_to_end_it_leaves_no_process_and_no_file(begun: tuple[Path, Path], tmp_path: Path, how: str) -> None:
    raw, lake = begun
    for number in range(10):
        for path in list(raw.glob("?" * 32 + ".pickle")):
            shutil.copy(path, raw / f"{number}-{path.name}")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with start("ingest", raw, lake, "--workers", "2", env=environment) as process:
        assert process.stderr is not None
        # A line tells what is planned, the next one the first commit.
        lines = [process.stderr.readline() for _ in range(1 if how.endswith("soon") else 2)]
        assert "to ingest" in lines[0], lines
        if how == "SIGINT to all":
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.terminate()
        _, told = process.communicate()
    assert process.returncode == 130, told
    assert told.splitlines()[-1].startswith("interrupted: what was committed is in the lake")
    assert "Traceback" not in told
    assert all_gone(process.pid)
    assert list(temporary.iterdir()) == []
    report = verify(lake)
    assert (report.findings, report.notes) == ([], [])
    assert not (lake / ".lock-holder").exists()


# At random moments


def set_score(raw: Path, value: int) -> None:
    """The platform has computed something anew."""
    episodes = sorted(path.stem for path in raw.glob("?" * 32 + ".pickle"))
    put_rows(
        raw / "dataset.sqlite",
        {"episodekeyworddata": [(one, "all", "bonus", pickle.dumps(value + n)) for n, one in enumerate(episodes)]},
    )


KILLS = int(os.environ.get("CROWDPLAY_LAKE_KILLS", "100"))


def command_of(chance: random.Random, raw: Path, lake: Path, round_: int) -> list[str | Path]:
    kind = chance.choice(["ingest", "ingest", "ingest, processes", "metadata", "compact"])
    if kind == "compact":
        return ["compact", lake, "--target-size", "60kB"]
    if kind == "metadata":
        set_score(raw, round_)
        return ["ingest", raw, lake, "--metadata-only"]
    return ["ingest", raw, lake, "--workers", "2" if kind.endswith("processes") else "0"]


def holds(lake: Path, pid: int) -> bool:
    """Whether a process has the lake's lock: one that was killed leaves its name there."""
    with contextlib.suppress(OSError, ValueError):
        return bool(json.loads((lake / ".lock-holder").read_text())["pid"] == pid)
    return False


def killed_somewhere(chance: random.Random, lake: Path, command: list[str | Path]) -> bool:
    """Whether it was killed before it had ended."""
    with start(*command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and not holds(lake, process.pid):
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 3.0 if "2" in command else 1.0))
        is_running = process.poll() is None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert all_gone(process.pid)
    return is_running


@pytest.mark.soak
def test_killed_a_hundred_times(small_raw: Path, tmp_path: Path) -> None:
    raw, lake = tmp_path / "raw", tmp_path / "lake"
    raw.mkdir()
    shutil.copy(small_raw / "dataset.sqlite", raw)
    originals = sorted(small_raw.glob("*.pickle"))
    chance = random.Random(3)
    kills = rounds = 0
    began = time.monotonic()
    while kills < KILLS:
        # There is always something left to ingest.
        template = originals[rounds % len(originals)]
        shutil.copy(template, raw / (template.name if rounds < len(originals) else f"{rounds}-{template.name}"))
        kills += killed_somewhere(chance, lake, command_of(chance, raw, lake, rounds))
        rounds += 1
        if (lake / "commits" / "_delta_log").exists() and rounds % 5 == 0:
            with contextlib.suppress(FileNotFoundError):
                assert is_whole(Lake(lake))
                assert verify(lake).findings == []
    ingest(raw, lake, IngestOptions(workers=0))
    ingest(raw, tmp_path / "undisturbed", IngestOptions(workers=0))
    assert equal_content(lake) == equal_content(tmp_path / "undisturbed")
    proven(lake, raw)
    compact(lake)
    proven(lake, raw)
    seconds = time.monotonic() - began
    print(json.dumps({"kills": kills, "runs": rounds, "seconds": round(seconds), "commits": Lake(lake).commit}))
