"""Observations of a selection at any index: those of the episodes, whoever asks and however much memory there is."""

from __future__ import annotations

import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crowdplay_lake import Lake
from crowdplay_lake.errors import InvalidArgument, UnknownAgent
from crowdplay_lake.observations import ObservationParameters
from crowdplay_lake.offline.lazy import SINGLE, LazyObservations
from crowdplay_lake.offline.selection import Selection, select
from crowdplay_lake.offline.transitions import Conversion

pytest.importorskip("ale_py")
SECOND = "game_0>player_1"
# A memory that holds some change logs and not others.
SOME = 100_000


def made(selection: Selection) -> np.ndarray:
    """Every observation, episode by episode."""
    agent = selection.conversion.agent
    return np.concatenate([np.asarray(s.episode.observations_at(s.steps, agent, SINGLE)) for s in selection.segments])


def stacked(selection: Selection, images: np.ndarray, index: int, n_frames: int) -> np.ndarray:
    """By the definition: the images before it in its segment, and zeros before that begins."""
    _, place = selection.locate(index)
    zero = np.zeros_like(images[0])
    return np.concatenate([images[index - back] if back <= place else zero for back in range(n_frames - 1, -1, -1)])


CONVERSIONS = {
    "every fourth step": Conversion(),
    "every step": Conversion(downsample_frequency=1),
    "few steps": Conversion(downsample_frequency=90, downsample_offset=7),
    "one or two steps": Conversion(downsample_frequency=100_000),
    "the second player": Conversion(SECOND),
    "an AI": Conversion(SECOND, 3, controlled_by="ai"),
}


@pytest.fixture(scope="module", params=CONVERSIONS)
def chosen(request: pytest.FixtureRequest, lake: Lake) -> tuple[Selection, np.ndarray]:
    conversion = CONVERSIONS[request.param]
    episodes = [episode for episode in lake.episodes() if conversion.agent in episode.agents]
    if not episodes:
        pytest.skip("needs two-player episodes: multi-agent-ale-py")
    selection = select(episodes, conversion, action_size=18)
    return selection, made(selection)


@pytest.mark.parametrize("memory", [0, SOME, 256 << 20])
def test_indices_slices_and_arrays(chosen: tuple[Selection, np.ndarray], memory: int) -> None:
    selection, images = chosen
    lazy = LazyObservations(selection, memory=memory)
    assert (lazy.shape, lazy.dtype, len(lazy)) == (images.shape, images.dtype, len(images))
    assert lazy.nbytes == images.nbytes
    random = np.random.default_rng(0)
    n = len(images)
    for index in (0, n - 1, -1, slice(None, 40), slice(None, None, 97), slice(3, 3), random.integers(0, n, (5, 3))):
        found = lazy[index]
        assert np.array_equal(found, images[index])
        assert found.shape == images[index].shape
    assert lazy.used_memory <= memory + 50_000
    for index in ([], [n - 1, -n], np.arange(n) % 3 == 0, np.int32(1), np.array([[-1]], np.int8)):
        assert np.array_equal(lazy[index], images[index])
    for outside in (n, -n - 1, [0, n], [True], 0.5, [0.0], (0, 0), None, "0"):
        with pytest.raises(IndexError):
            lazy[outside]
    for wrong in ([n], [-1], [0, n]):
        with pytest.raises(IndexError):
            lazy.stacks(wrong, 4)


@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_stacks_at_random(chosen: tuple[Selection, np.ndarray], data: st.DataObject) -> None:
    selection, images = chosen
    lazy = LazyObservations(selection, memory=data.draw(st.sampled_from([0, SOME, 1 << 30]), label="memory"))
    at = st.integers(0, len(images) - 1)
    # Where segments begin, the stack is padded.
    begins = [0, *(int(end) for end in selection.ends[:-1])]
    near = st.builds(lambda begin, by: min(begin + by, len(images) - 1), st.sampled_from(begins), st.integers(0, 3))
    indices = data.draw(st.lists(at | near, min_size=1, max_size=12), label="indices")
    n_frames = data.draw(st.integers(1, 5), label="n_frames")
    found = lazy.stacks(indices, n_frames)
    expected = [stacked(selection, images, index, n_frames) for index in indices]
    np.testing.assert_array_equal(found, expected)


def test_all_of_it_in_order_and_in_disorder(lake: Lake) -> None:
    selection = select(lake.episodes("game = 'riverraid'"), Conversion())
    images = made(selection)
    lazy = LazyObservations(selection)
    assert np.array_equal(lazy[:], images)
    order = np.random.default_rng(0).permutation(len(images))
    assert np.array_equal(lazy[order], images[order])
    # The change logs of these games, packed, beside what they become.
    assert 0 < lazy.used_memory < images.nbytes / 20


def test_several_threads_at_once(lake: Lake) -> None:
    selection = select(lake.episodes(), Conversion(), action_size=18)
    images = made(selection)
    lazy = LazyObservations(selection, memory=SOME)
    random = np.random.default_rng(0)
    chosen = [random.integers(0, len(images), 60) for _ in range(24)]
    with ThreadPoolExecutor(6) as pool:
        for indices, found in zip(chosen, pool.map(lazy.__getitem__, chosen), strict=True):
            assert np.array_equal(found, images[indices])


def _send(lazy: LazyObservations, indices: np.ndarray, answers: Connection) -> None:
    answers.send(lazy.stacks(indices, 3))


@pytest.mark.parametrize("way", ["fork", "spawn"])
def test_other_processes(lake: Lake, way: Any) -> None:
    selection = select(lake.episodes("game = 'breakout'"), Conversion())
    lazy = LazyObservations(selection)
    indices = np.random.default_rng(1).integers(0, len(selection), 30)
    expected = lazy.stacks(indices, 3)
    # Whoever holds it in this process is left behind by a fork.
    with lazy._logs[0]._lock:
        context: Any = multiprocessing.get_context(way)
        ours, theirs = context.Pipe(False)
        started = context.Process(target=_send, args=(lazy, indices, theirs))
        started.start()
    assert ours.poll(60)
    assert np.array_equal(ours.recv(), expected)
    started.join(10)
    assert started.exitcode == 0


def test_episodes_of_two_lakes(lake: Lake, small_lake: Path) -> None:
    both = [*lake.episodes("game = 'breakout'"), *Lake(small_lake).episodes("game = 'breakout'")]
    selection = select(both, Conversion())
    assert np.array_equal(LazyObservations(selection)[:], made(selection))


def test_what_is_pickled_is_small(lake: Lake) -> None:
    lazy = LazyObservations(select(lake.episodes(), Conversion(), action_size=18))
    before = len(pickle.dumps(lazy))
    lazy[::7]
    assert lazy.used_memory > 0
    assert len(pickle.dumps(lazy)) == before < 8 * len(lazy) + 20_000
    again = pickle.loads(pickle.dumps(lazy))
    assert again.used_memory == 0
    assert np.array_equal(again[:20], lazy[:20])


def test_other_sizes(lake: Lake) -> None:
    selection = select(lake.episodes("game = 'qbert'"), Conversion())
    size = ObservationParameters(framestack_axis_first=True, stack_n=1, max_n=1, warp_width=40, warp_height=42)
    lazy = LazyObservations(selection, size)
    first = selection.segments[0]
    expected = np.asarray(first.episode.observations_at(first.steps, parameters=size))
    assert np.array_equal(lazy[: len(first)], expected)


@pytest.mark.parametrize(
    "wrong",
    [
        ObservationParameters(framestack_axis_first=True),
        ObservationParameters(stack_n=1),
        ObservationParameters(framestack_axis_first=True, stack_n=1, scale=True),
        ObservationParameters(framestack_axis_first=True, stack_n=1, warp=False),
        ObservationParameters(framestack_axis_first=True, stack_n=1, warp_width=500),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_before_anything_is_made(lake: Lake, wrong: ObservationParameters) -> None:
    selection = select(lake.episodes("game = 'qbert'"), Conversion())
    with pytest.raises(InvalidArgument, match=r"single screens|enlarge"):
        LazyObservations(selection, wrong)


def test_an_agent_that_is_not_there(lake: Lake) -> None:
    with pytest.raises(UnknownAgent):
        select(lake.episodes("game = 'qbert'"), Conversion("player_9"))
