"""The work of an ingest: cut into tasks of whole episodes, each of which writes parts that a commit can name.

A task needs nothing but its files and a lake's paths, so it may run anywhere.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from crowdplay_lake.errors import RawDataError
from crowdplay_lake.layout import LakePaths, Part
from crowdplay_lake.parts import GameWriter
from crowdplay_lake.schema import FRAMES, STEPS

from .convert import ConvertedEpisode, convert
from .machine import Limits, iter_items
from .sources import RawFile

__all__ = ["Progress", "Rejection", "Task", "TaskResult", "plan", "run_task"]

# How often a long episode reports its progress, in steps.
REPORT_EVERY = 250


@dataclass(frozen=True)
class Rejection:
    """A raw file, or a metadata value, that was refused."""

    name: str
    bytes: int
    sha256: str | None
    mtime_ns: int | None
    reason: str
    step: int | None = None

    def __str__(self) -> str:
        where = "" if self.step is None else f" at step {self.step}"
        return f"{self.name}{where}: {self.reason}"


class Progress:
    """What is told of a running ingest; this one says nothing."""

    def planned(self, episodes: int, total_bytes: int) -> None:
        """``episodes`` raw files of together ``total_bytes`` are to be read."""

    def advanced(self, steps: int, read_bytes: int) -> None:
        """So many more steps are converted, so many more bytes read."""

    def finished(self, raw: RawFile, rejection: Rejection | None) -> None:
        """One raw file is done with."""


@dataclass(frozen=True)
class Task:
    files: tuple[tuple[str, RawFile], ...]  # each with its game, ordered by game and episode


@dataclass
class TaskResult:
    parts: dict[str, list[Part]] = field(default_factory=lambda: {STEPS.name: [], FRAMES.name: []})
    episodes: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)


def plan(files: Sequence[RawFile], game_of: Callable[[RawFile], str], task_bytes: int) -> Iterator[Task]:
    """Tasks of whole episodes, of about ``task_bytes`` of raw bytes, ordered by game and episode."""
    batch: list[tuple[str, RawFile]] = []
    size = 0
    for game, file in sorted((game_of(file), file) for file in files):
        if batch and size + file.size > task_bytes:
            yield Task(tuple(batch))
            batch, size = [], 0
        batch.append((game, file))
        size += file.size
    if batch:
        yield Task(tuple(batch))


def run_task(paths: LakePaths, task: Task, limits: Limits, progress: Progress) -> TaskResult:
    """Convert the files of a task and write their parts, which only a commit makes visible."""
    result = TaskResult()
    try:
        for game, files in itertools.groupby(task.files, key=operator.itemgetter(0)):
            with GameWriter(paths, game) as writer:
                for _, file in files:
                    converted = _convert_file(file, game, limits, progress)
                    if isinstance(converted, Rejection):
                        result.rejected.append(converted)
                    else:
                        episode, origin = converted
                        result.episodes.append({**origin, **episode.facts, **writer.write(episode.rows)})
                    progress.finished(file, converted if isinstance(converted, Rejection) else None)
                writer.close(result.parts)
    except BaseException:
        # Interrupted: the parts of the games before are whole, and nobody will ever name them.
        for part in itertools.chain.from_iterable(result.parts.values()):
            paths.part(part.table, part.path).unlink(missing_ok=True)
        raise
    return result


def _convert_file(
    file: RawFile, game: str, limits: Limits, progress: Progress
) -> tuple[ConvertedEpisode, dict[str, Any]] | Rejection:
    sha256: str | None = None
    try:
        with file.open() as opened:
            reported = 0

            def steps() -> Iterator[object]:
                nonlocal reported
                index = 0
                for index, step in enumerate(iter_items(opened.stream, limits), 1):
                    yield step
                    if index % REPORT_EVERY == 0:
                        progress.advanced(REPORT_EVERY, opened.consumed - reported)
                        reported = opened.consumed
                progress.advanced(index % REPORT_EVERY, 0)

            try:
                episode = convert(file.episode_id, game, steps(), limits)
            finally:
                sha256 = opened.sha256()
                progress.advanced(0, opened.consumed - reported)
    except RawDataError as error:
        return Rejection(file.name, file.size, sha256, file.mtime_ns, error.reason, error.step)
    except OSError as error:
        return Rejection(file.name, file.size, sha256, file.mtime_ns, f"cannot be read: {error.strerror or error}")
    except Exception as error:
        # A fault of ours. It must not stop an ingest of hours, and must not go unseen.
        reason = f"unexpected {type(error).__name__}: {error}; please report it"
        return Rejection(file.name, file.size, sha256, file.mtime_ns, reason)
    origin = {
        "source_name": file.name,
        "source_bytes": file.size,
        "source_sha256": sha256,
        "source_mtime_ns": file.mtime_ns,
    }
    return episode, origin
