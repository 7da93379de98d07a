"""Ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from crowdplay_ingest.pipeline import IngestOptions, ingest
from crowdplay_lake import Lake
from crowdplay_lake.episode import DEFAULT_AGENT
from crowdplay_lake.offline.lazy import LazyObservations
from crowdplay_lake.offline.selection import select
from crowdplay_lake.offline.transitions import Conversion

from .peer import BATCH, Columns, Decision, Opened, Source
from .processing import Arrays, Bytes, Steps

__all__ = ["CrowdPlayLake"]

# What a choice of games with different action sets is told to have.
ACTIONS = 18


class CrowdPlayLake:
    name = "crowdplay-lake"
    libraries: tuple[str, ...] = ()
    note = "every field of every agent, frames as change logs; as `crowdplay-lake ingest` makes it, not compacted"

    def write(self, source: Source, folder: Path) -> None:
        # In this process, whose time is measured.
        ingest(source.folder, folder / "lake", IngestOptions(workers=0))

    def open(self, folder: Path) -> Opened:
        return _OpenedLake(folder / "lake")


class _OpenedLake(Opened):
    epoch_in_memory = False

    def __init__(self, path: Path) -> None:
        self._lake = Lake(path)

    def episodes(self) -> list[str]:
        return sorted(self._lake.episodes().ids)

    def find(self, game: str, score: float) -> set[str]:
        where = "game = ? AND score >= ? AND agent_id = ?"
        rows = self._lake.sql(f"SELECT episode_id FROM episode_agents WHERE {where}", [game, score, DEFAULT_AGENT])
        return {row[0] for row in rows}

    def take(self, episode: str, steps: Steps) -> Bytes:
        first, last = int(steps[0]), int(steps[-1])
        frames = self._lake.episode(episode).frames(start=first, stop=last + 1)
        return frames if len(steps) == len(frames) else frames[steps - first]

    def columns(self, episode: str) -> Columns:
        rows = self._lake.episode(episode).steps(columns=("action", "reward", "done"))
        return Columns(
            rows["action"].to_numpy().astype(np.int64),
            rows["reward"].to_numpy().astype(np.float64),
            rows["done"].to_numpy().astype(np.bool_),
        )

    def ram_byte(self, number: int) -> Bytes:
        column = f"ram_{number:02x}"
        rows = self._lake.sql(
            f"SELECT {column} FROM steps WHERE agent_id = ? ORDER BY episode_id, step", [DEFAULT_AGENT]
        )
        values: Bytes = rows.arrow()[column].to_numpy().astype(np.uint8)
        return values

    def arrays(self, episode: str, frequency: int, stack_n: int) -> Arrays:
        made = self._lake.episode(episode).get_processed_trajectory(
            framestack_axis_first=True, stack_n=stack_n, downsample_frequency=frequency, final_step=False
        )
        return Arrays(*made)

    def window(self, decision: Decision) -> Bytes:
        episode = self._lake.episode(decision.episode)
        return np.asarray(episode.observations(framestack_axis_first=True)[decision.step])

    def batches(self, decisions: Sequence[Decision], frequency: int) -> Iterator[Bytes]:
        selection = select(self._lake.episodes(), Conversion(downsample_frequency=frequency), ACTIONS)
        observations = LazyObservations(selection)
        steps = [(one.episode.episode_id, int(step)) for one in selection.segments for step in one.steps]
        index_of = {Decision(*step): index for index, step in enumerate(steps)}
        indices = np.array([index_of[decision] for decision in decisions])
        for start in range(0, len(indices), BATCH):
            yield observations.stacks(indices[start : start + BATCH], 4)
