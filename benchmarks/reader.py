"""Two figures of the lake, measured beside CrowdPlay's way: `python -m benchmarks.reader --help`.

- Storage: bytes of the whole lake folder, logs and all, against the bytes of the bz2 files it was made from.
- Reading: steps per second of `get_processed_trajectory`, lake to arrays, against `benchmarks.crowdplay_way`.

No figure is printed unless both ways gave the same arrays for every episode.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from crowdplay_ingest.recorder import RecordingOptions, record, sample_plan
from crowdplay_lake import CrowdPlayLakeError
from crowdplay_lake.episode import DEFAULT_AGENT

from .machine import cores, processor, stay_on_one_core, versions
from .measuring import DOWNSAMPLE, Measured, measure, total
from .report import Report, Table, replace_section

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
BEGIN = "<!-- measured: python -m benchmarks.reader --write -->\n"

STORAGE_TARGET = 0.30
READING_TARGET = 100


def reading_table(measured: Measured) -> Table:
    """Steps per second by game, and over everything with the opening of the lake."""
    rows = []
    for game in sorted({one.game for one in measured.raw}):
        of_game = [one for one in measured.raw if one.game == game]
        steps = sum(one.steps for one in of_game)
        theirs = total(measured.crowdplay[one.episode_id] for one in of_game).wall
        ours = [sum(p.wall_of[one.episode_id] for one in of_game) for p in measured.passes]
        rows.append(_reading_row(game, steps, theirs, ours))
    theirs = total(measured.crowdplay.values()).wall
    ours = [p.total.wall for p in measured.passes]
    columns = ("game", "steps", "CrowdPlay", "lake", "lowest", "highest", "times")
    return Table(columns, rows, _reading_row("all", measured.steps, theirs, ours))


def _reading_row(name: str, steps: int, theirs: float, ours: Sequence[float]) -> tuple[str, ...]:
    """From the seconds of both, the lake's for each pass."""
    median = statistics.median(ours)
    rates = (steps / theirs, steps / median, steps / max(ours), steps / min(ours), theirs / median)
    return name, f"{steps:,}", *(f"{rate:,.0f}" for rate in rates)


def storage_table(measured: Measured) -> Table:
    """Where the bytes of the lake are."""
    sizes = [("bz2 files", measured.ingested.bytes)]
    sizes += [(f"lake: {name}", size) for name, size in measured.lake_bytes.items()]
    sizes += [("lake: all", sum(measured.lake_bytes.values()))]
    *rows, whole = [
        (name, f"{size:,}", f"{size / measured.ingested.steps:,.1f}", f"{size / measured.ingested.bytes:.3f}")
        for name, size in sizes
    ]
    return Table(("what", "bytes", "bytes a step", "of the bz2 files"), rows, whole)


def ingest_table(measured: Measured) -> Table:
    """Ingest against what no ingest can go below: decompression."""
    decompressing = total(measured.decompressing.values())
    steps = measured.ingested.steps
    rows = [
        (
            name,
            f"{spent.wall:,.1f}",
            f"{spent.processor:,.1f}",
            f"{steps / spent.wall:,.0f}",
            f"{decompressing.wall / spent.wall:.2f}",
        )
        for name, spent in (("decompressing bz2", decompressing), ("ingest", measured.ingesting))
    ]
    columns = ("what", "seconds", "processor seconds", "steps/s", "of decompressing")
    return Table(columns, rows)


def verdicts(measured: Measured) -> list[str]:
    """The two figures against their targets."""
    stored = sum(measured.lake_bytes.values()) / measured.ingested.bytes
    theirs = total(measured.crowdplay.values())
    by_wall = theirs.wall / statistics.median(p.total.wall for p in measured.passes)
    by_processor = theirs.processor / statistics.median(p.total.processor for p in measured.passes)
    return [
        f"Storage: {stored:.3f} of the bytes of the bz2 files "
        f"(target: at most {STORAGE_TARGET:.2f}, {_met(stored <= STORAGE_TARGET)}).",
        f"Reading: {by_wall:,.0f} times CrowdPlay's steps per second "
        f"(target: at least {READING_TARGET}, {_met(by_wall >= READING_TARGET)}); "
        f"by processor time, which other work on the machine disturbs less, {by_processor:,.0f} times.",
    ]


def _met(met: bool) -> str:
    return "met" if met else "missed"


def method(held: str, repeats: int) -> list[str]:
    return [
        f"Machine: {cores()} cores, {processor()}. {versions()}.",
        f"Everything in one process: {held}. All files are in the page cache. Kernels are compiled beforehand.",
        "Storage: the size of every file below the lake's folder after one ingest, the logs included.",
        f"Reading, lake: get_processed_trajectory(framestack_axis_first=True, stack_n=1, downsample_frequency="
        f"{DOWNSAMPLE}) of {DEFAULT_AGENT} over all episodes; {repeats} passes, each opening a fresh copy of the lake. "
        "Medians, and the lowest and the highest pass. The line of all episodes counts the opening of the lake too.",
        "Reading, CrowdPlay's way: bz2 decompression, unpickling, then frame by frame a ring of frames and for every "
        f"{DOWNSAMPLE}th step the maximum of two, cv2.cvtColor, and cv2.resize with INTER_AREA; every episode twice, "
        "at different times, and the quicker run counts.",
        "The two alternate: a share of the episodes CrowdPlay's way, a pass over the lake, the next share, and so on. "
        "For every episode both gave the same observations, actions, rewards and terminals; "
        "the lake's have the episode's last step besides, which CrowdPlay drops.",
        "Ingest: from bz2 files to the commit, against reading the same files through Python's bz2 and doing nothing; "
        "both twice, and the quicker run counts.",
    ]


def raw_files(folder: Path) -> list[Path]:
    """The bz2 files below ``folder``; other forms of a trajectory would be another yardstick."""
    if not folder.is_dir():
        raise SystemExit(f"{folder}: no such folder")
    others = [*folder.rglob("*.pickle"), *folder.rglob("*.pickle.gz")]
    if others:
        raise SystemExit(f"{others[0]}: not bz2; the figures are against .pickle.bz2 files only")
    files = sorted(folder.rglob("*.pickle.bz2"))
    if not files:
        raise SystemExit(f"{folder}: no .pickle.bz2 below it")
    return files


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.reader",
        description="The lake's size and reading speed against CrowdPlay's raw files and way of reading them.",
        epilog="Raw files are unpickled, which runs whatever they say: give files of your own recording only.",
    )
    parser.add_argument("--raw", type=Path, metavar="FOLDER", help="raw episodes; a sample is recorded by default")
    parser.add_argument("--seconds", type=float, default=8.0, help="of game time of an episode of the sample (8)")
    parser.add_argument("--repeats", type=int, default=7, help="passes over the lake (7)")
    parser.add_argument("--write", action="store_true", help=f"write the section of {PAGE.parent.name}/{PAGE.name}")
    parsed = parser.parse_args(arguments)
    if parsed.repeats < 1:
        parser.error(f"--repeats is {parsed.repeats}; at least 1")
    return parsed


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    say = Console(stderr=True, highlight=False)
    with tempfile.TemporaryDirectory(prefix="crowdplay-lake-bench-") as folder:
        work = Path(folder)
        raw: Path = options.raw or work / "raw"
        try:
            if options.raw is None:
                say.print("recording the sample …")
                record(raw, sample_plan(options.seconds), RecordingOptions())
            files = raw_files(raw)
            held = stay_on_one_core()
            measured = measure(files, raw, work, options.repeats, say)
        except CrowdPlayLakeError as error:
            say.print(str(error), markup=False)
            return 1
    origin = "recorded by the recorder" if options.raw is None else "from a folder of raw episodes"
    report = Report("Measured")
    report.add("Result", verdicts(measured))
    report.add("Reading, steps per second", reading_table(measured))
    report.add("Storage", storage_table(measured))
    report.add("Ingest, one core", ingest_table(measured))
    input_ = f"Input: {len(measured.raw)} episodes, {measured.steps:,} steps, {origin}."
    report.add("Method", [input_, *method(held, options.repeats)])
    if options.write:
        replace_section(PAGE, BEGIN, report.markdown())
    report.show(Console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
