"""Statistics stored as keyword data: one commit, under CrowdPlay's keys, whoever does the work."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from metadata_folders import P0, P1, Sitting, write_metadata
from typer.testing import CliRunner

from crowdplay_ingest.pipeline import IngestOptions, ingest
from crowdplay_lake import Lake
from crowdplay_lake.cli.app import whole_app
from crowdplay_lake.commit import writing
from crowdplay_lake.errors import InvalidArgument, InvalidLake, LakeBusy, NoTrajectory, UnknownStatistic, WorkersLost
from crowdplay_lake.statistics import Statistic, annotate, blocks
from crowdplay_lake.statistics.compute import final_results
from crowdplay_lake.verify import verify

APP = whole_app()


@pytest.fixture
def path(ingested: tuple[Path, object], tmp_path: Path) -> Path:
    """A copy of the session's lake, to be changed."""
    shutil.copytree(ingested[0], tmp_path / "lake")
    return tmp_path / "lake"


def stored(path: Path, key: str) -> dict[tuple[str, str], Any]:
    """(episode, agent) → the value under a key."""
    return {
        (episode.episode_id, agent): data[key]
        for episode in Lake(path).episodes()
        for agent, data in episode.keyword_data.items()
        if key in data
    }


def expected(path: Path, name: str, where: str | None = None) -> dict[tuple[str, str], Any]:
    return {result[:2]: result.value for result in final_results(Lake(path).statistic_work(name, where))}


def test_what_crowdplay_stores_afterwards_is_stored_in_one_commit(path: Path) -> None:
    before = Lake(path)
    names = ["left", "rowbyrow", "insideout", "outsidein", "latency", "actions", "frames_humanhuman", "frames_humanai"]
    summary = annotate(path, names)
    assert (summary.commit, summary.statistics) == (before.commit + 1, tuple(names))
    keys = ("left", "rowbyrow", "insideout", "outsidein", "latencies", "action_dist_data")
    assert summary.keys == (*keys, "total_frames_humanhuman", "total_frames_humanai")
    assert Lake(path).snapshot.operation == "annotate"
    total = 0
    for name, key in zip(names, summary.keys, strict=True):
        assert stored(path, key) == expected(path, name) != {}
        total += len(stored(path, key))
    assert summary.values == summary.changed == total
    assert {agent for _, agent in stored(path, "total_frames_humanai")} == {"all"}
    # The reader that was open keeps its snapshot.
    assert before.sql("SELECT count(*) FROM keyword_data WHERE key = 'latencies'").fetchall() == [(0,)]
    found = Lake(path).sql("SELECT count(*) FROM episode_agents WHERE rowbyrow BETWEEN 0 AND 1 AND left_ >= 0")
    assert found.fetchall() == [(len(stored(path, "rowbyrow")),)]
    assert verify(path).findings == []


def test_again_changes_nothing_and_other_values_are_replaced(path: Path) -> None:
    first = annotate(path, ["left"], key="place")
    again = annotate(path, ["left"], key="place")
    assert (again.commit, again.changed, again.values) == (first.commit, 0, first.values)
    other = annotate(path, ["right"], "game = 'riverraid'", key="place")
    assert other.commit == first.commit + 1
    assert other.values == other.changed < first.values
    values = stored(path, "place")
    assert len(values) == first.values
    assert values == {**expected(path, "left"), **expected(path, "right", "game = 'riverraid'")}


def test_what_was_recorded_stays_as_it_was(path: Path) -> None:
    # Recorded values and ours are the same, down to the type: nothing changes, not even the spelling of a key.
    before = Lake(path)
    keys = before.sql("SELECT DISTINCT key FROM keyword_data WHERE lower(key) = 'active playtime'").fetchall()
    assert len(keys) == 2
    summary = annotate(path, ["score", "time_played", "active_playtime"])
    lake = Lake(path)
    for episode in lake.episodes():
        for agent, data in before.episode(episode.episode_id).keyword_data.items():
            now = episode.keyword_data[agent]
            assert {key: now[key] for key in data} == data
            assert sum(key.lower() == "active playtime" for key in now) == (agent != "all")
            assert all(type(now[key]) is type(data[key]) for key in data)
    without = before.sql(
        "SELECT count(*) FROM episode_agents WHERE active_playtime IS NULL OR score IS NULL OR time_played IS NULL"
    )
    assert 0 < summary.changed == without.fetchall()[0][0]
    assert all(type(value) is timedelta for value in stored(path, "Time played").values())


def test_only_the_chosen_episodes(path: Path) -> None:
    summary = annotate(path, ["score", "left"], "task = ?", ["left"], key=None)
    chosen = Lake(path).episodes("task = 'left'").ids
    assert summary.episodes == len(chosen)
    assert {episode for episode, _ in stored(path, "left")} == set(chosen)


@pytest.mark.parametrize(
    ("statistics", "options", "error", "told"),
    [
        (["scores"], {}, UnknownStatistic, "did you mean 'score'"),
        (["score", "lefft"], {}, UnknownStatistic, "did you mean 'left'"),
        (["score", "accuracy"], {"where": "game = 'qbert'"}, InvalidArgument, "accuracy is defined for space_invaders"),
        (["score", "left"], {"key": "x"}, InvalidArgument, "one key"),
        (["score"], {"key": ""}, InvalidArgument, "the key is empty"),
        ([], {}, InvalidArgument, "at least one"),
        ("score", {}, InvalidArgument, "in a list"),
        ([3], {}, InvalidArgument, "3 is no statistic"),
    ],
)
def test_what_cannot_be_done_is_told_and_nothing_is_written(
    path: Path, statistics: Any, options: dict[str, Any], error: type[Exception], told: str
) -> None:
    before = Lake(path).commit
    with pytest.raises(error, match=told):
        annotate(path, statistics, **options)
    assert Lake(path).commit == before


def test_where_there_is_no_lake_or_somebody_writes(path: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidLake):
        annotate(tmp_path / "none", ["score"])
    with writing(path), pytest.raises(LakeBusy):
        annotate(path, ["left"], lock_wait=0.0)


def test_episodes_of_which_only_the_metadata_is_known_are_left_out(tmp_path: Path) -> None:
    facts = {"all": {"game": "breakout", "task": "plain", "source": "mturk"}}
    raw = write_metadata(tmp_path / "raw", [Sitting("v", "breakout_mturk", facts, {"e": {P0: {"Score": 7}}})])
    ingest(raw, tmp_path / "lake", IngestOptions(workers=0))
    summary = annotate(tmp_path / "lake", ["score"])
    assert (summary.episodes, summary.values, summary.without_trajectory) == (0, 0, 1)
    lake = Lake(tmp_path / "lake")
    assert lake.statistic("score").collect().is_empty()
    with pytest.raises(NoTrajectory, match="episode e"):
        lake.statistic("score", ["e"])


# Who does the work


def test_threads_do_the_same(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "MAX_ROWS", 1_000)
    told = []
    with ThreadPoolExecutor(2) as executor:
        annotate(path, ["latency"], executor=executor, progress=lambda *args: told.append(args))
    assert stored(path, "latencies") == expected(path, "latency")
    rows = Lake(path).scan("steps").collect().height
    assert told[0] == ("latency", 0, rows)
    assert told[-1] == ("latency", rows, rows)
    assert len(told) > 3


class Deadly(Statistic):
    columns = ()

    def values(self, steps: pl.DataFrame) -> pl.Expr:
        os._exit(1)


def test_a_worker_that_dies_is_told_and_nothing_is_written(path: Path) -> None:
    before = Lake(path).commit
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        with pytest.raises(WorkersLost, match="a worker died while it computed a statistic"):
            annotate(path, [Deadly()], executor=executor)
        with pytest.raises(WorkersLost, match="the executor is broken"):
            annotate(path, ["score"], executor=executor)
    assert Lake(path).commit == before


def test_a_lake_on_object_storage(bucket: str, small_raw: Path, small_lake: Path) -> None:
    address = f"s3://{bucket}/lake"
    ingest(small_raw, address, IngestOptions(workers=0))
    assert annotate(address, ["latency", "actions"]).commit == Lake(address).commit
    found, here = Lake(address), Lake(small_lake)
    for episode in found.episodes():
        results = final_results(here.statistic_work("actions", [episode.episode_id]))
        assert {r.agent_id: r.value for r in results} == {
            agent: episode.keyword_data[agent]["action_dist_data"] for agent in episode.agents
        }
    values, expected = (lake.statistic("score").sort("episode_id", "agent_id", "step") for lake in (found, here))
    assert values.collect().equals(expected.collect())


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A real cluster: a scheduler and two worker processes, over TCP."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None
    ) as cluster:
        yield cluster


def test_a_dask_cluster_does_the_same(cluster: Any, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed import Client

    lake = Lake(path)
    monkeypatch.setattr(blocks, "MAX_ROWS", 2_000)
    assert len(list(lake.statistic_work("insideout").blocks())) > 2
    with Client(cluster.scheduler_address, set_as_default=False) as client:
        executor = client.get_executor(pure=False)
        values = lake.statistic("insideout", executor=executor).collect()
    assert values.equals(lake.statistic("insideout").collect())
    run("annotate", path, "insideout", "latency", "--dask", cluster.scheduler_address)
    assert stored(path, "insideout") == expected(path, "insideout")
    assert stored(path, "latencies") == expected(path, "latency")


# The commands


def invoke(*arguments: object) -> Any:
    runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"})
    return runner.invoke(APP, list(map(str, arguments)))


def run(*arguments: object) -> str:
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return str(result.stdout)


def test_the_command_stores_and_tells(path: Path) -> None:
    text = run("annotate", path, "left", "right", "--where", "game = 'riverraid'")
    episodes = len(Lake(path).episodes("game = 'riverraid'"))
    assert f"{2 * episodes} values under 'left', 'right', of {episodes} episodes, commit {Lake(path).commit}" in text
    told = json.loads(run("annotate", path, "accuracy", "--key", "shots that hit", "--output", "json"))
    assert (told["keys"], told["changed"]) == (["shots that hit"], told["values"])
    assert told["commit"] == Lake(path).commit
    assert {agent for _, agent in stored(path, "shots that hit")} == {P0, P1}


def test_the_command_on_processes(path: Path) -> None:
    run("annotate", path, "outsidein", "--workers", 2)
    assert stored(path, "outsidein") == expected(path, "outsidein")


def test_the_command_refuses(path: Path) -> None:
    assert isinstance(invoke("annotate", path, "lefft").exception, UnknownStatistic)
    both = invoke("annotate", path, "left", "--workers", 1, "--dask", "tcp://127.0.0.1:9").exception
    assert isinstance(both, InvalidArgument)
    assert isinstance(invoke("annotate", path, "left", "--dask", "tcp://127.0.0.1:9").exception, WorkersLost)
    assert invoke("annotate", path).exit_code == 2


def test_the_statistics_are_listed() -> None:
    listed = json.loads(run("statistics", "--output", "json"))
    assert {"score", "active_playtime", "rows135_total", "frames_humanai"} <= {one["name"] for one in listed}
    (left,) = (one for one in listed if one["name"] == "left")
    assert left["key"] == "left"
    assert "riverraid" in left["games"]
    assert left["quirk"]
    assert "every game" in run("statistics")
