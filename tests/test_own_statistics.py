"""Statistics of one's own: a class over columns, a callable in CrowdPlay's way, and both brought by a package."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from typer.testing import CliRunner

from crowdplay_lake import Lake
from crowdplay_lake.cli.app import whole_app
from crowdplay_lake.errors import InvalidArgument, UnknownColumn, UnknownStatistic
from crowdplay_lake.statistics import Runs, Statistic, Stepped, annotate, find, names, registered
from crowdplay_lake.statistics.compute import final_results

APP = whole_app()

P0 = "game_0>player_0"
RUN = ["episode_id", "agent_id"]


def per_step(lake: Lake, statistic: Any, episodes: Any = None) -> pl.DataFrame:
    return lake.statistic(statistic, episodes).collect().sort("episode_id", "agent_id", "step")


@pytest.fixture(scope="module")
def rewarded(lake: Lake) -> pl.DataFrame:
    """How many rewards each agent had so far, from the table itself."""
    steps = lake.scan("steps").select("episode_id", "agent_id", "step", "reward").collect()
    steps = steps.sort("episode_id", "agent_id", "step")
    count = (pl.col("reward") != 0).cast(pl.Float64).cum_sum().over(RUN)
    return steps.select("episode_id", "agent_id", "step", count.alias("value"))


# A class with one method


class WithExpression:
    columns = ("reward",)

    def values(self, steps: pl.DataFrame) -> pl.Expr:
        return (pl.col("reward") != 0).cum_sum().over(RUN)


class WithSeries(Statistic):
    name = "rewards"
    key = "Rewards had"
    columns = ("reward",)
    dtype = pl.Int64

    def values(self, steps: pl.DataFrame) -> pl.Series:
        return steps.select((pl.col("reward") != 0).cum_sum().over(RUN)).to_series()


class WithArray:
    def values(self, steps: pl.DataFrame) -> npt.NDArray[np.int64]:
        assert {"ram_7f", "reward", "game", "task_id"} <= set(steps.columns)
        rewards: npt.NDArray[np.int64] = Runs.of(steps).sum(steps["reward"].to_numpy() != 0)
        return rewards


class OfEverybody:
    columns = ("reward",)

    def values(self, steps: pl.DataFrame) -> pl.DataFrame:
        sums = steps.group_by("episode_id", "step", maintain_order=True).agg(pl.col("reward").sum().alias("value"))
        return sums.with_columns(pl.lit("all").alias("agent_id"))


@pytest.mark.parametrize("own", [WithExpression, WithExpression(), WithSeries(), WithArray])
def test_a_class_with_one_method(lake: Lake, rewarded: pl.DataFrame, own: Any) -> None:
    found = per_step(lake, own)
    assert found.with_columns(pl.col("value").cast(pl.Float64)).equals(rewarded)
    assert found.schema["value"] == (pl.Int64 if isinstance(own, WithSeries) else pl.Float64)


def test_a_value_of_no_one_agent(lake: Lake) -> None:
    found = per_step(lake, OfEverybody(), "game = 'space_invaders_2p'")
    assert found["agent_id"].unique().to_list() == ["all"]
    sums = lake.sql(
        "SELECT episode_id, step, sum(reward) AS value FROM steps WHERE game = 'space_invaders_2p' GROUP BY ALL"
        " ORDER BY ALL"
    ).pl()
    assert found["value"].to_list() == sums["value"].to_list()


def test_its_games_are_kept(lake: Lake) -> None:
    class OfQbert(WithExpression):
        games = ("qbert",)

    assert set(per_step(lake, OfQbert())["episode_id"]) == set(lake.episodes("game = 'qbert'").ids)
    with pytest.raises(InvalidArgument, match="OfQbert is defined for qbert"):
        lake.statistic(OfQbert(), "game = 'breakout'")


def test_it_is_stored_under_its_key_or_name(lake: Lake, ingested: tuple[Path, object], tmp_path: Path) -> None:
    import shutil

    shutil.copytree(ingested[0], tmp_path / "lake")
    summary = annotate(tmp_path / "lake", [WithSeries(), WithExpression], "game = 'qbert'")
    assert summary.keys == ("Rewards had", "WithExpression")
    found = Lake(tmp_path / "lake").episodes("game = 'qbert'")[0].keyword_data[P0]
    assert type(found["Rewards had"]) is int
    assert type(found["WithExpression"]) is float
    assert found["Rewards had"] == found["WithExpression"] > 0


def test_on_processes_too(lake: Lake, rewarded: pl.DataFrame) -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        found = lake.statistic(WithSeries(), executor=executor).collect()
    assert found.equals(lake.statistic(WithSeries()).collect())


class Broken:
    def __init__(self, columns: Any, values: Any, dtype: Any = pl.Float64) -> None:
        self.columns, self._values, self.dtype = columns, values, dtype

    def values(self, steps: pl.DataFrame) -> Any:
        return self._values(steps)


BROKEN = [
    (Broken(("ram_1cc",), None), UnknownColumn, "no column 'ram_1cc' in steps.*did you mean 'ram_1c'"),
    (Broken("reward", None), InvalidArgument, r"such as \['reward'\]"),
    (Broken((), lambda steps: steps["step"].head(3)), InvalidArgument, "gave 3 values for"),
    (Broken((), lambda steps: 3), InvalidArgument, "not int"),
    (Broken((), lambda steps: steps.select("step")), InvalidArgument, "lacks episode_id, agent_id, value"),
    (Broken((), lambda steps: pl.col("reward")), InvalidArgument, "Broken cannot be computed.*reward"),
    (Broken((), lambda steps: pl.lit("a").repeat_by(1)), InvalidArgument, "Broken"),
    (Broken((), lambda steps: pl.Series(["x"] * len(steps)), pl.Int64), InvalidArgument, "its dtype Int64"),
]


@pytest.mark.parametrize(("own", "error", "told"), BROKEN, ids=[str(i) for i in range(len(BROKEN))])
def test_what_is_wrong_with_it_is_told(lake: Lake, own: Any, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        final_results(lake.statistic_work(own, "game = 'qbert'"))


@pytest.mark.parametrize("nothing", [3, None, object()])
def test_what_is_no_statistic(nothing: Any) -> None:
    with pytest.raises(InvalidArgument, match="is no statistic"):
        find(nothing)


# A callable in CrowdPlay's way


class RewardsHad:
    """As CrowdPlay writes them: the agents, a dict that grows, and a call a step."""

    def __init__(self, agents: list[str]) -> None:
        self.had = dict.fromkeys(agents, 0)

    def __call__(self, step_info: dict[str, Any]) -> Mapping[str, int]:
        for agent in self.had:
            self.had[agent] += step_info["reward"][agent] != 0
        return self.had


class Latencies:
    """A list under 'all' that grows with each key."""

    def __init__(self) -> None:
        self.latencies: list[int] = []
        self.seen: dict[str, int] = {}

    def __call__(self, step_info: dict[str, Any]) -> Mapping[str, list[int]]:
        for agent, seen in step_info["action_step_iter"].items():
            if self.seen.get(agent, seen) != seen and step_info["user_type"][agent] == 1:
                self.latencies.append(step_info["step_iter"] - seen)
            self.seen[agent] = seen
        return {"all": self.latencies}


def brightness(step_info: dict[str, Any]) -> Mapping[str, float]:
    return {agent: float(shown["image"].mean()) for agent, shown in step_info["prev_obs"].items()}


def test_a_factory_is_called_with_the_agents_of_each_episode(lake: Lake, rewarded: pl.DataFrame) -> None:
    episodes = lake.episodes("game IN ('qbert', 'space_invaders_2p')").ids
    found = per_step(lake, Stepped(RewardsHad, dtype=pl.Float64, frames=False), episodes)
    assert found.equals(rewarded.filter(pl.col("episode_id").is_in(episodes)))


def test_an_instance_is_copied_for_each_episode(lake: Lake) -> None:
    own = Latencies()
    work = lake.statistic_work(Stepped(lambda agents: Latencies(), dtype=pl.List(pl.Int64)), "game = 'qbert'")
    assert len(work.episodes) > 1
    results = final_results(lake.statistic_work(own, "game = 'qbert'"))
    assert results == final_results(work) == final_results(lake.statistic_work("latency", "game = 'qbert'"))
    assert own.latencies == []


def test_lists_that_grow_are_each_as_they_were(lake: Lake) -> None:
    (episode, *_) = lake.episodes("game = 'qbert'")
    own = Stepped(lambda agents: Latencies(), "mine", dtype=pl.List(pl.Int64), frames=False)
    lengths = lake.statistic(own, [episode]).collect()["value"].list.len().to_list()
    known = lake.statistic("latency", [episode]).collect()["value"].is_not_null().cum_sum().to_list()
    assert lengths == known


def test_a_function_sees_the_frames(lake: Lake) -> None:
    (episode, *_) = lake.episodes("game = 'breakout'")
    found = lake.statistic(brightness, [episode]).head(5).collect()
    assert found["value"].to_list() == [float(frame.mean()) for frame in episode.frames(stop=5)]
    with pytest.raises(InvalidArgument, match=r"brightness fails on episode .*, step 0: AttributeError"):
        lake.statistic(Stepped(lambda agents: brightness, "brightness", frames=False), [episode]).collect()


def test_durations_may_begin_with_a_plain_0(lake: Lake) -> None:
    def seconds(step_info: dict[str, Any]) -> Mapping[str, Any]:
        n = step_info["step_iter"]
        return {agent: timedelta(seconds=n) if n > 1 else 0 for agent in step_info["prev_obs"]}

    (episode, *_) = lake.episodes("game = 'qbert'")
    own = Stepped(lambda agents: seconds, "seconds", dtype=pl.Duration("us"), frames=False)
    assert lake.statistic(own, [episode]).head(2).collect()["value"].to_list() == [timedelta(0), timedelta(seconds=2)]


def test_values_of_another_type_and_none_at_all_are_told(lake: Lake) -> None:
    with pytest.raises(InvalidArgument, match=r"not of its dtype Int64.*Stepped\(…, dtype=…\)"):
        lake.statistic(Stepped(lambda a: lambda s: {P0: "x"}, "text", dtype=pl.Int64), "game = 'qbert'").collect()
    with pytest.raises(InvalidArgument, match="not int"):
        lake.statistic(Stepped(lambda a: lambda s: 3, "three"), "game = 'qbert'").collect()  # type: ignore[arg-type, return-value]
    with pytest.raises(InvalidArgument, match=r"RewardsHad cannot be made without arguments.*Stepped\(lambda agents"):
        lake.statistic(RewardsHad)


# Brought by a package

PACKAGE = """
import polars as pl
from crowdplay_lake.statistics import Stepped

class Leaps:
    '''Steps in which the ship moved by more than 2.'''
    columns = ("ram_1c",)
    games = ("space_invaders",)
    definition = "How often the ship leapt."
    def values(self, steps):
        return (pl.col("ram_1c").diff().abs() > 2).fill_null(False).cum_sum().over("episode_id", "agent_id")

def steps_so_far(agents):
    seen = []
    def count(step_info):
        seen.append(1)
        return dict.fromkeys(agents, len(seen))
    return count

counted = Stepped(steps_so_far, dtype=pl.Int64, frames=False)
"""

# What an installer leaves of it beside its modules.
METADATA = "Metadata-Version: 2.1\nName: leaping\nVersion: 0.1\n"
ENTRY_POINTS = """
[crowdplay_lake.statistics]
leaps = leaping:Leaps
counted = leaping:counted
gone = leaping.none:Nothing
score = leaping:Leaps
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed packages, with one that registers statistics."""
    (tmp_path / "leaping.py").write_text(PACKAGE)
    info = tmp_path / "leaping-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(METADATA)
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("leaping", None)


def test_a_package_brings_statistics(installed: Path, lake: Lake) -> None:
    assert names()[-3:] == ["counted", "gone", "leaps"]
    found = per_step(lake, "leaps")
    assert set(found["episode_id"]) == set(lake.episodes("game = 'space_invaders'").ids)
    assert found["value"].max() >= 1
    counted = per_step(lake, "counted", "game = 'qbert'")
    assert counted["value"].to_list() == (counted["step"] + 1).to_list()
    assert find("leaps").name == "leaps"
    with pytest.raises(UnknownStatistic, match="did you mean 'leaps'"):
        find("leap")


def test_it_does_not_take_the_place_of_crowdplays(installed: Path) -> None:
    assert find("score").key == "Score"
    assert names().count("score") == 1


def test_one_that_cannot_be_loaded_is_told_and_leaves_the_others(installed: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"'gone' is registered as leaping\.none:Nothing.*cannot be loaded"):
        find("gone")
    assert isinstance(registered()["gone"], InvalidArgument)
    assert not isinstance(registered()["leaps"], Exception)
    text = str(CliRunner(env={"COLUMNS": "200"}).invoke(APP, ["statistics"]).stdout)
    assert "How often the ship leapt." in text
    assert "cannot be" in text


def test_without_the_package_there_are_none() -> None:
    assert "leaps" not in names()
