"""What is measured of episodes that an agent played: scores, and how well it kept to its task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from ...episode import DEFAULT_AGENT
from ...errors import InvalidArgument
from ...schema import RAM_COLUMNS
from ...statistics.base import Statistic
from ...statistics.compute import values_of_steps
from ...statistics.registry import find
from .playing import Played
from .tasks import Task

__all__ = ["Measured", "adherence", "measure", "steps_of"]


@dataclass(frozen=True)
class Measured:
    """Over some episodes. ``cut_off``: how many of them did not end by themselves."""

    episodes: int
    mean: float
    median: float
    std: float
    best: float
    adherence: float | None  # its mean; None for a task without
    cut_off: int
    steps: int
    scores: tuple[int, ...]

    @property
    def standard_error(self) -> float:
        """Of the mean score; NaN for one episode."""
        return float(np.std(self.scores, ddof=1) / np.sqrt(self.episodes)) if self.episodes > 1 else float("nan")


def measure(played: Sequence[Played], task: Task) -> Measured:
    """Scores and adherence of what was played of ``task``."""
    scores = np.array([one.score for one in played], np.float64)
    kept_to = [value for value in adherence(played, task) if value is not None]
    return Measured(
        episodes=len(played),
        mean=float(scores.mean()),
        median=float(np.median(scores)),
        std=float(scores.std()),
        best=float(scores.max()),
        adherence=float(np.mean(kept_to)) if kept_to else None,
        cut_off=sum(not one.terminal for one in played),
        steps=sum(map(len, played)),
        scores=tuple(one.score for one in played),
    )


def adherence(played: Sequence[Played], task: Task) -> list[float | None]:
    """Of each episode the task's behavioural statistic, as `annotate` would store it; None for a task without."""
    if task.adherence is None:
        return [None] * len(played)
    statistic = find(task.adherence.statistic)
    steps = steps_of(played, task.game, statistic)
    values = values_of_steps(statistic, steps, statistic.dtype_for([]))
    found = {result.episode_id: float(result.value) for result in statistic.results(steps, values)}
    return [found.get(_name(number)) for number in range(len(played))]


def steps_of(played: Sequence[Played], game: str, statistic: Statistic) -> pl.DataFrame:
    """The columns of `steps` that ``statistic`` reads, of episodes that were played and are in no lake."""
    lengths = list(map(len, played))
    known: dict[str, pl.Series] = {
        "episode_id": pl.Series(np.repeat([_name(number) for number in range(len(played))], lengths), dtype=pl.String),
        "agent_id": pl.repeat(DEFAULT_AGENT, sum(lengths), eager=True),
        "step": pl.Series(np.concatenate([np.arange(n, dtype=np.int32) for n in lengths])),
        "game": pl.repeat(game, sum(lengths), eager=True),
        "reward": pl.Series(np.concatenate([one.rewards for one in played]).astype(np.float64)),
        "action": pl.Series(np.concatenate([one.keys for one in played]).astype(np.int32)),
    }
    ram = np.concatenate([one.ram for one in played]).astype(np.int32)
    known |= {name: pl.Series(ram[:, address]) for address, name in enumerate(RAM_COLUMNS)}
    wanted = dict.fromkeys(["episode_id", "agent_id", "step", *(statistic.columns or known)])
    if missing := [name for name in wanted if name not in known]:
        raise InvalidArgument(f"{statistic.name} reads {', '.join(missing)}, which live play does not have")
    return pl.DataFrame({name: known[name].alias(name) for name in wanted})


def _name(number: int) -> str:
    return f"played {number}"
