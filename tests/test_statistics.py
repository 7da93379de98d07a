"""Behavioural statistics: equal to what was recorded, and to the same thing done step by step."""

from __future__ import annotations

import itertools
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from step_by_step import ORDERS, recorded, steppers

from crowdplay_ingest import running_statistics as running
from crowdplay_ingest.pipeline import ingest
from crowdplay_ingest.recording_tasks import TASKS
from crowdplay_lake import Episode, Lake
from crowdplay_lake.errors import InvalidArgument, NoTrajectory, UnknownEpisode, UnknownStatistic
from crowdplay_lake.statistics import Statistic, activity, annotate, blocks, find
from crowdplay_lake.statistics.activity import ActivePlaytime
from crowdplay_lake.statistics.compute import Work, final_results
from crowdplay_lake.statistics.position import RIVER_RIGHT, Side
from crowdplay_lake.statistics.registry import BUILT_IN
from crowdplay_lake.tagged import loads

P0, P1 = "game_0>player_0", "game_0>player_1"

# The keys of CrowdPlay's tasks that are the same statistic in every task.
NAMES = {
    "Score": "score",
    "Time played": "time_played",
    "Active playtime": "active_playtime",
    "Active Playtime": "active_playtime",
    "Time spent on left side of screen (fraction)": "left",
    "Time spent on left side (fraction)": "left",
    "Time spent on right side of screen (fraction)": "right",
    "Time spent on right side (fraction)": "right",
    "Aliens shot": "aliens_shot",
    "Accuracy": "accuracy",
}


def recorded_as(task_id: str, key: str) -> str | Statistic:
    """The statistic that a task keeps under a key."""
    if task_id == "montezuma_revenge_email" and key in NAMES and NAMES[key] == "right":
        # CrowdPlay measures another game's memory there: the number means nothing, and is still the same number.
        return Side("right", {"montezuma_revenge": RIVER_RIGHT}, "")
    if key in NAMES:
        return NAMES[key]
    maker = dict(TASKS[task_id].statistics)[key]
    assert isinstance(maker, partial)
    order = next(name for name, order in ORDERS.items() if order is maker.keywords["order"])
    return order if maker.keywords["share"] else f"{order}_total"


def values_of(lake: Lake, statistic: Any, episode: Episode) -> dict[str, list[Any]]:
    """agent → the value of each step."""
    frame = lake.statistic(statistic, [episode]).collect()
    assert frame["episode_id"].unique().to_list() == [episode.episode_id]
    found = {}
    for (agent,), rows in frame.group_by("agent_id", maintain_order=True):
        assert rows["step"].to_list() == list(range(len(episode)))
        found[str(agent)] = rows["value"].to_list()
    return found


def running_values(episode: Episode) -> dict[str, dict[str, list[Any]]]:
    """key → agent → the value that was recorded at each step."""
    found: dict[str, dict[str, list[Any]]] = {}
    for agent in episode.agents:
        for extra in episode.steps(agent, ["extra"])["extra"].to_pylist():
            for key, value in loads(extra)["episode_callables"].items():
                found.setdefault(key, {}).setdefault(agent, []).append(value)
    return found


# Against what was recorded


def test_every_recorded_running_value_is_the_same(lake: Lake) -> None:
    compared: Counter[str] = Counter()
    for episode in lake.episodes("n_steps IS NOT NULL"):
        for key, expected in running_values(episode).items():
            found = values_of(lake, recorded_as(episode.environment.task_id or "", key), episode)
            assert found == expected, (episode, key)
            compared[key] += sum(map(len, expected.values()))
    # All kinds that the sample's tasks keep, on every step.
    assert set(compared) >= {*NAMES} - {"Time spent on left side (fraction)"} - {
        "Time spent on right side of screen (fraction)"
    }
    assert compared["Score"] == lake.sql("SELECT count(*) FROM steps").fetchall()[0][0]


def test_what_would_be_stored_is_what_crowdplay_stored_with_its_types(lake: Lake) -> None:
    types = set()
    for episode in lake.episodes("n_steps IS NOT NULL"):
        for agent, data in episode.keyword_data.items():
            for key in data.keys() & running_values(episode).keys():
                work = lake.statistic_work(recorded_as(episode.environment.task_id or "", key), [episode])
                found = {result.agent_id: result.value for result in final_results(work)}
                assert (type(found[agent]), found[agent]) == (type(data[key]), data[key]), (episode, key)
                types.add(type(found[agent]))
    assert types == {int, float, timedelta}


# Against the same, step by step


def test_every_statistic_of_every_step_is_that_of_a_step_by_step_implementation(lake: Lake) -> None:
    tried: Counter[str] = Counter()
    for episode in lake.episodes("n_steps IS NOT NULL"):
        steps = list(episode.iter_raw_trajectory(frames=False))
        for name, stepper in steppers(episode).items():
            expected: dict[str, list[Any]] = {}
            for step in steps:
                for agent, value in stepper(step).items():
                    expected.setdefault(agent, []).append(value)
            assert values_of(lake, name, episode) == expected, (episode, name)
            tried[name] += 1
    assert set(tried) == set(BUILT_IN)


def test_the_whole_lake_at_once_is_each_episode_alone(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    # Several blocks of several episodes.
    monkeypatch.setattr(blocks, "MAX_ROWS", 1_500)
    for name, one in BUILT_IN.items():
        whole = lake.statistic(name).collect()
        chosen = lake.episodes(None if one.games is None else f"game IN {tuple(one.games)}")
        alone = pl.concat([lake.statistic(name, [episode]).collect() for episode in chosen])
        assert whole.sort("episode_id", "agent_id", "step").equals(alone.sort("episode_id", "agent_id", "step")), name
        assert len(list(lake.statistic_work(name).blocks())) > 1


def test_latencies_of_an_episode_are_a_list_under_all(lake: Lake) -> None:
    (episode, *_) = lake.episodes("game = 'space_invaders_2p'")
    (result,) = final_results(lake.statistic_work("latency", [episode]))
    assert result.agent_id == "all"
    steps = lake.statistic("latency", [episode]).sort("step", "agent_id").collect()
    assert result.value == steps["value"].drop_nulls().to_list()
    assert result.value
    assert set(map(type, result.value)) == {int}


def test_the_distribution_of_actions_is_stored_as_crowdplay_does(lake: Lake) -> None:
    (episode, *_) = lake.episodes("game = 'breakout'")
    (result,) = final_results(lake.statistic_work("actions", [episode]))
    assert list(result.value) == [*(f"action_{index}" for index in range(18)), "episode_length"]
    assert result.value["episode_length"] == len(episode)
    actions = episode.steps(columns=["action"])["action"].to_numpy()
    assert result.value["action_2"] == float(np.mean(actions == 2))


def test_a_share_of_nothing_is_stored_as_the_whole_number_0(lake: Lake) -> None:
    results = final_results(lake.statistic_work("rowbyrow"))
    shot = {r[:2]: r.value for r in final_results(lake.statistic_work("aliens_shot"))}
    assert {type(r.value) for r in results if shot[r[:2]]} == {float}
    nothing = pl.DataFrame({"episode_id": ["e"] * 3, "agent_id": [P0] * 3, "step": [0, 1, 2]}).with_columns(
        pl.lit(0x3F, pl.Int32).alias(f"ram_{address:02x}") for address in range(0x12, 0x18)
    )
    one = BUILT_IN["rowbyrow"]
    values = nothing.select("episode_id", "agent_id", "step").with_columns(value_column(one, nothing))
    assert values["value"].to_list() == [0.0] * 3
    ((_, _, value),) = one.results(nothing, values)
    assert (type(value), value) == (int, 0)


# Properties, over games that nobody would play

Game = tuple[int, list[dict[str, Any]]]  # agents, steps


def value_column(statistic: Statistic, steps: pl.DataFrame) -> pl.Series:
    values = statistic.values(steps)
    assert isinstance(values, pl.Series)
    return values.alias("value")


@st.composite
def episodes_played(draw: st.DrawFn) -> list[Game]:
    """Some episodes, of one or two agents, of a few steps: what each step holds is drawn from what matters."""
    games = []
    for _ in range(draw(st.integers(1, 3))):
        agents = draw(st.integers(1, 2))
        steps = draw(
            st.lists(
                st.fixed_dictionaries(
                    {
                        "aliens": st.one_of(st.just([0x3F] * 6), st.lists(st.integers(0, 255), min_size=6, max_size=6)),
                        "shots": st.tuples(*[st.sampled_from([0x54, 0x55, 0xF6])] * 2),
                        "owners": st.integers(0, 15),
                        "place": st.tuples(*[st.sampled_from([0, 0x22, 0x23, 0x4C, 0x4D, 0x75, 0x76])] * 2),
                        "reward": st.tuples(*[st.sampled_from([0, 0, 0, 5, -5, 200])] * 2),
                        "action": st.tuples(*[st.sampled_from([0, 0, 1, 5])] * 2),
                    }
                ),
                min_size=1,
                max_size=30,
            )
        )
        games.append((agents, steps))
    return games


def ram_of(step: Mapping[str, Any]) -> list[int]:
    ram = [0] * 128
    ram[0x12:0x18] = step["aliens"]
    ram[0x55], ram[0x56] = step["shots"]
    ram[0x18] = step["owners"]
    ram[0x1C], ram[0x1D] = step["place"]
    return ram


def as_frame(games: Sequence[Game]) -> pl.DataFrame:
    """The games as a frame of steps: episodes of one block."""
    rows = []
    for number, (agents, steps) in enumerate(games):
        for agent in range(agents):
            for index, step in enumerate(steps):
                ram = ram_of(step)
                row = {"episode_id": f"e{number}", "agent_id": (P0, P1)[agent], "step": index, "task_id": None}
                row |= {"game": "space_invaders", "reward": float(step["reward"][agent])}
                row |= {"reward_type": "int", "action": step["action"][agent]}
                rows.append(row | {f"ram_{address:02x}": byte for address, byte in enumerate(ram)})
    return pl.DataFrame(rows, schema_overrides={"step": pl.Int32, "task_id": pl.String})


def by_steps(games: Sequence[Game], make: Any) -> Iterator[Any]:
    """The values of a recorder's statistic, in the order of the frame."""
    for agents, steps in games:
        names = [P0, P1][:agents]
        statistic = make(names)
        values = [
            statistic(
                running.Outcome(
                    dict(zip(names, step["action"], strict=False)),
                    dict(zip(names, step["reward"], strict=False)),
                    ram_of(step),
                )
            )
            for step in steps
        ]
        yield from itertools.chain.from_iterable([value[name] for value in values] for name in names)


MAKERS: dict[str, Any] = {
    "score": running.Score,
    "time_played": running.TimePlayed,
    "left": partial(running.PositionShare, position=running.space_invaders_position, low=0, high=0.5),
    "right": partial(running.PositionShare, position=running.space_invaders_position, low=0.5, high=1),
    "aliens_shot": running.AliensShot,
    "accuracy": running.Accuracy,
    **{name: partial(running.AliensInOrder, order=order, share=True) for name, order in ORDERS.items()},
    **{f"{name}_total": partial(running.AliensInOrder, order=order, share=False) for name, order in ORDERS.items()},
}


@settings(max_examples=150, deadline=None)
@given(games=episodes_played())
def test_any_games_give_the_same_as_step_by_step(games: list[Game]) -> None:
    frame = as_frame(games)
    for name, make in MAKERS.items():
        assert value_column(BUILT_IN[name], frame).to_list() == list(by_steps(games, make)), name


@settings(max_examples=100, deadline=None)
@given(games=episodes_played(), rewards=st.integers(0, 8), keys=st.integers(0, 8))
def test_any_time_outs_give_the_same_active_playtime(games: list[Game], rewards: int, keys: int) -> None:
    make = partial(running.ActiveTime, reward_timeout=rewards, key_timeout=keys)
    with pytest.MonkeyPatch.context() as patch:
        # A step is a second, so that each shows.
        patch.setattr(activity, "STEPS_PER_SECOND", 1)
        patch.setattr(running, "_STEPS_PER_SECOND", 1)
        values = value_column(ActivePlaytime(rewards, keys), as_frame(games)).to_list()
        assert values == list(by_steps(games, make))


def test_active_playtime_ends_with_each_of_its_time_outs() -> None:
    n = 8_000
    base = {"episode_id": ["e"] * n, "agent_id": [P0] * n, "step": range(n), "task_id": ["breakout_mturk"] * n}
    busy = pl.DataFrame({**base, "reward": [0.0] * n, "action": [1] * n}, schema_overrides={"step": pl.Int32})
    assert value_column(find("active_playtime"), busy)[-1] == timedelta(seconds=60)
    asleep = busy.with_columns(reward=pl.lit(1.0), action=pl.lit(0))
    assert value_column(find("active_playtime"), asleep)[-1] == timedelta(seconds=20)
    patient = busy.with_columns(task_id=pl.lit("montezuma_revenge_mturk"))
    assert value_column(find("active_playtime"), patient)[-1] == timedelta(seconds=n // 60)
    assert value_column(ActivePlaytime(100, None), asleep)[-1] == timedelta(seconds=n // 60)
    assert value_column(ActivePlaytime(100, None), busy)[-1] == timedelta(seconds=100 // 60)


def test_where_a_step_lacks_what_is_needed_the_rest_is_unknown() -> None:
    games: list[Game] = [
        (
            2,
            [
                {
                    "aliens": [0x3F] * 6,
                    "shots": (0, 0),
                    "owners": 0,
                    "place": (0x23, 0x23),
                    "reward": (1, 1),
                    "action": (1, 1),
                }
            ]
            * 4,
        )
    ]
    frame = as_frame(games)
    gone = pl.when(pl.int_range(pl.len()) == 2).then(None)
    broken = frame.with_columns(gone.otherwise(pl.col(name)).alias(name) for name in ("ram_1c", "reward", "ram_12"))
    for name in ("left", "score", "aliens_shot", "rowbyrow", "accuracy", "active_playtime"):
        whole, values = value_column(BUILT_IN[name], frame), value_column(BUILT_IN[name], broken)
        needed = {"left": "ram_1c", "aliens_shot": "ram_12", "rowbyrow": "ram_12"}.get(name, "reward")
        assert broken[needed].null_count() == 1
        assert values.to_list() == [*whole.to_list()[:2], None, None, *whole.to_list()[4:]], name
    values = frame.select("episode_id", "agent_id", "step").with_columns(value_column(BUILT_IN["score"], broken))
    assert [tuple(r) for r in BUILT_IN["score"].results(broken, values)] == [("e0", P1, 4)]


def test_scores_of_fractions_add_up_in_the_order_of_the_steps() -> None:
    rewards = list(np.random.default_rng(3).normal(size=200))
    steps = pl.DataFrame(
        {
            "episode_id": ["a"] * 100 + ["b"] * 100,
            "agent_id": [P0] * 200,
            "step": [*range(100), *range(100)],
            "reward": rewards,
            "reward_type": ["float"] * 200,
        }
    )
    expected = [*itertools.accumulate(rewards[:100]), *itertools.accumulate(rewards[100:])]
    assert value_column(BUILT_IN["score"], steps).to_list() == expected
    values = steps.select("episode_id", "agent_id", "step").with_columns(value_column(BUILT_IN["score"], steps))
    assert [r.value for r in BUILT_IN["score"].results(steps, values)] == [expected[99], expected[199]]
    # Among such episodes those of whole rewards have whole scores.
    whole = steps.with_columns(reward=pl.lit(2.0), reward_type=pl.lit("int"))
    values = steps.select("episode_id", "agent_id", "step").with_columns(value_column(BUILT_IN["score"], whole))
    results = [r.value for r in BUILT_IN["score"].results(whole, values)]
    assert (results, {*map(type, results)}) == ([200, 200], {int})


# Lazily


class Counted(Statistic):
    """Says how often it was asked."""

    name = "counted"
    columns = ("reward",)

    def __init__(self) -> None:
        self.asked = 0

    def values(self, steps: pl.DataFrame) -> pl.Expr:
        self.asked += 1
        return pl.col("step").cast(pl.Float64)


def test_nothing_is_computed_before_it_is_asked_for_and_no_more_than_that(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "MAX_ROWS", 1)
    counted = Counted()
    values = lake.statistic(counted)
    episodes = lake.sql("SELECT count(*) FROM episodes WHERE n_steps IS NOT NULL").fetchall()[0][0]
    assert counted.asked == 0
    assert values.collect_schema().names() == ["episode_id", "agent_id", "step", "value"]
    assert counted.asked == 0
    assert len(values.head(5).collect()) == 5
    assert 1 <= counted.asked < episodes
    counted.asked = 0
    assert values.select(pl.len()).collect().item() == lake.scan("steps").select(pl.len()).collect().item()
    assert counted.asked == episodes


def test_a_lazy_frame_filters_selects_and_ends_where_it_is_told(lake: Lake) -> None:
    values = lake.statistic("score")
    whole = values.collect()
    assert whole.schema == {"episode_id": pl.String, "agent_id": pl.String, "step": pl.Int32, "value": pl.Int64}
    assert values.filter(pl.col("step") == 7).collect().equals(whole.filter(pl.col("step") == 7))
    assert values.filter(pl.col("value") > 3).head(4).collect().equals(whole.filter(pl.col("value") > 3).head(4))
    assert values.head(700).filter(pl.col("step") > 600).collect().equals(whole.head(700).filter(pl.col("step") > 600))
    assert values.select("value").collect().equals(whole.select("value"))
    assert (
        values.filter(pl.col("agent_id") == P1)
        .select("step")
        .collect()
        .equals(whole.filter(pl.col("agent_id") == P1).select("step"))
    )
    joined = values.join(lake.scan("steps"), on=["episode_id", "agent_id", "step"]).select(pl.len()).collect().item()
    assert joined == len(whole)


def test_an_executor_gives_the_same(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "MAX_ROWS", 1_000)
    with ThreadPoolExecutor(2) as executor:
        for name in ("insideout", "frames_humanai_share", "latency"):
            values = lake.statistic(name, executor=executor)
            assert values.collect().equals(lake.statistic(name).collect())
            assert len(values.head(3).collect()) == 3


# Which episodes


def test_episodes_are_chosen_by_condition_ids_or_as_they_are(lake: Lake) -> None:
    chosen = lake.episodes("game = 'qbert'")
    expected = lake.statistic("score", "game = ?", ["qbert"]).collect()
    assert sorted(expected["episode_id"].unique()) == chosen.ids
    assert lake.statistic("score", chosen.ids).collect().equals(expected)
    assert lake.statistic("score", chosen).collect().equals(expected)
    assert lake.statistic("score", []).collect().is_empty()
    assert lake.statistic("score", "score > 1e9").collect().is_empty()


def test_a_statistic_is_computed_of_the_games_it_is_for(lake: Lake) -> None:
    found = lake.statistic("left").collect()["episode_id"].unique()
    games = lake.sql("SELECT DISTINCT game FROM episodes WHERE episode_id IN (SELECT unnest(?))", [found.to_list()])
    assert {game for (game,) in games} == set(BUILT_IN["left"].games or ())


def test_of_all_games_those_it_is_not_for_are_left_out(tmp_path: Path, small_raw: Path) -> None:
    """Also where no other game is there: an episode without metadata is of an unknown game."""
    (tmp_path / "raw").mkdir()
    smallest = min(small_raw.glob("????????*.pickle"), key=lambda path: path.stat().st_size)
    shutil.copy(smallest, tmp_path / "raw")
    ingest(tmp_path / "raw", tmp_path / "lake")
    unknown = Lake(tmp_path / "lake")
    assert {episode.game for episode in unknown.episodes()} == {"unknown"}
    for name, statistic in BUILT_IN.items():
        found = unknown.statistic(name).collect()
        assert found.columns == ["episode_id", "agent_id", "step", "value"]
        assert found.is_empty() == (statistic.games is not None), name
    with pytest.raises(InvalidArgument, match=r"left is defined for .*riverraid, and there are episodes of unknown"):
        unknown.statistic("left", "game = 'unknown'")
    summary = annotate(tmp_path / "lake", ["left"])
    assert (summary.episodes, summary.values, summary.commit) == (0, 0, unknown.commit)
    assert summary.of_other_games == 1


def test_of_a_game_it_is_not_defined_for_it_says_which_ones(lake: Lake) -> None:
    with pytest.raises(InvalidArgument, match=r"accuracy is defined for space_invaders, space_invaders_2p.*qbert"):
        lake.statistic("accuracy", "game IN ('space_invaders', 'qbert')")
    with pytest.raises(InvalidArgument, match="episodes of breakout"):
        lake.statistic("left", lake.episodes("game = 'breakout'").ids[:1])


def test_an_unknown_name_says_the_nearest(lake: Lake) -> None:
    with pytest.raises(UnknownStatistic, match="no statistic 'acuracy'; did you mean 'accuracy'"):
        lake.statistic("acuracy")
    with pytest.raises(UnknownEpisode):
        lake.statistic("score", ["none"])


def test_an_episode_without_a_trajectory_is_left_out_or_told(lake: Lake) -> None:
    rows = [{**row, "n_steps": None} for row in lake._episode_rows.to_pylist()[:1]]
    work = Work(lake.snapshot.paths, lake.commit, BUILT_IN["score"], [*rows], chosen=False)
    assert work.without_trajectory == 1
    assert work.blocks() == []
    with pytest.raises(NoTrajectory):
        len(Episode(lake, rows[0]))


def test_every_statistic_says_what_it_is() -> None:
    for name, one in BUILT_IN.items():
        assert one.name == name
        assert one.definition.endswith(".")
        assert one.unit
    keys = [one.key or one.name for one in BUILT_IN.values()]
    assert len(set(keys)) == len(keys)
    # The keys of CrowdPlay's own script.
    assert {"latencies", "left", "right", "rowbyrow", "insideout", "outsidein", "action_dist_data"} <= set(keys)
    assert {"total_frames_humanhuman", "total_frames_humanai", "Score", "Time played", "Active playtime"} <= set(keys)


def test_the_recorder_steps_are_what_the_tests_compare_with() -> None:
    # Guards the yardstick itself: it counts an alien when it goes, and not when a wave comes.
    stepper = recorded(running.AliensShot([P0]))

    def step(*rows: int) -> dict[str, Any]:
        ram = [0] * 128
        ram[0x12:0x18] = rows
        return {"action": {P0: {"game": 0}}, "reward": {P0: 0}, "info": {P0: {"RAM": ram}}}

    full = [0x3F] * 6
    values = [stepper(step(*rows))[P0] for rows in (full, [0x3E, *full[1:]], full, [0] * 6)]
    assert values == [0, 1, 1, 37]


def rolled_out(columns: Mapping[str, Any]) -> pl.DataFrame:
    base = {"episode_id": ["e"] * 3, "agent_id": ["agent_0"] * 3, "step": [0, 1, 2]}
    return pl.DataFrame({**base, **columns}, schema_overrides={"step": pl.Int32})


def test_what_an_episode_does_not_tell_is_not_stored() -> None:
    nothing = [None] * 3
    for name, columns in {
        "latency": {"step_iter": nothing, "action_step_iter": nothing, "user_type": nothing},
        "actions": {"action": [1, None, 2]},
        "score": {"reward": [None, 1.0, 1.0], "reward_type": ["int"] * 3},
        "left": {"ram_1c": nothing, "ram_1d": nothing, "ram_33": nothing, "game": ["space_invaders"] * 3},
    }.items():
        one = BUILT_IN[name]
        integers = [key for key in columns if key not in ("reward", "reward_type", "game")]
        steps = rolled_out(columns).with_columns(pl.col(integers).cast(pl.Int32))
        values = steps.select("episode_id", "agent_id", "step").with_columns(value_column(one, steps))
        assert list(one.results(steps, values)) == [], name
        assert values["value"][-1] is None


def test_somebody_alone_is_not_two_people() -> None:
    steps = rolled_out({"user_type": [1, 2, 1]})
    assert BUILT_IN["frames_humanhuman"].values(steps)["value"].to_list() == [0, 0, 0]
    assert BUILT_IN["frames_humanai"].values(steps)["value"].to_list() == [0, 1, 1]
