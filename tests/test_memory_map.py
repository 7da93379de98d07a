"""Observations in a file: made once, finished after a kill, reused, never mistaken for others, and removed."""

from __future__ import annotations

import json
import mmap
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from typer.testing import CliRunner

from crowdplay_lake import Lake
from crowdplay_lake.annotations import KeywordRow, write_keyword_data
from crowdplay_lake.cli import main
from crowdplay_lake.errors import CannotWrite, InvalidArgument, LakeBusy, UnknownMap, UnknownPath
from crowdplay_lake.observations import ObservationParameters
from crowdplay_lake.offline.lazy import SINGLE
from crowdplay_lake.offline.map_cache import list_maps, remove_maps
from crowdplay_lake.offline.mapped import DATA, LOCK, MANIFEST, describe, map_observations
from crowdplay_lake.offline.selection import Selection, select
from crowdplay_lake.offline.stream import stream
from crowdplay_lake.offline.transitions import Conversion

pytest.importorskip("ale_py")


@pytest.fixture(scope="module")
def selection(lake: Lake) -> Selection:
    return select(lake.episodes(), Conversion(), action_size=18)


@pytest.fixture(scope="module")
def expected(selection: Selection) -> np.ndarray:
    return np.concatenate(
        [np.asarray(s.episode.observations_at(s.steps, parameters=SINGLE)) for s in selection.segments]
    )


def is_mapped(array: Any) -> bool:
    """By a memmap, which knows its file: who sends it to another process can send the file's name."""
    return isinstance(array.base, np.memmap) and isinstance(array.base.base, mmap.mmap)


def test_a_map_holds_the_observations_and_is_made_once(
    selection: Selection, expected: np.ndarray, tmp_path: Path
) -> None:
    told: list[int] = []
    mapped = map_observations(selection, SINGLE, tmp_path / "map", tell=told.append)
    assert is_mapped(mapped)
    assert type(mapped) is np.ndarray
    assert np.array_equal(mapped, expected)
    assert not mapped.flags.writeable
    assert told == sorted(told)
    assert told[-1] == len(expected)
    assert sorted(p.name for p in (tmp_path / "map").iterdir()) == sorted([DATA, MANIFEST, LOCK])
    before = (tmp_path / "map" / DATA).stat().st_mtime_ns
    again = map_observations(selection, SINGLE, tmp_path / "map", tell=told.clear)  # type: ignore[arg-type]
    assert told, "nothing is made again"
    assert np.array_equal(again, expected)
    assert (tmp_path / "map" / DATA).stat().st_mtime_ns == before


def test_auto_is_a_folder_in_the_cache(
    selection: Selection, expected: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROWDPLAY_LAKE_CACHE", str(tmp_path / "cache"))
    assert list_maps() == []
    assert np.array_equal(map_observations(selection, SINGLE), expected)
    (found,) = list_maps()
    assert found.folder == tmp_path / "cache" / "observations" / describe(selection, SINGLE).key
    assert (found.observations, found.done, found.bytes) == (len(expected), len(expected), expected.nbytes)
    assert found.lakes == (str(selection.segments[0].episode.snapshot.paths.root),)
    map_observations(selection, SINGLE)
    assert len(list_maps()) == 1


def test_an_executor_makes_the_same(selection: Selection, expected: np.ndarray, tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as executor:
        assert np.array_equal(map_observations(selection, SINGLE, tmp_path / "map", executor), expected)


def test_what_a_worker_is_sent_is_small(selection: Selection) -> None:
    from crowdplay_lake.offline.stream import RUN, runs

    sizes = [len(pickle.dumps(run)) for run in runs(selection)]
    assert max(sizes) < 8 * RUN + 4_000


@pytest.mark.parametrize("first", [0, 1, 74, 75, 500])
def test_a_stream_goes_on_anywhere(selection: Selection, expected: np.ndarray, first: int) -> None:
    assert np.array_equal(np.concatenate(list(stream(selection, SINGLE, None, first))), expected[first:])


# Stopped while it is made

SLOWLY = """
import sys, time
from crowdplay_lake import Lake
from crowdplay_lake.offline import mapped
from crowdplay_lake.offline.lazy import SINGLE
from crowdplay_lake.offline.selection import select
from crowdplay_lake.offline.transitions import Conversion
mapped.SAFE_EVERY = 0
told = []
def tell(done):
    told.append(done)
    time.sleep(float(sys.argv[3]))
selection = select(Lake(sys.argv[1]).episodes(), Conversion(), action_size=18)
mapped.map_observations(selection, SINGLE, sys.argv[2], tell=tell)
print(len(told))
"""


def started(lake: Path, folder: Path, pause: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SLOWLY, str(lake), str(folder), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def done(folder: Path) -> int:
    try:
        return int(json.loads((folder / MANIFEST).read_text())["done"])
    except FileNotFoundError:
        return 0


def test_a_kill_in_the_middle_costs_little(
    lake: Lake, selection: Selection, expected: np.ndarray, tmp_path: Path
) -> None:
    folder = tmp_path / "map"
    process = started(Path(str(lake.path)), folder, 0.1)
    deadline = time.monotonic() + 60
    while done(folder) < 200 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = done(folder)
    assert 200 <= kept < len(expected)
    (unfinished,) = list_maps(tmp_path)
    assert (unfinished.done, unfinished.is_whole) == (kept, False)
    # Beyond what is known to be safe there may be anything.
    with (folder / DATA).open("r+b") as data:
        data.seek(kept * 7056)
        data.write(b"\x55" * 7056)
    told: list[int] = []
    mapped = map_observations(selection, SINGLE, folder, tell=told.append)
    assert np.array_equal(mapped, expected)
    assert told[0] > kept
    assert list_maps(tmp_path)[0].is_whole


def test_a_map_that_lost_its_data_is_made_again(selection: Selection, expected: np.ndarray, tmp_path: Path) -> None:
    map_observations(selection, SINGLE, tmp_path / "map")
    os.truncate(tmp_path / "map" / DATA, 100 * 7056 + 1)
    told: list[int] = []
    assert np.array_equal(map_observations(selection, SINGLE, tmp_path / "map", tell=told.append), expected)
    assert told[0] > 100
    (tmp_path / "map" / DATA).unlink()
    assert np.array_equal(map_observations(selection, SINGLE, tmp_path / "map"), expected)


def test_two_processes_make_it_once(lake: Lake, selection: Selection, expected: np.ndarray, tmp_path: Path) -> None:
    processes = [started(Path(str(lake.path)), tmp_path / "map", 0.05) for _ in range(2)]
    counts = sorted(int(process.communicate(timeout=300)[0]) for process in processes)
    assert counts[0] == 0
    assert counts[1] > 1
    assert np.array_equal(map_observations(selection, SINGLE, tmp_path / "map"), expected)


class Stopped(Exception):
    pass


@pytest.mark.parametrize("after", [1, 3])
def test_an_error_leaves_what_can_be_gone_on_with_or_nothing(
    selection: Selection, expected: np.ndarray, tmp_path: Path, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crowdplay_lake.offline.mapped.SAFE_EVERY", 0 if after > 1 else 100)
    calls = []

    def tell(done: int) -> None:
        calls.append(done)
        if len(calls) == after:
            raise Stopped

    with pytest.raises(Stopped):
        map_observations(selection, SINGLE, tmp_path / "map", tell=tell)
    assert (tmp_path / "map").exists() == (after > 1)
    assert np.array_equal(map_observations(selection, SINGLE, tmp_path / "map"), expected)


def test_who_waits_goes_on_when_the_other_fails(selection: Selection, expected: np.ndarray, tmp_path: Path) -> None:
    begun = threading.Event()

    def fail(done: int) -> None:
        begun.set()
        # Until the other one waits.
        time.sleep(0.3)
        raise Stopped

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(map_observations, selection, SINGLE, tmp_path / "map", tell=fail)
        assert begun.wait(30)
        second = pool.submit(map_observations, selection, SINGLE, tmp_path / "map")
        with pytest.raises(Stopped):
            first.result(30)
        assert np.array_equal(second.result(60), expected)


@pytest.mark.parametrize("left", [[LOCK], [LOCK, f".{MANIFEST}.tmp"], [LOCK, DATA]], ids=str)
def test_a_kill_at_the_very_beginning(
    selection: Selection, expected: np.ndarray, tmp_path: Path, left: list[str]
) -> None:
    for folder in ("map", "other"):
        (tmp_path / folder).mkdir()
        for name in left:
            (tmp_path / folder / name).write_bytes(b"x" if name != LOCK else b"")
    assert np.array_equal(map_observations(selection, SINGLE, tmp_path / "map"), expected)
    remove_maps(folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


# Another map


def test_a_map_of_something_else_is_told(lake: Lake, selection: Selection, tmp_path: Path) -> None:
    folder = tmp_path / "map"
    breakout = select(lake.episodes("game = 'breakout'"), Conversion())
    map_observations(breakout, SINGLE, folder)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    small = ObservationParameters(framestack_axis_first=True, stack_n=1, warp_width=42)
    for other, parameters, told in (
        (selection, SINGLE, "of other episodes or steps"),
        (breakout, small, "warp_width is 84, not 42"),
        (select(lake.episodes("game = 'breakout'"), Conversion(downsample_frequency=3)), SINGLE, "is 4, not 3"),
    ):
        with pytest.raises(InvalidArgument, match=rf"another memory map: .*{told}.*crowdplay-lake cache remove"):
            map_observations(other, parameters, folder)
        assert describe(other, parameters).key != describe(breakout, SINGLE).key
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "format": 0}))
    with pytest.raises(InvalidArgument, match="format is 0, not 1"):
        map_observations(breakout, SINGLE, folder)
    (folder / MANIFEST).write_bytes(before[folder / MANIFEST])
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    # Credited otherwise, but of the same screens.
    map_observations(select(lake.episodes("game = 'breakout'"), Conversion(rewards="crowdplay")), SINGLE, folder)


def test_a_map_of_another_commit_is_told(small_lake: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(small_lake, tmp_path / "lake"))

    def chosen() -> Selection:
        return select(Lake(path).episodes("game = 'breakout'"), Conversion())

    first = chosen()
    map_observations(first, SINGLE, tmp_path / "map")
    episode = first.segments[0].episode.episode_id
    write_keyword_data(path, [KeywordRow("keyword_data", episode, "all", "seen", True)])
    with pytest.raises(InvalidArgument, match=f"of commit {Lake(path).commit - 1}, not {Lake(path).commit}"):
        map_observations(chosen(), SINGLE, tmp_path / "map")
    assert describe(chosen(), SINGLE).key != describe(first, SINGLE).key
    # The same commit of the same lake, wherever it lies.
    moved = Lake(path.rename(tmp_path / "moved"), first.segments[0].episode.snapshot.number)
    again = select(moved.episodes("game = 'breakout'"), Conversion())
    assert describe(again, SINGLE) == describe(first, SINGLE)


@pytest.mark.parametrize("damage", [b"", b"[]", b"{", b'{"done": "all"}', b"\xff"])
def test_a_damaged_description_is_told(lake: Lake, tmp_path: Path, damage: bytes) -> None:
    breakout = select(lake.episodes("game = 'breakout'"), Conversion())
    map_observations(breakout, SINGLE, tmp_path / "map")
    (tmp_path / "map" / MANIFEST).write_bytes(damage)
    with pytest.raises(InvalidArgument, match=r"map\.json.*remove the folder"):
        map_observations(breakout, SINGLE, tmp_path / "map")
    assert [each.done for each in list_maps(tmp_path)] == [0]
    remove_maps(folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_map_stays_as_it_is(selection: Selection, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("mine")
    with pytest.raises(InvalidArgument, match="is a file"):
        map_observations(selection, SINGLE, tmp_path / "file")
    with pytest.raises(InvalidArgument, match=r"thesis\.tex.*no memory map"):
        map_observations(selection, SINGLE, tmp_path / "folder")
    with pytest.raises(UnknownMap):
        remove_maps(["folder"], tmp_path)
    assert [path.read_text() for path in (tmp_path / "file", tmp_path / "folder" / "thesis.tex")] == ["mine", "mine"]
    assert list_maps(tmp_path) == []


# The disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB, in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("a small disk can be mounted by root only")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_too_little_room_is_told_before_it_starts(selection: Selection, expected: np.ndarray, disk: Path) -> None:
    told: list[int] = []
    with pytest.raises(CannotWrite, match=rf"take {expected.nbytes:,} bytes .* that disk has [\d,]+ bytes .* left"):
        map_observations(selection, SINGLE, disk / "maps" / "map", tell=told.append)
    assert (told, list(disk.iterdir())) == ([], [])


def test_room_that_somebody_else_takes_meanwhile(
    selection: Selection, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crowdplay_lake.offline.mapped._require_room", lambda *_: None)
    with pytest.raises(CannotWrite, match="too little left"):
        map_observations(selection, SINGLE, disk / "map")
    assert list(disk.iterdir()) == []


def test_a_folder_that_may_not_be_written_to(lake: Lake) -> None:
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("another user is had by root only")
    # A folder of its own: pytest closes those that it gives to others.
    with tempfile.TemporaryDirectory() as own:
        _another_user_maps(lake, Path(own))


def _another_user_maps(lake: Lake, folder: Path) -> None:
    folder.chmod(0o755)
    copy = Path(shutil.copytree(lake.path, folder / "lake"))
    for path in (copy, *copy.rglob("*")):
        path.chmod(0o755)
    (folder / "theirs").mkdir(mode=0o755)
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c", SLOWLY]
    arguments = [str(copy), str(folder / "theirs" / "map"), "0"]
    ran = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    if "ModuleNotFoundError" in ran.stderr:
        pytest.skip("another user cannot read what these tests stand on")
    assert "CannotWrite" in ran.stderr, ran.stderr
    assert "may not be written to (Permission denied); name a folder that may" in ran.stderr
    assert list((folder / "theirs").iterdir()) == []


# The command


def command(*arguments: str | Path) -> Any:
    from crowdplay_lake.cli import caching
    from crowdplay_lake.cli.app import app

    del caching
    result = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, ["cache", *map(str, arguments)])
    if result.exit_code:
        raise result.exception or AssertionError(result.output)
    return result.stdout


@pytest.fixture
def cache(lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder with two maps."""
    monkeypatch.setenv("CROWDPLAY_LAKE_CACHE", str(tmp_path / "cache"))
    for game in ("breakout", "qbert"):
        map_observations(select(lake.episodes("game = ?", [game]), Conversion()), SINGLE)
    return tmp_path / "cache"


def test_the_command_lists_and_removes(lake: Lake, cache: Path) -> None:
    maps = list_maps()
    assert len(maps) == 2
    for text in (command(), command("list"), command("list", "--folder", cache / "observations")):
        assert all(each.name in text for each in maps)
        assert text.strip().endswith(f"2 maps, {sum(each.bytes for each in maps) / 2**20:.1f} MiB")
    told = json.loads(command("list", "--output", "json"))
    assert [(each["name"], each["bytes"], each["is_whole"]) for each in told] == [
        (each.name, each.bytes, True) for each in maps
    ]
    assert told[0]["lakes"] == [str(lake.path)]
    assert told[0]["commits"] == [lake.commit]
    with pytest.raises(UnknownMap, match=f"did you mean '{maps[0].name}'"):
        command("remove", maps[0].name[:-1])
    assert command("remove", maps[0].name).startswith("removed 1 map, ")
    assert [each.name for each in list_maps()] == [maps[1].name]
    assert [each["name"] for each in json.loads(command("remove", "--all", "--output", "json"))] == [maps[1].name]
    assert list((cache / "observations").iterdir()) == []
    assert command().strip() == "0 maps, 0 bytes"


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    for name in ("list", "remove --all"):
        with pytest.raises(UnknownPath):
            command(*name.split(), "--folder", tmp_path / "nothing")


@pytest.mark.parametrize("arguments", [["remove"], ["remove", "a", "--all"]], ids=" ".join)
def test_what_to_remove_is_said(cache: Path, arguments: list[str]) -> None:
    with pytest.raises(InvalidArgument, match="name maps to remove, or say --all"):
        command(*arguments)
    assert len(list_maps()) == 2


def test_a_map_that_is_being_made_is_not_removed(cache: Path) -> None:
    first, second = list_maps()
    with FileLock(first.folder / LOCK), pytest.raises(LakeBusy, match="is being made"):
        remove_maps([first.name])
    assert list_maps() == [first, second]


def test_who_has_it_mapped_reads_on(lake: Lake, cache: Path) -> None:
    selection = select(lake.episodes("game = 'qbert'"), Conversion())
    mapped = map_observations(selection, SINGLE)
    before = mapped.copy()
    remove_maps()
    assert np.array_equal(mapped, before)


def test_an_error_of_the_command_is_a_line(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["crowdplay-lake", "cache", "remove", "nothing"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("crowdplay-lake: error: no memory map 'nothing' in ")
