"""The lake beside other ways to keep the same episodes: `python -m benchmarks.suite --help`.

The same episodes in `benchmarks.peers`, the same jobs of `benchmarks.jobs`, one core, in turn. Nothing is reported
unless every way gave back every frame, and for every job the same arrays.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from crowdplay_ingest.recorder import EnvironmentPlan, EpisodePlan, RecordingOptions, record
from crowdplay_lake import CrowdPlayLakeError

from . import comparison_plot as plot
from . import comparison_tables as tables
from .comparing import Comparison, Turns, compare
from .machine import stay_on_one_core
from .peers import OURS, PEERS, REFERENCE, Peer, Source, missing
from .report import Report, replace_section

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
PICTURE = PAGE.with_suffix(".png")
BEGIN = "<!-- measured: python -m benchmarks.suite --write -->\n"

TASKS = (
    "space_invaders_insideout",
    "breakout_mturk",
    "riverraid_right",
    "qbert_mturk",
    "beam_rider_mturk",
    "montezuma_revenge_mturk",
)


def plan(episodes: int, steps: int) -> list[EnvironmentPlan]:
    """Episodes of one player, the games in turn."""
    chosen = [TASKS[number % len(TASKS)] for number in range(episodes)]
    return [EnvironmentPlan(task, (EpisodePlan(steps),), (f"person {number}",)) for number, task in enumerate(chosen)]


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.suite",
        description="Size and speed of the lake beside CrowdPlay's own files and other formats.",
        epilog="With the defaults some ten minutes on a free machine and 2 GB of disk.",
    )
    parser.add_argument("--episodes", type=int, default=6, help="of the sample, of a game each (6)")
    parser.add_argument("--steps", type=int, default=400, help="of an episode, at most (400)")
    parser.add_argument("--turns", type=int, default=3, help="of each way at each job (3)")
    parser.add_argument("--ingest-turns", type=int, default=1, help="of each way's ingest (1)")
    parser.add_argument("--minutes", type=float, default=15.0, help="after which no further turn is begun (15)")
    parser.add_argument("--ways", nargs="+", metavar="NAME", help="some of the ways only; ours and CrowdPlay's always")
    parser.add_argument("--write", action="store_true", help=f"write the section and picture of {PAGE.name}")
    parsed = parser.parse_args(arguments)
    for name in ("episodes", "steps", "turns", "ingest_turns"):
        if getattr(parsed, name) < 1:
            parser.error(f"--{name.replace('_', '-')} is {getattr(parsed, name)}; at least 1")
    known = [peer.name for peer in PEERS]
    for name in parsed.ways or ():
        if name not in known:
            parser.error(f"--ways: {name!r} is none of: {', '.join(known)}")
    return parsed


def comparable(wanted: Sequence[str] | None, say: Console) -> list[Peer]:
    """The ways that can be compared here; a word about those that cannot."""
    chosen = []
    for peer in PEERS:
        if wanted is not None and peer.name not in wanted and peer not in (OURS, REFERENCE):
            continue
        if missing(peer):
            say.print(f"{peer.name} is left out: pip install {' '.join(missing(peer))}", markup=False)
            continue
        chosen.append(peer)
    return chosen


def report(measured: Comparison, held: str, ingest_turns: int) -> Report:
    made = Report("Measured")
    made.add("Result: crowdplay-lake", tables.result(measured))
    made.add("Size and ingest", tables.size_table(measured))
    made.add("Reading, warm, steps a second", tables.reading_table(measured, tables.READING))
    made.add("Questions, warm", tables.reading_table(measured, tables.QUESTIONS))
    made.add("From the disk, cold", tables.reading_table(measured, tables.FROM_DISK))
    made.add("Where another way is better", tables.not_first(measured))
    made.add("Projected to the published data", tables.projection(measured))
    made.add(
        "What is projected",
        [
            f"Projections, not measurements: nobody here has the {tables.PUBLISHED_STEPS:,} steps. Bytes and seconds a "
            "step of the sample, times the steps; one core. Of the lake the bytes of frames and steps: those of its "
            "metadata and logs grow with episodes and commits. People's play changes other pixels than the sample's: "
            "the published files have 231 bytes a step in bz2.",
        ],
    )
    made.add("Method", tables.method(measured, held, ingest_turns))
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    say = Console(stderr=True, highlight=False)
    with tempfile.TemporaryDirectory(prefix="crowdplay-lake-bench-") as folder:
        work = Path(folder)
        peers = comparable(options.ways, say)
        try:
            say.print("recording the sample …")
            record(work / "raw", plan(options.episodes, options.steps), RecordingOptions())
            held = stay_on_one_core()
            turns = Turns(options.turns, options.ingest_turns, options.minutes)
            measured = compare(Source(work / "raw"), peers, work, turns, say)
        except CrowdPlayLakeError as error:
            say.print(str(error), markup=False)
            return 1
        made = report(measured, held, options.ingest_turns)
        if options.write:
            replace_section(PAGE, BEGIN, made.markdown())
            plot.draw(measured, PICTURE)
    made.show(Console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
