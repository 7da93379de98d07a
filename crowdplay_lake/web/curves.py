"""Curves under a film: a statistic, a RAM byte or a column of an episode's steps, as the points where it changes.

As everywhere beside a film, the value at step i is the one from before its action: that of row i-1. A reward is that
of the step itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from ..episode import Episode
from ..errors import CrowdPlayLakeError, InvalidArgument, UnknownStatistic
from ..lake import Lake
from ..schema import ALL_AGENTS, RAM_COLUMNS
from ..statistics.base import Statistic
from ..statistics.registry import registered
from .step_table import is_rollout

__all__ = ["available", "curves_of"]

# Points of a curve; of one that changes more often, this many stretches with their least and greatest values.
MOST_POINTS = 2_000
STRETCHES = 600
MOST_CURVES = 8
# Columns of `steps` that are curves as they are, and what they are.
_COLUMNS = {"lives": "lives left", "reward": "reward of a step"}
_NUMBERS = (pl.Duration, pl.Boolean)


def available(episode: Episode) -> list[dict[str, str]]:
    """The curves of an episode: name and what it is."""
    found = [{"name": name, "about": about} for name, about in _COLUMNS.items()]
    for name, one in registered().items():
        if isinstance(one, Statistic) and _is_drawn(one) and (one.games is None or episode.game in one.games):
            found.append({"name": name, "about": one.definition})
    return found


def _is_drawn(statistic: Statistic) -> bool:
    return bool(statistic.dtype.is_numeric() or statistic.dtype in _NUMBERS)


def curves_of(lake: Lake, episode: Episode, names: Sequence[str]) -> list[dict[str, Any]]:
    """For each name the curves of all agents. A statistic that fails says why; the others are drawn.

    Raises UnknownStatistic with the nearest names, InvalidArgument, NoTrajectory.
    """
    if len(names) > MOST_CURVES:
        raise InvalidArgument(f"{len(names)} curves are more than fit; choose at most {MOST_CURVES}")
    known = [*(curve["name"] for curve in available(episode)), *RAM_COLUMNS]
    for name in names:
        if name not in known:
            raise UnknownStatistic(name, known)
    return [{"name": name, **_curve(lake, episode, name)} for name in names]


def _curve(lake: Lake, episode: Episode, name: str) -> dict[str, Any]:
    try:
        if name in _COLUMNS or name in RAM_COLUMNS:
            values = {agent: _column(episode, agent, name) for agent in episode.agents}
        else:
            values = _statistic(lake, episode, name)
    except CrowdPlayLakeError as error:
        return {"error": str(error), "agents": {}}
    # A row tells of after its step; in a roll-out of before it. A reward is shown at its own step.
    shift = (0 if is_rollout(episode) else 1) - (name == "reward")
    return {"agents": {agent: _points(found, shift, len(episode)) for agent, found in values.items()}}


def _column(episode: Episode, agent: str, name: str) -> npt.NDArray[np.float64]:
    column = episode.steps(agent, (name,))[name].cast("float64")
    return column.fill_null(float("nan")).to_numpy()  # type: ignore[no-any-return]


def _statistic(lake: Lake, episode: Episode, name: str) -> dict[str, npt.NDArray[np.float64]]:
    frame = lake.statistic(name, [episode]).collect()
    value = frame["value"]
    if value.dtype == pl.Duration:
        frame = frame.with_columns(pl.col("value").dt.total_microseconds() / 1e6)
    order = [*episode.agents, ALL_AGENTS]
    by_agent = frame.partition_by("agent_id", as_dict=True)
    found = {str(agent): rows.sort("step")["value"].cast(pl.Float64).to_numpy() for (agent,), rows in by_agent.items()}
    return {agent: found[agent] for agent in order if agent in found}


def _points(values: npt.NDArray[np.float64], shift: int, n_steps: int) -> dict[str, Any]:
    """``steps`` and ``values`` of a staircase; ``exact``: whether every change is in it."""
    if not len(values):
        return {"steps": [], "values": [], "exact": True}
    # NaN is never equal, and a run of NaN is no change.
    same = (values[1:] == values[:-1]) | (np.isnan(values[1:]) & np.isnan(values[:-1]))
    at = np.concatenate([[0], np.flatnonzero(~same) + 1])
    exact = len(at) <= MOST_POINTS
    if not exact:
        at = _extremes(values)
    steps = at + shift
    inside = (steps >= 0) & (steps < n_steps)
    chosen = values[at[inside]]
    listed = [None if np.isnan(value) else float(value) for value in chosen]
    return {"steps": steps[inside].tolist(), "values": listed, "exact": exact}


def _extremes(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Rows of the least and the greatest value of each stretch, and of its first."""
    edges = np.linspace(0, len(values), STRETCHES + 1).astype(np.int64)
    chosen = {0}
    for start, stop in itertools.pairwise(edges):
        stretch = values[start:stop]
        if len(stretch) and not np.isnan(stretch).all():
            chosen |= {int(start), int(start + np.nanargmin(stretch)), int(start + np.nanargmax(stretch))}
    return np.array(sorted(chosen), np.int64)
