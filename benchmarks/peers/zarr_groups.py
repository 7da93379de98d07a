"""Zarr: a group an episode, frames in chunks of 64 with zstd. Needs zarr."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .arrays import named
from .peer import Columns, Opened, Source
from .processing import Bytes, Steps

__all__ = ["ZarrGroups"]

CHUNK = 64
LEVEL = 5


class ZarrGroups:
    name = "Zarr"
    libraries = ("zarr",)
    note = f"version 3, a group an episode, frames in chunks of {CHUNK} steps, zstd {LEVEL}, metadata as attributes"

    def write(self, source: Source, folder: Path) -> None:
        zarr = _library()
        root = zarr.open_group(folder / "episodes.zarr", mode="w")
        for recording in source.recordings():
            group = root.create_group(recording.episode_id, attributes=recording.keywords)
            for name, values in {"frames": recording.frames, **named(recording)}.items():
                chunks = (min(CHUNK, len(values)), *values.shape[1:]) if name == "frames" else values.shape
                packing = zarr.codecs.ZstdCodec(level=LEVEL)
                group.create_array(name, data=values, chunks=chunks, compressors=[packing])

    def open(self, folder: Path) -> Opened:
        return _OpenedZarr(_library().open_group(folder / "episodes.zarr", mode="r"))


def _library() -> Any:
    import zarr

    # One core: no threads that wait for each other.
    zarr.config.set({"threading.max_workers": 1, "async.concurrency": 1})
    return zarr


class _OpenedZarr(Opened):
    # A window costs a chunk of 64 frames or two: an epoch from memory is the quicker one, where it fits.

    def __init__(self, root: Any) -> None:
        self._root = root

    def episodes(self) -> list[str]:
        return sorted(self._root.group_keys())

    def find(self, game: str, score: float) -> set[str]:
        told = {name: group.attrs for name, group in self._root.groups()}
        return {name for name, about in told.items() if about["game"] == game and about["score"] >= score}

    def take(self, episode: str, steps: Steps) -> Bytes:
        first, last = int(steps[0]), int(steps[-1])
        frames: Bytes = np.asarray(self._root[episode]["frames"][first : last + 1])
        return frames if len(steps) == len(frames) else frames[steps - first]

    def columns(self, episode: str) -> Columns:
        group = self._root[episode]
        return Columns(*(np.asarray(group[name][:]) for name in Columns._fields))

    def ram_byte(self, number: int) -> Bytes:
        return np.concatenate([np.asarray(self._root[name]["ram"][:, number]) for name in self.episodes()])
