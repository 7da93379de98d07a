"""What an agent played, into a lake: played again from its keys, recorded as people's episodes are, and ingested."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from os import PathLike
from pathlib import Path

from crowdplay_ingest.pipeline import IngestOptions, IngestSummary, ingest
from crowdplay_ingest.recorder import EnvironmentPlan, EpisodePlan, RecordingOptions, record

__all__ = ["ingest_rollouts"]

About = Mapping[str, str | int | float | datetime]


def ingest_rollouts(
    lake: str | PathLike[str],
    task_id: str,
    episodes: Iterable[Iterable[int]],
    about: About,
    raw: Path | None = None,
    on_episode: Callable[[str, int], None] | None = None,
    lock_wait: float = 60.0,
) -> IngestSummary:
    """Bring episodes of an agent into a lake, which is made if there is none: one environment of ``task_id``.

    ``episodes``: the keys that were pressed at each step, from the start of the game on; an emulator without chance
    plays the same game to them. Every step is recorded as one of a person's, with its frame, RAM and CrowdPlay's
    statistics, and with ``user_type`` 2. ``about``: keyword data of the environment, such as ``{"source": "agent"}``.
    The same keys and ``about`` are the same episodes: brought in again, they change nothing. ``raw``: a folder in which
    the raw episodes stay; by default nothing stays of them.

    An episode is held in memory while it is recorded, 100 KB a step. Raises InvalidArgument for keys that the game does
    not have, LakeBusy, MissingExtra; what the ingest does.
    """
    plans = tuple(EpisodePlan.of_keys(keys) for keys in episodes)
    plan = EnvironmentPlan(task_id, plans, (), about)
    # Packed for speed: the files are read once.
    options = RecordingOptions(seed=_seed(plan), protocol=4, compression="gz")
    with tempfile.TemporaryDirectory(prefix="crowdplay-rollouts-") as temporary:
        folder = Path(temporary) if raw is None else raw
        record(folder, [plan], options, on_episode)
        return ingest(folder, lake, IngestOptions(lock_wait=lock_wait))


def _seed(plan: EnvironmentPlan) -> int:
    """Of the ids: another one for whatever is told of the roll-outs, and for other keys."""
    told = {name: value for name, value in plan.about.items() if name != "created_on"}
    keys = [episode.keys for episode in plan.episodes]
    return int.from_bytes(
        hashlib.blake2b(repr((plan.task_id, sorted(told.items()), keys)).encode(), digest_size=8).digest()
    )
