"""Minari datasets without JPEG, on HDF5 and on Parquet. Needs minari, h5py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .peer import Columns, Opened, Recording, Source
from .processing import Bytes, Steps

__all__ = ["MinariDataset"]

ACTIONS = 18


@dataclass(frozen=True)
class MinariDataset:
    """``form``: "hdf5" or "parquet"."""

    name: str
    form: str
    note: str
    libraries: tuple[str, ...] = ("minari", "h5py")

    def write(self, source: Source, folder: Path) -> None:
        storage: Any = None
        for index, recording in enumerate(source.recordings()):
            if storage is None:
                storage = self._new(folder / "data", recording.frames.shape[1:])
            if self.form == "hdf5":
                _make_packed(folder / "data", index, recording.frames.shape[1:])
            storage.update_episodes([_buffer(index, recording)])
            about = {"episode_id": recording.episode_id, **recording.keywords}
            storage.update_episode_metadata([about], [index])

    def _new(self, path: Path, shape: tuple[int, ...]) -> Any:
        import gymnasium
        import minari
        from minari.dataset.minari_storage import MinariStorage

        path.mkdir()
        observations = gymnasium.spaces.Box(0, 255, shape, np.uint8)
        discrete = gymnasium.spaces.Discrete(ACTIONS)
        storage = MinariStorage.new(path, observations, discrete, data_format=self.form, jpeg_encoding=False)
        storage.update_metadata({"dataset_id": "benchmark-v0", "minari_version": minari.__version__})
        return storage

    def open(self, folder: Path) -> Opened:
        return _OpenedMinari(folder / "data")


def _buffer(index: int, recording: Recording) -> Any:
    """With the last frame and RAM twice: Minari's episodes have an observation more than steps."""
    from minari.data_collector import EpisodeBuffer

    actions, rewards, dones = recording.columns
    return EpisodeBuffer(
        id=index,
        observations=np.concatenate([recording.frames, recording.frames[-1:]]),
        actions=actions,
        rewards=rewards,
        terminations=dones,
        truncations=np.zeros_like(dones),
        infos={"ram": np.concatenate([recording.ram, recording.ram[-1:]])},
    )


def _make_packed(folder: Path, index: int, shape: tuple[int, ...]) -> None:
    """Make the episode's observations, still empty, with gzip: those that Minari makes are not compressed."""
    import h5py

    with h5py.File(folder / "main_data.hdf5", "a", track_order=True) as file:
        file.create_group(f"episode_{index}").create_dataset(
            "observations", (0, *shape), np.uint8, maxshape=(None, *shape), chunks=(1, *shape), compression="gzip"
        )


class _OpenedMinari(Opened):
    def __init__(self, path: Path) -> None:
        import minari

        self._dataset = minari.MinariDataset(path)
        self._storage: Any = self._dataset.storage
        self._about: list[dict[str, Any]] = list(self._storage.get_episode_metadata(self._dataset.episode_indices))
        self._index = {_text(about["episode_id"]): int(about["id"]) for about in self._about}
        # The episode that was read last: Minari reads whole ones only.
        self._read: tuple[str, dict[str, Any]] | None = None

    def _episode(self, episode: str) -> dict[str, Any]:
        if self._read is None or self._read[0] != episode:
            self._read = None
            self._read = episode, next(iter(self._storage.get_episodes([self._index[episode]])))
        return self._read[1]

    def episodes(self) -> Sequence[str]:
        return sorted(self._index)

    def find(self, game: str, score: float) -> set[str]:
        return {
            _text(about["episode_id"])
            for about in self._about
            if _text(about["game"]) == game and about["score"] >= score
        }

    def take(self, episode: str, steps: Steps) -> Bytes:
        frames: Bytes = self._episode(episode)["observations"]
        return frames[steps]

    def columns(self, episode: str) -> Columns:
        read = self._episode(episode)
        return Columns(read["actions"].astype(np.int64), read["rewards"], read["terminations"].astype(np.bool_))

    def ram_byte(self, number: int) -> Bytes:
        return np.concatenate([self._episode(name)["infos"]["ram"][:-1, number] for name in self.episodes()])


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
