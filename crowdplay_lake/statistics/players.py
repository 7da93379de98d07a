"""Who played: two people, or somebody and an AI."""

from __future__ import annotations

import polars as pl

from .base import Statistic, of_everybody

__all__ = ["FramesPlayedBy"]

_HUMAN, _AI = 1, 2
_TWO_PLAYERS = ("space_invaders_2p", "space_invaders_ai")
_WHO = {
    "humanhuman": "two people play",
    "humanai": "at least one of the two is an AI",
}


class FramesPlayedBy(Statistic):
    """Steps so far in which two people played, or an AI did; their number or share. Of the episode: under 'all'."""

    games = _TWO_PLAYERS
    columns = ("user_type",)

    def __init__(self, who: str, share: bool = False) -> None:
        self.who = who
        self.share = share
        self.name = f"frames_{who}_share" if share else f"frames_{who}"
        self.key = f"fraction_frames_{who}" if share else f"total_frames_{who}"
        self.dtype = pl.Float64 if share else pl.Int64
        self.unit = "share, 0 to 1" if share else "steps of 1/60 s"
        self.definition = f"{'The share of the' if share else 'The number of'} steps in which {_WHO[who]}."
        self.quirk = "A step of which it is not known who plays is neither." if not share else ""

    def values(self, steps: pl.DataFrame) -> pl.DataFrame:
        kind = pl.col("user_type")
        both = (kind == _HUMAN).fill_null(False).all() & (pl.len() > 1)
        of_step = both if self.who == "humanhuman" else (kind == _AI).any()
        played = of_everybody(steps, of_step)
        so_far = pl.col("value").cum_sum().over("episode_id").cast(pl.Int64)
        if self.share:
            so_far = so_far / (pl.col("step") + 1)
        return played.with_columns(so_far)
