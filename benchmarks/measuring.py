"""The measuring: both ways side by side, on the same episodes, and the same arrays asked of both."""

from __future__ import annotations

import bz2
import gc
import gzip
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from rich.console import Console

from crowdplay_ingest.pipeline import IngestOptions, ingest
from crowdplay_lake import Episode, Lake, ProcessedTrajectory
from crowdplay_lake.episode import DEFAULT_AGENT
from crowdplay_lake.layout import read_rows
from crowdplay_lake.observations import emitted_steps

from . import crowdplay_way
from .repeated import copy_id, repeat_episodes

__all__ = ["COPIES", "JOBS", "Job", "Measured", "measure", "total"]

# Without worker processes: one core, and its time is this process's.
HERE = IngestOptions(workers=0)

# Of each episode in the lake that is read: opening it and its parts, some 30 ms, is little of a real lake's time.
COPIES = 10

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Spent:
    """Seconds of a piece of work."""

    wall: float
    processor: float

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.wall + other.wall, self.processor + other.processor)

    def least(self, other: Spent | None) -> Spent:
        """The quicker of two runs: what else the machine did meanwhile is not on the bill."""
        return self if other is None else Spent(min(self.wall, other.wall), min(self.processor, other.processor))


def timed(work: Callable[[], _Result]) -> tuple[_Result, Spent]:
    """What ``work`` returns and what it took. Garbage of what came before is not on its bill."""
    gc.collect()
    wall, processor_time = time.perf_counter(), time.process_time()
    result = work()
    return result, Spent(time.perf_counter() - wall, time.process_time() - processor_time)


@dataclass(frozen=True)
class Job:
    """What is made of every episode."""

    name: str
    frequency: int  # every so many steps are emitted
    stack_n: int

    def crowdplays(self, trajectory: Sequence[dict[str, Any]]) -> crowdplay_way.Processed:
        return crowdplay_way.process(trajectory, DEFAULT_AGENT, self.frequency, self.stack_n)

    def from_lake(self, episode: Episode) -> ProcessedTrajectory:
        return episode.get_processed_trajectory(
            framestack_axis_first=True, stack_n=self.stack_n, downsample_frequency=self.frequency
        )


JOBS = (Job("every fourth step", 4, 1), Job("every step, stacks of four", 1, 4))
# The suffix of each form that CrowdPlay reads; gzip and plain are made here as its scripts make them.
FORMS = {"bz2": ".bz2", "gzip": ".gz", "plain": ""}


@dataclass(frozen=True)
class Raw:
    """One raw trajectory, in all forms, whose episode both ways can process."""

    episode_id: str
    paths: dict[str, Path]  # form → file
    game: str
    steps: int


@dataclass(frozen=True)
class Ingested:
    """What went into the lake."""

    files: Sequence[Path]
    bytes: int
    steps: int


@dataclass
class LakePass:
    """One reading of the whole lake."""

    total: Spent  # from opening it to the last array
    wall_of: dict[str, float]  # episode id → seconds
    floor: Spent  # of this, what no reader of these files can do without


@dataclass
class Measured:
    """Everything that was measured."""

    raw: Sequence[Raw]
    ingested: Ingested
    lake_bytes: dict[str, int]  # what for → bytes
    ingesting: Spent
    decompressing: dict[Path, Spent] = field(default_factory=dict)
    loading: dict[tuple[str, str], Spent] = field(default_factory=dict)  # (episode id, form): decompress, unpickle
    processing: dict[tuple[str, Job], Spent] = field(default_factory=dict)  # (episode id, job): with OpenCV
    passes: dict[Job, list[LakePass]] = field(default_factory=lambda: {job: [] for job in JOBS})

    @property
    def steps(self) -> int:
        return sum(raw.steps for raw in self.raw)

    def crowdplay(self, form: str, job: Job, raw: Iterable[Raw] | None = None) -> Spent:
        """What CrowdPlay's way takes for these episodes, by default all."""
        ids = [one.episode_id for one in (self.raw if raw is None else raw)]
        return total(self.loading[one, form] + self.processing[one, job] for one in ids)


def total(spent: Iterable[Spent]) -> Spent:
    return sum(spent, Spent(0.0, 0.0))


def decompress(path: Path) -> None:
    """Merely decompress, in pieces as ingest does it."""
    with bz2.open(path, "rb") as file:
        while file.read(1 << 20):
            pass


def in_all_forms(path: Path, folder: Path) -> dict[str, Path]:
    """The bz2 file, and beside it in ``folder`` what CrowdPlay's scripts make of it."""
    paths = {form: folder / f"{_episode_id(path)}.pickle{suffix}" for form, suffix in FORMS.items()}
    paths["bz2"] = path
    with bz2.open(path) as read, paths["plain"].open("wb") as write:
        shutil.copyfileobj(read, write, 1 << 20)
    with paths["plain"].open("rb") as read, gzip.open(paths["gzip"], "wb", compresslevel=1) as write:
        shutil.copyfileobj(read, write, 1 << 20)
    return paths


def read_lake(path: Path, wanted: Sequence[str], copies: int, job: Job) -> LakePass:
    """Open the lake at ``path`` and process all ``copies`` of every wanted episode; the times are those of one copy."""
    wall_of = dict.fromkeys(wanted, 0.0)
    original = {copy_id(number, name): name for number in range(copies) for name in wanted}

    def whole_lake() -> None:
        for episode in Lake(path).episodes():
            if episode.episode_id in original:
                start = time.perf_counter()
                job.from_lake(episode)
                wall_of[original[episode.episode_id]] += (time.perf_counter() - start) / copies

    _, total = timed(whole_lake)
    return LakePass(Spent(total.wall / copies, total.processor / copies), wall_of, _floor(path, set(wanted), job))


def _floor(path: Path, chosen: set[str], job: Job) -> Spent:
    """Mere decompression of the rows, in whole row groups, and mere writing of as many bytes of images."""
    episodes = [episode for episode in Lake(path).episodes() if episode.episode_id in chosen]
    spent = Spent(0.0, 0.0)
    for episode in episodes:
        n = len(emitted_steps(len(episode), job.frequency))
        log = episode.frame_log()
        columns = ("keyframe", "gaps", "colors")
        first, stop = log.first_row, log.first_row + len(log)
        rows = partial(read_rows, log.paths, "frames", log.part, first, stop, columns, True)
        spent += timed(rows)[1] + timed(partial(np.full, (n, 84, 84), 1, np.uint8))[1]
    return spent


def check_equal(episode: Episode, theirs: crowdplay_way.Processed, job: Job) -> None:
    """The lake gives what CrowdPlay gives, and after it at most the last step, which CrowdPlay drops."""
    ours = job.from_lake(episode)
    for name, own, other in zip(theirs._fields, ours, theirs, strict=True):
        expected = np.asarray(other)
        if len(own) - len(expected) not in (0, 1) or not np.array_equal(own[: len(expected)], expected):
            raise SystemExit(f"episode {episode.episode_id}: the two ways differ in {name}; nothing is reported")


def lake_bytes(lake: Path) -> dict[str, int]:
    """Bytes of every file of the lake, by what they are for."""
    sizes = {"frames": 0, "steps": 0, "metadata": 0, "transaction logs": 0}
    for path in lake.rglob("*"):
        if path.is_file():
            parts = path.relative_to(lake).parts
            kind = parts[0] if parts[0] in sizes else "metadata"
            sizes["transaction logs" if "_delta_log" in parts else kind] += path.stat().st_size
    return sizes


def ingested(lake: Path, files: Sequence[Path]) -> Ingested:
    """What of the files is in the lake: a refused file is no part of any figure."""
    query = "SELECT episode_id, source_bytes, n_steps FROM episodes WHERE n_steps IS NOT NULL"
    rows = Lake(lake).sql(query).fetchall()
    known = {row[0] for row in rows}
    taken = [path for path in files if _episode_id(path) in known]
    return Ingested(taken, sum(row[1] for row in rows), sum(row[2] for row in rows))


def comparable(lake: Path, files: Sequence[Path], folder: Path) -> list[Raw]:
    """The files whose episodes both ways can process; their other forms go to ``folder``."""
    query = "SELECT episode_id, game, n_steps FROM episodes WHERE variant = 'full' AND list_contains(agents, ?)"
    known = {row[0]: row for row in Lake(lake).sql(query, [DEFAULT_AGENT]).fetchall()}
    named = [(_episode_id(path), path) for path in files]
    folder.mkdir()
    return [Raw(name, in_all_forms(path, folder), *known[name][1:]) for name, path in named if name in known]


def _episode_id(path: Path) -> str:
    return path.name.partition(".")[0]


def measure(files: Sequence[Path], raw_folder: Path, work: Path, repeats: int, say: Console) -> Measured:
    """Everything, on one core. Both ways alternate: a part of CrowdPlay's episodes, a pass over the lake, and so on."""
    ingest(min(files, key=lambda path: path.stat().st_size), work / "warm-up", HERE)
    for path in files:
        path.read_bytes()

    lake_path = work / "lake"
    say.print(f"ingesting {len(files)} files …")
    _, ingesting = timed(lambda: ingest(raw_folder, lake_path, HERE))
    taken = ingested(lake_path, files)
    say.print("unpacking …")
    raw = comparable(lake_path, taken.files, work / "forms")
    if len(raw) < len(files):
        say.print(f"{len(files) - len(raw)} of {len(files)} files were refused or have no {DEFAULT_AGENT}")
    if not raw:
        raise SystemExit(f"no episode of {DEFAULT_AGENT} can be compared")
    measured = Measured(raw, taken, lake_bytes(lake_path), ingesting)
    say.print(f"repeating them {COPIES} times …")
    copies = repeat_episodes(lake_path, COPIES * taken.steps)

    lake = Lake(lake_path)
    shortest = min(raw, key=lambda one: one.steps)
    for job in JOBS:
        job.crowdplays(crowdplay_way.load(shortest.paths["bz2"]))
        job.from_lake(lake.episode(shortest.episode_id))
    for turn in range(repeats):
        say.print(f"round {turn + 1} of {repeats}: episodes CrowdPlay's way, then the whole lake …")
        for share in (turn, (turn + repeats // 2) % repeats):
            _measure_files(measured, lake, raw[share::repeats], taken.files[share::repeats])
        for job in JOBS:
            # A copy each time: nothing that an earlier pass has opened or parsed is kept for this one.
            copy = shutil.copytree(lake_path, work / f"lake-{turn}")
            measured.passes[job].append(read_lake(copy, [one.episode_id for one in raw], copies, job))
            shutil.rmtree(copy)

    say.print(f"ingesting {len(files)} files again …")
    _, again = timed(lambda: ingest(raw_folder, work / "lake-again", HERE))
    measured.ingesting = ingesting.least(again)
    return measured


def _measure_files(measured: Measured, lake: Lake, raw: Sequence[Raw], files: Sequence[Path]) -> None:
    """A share of the raw files: CrowdPlay's way, checked against the lake, and mere decompression."""
    for one in raw:
        for form, path in one.paths.items():
            trajectory, spent = timed(partial(crowdplay_way.load, path))
            key = one.episode_id, form
            measured.loading[key] = spent.least(measured.loading.get(key))
        for job in JOBS:
            theirs, spent = timed(partial(job.crowdplays, trajectory))
            measured.processing[one.episode_id, job] = spent.least(measured.processing.get((one.episode_id, job)))
            check_equal(lake.episode(one.episode_id), theirs, job)
            del theirs
        del trajectory
    for path in files:
        _, spent = timed(partial(decompress, path))
        measured.decompressing[path] = spent.least(measured.decompressing.get(path))
