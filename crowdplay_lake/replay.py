"""The raw steps of an episode, streamed from its parts: some hundred of them are in memory, however long it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .layout import LakePaths
from .pixels import Screen, change_log, screens_of
from .reading import EpisodeReader
from .schema import ALL_AGENTS
from .trajectory import AgentSteps, raw_steps

__all__ = ["Replay"]

# Steps that are turned into Python objects at a time. A frame takes 100 KB.
BLOCK = 256


class Replay:
    """Gives back the step dicts of episodes as they were pickled."""

    def __init__(self, paths: LakePaths) -> None:
        self._paths = paths
        # One per agent: their rows lie apart.
        self._readers: list[EpisodeReader] = []

    def steps(self, row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The step dicts of an episode, one by one; ``row`` is its row of `episodes`."""
        agents, n = row["agents"], row["n_steps"]
        self._readers += [EpisodeReader(self._paths) for _ in range(len(agents) - len(self._readers))]
        readers = self._readers
        rows = {agent: _Rows(readers[index].steps(row, index)) for index, agent in enumerate(sorted(agents))}
        screens = {
            agent: _drawn(readers[index].frames(row, index), screen)
            for index, (agent, screen) in enumerate(zip(row["screen_agents"], screens_of(row), strict=True))
        }
        for start in range(0, n, BLOCK):
            count = min(BLOCK, n - start)
            steps = {agent: AgentSteps.of(rows[agent].take(count)) for agent in agents}
            yield from raw_steps(steps, _shown(agents, screens, count), row["variant"], row["reward_type"])


class _Rows:
    """Rows that come in pieces, taken in other pieces."""

    def __init__(self, pieces: Iterator[pa.Table]) -> None:
        self._pieces = pieces
        self._left: pa.Table | None = None

    def take(self, count: int) -> pa.Table:
        taken: list[pa.Table] = []
        while count:
            rows = next(self._pieces) if self._left is None else self._left
            taken.append(rows.slice(0, count))
            count -= len(taken[-1])
            self._left = rows.slice(len(taken[-1])) if len(rows) > len(taken[-1]) else None
        return pa.concat_tables(taken)


def _drawn(pieces: Iterator[pa.Table], screen: Screen) -> Iterator[npt.NDArray[np.uint8]]:
    """The frames of one screen."""
    for rows in pieces:
        log = change_log(0, rows)
        for start in range(0, len(rows), BLOCK):
            steps = np.arange(start, min(start + BLOCK, len(rows)))
            yield from screen.draw(log.decode(steps, screen.pixels))


def _shown(
    agents: list[str], screens: Mapping[str, Iterator[npt.NDArray[np.uint8]]], count: int
) -> Iterator[dict[str, npt.NDArray[np.uint8]]]:
    """What each agent sees, for ``count`` steps."""
    for _ in range(count):
        if ALL_AGENTS in screens:
            yield dict.fromkeys(agents, next(screens[ALL_AGENTS]))
        else:
            yield {agent: next(screens[agent]) for agent in agents}
