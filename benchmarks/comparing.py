"""The measuring of `benchmarks.suite`: every way does every job, in turn, after all were found to give the same."""

from __future__ import annotations

import cProfile
import gc
import pstats
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from . import page_cache
from .jobs import JOBS, Job, Questions, fingerprint
from .measuring import timed
from .peers import OURS, REFERENCE, Opened, Peer, Source

__all__ = ["COLD", "INGEST", "OPEN", "WARM", "Comparison", "Spread", "Turns", "compare", "profile"]

WARM, COLD = "warm", "cold"
INGEST, OPEN = "ingest", "open"

# Windows that a way shows, and one that has to read an episode, or a chunk of it, for each.
WINDOWS, FEW_WINDOWS = 32, 2
# Of the pages of a dataset that a cold run is asked of.
MOST_CACHED = 0.01


@dataclass(frozen=True)
class Spread:
    """Seconds of some runs of the same work."""

    runs: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.runs)

    @property
    def least(self) -> float:
        return min(self.runs)

    @property
    def most(self) -> float:
        return max(self.runs)


@dataclass(frozen=True)
class Turns:
    """Of ingest, and of each job; none is begun after so many ``minutes`` but the first."""

    reading: int
    ingest: int
    minutes: float


@dataclass
class Comparison:
    """What was measured. Warm runs and ingest count processor time, cold ones what a clock shows."""

    source: Source
    questions: Questions
    peers: Sequence[Peer]
    folders: dict[str, Path]
    sizes: dict[str, int]  # way → bytes
    seconds: dict[tuple[str, str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    cached: dict[str, float] = field(default_factory=dict)  # way → the most of its pages that a cold run found there

    turns: int = 0

    def add(self, way: str, job: str, state: str, seconds: float) -> None:
        self.seconds[way, job, state].append(seconds)

    def spread(self, way: str, job: str, state: str) -> Spread:
        return Spread(tuple(self.seconds[way, job, state]))

    def has(self, way: str, job: str, state: str) -> bool:
        return (way, job, state) in self.seconds


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def compare(source: Source, peers: Sequence[Peer], work: Path, plan: Turns, say: Console) -> Comparison:
    """Make the datasets of ``source`` below ``work``, check them, and measure."""
    begun = time.monotonic()
    questions = Questions.of(source, WINDOWS)
    measured = Comparison(source, questions, peers, {}, {})
    _warm_up(source, work)
    for turn in range(plan.ingest):
        for peer in peers:
            say.print(f"ingest, turn {turn + 1} of {plan.ingest}: {peer.name} …")
            _ingest(measured, peer, work / f"{len(measured.folders)}-{turn}")
    check_equal(measured, say)
    for turn in range(plan.reading):
        if turn and time.monotonic() - begun > 60 * plan.minutes:
            say.print(f"{plan.minutes:g} minutes are over")
            break
        measured.turns += 1
        for job in JOBS:
            say.print(f"turn {turn + 1} of {plan.reading}: {job.title} …")
            for peer in peers:
                _run_warm(measured, peer, job)
                if job.cold:
                    _run_cold(measured, peer, job.name, job.run, turn)
        for peer in peers:
            _open_warm(measured, peer)
            _run_cold(measured, peer, OPEN, lambda opened, _: opened.episodes(), turn)
    return measured


def _warm_up(source: Source, work: Path) -> None:
    """Kernels are compiled and libraries loaded before anything is timed."""
    folder = work / "warm-up"
    folder.mkdir()
    OURS.write(source, folder)
    shutil.rmtree(folder)


def _ingest(measured: Comparison, peer: Peer, folder: Path) -> None:
    folder.mkdir()
    _, spent = timed(lambda: peer.write(measured.source, folder))
    # The raw files are what is ingested.
    if peer is not REFERENCE:
        measured.add(peer.name, INGEST, WARM, spent.processor)
    if peer.name in measured.folders:
        shutil.rmtree(folder)
        return
    measured.folders[peer.name] = folder
    measured.sizes[peer.name] = size(folder)


def check_equal(measured: Comparison, say: Console) -> None:
    """Every way gives the frames that were pickled, byte for byte, and for each job what CrowdPlay's way gives."""
    asked = replace(measured.questions, windows=measured.questions.windows[:FEW_WINDOWS])
    with REFERENCE.open(measured.folders[REFERENCE.name]) as opened:
        expected = {job.name: fingerprint(job.run(opened, asked)) for job in JOBS}
    frames = {one.episode_id: fingerprint([one.frames]) for one in measured.source.recordings()}
    for peer in measured.peers:
        say.print(f"comparing: {peer.name} …")
        with peer.open(measured.folders[peer.name]) as opened:
            for episode, pickled in frames.items():
                if fingerprint([opened.frames(episode)]) != pickled:
                    raise SystemExit(f"{peer.name}: episode {episode} has other frames; nothing is reported")
            for job in JOBS:
                if fingerprint(job.run(opened, asked)) != expected[job.name]:
                    raise SystemExit(f"{peer.name}: another result than CrowdPlay's ({job.title}); nothing is reported")


def _all(job: Callable[[Opened, Questions], Any], opened: Opened, asked: Questions) -> None:
    """Do it to the end; some give their arrays one by one."""
    for _ in job(opened, asked):
        pass


@contextmanager
def _opened(measured: Comparison, peer: Peer) -> Iterator[Opened]:
    with peer.open(measured.folders[peer.name]) as opened:
        yield opened


def _run_warm(measured: Comparison, peer: Peer, job: Job) -> None:
    with _opened(measured, peer) as opened:
        asked, each = measured.questions, 1
        if job.name == "window":
            each = FEW_WINDOWS if opened.epoch_in_memory else WINDOWS
            asked = replace(asked, windows=asked.windows[:each])
        _, spent = timed(lambda: _all(job.run, opened, asked))
    measured.add(peer.name, job.name, WARM, spent.processor / each)


def _open_warm(measured: Comparison, peer: Peer) -> None:
    def open_and_list() -> None:
        with _opened(measured, peer) as opened:
            opened.episodes()

    _, spent = timed(open_and_list)
    measured.add(peer.name, OPEN, WARM, spent.processor)


def _run_cold(measured: Comparison, peer: Peer, name: str, job: Callable[[Opened, Questions], Any], turn: int) -> None:
    """From files that are on the disk only; of windows one, another each turn."""
    windows = measured.questions.windows
    asked = replace(measured.questions, windows=[windows[turn % len(windows)]])
    folder = measured.folders[peer.name]
    with tempfile.TemporaryDirectory(dir=folder.parent) as copy:
        gc.collect()
        page_cache.forget(folder)
        if page_cache.share_in_memory(folder) > MOST_CACHED:
            # What an earlier run left mapped stays, and who mapped it has parsed it: nobody knows a copy.
            folder = shutil.copytree(folder, Path(copy) / "copy")
            page_cache.forget(folder)
        cached = page_cache.share_in_memory(folder)
        measured.cached[peer.name] = max(cached, measured.cached.get(peer.name, 0.0))

        def open_and_run() -> None:
            with peer.open(folder) as opened:
                _all(job, opened, asked)

        _, spent = timed(open_and_run)
    measured.add(peer.name, name, COLD, spent.wall)


def profile(measured: Comparison, job: Job, functions: int = 4) -> list[tuple[str, float]]:
    """Where ours spends its time in a warm job: (function, share of the time in it and nothing below it)."""
    profiler = cProfile.Profile()
    with _opened(measured, OURS) as opened:
        profiler.enable()
        _all(job.run, opened, measured.questions)
        profiler.disable()
    # Of each function: calls, calls without recursion, own seconds, seconds, callers.
    entries: Any = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    whole = sum(entry[2] for entry in entries.values())
    longest = sorted(entries.items(), key=lambda item: -item[1][2])[:functions]
    return [(_function(*where), entry[2] / whole) for where, entry in longest]


def _function(file: str, line: int, name: str) -> str:
    return name if file == "~" else f"{Path(file).parent.name}/{Path(file).name}: {name}"
