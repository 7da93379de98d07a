"""Charts of a lake: of the numbers that are in it, with every bar and panel there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from crowdplay_lake import Lake
from crowdplay_lake.cli.app import whole_app
from crowdplay_lake.errors import CrowdPlayLakeError
from crowdplay_lake.pictures.heat import changes_of, heat_of

pytest.importorskip("ale_py")
pytest.importorskip("matplotlib")
from crowdplay_lake.pictures import charts

CHARTS = ["hours", "scores", "timeline", "heatmap"]


def invoke(*arguments: object) -> Any:
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(whole_app(), list(map(str, arguments)))


def drawn(lake: Lake, kind: str, where: str | None = None) -> tuple[Any, tuple[int, int]]:
    """The figure before it becomes a picture."""
    from matplotlib.figure import Figure

    figure = Figure()
    return figure, charts.KINDS[kind](charts._Selection(lake, where, 100, None), figure)


@pytest.mark.parametrize("kind", CHARTS)
@pytest.mark.parametrize("where", [None, "game = 'breakout' -- of $10 and $20"])
def test_the_command_draws_it(lake: Lake, tmp_path: Path, kind: str, where: str | None) -> None:
    file = tmp_path / "chart.png"
    options: Sequence[str] = [] if where is None else ["--where", where]
    result = invoke("plot", lake.path, kind, "--png", file, "--output", "json", *options)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    chosen = [e for e in lake.episodes(where) if e.has_trajectory]
    assert told == {"file": str(file), "chart": kind, "episodes": len(chosen), "left_out": 0}
    with Image.open(file) as image:
        assert image.format == "PNG"
        assert min(image.size) > 200
        # Something is on it.
        assert len(np.unique(np.asarray(image.convert("L")))) > 20
    assert [f.name for f in tmp_path.iterdir()] == ["chart.png"]


def test_a_bar_is_the_minutes_of_its_task(lake: Lake) -> None:
    figure, _ = drawn(lake, "hours")
    (axes,) = figure.axes
    expected: dict[str, float] = {}
    for episode in lake.episodes():
        task = str(episode.row["task_id"])
        expected[task] = expected.get(task, 0) + len(episode) / 3600
    bars = dict(zip([label.get_text() for label in axes.get_yticklabels()], axes.patches, strict=True))
    assert {task: bar.get_width() for task, bar in bars.items()} == pytest.approx(expected)
    assert axes.get_xlabel().startswith("minutes")


def test_a_dot_is_the_score_of_an_agent(lake: Lake) -> None:
    figure, _ = drawn(lake, "scores", "game = 'space_invaders'")
    (axes,) = figure.axes
    dots = sorted(x for points in axes.collections for x in points.get_offsets()[:, 0].tolist())
    scores = lake.sql("SELECT score FROM episode_agents WHERE game = 'space_invaders' ORDER BY score").fetchall()
    assert dots == [score for (score,) in scores]


def test_the_days_hold_all_that_was_recorded(lake: Lake) -> None:
    figure, (episodes, _) = drawn(lake, "timeline")
    (axes,) = figure.axes
    assert sum(bar.get_height() for bar in axes.patches) == pytest.approx(sum(map(len, lake.episodes())) / 3600)
    assert episodes == len(lake.episodes())


def test_changes_are_those_between_frames(lake: Lake) -> None:
    """Of episodes with several keyframes, and of every screen."""
    for episode in lake.episodes("game = 'riverraid' OR game = 'space_invaders_2p'"):
        for agent in episode.agents:
            frames = episode.frames(agent)
            counts = (frames[1:] != frames[:-1]).any(axis=-1).sum(axis=0)
            assert counts.sum() > 0
            assert (changes_of(episode, agent).reshape(210, 160) == counts).all()


def test_a_heat_map_of_some_says_of_how_many(lake: Lake) -> None:
    episodes = lake.episodes("game = 'breakout'")
    told: list[tuple[str, int, int]] = []
    (heat,) = heat_of(episodes, 2, lambda *progress: told.append(progress))
    assert (heat.episodes, heat.of) == (2, len(episodes))
    assert told == [("episodes", 1, 2), ("episodes", 2, 2)]
    counts = changes_of(episodes[0]) + changes_of(episodes[-1])
    assert (heat.rate.ravel() == counts / heat.seconds).all()
    assert f"2 of {len(episodes)} episodes" in charts._title_of(heat)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--where": "game = 'pong'"}, "nothing to draw"),
        ({"--where": "scoer > 1"}, "did you mean 'score'"),
        ({"--where": "1 = 1) OR (1 = 1"}, None),
        ({"--where": "true); DROP TABLE episodes; --"}, ""),
        ({"--png": "there/x.png"}, "no such folder"),
        ({"--png": "mine.png"}, "is there already"),
    ],
    ids=str,
)
def test_a_chart_that_cannot_be(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], message: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.png").write_bytes(b"mine")
    options = {"--png": "x.png", **change}
    result = invoke("plot", lake.path, "hours", *(part for pair in options.items() for part in pair))
    if message is None:
        assert result.exit_code == 0
        return
    assert isinstance(result.exception, CrowdPlayLakeError), result.output
    assert message in str(result.exception)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("mine.png", b"mine")]


def test_another_chart_is_a_wrong_call(lake: Lake, tmp_path: Path) -> None:
    result = invoke("plot", lake.path, "pie", "--png", tmp_path / "x.png")
    assert result.exit_code == 2
    assert "Traceback" not in result.output
