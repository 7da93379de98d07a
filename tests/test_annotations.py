"""Keyword data written into a lake: one commit, by many at once, and a later ingest that undoes nothing."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from metadata_folders import P0, P1, Sitting, write_metadata

from crowdplay_ingest.pipeline import IngestOptions, ingest
from crowdplay_lake import Lake
from crowdplay_lake.annotations import KeywordRow, write_keyword_data
from crowdplay_lake.commit import writing
from crowdplay_lake.compact import compact
from crowdplay_lake.errors import (
    CrowdPlayLakeError,
    InvalidArgument,
    InvalidLake,
    LakeBusy,
    UnknownAgent,
    UnknownEnvironment,
    UnknownEpisode,
)
from crowdplay_lake.remove import remove
from crowdplay_lake.vacuum import vacuum
from crowdplay_lake.verify import verify

HERE = IngestOptions(workers=0)
BEGUN = datetime(2022, 3, 4, 5, 6, 7)


def facts(game: str, task: str = "plain") -> dict[str, Any]:
    return {"game": game, "task": task, "source": "mturk", "created_on": BEGUN}


def sittings(score: int = 7) -> list[Sitting]:
    of_two = {P0: "ada", P1: "ben"}
    return [
        Sitting("v1", "breakout_mturk", {"all": facts("breakout")}, {"e1": {P0: {"Score": score}}, "e2": {}}),
        Sitting("v2", "space_invaders_2p", {"all": facts("space_invaders_2p")}, {"e3": {P1: {"Score": 3}}}, of_two),
    ]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write_metadata(tmp_path / "raw", sittings())


@pytest.fixture
def path(raw: Path, tmp_path: Path) -> Path:
    """A lake of three episodes of two games, of which the metadata is known."""
    ingest(raw, tmp_path / "lake", HERE)
    return tmp_path / "lake"


def of_episode(episode: str, key: str, value: object, agent: str = P0) -> KeywordRow:
    return KeywordRow("keyword_data", episode, agent, key, value)


def of_environment(environment: str, key: str, value: object, agent: str = "all") -> KeywordRow:
    return KeywordRow("environment_keyword_data", environment, agent, key, value)


def value_of(path: Path, episode: str, key: str, agent: str = P0) -> Any:
    return Lake(path).episode(episode).keyword_data[agent][key]


def proven(path: Path) -> None:
    assert [str(finding) for finding in verify(path).findings] == []


# What is written


VALUES = [
    3, -1, 2**70, 0.5, math.nan, -math.inf, True, None, "text", "", [1, {"a": (2, 3)}], {"action_0": 0.25},
    timedelta(seconds=90, microseconds=5), BEGUN, BEGUN.replace(tzinfo=UTC),
]  # fmt: skip


def test_values_of_all_kinds_are_one_commit_and_come_back(path: Path) -> None:
    before = Lake(path).commit
    rows = [of_episode("e1", f"key {i}", value) for i, value in enumerate(VALUES)]
    rows += [of_environment("v2", "rating", 4), of_environment("v2", "rating", 5, P1), of_episode("e3", "x", 1, "all")]
    after = write_keyword_data(path, rows, operation="annotate")
    assert (after.number, after.operation) == (before + 1, "annotate")
    assert after.counts == {"keyword_data": len(VALUES) + 1, "environment_keyword_data": 2}
    lake = Lake(path)
    found = lake.episode("e1").keyword_data[P0]
    for i, value in enumerate(VALUES):
        assert repr(found[f"key {i}"]) == repr(value)
    assert found["Score"] == 7
    assert lake.environment("v2").keyword_data["all"]["rating"] == 4
    assert lake.environment("v2").keyword_data[P1]["rating"] == 5
    assert lake.episode("e3").keyword_data["all"]["x"] == 1
    written = lake.sql("SELECT DISTINCT commit FROM keyword_data WHERE key LIKE 'key %'").fetchall()
    assert written == [(after.number,)]
    proven(path)


def test_arrays_come_back_and_numpy_numbers_as_the_numbers_they_equal(path: Path) -> None:
    write_keyword_data(path, [of_episode("e1", "dist", np.eye(3)), of_episode("e1", "n", np.int64(4))])
    assert (value_of(path, "e1", "dist") == np.eye(3)).all()
    assert value_of(path, "e1", "n") == 4
    # By the number it is found in SQL, too.
    assert Lake(path).sql("SELECT n FROM episode_agents WHERE n >= 4").fetchall() == [(4,)]


def test_the_last_of_several_values_counts_and_replaces_what_was_there(path: Path) -> None:
    write_keyword_data(path, [of_episode("e1", "Score", 8), of_episode("e1", "Score", 9)])
    rows = Lake(path).sql("SELECT value_double FROM keyword_data WHERE episode_id = 'e1' AND key = 'Score'")
    assert rows.fetchall() == [(9,)]


def test_what_changes_nothing_makes_no_commit(path: Path) -> None:
    before = Lake(path).commit
    assert write_keyword_data(path, []).number == before
    assert write_keyword_data(path, [of_episode("e1", "Score", 7)]).number == before
    write_keyword_data(path, [of_episode("e1", "nan", math.nan)])
    assert write_keyword_data(path, [of_episode("e1", "nan", math.nan)]).number == before + 1


def test_only_the_parts_of_the_games_that_are_written_to_change(path: Path) -> None:
    before = Lake(path).snapshot.files_by_partition("keyword_data")
    write_keyword_data(path, [of_episode("e1", "Score", 9)])
    after = Lake(path).snapshot.files_by_partition("keyword_data")
    assert before["breakout"] != after["breakout"]
    assert before["space_invaders_2p"] == after["space_invaders_2p"]


# What is refused


REFUSED = [
    (of_episode("e9", "Score", 1), UnknownEpisode, "did you mean"),
    (of_environment("v9", "rating", 1), UnknownEnvironment, "did you mean"),
    (of_episode("e1", "Score", 1, "game_0>player_O"), UnknownAgent, repr(P0)),
    (of_environment("v2", "rating", 1, "player_1"), UnknownAgent, repr(P1)),
    (of_episode("e1", "", 1), InvalidArgument, "the key is empty"),
    (of_episode("e1", "\ud800", 1), InvalidArgument, "surrogate"),
    (of_episode("e1", "k" * 70_000, 1), InvalidArgument, "longer"),
    (of_episode("e1", "run", test_what_changes_nothing_makes_no_commit), InvalidArgument, "not plain data"),
    (of_episode("e1", 5, 1), InvalidArgument, "int"),  # type: ignore[arg-type]
    (KeywordRow("steps", "e1", P0, "k", 1), InvalidArgument, "steps"),  # type: ignore[arg-type]
    (of_environment("v1", "game", "qbert"), InvalidArgument, "ingest"),
    (of_environment("v1", "created_on", BEGUN + timedelta(1)), InvalidArgument, "ingest"),
]


@pytest.mark.parametrize(("row", "error", "told"), REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_what_cannot_be_kept_is_told_and_nothing_is_written(
    path: Path, row: KeywordRow, error: type[CrowdPlayLakeError], told: str
) -> None:
    before = Lake(path).commit
    with pytest.raises(error, match=told):
        write_keyword_data(path, [of_episode("e1", "good", 1), row])
    assert Lake(path).commit == before


def test_all_faults_are_told_at_once(path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"e1.*'a'.*e2.*'b'"):
        write_keyword_data(path, [of_episode("e1", "a", {1: object()}), of_episode("e2", "b", lambda: 1)])


def test_facts_that_stay_as_they_are_may_be_written_again(path: Path) -> None:
    rows = [of_environment("v1", key, value) for key, value in facts("breakout").items()]
    assert write_keyword_data(path, [*rows, of_episode("e1", "created_on", BEGUN, "all")]).number >= 1


def test_there_is_no_lake_to_write_to(tmp_path: Path) -> None:
    with pytest.raises(InvalidLake):
        write_keyword_data(tmp_path / "none", [of_episode("e1", "k", 1)])
    assert not (tmp_path / "none").exists()


# Many at once


WRITER = """
import sys
from crowdplay_lake.annotations import KeywordRow, write_keyword_data
path, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
for i in range(count):
    rows = [KeywordRow("keyword_data", "e1", "all", f"{name} {i} {j}", j) for j in range(20)]
    write_keyword_data(path, rows)
"""


def test_what_several_processes_write_at_once_is_all_there(path: Path) -> None:
    before = Lake(path)
    commands = [[sys.executable, "-c", WRITER, str(path), f"w{i}", "4"] for i in range(4)]
    running = [subprocess.Popen(command) for command in commands]
    assert [process.wait(timeout=120) for process in running] == [0, 0, 0, 0]
    lake = Lake(path)
    assert lake.commit == before.commit + 16
    assert set(lake.episode("e1").keyword_data["all"]) == {
        f"w{i} {j} {k}" for i in range(4) for j in range(4) for k in range(20)
    }
    # A reader keeps its snapshot.
    assert "all" not in before.episode("e1").keyword_data
    assert before.sql("SELECT count(*) FROM keyword_data").fetchall() == [(2,)]
    proven(path)


def test_who_waits_too_long_is_told_who_writes(path: Path) -> None:
    with writing(path), pytest.raises(LakeBusy, match=str(os.getpid())):
        write_keyword_data(path, [of_episode("e1", "k", 1)], lock_wait=0.1)


def test_a_commit_to_ten_thousand_episodes_takes_a_moment(tmp_path: Path) -> None:
    keys = {f"key {i}": i for i in range(10)}
    episodes = {f"e{i:05d}": {P0: keys} for i in range(10_000)}
    write_metadata(tmp_path / "raw", [Sitting("v1", "t", {"all": facts("breakout")}, episodes)])
    ingest(tmp_path / "raw", tmp_path / "lake", HERE)
    start = time.process_time()
    write_keyword_data(tmp_path / "lake", [of_episode(f"e{i:05d}", "new", i) for i in range(100)])
    assert time.process_time() - start < 10
    lake = Lake(tmp_path / "lake")
    assert lake.sql("SELECT count(*), count(DISTINCT episode_id) FROM keyword_data").fetchall() == [(100_100, 10_000)]


# Then ingest, and what else becomes of a lake


def test_an_ingest_of_the_same_metadata_undoes_no_annotation(raw: Path, path: Path) -> None:
    rows = [of_episode("e1", "Score", 100), of_episode("e1", "mine", "good"), of_environment("v1", "mine", [1])]
    after = write_keyword_data(path, rows)
    assert ingest(raw, path, HERE).commit == after.number
    write_metadata(raw, [Sitting("v3", "t", {"all": facts("qbert")}, {"e5": {P0: {"Score": 1}}})])
    ingest(raw, path, HERE)
    assert [value_of(path, "e1", key) for key in ("Score", "mine")] == [100, "good"]
    assert Lake(path).environment("v1").keyword_data["all"]["mine"] == [1]
    assert value_of(path, "e5", "Score") == 1


def test_a_value_that_changed_in_sqlite_since_wins_over_the_annotation(raw: Path, path: Path) -> None:
    write_keyword_data(path, [of_episode("e1", "Score", 100), of_episode("e1", "mine", 1)])
    write_keyword_data(path, [of_episode("e1", "Score", 101)])
    write_metadata(raw, sittings(score=8))
    ingest(raw, path, HERE)
    assert [value_of(path, "e1", key) for key in ("Score", "mine")] == [8, 1]
    write_keyword_data(path, [of_episode("e1", "Score", 100)])
    ingest(raw, path, HERE)
    assert value_of(path, "e1", "Score") == 100


def test_what_an_annotation_took_the_place_of_is_kept_and_can_be_put_back(raw: Path, path: Path) -> None:
    query = "SELECT value_json, replaced_json FROM keyword_data WHERE episode_id = 'e1' AND key = 'Score'"
    assert Lake(path).sql(query).fetchall() == [("7", None)]
    for value, expected in ((100, ("100", "7")), (101, ("101", "7")), (7, ("7", None))):
        write_keyword_data(path, [of_episode("e1", "Score", value)])
        assert Lake(path).sql(query).fetchall() == [expected]


def test_annotated_lakes_are_looked_after_like_others(path: Path) -> None:
    write_keyword_data(path, [of_episode("e1", "mine", 1), of_episode("e3", "mine", 2, P1)])
    write_keyword_data(path, [of_environment("v2", "mine", 3)])
    compact(path)
    vacuum(path, timedelta(0))
    assert value_of(path, "e1", "mine") == 1
    remove(path, participants=["ben"])
    vacuum(path, timedelta(0))
    assert Lake(path).sql("SELECT episode_id FROM keyword_data WHERE key = 'mine'").fetchall() == [("e1",)]
    assert Lake(path).sql("SELECT count(*) FROM environment_keyword_data WHERE key = 'mine'").fetchall() == [(0,)]
    proven(path)


def test_a_kill_between_the_parts_and_the_commit_leaves_the_lake_as_it_was(path: Path) -> None:
    code = """
import os, sys
from crowdplay_lake import annotations, commit
commit.Writer.commit = lambda *a: os.kill(os.getpid(), 9)
annotations.write_keyword_data(sys.argv[1], [annotations.KeywordRow("keyword_data", "e1", "all", "k", 1)])
"""
    before = Lake(path)
    assert subprocess.run([sys.executable, "-c", code, str(path)]).returncode == -9
    assert Lake(path).commit == before.commit
    write_keyword_data(path, [of_episode("e1", "k", 2, "all")])
    assert value_of(path, "e1", "k", "all") == 2
    proven(path)
