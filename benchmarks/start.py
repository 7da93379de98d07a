"""How soon something happens: `python -m benchmarks.start --help`.

Every figure is that of a whole process, from its start to its end, by the clock and by processor time. An installation
to which nothing may be written, and no folder for compiled kernels at all, are tried too, on a copy of the package.
"""

from __future__ import annotations

import argparse
import compileall
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

import crowdplay_ingest
import crowdplay_lake
from crowdplay_ingest.pipeline import IngestOptions, ingest
from crowdplay_ingest.recorder import EnvironmentPlan, EpisodePlan, RecordingOptions, record
from crowdplay_lake import CrowdPlayLakeError
from crowdplay_lake.cache_folder import CACHE_VARIABLE

from .machine import cores, processor, versions
from .report import Report, Table, replace_section

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
BEGIN = "<!-- measured: python -m benchmarks.start --write -->\n"
# Root may write anywhere; without these rights he is as bound as everybody.
BOUND = ("setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner", "--")
PLAN = [EnvironmentPlan("breakout_mturk", (EpisodePlan(600),), ("ben",))]

LIBRARY = "from crowdplay_lake import Lake"
OBSERVATION = f"{LIBRARY}; import sys; Lake(sys.argv[1]).episodes()[0].observations()[300]"


@dataclass(frozen=True)
class Start:
    """A process to be timed."""

    text: str
    arguments: Sequence[str]
    target: float | None = None  # seconds
    environment: Mapping[str, str] = field(default_factory=dict)
    # Before every run, what earlier ones compiled is thrown away.
    forgotten: Path | None = None


_Run = tuple[float, float]  # seconds of a whole process: by the clock, of the processor


def starts(work: Path) -> list[Start]:
    """What is timed, of what `prepared` has made."""
    lake = str(work / "lake")
    python = [sys.executable, "-c"]
    command = str(Path(sys.executable).with_name("crowdplay-lake"))
    warm = {CACHE_VARIABLE: str(work / "cache")}
    cold = {CACHE_VARIABLE: str(work / "cold")}
    installed = work / "installed"
    read_only = {CACHE_VARIABLE: str(work / "others"), "PYTHONPATH": str(installed)}
    nowhere = {CACHE_VARIABLE: str(installed / "cache"), "PYTHONPATH": str(installed)}
    bound = BOUND if os.access(installed, os.W_OK) else ()
    there = f"{OBSERVATION}; import os, crowdplay_lake as c; assert c.__file__.startswith({str(installed)!r}); "
    there += f"assert not os.access({str(installed)!r}, os.W_OK)"
    return [
        Start("Python that does nothing", [*python, "pass"]),
        Start("`import crowdplay_lake`", [*python, "import crowdplay_lake"], 0.3),
        Start("`from crowdplay_lake import Lake`", [*python, LIBRARY]),
        Start("`crowdplay-lake --help`", [command, "--help"], 0.5),
        Start("the first observation", [*python, OBSERVATION, lake], 2.0, warm),
        Start("the same, read-only installation", [*bound, *python, there, lake], 2.0, read_only),
        Start("the same, kernels compiled and kept", [*python, OBSERVATION, lake], None, cold, work / "cold"),
        Start("the same, read-only and no place for kernels", [*bound, *python, there, lake], None, nowhere),
    ]


def prepared(work: Path) -> None:
    """A lake, and an installation to which nobody may write."""
    record(work / "raw", PLAN, RecordingOptions(compression="none"))
    ingest(work / "raw", work / "lake", IngestOptions(workers=0))
    for package in (crowdplay_lake, crowdplay_ingest):
        (source,) = package.__path__
        target = work / "installed" / Path(source).name
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        compileall.compile_dir(target, quiet=1)
    for path in (work / "installed", *(work / "installed").rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)


def timed(start: Start) -> _Run:
    """Run it once. Raises SystemExit where the process fails."""
    if start.forgotten is not None:
        shutil.rmtree(start.forgotten, ignore_errors=True)
    environment = {**os.environ, **start.environment}
    before = os.times()
    begun = time.perf_counter()
    done = subprocess.run(start.arguments, env=environment, cwd="/", capture_output=True, text=True, check=False)
    wall = time.perf_counter() - begun
    after = os.times()
    if done.returncode:
        raise SystemExit(f"{start.text}: {done.stderr.strip()}")
    return wall, after.children_user + after.children_system - before.children_user - before.children_system


def measure(all_starts: Sequence[Start], turns: int, say: Console) -> list[list[_Run]]:
    """All in turn, after a run of each that does not count."""
    runs: list[list[_Run]] = [[] for _ in all_starts]
    for turn in range(turns + 1):
        say.print(f"turn {turn} of {turns} …")
        for start, found in zip(all_starts, runs, strict=True):
            run = timed(start)
            if turn:
                found.append(run)
    return runs


def report(all_starts: Sequence[Start], runs: Sequence[Sequence[_Run]], turns: int) -> Report:
    rows = []
    verdicts = []
    for start, found in zip(all_starts, runs, strict=True):
        wall, spent = ([run[kind] for run in found] for kind in (0, 1))
        cells = [
            f"{statistics.median(wall):.2f} ({min(wall):.2f} to {max(wall):.2f})",
            f"{statistics.median(spent):.2f}",
        ]
        rows.append((start.text, *cells, "" if start.target is None else f"{start.target:.1f}"))
        if start.target is not None:
            verdicts.append(
                f"{start.text[0].upper()}{start.text[1:]}, under {start.target:.1f} s: "
                f"{_met(statistics.median(wall), start.target)} by the clock, "
                f"{_met(statistics.median(spent), start.target)} by processor time."
            )
    made = Report("Measured")
    made.add("Result", verdicts)
    made.add("Whole processes", Table(("what", "by the clock, s", "processor, s", "target, s"), rows))
    made.add(
        "Method",
        [
            f"Machine: {cores()} cores, {processor()}, with other work on it. {versions()}.",
            f"From the start of a process to its end, Python itself included; all in turn, medians of {turns} runs,"
            " in brackets the shortest and the longest; files in the page cache. Other work on the machine disturbs the"
            " clock more than the processor time.",
            "The first observation: open a lake, take its first episode, one default observation of step 300. Kernels "
            "were compiled by an earlier process and are on disk, but where it says otherwise.",
            "Read-only: a copy of the package to which the process may not write (it asserts that). Where it may write "
            "to no folder for compiled kernels either, every process compiles what it uses.",
        ],
    )
    return made


def _met(seconds: float, target: float) -> str:
    return "met" if seconds < target else "missed"


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.start", description="How soon something happens.")
    parser.add_argument("--turns", type=int, default=5, help="of each (5)")
    parser.add_argument("--write", action="store_true", help=f"write the section of {PAGE.parent.name}/{PAGE.name}")
    parsed = parser.parse_args(arguments)
    if parsed.turns < 1:
        parser.error(f"--turns is {parsed.turns}; at least 1")
    return parsed


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    say = Console(stderr=True, highlight=False)
    with tempfile.TemporaryDirectory(prefix="crowdplay-lake-bench-") as folder:
        work = Path(folder)
        try:
            prepared(work)
            all_starts = starts(work)
            made = report(all_starts, measure(all_starts, options.turns, say), options.turns)
        except CrowdPlayLakeError as error:
            say.print(str(error), markup=False)
            return 1
        finally:
            # A folder without the right to write cannot be emptied.
            installed = work / "installed"
            for path in (installed, *installed.rglob("*")) if installed.exists() else ():
                path.chmod(0o755)
    if options.write:
        replace_section(PAGE, BEGIN, made.markdown())
    made.show(Console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
