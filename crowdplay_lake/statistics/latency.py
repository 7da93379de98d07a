"""How long a key took from the person's hand to the game."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from ..schema import ALL_AGENTS
from .base import Result, Runs, Statistic

__all__ = ["Latency"]

_HUMAN = 1


class Latency(Statistic):
    """Steps between what a person saw when pressing a key, and the step in which the key took effect."""

    name = "latency"
    key = "latencies"
    columns = ("step_iter", "action_step_iter", "user_type")
    dtype = pl.Int64
    unit = "steps of 1/60 s"
    definition = (
        "`step_iter` less `action_step_iter`, in the steps in which a person's new key takes effect; null in the"
        " others. Stored: the list of them, of all agents in the order of the steps, under 'all'."
    )
    quirk = "What an AI does has none, nor has the first step."

    def values(self, steps: pl.DataFrame) -> pl.Series:
        runs = Runs.of(steps)
        pressed = steps["action_step_iter"]
        before = pl.Series(runs.before(pressed.fill_null(0).to_numpy(), 0))
        was_known = pl.Series(runs.before(pressed.is_not_null().to_numpy(), False))
        took_effect = (pressed != before) & was_known & (steps["user_type"] == _HUMAN)
        latency = (steps["step_iter"] - pressed).cast(pl.Int64)
        return pl.select(pl.when(pl.lit(took_effect)).then(pl.lit(latency)).alias("value")).to_series()

    def results(self, steps: pl.DataFrame, values: pl.DataFrame) -> Iterator[Result]:
        # A roll-out does not tell when keys were pressed.
        told = steps.filter(pl.col("action_step_iter").is_not_null())["episode_id"].unique()
        by_episode = (
            values.filter(pl.col("episode_id").is_in(told.implode()))
            .sort("episode_id", "step", "agent_id")
            .group_by("episode_id", maintain_order=True)
            .agg(pl.col("value").drop_nulls())
        )
        for episode_id, latencies in by_episode.iter_rows():
            yield Result(episode_id, ALL_AGENTS, latencies)
