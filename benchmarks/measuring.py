"""The measuring: both ways side by side, on the same episodes, and the same arrays asked of both."""

from __future__ import annotations

import bz2
import gc
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from rich.console import Console

from crowdplay_ingest.pipeline import IngestOptions, ingest
from crowdplay_lake import Episode, Lake, ProcessedTrajectory
from crowdplay_lake.episode import DEFAULT_AGENT

from . import crowdplay_way

__all__ = ["DOWNSAMPLE", "Measured", "measure", "total"]

DOWNSAMPLE = 4
# Without worker processes: one core, and its time is this process's.
HERE = IngestOptions(workers=0)

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
class Raw:
    """One bz2 file whose episode both ways can process."""

    episode_id: str
    path: Path
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


@dataclass
class Measured:
    """Everything that was measured."""

    raw: Sequence[Raw]
    ingested: Ingested
    lake_bytes: dict[str, int]  # what for → bytes
    ingesting: Spent
    decompressing: dict[Path, Spent] = field(default_factory=dict)
    crowdplay: dict[str, Spent] = field(default_factory=dict)  # by episode id
    passes: list[LakePass] = field(default_factory=list)

    @property
    def steps(self) -> int:
        return sum(raw.steps for raw in self.raw)


def total(spent: Iterable[Spent]) -> Spent:
    return sum(spent, Spent(0.0, 0.0))


def decompress(path: Path) -> None:
    """Merely decompress, in pieces as ingest does it."""
    with bz2.open(path, "rb") as file:
        while file.read(1 << 20):
            pass


def from_lake(episode: Episode) -> ProcessedTrajectory:
    return episode.get_processed_trajectory(framestack_axis_first=True, stack_n=1, downsample_frequency=DOWNSAMPLE)


def crowdplays(path: Path) -> crowdplay_way.Processed:
    return crowdplay_way.process(crowdplay_way.load(path), DEFAULT_AGENT, DOWNSAMPLE, stack_n=1)


def read_lake(path: Path, wanted: Sequence[str]) -> LakePass:
    """Open the lake at ``path`` and process every wanted episode."""
    wall_of: dict[str, float] = {}

    def whole_lake() -> None:
        chosen = set(wanted)
        for episode in Lake(path).episodes():
            if episode.episode_id in chosen:
                start = time.perf_counter()
                from_lake(episode)
                wall_of[episode.episode_id] = time.perf_counter() - start

    _, total = timed(whole_lake)
    return LakePass(total, wall_of)


def check_equal(episode: Episode, theirs: crowdplay_way.Processed) -> None:
    """The lake gives what CrowdPlay gives, and after it at most the last step, which CrowdPlay drops."""
    ours = from_lake(episode)
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


def comparable(lake: Path, files: Sequence[Path]) -> list[Raw]:
    """The files whose episodes both ways can process."""
    query = "SELECT episode_id, game, n_steps FROM episodes WHERE variant = 'full' AND list_contains(agents, ?)"
    known = {row[0]: row for row in Lake(lake).sql(query, [DEFAULT_AGENT]).fetchall()}
    named = [(_episode_id(path), path) for path in files]
    return [Raw(name, path, known[name][1], known[name][2]) for name, path in named if name in known]


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
    raw = comparable(lake_path, taken.files)
    if len(raw) < len(files):
        say.print(f"{len(files) - len(raw)} of {len(files)} files were refused or have no {DEFAULT_AGENT}")
    if not raw:
        raise SystemExit(f"no episode of {DEFAULT_AGENT} can be compared")
    measured = Measured(raw, taken, lake_bytes(lake_path), ingesting)

    lake = Lake(lake_path)
    shortest = min(raw, key=lambda one: one.steps)
    crowdplays(shortest.path)
    from_lake(lake.episode(shortest.episode_id))
    for turn in range(repeats):
        say.print(f"round {turn + 1} of {repeats}: episodes CrowdPlay's way, then the whole lake …")
        for share in (turn, (turn + repeats // 2) % repeats):
            _measure_files(measured, lake, raw[share::repeats], taken.files[share::repeats])
        # A copy each time: nothing that an earlier pass has opened or parsed is kept for this one.
        copy = shutil.copytree(lake_path, work / f"lake-{turn}")
        measured.passes.append(read_lake(copy, [one.episode_id for one in raw]))
        shutil.rmtree(copy)

    say.print(f"ingesting {len(files)} files again …")
    _, again = timed(lambda: ingest(raw_folder, work / "lake-again", HERE))
    measured.ingesting = ingesting.least(again)
    return measured


def _measure_files(measured: Measured, lake: Lake, raw: Sequence[Raw], files: Sequence[Path]) -> None:
    """A share of the raw files: CrowdPlay's way, checked against the lake, and mere decompression."""
    for one in raw:
        theirs, spent = timed(partial(crowdplays, one.path))
        measured.crowdplay[one.episode_id] = spent.least(measured.crowdplay.get(one.episode_id))
        check_equal(lake.episode(one.episode_id), theirs)
        del theirs
    for path in files:
        _, spent = timed(partial(decompress, path))
        measured.decompressing[path] = spent.least(measured.decompressing.get(path))
