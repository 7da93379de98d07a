"""One raw trajectory into the rows of an episode, as its steps come: one by one or in runs."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from crowdplay_lake.errors import RawDataError, UnsupportedTrajectory
from crowdplay_lake.pixels import KEYFRAME_INTERVAL

from .converter import ConvertedEpisode, Converter
from .machine import DEFAULT_LIMITS, Limits
from .step_columns import RunTaker
from .step_runs import Run

__all__ = ["ConvertedEpisode", "convert"]


def convert(
    episode_id: str,
    game: str,
    steps: Iterable[object],
    limits: Limits = DEFAULT_LIMITS,
    keyframe_interval: int = KEYFRAME_INTERVAL,
) -> ConvertedEpisode:
    """Rows of a trajectory whose steps come one by one or as `Run`; frames are dropped as soon as they are encoded.

    Raises UnsupportedTrajectory, with the step, where something cannot be kept whole, and LimitExceeded where the
    rows, all of which are held until the last step is known to be sound, would take more than ``limits`` allow.
    """
    episode = _Episode(limits, keyframe_interval)
    with _without_cycle_search():
        for item in steps:
            if isinstance(item, Run):
                episode.add_run(item)
            else:
                episode.add_step(item)
        if episode.converter is None:
            raise UnsupportedTrajectory("the trajectory is empty")
        return episode.converter.finish(episode_id, game)


@contextmanager
def _without_cycle_search() -> Iterator[None]:
    """Steps hold no cycles, and make so many containers that the search for some takes 3 % of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _Episode:
    """Takes what comes of an episode, and counts its steps."""

    def __init__(self, limits: Limits, keyframe_interval: int) -> None:
        self._limits = limits
        self._keyframe_interval = keyframe_interval
        self._steps = 0
        self._taker: RunTaker | None = None
        self.converter: Converter | None = None

    def add_run(self, run: Run) -> None:
        at = 0
        while at < len(run):
            taken = self._taker.take(run, at) if self._taker else 0
            if not taken:
                self.add_step(run.step(at))
            self._steps += taken
            at += taken or 1

    def add_step(self, step: object) -> None:
        try:
            if not isinstance(step, dict):
                raise UnsupportedTrajectory(f"a step is a dict, this is {type(step).__name__}")
            if self.converter is None:
                self.converter = Converter(step, self._limits, self._keyframe_interval)
                self._taker = RunTaker(self.converter)
            self.converter.add(step)
        except RawDataError as error:
            if error.step is not None:
                raise
            raise type(error)(error.reason, self._steps) from error
        self._steps += 1
