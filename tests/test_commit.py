"""Commits: a reader sees all of a change or nothing, keeps its snapshot, and a crash leaves nothing half-done."""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import DeltaTable

from crowdplay_ingest.pipeline import IngestOptions, IngestSummary, ingest
from crowdplay_ingest.recorder import EnvironmentPlan, EpisodePlan, RecordingOptions, record
from crowdplay_ingest.recording_metadata import put_rows
from crowdplay_lake import Lake, commit, schema, snapshot
from crowdplay_lake.errors import CrowdPlayLakeError, InvalidArgument, InvalidLake, LakeBusy, UnknownCommit
from crowdplay_lake.schema import TABLES

pytest.importorskip("ale_py")

FIRST_DAY = [EnvironmentPlan("breakout_mturk", (EpisodePlan(30), EpisodePlan(20)), ("ben",))]
SECOND_DAY = [
    EnvironmentPlan("space_invaders_left", (EpisodePlan(25),), ("ada",)),
    EnvironmentPlan("breakout_mturk", (EpisodePlan(15),), ("cleo",)),
]
# A commit for each episode.
ONE_BY_ONE = IngestOptions(task_seconds=0)


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A raw folder of the first day, and one of both days. Not to be changed."""
    folder = tmp_path_factory.mktemp("days")
    record(folder / "first", FIRST_DAY, RecordingOptions(seed=1))
    shutil.copytree(folder / "first", folder / "both")
    record(folder / "both", SECOND_DAY, RecordingOptions(seed=2))
    return folder / "first", folder / "both"


@pytest.fixture(scope="module")
def first_lake(days: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lake of the first day. Not to be changed."""
    path = tmp_path_factory.mktemp("first") / "lake"
    ingest(days[0], path)
    return path


@pytest.fixture
def lake_path(first_lake: Path, tmp_path: Path) -> Path:
    """A copy of the first day's lake, to be changed."""
    return Path(shutil.copytree(first_lake, tmp_path / "lake"))


@pytest.fixture(scope="module")
def undisturbed(days: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a lake of both days holds when nothing goes wrong."""
    path = tmp_path_factory.mktemp("undisturbed") / "lake"
    ingest(days[1], path)
    return content(path)


def content(path: Path) -> dict[str, Any]:
    """Everything a lake holds that does not depend on when and how it was written, read anew from its files."""
    lake = Lake(path)
    not_content = ["steps_part", "steps_first_row", "frames_part", "frames_first_row", "source_stamp", "commit"]
    tables: dict[str, Any] = {}
    for name, table in TABLES.items():
        rows = lake.scan(name).collect()
        if name in ("steps", "frames"):
            tables[name] = rows.height
        else:
            tables[name] = rows.drop(not_content, strict=False).sort(table.sort).to_dicts()
    tables["raw"] = [(e.episode_id, sum(len(s["prev_obs"]) for s in e.get_raw_trajectory())) for e in lake.episodes()]
    return tables


def is_whole(lake: Lake) -> bool:
    """Whether the tables of a snapshot tell the same story."""
    (expected,) = lake.sql("SELECT coalesce(sum(n_steps * len(agents)), 0)::BIGINT FROM episodes").fetchall()
    (steps,) = lake.sql("SELECT count(*) FROM steps").fetchall()
    (strangers,) = lake.sql(
        "SELECT count(*) FROM keyword_data WHERE episode_id NOT IN (SELECT episode_id FROM episodes)"
    ).fetchall()
    return bool(expected == steps and strangers == (0,))


def orphans(path: Path) -> set[Path]:
    """Parquet files on disk that no table's last version knows."""
    known = {part for name in TABLES for part in Lake(path).snapshot.files(name)}
    return {p for p in path.rglob("*.parquet") if p.parent.name != "commits"} - known


# Snapshots


def test_a_reader_keeps_its_snapshot_while_another_ingests(days: tuple[Path, Path], lake_path: Path) -> None:
    before, lazy_before = Lake(lake_path), Lake(lake_path)
    assert len(before.episodes()) == 2

    ingest(days[1], lake_path)

    after = Lake(lake_path)
    assert after.commit > before.commit
    assert len(after.episodes()) == 4
    # `lazy_before` had read nothing but the commit's number when the other one committed.
    for reader in (before, lazy_before):
        assert len(reader.episodes()) == 2
        assert reader.sql("SELECT count(*) FROM episodes").fetchall() == [(2,)]
        assert reader.scan("steps").select(pl.col("episode_id").n_unique()).collect().item() == 2
        assert len(reader.episodes()[0].get_raw_trajectory()) == len(reader.episodes()[0])


def test_every_commit_can_be_opened_by_its_number(days: tuple[Path, Path], tmp_path: Path) -> None:
    summary = ingest(days[1], tmp_path / "lake", ONE_BY_ONE)
    # Commit 0 is the empty lake; the metadata comes whole with the first episode, trajectories one by one.
    trajectories = [
        sum(
            row["n_steps"] is not None
            for row in Lake(tmp_path / "lake", commit=n).snapshot.read("episodes").to_pylist()
        )
        for n in range(summary.commit + 1)
    ]
    assert trajectories == [0, 1, 2, 3, 4]
    assert Lake(tmp_path / "lake").commit == summary.commit == 4
    assert [Lake(tmp_path / "lake", commit=n).snapshot.operation for n in (0, 4)] == ["create", "ingest"]
    with pytest.raises(UnknownCommit, match="no commit 5"):
        Lake(tmp_path / "lake", commit=5)
    with pytest.raises(InvalidLake, match="no commit -1"):
        Lake(tmp_path / "lake", commit=-1)


def test_the_row_of_a_commit_says_what_it_did(first_lake: Path) -> None:
    lake = Lake(first_lake)
    assert lake.snapshot.counts == {"episodes": 2, "steps": sum(map(len, lake.episodes()))}
    assert set(lake.snapshot.versions) == set(TABLES)
    assert lake.snapshot.time.tzinfo is not None
    assert datetime.now(lake.snapshot.time.tzinfo) >= lake.snapshot.time


def test_without_a_change_there_is_no_commit(first_lake: Path) -> None:
    with commit.writing(first_lake) as writer:
        before = writer.snapshot.number
        assert writer.commit("nothing", {"steps": commit.Change()}, {}).number == before
    assert Lake(first_lake).commit == before


def test_an_unknown_table_is_refused(first_lake: Path) -> None:
    with commit.writing(first_lake) as writer:
        change = commit.Change(add=writer.snapshot.parts("steps"))
        with pytest.raises(InvalidArgument, match=r"stepps.*steps"):
            writer.commit("odd", {"stepps": change}, {})


def test_readers_see_whole_commits_while_another_process_ingests(days: tuple[Path, Path], lake_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from crowdplay_ingest.pipeline import IngestOptions, ingest\n"
        "ingest(Path(sys.argv[1]), Path(sys.argv[2]), IngestOptions(task_seconds=0))"
    )
    seen = set()
    with subprocess.Popen([sys.executable, "-c", script, str(days[1]), str(lake_path)]) as process:
        while process.poll() is None:
            lake = Lake(lake_path)
            seen.add(lake.commit)
            assert is_whole(lake)
            time.sleep(0.02)
    assert process.returncode == 0
    assert is_whole(Lake(lake_path))
    assert seen <= set(range(1, Lake(lake_path).commit + 1))
    assert Lake(lake_path).commit == 3


# Crashes


class Crash(BaseException):
    """The power is gone: no handler for errors runs."""


def crash_before(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, count: int) -> None:
    """From the ``count``-th call on, ``owner.name`` does not come back."""
    real: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def crashing(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls >= count:
            raise Crash
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, crashing)


def crash_after(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> None:
    """``owner.name`` does its work and does not come back."""
    real: Callable[..., Any] = getattr(owner, name)

    def crashing(*args: Any, **kwargs: Any) -> Any:
        real(*args, **kwargs)
        raise Crash

    monkeypatch.setattr(owner, name, crashing)


# Adding the second day changes these seven tables; `rejected` stays empty.
CHANGED = 7
POINTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    **{
        f"when {n - 1} tables are committed": lambda patch, n=n: crash_before(patch, commit.Writer, "_commit_table", n)
        for n in range(1, CHANGED + 1)
    },
    "when all tables are committed": lambda patch: crash_before(patch, commit.Writer, "_append_row", 1),
    "when the commit's part is written": lambda patch: crash_after(patch, commit, "_write_commit_row"),
    "when the commit is made": lambda patch: crash_after(patch, commit.Writer, "_append_row"),
}


@pytest.mark.parametrize("point", POINTS)
def test_after_a_crash_the_lake_is_as_before_and_the_next_ingest_finishes(
    days: tuple[Path, Path], lake_path: Path, undisturbed: dict[str, Any], point: str
) -> None:
    before = content(lake_path)
    with pytest.MonkeyPatch.context() as patch:
        POINTS[point](patch)
        with pytest.raises(Crash):
            ingest(days[1], lake_path)

    is_made = point == "when the commit is made"
    assert Lake(lake_path).commit == (2 if is_made else 1)
    assert content(lake_path) == (undisturbed if is_made else before)

    summary = ingest(days[1], lake_path)
    assert summary.episodes == (0 if is_made else 2)
    assert content(lake_path) == undisturbed
    assert Lake(lake_path).commit == 2
    assert ingest(days[1], lake_path).commit == 2


def test_a_crash_never_leaves_rows_of_two_commits(days: tuple[Path, Path], lake_path: Path) -> None:
    """Two crashes in a row at different points, and other engines that read the tables' last versions."""
    for tables_done in (3, 6):
        with pytest.MonkeyPatch.context() as patch:
            crash_before(patch, commit.Writer, "_commit_table", tables_done)
            with pytest.raises(Crash):
                ingest(days[1], lake_path)
    ingest(days[1], lake_path)
    for name in TABLES:
        last = pl.scan_delta(str(lake_path / name)).select(pl.len()).collect().item()
        assert last == Lake(lake_path).scan(name).select(pl.len()).collect().item()
    assert is_whole(Lake(lake_path))


@pytest.mark.parametrize("tables_made", [0, 1, len(TABLES) - 1, len(TABLES)])
def test_a_crash_while_the_lake_is_made(
    days: tuple[Path, Path], undisturbed: dict[str, Any], tmp_path: Path, tables_made: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        crash_before(patch, commit, "create_table", tables_made + 1)
        with pytest.raises(Crash):
            ingest(days[1], tmp_path / "lake")
    with pytest.raises(InvalidLake, match="no lake here"):
        Lake(tmp_path / "lake")
    ingest(days[1], tmp_path / "lake")
    assert content(tmp_path / "lake") == undisturbed


KILLED = """
import os, signal, sys
from pathlib import Path
from crowdplay_ingest.pipeline import IngestOptions, Progress, ingest

class Killer(Progress):
    files = 0
    def finished(self, episode_id):
        self.files += 1
        if self.files == 3:
            os.kill(os.getpid(), signal.SIGKILL)

ingest(Path(sys.argv[1]), Path(sys.argv[2]), IngestOptions(task_seconds=0), Killer())
"""


def test_an_ingest_killed_in_the_middle_goes_on_where_it_stopped(
    days: tuple[Path, Path], undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(days[1]), str(tmp_path / "lake")], check=False)
    assert killed.returncode == -signal.SIGKILL

    lake = Lake(tmp_path / "lake")
    assert lake.commit == 2
    assert is_whole(lake)
    assert lake.scan("episodes").collect()["n_steps"].count() == 2

    summary = ingest(days[1], tmp_path / "lake", IngestOptions(lock_wait=0))
    assert (summary.episodes, summary.unchanged) == (2, 2)
    assert content(tmp_path / "lake") == undisturbed


def test_an_error_in_the_middle_leaves_no_part_behind(days: tuple[Path, Path], lake_path: Path) -> None:
    assert orphans(lake_path) == set()
    with pytest.MonkeyPatch.context() as patch:
        crash_before(patch, sys.modules["crowdplay_ingest.tasks"], "_convert_file", 2)
        with pytest.raises(Crash):
            ingest(days[1], lake_path)
    assert orphans(lake_path) == set()


# One writer at a time


@contextlib.contextmanager
def another_process_writes(path: Path) -> Iterator[int]:
    """The id of a process that holds the lake's lock."""
    script = (
        "import sys; from crowdplay_lake.commit import writing\n"
        "with writing(sys.argv[1]): print('holds it', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holds it\n"
        yield process.pid
        process.communicate("")


def test_a_second_writer_is_told_who_holds_the_lake(days: tuple[Path, Path], lake_path: Path) -> None:
    with another_process_writes(lake_path) as pid:
        with pytest.raises(LakeBusy, match=rf"process {pid} on .* is writing"):
            ingest(days[1], lake_path, IngestOptions(lock_wait=0.1))
        # Reading goes on meanwhile.
        assert len(Lake(lake_path).episodes()) == 2
    assert ingest(days[1], lake_path, IngestOptions(lock_wait=0.1)).episodes == 2


def test_a_second_writer_in_the_same_process_waits_too(lake_path: Path) -> None:
    with (
        commit.writing(lake_path),
        pytest.raises(LakeBusy, match=f"process {os.getpid()}"),
        commit.writing(lake_path, wait=0.1),
    ):
        pass


def test_a_writer_whose_lock_was_lost_changes_nothing(days: tuple[Path, Path], lake_path: Path) -> None:
    with commit.writing(lake_path) as writer:
        parts = writer.snapshot.parts("users")
        # Somebody removes the lock file (it looks stale on a shared disk) and another one commits.
        (lake_path / ".lock").unlink()
        ingest(days[1], lake_path)
        with pytest.raises(LakeBusy, match="somebody committed 2"):
            writer.commit("late", {"users": commit.Change(remove=parts)}, {})
    assert len(Lake(lake_path).sql("FROM users")) == 3


# What is no lake


def test_a_path_that_holds_no_lake(tmp_path: Path, days: tuple[Path, Path]) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    for name in ("folder", "file", "empty", "missing"):
        with pytest.raises(InvalidLake, match="no lake here; make one with"):
            Lake(tmp_path / name)
    with pytest.raises(InvalidLake, match="something else in it"):
        ingest(days[0], tmp_path / "folder")
    with pytest.raises(InvalidLake, match="is a file"):
        ingest(days[0], tmp_path / "file")
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["notes.txt"]
    assert (tmp_path / "file").read_text() == "mine"
    assert ingest(days[0], tmp_path / "empty").episodes == 2


def test_a_table_of_commits_that_is_broken(lake_path: Path) -> None:
    for log in (lake_path / "commits" / "_delta_log").glob("*.json"):
        log.write_text("not json")
    with pytest.raises(InvalidLake, match="commits cannot be read"):
        Lake(lake_path)


def test_a_part_that_is_gone_is_told_by_its_name(lake_path: Path) -> None:
    lake = Lake(lake_path)
    (part,) = lake.snapshot.files("frames")
    part.unlink()
    with pytest.raises(InvalidLake, match=part.name):
        lake.episodes()[0].get_raw_trajectory()
    with pytest.raises(CrowdPlayLakeError, match=part.name):
        lake.sql("SELECT sum(step) FROM frames")


def test_a_newer_format_is_refused(days: tuple[Path, Path], lake_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for module in (commit, snapshot):
            patch.setattr(module, "FORMAT_VERSION", schema.FORMAT_VERSION + 1)
        ingest(days[1], lake_path)
    with pytest.raises(InvalidLake, match="has format 3, this software reads 2 to 2; upgrade it"):
        Lake(lake_path)
    with pytest.raises(InvalidLake, match="upgrade it"):
        ingest(days[1], lake_path)
    # What was written before can still be cited.
    assert len(Lake(lake_path, commit=1).episodes()) == 2


def test_an_older_format_is_refused(days: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for module in (commit, snapshot):
            patch.setattr(module, "FORMAT_VERSION", 1)
        patch.setattr(snapshot, "OLDEST_FORMAT", 1)
        ingest(days[0], tmp_path / "old")
    with pytest.raises(InvalidLake, match="has format 1, this software reads 2 to 2; ingest the raw files into a new"):
        Lake(tmp_path / "old")


# Tables that others read


ODD_GAMES = ["a/b", "..", ".", "007", "ü", "a=b", "50%", "%41", "a b", "it's", 'say "no"', "NULL", "[x]", "a\\b", "*"]


@pytest.fixture(scope="module")
def odd_games(days: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, IngestSummary]:
    """A lake of one short episode for each of the odd games, whose id is the game's number."""
    folder = tmp_path_factory.mktemp("odd")
    (folder / "raw").mkdir()
    (template,) = (p for p in days[1].glob("*.pickle.bz2") if len(read(p)) == 15)
    rows: dict[str, list[tuple[str | bytes, ...]]] = {"environments": [], "episodes": [], "environmentkeyworddata": []}
    for number, game in enumerate(ODD_GAMES):
        shutil.copy(template, folder / "raw" / f"e{number:02}.pickle.bz2")
        rows["environments"].append((f"v{number:02}", "odd_task"))
        rows["episodes"].append((f"e{number:02}", f"v{number:02}"))
        rows["environmentkeyworddata"].append((f"v{number:02}", "all", "game", pickle.dumps(game)))
    put_rows(folder / "raw" / "dataset.sqlite", rows)
    return folder / "lake", ingest(folder / "raw", folder / "lake")


def read(path: Path) -> list[Any]:
    import bz2

    with bz2.open(path) as file:
        steps: list[Any] = pickle.load(file)
    return steps


def test_odd_names_of_games_come_back_everywhere(odd_games: tuple[Path, IngestSummary]) -> None:
    path, summary = odd_games
    assert (summary.episodes, summary.rejected) == (len(ODD_GAMES), ())
    lake = Lake(path)
    expected = {f"e{number:02}": game for number, game in enumerate(ODD_GAMES)}
    assert {e.episode_id: e.game for e in lake.episodes()} == expected
    assert {e.episode_id: e.environment.keyword_data["all"]["game"] for e in lake.episodes()} == expected
    assert dict(lake.sql("SELECT DISTINCT episode_id, game FROM steps").fetchall()) == expected
    assert dict(lake.sql("SELECT episode_id, game FROM episode_agents").fetchall()) == expected
    assert dict(lake.scan("frames").select("episode_id", "game").unique().collect().rows()) == expected
    for game in ODD_GAMES:
        assert len(lake.episodes("game = ?", [game])) == 1
        assert lake.scan("steps").filter(pl.col("game") == game).collect().height == 15
    assert all(len(e.get_processed_trajectory().observations) == 15 for e in lake.episodes())
    # Nothing left the lake's folder.
    assert {p.name for p in path.parent.iterdir()} == {"raw", "lake"}


def test_other_engines_read_the_tables(odd_games: tuple[Path, IngestSummary], first_lake: Path) -> None:
    for path in (odd_games[0], first_lake):
        lake = Lake(path)
        for name in TABLES:
            delta = DeltaTable(str(path / name))
            rows = lake.scan(name).collect().height
            assert pl.scan_delta(delta).collect().height == rows
            assert delta.to_pyarrow_dataset().count_rows() == rows
            assert sum(delta.get_add_actions(flatten=True).column("num_records").to_pylist()) == rows
            assert delta.metadata().name == name


def test_dask_reads_the_tables(first_lake: Path) -> None:
    frames = pytest.importorskip("dask.dataframe")
    lake = Lake(first_lake)
    for name in ("episodes", "steps", "frames", "keyword_data"):
        rows = lake.scan(name).collect()
        read = frames.read_parquet(DeltaTable(str(first_lake / name)).file_uris())
        assert len(read) == rows.height
        assert read["episode_id"].nunique().compute() == rows["episode_id"].n_unique()


def test_other_engines_see_the_same_games(odd_games: tuple[Path, IngestSummary]) -> None:
    delta = pl.scan_delta(str(odd_games[0] / "steps"))
    assert set(delta.select("game").unique().collect()["game"]) == set(ODD_GAMES)
    for game in ODD_GAMES:
        assert delta.filter(pl.col("game") == game).collect().height == 15
