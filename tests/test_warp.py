"""Area averaging equals OpenCV's INTER_AREA to the byte, and scikit-image's operator by its weights."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from skimage.transform import resize_local_mean

from crowdplay_lake import Lake
from crowdplay_lake.errors import InvalidArgument
from crowdplay_lake.observations import luma
from crowdplay_lake.warp import AreaWeights, warp_for

Size = tuple[int, int]  # height, width
ATARI = (210, 160)
TARGETS = [
    # The sizes that people use, fractional ones.
    (84, 84),
    (64, 42),
    (42, 64),
    (64, 64),
    (42, 42),
    (96, 96),
    (110, 84),
    (209, 159),
    (7, 11),
    # Whole factors: another arithmetic in OpenCV; 2 x 2 is a third.
    (105, 80),
    (42, 40),
    (21, 20),
    (105, 160),
    (210, 80),
    (210, 160),
    (70, 160),
    (1, 1),
    (1, 160),
    (210, 1),
    (2, 5),
    (30, 32),
    # One whole factor, one not.
    (105, 84),
    (84, 80),
    (210, 84),
    (84, 160),
    (1, 84),
    (84, 1),
]


def opencv(grey: np.ndarray, target: Size) -> np.ndarray:
    return np.array([cv2.resize(image, target[::-1], interpolation=cv2.INTER_AREA) for image in grey])


def some_screens(source: Size, seed: int) -> np.ndarray:
    """Noise, a screen of few values with edges, and the extremes that overflow if anything does."""
    random = np.random.default_rng(seed)
    noise = random.integers(0, 256, (3, *source), np.uint8)
    few = random.choice(np.array([0, 74, 142, 255], np.uint8), (2, *source))
    flat = np.stack([np.full(source, 255, np.uint8), np.zeros(source, np.uint8)])
    return np.concatenate([noise, few, flat])


def as_matrix(axis: AreaWeights, sources: int) -> np.ndarray:
    """(outputs, sources)"""
    matrix = np.zeros((len(axis.first), sources), np.float32)
    for output, first in enumerate(axis.first):
        weights = axis.weights[output]
        stop = min(int(first) + len(weights), sources)
        matrix[output, first:stop] = weights[: stop - first]
        assert not weights[stop - first :].any()
    return matrix


@pytest.mark.parametrize("target", TARGETS)
def test_equals_opencv_on_random_screens(target: Size) -> None:
    grey = some_screens(ATARI, seed=target[0] * 1000 + target[1])
    np.testing.assert_array_equal(warp_for(ATARI, target).apply(grey), opencv(grey, target))


def test_equals_opencv_on_screens_of_games(lake: Lake) -> None:
    for episode in {episode.game: episode for episode in lake.episodes()}.values():
        agent = episode.agents[0]
        grey = luma(np.concatenate([episode.frames(agent, step, step + 1) for step in range(0, len(episode), 60)]))
        for target in TARGETS:
            result = warp_for(ATARI, target).apply(grey)
            np.testing.assert_array_equal(result, opencv(grey, target), f"{episode.game} {target}")


def test_luma_equals_opencv() -> None:
    # Every 5th level of each channel, and the ends.
    levels = np.unique([*range(0, 256, 5), 1, 254, 255]).astype(np.uint8)
    colors = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 1, 3)
    np.testing.assert_array_equal(luma(colors), cv2.cvtColor(colors, cv2.COLOR_RGB2GRAY))


@st.composite
def shrinkings(draw: st.DrawFn) -> tuple[Size, Size]:
    source = draw(st.integers(1, 70)), draw(st.integers(1, 70))
    return source, (draw(st.integers(1, source[0])), draw(st.integers(1, source[1])))


@given(sizes=shrinkings(), seed=st.integers(0, 2**32))
@settings(max_examples=300, deadline=None)
@example(sizes=((49, 49), (1, 1)), seed=0)  # 1 / (1 / 49) is not 49 in floating point
@example(sizes=((49, 98), (1, 2)), seed=0)
@example(sizes=((1, 1), (1, 1)), seed=0)
def test_equals_opencv_at_any_size(sizes: tuple[Size, Size], seed: int) -> None:
    source, target = sizes
    grey = some_screens(source, seed)
    np.testing.assert_array_equal(warp_for(source, target).apply(grey), opencv(grey, target))


@given(target=st.tuples(st.integers(1, 210), st.integers(1, 160)), seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_equals_opencv_from_an_atari_screen_to_any_size(target: Size, seed: int) -> None:
    grey = some_screens(ATARI, seed)[1:5]
    np.testing.assert_array_equal(warp_for(ATARI, target).apply(grey), opencv(grey, target))


@pytest.mark.parametrize("target", TARGETS)
def test_weights_are_those_of_scikit_image_and_of_the_definition(target: Size) -> None:
    warp = warp_for(ATARI, target)
    for axis, sources, outputs in zip((warp.rows, warp.columns), ATARI, target, strict=True):
        matrix = as_matrix(axis, sources)
        operator = resize_local_mean(np.eye(sources), (outputs, sources))
        np.testing.assert_array_equal(matrix, operator.astype(np.float32))
        factor = sources / outputs
        ends = np.arange(1, outputs + 1)[:, None] * factor
        covered = np.minimum(ends, np.arange(1, sources + 1)) - np.maximum(ends - factor, np.arange(sources))
        np.testing.assert_allclose(matrix, covered.clip(0) / factor, atol=1e-6)


@given(sizes=shrinkings())
@settings(max_examples=60, deadline=None)
def test_a_source_pixel_knows_the_outputs_it_feeds(sizes: tuple[Size, Size]) -> None:
    """In whole numbers; the weights leave out what is hardly covered, as OpenCV does."""
    source, target = sizes
    warp = warp_for(source, target)
    for axis, sources in zip((warp.rows, warp.columns), source, strict=True):
        shares = np.zeros((len(axis.first) + 1, sources))
        for pixel, (fed, parts) in enumerate(zip(axis.fed.tolist(), axis.parts, strict=True)):
            shares[fed : fed + 2, pixel] += parts / axis.whole
        assert not shares[-1].any()
        np.testing.assert_allclose(shares[:-1].sum(axis=1), 1)
        np.testing.assert_allclose(shares[:-1], as_matrix(axis, sources), atol=2e-3)


@pytest.mark.parametrize(
    ("target", "name"), [((211, 84), "warp_height=211"), ((84, 161), "warp_width=161"), ((0, 84), "warp_height=0")]
)
def test_enlarging_is_refused_by_name(target: Size, name: str) -> None:
    with pytest.raises(InvalidArgument, match=name):
        warp_for(ATARI, target)
