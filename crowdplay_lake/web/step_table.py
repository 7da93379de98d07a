"""The numbers beside a film: what each agent did in each step, and what stood in its machine when the frame was shown.

In a raw trajectory a row's frame is from *before* the step, its RAM, lives and reward from after it. A viewer sees a
frame, so here RAM, lives and score of step i are those of row i-1, of before its action; at step 0 RAM and lives are
not known, and the score is 0. Action, reward, done and who plays are those of row i. (AI roll-outs are the other way
round: their rows hold RAM from before the step, and reward and done of the step before.)

A chunk on the wire, little-endian::

    uint32 × 4      magic "CPLS", format 1, first step, steps n
    then, for each agent in the episode's order:
    float64 × n     reward of the step; NaN: none
    float64 × n     score before the step
    int32 × n       action; -1: none
    int32 × n       lives before the step; -1: not known
    uint8 × n       done after the step; 255: not known
    uint8 × n       who plays: 1 a human, 2 an AI, 0: not known
    uint8 × (n+1)   whether RAM before the step is known, from the step before the chunk's first on
    uint8 × 128·(n+1)   RAM before the step: byte 0x00 of all steps, then 0x01, …; each but a byte's first as the
                        difference from the step before, modulo 256
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..episode import Episode
from ..schema import RAM_COLUMNS
from .film import CHUNK, bounds

__all__ = ["StepTable", "StepTables", "is_rollout"]

_COLUMNS = ("action", "reward", "done", "user_type", "lives")
_FORMAT = 1
# Agents' tables that are kept: some 15 MB for each of 100,000 steps.
KEPT = 6
UNKNOWN_DONE = 255


def is_rollout(episode: Episode) -> bool:
    """Whether the episode's rows were written by an AI's roll-out."""
    return bool(episode._row["variant"] == "rollout")


@dataclass(frozen=True)
class StepTable:
    """One agent's steps, as they are shown: a value a step."""

    reward: npt.NDArray[np.float64]
    score: npt.NDArray[np.float64]  # before the step
    action: npt.NDArray[np.int32]
    lives: npt.NDArray[np.int32]  # before the step
    done: npt.NDArray[np.uint8]
    user_type: npt.NDArray[np.uint8]
    has_ram: npt.NDArray[np.uint8]
    ram: npt.NDArray[np.uint8]  # (n, 128), before the step

    @classmethod
    def of(cls, episode: Episode, agent: str) -> StepTable:
        """Raises UnknownAgent, NoTrajectory."""
        rows = episode.steps(agent, (*_COLUMNS, *RAM_COLUMNS))
        reward = _filled(rows, "reward", np.nan).astype(np.float64)
        done = _filled(rows, "done", None, UNKNOWN_DONE)
        gained = np.cumsum(np.where(np.isnan(reward), 0, reward))
        ram = np.stack([_filled(rows, name, 0) for name in RAM_COLUMNS], axis=1).astype(np.uint8)
        has_ram = rows[RAM_COLUMNS[0]].is_valid().to_numpy().astype(np.uint8)
        lives = _filled(rows, "lives", -1).astype(np.int32)
        if is_rollout(episode):
            score = gained
            reward, done = _earlier(reward, np.nan), _earlier(done, UNKNOWN_DONE)
        else:
            score = _later(gained, 0)
            ram, has_ram, lives = _later(ram, 0), _later(has_ram, 0), _later(lives, -1)
        action = _filled(rows, "action", -1).astype(np.int32)
        user_type = np.clip(_filled(rows, "user_type", 0), 0, 255).astype(np.uint8)
        return cls(reward, score, action, lives, done.astype(np.uint8), user_type, has_ram, ram)

    def packed(self, first: int, stop: int) -> bytes:
        """The steps ``first`` … ``stop - 1`` on the wire."""
        # The step before the first one, so that what changed can be told there, too.
        before = max(first - 1, 0)
        has_ram, ram = self.has_ram[before:stop], self.ram[before:stop]
        if first == 0:
            has_ram, ram = np.insert(has_ram, 0, 0), np.insert(ram, 0, 0, axis=0)
        changes = ram.T.copy()  # (128, n + 1)
        changes[:, 1:] -= ram.T[:, :-1]
        at = slice(first, stop)
        columns = [
            self.reward[at].astype("<f8"), self.score[at].astype("<f8"), self.action[at].astype("<i4"),
            self.lives[at].astype("<i4"), self.done[at], self.user_type[at], has_ram, changes,
        ]  # fmt: skip
        return b"".join(column.tobytes() for column in columns)


def _filled(rows: pa.Table, name: str, missing: Any, as_number: int | None = None) -> npt.NDArray[Any]:
    column = rows[name]
    if as_number is not None:
        return column.cast(pa.int32()).fill_null(as_number).to_numpy()  # type: ignore[no-any-return]
    return column.fill_null(missing).to_numpy()  # type: ignore[no-any-return]


def _later(values: npt.NDArray[Any], first: Any) -> npt.NDArray[Any]:
    """Each value a step later."""
    shifted = np.empty_like(values)
    shifted[1:], shifted[:1] = values[:-1], first
    return shifted


def _earlier(values: npt.NDArray[Any], last: Any) -> npt.NDArray[Any]:
    """Each value a step earlier."""
    shifted = np.empty_like(values)
    shifted[:-1], shifted[-1:] = values[1:], last
    return shifted


class StepTables:
    """The tables of the agents whose films were asked for last: a row group is read once, not for every chunk."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str, str], StepTable] = OrderedDict()
        self._lock = threading.Lock()

    def chunk(self, episode: Episode, chunk: int) -> bytes:
        """A chunk of all agents. Raises NoTrajectory, and InvalidArgument beyond the episode."""
        first, stop = bounds(episode, chunk, CHUNK)
        header = b"CPLS" + np.array([_FORMAT, first, stop - first], "<u4").tobytes()
        return header + b"".join(self.table(episode, agent).packed(first, stop) for agent in episode.agents)

    def table(self, episode: Episode, agent: str) -> StepTable:
        """The table of one agent."""
        key = (episode._row["content_hash"] or "", episode.episode_id, agent)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = StepTable.of(episode, agent)
            self._kept.move_to_end(key)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            return self._kept[key]
