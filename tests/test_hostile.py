"""Strangers' files, all together through a whole ingest; and people who give odd arguments, or names that bite."""

from __future__ import annotations

import bz2
import contextlib
import functools
import gzip
import os
import pickle
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import pytest
from conftest import read_raw
from typer.testing import CliRunner

from crowdplay_ingest.pipeline import IngestOptions, Progress, Rejection, ingest
from crowdplay_ingest.recording_metadata import put_rows
from crowdplay_lake import Lake
from crowdplay_lake.cli import main
from crowdplay_lake.cli.app import app, whole_app
from crowdplay_lake.errors import CrowdPlayLakeError, InvalidArgument, InvalidLake
from crowdplay_lake.verify import verify

pytest.importorskip("ale_py")
HERE = IngestOptions(workers=0)
APP = whole_app()


def doubling(levels: int) -> Any:
    """A list that holds one list twice, which holds one list twice: a few bytes, and no end to write it out."""
    value: Any = ["x"]
    for _ in range(levels):
        value = [value, value]
    return value


def step(agent: str = "a", **more: Any) -> dict[str, Any]:
    frame = np.zeros((6, 4, 3), np.uint8)
    return {"prev_obs": {agent: {"image": frame}}, "reward": {agent: 1}, "done": {agent: False}, **more}


@functools.cache
def bombs() -> dict[str, bytes]:
    """Files that expand, by the end of their names."""
    zeros = bytes(16 << 20)
    endless = b"\x80\x04](" + b"}(" + hostile.text("k") + b"](" + b"K\x01" * (3 << 20)
    long_name = b"\x80\x04](" + pickle.dumps(step("a" * 1_000_000))[2:-1]
    return {
        "doubling.pickle": pickle.dumps([step(more=doubling(60))]),
        "doubling_tuple.pickle": pickle.dumps([step(more=(0, {"k": doubling(90)}))]),
        "zeros.pickle.bz2": bz2.compress(zeros),
        "zeros_.pickle.gz": gzip.compress(zeros),
        "endless.pickle.bz2": bz2.compress(endless),
        "endless_.pickle.gz": gzip.compress(endless),
        "frames_of_frames.pickle": b"\x80\x04" + (b"\x95" + bytes(8)) * 300_000,
        "nested_gzip.pickle.gz": gzip.compress(gzip.compress(zeros)),
        "long_name.pickle": long_name + b"e.",
        "many_agents.pickle": pickle.dumps([{"prev_obs": {f"a{n}": np.zeros((2, 2), "u1") for n in range(9_999)}}]),
        "huge_frame.pickle": pickle.dumps([step()])[:-1] + b"a" * 9,
    }


class Times(Progress):
    """How long each file took, by what is told of it."""

    def __init__(self) -> None:
        self.slowest = (0.0, "")
        self._last = time.perf_counter()

    def advanced(self, steps: int, read_bytes: int) -> None:
        now = time.perf_counter()
        self.slowest = max(self.slowest, (now - self._last, f"{steps} steps, {read_bytes} bytes"))
        self._last = now

    def planned(self, episodes: int, total_bytes: int) -> None:
        self._last = time.perf_counter()


def hashes(lake: Path) -> dict[str, str]:
    return dict(Lake(lake).sql("SELECT episode_id, content_hash FROM episodes").fetchall())


def test_a_folder_of_nothing_but_hostile_files(
    small_raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    raw = tmp_path / "raw"
    raw.mkdir()
    clean = min(small_raw.glob("?" * 32 + ".pickle"))
    pack = [(".pickle", bytes), (".pickle.gz", gzip.compress), (".pickle.bz2", bz2.compress)]
    for number, (_, data) in enumerate(hostile.CASES):
        suffix, packed = pack[number % 3]
        (raw / f"h{number:04}{suffix}").write_bytes(packed(data))
    for name, data in bombs().items():
        (raw / f"i_{name}").write_bytes(data)
    # In one task, one after the other: what comes after them all is as what came before.
    for name in ("a_before", "h0200_between", "z_after"):
        shutil.copy(clean, raw / f"{name}.pickle")
    before = set(sys.modules)
    times = Times()
    summary = ingest(raw, tmp_path / "lake", IngestOptions(workers=0, task_seconds=1e9), times)

    assert summary.episodes == 3
    reasons = {rejection.name: rejection.reason for rejection in summary.rejected}
    assert len(reasons) == len(hostile.CASES) + len(bombs())
    assert not [reason for reason in reasons.values() if "please report it" in reason or len(reason) > 1_200]
    alone = tmp_path / "alone"
    alone.mkdir()
    for name in ("a_before", "h0200_between", "z_after"):
        shutil.copy(raw / f"{name}.pickle", alone)
    ingest(alone, tmp_path / "lake_alone", HERE)
    assert hashes(tmp_path / "lake") == hashes(tmp_path / "lake_alone")
    assert not (tmp_path / hostile.CANARY).exists()
    assert {path.name for path in tmp_path.iterdir()} == {"raw", "lake", "alone", "lake_alone"}
    assert hostile.CANARY_MODULE not in set(sys.modules) - before
    assert times.slowest[0] < 5, times.slowest
    assert summary.seconds < 60
    assert verify(tmp_path / "lake").findings == []


def test_in_workers_with_little_memory(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    for name, data in bombs().items():
        (raw / name).write_bytes(data)
    summary = ingest(raw, tmp_path / "lake", IngestOptions(workers=1, worker_memory=512 << 20))
    assert len(summary.rejected) == len(bombs())
    assert not [str(r) for r in summary.rejected if "memory" in r.reason or "died" in r.reason]


def metadata(tmp_path: Path, small_raw: Path, rows: dict[str, Any]) -> Path:
    raw = tmp_path / "raw"
    raw.mkdir()
    shutil.copy(min(small_raw.glob("?" * 32 + ".pickle")), raw / "e.pickle")
    empty: dict[str, Any] = {"environments": [("v", "t")], "episodes": [("e", "v")]}
    put_rows(raw / "dataset.sqlite", empty | rows)
    return raw


def test_values_that_expand_together(small_raw: Path, tmp_path: Path) -> None:
    values = [("e", "all", f"k{n}", pickle.dumps(doubling(60))) for n in range(300)]
    values += [("e", "all", f"s{n}", pickle.dumps(doubling(15))) for n in range(3_000)]
    began = time.monotonic()
    summary = ingest(metadata(tmp_path, small_raw, {"episodekeyworddata": values}), tmp_path / "lake", HERE)
    assert time.monotonic() - began < 30
    assert summary.episodes == 1
    assert {r.reason.partition(" of ")[0] for r in summary.rejected} >= {"a value"}
    assert any("together with others it expands" in r.reason for r in summary.rejected)


@pytest.mark.parametrize("game", ["g" * 300, "ü" * 90, "__HIVE_DEFAULT_PARTITION__"])
def test_games_that_cannot_be(small_raw: Path, tmp_path: Path, game: str) -> None:
    raw = metadata(tmp_path, small_raw, {"environmentkeyworddata": [("v", "all", "game", pickle.dumps(game))]})
    summary = ingest(raw, tmp_path / "lake", HERE)
    assert [r.name for r in summary.rejected] == ["dataset.sqlite/environmentkeyworddata/v/all/game"]
    assert Lake(tmp_path / "lake").sql("SELECT game, n_steps > 0 FROM episodes").fetchall() == [("unknown", True)]
    assert ingest(raw, tmp_path / "lake", HERE).commits == 0
    with pytest.raises(InvalidArgument, match="cannot be the name of a game"):
        ingest(raw, tmp_path / "lake", IngestOptions(workers=0, game=game))


ODD_IDS = ["..", "x" * 5_000, "é\u202e", "'\"; --", "a\nb\x1b[2J", "%41", " ", "../../etc/passwd", "[red]", "NULL"]


def test_ids_that_are_odd(small_raw: Path, tmp_path: Path) -> None:
    rows = {
        "environments": [(one, one) for one in ODD_IDS],
        "episodes": [(one, one) for one in ODD_IDS],
        "episodekeyworddata": [(one, one, one, pickle.dumps(one)) for one in ODD_IDS],
    }
    raw = metadata(tmp_path, small_raw, rows)
    ingest(raw, tmp_path / "lake", HERE)
    lake = Lake(tmp_path / "lake")
    found = {row[0] for row in lake.sql("SELECT episode_id FROM episodes").fetchall()}
    assert found == {*ODD_IDS, "e"}
    assert dict(lake.sql("SELECT key, value_text FROM keyword_data").fetchall()) == {one: one for one in ODD_IDS}
    assert verify(tmp_path / "lake").findings == []
    assert {path.name for path in tmp_path.iterdir()} == {"raw", "lake"}


# What is printed


ESCAPES = "\x1b]0;owned\x07\x1b[2J\r\n\x9b31m\u202e"


def test_what_a_file_says_does_not_reach_the_terminal(
    small_raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert str(Rejection("a\x1b[2J\n", 1, None, None, "b\x9b\r", 3)) == r"a\x1b[2J\n at step 3: b\x9b\r"
    values = [("e", "all", f"key {ESCAPES}", b"no pickle"), ("e", "all", "text", pickle.dumps(ESCAPES))]
    raw = metadata(tmp_path, small_raw, {"episodekeyworddata": values})
    (raw / f"name {ESCAPES.replace('/', '')}.pickle").write_bytes(b"no pickle")
    lake = tmp_path / "lake"
    for arguments in (
        ["ingest", raw, lake, "--workers", "0"],
        ["sql", lake, "SELECT * FROM keyword_data"],
        ["sql", lake, "FROM rejected"],
        ["verify", lake, raw],
        ["ingest", tmp_path / f"nothing {ESCAPES}", lake],
        ["info", tmp_path / f"nothing {ESCAPES}"],
    ):
        monkeypatch.setattr(sys, "argv", ["crowdplay-lake", *map(str, arguments)])
        with contextlib.suppress(SystemExit):
            main()
        said = "".join(capsys.readouterr())
        assert "Traceback" not in said
        assert not any(odd in said for odd in "\x1b\x07\x9b\u202e"), arguments


# Arguments


def invoke(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_places_inside_each_other(small_raw: Path, small_lake: Path, tmp_path: Path) -> None:
    raw = Path(shutil.copytree(small_raw, tmp_path / "raw"))
    with pytest.raises(InvalidLake, match="something else in it"):
        ingest(raw, raw, HERE)
    # The lake inside: it is no raw data, now or later.
    first = ingest(raw, raw / "lake", HERE)
    assert ingest(raw, raw / "lake", HERE).commits == 0
    assert verify(raw / "lake").proven
    # Raw files inside a lake, and a lake inside a lake.
    lake = Path(shutil.copytree(small_lake, tmp_path / "lake"))
    shutil.copytree(small_raw, lake / "raw")
    assert ingest(lake / "raw", lake, HERE).episodes == 0
    with pytest.raises(InvalidLake, match="is inside the lake"):
        ingest(raw, lake / "steps" / "inner", HERE)
    # By a link, and by one that leads in a circle.
    (tmp_path / "link").symlink_to(raw / "lake")
    (raw / "circle").symlink_to(raw)
    assert ingest(raw, tmp_path / "link", HERE).unchanged == first.episodes


@pytest.mark.parametrize(
    "arguments",
    [
        ["ingest", "", "lake"],
        ["ingest", "nothing", "lake"],
        ["ingest", "/dev/null", "lake"],
        ["ingest", "raw", "/dev/null"],
        ["ingest", "raw", "raw/file.pickle"],
        ["ingest", "raw", "x" * 300],
        ["ingest", "raw", "lake\0"],
        ["ingest", "raw\0", "lake"],
        ["ingest", "raw", "nothere://bucket/lake"],
        ["ingest", "raw", "lake", "--worker-memory", "1"],
        ["ingest", "raw", "lake", "--worker-memory", "nan"],
        ["ingest", "raw", "lake", "--worker-memory", "1e400G"],
        ["ingest", "raw", "lake", "--metadata", "raw/file.pickle", "--metadata-only"],
        ["ingest", "raw", "lake", "--metadata", "raw"],
        ["ingest", "raw", "lake", "--report", "nowhere/report.json"],
        ["ingest", "raw", "lake", "--game", "\n" * 500],
        ["verify", "raw"],
        ["compact", "raw", "--target-size", "-1MB"],
    ],
    ids=lambda arguments: " ".join(arguments)[:60].replace("\0", "NUL").replace("\n", "."),
)
def test_odd_arguments_are_told_in_our_words(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "file.pickle").write_bytes(b"no pickle")
    before = os.getcwd()
    os.chdir(tmp_path)
    try:
        ran = invoke(*arguments)
    finally:
        os.chdir(before)
    assert ran.exit_code != 0
    if ran.exception is not None and not isinstance(ran.exception, SystemExit):
        assert isinstance(ran.exception, CrowdPlayLakeError | OSError), ran.exception
        assert str(ran.exception)


class Meddling(Progress):
    """Changes the raw files as soon as they are listed."""

    def __init__(self, raw: Path) -> None:
        self.raw = raw

    def planned(self, episodes: int, total_bytes: int) -> None:
        vanishing, shrinking, growing = sorted(self.raw.glob("?" * 32 + ".pickle"))[:3]
        vanishing.unlink()
        os.truncate(shrinking, shrinking.stat().st_size // 2)
        with growing.open("ab") as file:
            file.write(b"more")


def test_files_that_change_while_they_are_read(small_raw: Path, small_lake: Path, tmp_path: Path) -> None:
    raw = Path(shutil.copytree(small_raw, tmp_path / "raw"))
    summary = ingest(raw, tmp_path / "lake", HERE, Meddling(raw))
    reasons = sorted(rejection.reason for rejection in summary.rejected if rejection.name != "broken.pickle")
    assert [reason.split(" at ")[0] for reason in reasons] == [
        "cannot be read: No such file or directory",
        "there is more after the pickle's end",
        "truncated",
    ]
    assert verify(tmp_path / "lake").proven
    # What is whole again goes in.
    for path in small_raw.glob("*.pickle"):
        shutil.copy(path, raw)
    ingest(raw, tmp_path / "lake", HERE)
    assert len(Lake(tmp_path / "lake").episodes()) == len(Lake(small_lake).episodes())
    assert read_raw(raw, min(Lake(small_lake).episodes(), key=len).episode_id)
