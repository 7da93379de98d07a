"""The order of an epoch: every transition once, over all ranks, shuffled, the same again, and in small memory."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crowdplay_lake.errors import InvalidArgument
from crowdplay_lake.offline.epoch_order import EpochOrder, Shuffle

shuffles = st.builds(
    Shuffle,
    batch_size=st.integers(1, 20),
    seed=st.integers(0, 2**40),
    run=st.integers(1, 40),
    buffer=st.integers(1, 600),
    lanes=st.integers(1, 13),
    world_size=st.integers(1, 5),
    drop_last=st.booleans(),
)
epochs = st.integers(0, 1000)


def batches(order: EpochOrder) -> list[np.ndarray]:
    return [order.batch(number) for number in range(len(order))]


def of_ranks(n: int, shuffle: Shuffle, epoch: int) -> list[list[np.ndarray]]:
    return [batches(EpochOrder(n, replace(shuffle, rank=rank), epoch)) for rank in range(shuffle.world_size)]


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 1500), shuffles, epochs)
def test_every_transition_comes_once(n: int, shuffle: Shuffle, epoch: int) -> None:
    ranks = of_ranks(n, shuffle, epoch)
    # Who trains on several machines takes as many batches on each, of the same sizes.
    sizes = [[len(batch) for batch in own] for own in ranks]
    assert all(own == sizes[0] for own in sizes)
    seen = Counter(np.concatenate([batch for own in ranks for batch in own] or [np.empty(0, np.int64)]).tolist())
    assert set(seen) <= set(range(n))
    if shuffle.drop_last:
        assert set(sizes[0]) <= {shuffle.batch_size}
        assert set(seen.values()) <= {1}
        assert n - len(seen) < shuffle.world_size * shuffle.batch_size
    else:
        assert set(sizes[0][:-1]) <= {shuffle.batch_size}
        assert len(seen) == n
        assert sum(seen.values()) - n < shuffle.world_size


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 1500), shuffles, epochs)
def test_the_order_is_that_of_the_seed_and_the_epoch(n: int, shuffle: Shuffle, epoch: int) -> None:
    for one, other in zip(of_ranks(n, shuffle, epoch), of_ranks(n, shuffle, epoch), strict=True):
        assert all(map(np.array_equal, one, other))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 3000), shuffles)
def test_windows_hold_what_their_batches_are_and_no_more_than_the_buffer(n: int, shuffle: Shuffle) -> None:
    order = EpochOrder(n, shuffle, 0)
    taken: dict[tuple[int, int], list[np.ndarray]] = {}
    last = False
    for number in range(len(order)):
        place = order.place(number)
        # What is left over has a lane of its own, after all others.
        assert place.lane == (shuffle.lanes if last or place.lane == shuffle.lanes else number % shuffle.lanes)
        last = place.lane == shuffle.lanes
        window = order.window(place.lane, place.window)
        taken.setdefault(place[:2], []).append(window[place.start : place.stop])
    for (lane, number), found in taken.items():
        window = order.window(lane, number)
        most = shuffle.lanes * shuffle.batch_size if lane == shuffle.lanes else shuffle.buffer // shuffle.lanes
        assert len(window) <= max(shuffle.batch_size, most)
        assert np.array_equal(np.concatenate(found), window)


def test_epochs_and_seeds_differ() -> None:
    orders = [
        np.concatenate(batches(EpochOrder(5000, Shuffle(32, seed=seed), epoch))) for seed, epoch in
        [(0, 0), (0, 1), (1, 0), (1, 1)]
    ]  # fmt: skip
    for at, one in enumerate(orders):
        for other in orders[at + 1 :]:
            # As many as chance has it stay where they are.
            assert (one == other).sum() < 20


def test_neighbours_part() -> None:
    """Of a batch of 64, few are from the same run: chance over a window of 40 runs leaves about 32 different ones."""
    order = EpochOrder(100_000, Shuffle(64, run=64, buffer=12 * 2560), 3)
    runs = [len(set((batch // 64).tolist())) for batch in batches(order)]
    assert np.mean(runs) > 30
    # And of every part of the data: windows are dealt over all of it.
    first = np.concatenate([order.batch(number) for number in range(12)])
    assert np.histogram(first, 10, (0, 100_000))[0].min() > 20


def test_lanes_are_not_due_at_once() -> None:
    order = EpochOrder(1_000_000, Shuffle(100, buffer=12 * 12 * 100), 0)
    begins = [number for number in range(1200, 2400) if order.place(number).start == 0]
    assert len(begins) == 100
    assert max(np.diff(begins)) < 30


@pytest.mark.parametrize(
    ("name", "value"),
    [("batch_size", 0), ("run", 0), ("buffer", True), ("lanes", 1.5), ("seed", -1)],
)
def test_what_cannot_be_is_told(name: str, value: object) -> None:
    with pytest.raises(InvalidArgument, match=f"{name} must be a whole number"):
        Shuffle(**{"batch_size": 8, name: value})  # type: ignore[arg-type]
