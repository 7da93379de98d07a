"""The work of an ingest: cut into tasks of whole episodes, each of which writes parts that a commit can name.

A task needs nothing but its files and a lake's paths, so it may run anywhere.
"""

from __future__ import annotations

import itertools
import mmap
import operator
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crowdplay_lake.errors import CrowdPlayLakeError, InvalidArgument, InvalidLake, RawDataError, printable
from crowdplay_lake.layout import LakePaths, Part
from crowdplay_lake.parts import GameWriter
from crowdplay_lake.schema import FRAMES, STEPS
from crowdplay_lake.snapshot import is_table
from crowdplay_lake.storage import naming, remove

from .convert import ConvertedEpisode, convert
from .machine import Limits
from .sources import RawFile
from .step_runs import Run, iter_runs

__all__ = ["Counters", "Rejection", "Task", "TaskResult", "plan", "run_task", "work_of"]

# How often a long episode counts its progress, in steps.
REPORT_EVERY = 250

# Bytes of a raw file that one core takes in a second, by how it is packed (docs/ingest.md, "Measured"): what a file
# costs is known before it is read.
BYTES_PER_SECOND: Mapping[str, float] = {"bz2": 200e3, "gzip": 1.5e6, "none": 400e6}


@dataclass(frozen=True)
class Rejection:
    """A raw file, or a metadata value, that was refused."""

    name: str
    bytes: int
    sha256: str | None
    stamp: str | None  # null: tried again even if nothing tells of a change
    reason: str
    step: int | None = None

    def __str__(self) -> str:
        where = "" if self.step is None else f" at step {self.step}"
        return printable(f"{self.name}{where}: {self.reason}")


@dataclass(frozen=True)
class Task:
    """Whole episodes to convert, one after the other."""

    number: int
    files: tuple[tuple[str, RawFile], ...]  # each with its game, ordered by game and episode
    of: int | None = None  # the task it was cut from

    @property
    def bytes(self) -> int:
        """Of its raw files."""
        return sum(file.size for _, file in self.files)


@dataclass
class TaskResult:
    """What a task has written, and what it refused."""

    parts: dict[str, list[Part]] = field(default_factory=lambda: {STEPS.name: [], FRAMES.name: []})
    episodes: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)


def work_of(file: RawFile) -> float:
    """About how many seconds of one core a raw file takes."""
    return file.size / BYTES_PER_SECOND[file.compression]


def plan(files: Sequence[RawFile], game_of: Callable[[RawFile], str], task_seconds: float) -> list[Task]:
    """Tasks of whole episodes, each of about ``task_seconds`` of work, ordered by game and episode."""
    batches: list[list[tuple[str, RawFile]]] = []
    seconds = 0.0
    for game, file in sorted((game_of(file), file) for file in files):
        if not batches or seconds + work_of(file) > task_seconds:
            batches.append([])
            seconds = 0.0
        batches[-1].append((game, file))
        seconds += work_of(file)
    return [Task(number, tuple(batch)) for number, batch in enumerate(batches)]


Tell = Callable[[int, int], None]


def _say_nothing(steps: int, read_bytes: int) -> None:
    pass


class Counters:
    """Steps and raw bytes done, by task: a small file that workers on one machine share with who waits for them."""

    _PAIR = struct.Struct("<qq")

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("r+b") as file:
            self._pairs = mmap.mmap(file.fileno(), 0)

    @classmethod
    def create(cls, path: Path, tasks: int) -> Counters:
        with naming(path):
            path.write_bytes(bytes(cls._PAIR.size * max(tasks, 1)))
        return cls(path)

    def set(self, task: int, steps: int, read_bytes: int) -> None:
        self._PAIR.pack_into(self._pairs, task * self._PAIR.size, steps, read_bytes)

    def total(self) -> tuple[int, int]:
        """(steps, bytes) of all tasks together."""
        pairs = list(self._PAIR.iter_unpack(self._pairs[:]))
        return sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)


class _Count:
    """Adds up what a running task has done, and tells it."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self.steps = 0
        self.bytes = 0

    def add(self, steps: int, read_bytes: int) -> None:
        self.steps += steps
        self.bytes += read_bytes
        self._tell(self.steps, self.bytes)


def run_task(paths: LakePaths, task: Task, limits: Limits, tell: Tell = _say_nothing) -> TaskResult:
    """Convert the files of a task and write their parts, which only a commit makes visible.

    ``tell`` is called with the steps and raw bytes done so far; what it raises ends the task.
    Raises InvalidLake where the lake cannot be seen from here, OSError where it cannot be written to.
    """
    if not is_table(paths.commits):
        where = os.uname().nodename
        raise InvalidLake(f"{paths.root}: no lake is seen there from {where}; name a place that all workers share")
    count = _Count(tell)
    result = TaskResult()
    try:
        for game, files in itertools.groupby(task.files, key=operator.itemgetter(0)):
            with GameWriter(paths, game) as writer:
                for _, file in files:
                    converted = _convert_file(file, game, limits, count)
                    if isinstance(converted, Rejection):
                        result.rejected.append(converted)
                    else:
                        episode, origin = converted
                        result.episodes.append({**origin, **episode.facts, **writer.write(episode.rows)})
                writer.close(result.parts)
        # Whoever asked for this may be gone by now.
        tell(count.steps, count.bytes)
    except BaseException:
        # Interrupted: the parts of the games before are whole, and nobody will ever name them.
        for part in itertools.chain.from_iterable(result.parts.values()):
            remove(paths.part(part.table, part.path))
        raise
    return result


def _convert_file(
    file: RawFile, game: str, limits: Limits, count: _Count
) -> tuple[ConvertedEpisode, dict[str, Any]] | Rejection:
    sha256: str | None = None
    size = file.size

    def rejected(reason: str, step: int | None = None) -> Rejection:
        return Rejection(file.name, file.size, sha256, file.stamp, reason, step)

    try:
        with file.open() as opened:
            reported = 0

            def steps() -> Iterator[object]:
                nonlocal reported
                done = 0
                for item in iter_runs(opened.stream, limits):
                    yield item
                    done += len(item) if isinstance(item, Run) else 1
                    if done >= REPORT_EVERY:
                        count.add(done, opened.consumed - reported)
                        reported = opened.consumed
                        done = 0
                count.add(done, 0)

            try:
                episode = convert(file.episode_id, game, steps(), limits)
            finally:
                sha256 = opened.sha256()
                # It may have been written anew since it was listed: what was read is what is known of it.
                size = opened.consumed
                count.add(0, opened.consumed - reported)
    except RawDataError as error:
        return rejected(error.reason, error.step)
    except MemoryError:
        # Without a stamp: another run, with more memory, tries it again.
        reason = "needs more memory than a worker may have; give more with --worker-memory"
        return Rejection(file.name, file.size, sha256, None, reason)
    except InvalidArgument as error:
        return Rejection(file.name, file.size, sha256, None, str(error))
    except (CrowdPlayLakeError, ImportError):
        # Of this worker, not of the file.
        raise
    except OSError as error:
        return Rejection(file.name, file.size, sha256, None, f"cannot be read: {error.strerror or error}")
    except Exception as error:
        # A fault of ours. It must not stop an ingest of hours, and must not go unseen.
        return rejected(f"unexpected {type(error).__name__}: {error}; please report it")
    origin = {
        "source_name": file.name,
        "source_bytes": size,
        "source_sha256": sha256,
        "source_stamp": file.stamp,
    }
    return episode, origin
