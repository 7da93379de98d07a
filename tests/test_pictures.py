"""Episodes to look at: what is drawn is what is in the lake, at its own step."""

from __future__ import annotations

import base64
import io
import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from test_round_trip import KEPT
from typer.testing import CliRunner

from crowdplay_ingest.pipeline import IngestOptions, ingest
from crowdplay_lake import Episode, Lake
from crowdplay_lake.cli.app import whole_app
from crowdplay_lake.errors import CrowdPlayLakeError, InvalidArgument, NoTrajectory
from crowdplay_lake.pictures.drawing import png_of
from crowdplay_lake.pictures.facts import Moments, clock, scores_before
from crowdplay_lake.pictures.heat import heat_of
from crowdplay_lake.pictures.notebook import filmstrip, score_curve
from crowdplay_lake.pictures.step import raw_frame, step_picture

pytest.importorskip("ale_py")
APP = whole_app()


def invoke(*arguments: object) -> Any:
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(APP, list(map(str, arguments)))


def run(*arguments: object) -> str:
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return str(result.stdout)


def decoded(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


@pytest.fixture(scope="module")
def played(lake: Lake) -> Episode:
    """Of Space Invaders, with a score."""
    return max(lake.episodes("game = 'space_invaders' AND score > 0"), key=len)


ODD = ("gym", "roll-out", "roll-out of two agents", "nothing but frames", "frames of shape (4, 6, 6)",
       "rewards that begin with an int", "odd agent names", "odd user_type", "one step", "reward missing")  # fmt: skip


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Episodes as nobody records them, by the index of their kind in ODD."""
    folder = tmp_path_factory.mktemp("odd")
    for number, kind in enumerate(ODD):
        (folder / f"{number}.pickle").write_bytes(pickle.dumps(KEPT[kind]))
    ingest(folder, folder / "lake", IngestOptions(workers=0))
    return Lake(folder / "lake")


@pytest.fixture(scope="module")
def rollout(odd: Lake) -> Episode:
    """Frames that are processed already, a decision a row."""
    return odd.episode("1")


# What is known at a step


def test_a_frame_goes_with_what_was_before_the_step_and_with_the_steps_action(lake: Lake) -> None:
    """Score and lives stand on the screen before the step; action, reward and player are the step's own."""
    checked = 0
    for episode in lake.episodes("game = 'space_invaders_2p' OR game = 'riverraid'"):
        raw = list(episode.iter_raw_trajectory(frames=False))
        for agent in episode.agents:
            moments, score, lives = Moments(episode, agent), 0, None
            for step, row in enumerate(raw):
                moment = moments[step]
                action = row["action"][agent]["game"]
                assert (moment.score, moment.lives, moment.action) == (score, lives, action)
                assert moment.action_name == (episode.action_meanings or [])[action]
                assert moment.reward == row["reward"][agent]
                assert moment.player == {1: "human", 2: "AI"}[row["user_type"][agent]]
                score, lives = score + row["reward"][agent], row["info"][agent]["ale.lives"]
                checked += 1
    assert checked > 1_000


def test_of_a_rollout_the_reward_is_there_already(rollout: Episode) -> None:
    agent = rollout.agents[0]
    rewards = [row["reward"][agent] for row in rollout.iter_raw_trajectory(frames=False)]
    moments = Moments(rollout, agent)
    assert [moments[step].score for step in range(len(rewards))] == np.cumsum(rewards).tolist()
    # A decision is four frames of sixty a second.
    assert moments[2].seconds == pytest.approx(2 / 15)


@given(st.lists(st.one_of(st.none(), st.integers(-100, 100)), max_size=20), st.booleans())
def test_scores_before(rewards: list[float | None], tells_before: bool) -> None:
    found = scores_before(rewards, tells_before).tolist()
    assert found == [sum(r or 0 for r in rewards[: i + tells_before]) for i in range(len(rewards))]


@pytest.mark.parametrize(("seconds", "told"), [(0, "0:00.0"), (59.96, "0:59.9"), (83.4, "1:23.4"), (6000, "100:00.0")])
def test_the_clock(seconds: float, told: str) -> None:
    assert clock(seconds) == told


# PNG


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20), st.just(3))))
@settings(max_examples=30, deadline=None)
def test_png_is_without_loss(pixels: np.ndarray) -> None:
    assert (decoded(png_of(pixels)) == pixels).all()


def test_png_of_many_and_of_few_colors() -> None:
    many = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    assert (decoded(png_of(many)) == many).all()
    assert Image.open(io.BytesIO(png_of(many // 64 * 64))).mode == "P"


# In a notebook


def test_an_episode_shows_itself(played: Episode) -> None:
    shown = played._repr_html_()
    for fact in (played.episode_id, played.game, f"{len(played):,}", "human 100%", "Score"):
        assert fact in shown
    strip = re.search(r'src="data:image/png;base64,([^"]+)"', shown)
    assert strip is not None
    assert (decoded(base64.b64decode(strip[1])) == filmstrip(played)).all()
    assert "<polyline" in shown
    # A notebook that is passed on must not call anything.
    assert "<script" not in shown
    assert len(shown) < 200_000


def test_the_film_strip_is_the_frames(played: Episode) -> None:
    strip = filmstrip(played, count=3)
    for place, step in enumerate((0, round((len(played) - 1) / 2), len(played) - 1)):
        x = place * 168
        assert (strip[:210, x : x + 160] == raw_frame(played, step)).all()


def test_the_curve_ends_at_the_score(played: Episode) -> None:
    scores = Moments(played, played.agents[0]).scores
    curve = score_curve(played)
    points = re.search(r'points="([^"]+)"', curve)
    assert points is not None
    heights = [float(point.split(",")[1]) for point in points[1].split()]
    assert (heights[0], heights[-1]) == (126.0, 10.0)
    assert f">{scores[-1]:,.0f}<" in curve


def test_what_an_episode_says_is_escaped(lake: Lake) -> None:
    row = {**dict(lake.episodes("game = 'breakout'")[0].row), "task_id": "<img src=x onerror=alert(1)>"}
    shown = Episode(lake, row)._repr_html_()
    assert "<img src=x" not in shown
    assert "&lt;img src=x onerror=alert(1)&gt;" in shown


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_episode_shows_itself(odd: Lake, kind: str) -> None:
    episode = odd.episode(str(ODD.index(kind)))
    shown = episode._repr_html_()
    if kind == "frames of shape (4, 6, 6)":
        assert "no single picture" in shown
        return
    assert "data:image/png" in shown
    for agent in episode.agents:
        assert step_picture(episode, len(episode) - 1, agent).shape[2] == 3


def test_an_episode_without_a_trajectory_shows_its_metadata(lake: Lake) -> None:
    row = {**dict(lake.episodes("game = 'breakout'")[0].row), "n_steps": None, "agents": None}
    shown = Episode(lake, row)._repr_html_()
    assert "only its metadata is known" in shown
    assert "Score" in shown
    with pytest.raises(NoTrajectory):
        step_picture(Episode(lake, row), 0)


def test_a_damaged_screen_is_told_and_the_facts_stay(lake: Lake, played: Episode) -> None:
    shown = Episode(lake, {**dict(played.row), "palettes": [b"\0\0\0"]})._repr_html_()
    assert "a change log draws beyond its screen" in shown
    assert "human 100%" in shown


def test_odd_screens_have_heat_and_those_that_are_no_picture_have_none(odd: Lake) -> None:
    heats = heat_of(odd.episodes(), 100)
    assert sum(heat.episodes for heat in heats) == len(ODD) - 1
    assert (84, 84) in {heat.rate.shape for heat in heats}


# A step


@pytest.mark.parametrize("step", [0, 1, 7, -1])
def test_show_raw_is_the_frame_pixel_by_pixel(played: Episode, lake: Lake, tmp_path: Path, step: int) -> None:
    step %= len(played)
    file = tmp_path / "frame.png"
    told = run("show", lake.path, played.episode_id, "--step", step, "--raw", "--png", file)
    assert told.startswith(f"{file}: step {step:,} of {len(played):,}, space_invaders, 160 x 210 pixels")
    raw = played.get_raw_trajectory()[step]["prev_obs"][played.agents[0]]["image"]
    assert (decoded(file.read_bytes()) == raw).all()


def test_show_has_the_frame_and_its_observation(played: Episode, lake: Lake, tmp_path: Path) -> None:
    file = tmp_path / "step.png"
    step = len(played) // 2
    told = json.loads(run("show", lake.path, played.episode_id, "--step", step, "--png", file, "--output", "json"))
    pixels = decoded(file.read_bytes())
    assert (told["width"], told["height"]) == (pixels.shape[1], pixels.shape[0])
    assert (pixels[8:428:2, 8:328:2] == raw_frame(played, step)).all()
    stack = played.observations()[step]
    for place in range(4):
        x = 336 + place * 176
        assert (pixels[8:176:2, x : x + 168 : 2] == stack[..., place, None]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--step": 10**6}, "no step 1000000 in episode"),
        ({"--step": -1}, "it has steps 0 to"),
        ({"episode": "00"}, "no episode '00'"),
        ({"--agent": "bob"}, "did you mean 'game_0>player_0'"),
        ({"--png": "there/x.png"}, "no such folder"),
        ({"--png": "mine.png"}, "is there already"),
    ],
    ids=str,
)
def test_a_step_that_cannot_be_shown(
    played: Episode, lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.png").write_bytes(b"mine")
    options = {"--png": "x.png", **change}
    episode = options.pop("episode", played.episode_id)
    result = invoke("show", lake.path, episode, *(part for pair in options.items() for part in pair))
    assert isinstance(result.exception, CrowdPlayLakeError)
    assert message in str(result.exception)
    # Nothing half-written, nothing lost.
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("mine.png", b"mine")]


def test_a_frame_that_is_no_picture() -> None:
    from crowdplay_lake.pictures.drawing import rgb_of

    with pytest.raises(InvalidArgument, match="no single picture"):
        rgb_of(np.zeros((4, 84, 84), np.uint8))
