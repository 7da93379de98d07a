"""Videos of episodes, decoded again: which frames they show, when, and beside what."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageSequence
from typer.testing import CliRunner

from crowdplay_lake import Episode, Lake
from crowdplay_lake.cli.app import whole_app
from crowdplay_lake.errors import CrowdPlayLakeError, InvalidArgument
from crowdplay_lake.pictures.drawing import text_mask
from crowdplay_lake.pictures.facts import Moment, Moments
from crowdplay_lake.pictures.panel import Panel
from crowdplay_lake.pictures.video import write_video
from crowdplay_lake.pixels import Screen

pytest.importorskip("ale_py")
av = pytest.importorskip("av")


@pytest.fixture(scope="module")
def played(lake: Lake) -> Episode:
    """Of Breakout, which changes its screen in nearly every frame."""
    return max(lake.episodes("game = 'breakout'"), key=len)


def decoded(file: Path) -> list[np.ndarray]:
    """The frames of a video, as FFmpeg decodes them: RGB."""
    # FFmpeg takes a .png for a single picture.
    with av.open(f"file:{file}", format="apng" if file.suffix == ".png" else None) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def shown_by_pillow(file: Path, fps: float, count: int) -> list[np.ndarray]:
    """What stands on the screen in the middle of each of ``count`` frames; equal frames may have been made one."""
    frames, ends = [], [0.0]
    with Image.open(file) as image:
        for frame in ImageSequence.Iterator(image):
            frames.append(np.asarray(frame.convert("RGB")))
            ends.append(ends[-1] + frame.info["duration"] / 1000)
    places = np.searchsorted(ends, (np.arange(count) + 0.5) / fps) - 1
    return [frames[min(int(place), len(frames) - 1)] for place in places]


def equal(found: Sequence[np.ndarray], expected: np.ndarray) -> bool:
    return len(found) == len(expected) and all((one == two).all() for one, two in zip(found, expected, strict=True))


@pytest.mark.parametrize("suffix", ["gif", "apng", "png"])
def test_gif_and_apng_are_the_frames_without_loss(played: Episode, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"a: %d.{suffix}"
    summary = played.video(file, start=100, stop=160, fps=50, speed=50 / 60, scale=1, overlay=False)
    frames = played.frames(played.agents[0], 100, 160)
    assert (summary.frames, summary.width, summary.height, summary.seconds) == (60, 160, 210, 1.2)
    assert equal(decoded(file), frames)
    # Two decoders that know nothing of each other.
    assert equal(shown_by_pillow(file, 50, 60), frames)
    assert summary.bytes == file.stat().st_size


def test_mp4_is_close_and_has_every_frame(played: Episode, tmp_path: Path) -> None:
    file = tmp_path / "game.mp4"
    played.video(file, stop=90, overlay=False)
    found = decoded(file)
    frames = played.frames(played.agents[0], 0, 90).repeat(2, axis=1).repeat(2, axis=2)
    assert len(found) == 90
    for one, two in zip(found, frames, strict=True):
        error = np.mean((one.astype(float) - two) ** 2)
        assert 10 * np.log10(255**2 / max(error, 1e-9)) > 30
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.average_rate, stream.codec_context.pix_fmt) == ("h264", 60, "yuv420p")
        assert float(stream.duration * stream.time_base) == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"fps": 60}, range(10, 40)),
        ({"fps": 15}, range(10, 40, 4)),
        ({"fps": 30, "speed": 3}, range(10, 40, 6)),
        ({"speed": 0.5}, [10 + k // 2 for k in range(60)]),
        ({"fps": 25}, [10 + k * 12 // 5 for k in range(13)]),
        ({"speed": 1000}, [10]),
    ],
    ids=str,
)
def test_which_steps_are_shown(played: Episode, tmp_path: Path, options: dict[str, Any], steps: Sequence[int]) -> None:
    file = tmp_path / "x.apng"
    summary = played.video(file, start=10, stop=40, scale=1, overlay=False, **options)
    assert equal(decoded(file), played.frames(played.agents[0], 0, 50)[list(steps)])
    assert summary.seconds == pytest.approx(len(steps) / options.get("fps", 60))


@pytest.mark.parametrize("suffix", ["gif", "apng"])
def test_beside_a_frame_is_its_processed_image_and_below_it_what_was_then(
    played: Episode, tmp_path: Path, suffix: str
) -> None:
    file = tmp_path / f"x.{suffix}"
    # More frames than are drawn at a time.
    start, stop = 250, min(400, len(played))
    summary = played.video(file, start=start, stop=stop, fps=50, speed=50 / 60, processed=True)
    found = decoded(file)
    agent = played.agents[0]
    frames = played.frames(agent, start, stop)
    images = played.observations(stack_n=1)[start:stop]
    moments = Moments(played, agent)
    log = played.frame_log(agent)
    panel = Panel(log.screen, 2, True, True, suffix == "gif", False)
    assert (summary.height, summary.width) == panel.size == found[0].shape[:2]
    assert len(found) == stop - start
    for place, pixels in enumerate(found):
        assert (pixels[:420:2, :320:2] == frames[place]).all()
        greys = pixels[2:420:5, 330::5]
        assert greys.shape == (84, 84, 3)
        assert np.abs(greys.astype(int) - images[place]).max() <= (1 if suffix == "gif" else 0)
        # Below: as it is drawn for the moment of this very step, and of no other score.
        screen = log.log(start + place, start + place).decode([start + place], 210 * 160)[0]
        expected = panel.colors[panel.draw(screen, moments[start + place], images[place, ..., 0])]
        assert (pixels[420:] == expected[420:]).all()


def test_the_overlay_tells_moments_apart() -> None:
    screen = Screen((210, 160, 3), np.zeros((1, 3), np.uint8))
    panel = Panel(screen, 1, True, False, True, True)
    black = np.zeros(210 * 160, np.uint8)
    moments = [
        Moment(0, 0.0, 0, None, 0, "NOOP", 0, "human"),
        Moment(1, 1 / 60, 0, 3, 0, "NOOP", 0, "human"),
        Moment(1, 1 / 60, 5, 3, 0, "NOOP", 0, "human"),
        Moment(1, 1 / 60, 5, 3, 0, "NOOP", 0, "AI"),
        *(Moment(1, 1 / 60, 5, 3, 0, name, 0, "AI") for name in ("FIRE", "UP", "DOWNLEFT", "UPRIGHTFIRE")),
    ]
    drawn = {panel.draw(black, moment, None).tobytes() for moment in moments}
    assert len(drawn) == len(moments)
    # The stick alone tells actions apart, too.
    sticks = {panel.draw(black, moment, None)[210:, :50].tobytes() for moment in moments[3:]}
    assert len(sticks) == 5


@given(st.text("0123456789,. abcXYZ", min_size=1, max_size=20), st.integers(10, 40))
@settings(max_examples=50, deadline=None)
def test_a_text_is_drawn_to_its_last_letter(text: str, size: int) -> None:
    shorter, whole = text_mask(f"{text}|", size), text_mask(f"{text}|8", size)
    assert whole.shape[1] > shorter.shape[1]
    assert (whole[:, : shorter.shape[1]] == shorter).all()
    # The column after the stroke is empty, and then there is an 8, as wide as it is alone.
    assert whole[:, shorter.shape[1] :].any(axis=0).sum() == text_mask("8", size).any(axis=0).sum()


def test_too_many_colors_for_a_gif_are_told() -> None:
    screen = Screen((210, 160, 3), np.zeros((254, 3), np.uint8))
    with pytest.raises(InvalidArgument, match=r"254 colours.*write \.mp4"):
        Panel(screen, 1, True, False, True, False)


def test_odd_sizes_are_made_even_for_h264(played: Episode, tmp_path: Path) -> None:
    summary = played.video(tmp_path / "x.mp4", stop=3, scale=3)
    assert (summary.width % 2, summary.height % 2) == (0, 0)
    assert decoded(tmp_path / "x.mp4")[0].shape == (summary.height, summary.width, 3)


def test_the_command_writes_a_video_of_the_agent_it_is_told(lake: Lake, tmp_path: Path) -> None:
    episodes = lake.episodes("game = 'space_invaders_2p'")
    if not episodes:
        pytest.skip("needs two-player episodes: multi-agent-ale-py")
    first, second = tmp_path / "first.gif", tmp_path / "second.gif"
    arguments = ["video", str(lake.path), episodes[0].episode_id, "--start", "30", "--stop", "40", "--scale", "1"]
    told = CliRunner().invoke(whole_app(), [*arguments, "--out", str(first), "--output", "json"])
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout) | {"bytes": 0} == {
        "file": str(first), "frames": 9, "seconds": 0.18, "width": 160, "height": 272, "bytes": 0,
    }  # fmt: skip
    again = CliRunner().invoke(whole_app(), [*arguments, "--out", str(second), "--agent", "game_0>player_1"])
    assert again.stdout.startswith(f"{second}: 9 frames, 0.2 s, 160 x 272 pixels")
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["first.gif", "second.gif"]
    # One screen, another's actions.
    pairs = list(zip(decoded(first), decoded(second), strict=True))
    assert all((one[:210] == two[:210]).all() for one, two in pairs)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "another suffix": ({"--out": "x.avi"}, ".mp4, .gif or .apng"),
    "no suffix": ({"--out": "x"}, ".mp4, .gif or .apng"),
    "an unknown episode": ({"episode": "00"}, "no episode '00'"),
    "an unknown agent": ({"--agent": "game_0>player_9"}, "did you mean 'game_0>player_0'"),
    "a start beyond the end": ({"--start": 10**6}, "has "),
    "a start below 0": ({"--start": -1}, "start is 0 to"),
    "a stop beyond the end": ({"--stop": 10**6}, "and is at most"),
    "an empty range": ({"--start": 5, "--stop": 5}, "steps 5 to 5"),
    "a scale of 0": ({"--scale": 0}, "scale=0"),
    "no speed": ({"--speed": 0}, "speed=0"),
    "no number as speed": ({"--speed": "nan"}, "speed=nan"),
    "infinitely many frames a second": ({"--fps": "inf"}, "fps=inf"),
    "a GIF of 60 frames a second": ({"--out": "x.gif", "--fps": 60}, "at most 50"),
    "no folder": ({"--out": "there/x.mp4"}, "no such folder"),
    "a file that is there": ({"--out": "mine.mp4"}, "is there already"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_video_that_cannot_be(
    played: Episode, lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    change, message = WRONG[case]
    monkeypatch.chdir(tmp_path)
    Path("mine.mp4").write_bytes(b"mine")
    options = {"--out": "x.mp4", **change}
    episode = options.pop("episode", played.episode_id)
    arguments = [str(lake.path), episode, *(str(part) for pair in options.items() for part in pair)]
    result = CliRunner().invoke(whole_app(), ["video", *arguments])
    assert isinstance(result.exception, CrowdPlayLakeError), result.output
    assert message in str(result.exception)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("mine.mp4", b"mine")]


def test_what_is_stopped_half_way_leaves_what_was_there(played: Episode, tmp_path: Path) -> None:
    file = tmp_path / "x.mp4"
    file.write_bytes(b"mine")
    seen = []

    def stop(what: str, done: int, total: int) -> None:
        seen.append((what, done, total))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(played, file, overwrite=True, progress=stop)
    assert seen == [("frames", 128, len(played))]
    assert [(f.name, f.read_bytes()) for f in tmp_path.iterdir()] == [("x.mp4", b"mine")]
    assert played.video(file, stop=5, overwrite=True).frames == 5
    assert len(decoded(file)) == 5


def test_without_the_extra_the_command_names_it(played: Episode, lake: Lake, tmp_path: Path) -> None:
    code = "import sys; sys.modules['av'] = None; from crowdplay_lake.cli import main; main()"
    command = [sys.executable, "-c", code, "video", str(lake.path), played.episode_id, "--out", str(tmp_path / "x.gif")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "200"})
    assert result.returncode == 1
    (line,) = result.stderr.strip().splitlines()
    assert "pip install 'crowdplay-lake[video]'" in line
