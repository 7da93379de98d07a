"""Two figures of the lake, measured beside CrowdPlay's way: `python -m benchmarks.reader --help`.

- Storage: bytes of the whole lake folder, logs and all, against the bytes of the bz2 files it was made from.
- Reading: steps per second of `get_processed_trajectory`, lake to arrays, against `benchmarks.crowdplay_way` from bz2,
  gzip and plain pickles.

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
from .measuring import COPIES, JOBS, Job, Measured, measure, total
from .report import Report, Table, replace_section

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
BEGIN = "<!-- measured: python -m benchmarks.reader --write -->\n"

STORAGE_TARGET = 0.30
# Times CrowdPlay's speed, from bz2, gzip and plain pickles.
READING_TARGETS = dict(zip(JOBS, ((300, 75, 25), (200, 85, 60)), strict=True))
FORMS = ("bz2", "gzip", "plain")


def reading_table(measured: Measured, job: Job) -> Table:
    """Steps per second by game, and over everything with the opening of the lake."""
    rows = []
    for game in sorted({one.game for one in measured.raw}):
        of_game = [one for one in measured.raw if one.game == game]
        steps = sum(one.steps for one in of_game)
        theirs = measured.crowdplay("bz2", job, of_game).wall
        ours = [sum(p.wall_of[one.episode_id] for one in of_game) for p in measured.passes[job]]
        rows.append(_reading_row(game, steps, theirs, ours))
    theirs = measured.crowdplay("bz2", job).wall
    ours = [p.total.wall for p in measured.passes[job]]
    columns = ("game", "steps", "CrowdPlay, bz2", "lake", "lowest", "highest", "times")
    return Table(columns, rows, _reading_row("all", measured.steps, theirs, ours))


def _reading_row(name: str, steps: int, theirs: float, ours: Sequence[float]) -> tuple[str, ...]:
    """From the seconds of both, the lake's for each pass."""
    median = statistics.median(ours)
    rates = (steps / theirs, steps / median, steps / max(ours), steps / min(ours), theirs / median)
    return name, f"{steps:,}", *(f"{rate:,.0f}" for rate in rates)


def forms_table(measured: Measured) -> Table:
    """Every job from every form of the raw files, against the lake, by processor time."""
    rows = []
    for job, targets in READING_TARGETS.items():
        ours = _median(measured, job)
        for form, target in zip(FORMS, targets, strict=True):
            theirs = measured.crowdplay(form, job).processor
            rates = (measured.steps / theirs, measured.steps / ours)
            rows.append((f"{job.name}, {form}", *(f"{r:,.0f}" for r in rates), f"{theirs / ours:,.0f}", f"{target}"))
    return Table(("job", "CrowdPlay, steps/s", "lake, steps/s", "times", "target"), rows)


def floor_table(measured: Measured) -> Table:
    """What the lake's reader takes, beside what it can't do without."""
    rows = []
    for job in JOBS:
        ours = _median(measured, job)
        floor = statistics.median(p.floor.processor for p in measured.passes[job])
        per_step = 1e6 / measured.steps
        rows.append((job.name, f"{floor * per_step:.2f}", f"{ours * per_step:.2f}", f"{ours / floor:.1f}"))
    return Table(("job", "floor, µs a step", "reader, µs a step", "times the floor"), rows)


def _median(measured: Measured, job: Job) -> float:
    return statistics.median(p.total.processor for p in measured.passes[job])


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
    """The figures against their targets."""
    stored = sum(measured.lake_bytes.values()) / measured.ingested.bytes
    told = [
        f"Storage: {stored:.3f} of the bytes of the bz2 files "
        f"(target: at most {STORAGE_TARGET:.2f}, {_met(stored <= STORAGE_TARGET)})."
    ]
    for job, targets in READING_TARGETS.items():
        times = [measured.crowdplay(form, job).processor / _median(measured, job) for form in FORMS]
        cells = [
            f"{form} {one:,.0f} (target: {target}, {_met(one >= target)})"
            for form, one, target in zip(FORMS, times, targets, strict=True)
        ]
        told.append(f"Reading {job.name}, times CrowdPlay's speed by processor time: {', '.join(cells)}.")
    return told


def _met(met: bool) -> str:
    return "met" if met else "missed"


def method(held: str, repeats: int) -> list[str]:
    return [
        f"Machine: {cores()} cores, {processor()}. {versions()}.",
        f"Everything in one process: {held}. All files are in the page cache. Kernels are compiled beforehand.",
        "Storage: the size of every file below the lake's folder after one ingest, the logs included.",
        f"Reading, lake: get_processed_trajectory of {DEFAULT_AGENT} over all episodes, the stack as the first axis; "
        f"{repeats} passes a job, each opening a fresh copy of the lake, in which every episode is {COPIES} times "
        "(whole, under other ids), for opening it and its parts is little of a real lake's time; the figures are of "
        "one of them. Medians, and the lowest and the highest pass. "
        "The line of all episodes, and what is said by processor time, count the opening of the lake too.",
        "Reading, CrowdPlay's way: decompression, unpickling, then frame by frame a ring of frames and for every "
        "emitted step the maximum of two, cv2.cvtColor, and cv2.resize with INTER_AREA, for each image of a stack; "
        "loading and processing are timed apart and added; every episode twice, at different times, and the quicker "
        "run counts. gzip at level 1, as CrowdPlay's script packs it.",
        "The two alternate: a share of the episodes CrowdPlay's way, a pass over the lake, the next share, and so on. "
        "For every episode and job both gave the same observations, actions, rewards and terminals; "
        "the lake's have the episode's last step besides, which CrowdPlay drops. Stacks of every step are a view of "
        "the images, each of which is in memory once; CrowdPlay's way makes each of them four times.",
        "The floor: reading the row groups of frames with Arrow, which decompresses them, and filling arrays as large "
        "as the images, each by itself. The reader has the steps' columns and the opening of the lake besides.",
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
    parser.add_argument("--seconds", type=float, default=40.0, help="of game time of an episode of the sample (40)")
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
    report.add("Reading against every form of the raw files", forms_table(measured))
    for job in JOBS:
        report.add(f"Reading {job.name}, steps per second", reading_table(measured, job))
    report.add("Reading against its floor", floor_table(measured))
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
