"""`Lake.scan` and `Lake.scan_observations`: what comes out, and what is not read for it."""

from __future__ import annotations

import re
import shutil
from functools import reduce
from operator import and_
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crowdplay_lake import Lake
from crowdplay_lake.errors import InvalidArgument
from crowdplay_lake.observations import ObservationParameters
from crowdplay_lake.scan import OBSERVATION

# Tables


def test_a_scan_reads_the_partitions_and_columns_that_a_query_needs(lake: Lake) -> None:
    query = lake.scan("steps").filter(pl.col("game") == "breakout").select("episode_id", "ram_1c")
    plan = query.explain()
    assert len(re.findall(r"game=\w+", plan)) >= 1
    assert set(re.findall(r"game=(\w+)", plan)) == {"breakout"}
    assert "PROJECT 2/" in plan or "PROJECT 3/" in plan, plan  # the partition may count
    expected = lake.sql("SELECT episode_id, ram_1c FROM steps WHERE game = 'breakout'").pl()
    assert query.collect().sort(pl.all()).equals(expected.sort(pl.all()))
    assert len(expected)


# Observations


@pytest.mark.parametrize(
    ("emission", "parameters"),
    [
        ({}, {}),
        ({"downsample_frequency": 4}, {}),
        ({"downsample_frequency": 4, "downsample_offset": 2, "final_step": False}, {"stack_n": 1}),
        ({"downsample_frequency": 9}, {"framestack_axis_first": True, "scale": True}),
        ({"downsample_frequency": 40}, {"warp": False, "stack_n": 2}),
        ({"downsample_frequency": 30}, {"warp_width": 40, "warp_height": 42, "max_n": 3}),
    ],
)
def test_rows_are_what_a_processed_trajectory_holds(
    lake: Lake, emission: dict[str, Any], parameters: dict[str, Any]
) -> None:
    where = "game IN ('breakout', 'space_invaders_2p')"
    frame = lake.scan_observations(where, parameters=ObservationParameters(**parameters), **emission).collect()
    agents = 0
    for (episode_id, agent), rows in frame.group_by(["episode_id", "agent_id"], maintain_order=True):
        agents += 1
        episode = lake.episode(str(episode_id))
        expected = episode.get_processed_trajectory(str(agent), **parameters, **emission)
        found = rows[OBSERVATION].to_numpy()
        assert found.dtype == expected.observations.dtype
        assert np.array_equal(found, expected.observations)
        assert rows["reward"].to_list() == expected.rewards.tolist()
        assert rows["action"].to_list() == expected.actions.tolist()
        assert rows["done"].cast(int).to_list() == expected.terminals.tolist()
        assert rows["ram_1c"].to_list() == episode.ram(str(agent))[rows["step"].to_numpy(), 0x1C].tolist()
        assert set(rows["game"]) == {episode.game}
    assert agents == sum(len(episode.agents) for episode in lake.episodes(where)) >= 3


@pytest.fixture(scope="module")
def every_row(lake: Lake) -> pl.DataFrame:
    """All that a small scan gives, at once."""
    return _small(lake).collect()


def _small(lake: Lake) -> pl.LazyFrame:
    parameters = ObservationParameters(stack_n=1, warp_width=20, warp_height=21)
    return lake.scan_observations(downsample_frequency=16, parameters=parameters)


CONDITIONS = [
    pl.col("game") == "breakout",
    pl.col("game").str.starts_with("space"),
    pl.col("agent_id") == "game_0>player_0",
    pl.col("step") < 100,
    pl.col("step").is_between(32, 64),
    pl.col("reward") > 0,
    (pl.col("user_type") == 1) | (pl.col("game") == "qbert"),
    pl.col("lives").is_null(),
    pl.col("ram_1c") > pl.col("ram_1d"),
    pl.lit(True),
    pl.col("game") != pl.col("agent_id"),
    pl.col("reward") > pl.col("reward").mean(),
    pl.col(OBSERVATION).reshape((-1, 420)).arr.sum() > 10_000,
]
COLUMNS = ["episode_id", "game", "agent_id", "step", "reward", "user_type", "ram_7f", OBSERVATION]


@settings(deadline=None, max_examples=25)
@given(
    conditions=st.lists(st.sampled_from(range(len(CONDITIONS))), max_size=3),
    columns=st.lists(st.sampled_from(COLUMNS), min_size=1, unique=True),
    head=st.none() | st.integers(0, 200),
    head_first=st.booleans(),
    engine=st.sampled_from(["in-memory", "streaming"]),
)
def test_a_lazy_query_gives_what_the_same_one_gives_of_all_rows(
    lake: Lake,
    every_row: pl.DataFrame,
    conditions: list[int],
    columns: list[str],
    head: int | None,
    head_first: bool,
    engine: Any,
) -> None:
    def ask(frame: pl.LazyFrame) -> pl.DataFrame:
        if head is not None and head_first:
            frame = frame.head(head)
        if conditions:
            frame = frame.filter(reduce(and_, [CONDITIONS[i] for i in conditions]))
        if head is not None and not head_first:
            frame = frame.head(head)
        return frame.select(columns).collect(engine=engine)

    assert ask(_small(lake)).equals(ask(every_row.lazy()))


def _without(lake: Lake, folder: Path, *parts: str) -> Lake:
    """A copy of the lake that has lost these parts, opened."""
    path = folder / "copy"
    shutil.copytree(str(lake.path), path)
    for part in parts:
        found = list(path.glob(part))
        assert found
        for file in found:
            file.unlink()
    return Lake(path)


def test_frames_are_read_for_observations_only(lake: Lake, tmp_path: Path) -> None:
    poor = _without(lake, tmp_path, "frames/**/*.parquet")
    rows = poor.scan_observations().select("episode_id", "step", "reward", "ram_00").collect()
    assert len(rows) == lake.sql("SELECT count(*) FROM steps").fetchall()[0][0]
    with pytest.raises(Exception, match=r"\.parquet"):
        poor.scan_observations().select(OBSERVATION).collect()


def test_what_is_known_of_a_row_is_not_read(lake: Lake, tmp_path: Path) -> None:
    poor = _without(lake, tmp_path, "frames/**/*.parquet", "steps/**/*.parquet")
    rows = poor.scan_observations().filter(pl.col("step") % 2 == 0).select("episode_id", "game", "step").collect()
    assert len(rows) == lake.sql("SELECT count(*) FROM steps WHERE step % 2 = 0").fetchall()[0][0]


def test_conditions_on_the_episode_spare_the_others(lake: Lake, tmp_path: Path) -> None:
    games = lake.sql("SELECT DISTINCT game FROM episodes").pl()["game"].to_list()
    others = [f"{table}/game={game}/*.parquet" for table in ("frames", "steps") for game in games if game != "breakout"]
    poor = _without(lake, tmp_path, *others)
    frame = poor.scan_observations(downsample_frequency=8)
    found = frame.filter((pl.col("game") == "breakout") & (pl.col("reward") >= 0)).select(OBSERVATION).collect()
    expected = lake.scan_observations("game = 'breakout'", downsample_frequency=8).select(OBSERVATION).collect()
    assert found.equals(expected)
    assert len(found)
    ids = lake.episodes("game = 'breakout'").ids
    assert len(frame.filter(pl.col("episode_id").is_in(ids)).select(OBSERVATION).collect()) == len(found)


def test_a_head_reads_no_further(lake: Lake, tmp_path: Path) -> None:
    first = lake.episodes()[0]
    games = lake.sql("SELECT DISTINCT game FROM episodes").pl()["game"].to_list()
    poor = _without(lake, tmp_path, *[f"frames/game={game}/*.parquet" for game in games if game != first.game])
    assert len(poor.scan_observations().head(20).collect()) == 20


# What is refused


def test_wrong_arguments_are_told_before_the_query_runs(lake: Lake) -> None:
    with pytest.raises(InvalidArgument, match="downsample_frequency must be at least 1"):
        lake.scan_observations(downsample_frequency=0)
    with pytest.raises(InvalidArgument, match="view of SQL"):
        lake.scan("episode_steps")


def test_nothing_chosen_is_an_empty_frame(lake: Lake) -> None:
    frame = lake.scan_observations("score > 1e9").collect()
    assert frame.shape[0] == 0
    assert frame.schema[OBSERVATION] == pl.Array(pl.UInt8, (84, 84, 4))
