"""Statistics stored as keyword data: one commit, beside CrowdPlay's own."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

from ..annotations import KeywordRow, write_keyword_data
from ..errors import InvalidArgument
from ..findings import Progress, silent
from ..query import Parameters
from ..schema import KEYWORD_DATA
from .base import Statistic
from .compute import Work, results_of_blocks

if TYPE_CHECKING:
    from upath import UPath

    from ..lake import Lake

__all__ = ["AnnotationSummary", "annotate"]


@dataclass(frozen=True)
class AnnotationSummary:
    """What was computed and stored. ``steps``: rows of `steps`, of each statistic."""

    statistics: tuple[str, ...]
    keys: tuple[str, ...]
    episodes: int
    steps: int
    values: int
    changed: int  # of them, those that were not there already
    without_trajectory: int  # episodes left out: only their metadata is known
    of_other_games: int  # episodes left out, as each of the statistics is for other games
    seconds: float
    commit: int  # the lake's last one; a new one if anything changed


def annotate(
    lake: str | PathLike[str] | UPath,
    statistics: Sequence[str | Statistic | Callable[..., Any]],
    where: str | None = None,
    params: Parameters = None,
    key: str | None = None,
    executor: Executor | None = None,
    progress: Progress | None = None,
    lock_wait: float = 60.0,
) -> AnnotationSummary:
    """Compute ``statistics`` of the episodes that satisfy ``where``, and store the results as keyword data.

    ``statistics``: names, or objects as `Lake.statistic` takes them. ``where``: a condition over `episode_agents`;
    without it, each statistic is computed of the episodes of all games it is defined for. ``key``: store it under
    this key, not its own. ``executor``: what does the work, as in an ingest. All values are one commit; computed
    again, they replace those that were there.

    >>> annotate("lake", ["rowbyrow", "latency"], "game = 'space_invaders'")     # doctest: +SKIP

    A key that differs only in capitals from one that is there already is stored under that one.

    Raises UnknownStatistic with the nearest names; InvalidArgument where a statistic is not defined for an episode's
    game; LakeBusy after ``lock_wait`` seconds.
    """
    from ..lake import Lake

    began = time.monotonic()
    opened = Lake(lake)
    works = _works(opened, statistics, where, params)
    if key == "":
        raise InvalidArgument("the key is empty; leave it out to store under the statistic's own")
    if key is not None and len(works) > 1:
        raise InvalidArgument("one key cannot hold several statistics; annotate them one by one")
    tell = progress or silent
    rows: list[KeywordRow] = []
    for work in works:
        name = work.statistic.name
        key_of = _spelling(opened, key or work.statistic.key or name, given=key is not None)
        total, done = _rows(work), 0
        tell(name, done, total)
        for steps, results in results_of_blocks(work, executor):
            rows += [
                KeywordRow("keyword_data", episode_id, agent_id, key_of(episode_id, agent_id), value)
                for episode_id, agent_id, value in results
            ]
            done += steps
            tell(name, done, total)
    before = opened.commit
    after = write_keyword_data(lake, rows, "annotate", lock_wait)
    is_new = after.number != before and after.operation == "annotate"
    return AnnotationSummary(
        statistics=tuple(work.statistic.name for work in works),
        keys=tuple(key or work.statistic.key or work.statistic.name for work in works),
        episodes=len({row["episode_id"] for work in works for row in work.episodes}),
        steps=sum(map(_rows, works)),
        values=len(rows),
        changed=after.counts.get(KEYWORD_DATA.name, 0) if is_new else 0,
        without_trajectory=max(work.without_trajectory for work in works),
        of_other_games=min(work.of_other_games for work in works),
        seconds=time.monotonic() - began,
        commit=after.number,
    )


def _works(
    lake: Lake, statistics: Sequence[str | Statistic | Callable[..., Any]], where: str | None, params: Parameters
) -> list[Work]:
    """Every statistic with its episodes: what is wrong with one shows before anything is computed."""
    if isinstance(statistics, str) or not statistics:
        raise InvalidArgument("name at least one statistic, in a list")
    return [lake.statistic_work(statistic, where, params) for statistic in statistics]


def _rows(work: Work) -> int:
    """The rows of `steps` that a statistic is computed of."""
    return sum(row["n_steps"] * len(row["agents"]) for row in work.episodes)


def _spelling(lake: Lake, key: str, given: bool) -> Callable[[str, str], str]:
    """How an agent of an episode spells a key: as it is there already, or as it is here.

    CrowdPlay has 'Active playtime' and 'Active Playtime'; an agent with both would be ambiguous.
    """
    if given:
        return lambda episode_id, agent_id: key
    found = lake.sql(
        "SELECT episode_id, agent_id, min(key) FROM keyword_data WHERE lower(key) = lower(?) AND key <> ?"
        " GROUP BY episode_id, agent_id",
        [key, key],
    )
    spelled = {(episode_id, agent_id): other for episode_id, agent_id, other in found}
    return lambda episode_id, agent_id: spelled.get((episode_id, agent_id), key)
