"""Charts of a lake: hours per task, scores per task, when it was recorded, where screens change.

Each has a title, labels and units, and draws one selection of episodes; an empty one is an error, not an empty picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InvalidArgument, MissingExtra
from ..target import check_target, written_whole
from .heat import Heat, heat_of

if TYPE_CHECKING:
    from ..lake import Lake

__all__ = ["KINDS", "ChartSummary", "plot"]

Progress = Callable[[str, int, int], None]

DPI = 110
# Seconds of play in a row of `steps`: a frame, of an AI roll-out a decision.
_SECONDS = "n_steps * CASE variant WHEN 'rollout' THEN 4 ELSE 1 END / 60.0"
# More dots than that are a smear.
MOST_DOTS = 300
# Days in a bar, from the finest that keeps the bars apart.
BINS = (1, 7, 30, 91, 365)
MOST_BARS = 90


@dataclass(frozen=True, slots=True)
class ChartSummary:
    """What was drawn."""

    path: Path
    kind: str
    episodes: int
    # Without a date, on a timeline; of a heat map those beyond what was asked for, and frames that are no picture.
    left_out: int


@dataclass(frozen=True)
class _Selection:
    """The episodes that a chart is of: an SQL condition over `episodes`, and its title."""

    lake: Lake
    where: str | None
    most_episodes: int
    progress: Progress | None

    @property
    def condition(self) -> str:
        if self.where is None:
            return "n_steps > 0"
        # The line breaks end a comment in `where`.
        chosen = f"SELECT episode_id FROM episode_agents WHERE (\n{self.where}\n)"
        return f"n_steps > 0 AND episode_id IN ({chosen})"

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Of a query with the condition in the place of {chosen}."""
        return self.lake.sql(query.format(chosen=self.condition)).fetchall()

    def title(self, what: str) -> str:
        return what if self.where is None else f"{what}\nwhere {_short(self.where)}"


def _short(text: str) -> str:
    flat = " ".join(text.split())
    # A $ would begin a formula.
    return (flat if len(flat) <= 90 else f"{flat[:90]}…").replace("$", r"\$")


def plot(
    lake: Lake,
    kind: str,
    path: str | Path,
    where: str | None = None,
    most_episodes: int = 100,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ChartSummary:
    """Draw a chart as PNG: 'hours', 'scores', 'timeline' or 'heatmap', of the episodes that satisfy ``where``.

    ``where``: an SQL condition over `episode_agents`, as in `Lake.episodes`. A heat map looks at ``most_episodes`` of a
    game at most, evenly chosen, and says so; its ``progress`` is called with ('episodes', done, total).

    Raises InvalidArgument for another kind, an empty selection or a target that cannot be; MissingExtra without
    matplotlib; what `Lake.sql` raises for a condition that is wrong.
    """
    if kind not in KINDS:
        raise InvalidArgument(f"no chart {kind!r}; there are {', '.join(KINDS)}")
    require_matplotlib()
    target = check_target(path, is_folder=False, overwrite=overwrite)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # A figure of its own, and none of pyplot's: nothing is shown, and nobody else's settings change.
    figure = Figure(layout="constrained")
    FigureCanvasAgg(figure)
    episodes, left_out = KINDS[kind](_Selection(lake, where, most_episodes, progress), figure)
    with written_whole(target) as unfinished:
        figure.savefig(unfinished, format="png", dpi=DPI)
    return ChartSummary(Path(path), kind, episodes, left_out)


def require_matplotlib() -> None:
    """Raises MissingExtra."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingExtra("matplotlib", "plot") from error


def _require(rows: Sequence[Any]) -> None:
    if not rows:
        raise InvalidArgument("no episodes with a trajectory in the selection: nothing to draw")


def _colors(games: Sequence[str]) -> Mapping[str, Any]:
    from matplotlib import colormaps

    return {game: colormaps["tab10"](number % 10) for number, game in enumerate(sorted(set(games)))}


def _unit(longest_seconds: float) -> tuple[str, float]:
    return ("hours", 3600.0) if longest_seconds >= 3600 else ("minutes", 60.0)


def _hours(selection: _Selection, figure: Any) -> tuple[int, int]:
    """A bar a task, in the colour of its game."""
    rows = selection.rows(
        f"""SELECT game, coalesce(task_id, 'unknown'), sum({_SECONDS}), count(*) FROM episodes WHERE {{chosen}}
            GROUP BY ALL ORDER BY 1, 3 DESC"""
    )
    _require(rows)
    figure.set_size_inches(9, 1.6 + 0.28 * len(rows))
    axes = figure.add_subplot()
    unit, seconds = _unit(max(row[2] for row in rows))
    colors = _colors([row[0] for row in rows])
    places = range(len(rows))
    bars = axes.barh(places, [row[2] / seconds for row in rows], color=[colors[row[0]] for row in rows])
    axes.bar_label(bars, [f"{row[2] / seconds:,.1f}  ({row[3]:,})" for row in rows], padding=4, fontsize="small")
    axes.set_yticks(places, [row[1] for row in rows], fontsize="small")
    axes.invert_yaxis()
    axes.margins(x=0.14, y=0.01)
    axes.set_xlabel(f"{unit} of play; in brackets the number of episodes")
    total, episodes = sum(row[2] for row in rows), sum(row[3] for row in rows)
    axes.set_title(
        selection.title(f"{unit.capitalize()} of play per task: {total / seconds:,.1f} of {episodes:,} episodes")
    )
    _legend(figure, colors)
    _plain(axes, "x")
    return episodes, 0


def _scores(selection: _Selection, figure: Any) -> tuple[int, int]:
    """A panel a game, a box a task: the middle half of the scores, the median, and each score as a dot."""
    rows = selection.rows(
        """SELECT e.game, coalesce(e.task_id, 'unknown'), list(s.score ORDER BY s.score), count(DISTINCT s.episode_id)
           FROM (SELECT * FROM episodes WHERE {chosen}) AS e
           JOIN (SELECT episode_id, agent_id, sum(CASE WHEN isfinite(reward) THEN reward ELSE 0 END) AS score
                 FROM steps GROUP BY ALL) AS s USING (episode_id)
           GROUP BY ALL ORDER BY 1, 2"""
    )
    _require(rows)
    games = sorted({row[0] for row in rows})
    own = {game: [row for row in rows if row[0] == game] for game in games}
    heights = [0.75 + 0.45 * len(own[game]) for game in games]
    figure.set_size_inches(9, 0.8 + sum(heights))
    panels = figure.subplots(len(games), 1, squeeze=False, height_ratios=heights)[:, 0]
    colors = _colors(games)
    jitter = np.random.default_rng(0)
    for axes, game in zip(panels, games, strict=True):
        scores = [row[2] for row in own[game]]
        places = range(len(scores))
        ink = {"color": "0.25", "linewidth": 1}
        axes.boxplot(
            scores, positions=list(places), orientation="horizontal", widths=0.6, showfliers=False,
            patch_artist=True, boxprops={"facecolor": (*colors[game][:3], 0.35), "edgecolor": "0.25"},
            medianprops={"color": "black", "linewidth": 2}, whiskerprops=ink, capprops=ink,
        )  # fmt: skip
        for place, values in enumerate(scores):
            if len(values) <= MOST_DOTS:
                axes.scatter(
                    values, place + jitter.uniform(-0.15, 0.15, len(values)), s=9, color=colors[game], zorder=3
                )
        axes.set_yticks(places, [f"{row[1]} (n = {len(row[2]):,})" for row in own[game]], fontsize="small")
        axes.invert_yaxis()
        axes.set_title(game, fontsize="medium", loc="left")
        low, high = min(map(min, scores)), max(map(max, scores))
        # From 0, as scores count; no axis of nothing where all are 0.
        axes.set_xlim(*_widened(min(low, 0), max(high, 0)))
        _plain(axes, "x")
    panels[-1].set_xlabel("score of an agent in an episode, points")
    episodes = sum(row[3] for row in rows)
    figure.suptitle(
        selection.title(
            f"Scores per task, {episodes:,} episodes: the box holds the middle half, the line is the median"
        )
    )
    return episodes, 0


def _widened(low: float, high: float) -> tuple[float, float]:
    """Both ends with room beyond them."""
    margin = 0.03 * ((high - low) or 1.0)
    return low - margin, (high if high > low else low + 1.0) + margin


def _timeline(selection: _Selection, figure: Any) -> tuple[int, int]:
    """A bar a day, or a longer time where there are too many, with its games upon each other."""
    rows = selection.rows(
        f"""SELECT game, created_on::DATE, sum({_SECONDS}), count(*) FROM episodes WHERE {{chosen}}
            GROUP BY ALL ORDER BY 1, 2"""
    )
    _require(rows)
    dated = [row for row in rows if row[1] is not None]
    if not dated:
        raise InvalidArgument("none of these episodes says when it was recorded (created_on): there is no timeline")
    first, last = min(row[1] for row in dated), max(row[1] for row in dated)
    days = next((size for size in BINS if (last - first).days // size < MOST_BARS), BINS[-1])
    bars = [first + timedelta(days=days * number) for number in range((last - first).days // days + 1)]
    colors = _colors([row[0] for row in dated])
    amounts = {game: np.zeros(len(bars)) for game in colors}
    for game, day, seconds, _ in dated:
        amounts[game][(day - first).days // days] += seconds
    unit, size = _unit(float(np.sum(list(amounts.values()), axis=0).max()))
    figure.set_size_inches(9, 4)
    axes = figure.add_subplot()
    below = np.zeros(len(bars))
    middle = [bar + timedelta(days=days - 1) / 2 for bar in bars]
    for game, amount in amounts.items():
        axes.bar(middle, amount / size, width=0.85 * days, bottom=below, color=colors[game], label=game)
        below += amount / size
    axes.set_ylim(0, 1.05 * float(below.max()))
    _dates(axes, first, last)
    axes.set_ylabel(f"{unit} of play")
    axes.set_xlabel("day of the recording" if days == 1 else f"day of the recording, {days} days a bar")
    episodes, left_out = sum(row[3] for row in dated), sum(row[3] for row in rows if row[1] is None)
    undated = f"; {left_out:,} without a date are left out" if left_out else ""
    axes.set_title(selection.title(f"When it was recorded: {episodes:,} episodes{undated}"))
    _legend(figure, colors)
    _plain(axes, "y")
    return episodes, left_out


def _dates(axes: Any, first: date, last: date) -> None:
    from matplotlib import dates

    library: Any = dates
    locator = library.AutoDateLocator(minticks=1, maxticks=9)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(library.ConciseDateFormatter(locator))
    axes.set_xlim(first - timedelta(days=2), last + timedelta(days=2))


def _heatmap(selection: _Selection, figure: Any) -> tuple[int, int]:
    """A panel a game: how often each pixel changes."""
    from matplotlib.colors import LogNorm

    episodes = [e for e in selection.lake.episodes(selection.where) if e.has_trajectory and len(e) and e.agents]
    _require(episodes)
    heats = heat_of(episodes, selection.most_episodes, selection.progress)
    _require(heats)
    columns = min(4, len(heats))
    lines = -(-len(heats) // columns)
    figure.set_size_inches(max(4.5, 2.6 * columns + 1), 3.4 * lines + 0.8)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    top = max(float(heat.rate.max()) for heat in heats) or 1.0
    norm = LogNorm(max(top / 1_000, 1e-3), max(top, 1e-2))
    for axes, heat in zip(panels, heats, strict=False):
        image = axes.imshow(np.maximum(heat.rate, 1e-9), norm=norm, cmap="inferno", interpolation="nearest")
        axes.set_title(_title_of(heat), fontsize="small")
        axes.tick_params(labelsize="x-small")
    for axes in panels[len(heats) :]:
        axes.set_visible(False)
    for number, axes in enumerate(panels[: len(heats)]):
        if number % columns == 0:
            axes.set_ylabel("pixel row", fontsize="small")
        if number + columns >= len(heats):
            axes.set_xlabel("pixel column", fontsize="small")
    figure.colorbar(image, ax=panels.tolist(), label="changes of a pixel per second of play", shrink=0.8)
    figure.suptitle(selection.title("Where the screen changes"))
    drawn = sum(heat.episodes for heat in heats)
    return drawn, len(episodes) - drawn


def _title_of(heat: Heat) -> str:
    number = f"{heat.episodes:,}" if heat.episodes == heat.of else f"{heat.episodes:,} of {heat.of:,}"
    return f"{heat.game}\n{number} episode{'s' * (heat.of != 1)}, {heat.seconds / 60:,.1f} min"


def _legend(figure: Any, colors: Mapping[str, Any]) -> None:
    """Which colour is which game, beside the chart and not over it."""
    from matplotlib.patches import Patch

    patches = [Patch(color=color) for color in colors.values()]
    figure.legend(patches, list(colors), fontsize="small", loc="outside right upper")


def _plain(axes: Any, grid: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, alpha=0.3)
    axes.set_axisbelow(True)


KINDS: Mapping[str, Callable[[_Selection, Any], tuple[int, int]]] = {
    "hours": _hours,
    "scores": _scores,
    "timeline": _timeline,
    "heatmap": _heatmap,
}
