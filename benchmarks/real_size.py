"""Recorded episodes repeated to the published 65 million steps, and asked: `python -m benchmarks.real_size --help`.

Three lakes: what is recorded, and its episodes repeated (`repeated`) to a tenth of the published steps and to all of
them. Each question is asked of each lake in a process of its own. Copies are exact and every episode is in equally
often, so every answer of a larger lake is checked against that of the recorded one.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from rich.console import Console

from crowdplay_ingest.pipeline import IngestOptions, ingest
from crowdplay_lake import CrowdPlayLakeError, Lake
from crowdplay_lake.schema import STEPS

from .comparison_tables import PUBLISHED_STEPS
from .machine import cores, processor, versions
from .repeated import copy_id, repeat_episodes, sample
from .report import Report, Table, replace_section
from .size_questions import QUESTIONS, Measured, Question, answered

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
BEGIN = "<!-- measured: python -m benchmarks.real_size --write -->\n"
WARM = "warm"


@dataclass(frozen=True)
class Size:
    """A lake of the benchmark."""

    path: Path
    copies: int  # how often each recorded episode is in it
    episodes: int
    episode: str  # the id of one, or of its last copy
    steps: int
    bytes: dict[str, int]  # by table, and of logs and checksums


@dataclass(frozen=True)
class Asked:
    """A question, and what it took of each lake; of the last one None where it is not asked that."""

    question: Question
    measured: list[Measured | None]


def recorded_lake(folder: Path, options: argparse.Namespace, say: Console) -> Size:
    """What is recorded, made unless it is there; and a copy, with which libraries and kernels are loaded."""
    path = folder / "recorded"
    if not path.exists():
        say.print("recording …")
        sample(folder / "raw", options.rows, options.processes)
        say.print("ingesting …")
        ingest(folder / "raw", path, IngestOptions(workers=options.processes))
        shutil.rmtree(folder / "raw")
    if not (folder / WARM).exists():
        shutil.copytree(path, folder / WARM)
    return _size(path, 1)


def repeated_lake(recorded: Size, steps: int, processes: int, say: Console) -> Size:
    """The recorded lake with so many steps, made unless it is there."""
    path = recorded.path.with_name(f"{steps}-steps")
    if not path.exists():
        say.print(f"repeating to {steps:,} steps …")
        making = path.with_name("unfinished")
        shutil.rmtree(making, ignore_errors=True)
        shutil.copytree(recorded.path, making)
        repeat_episodes(making, steps, processes)
        making.rename(path)
    return _size(path, -(-steps // recorded.steps))


def _size(path: Path, copies: int) -> Size:
    lake = Lake(path)
    query = "SELECT count(*), min(episode_id), sum(n_steps) FROM episodes"
    episodes, first, steps = lake.sql(query).fetchall()[0]
    sizes: dict[str, int] = {}
    for file in path.rglob("*"):
        if file.is_file():
            table, *rest = file.relative_to(path).parts
            kind = (
                table if rest and table in lake.snapshot.versions and rest[0] != "_delta_log" else "logs and checksums"
            )
            sizes[kind] = sizes.get(kind, 0) + file.stat().st_size
    return Size(path, copies, episodes, copy_id(copies - 1, first), int(steps), sizes)


def ask(size: Size, is_last: bool, say: Console) -> list[Measured | None]:
    """Every question of a lake, each run in a process of its own; the run that took the processor least counts."""
    found: list[Measured | None] = []
    for question in QUESTIONS:
        if is_last and not question.of_last:
            found.append(None)
            continue
        runs = [_in_a_process(size, question.name) for _ in range(question.runs)]
        found.append(min(runs, key=lambda run: run.processor))
        told = ", ".join(f"{run.seconds:,.2f} ({run.processor:,.2f})" for run in runs)
        say.print(f"{size.steps:,} steps: {question.text}: {told} s", markup=False)
    return found


def _in_a_process(size: Size, question: str) -> Measured:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        return executor.submit(answered, size.path, question, size.episode, size.path.with_name(WARM)).result()


def check(sizes: Sequence[Size], asked: Sequence[Asked]) -> None:
    """Raises SystemExit where an answer is not that of the recorded lake, as often as it is repeated."""
    for one in asked:
        recorded, *others = one.measured
        for size, other in zip(sizes[1:], others, strict=True):
            if recorded and other and not other.answer.is_times(recorded.answer, size.copies):
                raise SystemExit(
                    f"{one.question.text}: {size.path.name} answers {other.answer}, the recorded lake"
                    f" {recorded.answer}; nothing is reported"
                )


# The report


def result(sizes: Sequence[Size], asked: Sequence[Asked]) -> list[str]:
    *_, before, last = sizes
    data = last.steps / before.steps
    growths = {one.question.text: growth for one in asked if (growth := _growth(one)) is not None}
    faster = [f"{text} ({growth:.1f} times)" for text, growth in growths.items() if growth > 1.05 * data]
    memory = max((measured.own, one.question.text) for one in asked if (measured := one.measured[-1]))
    by_name = {one.question.name: one.measured for one in asked}
    conversion = by_name["conversion"]
    sentences = [
        f"The lake: {last.steps:,} steps of {last.episodes:,} episodes in {sum(last.bytes.values()) / 1e9:,.2f} GB, "
        f"{sum(last.bytes.values()) / last.steps:,.1f} bytes a step, as an ingest leaves it, not compacted.",
        f"From {before.steps:,} to {last.steps:,} steps, {data:.1f} times, the processor time of a question grows "
        f"{min(growths.values()):.1f} to {max(growths.values()):.1f} times; faster than the data: "
        f"{', '.join(faster) or 'none (5% are allowed for)'}.",
        f"Most memory of its own, {memory[0] >> 20:,} MiB, took: {memory[1]}.",
    ]
    if conversion[-1]:
        rates = (last.steps / conversion[-1].processor, last.steps / conversion[-1].seconds)
        sentences.append(
            f"Full conversion: {rates[0]:,.0f} steps a second of the processor, {rates[1]:,.0f} by the clock."
        )
    for name, what in (("processes", "two processes"), ("threads", "two threads")):
        one, two = conversion[-2], by_name[name][-2]
        if one and two:
            sentences.append(
                f"{before.steps:,} steps by {what}: {one.seconds / two.seconds:.2f} times as fast as by one by the "
                f"clock, which other work on the machine disturbs; they take {two.processor / one.processor:.2f} times "
                "its processor time, so that with a core each they would be "
                f"{2 * one.processor / two.processor:.2f} times as fast (a projection)."
            )
    return sentences


def _growth(one: Asked) -> float | None:
    """By how many times the last lake takes more of the processor than the one before."""
    *_, before, last = one.measured
    return last.processor / before.processor if before and last else None


def time_table(sizes: Sequence[Size], asked: Sequence[Asked]) -> Table:
    rows = []
    for one in asked:
        cells = [f"{_seconds(run.processor)} ({_seconds(run.seconds)})" if run else "" for run in one.measured]
        growth = _growth(one)
        rows.append((one.question.text, *cells, "" if growth is None else f"{growth:.1f}"))
    lakes = [f"{size.steps:,} steps, s" for size in sizes]
    times = f"times, for {sizes[-1].steps / sizes[-2].steps:.1f} times the data"
    return Table(("question: processor (clock)", *lakes, times), rows)


def memory_table(sizes: Sequence[Size], asked: Sequence[Asked]) -> Table:
    rows = [
        (one.question.text, *(f"{run.own >> 20:,} ({run.peak >> 20:,})" if run else "" for run in one.measured))
        for one in asked
    ]
    return Table(("question: own (with mapped files)", *(f"{size.steps:,} steps, MiB" for size in sizes)), rows)


def size_table(sizes: Sequence[Size]) -> Table:
    last = sizes[-1]
    rows = []
    for name in sorted(last.bytes, key=lambda name: -last.bytes[name]):
        own = [size.bytes.get(name, 0) for size in sizes]
        rows.append((name, *(f"{count / 1e6:,.1f}" for count in own), f"{own[-1] / last.steps:,.2f}"))
    totals = [sum(size.bytes.values()) for size in sizes]
    total = ("all", *(f"{count / 1e6:,.1f}" for count in totals), f"{totals[-1] / last.steps:,.2f}")
    lakes = [f"{size.steps:,} steps, MB" for size in sizes]
    return Table(("what", *lakes, "the last: bytes a step"), rows, total)


def _seconds(seconds: float) -> str:
    return f"{seconds:,.3f}" if seconds < 1 else f"{seconds:,.1f}"


def method(sizes: Sequence[Size]) -> list[str]:
    recorded, *others = sizes
    lengths = [int(length) for (length,) in Lake(recorded.path).sql("SELECT n_steps FROM episodes").fetchall()]
    quartiles = statistics.quantiles(lengths, n=4)
    rows = Lake(recorded.path).sql("SELECT game, count(*) FROM steps GROUP BY game ORDER BY ALL").fetchall()
    fewest = min(int(count) for _, count in rows)
    apart = (
        "" if fewest >= STEPS.row_group_rows else ". NOT SO HERE: the sample is too small for it, sizes are too small"
    )
    return [
        f"Machine: {cores()} cores, {processor()}, with other work on it. {versions()}.",
        f"Recorded by the recorder: {recorded.episodes:,} episodes, {recorded.steps:,} steps of {len(rows)} games, "
        f"half of them {quartiles[0]:,.0f} to {quartiles[2]:,.0f} steps long. Nobody here has the published data, of "
        f"which there are {PUBLISHED_STEPS:,} steps; people's play changes other pixels than the recorder's.",
        f"The larger lakes are generated: each recorded episode {' and '.join(str(size.copies) for size in others)} "
        "times, under ids that begin with 'generated', whole: all rows of all tables, frames included. A copy is its "
        "recording to the byte. None is compressed away by another: Parquet compresses a row group by itself, at most "
        f"{STEPS.row_group_rows:,} rows of `steps`, and of every game at least {fewest:,} are recorded, so that no row "
        f"group has the same episode twice{apart}. Row groups of `frames` are of one episode.",
        "Every question in a process of its own, which has first asked another lake something like it, so that "
        "libraries and kernels are loaded; files in the page cache. From opening the lake to the answer: processor "
        "time of all threads and processes, in brackets by the clock. The run of "
        f"{max(q.runs for q in QUESTIONS)} that took the processor least; one run of what takes minutes.",
        "Memory: the process's own at most (in brackets with what is mapped from files, of which the system keeps what "
        "fits), interpreter and libraries included; with two processes that of the larger one.",
        "Checked: every answer of a larger lake is that of the recorded one, times the copies where it is an amount.",
        "Full conversion: get_processed_trajectory(framestack_axis_first=True, stack_n=1, downsample_frequency=4) of "
        "the first player of every episode, one after the other, none kept.",
    ]


def report(sizes: Sequence[Size], asked: Sequence[Asked]) -> Report:
    made = Report("Measured")
    made.add("Result", result(sizes, asked))
    made.add("Time", time_table(sizes, asked))
    made.add("Memory", memory_table(sizes, asked))
    made.add("Size", size_table(sizes))
    made.add("Method", method(sizes))
    return made


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.real_size",
        description="A lake of the published size, of repeated recordings, asked beside smaller ones.",
        epilog="With the defaults about an hour on two cores and 6 GB of disk.",
    )
    steps = [PUBLISHED_STEPS // 10, PUBLISHED_STEPS]
    parser.add_argument(
        "--steps", type=int, nargs="+", default=steps, help="of the larger lakes (6,500,000 65,000,000)"
    )
    parser.add_argument("--rows", type=int, default=STEPS.row_group_rows, help="recorded of each game (65,536)")
    parser.add_argument("--processes", type=int, default=cores(), help="that record, ingest and repeat")
    parser.add_argument("--folder", type=Path, help="where the lakes are made and kept; by default a temporary one")
    parser.add_argument("--write", action="store_true", help=f"write the section of {PAGE.parent.name}/{PAGE.name}")
    parsed = parser.parse_args(arguments)
    for name in ("rows", "processes"):
        if getattr(parsed, name) < 1:
            parser.error(f"--{name} is {getattr(parsed, name)}; at least 1")
    return parsed


def measured(folder: Path, options: argparse.Namespace, say: Console) -> Report:
    """Make the lakes, ask them, and report. Raises SystemExit where answers differ."""
    sizes = [recorded_lake(folder, options, say)]
    found = [ask(sizes[0], False, say)]
    for steps in sorted(options.steps):
        sizes.append(repeated_lake(sizes[0], steps, options.processes, say))
        found.append(ask(sizes[-1], steps == max(options.steps), say))
    asked = [Asked(question, list(of_lakes)) for question, *of_lakes in zip(QUESTIONS, *found, strict=True)]
    check(sizes, asked)
    return report(sizes, asked)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    say = Console(stderr=True, highlight=False)
    with tempfile.TemporaryDirectory(prefix="crowdplay-lake-bench-") as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            made = measured(folder, options, say)
        except CrowdPlayLakeError as error:
            say.print(str(error), markup=False)
            return 1
    if options.write:
        replace_section(PAGE, BEGIN, made.markdown())
    made.show(Console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
