"""What a trainer gets: ends, rewards, who plays, and observations, as a d3rlpy dataset."""

from __future__ import annotations

import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crowdplay_lake import Episode, Lake
from crowdplay_lake.errors import InvalidArgument, UnknownAgent, WorkersLost
from crowdplay_lake.offline.d3rlpy import dump, to_mdp_dataset
from crowdplay_lake.offline.selection import select
from crowdplay_lake.offline.transitions import Conversion, segments

d3rlpy = pytest.importorskip("d3rlpy")
pytestmark = pytest.mark.slow

FIRST, SECOND = "game_0>player_0", "game_0>player_1"
# Actions of an Atari console: what games with different ones are trained on together with.
LARGEST = 18


def rows(episode: Episode, agent: str = FIRST) -> list[dict[str, Any]]:
    """The agent's steps up to and with its first done: its trajectory."""
    found: list[dict[str, Any]] = []
    for row in episode.steps(agent, ("step", "action", "reward", "done", "user_type")).to_pylist():
        found.append(row)
        if row["done"]:
            break
    return found


def emitted(n: int, frequency: int, offset: int = 0) -> list[int]:
    return [i for i in range(n) if i % frequency == offset or i == n - 1]


def slow_rewards(rewards: list[float], steps: list[int], kind: str) -> list[float]:
    """By the definition, step by step."""
    credited = [0.0] * len(steps)
    for i, reward in enumerate(rewards):
        if kind == "following":
            # The last emitted step at or before it; what comes before the first belongs to the first.
            at = max((k for k, step in enumerate(steps) if step <= i), default=0)
        else:
            # The first emitted step at or after it.
            at = min(k for k, step in enumerate(steps) if step >= i)
        credited[at] += reward
    return credited


@pytest.fixture(scope="module")
def dataset(lake: Lake) -> Any:
    """All episodes of the first player."""
    return to_mdp_dataset(lake.episodes(), action_size=LARGEST)


def test_as_many_episodes_as_the_lake_has(lake: Lake, dataset: Any) -> None:
    assert len(dataset.episodes) == len(lake.episodes())
    for made, episode in zip(dataset.episodes, lake.episodes(), strict=True):
        n = len(emitted(len(rows(episode)), 4))
        assert made.observations.shape == (n, 1, 84, 84)
        assert made.observations.dtype == np.uint8
        assert made.actions.shape == made.rewards.shape == (n, 1)
        assert (made.actions.dtype, made.rewards.dtype) == (np.int64, np.float32)


def test_game_overs_are_terminal_and_the_rest_timeouts(lake: Lake, dataset: Any) -> None:
    kinds = set()
    for made, episode in zip(dataset.episodes, lake.episodes(), strict=True):
        done, at_frame_limit = episode.first_done()
        assert made.terminated == (done is not None and not at_frame_limit)
        kinds.add((done is not None, at_frame_limit))
    # A game over, the frame limit, and an episode that was stopped.
    assert kinds == {(True, False), (True, True), (False, False)}


def test_an_agent_ends_at_its_first_done_while_the_other_plays_on(lake: Lake) -> None:
    played_on = [
        e for e in lake.episodes() if len(e.agents) == 2 and (e.first_done()[0] or len(e)) < len(e) - 1
    ]  # fmt: skip
    if not played_on:
        pytest.skip("needs two-player episodes: multi-agent-ale-py")
    (made,) = to_mdp_dataset(played_on[:1]).episodes
    done, _ = played_on[0].first_done()
    assert done is not None
    assert len(made) == len(emitted(done + 1, 4))
    assert made.terminated


def test_the_whole_reward_is_kept(lake: Lake, dataset: Any) -> None:
    for made, episode in zip(dataset.episodes, lake.episodes(), strict=True):
        assert made.rewards.sum() == pytest.approx(sum(row["reward"] for row in rows(episode)))
    assert sum(made.rewards.sum() for made in dataset.episodes) > 0


@pytest.mark.parametrize("kind", ["following", "crowdplay"])
@pytest.mark.parametrize(("frequency", "offset"), [(1, 0), (3, 0), (4, 0), (4, 3), (50, 7)])
def test_rewards_by_the_slow_definition(lake: Lake, kind: Any, frequency: int, offset: int) -> None:
    conversion = Conversion(FIRST, frequency, offset, kind)
    for segment, episode in zip(segments(lake.episodes(), conversion), lake.episodes(), strict=True):
        played = rows(episode)
        steps = emitted(len(played), frequency, offset)
        assert segment.steps.tolist() == steps
        assert segment.actions.tolist() == [played[i]["action"] for i in steps]
        expected = slow_rewards([row["reward"] for row in played], steps, kind)
        np.testing.assert_allclose(segment.rewards, expected)


def test_crowdplay_rewards_are_those_of_the_processed_trajectory(lake: Lake) -> None:
    episodes = [e for e in lake.episodes() if (e.first_done()[0] or len(e)) >= len(e) - 1]
    made = to_mdp_dataset(episodes, rewards="crowdplay", action_size=LARGEST)
    for ours, episode in zip(made.episodes, episodes, strict=True):
        processed = episode.get_processed_trajectory(framestack_axis_first=True, stack_n=1, downsample_frequency=4)
        np.testing.assert_array_equal(ours.observations, processed.observations)
        np.testing.assert_array_equal(ours.actions[:, 0], processed.actions)
        np.testing.assert_allclose(ours.rewards[:, 0], processed.rewards)


def test_rewards_follow_the_decision_that_earned_them(lake: Lake) -> None:
    """The two ways differ, and only in which decision is credited."""
    following, crowdplay = (
        to_mdp_dataset(lake.episodes(), rewards=kind, action_size=LARGEST) for kind in ("following", "crowdplay")
    )
    differ = 0
    for one, other in zip(following.episodes, crowdplay.episodes, strict=True):
        assert one.rewards.sum() == pytest.approx(other.rewards.sum())
        differ += not np.array_equal(one.rewards, other.rewards)
    assert differ > 0


def test_observations_equal_the_processed_trajectory_at_the_same_steps(lake: Lake, dataset: Any) -> None:
    for made, episode in zip(dataset.episodes, lake.episodes(), strict=True):
        every = episode.get_processed_trajectory(framestack_axis_first=True, stack_n=1)
        steps = emitted(len(rows(episode)), 4)
        np.testing.assert_array_equal(made.observations, every.observations[steps])
        np.testing.assert_array_equal(made.actions[:, 0], every.actions[steps])


def test_d3rlpys_frame_stack_is_ours(lake: Lake, dataset: Any) -> None:
    """At the steps that are four apart; the last one of an episode may follow sooner."""
    for made, episode in list(zip(dataset.episodes, lake.episodes(), strict=True))[:6]:
        ours = episode.observations(framestack_axis_first=True, stack_n=4, skip_n=4, downsample_frequency=4)
        for index in (0, 1, 2, 3, 4, len(made) // 2, len(made) - 2):
            transition = dataset.transition_picker(made, index)
            assert transition.observation.shape == (4, 84, 84)
            np.testing.assert_array_equal(transition.observation, ours[index])


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_an_executor_makes_the_same(lake: Lake, dataset: Any, kind: str) -> None:
    spawn = multiprocessing.get_context("spawn")
    executor = ThreadPoolExecutor(3) if kind == "threads" else ProcessPoolExecutor(2, mp_context=spawn)
    with executor:
        made = to_mdp_dataset(lake.episodes(), executor=executor, action_size=LARGEST)
    assert len(made.episodes) == len(dataset.episodes)
    for one, other in zip(made.episodes, dataset.episodes, strict=True):
        assert np.array_equal(one.observations, other.observations)
        assert np.array_equal(one.rewards, other.rewards)


def test_a_broken_executor_is_told(lake: Lake) -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        os.kill(executor.submit(os.getpid).result(), signal.SIGKILL)
        with pytest.raises(WorkersLost, match=r"broken|died while it made observations"):
            to_mdp_dataset(lake.episodes(), executor=executor, action_size=LARGEST)


def test_a_step_is_found_by_its_index(lake: Lake) -> None:
    selection = select(lake.episodes("game = 'breakout'"), Conversion())
    assert len(selection.segments) > 1
    expected = [(number, at) for number, segment in enumerate(selection.segments) for at in range(len(segment))]
    assert [selection.locate(index) for index in range(len(selection))] == expected
    for outside in (-1, len(selection)):
        with pytest.raises(IndexError):
            selection.locate(outside)


@pytest.mark.parametrize("kind", ["human", "ai"])
def test_who_plays(lake: Lake, kind: Any) -> None:
    """Runs of steps of that kind of player, in an independent loop; a change of hands is a timeout."""
    wanted = {"human": 1, "ai": 2}[kind]
    agent = SECOND
    episodes = [e for e in lake.episodes() if agent in e.agents]
    if not episodes:
        pytest.skip("needs two-player episodes: multi-agent-ale-py")
    runs: list[tuple[str, int, int, bool]] = []
    for episode in episodes:
        played = rows(episode, agent)
        start = None
        for i, row in enumerate([*played, {"user_type": None}]):
            if row["user_type"] == wanted and start is None:
                start = i
            elif row["user_type"] != wanted and start is not None:
                ended = i == len(played) and played[-1]["done"] and not episode.first_done(agent)[1]
                runs.append((episode.episode_id, start, i, ended))
                start = None
    assert runs
    found = list(segments(episodes, Conversion(agent, 4, 0, "following", kind)))
    assert [(s.episode.episode_id, int(s.steps[0]), int(s.steps[-1]) + 1, s.terminal) for s in found] == runs
    made = to_mdp_dataset(episodes, agent, controlled_by=kind)
    assert len(made.episodes) == len(runs)
    for ours, segment in zip(made.episodes, found, strict=True):
        assert ours.terminated == segment.terminal
        every = segment.episode.get_processed_trajectory(agent, framestack_axis_first=True, stack_n=1)
        np.testing.assert_array_equal(ours.observations, every.observations[segment.steps])


def test_human_and_ai_are_all(lake: Lake) -> None:
    episodes = [e for e in lake.episodes() if SECOND in e.agents]
    if not episodes:
        pytest.skip("needs two-player episodes: multi-agent-ale-py")
    reward = {
        kind: sum(s.rewards.sum() for s in segments(episodes, Conversion(SECOND, 4, 0, "following", kind)))
        for kind in ("human", "ai", None)
    }
    assert reward["human"] + reward["ai"] == pytest.approx(reward[None])


def test_the_action_size_is_the_games(lake: Lake) -> None:
    sizes = {"breakout": 4, "qbert": 6, "riverraid": 18, "space_invaders": 6}
    for game, size in sizes.items():
        assert to_mdp_dataset(lake.episodes("game = ?", [game])).dataset_info.action_size == size
    assert to_mdp_dataset(lake.episodes("game = 'qbert'"), action_size=18).dataset_info.action_size == 18


def test_games_of_different_actions_are_mixed_only_on_purpose(lake: Lake, dataset: Any) -> None:
    both = "game IN ('breakout', 'qbert')"
    told = r"4 actions \(NOOP FIRE RIGHT LEFT\) in breakout, 6 actions \(.*\) in qbert; choose .* or say action_size"
    with pytest.raises(InvalidArgument, match=told):
        to_mdp_dataset(lake.episodes(both))
    assert to_mdp_dataset(lake.episodes(both), action_size=6).dataset_info.action_size == 6
    assert dataset.dataset_info.action_size == LARGEST


def test_behaviour_cloning_trains(lake: Lake) -> None:
    dataset = to_mdp_dataset(lake.episodes("game = 'space_invaders'"))
    algorithm = d3rlpy.algos.DiscreteBCConfig(
        batch_size=8, observation_scaler=d3rlpy.preprocessing.PixelObservationScaler()
    ).create(device="cpu:0")
    history = algorithm.fit(
        dataset,
        n_steps=20,
        n_steps_per_epoch=10,
        logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
        show_progress=False,
    )
    assert len(history) == 2
    assert all(np.isfinite(metrics["loss"]) for _, metrics in history)
    actions = algorithm.predict(np.zeros((2, 4, 84, 84), np.uint8))
    assert ((actions >= 0) & (actions < 6)).all()


def test_dump_and_load_back(lake: Lake, tmp_path: Path) -> None:
    dataset = to_mdp_dataset(lake.episodes("game = 'breakout'"))
    dump(dataset, tmp_path / "breakout.h5")
    assert [p.name for p in tmp_path.iterdir()] == ["breakout.h5"]
    with (tmp_path / "breakout.h5").open("rb") as stream:
        loaded = d3rlpy.dataset.ReplayBuffer.load(stream, d3rlpy.dataset.InfiniteBuffer())
    for one, other in zip(dataset.episodes, loaded.episodes, strict=True):
        np.testing.assert_array_equal(one.observations, other.observations)
        np.testing.assert_array_equal(one.actions, other.actions)
        np.testing.assert_array_equal(one.rewards, other.rewards)
        assert one.terminated == other.terminated
    assert loaded.transition_count == dataset.transition_count


def test_other_sizes_and_frequencies(lake: Lake) -> None:
    episodes = lake.episodes("game = 'breakout'")[:1]
    made = to_mdp_dataset(
        episodes, downsample_frequency=8, downsample_offset=3, n_frames=1, warp_width=42, warp_height=50
    )
    (ours,) = made.episodes
    steps = emitted(len(rows(episodes[0])), 8, 3)
    assert ours.observations.shape == (len(steps), 1, 50, 42)
    assert made.transition_picker(ours, 0).observation.shape == (1, 50, 42)


def test_an_episode_of_one_step(lake: Lake) -> None:
    """Decisions so far apart that few are left."""
    made = to_mdp_dataset(lake.episodes(), downsample_frequency=100_000, action_size=LARGEST)
    assert len(made.episodes) == len(lake.episodes())
    assert {len(ours) for ours in made.episodes} == {2}


def test_what_cannot_be_is_told(lake: Lake) -> None:
    with pytest.raises(InvalidArgument, match="no episodes in the selection"):
        to_mdp_dataset(lake.episodes("game = 'pong'"))
    with pytest.raises(InvalidArgument, match="played by 'ai'"):
        to_mdp_dataset(lake.episodes("game = 'breakout'"), controlled_by="ai")
    with pytest.raises(UnknownAgent, match="game_0>player_0"):
        to_mdp_dataset(lake.episodes("game = 'breakout'"), agent="player_0")
    for wrong in (
        {"rewards": "all"},
        {"controlled_by": "dog"},
        {"downsample_frequency": 0},
        {"downsample_offset": 4},
        {"downsample_offset": -1},
        {"n_frames": 0},
        {"warp_width": 0},
    ):
        with pytest.raises(InvalidArgument):
            to_mdp_dataset(lake.episodes(), **wrong)  # type: ignore[arg-type]


def test_a_dumped_dataset_comes_back_with_its_stacks_and_actions(lake: Lake, tmp_path: Path) -> None:
    from crowdplay_lake.offline.d3rlpy import dump, load

    dataset = to_mdp_dataset(lake.episodes("game = 'breakout'"), action_size=9)
    dump(dataset, tmp_path / "x.h5")
    loaded = load(tmp_path / "x.h5")
    assert loaded.dataset_info.action_size == 9
    assert loaded.sample_transition_batch(2).observations.shape == (2, 4, 84, 84)
    for mine, theirs in zip(dataset.episodes, loaded.episodes, strict=True):
        np.testing.assert_array_equal(mine.observations, theirs.observations)
        assert mine.terminated == theirs.terminated
    assert [path.name for path in tmp_path.iterdir()] == ["x.h5"]
