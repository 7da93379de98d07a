"""Processed trajectories equal CrowdPlay's to the byte, and lazy observations are arrays computed when indexed."""

from __future__ import annotations

import bz2
import itertools
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import read_raw
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_reference import SlowReference
from test_pixels import MOVES, encoded, log_of, made_frames

from crowdplay_ingest.pipeline import ingest
from crowdplay_lake import Lake
from crowdplay_lake.episode import Episode
from crowdplay_lake.errors import InvalidArgument, UnknownAgent
from crowdplay_lake.layout import group_starts
from crowdplay_lake.observations import ObservationParameters, Observations, emitted_steps, luma, maxed_screens
from crowdplay_lake.pixels import ChangeLog, Screen, ScreenEncoder
from crowdplay_lake.warp import warp_for

FIRST, SECOND = "game_0>player_0", "game_0>player_1"
Trajectory = list[dict[str, Any]]
CASES: list[dict[str, Any]] = [
    {},
    {"framestack_axis_first": True, "stack_n": 1},
    {"framestack_axis_first": True, "stack_n": 1, "downsample_frequency": 4},
    {"framestack_axis_first": True, "stack_n": 1, "downsample_frequency": 4, "downsample_offset": 3},
    {"stack_n": 3, "downsample_frequency": 2, "downsample_offset": 1},
    {"max_n": 1, "skip_n": 2, "stack_n": 2},
    {"warp_width": 42, "warp_height": 64, "stack_n": 2},
]


class MemoryScreens:
    """A screen log that lies in memory; hands out row groups as the lake does, and counts the rows it gave."""

    def __init__(self, frames: Sequence[np.ndarray], keyframe_interval: int) -> None:
        encoder = ScreenEncoder(frames[0].shape, keyframe_interval)
        self._rows = encoded(encoder, frames)
        self._interval = keyframe_interval
        self.screen: Screen = log_of(encoder, self._rows)[0]
        self._encoder = encoder

    def __len__(self) -> int:
        return len(self._rows)

    def log(self, first_step: int, last_step: int) -> ChangeLog:
        start = first_step - first_step % self._interval
        log = log_of(self._encoder, self._rows[start : last_step + 1])[1]
        return ChangeLog(start, log.keyframe, log.gap_ends, log.gaps, log.color_ends, log.colors)

    def stretches(self, first_step: int, last_step: int) -> Iterator[tuple[int, int]]:
        edges = [first_step, *range(first_step // self._interval * self._interval, last_step + 2, self._interval)[1:]]
        edges = [*(edge for edge in edges if edge <= last_step), last_step + 1]
        return ((start, stop - 1) for start, stop in itertools.pairwise(edges))


def as_trajectory(frames: Sequence[np.ndarray], random: np.random.Generator) -> Trajectory:
    return [
        {
            "prev_obs": {FIRST: {"image": frame}},
            "action": {FIRST: {"game": int(random.integers(0, 6))}},
            "reward": {FIRST: int(random.integers(-3, 30)) * int(random.random() < 0.3)},
            "done": {FIRST: step == len(frames) - 1, "__all__": step == len(frames) - 1},
        }
        for step, frame in enumerate(frames)
    ]


def store(folder: Path, episode_id: str, trajectory: Trajectory) -> None:
    folder.mkdir(exist_ok=True)
    with bz2.open(folder / f"{episode_id}.pickle.bz2", "wb", compresslevel=1) as file:
        pickle.dump(trajectory, file, protocol=3)


# Against CrowdPlay's definition


@pytest.fixture(scope="module")
def played(raw: Path, lake: Lake) -> list[tuple[Episode, Trajectory]]:
    """Of each game the shortest episode, and its trajectory as the real unpickler reads it."""
    chosen = {episode.game: episode for episode in sorted(lake.episodes(), key=len, reverse=True)}
    return [(episode, read_raw(raw, episode.episode_id)) for episode in chosen.values()]


@pytest.fixture(scope="module")
def references(played: list[tuple[Episode, Trajectory]]) -> list[tuple[Episode, str, SlowReference]]:
    return [
        (episode, agent, SlowReference(trajectory, agent)) for episode, trajectory in played for agent in episode.agents
    ]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_crowdplay_and_then_has_the_last_step(
    case: dict[str, Any], references: list[tuple[Episode, str, SlowReference]]
) -> None:
    for episode, agent, reference in references:
        expected = reference.process(**case)
        result = episode.get_processed_trajectory(agent, **case, final_step=False)
        where = f"{episode} {agent}"
        assert result.observations.dtype == np.uint8
        assert result.observations.shape == expected.observations.shape, where
        assert np.array_equal(result.observations, expected.observations), where
        assert result.actions.tolist() == expected.actions, where
        assert result.rewards.tolist() == expected.rewards, where
        assert result.terminals.tolist() == expected.terminals, where

        whole = episode.get_processed_trajectory(agent, **case)
        n = len(expected.actions)
        last = emitted_steps(len(episode), case.get("downsample_frequency", 1), case.get("downsample_offset", 0))[-1]
        assert last == len(episode) - 1
        assert len(whole.actions) - n in (0, 1)
        assert np.array_equal(whole.observations[:n], expected.observations), where
        assert whole.rewards[:n].tolist() == expected.rewards, where
        rows = episode.steps(agent, ("action", "reward", "done"))
        assert whole.rewards.sum() == sum(rows["reward"].to_pylist()), where
        assert whole.terminals[-1] == rows["done"][-1].as_py(), where
        assert whole.actions[-1] == rows["action"][-1].as_py(), where
        observation = episode.observations(agent, **case)
        assert np.array_equal(whole.observations[-1], observation[-1]), where


@st.composite
def parameters(draw: st.DrawFn, height: int, width: int) -> dict[str, Any]:
    return {
        "framestack_axis_first": draw(st.booleans()),
        "max_n": draw(st.integers(1, 4)),
        "skip_n": draw(st.integers(1, 5)),
        "stack_n": draw(st.integers(1, 5)),
        "warp": draw(st.booleans()),
        "scale": draw(st.booleans()),
        "warp_width": draw(st.integers(1, width)),
        "warp_height": draw(st.integers(1, height)),
    }


@st.composite
def screens(draw: st.DrawFn) -> list[np.ndarray]:
    shape = draw(st.integers(1, 30)), draw(st.integers(1, 30)), 3
    moves = draw(st.lists(st.sampled_from(MOVES), max_size=24))
    return made_frames(shape, moves, draw(st.integers(1, 8)), draw(st.integers(0, 2**32)))


@given(frames=screens(), data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_parameters_equal_crowdplay(frames: list[np.ndarray], data: st.DataObject) -> None:
    chosen = data.draw(parameters(*frames[0].shape[:2]), label="parameters")
    frequency = data.draw(st.integers(1, 6), label="downsample_frequency")
    offset = data.draw(st.integers(0, frequency - 1), label="downsample_offset")
    expected = SlowReference(as_trajectory(frames, np.random.default_rng(0)), FIRST).process(
        downsample_frequency=frequency, downsample_offset=offset, **chosen
    )
    steps = emitted_steps(len(frames), frequency, offset, final_step=False)
    source = MemoryScreens(frames, data.draw(st.integers(1, 9), label="keyframe_interval"))
    result = Observations(source, steps, ObservationParameters(**chosen))
    assert len(result) == len(expected.actions)
    if len(result):
        assert result.shape == expected.observations.shape
        assert result.dtype == expected.observations.dtype
        np.testing.assert_array_equal(result, expected.observations)


@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_any_parameters_equal_crowdplay_on_games(played: list[tuple[Episode, Trajectory]], data: st.DataObject) -> None:
    episode, trajectory = data.draw(st.sampled_from(played), label="episode")
    agent = data.draw(st.sampled_from(episode.agents), label="agent")
    chosen = data.draw(parameters(210, 160), label="parameters")
    stop = data.draw(st.integers(1, len(episode)), label="stop")
    start = max(0, stop - 8)
    # The definition needs the frames before the window; more than the window's lookback is not worth the time.
    before = max(0, start - ObservationParameters(**chosen).lookback)
    expected = SlowReference(trajectory[before:stop], agent).process(**chosen).observations[start - before :]
    if before == 0:
        result = episode.observations(agent, **chosen)[start:stop]
    else:
        result = episode.observations_at(range(start, stop), agent, ObservationParameters(**chosen))[:]
    np.testing.assert_array_equal(result, expected)


# Which steps are emitted


@given(n=st.integers(1, 40), frequency=st.integers(1, 12), data=st.data())
@settings(max_examples=150, deadline=None)
def test_emitted_steps_follow_the_rule(n: int, frequency: int, data: st.DataObject) -> None:
    offset = data.draw(st.integers(0, frequency - 1))
    crowdplay = [i for i in range(n) if i % frequency == offset or i % frequency == n - 1]
    meant = [i for i in range(n) if i % frequency == offset or i == n - 1]
    assert emitted_steps(n, frequency, offset, final_step=False).tolist() == crowdplay
    assert emitted_steps(n, frequency, offset).tolist() == meant


@pytest.fixture(scope="module")
def cut(
    played: list[tuple[Episode, Trajectory]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Lake, dict[str, Trajectory]]:
    """Recorded trajectories cut to 1 … 9 steps, of one player and of two, and the lake made of them."""
    folder = tmp_path_factory.mktemp("cut")
    whole = {len(episode.agents): trajectory for episode, trajectory in played}
    trajectories = {
        f"players{players}-steps{n}": trajectory[:n] for players, trajectory in whole.items() for n in range(1, 10)
    }
    for episode_id, trajectory in trajectories.items():
        store(folder / "raw", episode_id, trajectory)
    assert not ingest(folder / "raw", folder / "lake").rejected
    return Lake(folder / "lake"), trajectories


@pytest.mark.parametrize(("frequency", "offset"), [(1, 0), (4, 0), (4, 3), (9, 0), (9, 4), (30, 20)])
def test_short_episodes_equal_crowdplay(frequency: int, offset: int, cut: tuple[Lake, dict[str, Trajectory]]) -> None:
    lake, trajectories = cut
    for episode_id, trajectory in trajectories.items():
        episode = lake.episode(episode_id)
        for agent in episode.agents:
            expected = SlowReference(trajectory, agent).process(
                downsample_frequency=frequency, downsample_offset=offset, stack_n=2, skip_n=1
            )
            result = episode.get_processed_trajectory(
                agent, False, frequency, offset, stack_n=2, skip_n=1, final_step=False
            )
            assert np.array_equal(result.observations.ravel(), expected.observations.ravel())
            assert (result.actions.tolist(), result.rewards.tolist(), result.terminals.tolist()) == expected[1:]
            whole = episode.get_processed_trajectory(agent, False, frequency, offset)
            assert len(whole.actions) == len(emitted_steps(len(trajectory), frequency, offset)) > 0
            assert whole.rewards.sum() == sum(step["reward"][agent] for step in trajectory)


def test_before_the_first_step_the_screen_is_black(lake: Lake) -> None:
    episode = lake.episodes()[0]
    observations = episode.observations(stack_n=4, skip_n=4, max_n=2)
    assert not observations[0][..., :3].any()
    assert observations[0][..., 3].any()
    assert not observations[3][..., :3].any()
    assert np.array_equal(observations[4][..., 2], observations[0][..., 3])


# Lazy arrays


@pytest.fixture(scope="module")
def lazy() -> list[tuple[Observations, np.ndarray]]:
    """Observations of several shapes and paths, and each as an array, made step by step."""
    frames = made_frames((23, 17, 3), MOVES * 10, 6, seed=7)
    source = MemoryScreens(frames, keyframe_interval=8)
    every, some = np.arange(len(frames)), emitted_steps(len(frames), 3, 1)
    size = {"warp_width": 9, "warp_height": 11}
    made = [
        Observations(source, every, ObservationParameters(**size)),
        Observations(source, some, ObservationParameters(**size, framestack_axis_first=True)),
        Observations(source, some, ObservationParameters(**size, scale=True, max_n=3, stack_n=1)),
        Observations(source, every, ObservationParameters(warp=False, stack_n=2)),
        Observations(source, every[::-1], ObservationParameters(**size, stack_n=2, skip_n=1)),
        Observations(source, np.array([5, 5, 2, 30, 2]), ObservationParameters(**size)),
    ]
    return [(observations, np.stack([observations[i] for i in range(len(observations))])) for observations in made]


INDICES: list[Any] = [
    0,
    -1,
    np.int64(2),
    slice(None),
    slice(1, 4),
    slice(-3, None),
    slice(None, None, 2),
    slice(None, None, -1),
    slice(4, 1, -2),
    slice(3, 3),
    slice(2, 10_000),
    [3, 0, 3],
    [-1, 1],
    [],
    np.array([2, 1]),
    np.array(1),
    (),
    (0,),
    (2, 1, 3),
    (slice(1, 3), 3),
    (slice(None), slice(2, 5), 1),
    ([1, 3], slice(None), 2),
    ...,
    (..., 0),
    (..., slice(None, None, 2)),
    (1, ..., 0),
    (slice(1, 3), ..., 0),
    None,
    (None, 2),
    ([0, 1], [2, 3]),
    ([0, 1], slice(None), [2, 0]),
    np.array([[0, 1], [3, 2]]),
]


@pytest.mark.parametrize("index", INDICES, ids=repr)
def test_indexing_is_that_of_the_array(index: Any, lazy: list[tuple[Observations, np.ndarray]]) -> None:
    for observations, array in lazy:
        result = observations[index]
        assert result.dtype == array.dtype
        assert result.shape == array[index].shape
        np.testing.assert_array_equal(result, array[index])


def test_boolean_masks(lazy: list[tuple[Observations, np.ndarray]]) -> None:
    for observations, array in lazy:
        for mask in (np.arange(len(array)) % 3 == 0, np.zeros(len(array), bool)):
            np.testing.assert_array_equal(observations[mask], array[mask])
            np.testing.assert_array_equal(observations[mask, 1], array[mask, 1])


@pytest.mark.parametrize("index", [1_000, -1_000, [0, 1_000], "0", 1.5, (0, 1_000)], ids=repr)
def test_what_no_array_takes_is_an_index_error(index: Any, lazy: list[tuple[Observations, np.ndarray]]) -> None:
    for observations, array in lazy:
        with pytest.raises(IndexError):
            array[index]
        with pytest.raises(IndexError):
            observations[index]


def test_conversion_and_iteration(lazy: list[tuple[Observations, np.ndarray]]) -> None:
    for observations, array in lazy:
        np.testing.assert_array_equal(np.asarray(observations), array)
        np.testing.assert_array_equal(list(observations), array)
        assert np.asarray(observations, dtype=np.float64).dtype == np.float64
        assert (len(observations), observations.ndim) == (len(array), array.ndim)
        assert (observations.shape, observations.dtype) == (array.shape, array.dtype)
        assert observations.nbytes == array.nbytes
        assert str(array.shape) in repr(observations)
        with pytest.raises(ValueError, match="copy"):
            np.asarray(observations, copy=False)


def test_np_array_makes_an_array_of_ones_own(lazy: list[tuple[Observations, np.ndarray]]) -> None:
    for observations, array in lazy:
        own = np.array(observations)
        own[0] = 1
        # Stacked images are views of one another only as long as nobody may write.
        np.testing.assert_array_equal(own[1:], array[1:])


def test_iteration_is_whole_beyond_one_block() -> None:
    frames = made_frames((4, 3, 3), MOVES * 300, 4, seed=9)
    size = ObservationParameters(warp_width=2, warp_height=3, stack_n=1)
    observations = Observations(MemoryScreens(frames, 256), np.arange(len(frames)), size)
    np.testing.assert_array_equal(list(observations), np.asarray(observations))


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_fast_kernel_equals_the_plain_path(data: st.DataObject) -> None:
    frames = data.draw(screens(), label="frames")
    chosen = data.draw(parameters(*frames[0].shape[:2]), label="parameters")
    chosen |= {"warp": True, "stack_n": 1, "scale": False, "framestack_axis_first": False}
    chosen["max_n"] = min(chosen["max_n"], 2)
    source = MemoryScreens(frames, data.draw(st.integers(1, 9), label="keyframe_interval"))
    steps = data.draw(st.sets(st.integers(0, len(frames) - 1), min_size=1), label="steps")
    wanted = np.array(sorted(steps))
    observations = Observations(source, wanted, ObservationParameters(**chosen))
    maximum = maxed_screens(source.log(0, len(frames) - 1), source.screen, wanted, chosen["max_n"])
    plain = warp_for(frames[0].shape[:2], (chosen["warp_height"], chosen["warp_width"])).apply(luma(maximum))
    np.testing.assert_array_equal(np.asarray(observations)[..., 0], plain)


@pytest.mark.parametrize("size", [(84, 84), (84, 64), (63, 84), (1, 1), (209, 159), (210, 80)])
def test_sums_at_a_half_round_as_the_plain_path_rounds_them(size: tuple[int, int]) -> None:
    """Of random greys thousands of sums lie on a half."""
    random = np.random.default_rng(0)
    values = random.integers(0, 256, (6, 210, 160, 1), np.uint8)
    values[1::2] = random.choice(np.array([0, 1, 254, 255], np.uint8), (3, 210, 160, 1))
    frames = list(np.repeat(values, 3, axis=3))
    warp = warp_for((210, 160), size)
    source = MemoryScreens(frames, 4)
    chosen = ObservationParameters(warp_height=size[0], warp_width=size[1], stack_n=1, max_n=1)
    made = np.asarray(Observations(source, np.arange(len(frames)), chosen))[..., 0]
    np.testing.assert_array_equal(made, warp.apply(values[..., 0]))


def test_random_windows_of_a_game_equal_the_whole(lake: Lake) -> None:
    episode = max(lake.episodes(), key=len)
    whole = np.asarray(episode.observations())
    random = np.random.default_rng(0)
    for _ in range(20):
        start = int(random.integers(0, len(episode)))
        stop = start + int(random.integers(1, 40))
        # An episode of its own, so that nothing is read already.
        fresh = lake.episode(episode.episode_id)
        assert np.array_equal(fresh.observations()[start:stop], whole[start:stop])
    chosen = random.integers(0, len(episode), 25)
    assert np.array_equal(lake.episode(episode.episode_id).observations_at(chosen)[:], whole[chosen])


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory, raw: Path, lake: Lake) -> tuple[Lake, Trajectory]:
    """An episode of more than 5,000 steps: a recorded one, over and over, cut to a strip of the screen."""
    shortest = min(lake.episodes("game = 'breakout'"), key=len)
    strip = [step["prev_obs"][FIRST]["image"][100:190:3, ::4] for step in read_raw(raw, shortest.episode_id)]
    folder = tmp_path_factory.mktemp("long")
    frames = [strip[i % len(strip)].copy() for i in range(5_300)]
    trajectory = as_trajectory(frames, np.random.default_rng(1))
    store(folder / "raw", "long", trajectory)
    assert not ingest(folder / "raw", folder / "lake").rejected
    return Lake(folder / "lake"), trajectory


def test_a_window_deep_in_a_long_episode_reads_only_its_row_groups(long: tuple[Lake, Trajectory]) -> None:
    lake, trajectory = long
    size = {"warp_width": 21, "warp_height": 20}
    for start, stop in ((5_000, 5_010), (4_090, 4_110), (2_048, 2_049), (0, 3), (5_299, 5_300)):
        observations = lake.episode("long").observations(**size)
        before = max(0, start - 20)
        expected = SlowReference(trajectory[before:stop], FIRST).process(**size).observations[start - before :]
        np.testing.assert_array_equal(observations[start:stop], expected)
    log = lake.episode("long").frame_log(FIRST).log(5_000, 5_010)
    assert log.keyframe[0]
    assert 5_000 - 2_048 < log.first_step <= 5_000
    assert log.first_step + len(log) < 5_300


def test_row_groups_of_a_screen_that_scrolls_are_short(tmp_path: Path) -> None:
    frames = np.random.default_rng(2).integers(0, 8, (600, 60, 80, 1), np.uint8).repeat(3, axis=3)
    trajectory = as_trajectory(frames, np.random.default_rng(3))
    store(tmp_path / "raw", "scrolling", trajectory)
    assert not ingest(tmp_path / "raw", tmp_path / "lake").rejected
    episode = Lake(tmp_path / "lake").episode("scrolling")
    log = episode.frame_log(FIRST)
    # 14 kB a step: a keyframe interval has more than a group should have.
    assert group_starts(log.paths, "frames", log.part).tolist() == [0, 256, 512, 600]
    for step in (255, 256, 270, 599):
        before = max(0, step - 20)
        size = {"warp_width": 41, "warp_height": 33}
        expected = SlowReference(trajectory[before : step + 1], FIRST).process(**size).observations[-1]
        np.testing.assert_array_equal(episode.observations(**size)[step], expected)


def test_frames_of_a_long_episode_come_back(long: tuple[Lake, Trajectory]) -> None:
    lake, trajectory = long
    for start, stop in ((0, 5), (2_040, 2_060), (5_290, 5_400), (-3, None), (7, 7), (9, 3)):
        shown = [step["prev_obs"][FIRST]["image"] for step in trajectory[start:stop]]
        frames = lake.episode("long").frames(FIRST, start, stop)
        assert frames.shape == (len(shown), 30, 40, 3)
        assert not shown or np.array_equal(frames, shown)


# Arguments


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in ("max_n", "skip_n", "stack_n") for value in (0, -1, 1.5, "2", None, True)),
        *((name, value) for name in ("warp_width", "warp_height") for value in (0, 500, 8.0)),
        *(("downsample_frequency", value) for value in (0, -4, 2.5, "4", None)),
        *(("downsample_offset", value) for value in (-1, 1, 7, 0.5, "0", None)),
    ],
)
def test_wrong_arguments_are_refused_by_name(name: str, value: Any, lake: Lake) -> None:
    for method in (lake.episodes()[0].observations, lake.episodes()[0].get_processed_trajectory):
        with pytest.raises(InvalidArgument, match=name):
            method(**{name: value})


@pytest.mark.parametrize("steps", [[-1], [0, 10**6], [0.5], ["0"], [[0, 1]]], ids=repr)
def test_steps_that_the_episode_has_not_are_refused(steps: Any, lake: Lake) -> None:
    with pytest.raises(InvalidArgument, match="steps"):
        lake.episodes()[0].observations_at(steps)


def test_unknown_agent_names_the_nearest(lake: Lake) -> None:
    two = next(episode for episode in lake.episodes() if len(episode.agents) == 2)
    with pytest.raises(UnknownAgent, match="did you mean 'game_0>player_1'") as caught:
        two.get_processed_trajectory("game_0>player1")
    assert caught.value.suggestions[0] == SECOND
    for method in (two.steps, two.frames, two.observations, two.first_done, two.ram):
        with pytest.raises(UnknownAgent):
            method("player_7")


def test_a_field_that_a_step_lacks_is_named_with_its_step(tmp_path: Path) -> None:
    frames = made_frames((6, 5, 3), ["all"] * 4, 3, seed=0)
    trajectory = as_trajectory(frames, np.random.default_rng(0))
    del trajectory[3]["reward"]
    store(tmp_path / "raw", "gap", trajectory)
    ingest(tmp_path / "raw", tmp_path / "lake")
    episode = Lake(tmp_path / "lake").episode("gap")
    with pytest.raises(InvalidArgument, match=r"step 3.*reward"):
        episode.get_processed_trajectory(warp=False)
    assert episode.observations(warp=False).shape == (5, 6, 5, 12)
