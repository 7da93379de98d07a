"""The change log of a screen gives back every frame that went in."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crowdplay_lake.errors import InvalidArgument, UnsupportedTrajectory
from crowdplay_lake.pixels import ChangeLog, Screen, ScreenEncoder

Frames = list[np.ndarray]
MOVES = ("repeat", "one pixel", "some", "all")


def encoded(encoder: ScreenEncoder, frames: Sequence[np.ndarray]) -> list[tuple[bool, bytes, bytes]]:
    return [encoder.add(frame) for frame in frames]


def log_of(encoder: ScreenEncoder, rows: Sequence[tuple[bool, bytes, bytes]]) -> tuple[Screen, ChangeLog]:
    """The screen and the change log of an encoder's rows, as the lake hands them out."""
    ends = [np.cumsum([0, *(len(row[column]) for row in rows)]) for column in (1, 2)]
    gaps = np.frombuffer(b"".join(row[1] for row in rows), "<u2")
    colors = np.frombuffer(b"".join(row[2] for row in rows), np.uint8)
    log = ChangeLog(0, np.array([row[0] for row in rows]), ends[0] // 2, gaps, ends[1], colors)
    return Screen(encoder.shape, encoder.palette), log


def decoded(screen: Screen, log: ChangeLog, steps: Sequence[int]) -> np.ndarray:
    return screen.draw(log.decode(steps, screen.pixels))


def made_frames(shape: tuple[int, ...], moves: Sequence[str], n_colors: int, seed: int) -> Frames:
    """Frames of few colours, each made from the one before by a move."""
    random = np.random.default_rng(seed)
    colors = random.integers(0, 256, (n_colors, 3 if shape[2:] == (3,) else 1), np.uint8)
    pixels = shape[:2] if shape[2:] == (3,) else shape

    def drawn() -> np.ndarray:
        return colors[random.integers(0, n_colors, pixels)].reshape(shape)

    frames = [drawn()]
    for move in moves:
        frame, other = frames[-1].copy(), drawn()
        if move == "one pixel":
            at = tuple(int(random.integers(0, size)) for size in pixels)
            frame[at] = other[at]
        elif move == "some":
            changed = random.random(pixels) < 0.3
            frame[changed] = other[changed]
        elif move == "all":
            frame = ~frame if random.random() < 0.5 else other
        frames.append(frame)
    return frames


@st.composite
def sequences(draw: st.DrawFn) -> Frames:
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    shape = draw(st.sampled_from([(height, width, 3), (height, width), (1, height, width), (height, width, 4)]))
    moves = draw(st.lists(st.sampled_from(MOVES), max_size=12))
    return made_frames(shape, moves, draw(st.integers(1, 6)), draw(st.integers(0, 2**32)))


@given(frames=sequences(), data=st.data())
@settings(max_examples=150, deadline=None)
def test_frames_come_back(frames: Frames, data: st.DataObject) -> None:
    interval = data.draw(st.integers(1, len(frames) + 1), label="keyframe_interval")
    encoder = ScreenEncoder(frames[0].shape, interval)
    rows = encoded(encoder, frames)
    screen, log = log_of(encoder, rows)
    np.testing.assert_array_equal(decoded(screen, log, range(len(frames))), frames)
    assert [row[0] for row in rows] == [i % interval == 0 for i in range(len(frames))]
    wanted = sorted(data.draw(st.lists(st.integers(0, len(frames) - 1), max_size=6), label="steps"))
    np.testing.assert_array_equal(decoded(screen, log, wanted), np.array(frames)[wanted])


@given(frames=sequences(), data=st.data())
@settings(max_examples=100, deadline=None)
def test_a_part_of_a_log_begins_with_a_keyframe_and_draws_the_same(frames: Frames, data: st.DataObject) -> None:
    encoder = ScreenEncoder(frames[0].shape, data.draw(st.integers(1, len(frames) + 1), label="keyframe_interval"))
    screen, log = log_of(encoder, encoded(encoder, frames))
    for _ in range(2):
        # The second time a part of a part.
        steps = st.integers(log.first_step, log.first_step + len(log) - 1)
        first, last = sorted(data.draw(st.tuples(steps, steps), label="steps"))
        log = log.within(first, last, screen.pixels)
        assert (log.first_step, len(log)) == (first, last - first + 1)
        assert log.keyframe[0]
        assert (len(log.gaps), len(log.colors)) == (log.gap_ends[-1], log.color_ends[-1])
        np.testing.assert_array_equal(decoded(screen, log, range(first, last + 1)), frames[first : last + 1])


@given(frames=sequences(), data=st.data())
@settings(max_examples=50, deadline=None)
def test_rows_hold_what_changed_and_nothing_else(frames: Frames, data: st.DataObject) -> None:
    encoder = ScreenEncoder(frames[0].shape, data.draw(st.integers(1, 4)))
    rows = encoded(encoder, frames)
    pixels = [frame.reshape(encoder.pixels, encoder.channels) for frame in frames]
    for i, (is_keyframe, gaps, colors) in enumerate(rows):
        if is_keyframe:
            assert (len(gaps), len(colors)) == (0, encoder.pixels)
        else:
            changed = np.flatnonzero((pixels[i] != pixels[i - 1]).any(axis=1))
            np.testing.assert_array_equal(np.cumsum(np.frombuffer(gaps, "<u2").astype(int)), changed)
            np.testing.assert_array_equal(encoder.palette[np.frombuffer(colors, np.uint8)], pixels[i][changed])


@pytest.mark.parametrize("shape", [(210, 160, 3), (1, 84, 84)])
def test_whole_screens_come_back(shape: tuple[int, ...]) -> None:
    frames = made_frames(shape, MOVES * 3, 128, seed=3)
    encoder = ScreenEncoder(shape, keyframe_interval=5)
    screen, log = log_of(encoder, encoded(encoder, frames))
    np.testing.assert_array_equal(decoded(screen, log, range(len(frames))), frames)


def test_palette_is_in_order_of_appearance() -> None:
    encoder = ScreenEncoder((1, 3, 3))
    encoder.add(np.array([[[9, 9, 9], [1, 2, 3], [9, 9, 9]]], np.uint8))
    assert encoder.palette.tolist() == [[9, 9, 9], [1, 2, 3]]
    _, _, colors = encoder.add(np.array([[[0, 0, 0], [9, 9, 9], [255, 0, 7]]], np.uint8))
    assert encoder.palette.tolist() == [[9, 9, 9], [1, 2, 3], [0, 0, 0], [255, 0, 7]]
    assert list(colors) == [2, 0, 3]


def test_palette_of_grey_frames_has_one_channel() -> None:
    encoder = ScreenEncoder((1, 2, 2))
    encoder.add(np.array([[[7, 0], [0, 255]]], np.uint8))
    assert encoder.palette.tolist() == [[7], [0], [255]]


@given(frames=sequences(), data=st.data())
@settings(max_examples=50, deadline=None)
def test_fork_goes_its_own_way_from_the_same_past(frames: Frames, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(frames)), label="forked after")
    interval = data.draw(st.integers(1, len(frames) + 1), label="keyframe_interval")
    one = ScreenEncoder(frames[0].shape, interval)
    past = encoded(one, frames[:at])
    other = one.fork()
    inverted = [~frame for frame in frames[at:]]
    rows = past + encoded(one, frames[at:])
    other_rows = past + encoded(other, inverted)
    for encoder, itsrows, shown in ((one, rows, frames), (other, other_rows, frames[:at] + inverted)):
        screen, log = log_of(encoder, itsrows)
        np.testing.assert_array_equal(decoded(screen, log, range(len(frames))), shown)


def test_256_colours_fit_and_one_more_is_refused() -> None:
    encoder = ScreenEncoder((16, 16, 3))
    ramp = np.zeros((16, 16, 3), np.uint8)
    ramp[..., 0] = np.arange(256).reshape(16, 16)
    screen, log = log_of(encoder, [encoder.add(ramp)])
    np.testing.assert_array_equal(decoded(screen, log, [0]), [ramp])
    ramp[3, 3] = (0, 1, 0)
    with pytest.raises(UnsupportedTrajectory, match="256 colours"):
        encoder.add(ramp)


def test_65536_pixels_fit_and_one_more_is_refused() -> None:
    frames = made_frames((256, 256), ["some", "one pixel", "all"], 4, seed=1)
    frames[-1][-1, -1] ^= 255
    encoder = ScreenEncoder((256, 256))
    screen, log = log_of(encoder, encoded(encoder, frames))
    np.testing.assert_array_equal(decoded(screen, log, range(len(frames))), frames)
    with pytest.raises(UnsupportedTrajectory, match="65,536 pixels"):
        ScreenEncoder((65_537, 1))


@pytest.mark.parametrize("shape", [(), (5,), (0, 5, 3), (300, 300, 3)])
def test_shapes_that_are_no_screen_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UnsupportedTrajectory, match="not an Atari frame"):
        ScreenEncoder(shape)


@pytest.mark.parametrize(
    "frame", [np.zeros((4, 5, 3), np.uint8), np.zeros((5, 4), np.uint8), np.zeros((5, 4, 3), np.int64)]
)
def test_another_shape_or_dtype_amid_the_episode_is_refused(frame: np.ndarray) -> None:
    encoder = ScreenEncoder((5, 4, 3))
    encoder.add(np.zeros((5, 4, 3), np.uint8))
    with pytest.raises(UnsupportedTrajectory, match=r"the episode began with uint8 \(5, 4, 3\)"):
        encoder.add(frame)


def test_frames_in_any_memory_layout_are_the_same_frames() -> None:
    frame = made_frames((6, 5, 3), [], 5, seed=2)[0]
    plain = ScreenEncoder(frame.shape).add(frame)
    read_only = frame.copy()
    read_only.flags.writeable = False
    for other in (np.asfortranarray(frame), np.repeat(frame, 2, axis=1)[:, ::2], read_only):
        assert ScreenEncoder(frame.shape).add(other) == plain


@pytest.mark.parametrize("steps", [[-1], [3], [1, 0], [0, 5]])
def test_steps_out_of_the_log_or_out_of_order_are_refused(steps: list[int]) -> None:
    encoder = ScreenEncoder((2, 2))
    _, log = log_of(encoder, encoded(encoder, made_frames((2, 2), ["all", "all"], 2, seed=0)))
    with pytest.raises(InvalidArgument, match=r"0\.\.2"):
        log.decode(steps, 4)


def test_an_encoder_does_not_grow_with_the_episode() -> None:
    encoder = ScreenEncoder((20, 20, 3), keyframe_interval=16)
    frames = made_frames((20, 20, 3), MOVES * 3, 8, seed=4)

    def feed(count: int) -> int:
        for i in range(count):
            encoder.add(frames[i % len(frames)])
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = feed(100)
        growth = feed(2_000) - before
    finally:
        tracemalloc.stop()
    # A single kept frame has 1,200 bytes; 2,000 rows of changes would be 400 KB.
    assert growth < 10_000
