"""CrowdPlay's own way: a pickle an episode, in bz2, gzip or nothing, and pickled metadata in SQLite."""

from __future__ import annotations

import bz2
import gzip
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from crowdplay_lake.episode import DEFAULT_AGENT

from .. import crowdplay_way
from ..crowdplay_metadata import CrowdPlayEpisode, crowdplay_session
from .peer import Columns, Opened, Source
from .processing import Arrays, Bytes, Steps

__all__ = ["Pickles"]

METADATA = "dataset.sqlite"


@dataclass(frozen=True)
class Pickles:
    """``suffix``: ".bz2", ".gz" or ""."""

    name: str
    suffix: str
    note: str
    libraries: tuple[str, ...] = ()

    def write(self, source: Source, folder: Path) -> None:
        shutil.copy(source.folder / METADATA, folder)
        for episode in source.keywords:
            path, packed = folder / f"{episode}.pickle{self.suffix}", source.path(episode)
            if self.suffix == ".bz2":
                shutil.copy(packed, path)
                continue
            gzipped = partial(gzip.open, path, "wb", compresslevel=1)
            with bz2.open(packed) as read, gzipped() if self.suffix else path.open("wb") as write:
                shutil.copyfileobj(read, write, 1 << 20)

    def open(self, folder: Path) -> Opened:
        return _OpenedPickles(folder, self.suffix)


class _OpenedPickles(Opened):
    def __init__(self, folder: Path, suffix: str) -> None:
        self._folder, self._suffix = folder, suffix
        self._session = crowdplay_session(folder / METADATA)

    def _load(self, episode: str) -> list[dict[str, Any]]:
        return crowdplay_way.load(self._folder / f"{episode}.pickle{self._suffix}")

    def episodes(self) -> list[str]:
        return sorted(str(one.episode_id) for one in self._session.query(CrowdPlayEpisode).all())

    def find(self, game: str, score: float) -> set[str]:
        return {
            str(one.episode_id)
            for one in self._session.query(CrowdPlayEpisode).all()
            if one.environment.keyword_data["all"]["game"] == game and one.keyword_data[DEFAULT_AGENT]["Score"] >= score
        }

    def take(self, episode: str, steps: Steps) -> Bytes:
        trajectory = self._load(episode)
        return np.stack([trajectory[step]["prev_obs"][DEFAULT_AGENT]["image"] for step in steps])

    def frames(self, episode: str) -> Bytes:
        return np.stack([step["prev_obs"][DEFAULT_AGENT]["image"] for step in self._load(episode)])

    def columns(self, episode: str) -> Columns:
        trajectory = self._load(episode)
        return Columns(
            np.array([step["action"][DEFAULT_AGENT]["game"] for step in trajectory], np.int64),
            np.array([step["reward"][DEFAULT_AGENT] for step in trajectory], np.float64),
            np.array([step["done"][DEFAULT_AGENT] for step in trajectory], np.bool_),
        )

    def ram_byte(self, number: int) -> Bytes:
        values = [step["info"][DEFAULT_AGENT]["RAM"][number] for name in self.episodes() for step in self._load(name)]
        return np.array(values, np.uint8)

    def arrays(self, episode: str, frequency: int, stack_n: int) -> Arrays:
        made = crowdplay_way.process(self._load(episode), DEFAULT_AGENT, frequency, stack_n)
        return Arrays(
            np.stack(made.observations),
            np.array(made.actions, np.int64),
            np.array(made.rewards, np.float64),
            np.array(made.terminals, np.int64),
        )

    def close(self) -> None:
        self._session.close()
