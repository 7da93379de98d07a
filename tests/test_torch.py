"""Transitions for PyTorch: those of d3rlpy, whoever makes them, in an order that is known and goes on anywhere."""

from __future__ import annotations

import itertools
import pickle
import shutil
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crowdplay_lake import Lake
from crowdplay_lake.errors import InvalidArgument, InvalidLake
from crowdplay_lake.observations import ObservationParameters
from crowdplay_lake.offline.lazy import LazyObservations
from crowdplay_lake.offline.mapped import map_observations
from crowdplay_lake.offline.selection import Selection, select
from crowdplay_lake.offline.transitions import Conversion

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

from torch.utils.data import BatchSampler, DataLoader  # noqa: E402

from crowdplay_lake.offline.torch import TransitionDataset, TransitionSampler, TransitionStream  # noqa: E402

FIRST, SECOND = "game_0>player_0", "game_0>player_1"
SINGLE = ObservationParameters(framestack_axis_first=True, stack_n=1)
LARGEST = 18


@pytest.fixture(scope="module")
def selection(lake: Lake) -> Selection:
    """Game overs, time limits and stopped episodes."""
    return select(lake.episodes(), Conversion(), action_size=LARGEST)


@pytest.fixture(scope="module")
def dataset(selection: Selection) -> TransitionDataset:
    return TransitionDataset(selection, next_observations=True)


@pytest.fixture(scope="module")
def small(small_lake: Path) -> TransitionDataset:
    """Some two hundred transitions."""
    return TransitionDataset(select(Lake(small_lake).episodes(), Conversion(downsample_frequency=1), LARGEST))


def assert_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype, name
        assert torch.equal(tensor, other[name]), name


def all_equal(ones: Any, others: Any) -> None:
    for one, other in itertools.zip_longest(ones, others):
        assert_equal(one, other)


# What a transition is


@pytest.mark.parametrize("n_frames", [4, 1])
@pytest.mark.parametrize(
    "conversion",
    [Conversion(), Conversion(SECOND, 2, 1, "crowdplay", "human"), Conversion(downsample_frequency=100_000)],
    ids=["all", "a human second player", "one or two steps"],
)
def test_transitions_are_d3rlpys_index_for_index(lake: Lake, conversion: Conversion, n_frames: int) -> None:
    pytest.importorskip("d3rlpy")
    from crowdplay_lake.offline.d3rlpy import to_mdp_dataset

    episodes = [episode for episode in lake.episodes() if conversion.agent in episode.agents]
    if not episodes:
        pytest.skip("needs two-player episodes: multi-agent-ale-py")
    c = conversion
    theirs = to_mdp_dataset(
        episodes, c.agent, c.downsample_frequency, c.rewards, c.controlled_by, downsample_offset=c.downsample_offset,
        n_frames=n_frames, action_size=LARGEST,
    )  # fmt: skip
    chosen = select(episodes, conversion, LARGEST)
    ours = TransitionDataset(chosen, n_frames=n_frames, next_observations=True)
    assert len(ours) == theirs.transition_count
    before = 0
    for segment, episode in zip(chosen.segments, theirs.episodes, strict=True):
        count = episode.transition_count
        if not count:
            continue
        picked = [theirs.transition_picker(episode, index) for index in range(count)]
        batch = ours[range(before, before + count)]
        assert np.array_equal(batch["observation"], [one.observation for one in picked])
        assert np.array_equal(batch["next_observation"], [one.next_observation for one in picked])
        assert batch["action"].tolist() == [one.action[0] for one in picked]
        assert batch["reward"].tolist() == [one.reward[0] for one in picked]
        assert batch["terminal"].tolist() == [bool(one.terminal) for one in picked]
        # Only the last one of what was cut off is a timeout.
        assert batch["timeout"].tolist() == [False] * (count - 1) + [not segment.terminal]
        assert batch["step"].tolist() == segment.steps[:count].tolist()
        assert {ours.episode_ids[at] for at in batch["episode"].tolist()} == {segment.episode.episode_id}
        assert {ours.agents[at] for at in batch["agent"].tolist()} == {conversion.agent}
        before += count
    assert before == len(ours)


def test_kinds_and_shapes(dataset: TransitionDataset, selection: Selection) -> None:
    batch = dataset[[3, 0, len(dataset) - 1]]
    kinds = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in batch.items()}
    stack, number = (torch.uint8, (3, 4, 84, 84)), (torch.int64, (3,))
    assert kinds == {
        "observation": stack,
        "next_observation": stack,
        "action": number,
        "reward": (torch.float32, (3,)),
        "terminal": (torch.bool, (3,)),
        "timeout": (torch.bool, (3,)),
        "agent": number,
        "episode": number,
        "step": number,
    }
    assert "next_observation" not in TransitionDataset(selection)[0]
    assert dataset.action_size == LARGEST
    assert repr(dataset).startswith(f"TransitionDataset({len(dataset)} transitions, observation=(4, 84, 84)")


def test_one_some_and_none(dataset: TransitionDataset) -> None:
    n = len(dataset)
    batch = dataset[[7, n - 2]]
    for at, index in enumerate((7, -2)):
        assert_equal(dataset[index], {name: tensor[at] for name, tensor in batch.items()})
    assert_equal(dataset[torch.tensor([7, -2])], batch)
    assert_equal(dataset[7 : n + 9 : n - 9], batch)
    all_equal(dataset.__getitems__([7, n - 2]), [dataset[7], dataset[-2]])
    assert dataset[[]]["observation"].shape == (0, 4, 84, 84)
    for outside in (n, -n - 1, [0, n], [[0]], 1.5, [True, False], "observation"):
        with pytest.raises(IndexError, match="transitions are"):
            dataset[outside]  # type: ignore[index]


def test_both_players(lake: Lake) -> None:
    episodes = [episode for episode in lake.episodes() if SECOND in episode.agents]
    if not episodes:
        pytest.skip("needs two-player episodes: multi-agent-ale-py")
    each = [select(episodes, Conversion(agent), LARGEST) for agent in (FIRST, SECOND)]
    together = TransitionDataset(*each, next_observations=True)
    apart = [TransitionDataset(one, next_observations=True) for one in each]
    assert together.agents == [FIRST, SECOND]
    assert together.episode_ids == [episode.episode_id for episode in episodes]
    n = len(apart[0])
    assert len(together) == n + len(apart[1])
    found = together[[5, n + 5, n - 1, n]]
    assert found.pop("agent").tolist() == [0, 1, 0, 1]
    expected = [apart[0][5], apart[1][5], apart[0][n - 1], apart[1][0]]
    for name, tensor in found.items():
        assert torch.equal(tensor, torch.stack([one[name] for one in expected])), name


# Where observations come from


def test_arrays_in_memory_and_mapped(selection: Selection, dataset: TransitionDataset, tmp_path: Path) -> None:
    mapped = map_observations(selection, SINGLE, tmp_path / "map")
    indices = np.random.default_rng(0).integers(0, len(dataset), 200)
    for observations in (mapped, np.array(mapped), LazyObservations(selection, memory=0)):
        made = TransitionDataset(selection, next_observations=True, observations=observations)
        assert_equal(made[indices], dataset[indices])


def test_what_is_pickled_is_small(selection: Selection, dataset: TransitionDataset, tmp_path: Path) -> None:
    """And works: a mapped file goes by its name, change logs are read again."""
    whole = map_observations(selection, SINGLE, tmp_path / "map")
    half = select([s.episode for s in selection.segments[:4]], Conversion(), LARGEST)
    for chosen, observations in ((selection, None), (selection, whole), (half, whole[: len(half)])):
        made = TransitionDataset(chosen, next_observations=True, observations=observations)
        made[::5]
        stored = pickle.dumps(made)
        assert len(stored) < 20 * len(chosen) + 30_000
        again = pickle.loads(stored)
        indices = range(0, len(made), 7)
        assert_equal(again[indices], dataset[indices])
    # From the middle of a file.
    segment = selection.segments[4]
    one = select([segment.episode], Conversion(), LARGEST)
    middle = TransitionDataset(one, observations=whole[len(half) : len(half) + len(one)])
    assert_equal(pickle.loads(pickle.dumps(middle))[[0, 9]], TransitionDataset(one)[[0, 9]])


# Workers

WORKERS: list[tuple[int, str | None]] = [(0, None), (2, "fork"), (1, "spawn")]


@pytest.fixture
def silence(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Nobody warns, in workers either."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Where there are fewer cores.
        warnings.filterwarnings("ignore", "This DataLoader will create")
        yield
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("workers", "way"), WORKERS)
def test_batches_of_a_loader(selection: Selection, workers: int, way: str | None, silence: None) -> None:
    """By torch's own way, and with batches of indices, which saves taking batches apart and together again."""
    fresh = TransitionDataset(selection)
    order = np.random.default_rng(0).permutation(len(fresh))[:300].tolist()
    expected = [fresh[order[start : start + 64]] for start in range(0, len(order), 64)]
    how: dict[str, Any] = {"num_workers": workers, "multiprocessing_context": way}
    all_equal(DataLoader(fresh, 64, sampler=order, **how), expected)
    if way != "spawn":
        sampler = BatchSampler(order, 64, drop_last=False)
        all_equal(DataLoader(fresh, batch_size=None, sampler=sampler, **how), expected)


@pytest.mark.parametrize(
    ("workers", "way"), [(0, None), (1, "fork"), (2, "fork"), (2, "spawn"), (3, "fork"), (5, "fork")]
)
def test_a_stream_is_the_same_with_any_number_of_workers(
    selection: Selection, workers: int, way: str | None, silence: None
) -> None:
    """All of it, and from the middle; 5 workers cannot share 4 lanes evenly."""
    stream = TransitionStream(TransitionDataset(selection), 48, seed=5, run=32, buffer=960, lanes=4)
    stream.set_epoch(2)
    expected = list(stream)
    assert len(expected) == len(stream)
    loader: Any = DataLoader(stream, batch_size=None, num_workers=workers, multiprocessing_context=way)
    assert len(loader) == len(stream)
    # To spawn workers takes seconds.
    for start in (7,) if way == "spawn" else (0, 7, len(stream) - 2):
        stream.set_epoch(2, start)
        all_equal(loader, expected[start:])


def test_a_stream_has_every_transition_once(selection: Selection, dataset: TransitionDataset) -> None:
    stream = TransitionStream(dataset, 100, run=16, buffer=1000, lanes=3)
    order = {}
    for index in range(0, len(dataset), 500):
        part = dataset[range(index, min(index + 500, len(dataset)))]
        for at, key in enumerate(zip(part["episode"].tolist(), part["step"].tolist(), strict=True)):
            order[key] = index + at
    indices = []
    for batch in stream:
        own = [order[key] for key in zip(batch["episode"].tolist(), batch["step"].tolist(), strict=True)]
        assert_equal(batch, dataset[own])
        indices += own
    assert sorted(indices) == list(range(len(dataset)))
    assert indices != sorted(indices)


def test_workers_that_stay_hear_of_the_epoch(small: TransitionDataset, silence: None) -> None:
    stream = TransitionStream(small, 16, lanes=2)
    expected = []
    for epoch in range(3):
        stream.set_epoch(epoch)
        expected.append([batch["step"].tolist() for batch in stream])
    assert expected[0] != expected[1] != expected[2]
    loader: Any = DataLoader(stream, None, num_workers=2, persistent_workers=True, multiprocessing_context="fork")
    for epoch, start in [(0, 0), (1, 0), (2, 4), (0, 3)]:
        stream.set_epoch(epoch, start)
        assert [batch["step"].tolist() for batch in loader] == expected[epoch][start:]


def test_a_step_of_training_can_be_gone_on_from(small: TransitionDataset) -> None:
    """What was trained on before and after an interruption, with workers ahead of it, is what would have been."""
    sampler = TransitionSampler(small, seed=3)
    loader: Any = DataLoader(small, 10, sampler=sampler, num_workers=1, multiprocessing_context="fork")
    sampler.set_epoch(1)
    whole = [batch["step"].tolist() for batch in loader]
    sampler.set_epoch(1)
    taken = [batch["step"].tolist() for batch in itertools.islice(loader, 6)]
    again = TransitionSampler(small, seed=3)
    again.set_epoch(1, start=len(taken) * 10)
    rest: Any = DataLoader(small, 10, sampler=again)
    assert taken + [batch["step"].tolist() for batch in rest] == whole


@pytest.mark.parametrize("workers", [0, 1])
def test_what_cannot_be_read_is_told_with_its_episode(small_lake: Path, tmp_path: Path, workers: int) -> None:
    copy = tmp_path / "lake"
    shutil.copytree(small_lake, copy)
    episodes = Lake(copy).episodes()
    data = TransitionDataset(select(episodes, Conversion(downsample_frequency=1), LARGEST))
    broken = episodes[2].frame_log()
    next((copy / "frames").rglob(Path(broken.part).name)).unlink()
    told = rf"episode {episodes[2].episode_id}, steps \d+ to \d+: .*{Path(broken.part).name}"
    with pytest.raises(InvalidLake, match=told):
        list(DataLoader(data, 64, num_workers=workers, multiprocessing_context="fork" if workers else None))
    stream = TransitionStream(data, 16)
    with pytest.raises(InvalidLake, match=told):
        list(DataLoader(stream, None, num_workers=workers, multiprocessing_context="fork" if workers else None))


# Several machines


class Numbers(torch.utils.data.Dataset):  # type: ignore[misc, type-arg]
    """So many of something."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 300),
    world_size=st.integers(1, 6),
    seed=st.integers(0, 1000),
    epoch=st.integers(0, 100),
    drop_last=st.booleans(),
    data=st.data(),
)
def test_ranks_have_all_samples_among_them(
    n: int, world_size: int, seed: int, epoch: int, drop_last: bool, data: st.DataObject
) -> None:
    found = []
    for rank in range(world_size):
        sampler = TransitionSampler(Numbers(n), seed, True, drop_last and n >= world_size, rank, world_size)
        sampler.set_epoch(epoch)
        own = list(sampler)
        assert len(own) == len(sampler)
        assert list(sampler) == own
        start = data.draw(st.integers(0, len(sampler)))
        sampler.set_epoch(epoch, start)
        assert list(sampler) == own[start:]
        found.append(own)
    assert len({len(own) for own in found}) == 1
    seen = Counter(itertools.chain.from_iterable(found))
    if drop_last and n >= world_size:
        assert set(seen.values()) == {1}
        assert n - len(seen) < world_size
    else:
        assert len(seen) == n
        assert sum(seen.values()) - n < world_size


def _of_rank(rank: int, world_size: int, meeting: str, data: TransitionDataset, answers: Any) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world_size)
    sampler, stream = TransitionSampler(data), TransitionStream(data, 8)
    loader: Any = DataLoader(stream, None, num_workers=1, multiprocessing_context="fork")
    answers.put((list(sampler), [(b["episode"].tolist(), b["step"].tolist()) for b in loader]))
    torch.distributed.destroy_process_group()


def test_a_process_group_is_found(small: TransitionDataset, tmp_path: Path) -> None:
    if not torch.distributed.is_available():
        pytest.skip("this torch has no distributed package")
    answers = torch.multiprocessing.get_context("fork").SimpleQueue()
    arguments = 2, str(tmp_path / "meeting"), small, answers
    torch.multiprocessing.start_processes(_of_rank, arguments, nprocs=2, start_method="fork")
    (one, ones), (other, others) = answers.get(), answers.get()
    n = len(small)
    assert set(one) | set(other) == set(range(n))
    assert len(one) == len(other) == -(-n // 2)
    steps = Counter(
        key for episodes, steps in [*ones, *others] for key in zip(episodes, steps, strict=True)
    )  # fmt: skip
    assert len(ones) == len(others)
    assert len(steps) == n
    assert sum(steps.values()) - n == n % 2


# What cannot be


def test_what_cannot_be_is_told(selection: Selection, small: TransitionDataset, lake: Lake) -> None:
    breakout = select(lake.episodes("game = 'breakout'"), Conversion())
    other = select(reversed(lake.episodes()), Conversion(), LARGEST)
    images = np.zeros((len(selection), 1, 84, 84), np.uint8)
    wrong: list[tuple[str, Any]] = [
        ("n_frames must be", lambda: TransitionDataset(selection, n_frames=0)),
        ("no selection", lambda: TransitionDataset()),
        ("select\\(episodes, Conversion", lambda: TransitionDataset(lake.episodes())),  # type: ignore[arg-type]
        ("4 and 18 actions", lambda: TransitionDataset(selection, breakout)),
        ("observations are uint8", lambda: TransitionDataset(selection, observations=images[1:])),
        ("observations are uint8", lambda: TransitionDataset(selection, observations=images.astype(np.float32))),
        ("of another selection", lambda: TransitionDataset(selection, observations=LazyObservations(other))),
        ("observations of 1 selections, for 2", lambda: TransitionDataset(selection, selection, observations=images)),
        (
            "different heights",
            lambda: TransitionDataset(selection, selection, observations=[images, images[..., :42]]),
        ),
        ("batch_size must be", lambda: TransitionStream(small, 0)),
        ("go together", lambda: TransitionSampler(small, rank=1)),
        ("rank must be 0 to 1", lambda: TransitionStream(small, rank=2, world_size=2)),
        ("rank must be 0 to 1", lambda: TransitionSampler(small, rank=2, world_size=2)),
        ("epoch must be", lambda: TransitionStream(small).set_epoch(-1)),
        ("start must be 0 to", lambda: TransitionStream(small).set_epoch(0, 10_000)),
        ("start must be 0 to", lambda: TransitionSampler(small).set_epoch(0, 10_000)),
    ]
    for told, make in wrong:
        with pytest.raises(InvalidArgument, match=told):
            make()


def test_episodes_of_one_step_that_were_cut_off(small_lake: Path) -> None:
    short = Conversion(downsample_frequency=100, downsample_offset=99)
    with pytest.raises(InvalidArgument, match="cut off after one step"):
        TransitionDataset(select(Lake(small_lake).episodes(), short, LARGEST))
