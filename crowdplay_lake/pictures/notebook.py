"""An episode as HTML, for a notebook: facts, a film strip, the curve of its score. Everything in it is escaped."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from ..errors import CrowdPlayLakeError, printable
from .drawing import BACKGROUND, GAP, TEXT, font, png_of, rgb_of
from .facts import PLAYERS, Moments, clock, known_rewards, steps_per_second

if TYPE_CHECKING:
    from ..episode import Episode

__all__ = ["as_html", "filmstrip", "score_curve"]

FRAMES = 8
CAPTION = 16
# Of keyword data; an episode can carry any number of keys, and a value any length.
MOST_KEYS = 40
LONGEST_VALUE = 200
# More than a curve of this width can show.
MOST_POINTS = 800
WIDTH, HEIGHT = 720, 150
LEFT, BOTTOM, TOP = 56, 24, 10
COLORS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd")


def as_html(episode: Episode) -> str:
    """The episode as HTML of its own: no script, no reference to anything outside it."""
    parts = [f"<h4>{_text(f'{episode.game}: episode {episode.episode_id}')}</h4>", _table(_facts(episode))]
    if episode.has_trajectory and episode.agents:
        try:
            strip = base64.b64encode(png_of(filmstrip(episode))).decode()
            parts += [
                f'<img alt="frames" style="max-width:100%" src="data:image/png;base64,{strip}">',
                f"<div>{score_curve(episode)}</div>",
            ]
        except (CrowdPlayLakeError, OSError) as error:
            # The facts are still worth seeing, and a notebook would show nothing at all.
            parts.append(f"<p>{_text(error)}</p>")
    parts.append(_keywords(episode.keyword_data))
    return f"<div>{''.join(parts)}</div>"


def _text(value: object) -> str:
    return html.escape(printable(str(value), longest=LONGEST_VALUE))


def _table(rows: Iterable[tuple[str, object]]) -> str:
    cells = (
        f'<tr><th style="text-align:left">{_text(name)}</th><td style="text-align:left">{_text(value)}</td></tr>'
        for name, value in rows
    )
    return f"<table>{''.join(cells)}</table>"


def _facts(episode: Episode) -> list[tuple[str, object]]:
    row = episode.row
    rows = [
        ("task", row["task_id"] or row["task"]),
        ("recorded", row["created_on"] and f"{row['created_on']:%Y-%m-%d %H:%M}"),
        ("source", row["source"]),
    ]
    if not episode.has_trajectory:
        return [*_known(rows), ("steps", "not in the lake: only its metadata is known")]
    rows.append(("steps", f"{len(episode):,}, {clock(len(episode) / steps_per_second(episode))} of play"))
    rows += [(agent, _course(episode, agent)) for agent in episode.agents]
    return _known(rows)


def _known(rows: Iterable[tuple[str, Any]]) -> list[tuple[str, object]]:
    return [(name, value) for name, value in rows if value]


def _course(episode: Episode, agent: str) -> str:
    """Who played, what came of it, and how it ended."""
    rows = episode.steps(agent, ("reward", "user_type"))
    types = rows["user_type"].to_pylist()
    who = [f"{PLAYERS[kind]} {types.count(kind) / len(types):.0%}" for kind in PLAYERS if kind in types]
    score = float(known_rewards(rows["reward"].to_pylist()).sum())
    done, at_limit = episode.first_done(agent)
    end = "stopped" if done is None else "cut at the frame limit" if at_limit else f"game over at step {done:,}"
    return "; ".join([f"score {score:,.10g}", *who, end])


def _keywords(data: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [(f"{agent}: {key}", _value(value)) for agent, own in data.items() for key, value in own.items()]
    if not rows:
        return ""
    left_out = [("…", f"and {len(rows) - MOST_KEYS} more")] if len(rows) > MOST_KEYS else []
    return f"<details><summary>keyword data</summary>{_table([*rows[:MOST_KEYS], *left_out])}</details>"


def _value(value: Any) -> str:
    if isinstance(value, timedelta):
        return str(value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def filmstrip(episode: Episode, count: int = FRAMES, agent: str | None = None) -> npt.NDArray[np.uint8]:
    """``count`` frames from the first to the last one, evenly spaced, with their times: RGB, uint8 (h, w, 3)."""
    agent = agent or episode.agents[0]
    steps = np.unique(np.linspace(0, len(episode) - 1, count).round().astype(int)).tolist()
    frames = [rgb_of(episode.frames(agent, step, step + 1)[0]) for step in steps]
    height, width = frames[0].shape[:2]
    whole = Image.new("RGB", (len(frames) * (width + GAP) - GAP, height + CAPTION), BACKGROUND)
    draw = ImageDraw.Draw(whole)
    # Without shades, the strip keeps to a palette, which is a third of the bytes.
    draw.fontmode = "1"
    for place, (step, frame) in enumerate(zip(steps, frames, strict=True)):
        x = place * (width + GAP)
        whole.paste(Image.fromarray(frame), (x, 0))
        draw.text((x + 2, height + 1), clock(step / steps_per_second(episode)), fill=TEXT, font=font(12))
    return np.asarray(whole)


def score_curve(episode: Episode) -> str:
    """The score of each agent over time, as an SVG element; it takes the notebook's text colour."""
    curves = {agent: Moments(episode, agent).scores for agent in episode.agents}
    low = min(0.0, *(float(scores.min()) for scores in curves.values()))
    high = max(1.0, *(float(scores.max()) for scores in curves.values()))
    n, rate = len(episode), steps_per_second(episode)

    def x_of(step: float) -> float:
        return LEFT + (WIDTH - LEFT - 10) * step / max(1, n - 1)

    def y_of(score: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (score - low) / (high - low)

    def label(x: float, y: float, text: str, anchor: str) -> str:
        return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" fill="currentColor">{_text(text)}</text>'

    parts = [
        f'<line x1="{LEFT}" x2="{WIDTH - 10}" y1="{y_of(low):.1f}" y2="{y_of(low):.1f}" stroke="currentColor"/>',
        label(LEFT - 6, y_of(low), f"{low:,.0f}", "end"),
        label(LEFT - 6, y_of(high) + 8, f"{high:,.0f}", "end"),
        label(LEFT, HEIGHT - 6, "0:00.0", "start"),
        label(WIDTH - 10, HEIGHT - 6, clock((n - 1) / rate), "end"),
        label(WIDTH / 2, HEIGHT - 6, "score over time", "middle"),
    ]
    for number, (agent, scores) in enumerate(curves.items()):
        color = COLORS[number % len(COLORS)]
        points = " ".join(f"{x_of(step):.1f},{y_of(scores[step]):.1f}" for step in _corners(scores))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>')
        if len(curves) > 1:
            parts.append(f'<text x="{LEFT + 8}" y="{TOP + 12 + 14 * number}" fill="{color}">{_text(agent)}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-size="12" font-family="sans-serif" style="max-width:100%">{"".join(parts)}</svg>'
    )


def _corners(scores: npt.NDArray[np.float64]) -> list[int]:
    """The steps a line has to go through to show a curve of steps: before and at each change; fewer where too many."""
    changes = np.flatnonzero(np.diff(scores))
    corners = np.unique(np.concatenate([[0], changes, changes + 1, [len(scores) - 1]]))
    if len(corners) > MOST_POINTS:
        corners = corners[np.linspace(0, len(corners) - 1, MOST_POINTS).round().astype(int)]
    return [int(step) for step in corners]
