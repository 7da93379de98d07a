"""The offline benchmark: what is learned from, who learns, what it sees when it plays, what is kept of it."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from crowdplay_ingest.consoles import OnePlayerConsole
from crowdplay_ingest.pipeline import ingest
from crowdplay_ingest.recorder import EnvironmentPlan, EpisodePlan, RecordingOptions, record
from crowdplay_ingest.rollouts import ingest_rollouts
from crowdplay_lake import Episode, Lake
from crowdplay_lake.cli.training import app
from crowdplay_lake.errors import InvalidArgument, UnknownAlgorithm, UnknownName, UnknownPath, UnknownTask
from crowdplay_lake.offline.transitions import Conversion, segments

d3rlpy = pytest.importorskip("d3rlpy")
torch = pytest.importorskip("torch")
pytest.importorskip("ale_py")
pytest.importorskip("matplotlib")

from crowdplay_lake.offline.benchmark import data, measures, playing, results, tasks, training  # noqa: E402
from crowdplay_lake.offline.benchmark.algorithms import ALGORITHMS, make_algorithm  # noqa: E402

pytestmark = pytest.mark.slow

FIRST = "game_0>player_0"
LEFT = "space_invaders_left"
# Everything counts, and little is played.
ALL = tasks.Filter(least_score=0, least_adherence=0)
SHORT = playing.PlayOptions(episodes=2, max_steps=100)
TINY = training.RunOptions(LEFT, chosen=ALL, batch_size=4, play=SHORT, test_share=0.3)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """So small a network is slower on many, and other tests run beside these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake of three people at one task of Space Invaders, and one at another and two games. Not to be changed."""
    folder = tmp_path_factory.mktemp("people")
    well, badly = EpisodePlan(420, ("skilled",)), EpisodePlan(200)
    plan = [
        EnvironmentPlan(LEFT, (well, badly), ("ada",)),
        EnvironmentPlan(LEFT, (well,), ("ben",)),
        EnvironmentPlan(LEFT, (well,), ("cleo",)),
        EnvironmentPlan("space_invaders_rowbyrow", (EpisodePlan(900, ("skilled",)), badly), ("dan",)),
        EnvironmentPlan("breakout_mturk", (EpisodePlan(150),), ("dan",)),
        EnvironmentPlan("riverraid_left", (EpisodePlan(150),), ("dan",)),
    ]
    record(folder / "raw", plan, RecordingOptions(seed=3, compression="none"))
    ingest(folder / "raw", folder / "lake")
    return folder / "lake"


@pytest.fixture(scope="module")
def a_run(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of four steps. Not to be changed."""
    runs = tmp_path_factory.mktemp("runs")
    return training.train(training.plan_run(people, TINY), runs, OnePlayerConsole, training.Schedule(4, 2))


# What is learned from


ADHERENCE = {
    LEFT: "Time spent on left side of screen (fraction)",
    "space_invaders_rowbyrow": "Correct aliens shot (fraction)",
}


@pytest.mark.parametrize(("task_id", "key"), ADHERENCE.items())
@pytest.mark.parametrize("least", [0.0, 0.5, 0.9])
def test_demonstrations_are_those_that_keep_to_the_task(people: Path, task_id: str, key: str, least: float) -> None:
    lake = Lake(people)
    expected = {}
    for episode in lake.episodes():
        known = episode.keyword_data[FIRST]
        if episode.environment.task_id == task_id and known["Score"] >= 10 and known[key] >= least:
            expected[episode.episode_id] = known
    if not expected:
        with pytest.raises(InvalidArgument, match="no episodes to learn"):
            tasks.demonstrations(lake, tasks.task_named(task_id), tasks.Filter(10, least))
        return
    found = tasks.demonstrations(lake, tasks.task_named(task_id), tasks.Filter(10, least))
    assert found.episodes.ids == sorted(expected)
    scores = [known["Score"] for known in expected.values()]
    assert found.human.best == max(scores)
    assert found.human.mean == pytest.approx(np.mean(scores))
    assert found.human.median == np.median(scores)
    assert found.human.adherence == pytest.approx(np.mean([known[key] for known in expected.values()]))


def test_tasks_and_adherence_are_crowdplays() -> None:
    """Every task is one that CrowdPlay recorded, with the statistic that it is filtered by."""
    from crowdplay_ingest.recording_tasks import TASKS

    for task in tasks.TASKS.values():
        recorded = TASKS[task.task_id]
        assert recorded.game == task.game
        assert ("left" in task.task_id or "right" in task.task_id or "_in" in task.task_id.split("invaders")[-1]) <= (
            task.adherence is not None
        )
        if task.adherence is not None:
            assert task.adherence.key in dict(recorded.statistics)
    assert len(tasks.TASKS) == 13


def test_nothing_to_learn_from_is_told_with_what_each_condition_left(people: Path) -> None:
    lake = Lake(people)
    with pytest.raises(
        InvalidArgument, match=r"4 of it that people played, 0 with Score >= 1e\+06, 0 with 'Time spent"
    ):
        tasks.demonstrations(lake, tasks.TASKS[LEFT], tasks.Filter(least_score=1e6))
    with pytest.raises(InvalidArgument, match="0 of it that people played"):
        tasks.demonstrations(lake, tasks.TASKS["qbert_mturk"])
    with pytest.raises(InvalidArgument, match=r"0 where permanent_user_id = 'nobody', 0 with Score"):
        tasks.demonstrations(lake, tasks.TASKS[LEFT], tasks.Filter(where="permanent_user_id = 'nobody'"))
    with pytest.raises(UnknownTask, match="did you mean 'space_invaders_left'"):
        tasks.task_named("space_invaders_lef")


def test_without_statistics_it_is_said_how_to_get_them(small_raw: Path, tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    shutil.copytree(small_raw, folder)
    import sqlite3

    with sqlite3.connect(folder / "dataset.sqlite") as database:
        database.execute("DELETE FROM episodekeyworddata WHERE key = 'Score'")
    ingest(folder, tmp_path / "lake")
    with pytest.raises(InvalidArgument, match="annotate LAKE score --where \"task_id = 'breakout_mturk'\""):
        tasks.demonstrations(Lake(tmp_path / "lake"), tasks.TASKS["breakout_mturk"], ALL)


# Decisions


@pytest.fixture(scope="module")
def invaders(people: Path) -> list[Episode]:
    """The episodes of Space Invaders."""
    return list(Lake(people).episodes("game = 'space_invaders'"))


def test_our_stacks_are_d3rlpys_where_both_have_them(invaders: list[Episode]) -> None:
    made = data.make_dataset(invaders, data.CONVERSIONS["downsample"]).buffer
    theirs = d3rlpy.dataset.FrameStackTransitionPicker(4)
    for episode in made.episodes[:2]:
        for index in (0, 1, 2, 3, 9, episode.transition_count - 1):
            ours, expected = made.transition_picker(episode, index), theirs(episode, index)
            for field in dataclasses.fields(expected):
                np.testing.assert_array_equal(getattr(ours, field.name), getattr(expected, field.name), field.name)


def test_every_step_shows_what_the_lake_shows(invaders: list[Episode]) -> None:
    episode = invaders[0]
    made = data.make_dataset([episode], data.CONVERSIONS["every_step"]).buffer
    shown = episode.observations(framestack_axis_first=True)
    assert made.transition_count == len(episode) - 1
    for index in (0, 3, 4, 11, 12, 13, 150, len(episode) - 2):
        transition = made.transition_picker(made.episodes[0], index)
        np.testing.assert_array_equal(transition.observation, shown[index])
        np.testing.assert_array_equal(transition.next_observation, shown[index + 1])


def test_augmented_are_the_four_beginnings(invaders: list[Episode]) -> None:
    episodes = invaders
    made = data.make_dataset(episodes, data.CONVERSIONS["downsample_with_augment"]).buffer.episodes
    expected = [s for offset in range(4) for s in segments(episodes, Conversion(downsample_offset=offset))]
    assert len(made) == len(expected) == 4 * len(episodes)
    for ours, segment in zip(made, expected, strict=True):
        np.testing.assert_array_equal(ours.actions[:, 0], segment.actions)
        np.testing.assert_array_equal(ours.rewards[:, 0], segment.rewards.astype(np.float32))
        every = segment.episode.observations(framestack_axis_first=True, stack_n=1)
        np.testing.assert_array_equal(ours.observations, np.asarray(every)[segment.steps])


def test_games_of_different_actions_and_unknown_conversions_are_told(people: Path) -> None:
    with pytest.raises(InvalidArgument, match="an action means different things in the games selected"):
        data.make_dataset(list(Lake(people).episodes()), data.CONVERSIONS["downsample"])
    with pytest.raises(UnknownName, match="did you mean 'every_step'"):
        data.conversion_named("everystep")


# Who learns

HYPER_PARAMETERS: dict[str, dict[str, Any]] = {
    "BC": {"learning_rate": 3e-5},
    "BCQ": {"learning_rate": 1e-4, "action_flexibility": 0.5, "target_update_interval": 2500},
    "CQL": {"learning_rate": 6.25e-5, "target_update_interval": 2500, "alpha": 1.0},
    "IQN": {"learning_rate": 1e-4, "target_update_interval": 2500},
    "DQN": {"learning_rate": 3e-5, "target_update_interval": 2500},
    "SAC": {"actor_learning_rate": 3e-4, "critic_learning_rate": 3e-4, "target_update_interval": 2500},
}
Q_FUNCTIONS = {"BCQ": ("mean", {}), "CQL": ("qr", {"n_quantiles": 32}), "DQN": ("mean", {}), "SAC": ("mean", {}),
               "IQN": ("iqn", {"n_quantiles": 16, "n_greedy_quantiles": 16, "embed_size": 512})}  # fmt: skip


@pytest.mark.parametrize("name", ALGORITHMS)
def test_hyper_parameters_are_crowdplays(name: str) -> None:
    config = make_algorithm(name, (4, 84, 84), 6, 256, "cpu").config
    assert {key: getattr(config, key) for key in HYPER_PARAMETERS[name]} == HYPER_PARAMETERS[name]
    assert config.batch_size == 256
    assert config.observation_scaler.get_type() == "pixel"
    if name in Q_FUNCTIONS:
        kind, values = Q_FUNCTIONS[name]
        assert config.q_func_factory.get_type() == kind
        assert {key: getattr(config.q_func_factory, key) for key in values} == values
    if name == "SAC":
        assert config.critic_optim_factory.eps == config.actor_optim_factory.eps == 1e-4


def test_what_cannot_learn_is_told() -> None:
    with pytest.raises(UnknownAlgorithm, match="did you mean 'BC' or 'BCQ'"):
        training.RunOptions(LEFT, "BQC")
    assert training.RunOptions(LEFT, "cql").algorithm == "CQL"
    for device, told in (
        ("cuda:99", "no device 'cuda:99' here"),
        ("gpu", "no device 'gpu' here"),
        ("meta", "not train"),
    ):
        with pytest.raises(InvalidArgument, match=told):
            make_algorithm("BC", (4, 84, 84), 6, 8, device)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_each_algorithm_trains_and_plays(people: Path, tmp_path: Path, name: str) -> None:
    options = dataclasses.replace(TINY, algorithm=name, conversion="every_step" if name == "DQN" else "downsample")
    folder = training.train(training.plan_run(people, options), tmp_path, OnePlayerConsole, training.Schedule(2, 2))
    row = results.read(folder).to_dicts()[-1]
    assert (row["algorithm"], row["step"], row["episodes"]) == (name, 2, 2)
    losses = json.loads(row["losses"])
    assert losses
    assert all(map(math.isfinite, losses.values()))
    assert math.isfinite(row["train_loss"])
    assert 0 <= row["test_agreement"] <= 1
    assert 0 <= row["adherence"] <= 1
    at, played = training.roll_out(folder, OnePlayerConsole)
    assert at == 2
    assert [one.score for one in played] == row["scores"]


# What an agent sees when it plays


@pytest.mark.parametrize("game", ["breakout", "space_invaders", "riverraid"])
def test_an_agent_sees_what_the_lake_shows(people: Path, game: str) -> None:
    """The keys of a recorded episode, pressed again: every observation is the lake's, byte for byte."""
    episode = max(Lake(people).episodes("game = ?", [game]), key=len)
    shown = episode.observations(framestack_axis_first=True)
    rows = episode.steps(FIRST, ("action", "reward"))
    live = playing.Game(OnePlayerConsole(game))
    # Asked for now and then, as a policy does, which keeps what it was shown before.
    asked = {*range(20), *range(20, len(episode), 4), *range(41, len(episode), 37)}
    for step, key in enumerate(rows["action"].to_pylist()):
        if step in asked:
            np.testing.assert_array_equal(live.observation(), shown[step], f"step {step}")
        live.press(key)
    played = live.played()
    np.testing.assert_array_equal(played.rewards, rows["reward"].to_numpy())
    np.testing.assert_array_equal(played.ram, episode.ram())


def test_an_episode_does_not_depend_on_those_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    options = playing.PlayOptions(episodes=3, seed=5, max_steps=200, epsilon=0.2)
    together = playing.play_episodes(OnePlayerConsole, "breakout", playing.random_policy(4, 1), 4, options)
    monkeypatch.setattr(playing, "AT_ONCE", 2)
    apart = playing.play_episodes(OnePlayerConsole, "breakout", playing.random_policy(4, 1), 4, options)
    assert [one.keys.tolist() for one in together] == [one.keys.tolist() for one in apart]
    assert len({tuple(one.keys.tolist()) for one in together}) == 3
    assert {len(one) for one in together} == {200}
    assert not any(one.terminal for one in together)


def test_an_episode_begins_with_no_keys_and_fire() -> None:
    options = playing.PlayOptions(episodes=2, epsilon=0, max_steps=3_000)
    keys_of = {
        hold: playing.play_episodes(
            OnePlayerConsole, "breakout", lambda seen, _: np.zeros(len(seen), int), hold, options
        )
        for hold in (1, 4)
    }
    for played in keys_of.values():
        assert {one.terminal for one in played} == {True}  # a ball a life, five of them
        for one in played:
            pressed = np.flatnonzero(one.keys == playing.FIRE)
            assert 1 <= pressed[0] <= 30
            starts = pressed[np.diff(pressed, prepend=-9) > 1]
            assert len(starts) == 5
            assert len(pressed) == 5 * playing.FIRE_STEPS
    plain = playing.PlayOptions(episodes=1, no_ops=0, fire=False, epsilon=0, max_steps=50)
    (one,) = playing.play_episodes(OnePlayerConsole, "breakout", lambda seen, _: np.full(len(seen), 2), 4, plain)
    assert one.keys.tolist() == [2] * 50


@given(st.integers(0, 6), st.integers(1, 40))
@settings(max_examples=5, deadline=None)
def test_a_key_is_held(no_ops: int, hold: int) -> None:
    options = playing.PlayOptions(episodes=1, no_ops=no_ops, epsilon=0, max_steps=120)
    asked: list[int] = []

    def policy(seen: Any, numbers: Any) -> Any:
        asked.append(len(asked) % 2 + 2)
        return np.full(len(seen), asked[-1])

    (one,) = playing.play_episodes(OnePlayerConsole, "space_invaders", policy, hold, options)
    begun = int(np.flatnonzero(one.keys > 1)[0])
    assert one.keys[begun:].tolist() == np.repeat(asked, hold)[: 120 - begun].tolist()


def test_play_options_that_mean_nothing() -> None:
    for wrong in ({"episodes": 0}, {"max_steps": 0}, {"no_ops": -1}, {"epsilon": 1.5}):
        with pytest.raises(InvalidArgument):
            playing.PlayOptions(**wrong)  # type: ignore[arg-type]


# Runs


def test_a_run_leaves_its_configuration_checkpoints_and_results(people: Path, a_run: Path) -> None:
    assert a_run.name == "space_invaders_left_BC_123"
    assert {file.name for file in a_run.iterdir()} - {".lock"} == {
        "config.json", "model_2.pt", "model_4.pt", "results.parquet",
    }  # fmt: skip
    rows = results.read(a_run)
    assert rows["step"].to_list() == [2, 4]
    row = rows.to_dicts()[-1]
    plan = training.plan_run(people, TINY)
    assert (row["train_episodes"], row["test_episodes"]) == (len(plan.train), len(plan.test))
    assert (row["human_mean"], row["human_best"]) == (plan.shown.human.mean, plan.shown.human.best)
    assert (row["lake"], row["commit"]) == (str(people), Lake(people).commit)
    config = json.loads((a_run / "config.json").read_text())
    assert config["algorithm_config"]["config"]["params"]["learning_rate"] == 3e-5
    assert config["versions"]["d3rlpy"] == d3rlpy.__version__


def test_d3rlpy_reads_what_is_left_of_a_run(a_run: Path) -> None:
    """As docs/training.md says."""
    config = json.loads((a_run / "config.json").read_text())["algorithm_config"]
    algorithm = d3rlpy.base.LearnableConfigWithShape.deserialize(json.dumps(config)).create(device="cpu:0")
    algorithm.load_model(str(a_run / "model_4.pt"))
    stored = torch.load(a_run / "model_4.pt", weights_only=True)["imitator"]
    loaded = algorithm.impl.modules.imitator.state_dict()
    assert all(torch.equal(stored[name], value) for name, value in loaded.items())


def weights(folder: Path, step: int) -> dict[str, Any]:
    stored = torch.load(folder / f"model_{step}.pt", weights_only=True)
    return dict(stored["q_funcs"])


def test_a_run_that_was_stopped_ends_as_one_that_was_not(people: Path, tmp_path: Path) -> None:
    """IQN: d3rlpy draws batches from numpy's random numbers, and quantiles from torch's."""
    options = dataclasses.replace(TINY, algorithm="IQN")
    whole = training.train(
        training.plan_run(people, options), tmp_path / "a", OnePlayerConsole, training.Schedule(6, 3)
    )
    runs = tmp_path / "b"
    training.train(training.plan_run(people, options), runs, OnePlayerConsole, training.Schedule(3, 3))
    np.random.seed(99)  # noqa: NPY002
    torch.manual_seed(99)
    plan = training.plan_run(people, options, runs)
    parts = training.train(plan, runs, OnePlayerConsole, training.Schedule(6, 3), resume=True)
    expected, found = weights(whole, 6), weights(parts, 6)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    once, twice = results.read(whole).drop("seconds"), results.read(parts).drop("seconds")
    assert once.equals(twice)


def test_observations_in_a_memory_map_are_the_same(people: Path, a_run: Path, tmp_path: Path) -> None:
    schedule = training.Schedule(2, 2, memory_map=str(tmp_path / "maps"))
    for runs in ("a", "b"):
        folder = training.train(training.plan_run(people, TINY), tmp_path / runs, OnePlayerConsole, schedule)
        expected = results.read(a_run).head(1).drop("seconds")
        assert results.read(folder).drop("seconds").equals(expected)
    # One of what is learned from, one of what is held out; made once.
    assert len(list((tmp_path / "maps").iterdir())) == 2


def test_a_run_that_died_between_checkpoint_and_results_goes_on(people: Path, a_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / a_run.name
    shutil.copytree(a_run, folder)
    expected = results.read(folder)
    expected.head(1).write_parquet(folder / "results.parquet")
    plan = training.plan_run(people, TINY, tmp_path)
    training.train(plan, tmp_path, OnePlayerConsole, training.Schedule(4, 2), resume=True)
    assert results.read(folder).equals(expected)


def test_only_the_last_checkpoints_and_the_best_stay(people: Path, tmp_path: Path) -> None:
    schedule = training.Schedule(5, 1, keep=2)
    folder = training.train(training.plan_run(people, TINY), tmp_path, OnePlayerConsole, schedule)
    best = results.read(folder).sort("score_mean", "step", descending=[True, False])["step"][0]
    assert {int(file.stem.split("_")[1]) for file in folder.glob("*.pt")} == {4, 5, best}


def test_a_run_is_resumed_at_its_own_commit(people: Path, a_run: Path, tmp_path: Path) -> None:
    lake, runs = tmp_path / "lake", tmp_path / "runs"
    shutil.copytree(people, lake)
    shutil.copytree(a_run, runs / a_run.name)
    record(tmp_path / "more", [EnvironmentPlan(LEFT, (EpisodePlan(150),), ("dan",))], RecordingOptions(seed=8))
    ingest(tmp_path / "more", lake)
    now = training.plan_run(lake, TINY)
    with pytest.raises(InvalidArgument, match="is another run: episodes"):
        training.train(now, runs, OnePlayerConsole, resume=True)
    plan = training.plan_run(lake, TINY, runs)
    assert plan.fingerprint != now.fingerprint
    training.train(plan, runs, OnePlayerConsole, training.Schedule(5, 1), resume=True)
    assert results.read(runs / a_run.name)["step"].to_list() == [2, 4, 5]


def test_another_run_is_not_gone_on_with(people: Path, a_run: Path, tmp_path: Path) -> None:
    runs = a_run.parent
    with pytest.raises(InvalidArgument, match=r"is there already: go on with it \(--resume\)"):
        training.train(training.plan_run(people, TINY), runs, OnePlayerConsole)
    other = dataclasses.replace(TINY, batch_size=5)
    with pytest.raises(InvalidArgument, match=r"is another run: batch_size: 5, not 4$"):
        training.train(training.plan_run(people, other, runs), runs, OnePlayerConsole, resume=True)
    with pytest.raises(UnknownPath, match="did you mean 'space_invaders_left_BC_123'"):
        training.plan_run(people, dataclasses.replace(TINY, seed=124), runs)
    assert not (tmp_path / "none").exists()
    with pytest.raises(UnknownPath):
        training.plan_run(people, TINY, tmp_path / "none")


def test_a_checkpoint_of_another_run_is_refused(people: Path, a_run: Path, tmp_path: Path) -> None:
    options = dataclasses.replace(TINY, algorithm="DQN")
    folder = training.train(training.plan_run(people, options), tmp_path, OnePlayerConsole, training.Schedule(1, 1))
    shutil.copy(a_run / "model_4.pt", folder / "model_1.pt")
    with pytest.raises(InvalidArgument, match=r"model_1.pt is damaged, or no checkpoint of this run"):
        training.roll_out(folder, OnePlayerConsole)
    (folder / "model_1.pt").write_bytes(b"nothing")
    before = results.read(folder)
    with pytest.raises(InvalidArgument, match=r"model_1.pt is damaged"):
        training.train(training.plan_run(people, options, tmp_path), tmp_path, OnePlayerConsole, resume=True)
    assert results.read(folder).equals(before)
    with pytest.raises(InvalidArgument, match=r"no checkpoint of step 7; there are those of 2, 4"):
        training.roll_out(a_run, OnePlayerConsole, step=7)


class Boom:
    """What a pickle could do to whoever loads it."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (Path.touch, (Path("boom"),))  # type: ignore[return-value]


def test_a_checkpoint_runs_no_code(a_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(a_run, tmp_path / "run")
    torch.save({"crowdplay_lake": Boom()}, tmp_path / "run" / "model_9.pt")
    with pytest.raises(InvalidArgument, match="is damaged"):
        training.roll_out(tmp_path / "run", OnePlayerConsole)
    assert not (tmp_path / "boom").exists()


def test_nothing_is_left_of_what_could_not_begin(people: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="no device"):
        training.train(training.plan_run(people, TINY), tmp_path, OnePlayerConsole, training.Schedule(device="cuda:99"))
    with pytest.raises(InvalidArgument, match="have 6 actions, the game space_invaders has 4"):
        training.train(training.plan_run(people, TINY), tmp_path, lambda game: OnePlayerConsole("breakout"))
    assert list(tmp_path.iterdir()) == []


def test_two_processes_do_not_train_one_run(people: Path, a_run: Path, tmp_path: Path) -> None:
    from filelock import FileLock

    shutil.copytree(a_run, tmp_path / a_run.name)
    plan = training.plan_run(people, TINY, tmp_path)
    with (
        FileLock(tmp_path / a_run.name / ".lock"),
        pytest.raises(InvalidArgument, match="another process is training this run"),
    ):
        training.train(plan, tmp_path, OnePlayerConsole, training.Schedule(6, 1), resume=True)


# Results


def test_results_of_all_runs_are_one_table_and_a_picture(people: Path, a_run: Path, tmp_path: Path) -> None:
    shutil.copytree(a_run, tmp_path / a_run.name)
    plan = training.plan_run(people, dataclasses.replace(TINY, seed=7))
    training.train(plan, tmp_path, OnePlayerConsole, training.Schedule(2, 2))
    table = results.collect(tmp_path)
    assert table.select("seed", "step").rows() == [(7, 2), (123, 2), (123, 4)]
    assert pl.read_parquet(tmp_path / "results.parquet").equals(table)
    results.plot(table, tmp_path / "results.png")
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")
    assert len((tmp_path / "results.png").read_bytes()) > 5_000
    assert not list(tmp_path.glob("**/*.unfinished"))
    with pytest.raises(InvalidArgument, match="nothing to draw"):
        results.plot(table.clear(), tmp_path / "none.png")


# Roll-outs


def test_rollouts_are_asked_about_as_people_are(people: Path, a_run: Path, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    shutil.copytree(people, lake)
    _, played = training.roll_out(a_run, OnePlayerConsole)
    keys = [one.keys.tolist() for one in played]
    about = {"source": tasks.AGENT_SOURCE, "algorithm": "BC", "checkpoint": 4}
    assert ingest_rollouts(lake, LEFT, keys, about).episodes == 2
    opened = Lake(lake)
    rows = opened.sql(
        "SELECT score, time_spent_on_left_side_of_screen_fraction AS kept, n_steps, permanent_user_id,"
        " environment_algorithm, environment_checkpoint FROM episode_agents WHERE source = 'agent' AND task_id = ?"
        " ORDER BY n_steps, score", [LEFT],
    ).fetchall()  # fmt: skip
    values = measures.adherence(played, tasks.TASKS[LEFT])
    expected = sorted((len(one), one.score, kept) for one, kept in zip(played, values, strict=True))
    assert [(n_steps, score, kept) for score, kept, n_steps, *_ in rows] == expected
    assert {row[3:] for row in rows} == {(None, "BC", 4)}
    assert opened.sql("SELECT DISTINCT user_type FROM episode_steps WHERE source = 'agent'").fetchall() == [(2,)]
    measured = measures.measure(played, tasks.TASKS[LEFT])
    stored = opened.statistic("left", "source = 'agent'").group_by("episode_id").agg(pl.col("value").last()).collect()
    assert measured.adherence == pytest.approx(stored["value"].mean())
    # Nobody learns from them unasked.
    assert training.plan_run(lake, TINY).fingerprint == training.plan_run(people, TINY).fingerprint
    # The same again is there already.
    assert ingest_rollouts(lake, LEFT, keys, about).unchanged == 2
    assert len(Lake(lake).episodes("source = 'agent'")) == 2


def test_what_an_agent_saw_is_in_the_lake(tmp_path: Path) -> None:
    """Recorded, its decisions are those that it makes of the lake's observations."""
    seen: list[Any] = []
    random = playing.random_policy(6, 3)

    def policy(observations: Any, numbers: Any) -> Any:
        seen.append(observations[0])
        return random(observations, numbers)

    (played,) = playing.play_episodes(
        OnePlayerConsole, "space_invaders", policy, 4, playing.PlayOptions(1, seed=2, epsilon=0.1, max_steps=200)
    )
    ingest_rollouts(tmp_path / "lake", LEFT, [played.keys.tolist()], {"source": "agent"}, tmp_path / "raw")
    (episode,) = Lake(tmp_path / "lake").episodes()
    begun = int(np.flatnonzero(played.keys == playing.FIRE)[0]) + playing.FIRE_STEPS
    assert begun % 4
    steps = np.arange(begun, len(played), 4)
    assert len(steps) == len(seen)
    parameters = dataclasses.replace(data.IMAGE, stack_n=4)
    np.testing.assert_array_equal(np.stack(seen), np.asarray(episode.observations_at(steps, FIRST, parameters)))
    assert len(list((tmp_path / "raw").glob("*.pickle.gz"))) == 1


def test_keys_that_a_game_does_not_have_are_told(tmp_path: Path) -> None:
    for task_id, keys, told in (
        (LEFT, [0, 6, 7], "space_invaders has keys 0 to 5, not 6, 7"),
        (LEFT, [], "as many as keys, and one at least"),
        ("space_invaders_2p_competitive_mturk", [0], "keys are of one player"),
    ):
        with pytest.raises(InvalidArgument, match=told):
            ingest_rollouts(tmp_path / "lake", task_id, [keys], {})
    assert list(tmp_path.iterdir()) == []


# The commands


def invoke(*arguments: str | Path) -> Any:
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, list(map(str, arguments)))


def test_what_would_be_trained_on(people: Path, tmp_path: Path) -> None:
    told = invoke(
        "train", people, tmp_path / "runs", "--task", f"{LEFT},space_invaders_rowbyrow", "--algorithm", "bc,CQL",
        "--min-score", "0", "--min-adherence", "0", "--split", "episode", "--dry-run", "--output", "json",
    )  # fmt: skip
    rows = json.loads(told.stdout)
    assert [(row["run"], row["train_episodes"] + row["test_episodes"]) for row in rows] == [
        ("space_invaders_left_BC_123", 4),
        ("space_invaders_left_CQL_123", 4),
        ("space_invaders_rowbyrow_BC_123", 2),
        ("space_invaders_rowbyrow_CQL_123", 2),
    ]
    assert list(tmp_path.iterdir()) == []


def test_train_rollout_and_sql(people: Path, tmp_path: Path) -> None:
    lake, runs = tmp_path / "lake", tmp_path / "runs"
    shutil.copytree(people, lake)
    options = ["--task", LEFT, "--min-score", "0", "--min-adherence", "0", "--batch-size", "4", "--eval-episodes", "1"]
    options += ["--max-steps", "80", "--eval-every", "2"]
    told = invoke("train", lake, runs, *options, "--steps", "2", "--output", "json")
    assert told.exit_code == 0, told.output
    assert [row["step"] for row in json.loads(told.stdout)["rows"]] == [2]
    assert {file.name for file in runs.iterdir()} == {"results.parquet", "results.png", f"{LEFT}_BC_123"}
    again = invoke("train", lake, runs, *options, "--steps", "2")
    assert "--resume" in str(again.exception)
    more = invoke("train", lake, runs, *options, "--steps", "4", "--resume")
    assert more.exit_code == 0, more.output
    assert "results.parquet: 2 rows" in more.stdout
    rolled = invoke("rollout", runs / f"{LEFT}_BC_123", lake, "--episodes", "2", "--output", "json")
    assert rolled.exit_code == 0, rolled.output
    scores = json.loads(rolled.stdout)["scores"]
    rows = Lake(lake).sql(
        "SELECT score, environment_run, environment_checkpoint FROM episode_agents WHERE source = 'agent'"
    )
    assert sorted(rows.fetchall()) == [(score, f"{LEFT}_BC_123", 4) for score in sorted(scores)]


def test_what_the_commands_refuse(people: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for arguments, told in (
        (["--task", "space_invaders_lef"], "no task 'space_invaders_lef' in the benchmark; did you mean"),
        (["--task", LEFT, "--algorithm", "BD"], "no algorithm 'BD'"),
        (["--task", LEFT, "--conversion", "everystep"], "did you mean 'every_step'"),
        (["--task", LEFT, "--min-score", "1e6"], "no episodes to learn space_invaders_left from"),
        (["--task", ","], "--task names nothing"),
        (["--task", LEFT, "--seed", "1,x"], "whole numbers"),
        (["--task", LEFT, "--resume"], "as a run that `train` has begun"),
        (["--task", LEFT, "--where", "nonsense = 1"], "no column 'nonsense'"),
        (["--task", LEFT, "--min-score", "0", "--device", "cuda:99"], "no device 'cuda:99'"),
    ):
        result = invoke("train", people, runs, *arguments)
        assert result.exit_code != 0
        assert told in str(result.exception)
    assert "as a run that `train` has begun" in str(invoke("rollout", runs / "x", tmp_path / "lake").exception)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.soak
def test_behaviour_cloning_of_the_good_player_beats_chance(tmp_path: Path) -> None:
    """The run of docs/training.md, its first seed, as far as its first evaluation."""
    plan = [
        EnvironmentPlan("space_invaders_mturk", (EpisodePlan(4_000, ("skilled",)),) * 2, (name,))
        for name in ("ada", "ben", "cleo", "dan", "eve", "fay", "gus", "hal")
    ]
    record(tmp_path / "raw", plan, RecordingOptions(seed=11, compression="gz", protocol=4))
    ingest(tmp_path / "raw", tmp_path / "lake")
    options = training.RunOptions("space_invaders_mturk", seed=1, batch_size=32, play=playing.PlayOptions(30))
    folder = training.train(
        training.plan_run(tmp_path / "lake", options), tmp_path, OnePlayerConsole, training.Schedule(2_000, 2_000)
    )
    (row,) = results.read(folder).to_dicts()
    standard_error = math.hypot(row["score_std"], row["random_std"]) / math.sqrt(row["episodes"] - 1)
    assert row["score_mean"] - row["random_mean"] > 3 * standard_error
