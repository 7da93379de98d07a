"""A Hugging Face dataset with a PNG a frame. Needs datasets and pillow."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .peer import Columns, Opened, Recording, Source
from .processing import Bytes, Steps

__all__ = ["HuggingFace"]


class HuggingFace:
    name = "HF datasets with PNG"
    libraries = ("datasets", "pillow")
    note = "`save_to_disk`: Arrow files that are mapped, a PNG a frame; the metadata in a second one"

    def write(self, source: Source, folder: Path) -> None:
        datasets = _library()
        features = datasets.Features(
            {
                "frame": datasets.Image(mode="RGB"),
                "ram": datasets.List(datasets.Value("uint8"), length=128),
                "actions": datasets.Value("int64"),
                "rewards": datasets.Value("float64"),
                "dones": datasets.Value("bool"),
            }
        )
        rows: list[dict[str, Any]] = []
        episodes: list[dict[str, Any]] = []
        for recording in source.recordings():
            first = len(rows)
            rows += _rows(recording)
            about = {"episode_id": recording.episode_id, "first": first, "stop": len(rows)}
            episodes.append({**about, **recording.keywords})
        datasets.Dataset.from_list(rows, features).save_to_disk(folder / "steps")
        datasets.Dataset.from_list(episodes).save_to_disk(folder / "episodes")

    def open(self, folder: Path) -> Opened:
        return _OpenedDataset(_library(), folder)


def _library() -> Any:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import datasets

    datasets.disable_progress_bars()
    return datasets


def _rows(recording: Recording) -> Iterator[dict[str, Any]]:
    from PIL import Image

    columns = recording.columns._asdict()
    for step, frame in enumerate(recording.frames):
        packed = io.BytesIO()
        Image.fromarray(frame).save(packed, "PNG")
        values = {name: values[step].item() for name, values in columns.items()}
        yield {"frame": {"bytes": packed.getvalue(), "path": None}, "ram": recording.ram[step].tolist(), **values}


class _OpenedDataset(Opened):
    epoch_in_memory = False

    def __init__(self, datasets: Any, folder: Path) -> None:
        self._steps = datasets.load_from_disk(str(folder / "steps"))
        self._numbers = self._steps.remove_columns("frame").with_format("numpy")
        self._episodes = datasets.load_from_disk(str(folder / "episodes"))
        self._rows = {row["episode_id"]: (row["first"], row["stop"]) for row in self._episodes}

    def episodes(self) -> Sequence[str]:
        return sorted(self._rows)

    def find(self, game: str, score: float) -> set[str]:
        return {row["episode_id"] for row in self._episodes if row["game"] == game and row["score"] >= score}

    def take(self, episode: str, steps: Steps) -> Bytes:
        rows = steps + self._rows[episode][0]
        return np.stack([np.asarray(picture) for picture in self._steps[rows]["frame"]])

    def columns(self, episode: str) -> Columns:
        first, stop = self._rows[episode]
        # Its format for numpy would make float32 of the rewards.
        rows = self._steps.data.table.slice(first, stop - first)
        return Columns(*(rows[name].to_numpy() for name in Columns._fields))

    def ram_byte(self, number: int) -> Bytes:
        # The library's format for numpy makes int64 of all whole numbers.
        ram = np.asarray(self._numbers["ram"][:])[:, number].astype(np.uint8)
        return np.concatenate([ram[slice(*self._rows[name])] for name in self.episodes()])
