"""A film an episode, lossless: FFV1, and H.264 in RGB. Needs PyAV."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from .arrays import OpenedWithIndex, named
from .peer import Opened, Source, write_index
from .processing import Bytes, Steps

__all__ = ["Film"]

# A frame a millisecond, the unit of time in a Matroska file: a frame's time is its step.
RATE = 1000


@dataclass(frozen=True)
class Film:
    """``pixels``: ffmpeg's name of how the codec keeps RGB without loss."""

    name: str
    codec: str
    pixels: str
    note: str
    options: Mapping[str, str] = field(default_factory=dict)
    libraries: tuple[str, ...] = ("av",)

    def write(self, source: Source, folder: Path) -> None:
        for recording in source.recordings():
            self._write_film(folder / f"{recording.episode_id}.mkv", recording.frames)
            np.savez_compressed(folder / f"{recording.episode_id}.npz", **named(recording))
        write_index(folder, source.keywords)

    def _write_film(self, path: Path, frames: Bytes) -> None:
        import av

        with av.open(str(path), "w") as container:
            stream: Any = container.add_stream(self.codec, rate=RATE, options=dict(self.options))
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = self.pixels
            stream.thread_count = 1
            for number, frame in enumerate(frames):
                picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format=self.pixels)
                picture.pts, picture.time_base = number, Fraction(1, RATE)
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))

    def open(self, folder: Path) -> Opened:
        return _OpenedFilm(folder)


class _OpenedFilm(OpenedWithIndex):
    def array(self, episode: str, name: str) -> Any:
        with np.load(self.folder / f"{episode}.npz") as archive:
            return archive[name]

    def take(self, episode: str, steps: Steps) -> Bytes:
        wanted = set(steps.tolist())
        path = self.folder / f"{episode}.mkv"
        return np.stack([frame for step, frame in _frames(path, int(steps[0]), int(steps[-1]), wanted)])


def _frames(path: Path, first: int, last: int, wanted: set[int]) -> Iterator[tuple[int, Bytes]]:
    """The wanted ones of the steps first … last; those from the key frame before the first have to be decoded."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        if first:
            container.seek(first, stream=stream)
        for picture in container.decode(stream):
            step = picture.pts
            if step is None or step > last:
                return
            if step in wanted:
                yield step, picture.to_ndarray(format="rgb24")
