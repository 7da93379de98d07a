"""What a way of keeping episodes can be asked, and what is put into it."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from crowdplay_lake.episode import DEFAULT_AGENT

from .. import crowdplay_way
from ..crowdplay_metadata import CrowdPlayEpisode, crowdplay_session
from . import processing
from .processing import Bytes, Steps

__all__ = ["BATCH", "Columns", "Decision", "Opened", "Peer", "Recording", "Source", "read_index", "write_index"]

BATCH = 256
INDEX = "episodes.json"


class Columns(NamedTuple):
    """What is kept of each of the n steps besides frame and RAM."""

    actions: npt.NDArray[np.int64]  # (n,)
    rewards: npt.NDArray[np.float64]  # (n,)
    dones: npt.NDArray[np.bool_]  # (n,)


class Decision(NamedTuple):
    """A step of an episode that an observation is wanted of."""

    episode: str
    step: int


@dataclass(frozen=True)
class Recording:
    """An episode of n steps as one player saw it: what is put into a way that is no reader of pickles."""

    episode_id: str
    keywords: dict[str, Any]  # game and Score
    frames: Bytes  # (n, 210, 160, 3)
    ram: Bytes  # (n, 128)
    columns: Columns


@dataclass(frozen=True)
class Source:
    """A folder of raw episodes in bz2, with its `dataset.sqlite`; of our own recording, for it is unpickled."""

    folder: Path

    @cached_property
    def keywords(self) -> dict[str, dict[str, Any]]:
        """episode → its keywords, in the order of the ids."""
        episodes = crowdplay_session(self.folder / "dataset.sqlite").query(CrowdPlayEpisode).all()
        told = {
            str(one.episode_id): {
                "game": str(one.environment.keyword_data["all"]["game"]),
                "score": float(one.keyword_data[DEFAULT_AGENT]["Score"]),
            }
            for one in episodes
        }
        return dict(sorted(told.items()))

    def path(self, episode: str) -> Path:
        return self.folder / f"{episode}.pickle.bz2"

    def recordings(self) -> Iterator[Recording]:
        """All episodes, one at a time: decompressed and unpickled when it is its turn."""
        for episode, keywords in self.keywords.items():
            trajectory = crowdplay_way.load(self.path(episode))
            columns = Columns(
                np.array([step["action"][DEFAULT_AGENT]["game"] for step in trajectory], np.int64),
                np.array([step["reward"][DEFAULT_AGENT] for step in trajectory], np.float64),
                np.array([step["done"][DEFAULT_AGENT] for step in trajectory], np.bool_),
            )
            frames = np.stack([step["prev_obs"][DEFAULT_AGENT]["image"] for step in trajectory])
            ram = np.array([step["info"][DEFAULT_AGENT]["RAM"] for step in trajectory], np.uint8)
            yield Recording(episode, keywords, frames, ram, columns)


class Opened(ABC):
    """A dataset that is open. The jobs are made of a few questions; who has a shorter way overrides them.

    Used as a context: leaving it lets go of files and maps.
    """

    # Whether an epoch is drawn from observations that were all made beforehand, for want of a way to read a few steps.
    epoch_in_memory = True

    @abstractmethod
    def episodes(self) -> Sequence[str]:
        """The ids, sorted."""

    @abstractmethod
    def find(self, game: str, score: float) -> set[str]:
        """The episodes of the game with at least that score."""

    @abstractmethod
    def take(self, episode: str, steps: Steps) -> Bytes:
        """The frames before so many steps, which are sorted: (len(steps), 210, 160, 3)."""

    @abstractmethod
    def columns(self, episode: str) -> Columns: ...

    @abstractmethod
    def ram_byte(self, number: int) -> Bytes:
        """One byte of RAM after every step of every episode: (steps of all,)."""

    def frames(self, episode: str) -> Bytes:
        """All frames of an episode."""
        return self.take(episode, np.arange(len(self.columns(episode).actions)))

    def arrays(self, episode: str, frequency: int, stack_n: int) -> processing.Arrays:
        """Observations (m, stack_n, 84, 84), actions, rewards, terminals of every ``frequency``-th step."""
        columns = self.columns(episode)
        steps = processing.emitted(len(columns.actions), frequency)
        stacks = processing.stacks(lambda wanted: self.take(episode, wanted), steps, stack_n)
        return processing.arrays(stacks, steps, *columns)

    def window(self, decision: Decision) -> Bytes:
        """The default observation of one step, four screens: (4, 84, 84)."""
        episode, step = decision
        stack: Bytes = processing.stacks(lambda wanted: self.take(episode, wanted), np.array([step]), 4)[0]
        return stack

    def batches(self, decisions: Sequence[Decision], frequency: int) -> Iterator[Bytes]:
        """The default observations of every ``frequency``-th step, in the order given: (256, 4, 84, 84) each."""
        observe: Callable[[Decision], Bytes] = self.window
        if self.epoch_in_memory:
            made = {name: self.arrays(name, frequency, 1).observations[:, 0] for name in self.episodes()}
            observe = _StacksInMemory(made, frequency)
        for start in range(0, len(decisions), BATCH):
            yield np.stack([observe(decision) for decision in decisions[start : start + BATCH]])

    def close(self) -> None:  # noqa: B027
        """Let go of what is open; most have nothing."""

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class _StacksInMemory:
    """Stacks of images that lie ``skip_n`` steps apart: those of every fourth step are all that a stack needs."""

    def __init__(self, images: dict[str, Bytes], frequency: int) -> None:
        if frequency != processing.SKIP:
            raise ValueError(f"images of every {frequency}th step do not make stacks")
        self._images = images

    def __call__(self, decision: Decision) -> Bytes:
        newest = decision.step // processing.SKIP
        stack = np.zeros((4, *processing.WARPED), np.uint8)
        images = self._images[decision.episode][max(0, newest - 3) : newest + 1]
        stack[4 - len(images) :] = images
        return stack


class Peer(Protocol):
    """A way of keeping episodes."""

    @property
    def name(self) -> str: ...

    @property
    def libraries(self) -> tuple[str, ...]:
        """Packages, by the names they are installed by, that it needs besides those of the test set-up."""

    @property
    def note(self) -> str:
        """How it keeps them, in a sentence."""

    def write(self, source: Source, folder: Path) -> None:
        """Make the dataset of the raw episodes."""

    def open(self, folder: Path) -> Opened: ...


def write_index(folder: Path, keywords: dict[str, dict[str, Any]]) -> None:
    """A JSON file beside the data, for formats without a place for metadata."""
    (folder / INDEX).write_text(json.dumps(keywords))


def read_index(folder: Path) -> dict[str, dict[str, Any]]:
    told: dict[str, dict[str, Any]] = json.loads((folder / INDEX).read_text())
    return told
