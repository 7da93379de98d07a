"""The recorder against what CrowdPlay writes: steps, endings, files, metadata, statistics, and players."""

from __future__ import annotations

import bz2
import copy
import gzip
import pickle
import sqlite3
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crowdplay_ingest import consoles
from crowdplay_ingest import running_statistics as running
from crowdplay_ingest.playing import Episode, make_statistics
from crowdplay_ingest.recorder import (
    GAMES,
    TASKS,
    EnvironmentPlan,
    EpisodePlan,
    RecordingOptions,
    RecordingSummary,
    record,
    sample_plan,
)
from crowdplay_lake.errors import InvalidArgument, MissingExtra, UnknownName

pytest.importorskip("ale_py")
two_players = pytest.mark.skipif(not consoles.can_play_two(), reason="needs multi-agent-ale-py")

FIRST, SECOND = "game_0>player_0", "game_0>player_1"
UNPACKED = RecordingOptions(compression="none")
STEP_KEYS = [
    "prev_obs",
    "action",
    "action_step_iter",
    "reward",
    "done",
    "info",
    "step_iter",
    "user_type",
    "task_callables",
    "episode_callables",
]

Trajectory = list[dict[str, Any]]


def one(task_id: str, *episodes: EpisodePlan, people: tuple[str, ...] = ("ada",)) -> list[EnvironmentPlan]:
    return [EnvironmentPlan(task_id, episodes, people)]


def read(path: Path) -> Trajectory:
    unpack: dict[str, Callable[[bytes], bytes]] = {".bz2": bz2.decompress, ".gz": gzip.decompress}
    packed = path.read_bytes()
    trajectory: Trajectory = pickle.loads(unpack.get(path.suffix, bytes)(packed))
    return trajectory


def in_memory(task_id: str, plan: EpisodePlan, seed: str) -> Trajectory:
    """A one-player episode, played and not written; the recorder takes an episode's id as its seed."""
    task = TASKS[task_id]
    console = consoles.OnePlayerConsole(GAMES[task.game].rom)
    return Episode(console, task, plan, make_statistics(task), 100_000, seed).play()


def episodes(summary: RecordingSummary) -> list[Trajectory]:
    return [read(path) for path in summary.files if ".pickle" in path.name]


def play(raw: Path, plan: list[EnvironmentPlan], options: RecordingOptions = UNPACKED) -> list[Trajectory]:
    return episodes(record(raw, plan, options))


def rows(raw: Path, sql: str) -> list[tuple[Any, ...]]:
    database = sqlite3.connect(raw / "dataset.sqlite")
    try:
        found = database.execute(sql).fetchall()
    finally:
        database.close()
    return [tuple(pickle.loads(cell) if isinstance(cell, bytes) else cell for cell in row) for row in found]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Trajectory:
    """200 steps of one person, in a task with many statistics."""
    raw = tmp_path_factory.mktemp("alone")
    return play(raw, one("space_invaders_insideout_email", EpisodePlan(200, ("skilled",))))[0]


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Trajectory:
    """400 steps of two persons who share the reward."""
    if not consoles.can_play_two():
        pytest.skip("needs multi-agent-ale-py")
    plan = one("space_invaders_2p_cooperative_email", EpisodePlan(400, ("skilled", "sticky")), people=("a", "b"))
    return play(tmp_path_factory.mktemp("together"), plan)[0]


def types(values: dict[str, Any]) -> dict[str, type]:
    return {key: type(value) for key, value in values.items()}


def test_step_has_the_keys_and_types_of_crowdplay(alone: Trajectory) -> None:
    for number, step in enumerate(alone, start=1):
        assert list(step) == STEP_KEYS
        inner = step["prev_obs"][FIRST]
        assert type(inner) is OrderedDict
        assert (inner["image"].dtype, inner["image"].shape) == (np.uint8, (210, 160, 3))
        assert types(step["action"][FIRST]) == {"game": int}
        assert types(step["action_step_iter"]) == {FIRST: int}
        assert types(step["reward"]) == {FIRST: np.int32}
        assert types(step["done"]) == {FIRST: bool, "__all__": bool}
        assert types(step["info"][FIRST]) == {"ale.lives": np.int32, "RAM": list}
        assert len(step["info"][FIRST]["RAM"]) == 128
        assert set(map(type, step["info"][FIRST]["RAM"])) == {int}
        assert (step["step_iter"], step["user_type"]) == (number, {FIRST: 1})


def test_statistics_are_those_of_the_task_in_their_order_and_types(alone: Trajectory) -> None:
    last = alone[-1]["task_callables"]
    assert list(last) == [name for name, _ in TASKS["space_invaders_insideout_email"].statistics]
    assert {name: type(values[FIRST]) for name, values in last.items()} == {
        "Score": np.int64,
        "Active playtime": timedelta,
        "Aliens hit in order": int,
        "Aliens hit in order (fraction)": float if last["Aliens shot"][FIRST] else int,
        "Time played": timedelta,
        "Aliens shot": int,
        "Accuracy": np.float64,
        "Time spent on left side of screen (fraction)": float,
        "Time spent on right side of screen (fraction)": float,
    }
    assert last["Time played"][FIRST] == timedelta(seconds=200 // 60)
    assert alone[-1]["episode_callables"] == last


def test_the_game_is_real_and_rows_are_before_and_after(alone: Trajectory) -> None:
    console = consoles.OnePlayerConsole("space_invaders")
    console.reset()
    for step in alone:
        assert np.array_equal(step["prev_obs"][FIRST]["image"], console.screen())
        reward = console.act([step["action"][FIRST]["game"]])
        assert step["reward"][FIRST] == reward[0]
        assert step["info"][FIRST]["RAM"] == console.ram()
        assert step["info"][FIRST]["ale.lives"] == console.lives()[0]


def test_keys_are_pressed_some_steps_before_they_count(alone: Trajectory) -> None:
    assert (alone[0]["action"][FIRST], alone[0]["action_step_iter"][FIRST]) == ({"game": 0}, -1)
    answered = [
        step["step_iter"] - step["action_step_iter"][FIRST]
        for before, step in pairwise(alone)
        if step["action_step_iter"] != before["action_step_iter"]
    ]
    assert len(answered) >= 3
    assert all(4 <= latency <= 12 for latency in answered)


def test_two_agents_share_the_frame_and_the_reward_and_nothing_else(together: Trajectory) -> None:
    for step in together:
        first, second = step["prev_obs"][FIRST], step["prev_obs"][SECOND]
        assert first["image"] is second["image"]
        assert first is not second
        assert type(step["reward"][FIRST]) is np.int64
        assert step["reward"][FIRST] is step["reward"][SECOND]
        assert step["info"][FIRST]["RAM"] == step["info"][SECOND]["RAM"]
        assert step["info"][FIRST]["RAM"] is not step["info"][SECOND]["RAM"]
    scores = together[-1]["episode_callables"]["Score"]
    assert scores[FIRST] == scores[SECOND] == sum(int(step["reward"][FIRST]) for step in together) > 0


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_pickle_is_that_of_deeply_copied_steps(protocol: int, tmp_path: Path) -> None:
    plan = one("space_invaders_insideout", EpisodePlan(30))
    options = RecordingOptions(protocol=protocol, compression="none", metadata=False)
    [path] = record(tmp_path, plan, options).files
    written = path.read_bytes()
    assert written[:2] == bytes([0x80, protocol])
    trajectory = in_memory("space_invaders_insideout", plan[0].episodes[0], seed=path.stem)
    assert written == pickle.dumps([copy.deepcopy(step) for step in trajectory], protocol)


def test_compressions_hold_the_same_pickle_and_replace_each_other(tmp_path: Path) -> None:
    plan = one("breakout_mturk", EpisodePlan(20))
    seen = {}
    for compression, opened in (("bz2", bz2.open), ("gz", gzip.open), ("none", open)):
        summary = record(tmp_path, plan, RecordingOptions(compression=compression, metadata=False))
        [path] = summary.files
        assert list(tmp_path.iterdir()) == [path]
        with opened(path, "rb") as file:
            seen[path.name.removeprefix(path.name.split(".")[0])] = file.read()
    assert set(seen) == {".pickle.bz2", ".pickle.gz", ".pickle"}
    assert len(set(seen.values())) == 1


def test_same_options_give_the_same_files_and_another_seed_adds(tmp_path: Path) -> None:
    plan = one("qbert_mturk", EpisodePlan(40), EpisodePlan(20))
    for compression in ("bz2", "gz"):
        twice = [tmp_path / compression / name for name in ("a", "b")]
        for raw in twice:
            record(raw, plan, RecordingOptions(compression=compression))
        names = [sorted(path.name for path in raw.iterdir()) for raw in twice]
        assert names[0] == names[1]
        for name in names[0]:
            if ".pickle" in name:
                assert (twice[0] / name).read_bytes() == (twice[1] / name).read_bytes()
    raw = tmp_path / "bz2" / "a"
    record(raw, plan)
    assert len(rows(raw, "SELECT * FROM episodes")) == 2
    record(raw, plan, RecordingOptions(seed=1))
    assert len(rows(raw, "SELECT * FROM episodes")) == 4
    assert len(rows(raw, "SELECT DISTINCT permanent_user_id FROM users")) == 1
    assert len(list(raw.glob("*.pickle.bz2"))) == 4
    assert not list(raw.glob(".*"))


def test_game_over_and_stop(tmp_path: Path) -> None:
    to_the_end, stopped = play(tmp_path, one("montezuma_revenge_mturk", EpisodePlan(3000), EpisodePlan(50)))
    assert len(to_the_end) < 3000
    assert to_the_end[-1]["done"] == {FIRST: True, "__all__": True}
    assert to_the_end[-1]["info"][FIRST]["ale.lives"] == 0
    assert len(stopped) == 50
    assert not any(step["done"][FIRST] or step["done"]["__all__"] for step in to_the_end[:-1] + stopped)


def test_frame_limit_ends_like_a_game_over_with_lives_left(tmp_path: Path) -> None:
    plan = one("breakout_mturk", EpisodePlan(400), EpisodePlan(400, frame_limit=60))
    options = RecordingOptions(compression="none", frame_limit=99)
    for trajectory, limit in zip(play(tmp_path, plan, options), (99, 60), strict=True):
        assert len(trajectory) == limit + 1  # CrowdPlay compares the frames before the step
        assert trajectory[-1]["done"] == {FIRST: True, "__all__": True}
        assert trajectory[-1]["info"][FIRST]["ale.lives"] > 0


@two_players
def test_one_player_out_while_the_other_plays_on(tmp_path: Path) -> None:
    plan = EpisodePlan(300, ("sticky", "skilled"), out_step=100)
    [trajectory] = play(tmp_path, one("space_invaders_2p_competitive_email", plan, people=("a", "b")))
    out = trajectory[99:]
    assert len(out) == 201
    assert not any(step["done"][FIRST] for step in trajectory[:99])
    assert all(step["done"] == {FIRST: True, SECOND: False, "__all__": False} for step in out)
    assert {int(step["info"][FIRST]["ale.lives"]) for step in out} == {-1}
    assert {type(step["info"][FIRST]["ale.lives"]) for step in out} == {np.int32}
    positions = {step["info"][FIRST]["RAM"][0x1C] for step in out[20:]}
    assert len(positions) == 1
    assert len({step["info"][FIRST]["RAM"][0x1D] for step in out}) > 1


@two_players
def test_ai_takes_over_and_a_step_is_lost(tmp_path: Path) -> None:
    plan = EpisodePlan(80, ("sticky", "sticky"), takeover_step=41, lost_steps=(41,))
    [trajectory] = play(tmp_path, one("space_invaders_2p_competitive_mturk", plan, people=("a", "b")))
    assert [step["step_iter"] for step in trajectory] == [*range(1, 41), *range(42, 81)]
    assert [step["user_type"] for step in trajectory] == [{FIRST: 1, SECOND: 1}] * 40 + [{FIRST: 1, SECOND: 2}] * 39
    for step in trajectory[40:]:
        assert step["action_step_iter"][SECOND] == step["step_iter"] - 1
    kept = [step for step in trajectory if step["step_iter"] in (40, 42)]
    assert kept[0]["prev_obs"][FIRST]["image"] is not kept[1]["prev_obs"][FIRST]["image"]


@two_players
def test_ai_that_always_plays_is_no_user(tmp_path: Path) -> None:
    plan = one("space_invaders_ai_competitive_mturk", EpisodePlan(30, ("sticky", "skilled")))
    [trajectory] = play(tmp_path, plan)
    assert {tuple(step["user_type"].values()) for step in trajectory} == {(1, 2)}
    assert rows(tmp_path, "SELECT agent_id FROM users") == [(FIRST,)]


def test_task_statistics_go_on_over_the_episodes_of_an_environment(tmp_path: Path) -> None:
    first, second = play(tmp_path, one("riverraid_left", EpisodePlan(300), EpisodePlan(150)))
    assert first[-1]["task_callables"] == first[-1]["episode_callables"]
    before, task, episode = (
        step[kind]["Score"][FIRST]
        for step, kind in (
            (first[-1], "task_callables"),
            (second[-1], "task_callables"),
            (second[-1], "episode_callables"),
        )
    )
    assert task == before + episode
    assert second[-1]["task_callables"]["Time played"][FIRST] == timedelta(seconds=450 // 60)
    assert second[-1]["episode_callables"]["Time played"][FIRST] == timedelta(seconds=150 // 60)


def test_metadata_is_crowdplays(tmp_path: Path) -> None:
    plan = [
        *one("riverraid_left", EpisodePlan(130), EpisodePlan(70), people=("ben",)),
        *one("breakout_mturk", EpisodePlan(20), people=("ben",)),
        *one("beam_rider_mturk", EpisodePlan(20), people=("ada",)),
    ]
    summary = record(tmp_path, plan, UNPACKED)
    schema = dict(rows(tmp_path, "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))
    assert set(schema) == {
        "environments",
        "environmentkeyworddata",
        "episodes",
        "episodekeyworddata",
        "users",
    }
    assert schema["environments"] == (
        "CREATE TABLE environments (\n\tenvironment_id VARCHAR(255) NOT NULL, "
        "\n\ttask_id VARCHAR(255) NOT NULL, \n\tPRIMARY KEY (environment_id)\n)"
    )
    environments = dict(rows(tmp_path, "SELECT task_id, environment_id FROM environments"))
    of_river = environments["riverraid_left"]
    stored = {
        (agent, key): value
        for owner, agent, key, value in rows(tmp_path, "SELECT * FROM environmentkeyworddata")
        if owner == of_river
    }
    last = episodes(summary)[1][-1]
    assert stored.pop(("all", "created_on")).year == 2021
    assert stored == {
        ("all", "game"): "riverraid",
        ("all", "task"): "left",
        ("all", "source"): "mturk",
        **{(FIRST, name): values[FIRST] for name, values in last["task_callables"].items()},
    }
    assert not any(isinstance(value, np.generic) for value in stored.values())
    played = rows(tmp_path, f"SELECT episode_id FROM episodes WHERE environment_id = '{of_river}'")
    assert {f"{episode_id}.pickle" for (episode_id,) in played} <= {path.name for path in summary.files}
    dates = rows(tmp_path, "SELECT value FROM episodekeyworddata WHERE key = 'created_on'")
    assert len(dates) == 4
    assert all(type(date) is datetime for (date,) in dates)
    people = dict(rows(tmp_path, "SELECT task_id, permanent_user_id FROM users"))
    assert people["riverraid_left"] == people["breakout_mturk"] != people["beam_rider_mturk"]
    assert all(len(person) == 40 for person in people.values())


@pytest.mark.parametrize("protocol", [4, 5])
def test_metadata_protocol(protocol: int, tmp_path: Path) -> None:
    plan = one("breakout_mturk", EpisodePlan(5))
    record(tmp_path, plan, RecordingOptions(metadata_protocol=protocol))
    database = sqlite3.connect(tmp_path / "dataset.sqlite")
    values = [value for (value,) in database.execute("SELECT value FROM environmentkeyworddata")]
    database.close()
    assert {value[:2] for value in values} == {bytes([0x80, protocol])}


def test_no_metadata(tmp_path: Path) -> None:
    summary = record(tmp_path, one("breakout_mturk", EpisodePlan(5)), RecordingOptions(metadata=False))
    assert [path.name for path in tmp_path.iterdir()] == [summary.files[0].name]
    assert (summary.episodes, summary.steps, summary.skipped) == (1, 5, [])


@pytest.mark.parametrize(("task_id", "steps"), [("space_invaders_mturk", 1500), ("breakout_mturk", 1200)])
def test_skilled_players_score_more(task_id: str, steps: int, tmp_path: Path) -> None:
    def score(kind: str, seed: str) -> int:
        last = in_memory(task_id, EpisodePlan(steps, (kind,)), seed)[-1]
        return int(last["episode_callables"]["Score"][FIRST])

    sticky, skilled = ([score(kind, seed) for seed in "abc"] for kind in ("sticky", "skilled"))
    assert min(skilled) > max(sticky)
    assert sum(skilled) > 2 * sum(sticky)


def test_sample_plan_has_every_kind_and_can_be_played(tmp_path: Path) -> None:
    plan = sample_plan(seconds=0.2)
    assert {TASKS[environment.task_id].game for environment in plan} == set(GAMES)
    assert len(plan) >= 12
    everything = [episode for environment in plan for episode in environment.episodes]
    assert any(episode.takeover_step for episode in everything)
    assert any(episode.out_step for episode in everything)
    assert any(episode.frame_limit for episode in everything)
    assert any(len(environment.episodes) > 1 for environment in plan)
    names = [name for environment in plan for name in environment.participants]
    assert len(set(names)) < len(names)
    seen: list[tuple[str, int]] = []
    summary = record(tmp_path, plan, UNPACKED, on_episode=lambda *episode: seen.append(episode))
    assert summary.episodes == len(seen)
    assert summary.steps == sum(steps for _, steps in seen) == sum(map(len, episodes(summary)))


def test_sample_plan_of_some_games_is_part_of_the_whole() -> None:
    whole = sample_plan(5, seed=3)
    assert sample_plan(5, games=["qbert", "breakout"], seed=3) == [
        environment for environment in whole if environment.task_id in ("qbert_socialmedia", "breakout_mturk")
    ]
    assert whole != sample_plan(5, seed=4)


def test_without_the_two_player_emulator_its_games_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "multi_agent_ale_py", None)
    plan = sample_plan(seconds=0.2, games=["breakout", "space_invaders_2p"])
    summary = record(tmp_path, plan, UNPACKED)
    assert summary.episodes == 3
    assert len(summary.skipped) == 2
    assert all("multi-agent-ale-py" in reason for reason in summary.skipped)
    assert rows(tmp_path, "SELECT task_id FROM environments") == [("breakout_mturk",)]


def test_without_an_emulator_the_message_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(MissingExtra, match=r"pip install 'crowdplay-lake\[record\]'"):
        record(tmp_path, one("breakout_mturk", EpisodePlan(5)))


def test_emulators_are_loaded_only_to_play() -> None:
    code = "import sys, crowdplay_ingest.recorder; print({'ale_py', 'multi_agent_ale_py'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (one("breakout_mturkk", EpisodePlan(5)), "breakout_mturk"),
        (one("breakout_mturk", EpisodePlan(5, ("skiled",))), "skilled"),
    ],
)
def test_unknown_names(plan: list[EnvironmentPlan], message: str, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=f"did you mean .*{message}"):
        record(tmp_path / "raw", plan)
    assert not (tmp_path / "raw").exists()


def test_unknown_game_in_sample_plan() -> None:
    with pytest.raises(UnknownName, match="did you mean 'qbert'"):
        sample_plan(games=["qberto"])


@pytest.mark.parametrize(
    ("task_id", "episode", "people", "message"),
    [
        ("breakout_mturk", EpisodePlan(0), ("a",), "max_steps is 0"),
        ("breakout_mturk", EpisodePlan(5, ("sticky", "sticky")), ("a",), "2 players for 1 agents"),
        ("breakout_mturk", EpisodePlan(5), ("a", "b"), "2 participants"),
        ("breakout_mturk", EpisodePlan(5, out_step=2), ("a",), "out_step"),
        ("qbert_mturk", EpisodePlan(5, ("skilled",)), ("a",), "nobody plays qbert well"),
        ("qbert_mturk", EpisodePlan(5, takeover_step=2), ("a",), "takeover_step"),
        ("qbert_mturk", EpisodePlan(5, frame_limit=0), ("a",), "frame_limit is 0"),
    ],
)
def test_plans_that_cannot_be_played(
    task_id: str, episode: EpisodePlan, people: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidArgument, match=message):
        record(tmp_path, one(task_id, episode, people=people))


@pytest.mark.parametrize("bad", [{"protocol": 2}, {"compression": "zip"}, {"frame_limit": 0}, {"metadata_protocol": 9}])
def test_bad_options(bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(bad))):
        RecordingOptions(**bad)


def alien_ram(alive: set[tuple[int, int]]) -> list[int]:
    ram = [0] * 128
    for row, column in alive:
        ram[0x12 + row] |= 1 << column
    return ram


ALL = {(row, column) for row in range(6) for column in range(6)}


@pytest.mark.parametrize(
    ("order", "gone", "good"),
    [
        (running.by_rows, [(0, 3)], 1),
        (running.by_rows, [(1, 3)], 0),
        (running.by_rows, [(0, column) for column in range(6)] + [(1, 0)], 7),
        (running.by_columns_outside_in, [(2, 0), (2, 5)], 2),
        (running.by_columns_outside_in, [(2, 1), (2, 4)], 0),
        (running.by_columns_outside_in, [(row, 0) for row in range(6)] + [(3, 1)], 7),
        (running.by_columns_inside_out, [(2, 2), (2, 3)], 2),
        (running.by_columns_inside_out, [(2, 1), (2, 4)], 0),
        (running.by_columns_inside_out, [(row, 3) for row in range(6)] + [(0, 4)], 7),
    ],
)
def test_aliens_in_order(order: running.Order, gone: list[tuple[int, int]], good: int) -> None:
    total = running.AliensInOrder([FIRST], order, share=False)
    share = running.AliensInOrder([FIRST], order, share=True)
    left = set(ALL)
    values = [counter(running.Outcome({}, {}, alien_ram(left))) for counter in (total, share)]
    assert values == [{FIRST: 0}, {FIRST: 0}]
    for alien in gone:
        left.discard(alien)
        values = [counter(running.Outcome({}, {}, alien_ram(left))) for counter in (total, share)]
    assert values == [{FIRST: good}, {FIRST: good / len(gone)}]
    # A new wave is no hit.
    assert total(running.Outcome({}, {}, alien_ram(ALL))) == {FIRST: good}


def test_active_time_stops_without_keys_or_rewards() -> None:
    active = running.ActiveTime([FIRST], reward_timeout=120, key_timeout=60)
    value: dict[str, running.Value] = {}
    for step in range(1, 601):
        value = active(running.Outcome({FIRST: int(step <= 300)}, {FIRST: int(step == 60)}, []))
    assert value == {FIRST: timedelta(seconds=3)}  # the reward of step 60 lasts to step 180
