"""A trainer's transitions in memory, from a map and made lazily: the same, index for index."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crowdplay_lake import Lake
from crowdplay_lake.errors import InvalidArgument, UnknownAgent
from crowdplay_lake.offline.d3rlpy import dump, load, to_lazy_dataset, to_mdp_dataset
from crowdplay_lake.offline.prefetch import Prefetcher

d3rlpy = pytest.importorskip("d3rlpy")
pytestmark = pytest.mark.slow

SECOND = "game_0>player_1"
WAYS: dict[str, dict[str, Any]] = {
    "four stacked": {},
    "one frame": {"n_frames": 1, "rewards": "crowdplay"},
    "every step": {"downsample_frequency": 1, "n_frames": 3},
    "episodes of one or two steps": {"downsample_frequency": 100_000},
    "the second player": {"agent": SECOND, "downsample_frequency": 7, "downsample_offset": 3},
    "where an AI plays": {"agent": SECOND, "controlled_by": "ai", "downsample_frequency": 3},
    "where a human plays": {"agent": SECOND, "controlled_by": "human"},
}


@pytest.fixture(scope="module", params=WAYS)
def three(request: pytest.FixtureRequest, lake: Lake, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Any]]:
    """The dataset in memory, mapped, and lazy."""
    arguments = {"action_size": 18, **WAYS[request.param]}
    agent = arguments.get("agent", "game_0>player_0")
    episodes = [episode for episode in lake.episodes() if agent in episode.agents]
    if not episodes:
        pytest.skip("needs two-player episodes: multi-agent-ale-py")
    mapped = to_mdp_dataset(episodes, memory_map=tmp_path_factory.mktemp("map") / "map", **arguments)
    lazy = to_lazy_dataset(episodes, prefetch=0, memory=200_000, **arguments)
    yield [to_mdp_dataset(episodes, **arguments), mapped, lazy]
    lazy.close()


def same(one: Any, other: Any, names: str) -> None:
    for name in names.split():
        mine, theirs = getattr(one, name), getattr(other, name)
        np.testing.assert_array_equal(mine, theirs, name)
        assert np.asarray(mine).dtype == np.asarray(theirs).dtype, name
        assert np.shape(mine) == np.shape(theirs), name


TRANSITION = "observation action reward next_observation next_action terminal interval rewards_to_go"
BATCH = "observations actions rewards next_observations next_actions terminals intervals"
TRAJECTORY = "observations actions rewards returns_to_go terminals timesteps masks length"


def test_as_many_of_everything(three: list[Any]) -> None:
    memory, *others = three
    for other in others:
        assert isinstance(other, d3rlpy.dataset.ReplayBufferBase)
        assert other.transition_count == memory.transition_count > 0
        assert other.size() == memory.size()
        assert other.dataset_info == memory.dataset_info
        for mine, theirs in zip(other.episodes, memory.episodes, strict=True):
            same(mine, theirs, "observations actions rewards terminated transition_count")
            assert mine.size() == theirs.size() == len(mine)
            assert mine.compute_return() == theirs.compute_return()
            assert mine.observation_signature == theirs.observation_signature


@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_every_transition_by_its_index(three: list[Any], data: st.DataObject) -> None:
    """d3rlpy's own picker over the three, and ours over windows; starts and ends of episodes more often than chance."""
    memory, mapped, lazy = three
    edges = np.cumsum([0, *(episode.transition_count for episode in memory.episodes)])
    near = st.builds(
        lambda at, by: int(np.clip(at + by, 0, edges[-1] - 1)), st.sampled_from(list(edges)), st.integers(-2, 4)
    )
    index = data.draw(near | st.integers(0, int(edges[-1]) - 1), label="index")
    expected = memory.transition_picker(*memory.buffer[index])
    same(mapped.transition_picker(*mapped.buffer[index]), expected, TRANSITION)
    same(lazy.transition_picker(*lazy.buffer[index]), expected, TRANSITION)
    (window,) = lazy._transitions.windows(np.array([index]))
    (picked,) = lazy._picked([window])
    same(picked, expected, TRANSITION)


def test_the_same_batches_of_the_same_random_numbers(three: list[Any]) -> None:
    batches = []
    for dataset in three:
        d3rlpy.seed(5)
        batches.append([dataset.sample_transition_batch(48) for _ in range(3)])
        transition = dataset.sample_transition()
        batches[-1].append(d3rlpy.dataset.TransitionMiniBatch.from_transitions([transition]))
    for other in batches[1:]:
        for mine, theirs in zip(other, batches[0], strict=True):
            same(mine, theirs, BATCH)
    terminals = np.concatenate([batch.terminals for batch in batches[0]])
    assert set(np.unique(terminals)) <= {0.0, 1.0}


def test_the_same_trajectories(three: list[Any]) -> None:
    found = []
    for dataset in three:
        d3rlpy.seed(6)
        found.append([dataset.sample_trajectory(length) for length in (1, 2, 5, 30) for _ in range(6)])
        found[-1].append(dataset.sample_trajectory_batch(4, 7))
    for other in found[1:]:
        for mine, theirs in zip(other, found[0], strict=True):
            same(mine, theirs, TRAJECTORY)


def test_the_beginning_is_padded_and_the_end_is_an_end(lake: Lake) -> None:
    """Not against d3rlpy, but against what is written down."""
    lazy = to_lazy_dataset(lake.episodes(), action_size=18, prefetch=0)
    ended = [episode for episode in lazy.episodes if episode.terminated]
    cut = [episode for episode in lazy.episodes if not episode.terminated]
    assert ended
    assert cut
    for episode in (ended[0], cut[0]):
        first = lazy.transition_picker(episode, 0)
        assert first.observation.shape == (4, 84, 84)
        assert not first.observation[:3].any()
        assert np.array_equal(first.observation[3:], episode.observations[0])
        assert np.array_equal(first.next_observation[2:], episode.observations[:2, 0])
        last = lazy.transition_picker(episode, episode.transition_count - 1)
        assert last.terminal == episode.terminated
        assert last.next_observation.any() != episode.terminated
        assert last.reward == episode.rewards[episode.transition_count - 1]
    assert ended[0].transition_count == len(ended[0])
    assert cut[0].transition_count == len(cut[0]) - 1


# The thread and the shuffle buffer


def which(dataset: Any, batch: Any) -> list[tuple[float, ...]]:
    """What tells the transitions of a batch from each other: their rewards to go and first pixels."""
    return [(t.rewards_to_go.tobytes(), t.observation.tobytes()) for t in batch.transitions]  # type: ignore[misc]


@pytest.fixture
def breakout(lake: Lake) -> Any:
    return lake.episodes("game = 'breakout'")


@pytest.mark.parametrize("shuffle_buffer", [0, 40])
def test_a_seed_gives_the_same_batches(breakout: Any, shuffle_buffer: int) -> None:
    found = []
    for seed in (3, 3, 4, None, None):
        d3rlpy.seed(9)
        with to_lazy_dataset(breakout, shuffle_buffer=shuffle_buffer, seed=seed) as dataset:
            found.append([which(dataset, dataset.sample_transition_batch(size)) for size in (16, 16, 8)])
    assert found[0] == found[1]
    assert found[0] != found[2]
    assert found[3] == found[4]


def test_with_a_thread_or_without_a_buffer_gives_the_same(breakout: Any) -> None:
    found = []
    for prefetch in (0, 1, 5):
        with to_lazy_dataset(breakout, shuffle_buffer=50, prefetch=prefetch, seed=1) as dataset:
            found.append([which(dataset, dataset.sample_transition_batch(20)) for _ in range(6)])
    assert found[0] == found[1] == found[2]


def test_a_shuffle_buffer_gives_every_transition_and_nearly_uniformly(breakout: Any) -> None:
    memory = to_mdp_dataset(breakout)
    n = memory.transition_count
    every = Counter(which(memory, d3rlpy.dataset.TransitionMiniBatch.from_transitions(
        [memory.transition_picker(*memory.buffer[index]) for index in range(n)]
    )))  # fmt: skip
    with to_lazy_dataset(breakout, shuffle_buffer=n // 4, seed=0) as dataset:
        seen = Counter(each for _ in range(12) for each in which(dataset, dataset.sample_transition_batch(n // 8)))
    # Twelve eighths were drawn, each but for what the buffer holds: whoever is missing was in it for long.
    assert seen.keys() <= every.keys()
    assert len(seen) > 0.75 * len(every)
    assert all(count <= 4 * every[each] for each, count in seen.items())
    first = to_lazy_dataset(breakout, shuffle_buffer=n // 4, seed=0, prefetch=0).sample_transition_batch(n // 8)
    order = [which(memory, d3rlpy.dataset.TransitionMiniBatch.from_transitions([t]))[0] for t in first.transitions]
    assert order != sorted(order)


def test_a_batch_larger_than_the_buffer_is_told(breakout: Any) -> None:
    for prefetch in (0, 2):
        with (
            to_lazy_dataset(breakout, shuffle_buffer=10, prefetch=prefetch) as dataset,
            pytest.raises(InvalidArgument, match="batch of 11 from a shuffle buffer of 10"),
        ):
            dataset.sample_transition_batch(11)


def test_it_trains(breakout: Any) -> None:
    with to_lazy_dataset(breakout, shuffle_buffer=60) as dataset:
        algorithm = d3rlpy.algos.DiscreteBCConfig(
            batch_size=8, observation_scaler=d3rlpy.preprocessing.PixelObservationScaler()
        ).create(device="cpu:0")
        history = algorithm.fit(
            dataset,
            n_steps=6,
            n_steps_per_epoch=3,
            logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
            show_progress=False,
        )
    assert all(np.isfinite(metrics["loss"]) for _, metrics in history)


def test_it_is_dumped_and_mixed(breakout: Any, tmp_path: Path) -> None:
    dataset = to_lazy_dataset(breakout)
    dump(dataset, tmp_path / "x.h5")
    for mine, theirs in zip(load(tmp_path / "x.h5").episodes, dataset.episodes, strict=True):
        same(mine, theirs, "observations actions rewards terminated")
    mixed = d3rlpy.dataset.MixedReplayBuffer(to_mdp_dataset(breakout), dataset, 0.5)
    assert mixed.sample_transition_batch(6).observations.shape == (6, 4, 84, 84)


def test_it_takes_nothing_in(breakout: Any) -> None:
    dataset = to_lazy_dataset(breakout)
    for call in (
        lambda: dataset.append(None, None, None),
        lambda: dataset.append_episode(dataset.episodes[0]),
        lambda: dataset.clip_episode(True),
        lambda: dataset.buffer.append(dataset.episodes[0], 0),
    ):
        with pytest.raises(InvalidArgument, match="takes no others"):
            call()


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if "prefetch" in thread.name]


def test_the_thread_ends_with_the_dataset(breakout: Any) -> None:
    dataset = to_lazy_dataset(breakout)
    dataset.sample_transition_batch(4)
    assert len(threads()) == 1
    dataset.close()
    assert threads() == []
    dataset.sample_transition_batch(4)
    dataset.sample_transition_batch(5)
    assert len(threads()) == 1
    del dataset
    gc.collect()
    assert threads() == []


def test_an_error_in_the_thread_is_the_consumers(tmp_path: Path) -> None:
    made = iter(range(3))

    def make() -> int:
        number = next(made, None)
        if number is None:
            raise InvalidArgument("there is no more")
        return number

    prefetcher = Prefetcher(make, 2)
    assert [prefetcher.next() for _ in range(3)] == [0, 1, 2]
    for _ in range(2):
        with pytest.raises(InvalidArgument, match="there is no more"):
            prefetcher.next()
    assert threads() == []


EXIT = """
import sys
from crowdplay_lake import Lake
from crowdplay_lake.offline.d3rlpy import to_lazy_dataset
dataset = to_lazy_dataset(Lake(sys.argv[1]).episodes("game = 'breakout'"))
dataset.sample_transition_batch(8)
kept = [dataset]
if len(sys.argv) > 2:
    raise SystemExit(3)
"""


@pytest.mark.parametrize("arguments", [[], ["fails"]], ids=str)
def test_a_process_ends_though_a_thread_makes_batches(lake: Lake, arguments: list[str]) -> None:
    command = [sys.executable, "-c", EXIT, str(lake.path), *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == (3 if arguments else 0), ran.stderr
    assert "Error" not in ran.stderr


def test_what_cannot_be_is_told(lake: Lake, breakout: Any) -> None:
    with pytest.raises(InvalidArgument, match="no episodes in the selection"):
        to_lazy_dataset(lake.episodes("game = 'pong'"))
    with pytest.raises(UnknownAgent):
        to_lazy_dataset(breakout, agent="player_9")
    with pytest.raises(InvalidArgument, match="choose episodes of one action set"):
        to_lazy_dataset(lake.episodes())
    for wrong in ({"prefetch": -1}, {"shuffle_buffer": 1.5}, {"memory": -1}, {"n_frames": 0}, {"warp_width": 300}):
        with pytest.raises(InvalidArgument):
            to_lazy_dataset(breakout, **wrong)  # type: ignore[arg-type]
