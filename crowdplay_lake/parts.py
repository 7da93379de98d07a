"""Episodes into the parts of `steps` and `frames`, and from one game's parts into another's."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from .layout import LakePaths, Part, PartWriter
from .schema import FRAMES, STEPS

__all__ = ["EpisodeRows", "GameWriter"]

Row = MutableMapping[str, Any]


@dataclass(frozen=True)
class EpisodeRows:
    """The rows of one episode in pieces, so that no one has to hold them all. Iterate each once."""

    steps: Iterable[pa.Table]  # stored columns of STEPS, sorted by agent and step
    # Per screen agent, sorted: stored columns of FRAMES, each piece beginning with a keyframe.
    frames: Sequence[Iterable[pa.Table]]


# Steps that wait to be written may take so many bytes. They take a hundredth of it, unless somebody means harm.
_MOST_WAITING = 128 << 20


class GameWriter:
    """The parts that a task writes for a game: one of `steps`, one of `frames`, begun with its first whole episode."""

    def __init__(self, paths: LakePaths, game: str, lasting: bool = False) -> None:
        self._paths = paths
        self._game = game
        self._lasting = lasting
        self._steps: PartWriter | None = None
        self._frames: PartWriter | None = None
        # Rows of short episodes wait here until they fill a row group: a footer entry has 131 columns.
        self._waiting: list[pa.Table] = []
        self._waiting_rows = self._waiting_bytes = 0

    def write(self, episode: EpisodeRows) -> dict[str, Any]:
        """Append an episode; returns where its rows are."""
        if self._steps is None or self._frames is None:
            self._steps = PartWriter(self._paths, STEPS, self._game, lasting=self._lasting)
            self._frames = PartWriter(self._paths, FRAMES, self._game, lasting=self._lasting)
        place = {
            "steps_part": self._steps.relative,
            "steps_first_row": self._steps.rows + self._waiting_rows,
            "frames_part": self._frames.relative,
            "frames_first_row": self._frames.rows,
        }
        for frames in itertools.chain.from_iterable(episode.frames):
            self._frames.write(frames)
        for steps in episode.steps:
            self._waiting.append(steps)
            self._waiting_rows += len(steps)
            self._waiting_bytes += steps.nbytes
            if self._waiting_bytes > _MOST_WAITING:
                self._flush(self._waiting_rows)
            elif self._waiting_rows >= STEPS.row_group_rows:
                self._flush(self._waiting_rows - self._waiting_rows % STEPS.row_group_rows)
        return place

    def _flush(self, count: int) -> None:
        """Write the first ``count`` of the rows that wait."""
        if self._steps is not None and count:
            rows = pa.concat_tables(self._waiting)
            self._steps.write(rows.slice(0, count))
            rest = rows.slice(count)
            self._waiting, self._waiting_rows, self._waiting_bytes = [rest], len(rest), rest.nbytes

    def close(self, parts: Mapping[str, list[Part]]) -> None:
        """Finish the parts and add them to ``parts``, by table."""
        self._flush(self._waiting_rows)
        if self._steps is not None and self._frames is not None:
            parts[STEPS.name].append(self._steps.close())
            parts[FRAMES.name].append(self._frames.close())
        self._steps = self._frames = None
        self._waiting, self._waiting_rows, self._waiting_bytes = [], 0, 0

    def __enter__(self) -> GameWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        # After `close` there is nothing left to discard.
        for writer in (self._steps, self._frames):
            if writer is not None:
                writer.discard()
