"""Speed and memory of ingest: `python -m benchmarks.ingest --help`.

- Speed: steps per second from bz2 files to committed tables, against merely reading the same files through Python's
  bz2; both on one core, turn by turn, at pickle protocols 3 and 5.
- Memory: the peak of a process that ingests one long episode of two players.

No figure is printed unless the lake gave back an episode of each protocol as `pickle` reads it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from crowdplay_ingest.pipeline import IngestOptions, ingest
from crowdplay_ingest.recorder import RecordingOptions, record, sample_plan
from crowdplay_lake import CrowdPlayLakeError, Lake

from . import crowdplay_way, memory
from .long_episode import LongEpisode, write
from .machine import cores, processor, stay_on_one_core, versions
from .measuring import decompress, timed
from .report import Report, Table, replace_section

PAGE = Path(__file__).parent.parent / "docs" / "ingest.md"
BEGIN = "<!-- measured: python -m benchmarks.ingest --write -->\n"

PROTOCOLS = (3, 5)
SPEED_TARGET = 0.8
MEMORY_TARGET = 1536  # MiB


@dataclass(frozen=True)
class Speed:
    """Processor seconds of each turn."""

    protocol: int
    steps: int
    decompressing: Sequence[float]
    ingesting: Sequence[float]

    @property
    def ratio(self) -> float:
        """Ingest's steps per second, of bz2's: the median of the turns."""
        return statistics.median(a / b for a, b in zip(self.decompressing, self.ingesting, strict=True))


# In this process, whose time and memory are measured.
HERE = IngestOptions(workers=0)


def same(expected: Any, found: Any) -> bool:
    """Equal in type, value and order; a numpy scalar comes back as the Python one."""
    if isinstance(expected, np.generic):
        expected = expected.item()
    if type(expected) is not type(found):
        return False
    if isinstance(expected, dict):
        return expected.keys() == found.keys() and all(same(expected[key], found[key]) for key in expected)
    if isinstance(expected, list | tuple):
        return len(expected) == len(found) and all(map(same, expected, found))
    if isinstance(expected, np.ndarray):
        return expected.dtype == found.dtype and np.array_equal(expected, found)
    return bool(expected == found)


def check_equal(folder: Path, work: Path) -> int:
    """The shortest episode is in the lake as it was pickled; returns the steps of all that were ingested."""
    lake = Lake(work / "checked")
    path = min(folder.glob("*.pickle.bz2"), key=lambda path: path.stat().st_size)
    name = path.name.partition(".")[0]
    if not same(crowdplay_way.load(path), lake.episode(name).get_raw_trajectory()):
        raise SystemExit(f"episode {name}: the lake does not give back what was pickled; nothing is reported")
    return int(lake.sql("SELECT sum(n_steps) FROM episodes").fetchall()[0][0])


def speed(protocol: int, folder: Path, work: Path, turns: int, say: Console) -> Speed:
    """bz2 alone and ingest, in turn, over all files of the folder."""
    files = sorted(folder.glob("*.pickle.bz2"))
    ingest(folder, work / "checked", HERE)
    steps = check_equal(folder, work)
    alone, whole = [], []
    for turn in range(turns):
        say.print(f"protocol {protocol}, turn {turn + 1} of {turns} …")
        alone.append(sum(timed(partial(decompress, path))[1].processor for path in files))
        whole.append(timed(partial(ingest, folder, work / f"lake-{turn}", HERE))[1].processor)
    return Speed(protocol, steps, alone, whole)


def peak_of_ingest(raw: Path, lake: Path) -> int:
    """MiB that this process, which does nothing else, has at most."""
    ingest(raw, lake, HERE)
    return memory.peak() // 2**20


def peak(steps: int, work: Path) -> int:
    """MiB that ingest takes for an episode of so many steps of two players on a scrolling screen."""
    raw = work / f"raw-{steps}"
    raw.mkdir()
    write(raw / "long.pickle.gz", LongEpisode(steps))
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        return executor.submit(peak_of_ingest, raw, work / f"lake-{steps}").result()


def speed_table(measured: Sequence[Speed]) -> Table:
    rows = []
    for one in measured:
        alone, whole = statistics.median(one.decompressing), statistics.median(one.ingesting)
        rows.append(
            (
                f"{one.protocol}",
                f"{one.steps:,}",
                f"{one.steps / alone:,.0f}",
                f"{one.steps / whole:,.0f}",
                f"{one.ratio:.2f}",
            )
        )
    return Table(("protocol", "steps", "bz2 alone, steps/s", "ingest, steps/s", "of bz2"), rows)


def memory_table(peaks: Sequence[tuple[int, int]]) -> Table:
    return Table(("steps", "peak, MiB"), [(f"{steps:,}", f"{mib:,}") for steps, mib in peaks])


def verdicts(speeds: Sequence[Speed], peaks: Sequence[tuple[int, int]]) -> list[str]:
    lowest, highest = min(one.ratio for one in speeds), max((mib for _, mib in peaks), default=0)
    return [
        f"Speed: {lowest:.2f} of bz2's steps per second (target: {SPEED_TARGET}, {_met(lowest >= SPEED_TARGET)}).",
        f"Memory: {highest:,} MiB at most (target: {MEMORY_TARGET:,}, {_met(highest <= MEMORY_TARGET)}).",
    ]


def _met(met: bool) -> str:
    return "met" if met else "missed"


def method(held: str, turns: int) -> list[str]:
    return [
        f"Machine: {cores()} cores, {processor()}. {versions()}.",
        f"Speed: {held}; {turns} turns, in each all files through bz2 alone, then through ingest, commits and all. "
        "Processor time, the median of the turns.",
        "Memory: one episode of two players, 4,500 changed pixels a step, gzip, in a process of its own.",
    ]


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.ingest", description="Speed and memory of ingest.")
    parser.add_argument("--seconds", type=float, default=8.0, help="of game time of an episode of the sample (8)")
    parser.add_argument("--turns", type=int, default=5, help="of each way (5)")
    parser.add_argument("--steps", type=int, nargs="*", default=[10_000, 100_000], help="of the long episodes")
    parser.add_argument("--write", action="store_true", help=f"write the section of {PAGE.parent.name}/{PAGE.name}")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    say = Console(stderr=True, highlight=False)
    with tempfile.TemporaryDirectory(prefix="crowdplay-lake-bench-") as folder:
        work = Path(folder)
        try:
            peaks = []
            for steps in options.steps:
                say.print(f"memory of {steps:,} steps …")
                peaks.append((steps, peak(steps, work)))
            for protocol in PROTOCOLS:
                say.print(f"recording in protocol {protocol} …")
                record(work / f"{protocol}/raw", sample_plan(options.seconds), RecordingOptions(protocol=protocol))
            held = stay_on_one_core()
            speeds = [speed(p, work / f"{p}/raw", work / f"{p}", options.turns, say) for p in PROTOCOLS]
        except CrowdPlayLakeError as error:
            say.print(str(error), markup=False)
            return 1
    report = Report("Measured")
    report.add("Result", verdicts(speeds, peaks))
    report.add("Speed, one core", speed_table(speeds))
    report.add("Memory", memory_table(peaks))
    report.add("Method", method(held, options.turns))
    if options.write:
        replace_section(PAGE, BEGIN, report.markdown())
    report.show(Console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
