"""numpy's own files: a compressed archive an episode, and arrays that are mapped into memory."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .peer import Columns, Opened, Recording, Source, read_index, write_index
from .processing import Bytes, Steps

__all__ = ["CompressedArrays", "MappedArrays", "OpenedWithIndex"]


def named(recording: Recording) -> dict[str, Any]:
    """The arrays of an episode that are no frames."""
    return {"ram": recording.ram, **recording.columns._asdict()}


class OpenedWithIndex(Opened):
    """Episodes that a JSON file beside them lists."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = read_index(folder)

    def episodes(self) -> Sequence[str]:
        return sorted(self.index)

    def find(self, game: str, score: float) -> set[str]:
        return {name for name, told in self.index.items() if told["game"] == game and told["score"] >= score}

    @abstractmethod
    def array(self, episode: str, name: str) -> Any:
        """'ram', 'actions', 'rewards' or 'dones' of an episode."""

    def columns(self, episode: str) -> Columns:
        return Columns(*(self.array(episode, name) for name in Columns._fields))

    def ram_byte(self, number: int) -> Bytes:
        return np.concatenate([self.array(name, "ram")[:, number] for name in self.episodes()])


class CompressedArrays:
    name = "compressed npz"
    libraries: tuple[str, ...] = ()
    note = "`np.savez_compressed`, an archive an episode, and a JSON file of the metadata"

    def write(self, source: Source, folder: Path) -> None:
        for recording in source.recordings():
            np.savez_compressed(folder / f"{recording.episode_id}.npz", frames=recording.frames, **named(recording))
        write_index(folder, source.keywords)

    def open(self, folder: Path) -> Opened:
        return _OpenedArchives(folder)


class _OpenedArchives(OpenedWithIndex):
    def array(self, episode: str, name: str) -> Any:
        with np.load(self.folder / f"{episode}.npz") as archive:
            return archive[name]

    def take(self, episode: str, steps: Steps) -> Bytes:
        frames: Bytes = self.array(episode, "frames")
        return frames if len(steps) == len(frames) else frames[steps]


class MappedArrays:
    name = "memory-mapped npy"
    libraries: tuple[str, ...] = ()
    note = "`np.save` without compression, an array a file, mapped; and a JSON file of the metadata"

    def write(self, source: Source, folder: Path) -> None:
        for recording in source.recordings():
            of_episode = folder / recording.episode_id
            of_episode.mkdir()
            for name, values in {"frames": recording.frames, **named(recording)}.items():
                np.save(of_episode / f"{name}.npy", values)
        write_index(folder, source.keywords)

    def open(self, folder: Path) -> Opened:
        return _OpenedMaps(folder)


class _OpenedMaps(OpenedWithIndex):
    epoch_in_memory = False

    def array(self, episode: str, name: str) -> Any:
        return np.load(self.folder / episode / f"{name}.npy", mmap_mode="r")

    def take(self, episode: str, steps: Steps) -> Bytes:
        frames: Bytes = self.array(episode, "frames")
        return frames if len(steps) == len(frames) else frames[steps]
