"""What every way of keeping episodes is asked to do."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .peers import Decision, Opened, Source
from .peers.processing import emitted

__all__ = ["FREQUENCY", "JOBS", "RAM_BYTE", "Job", "Questions", "fingerprint"]

FREQUENCY = 4
# Where the ship is in Space Invaders.
RAM_BYTE = 0x1C


@dataclass(frozen=True)
class Questions:
    """What the jobs ask about, the same of every way."""

    episodes: list[str]  # sorted
    steps: int  # of all of them
    windows: list[Decision]
    epoch: list[Decision]  # every fourth step, shuffled
    game: str
    score: float

    @classmethod
    def of(cls, source: Source, windows: int, seed: int = 0) -> Questions:
        """Of the episodes of ``source``. Decompresses them all."""
        lengths = {recording.episode_id: len(recording.frames) for recording in source.recordings()}
        draw = random.Random(seed)
        every = [Decision(name, step) for name, length in lengths.items() for step in range(length)]
        epoch = [Decision(name, int(step)) for name, length in lengths.items() for step in emitted(length, FREQUENCY)]
        draw.shuffle(epoch)
        wanted = source.keywords[min(source.keywords)]
        return cls(list(lengths), len(every), draw.choices(every, k=windows), epoch, wanted["game"], wanted["score"])


@dataclass(frozen=True)
class Job:
    """One thing to do with a dataset that is open. ``run`` gives arrays, equal whatever way they come."""

    name: str
    run: Callable[[Opened, Questions], Iterable[Any]]
    title: str
    # Steps that are gone through; None: the time is told, of one of ``times``.
    in_steps: bool = True
    cold: bool = False


def _arrays(opened: Opened, questions: Questions, frequency: int, stack_n: int) -> list[Any]:
    return [values for name in questions.episodes for values in opened.arrays(name, frequency, stack_n)]


JOBS = (
    Job("every", lambda opened, asked: _arrays(opened, asked, 1, 1), "every step to d3rlpy arrays"),
    Job("fourth", lambda opened, asked: _arrays(opened, asked, FREQUENCY, 1), "every fourth", cold=True),
    Job("stacks", lambda opened, asked: _arrays(opened, asked, 1, 4), "every step, stacks of four"),
    Job("epoch", lambda opened, asked: list(opened.batches(asked.epoch, FREQUENCY)), "shuffled epoch"),
    Job("ram", lambda opened, asked: [opened.ram_byte(RAM_BYTE)], "a RAM byte", cold=True),
    Job("window", lambda opened, asked: map(opened.window, asked.windows), "a random window", False, cold=True),
    Job("find", lambda opened, asked: [sorted(opened.find(asked.game, asked.score))], "filter by keyword", False),
)


def fingerprint(values: Iterable[Any]) -> str:
    """The same for arrays of the same shape, type and content."""
    digest = hashlib.sha256()
    for value in values:
        array = np.ascontiguousarray(value)
        digest.update(f"{array.dtype.str} {array.shape} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
