"""What is learned: CrowdPlay's tasks, whose episodes count as done well, and how people did at them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from ...episode import DEFAULT_AGENT
from ...errors import InvalidArgument, UnknownTask
from ...lake import Episodes, Lake

__all__ = [
    "AGENT_SOURCE",
    "TASKS",
    "Adherence",
    "Demonstrations",
    "Filter",
    "Human",
    "Task",
    "demonstrations",
    "task_named",
]

#: `source` of the environments that an agent's roll-outs are recorded under. Nobody learns from those unasked.
AGENT_SOURCE = "agent"

SCORE = "Score"


@dataclass(frozen=True)
class Adherence:
    """How well somebody kept to a task, 0 to 1: as CrowdPlay recorded it, and how it is measured of an agent."""

    key: str  # of keyword data
    statistic: str


@dataclass(frozen=True)
class Task:
    """One of CrowdPlay's task ids, and the game it is played in."""

    task_id: str
    game: str
    adherence: Adherence | None = None


def _in_order(order: str) -> Task:
    return Task(f"space_invaders_{order}", "space_invaders", Adherence("Correct aliens shot (fraction)", order))


def _on_side(game: str, side: str) -> Task:
    return Task(f"{game}_{side}", game, Adherence(f"Time spent on {side} side of screen (fraction)", side))


#: CrowdPlay's eleven, then two that it recorded and did not train on.
TASKS: Mapping[str, Task] = {
    task.task_id: task
    for task in (
        _on_side("space_invaders", "left"),
        _on_side("space_invaders", "right"),
        _in_order("insideout"),
        _in_order("outsidein"),
        _in_order("rowbyrow"),
        Task("space_invaders_mturk", "space_invaders"),
        _on_side("riverraid", "left"),
        _on_side("riverraid", "right"),
        Task("riverraid_mturk", "riverraid"),
        Task("qbert_mturk", "qbert"),
        Task("beam_rider_mturk", "beam_rider"),
        Task("breakout_mturk", "breakout"),
        Task("montezuma_revenge_mturk", "montezuma_revenge"),
    )
}


def task_named(task_id: str) -> Task:
    """The task of that id. Raises UnknownTask with the nearest."""
    if task_id not in TASKS:
        raise UnknownTask(task_id, TASKS, "the benchmark")
    return TASKS[task_id]


@dataclass(frozen=True)
class Filter:
    """Which episodes of a task are worth learning from. CrowdPlay's, by default.

    ``where``: a further condition over `episode_agents`.
    """

    least_score: float = 50.0
    least_adherence: float = 0.8
    where: str | None = None


@dataclass(frozen=True)
class Human:
    """How people did: over the episodes that are learned from."""

    episodes: int
    mean: float
    median: float
    std: float
    best: float
    adherence: float | None  # its mean; None for a task without


@dataclass(frozen=True)
class Demonstrations:
    """The episodes of a task that passed the filter, and how people did in them."""

    task: Task
    episodes: Episodes
    human: Human


def demonstrations(lake: Lake, task: Task, chosen: Filter | None = None) -> Demonstrations:
    """People's episodes of ``task`` that pass the filter. An agent's roll-outs are none.

    Raises InvalidArgument where none is left, with how many each condition left.
    """
    chosen = chosen or Filter()
    rows = _rows(lake, task)
    left = [("of it that people played", rows)]
    if chosen.where is not None:
        left.append((f"where {chosen.where}", rows.filter(pl.col("episode_id").is_in(lake.episodes(chosen.where).ids))))
    left.append((f"with {SCORE} >= {chosen.least_score:g}", left[-1][1].filter(pl.col("score") >= chosen.least_score)))
    if task.adherence is not None:
        least = pl.col("adherence") >= chosen.least_adherence
        left.append((f"with {task.adherence.key!r} >= {chosen.least_adherence:g}", left[-1][1].filter(least)))
    found = left[-1][1]
    if found.is_empty():
        funnel = ", ".join(f"{len(frame)} {what}" for what, frame in left)
        raise InvalidArgument(f"no episodes to learn {task.task_id} from: {funnel}{_hint(task, rows)}")
    episodes = lake.episodes("list_contains(?, episode_id)", [found["episode_id"].to_list()])
    return Demonstrations(task, episodes, _human(task, found))


def _rows(lake: Lake, task: Task) -> pl.DataFrame:
    """(episode_id, score, adherence) of the task's episodes that have a trajectory, as far as they are known."""
    key = None if task.adherence is None else task.adherence.key
    return lake.sql(
        """
        SELECT e.episode_id, s.value_double AS score, a.value_double AS adherence FROM episodes e
        LEFT JOIN keyword_data s ON s.episode_id = e.episode_id AND s.agent_id = $agent AND s.key = $score
        LEFT JOIN keyword_data a ON a.episode_id = e.episode_id AND a.agent_id = $agent AND a.key = $key
        WHERE e.task_id = $task AND e.source IS DISTINCT FROM $source AND e.n_steps IS NOT NULL
        ORDER BY e.episode_id
        """,
        {"agent": DEFAULT_AGENT, "score": SCORE, "key": key, "task": task.task_id, "source": AGENT_SOURCE},
    ).pl()


def _hint(task: Task, rows: pl.DataFrame) -> str:
    """How to get what is missing in all of ``rows``."""
    if rows.is_empty():
        return ""
    where = f"--where \"task_id = '{task.task_id}'\""
    if rows["score"].is_null().all():
        return f"; no {SCORE} is stored: crowdplay-lake annotate LAKE score {where}"
    if task.adherence is not None and rows["adherence"].is_null().all():
        name, key = task.adherence.statistic, task.adherence.key
        return f"; no {key!r} is stored: crowdplay-lake annotate LAKE {name} --key {key!r} {where}"
    return ""


def _human(task: Task, found: pl.DataFrame) -> Human:
    scores = found["score"].to_numpy()
    return Human(
        episodes=len(scores),
        mean=float(scores.mean()),
        median=float(np.median(scores)),
        std=float(scores.std()),
        best=float(scores.max()),
        adherence=None if task.adherence is None else float(found["adherence"].to_numpy().mean()),
    )
