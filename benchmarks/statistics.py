"""Speed of behavioural statistics: `python -m benchmarks.statistics --help`.

How fast the share of steps on the left side of the screen, from RAM, is computed of every step of a lake, against
CrowdPlay's way: unpickle each episode, and feed its steps to a callable one by one. No figure is printed unless both
gave the same value for every step of every episode that CrowdPlay's way was tried on.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console

from crowdplay_ingest.pipeline import IngestOptions, ingest
from crowdplay_ingest.recorder import RecordingOptions, record, sample_plan
from crowdplay_lake import CrowdPlayLakeError, Lake

from . import crowdplay_way
from .machine import cores, processor, stay_on_one_core, versions
from .measuring import timed
from .repeated import repeat_episodes
from .report import Report, Table, replace_section

PAGE = Path(__file__).parent.parent / "docs" / "statistics.md"
BEGIN = "<!-- measured: python -m benchmarks.statistics --write -->\n"

GAMES = ("space_invaders", "space_invaders_2p", "space_invaders_ai")
TARGET = 1_000
# Where the ship is in RAM, its way's ends, and the middle.
SHIP, LEFT_END, RIGHT_END = 0x1C, 0x23, 0x75


class LeftShare:
    """The share of steps on the left half of the ship's way, the way CrowdPlay keeps it: step by step."""

    def __init__(self) -> None:
        self.inside: dict[str, int] = {}
        self.steps = 0

    def __call__(self, step: Mapping[str, Any]) -> dict[str, float]:
        self.steps += 1
        for agent, info in step["info"].items():
            place = (info["RAM"][SHIP + int(agent[-1])] - LEFT_END) / (RIGHT_END - LEFT_END)
            self.inside[agent] = self.inside.get(agent, 0) + (0 <= place <= 0.5)
        return {agent: inside / self.steps for agent, inside in self.inside.items()}


@dataclass(frozen=True)
class Episode:
    """What CrowdPlay's way makes of one file."""

    values: Mapping[str, Sequence[float]]  # by agent
    unpickling: float  # seconds of the processor
    stepping: float


def stepped(path: Path) -> Episode:
    trajectory, unpickling = timed(lambda: crowdplay_way.load(path))
    share = LeftShare()
    values, stepping = timed(lambda: [share(step) for step in trajectory])
    by_agent = {agent: [value[agent] for value in values] for agent in values[0]}
    return Episode(by_agent, unpickling.processor, stepping.processor)


def check_equal(lake: Lake, expected: Mapping[str, Episode]) -> None:
    """Every value of every step is the same."""
    values = lake.statistic("left", list(expected)).sort("episode_id", "agent_id", "step").collect()
    for (episode_id, agent), group in values.group_by("episode_id", "agent_id"):
        if group["value"].to_list() != list(expected[str(episode_id)].values[str(agent)]):
            raise SystemExit(f"episode {episode_id}: the two ways differ; nothing is reported")


def last_values(path: Path) -> pl.DataFrame:
    """From opening the lake to the value of each episode: every step is computed."""
    return Lake(path).statistic("left").group_by("episode_id", "agent_id").agg(pl.col("value").last()).collect()


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.statistics", description="Speed of behavioural statistics.")
    parser.add_argument("--seconds", type=float, default=4.0, help="of game time of an episode of the sample (4)")
    parser.add_argument("--steps", type=int, default=500_000, help="of the lake, its episodes copied (500,000)")
    parser.add_argument("--turns", type=int, default=5, help="over the lake (5)")
    parser.add_argument("--write", action="store_true", help=f"write the section of {PAGE.parent.name}/{PAGE.name}")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    say = Console(stderr=True, highlight=False)
    with tempfile.TemporaryDirectory(prefix="crowdplay-lake-bench-") as folder:
        raw, lake = Path(folder, "raw"), Path(folder, "lake")
        try:
            say.print("recording …")
            record(raw, sample_plan(options.seconds, list(GAMES)), RecordingOptions(protocol=3))
            ingest(raw, lake, IngestOptions(workers=0))
            held = stay_on_one_core()
            say.print("unpickling …")
            files = sorted(raw.glob("*.pickle.bz2"))
            expected = {path.name.partition(".")[0]: stepped(path) for path in files}
            check_equal(Lake(lake), expected)
            say.print("growing the lake …")
            repeat_episodes(lake, options.steps)
            steps = int(Lake(lake).sql("SELECT sum(n_steps) FROM episodes").fetchall()[0][0])
            spent = [timed(lambda: last_values(lake))[1].processor for _ in range(options.turns)]
        except CrowdPlayLakeError as error:
            say.print(str(error), markup=False)
            return 1
    report = measured(expected, steps, spent)
    report.add("Method", method(held, len(files), options.turns))
    if options.write:
        replace_section(PAGE, BEGIN, report.markdown())
    report.show(Console())
    return 0


def measured(expected: Mapping[str, Episode], lake_steps: int, spent: Sequence[float]) -> Report:
    steps = sum(len(next(iter(one.values.values()))) for one in expected.values())
    unpickling = sum(one.unpickling for one in expected.values())
    stepping = sum(one.stepping for one in expected.values())
    seconds = statistics.median(spent)
    ratio = (lake_steps / seconds) / (steps / unpickling)
    rows = [
        ("unpickling alone", f"{steps:,}", f"{unpickling:,.2f}", f"{steps / unpickling:,.0f}"),
        (
            "unpickling, and a callable",
            f"{steps:,}",
            f"{unpickling + stepping:,.2f}",
            per_second(steps, unpickling + stepping),
        ),
        ("the lake", f"{lake_steps:,}", f"{seconds:,.3f}", f"{lake_steps / seconds:,.0f}"),
    ]
    report = Report("Measured")
    met = "met" if ratio >= TARGET else "missed"
    report.add("Result", [f"Speed: {ratio:,.0f} times unpickling (target: {TARGET:,}, {met})."])
    report.add("`left` of every step", Table(("way", "steps", "seconds", "steps/s"), rows))
    return report


def per_second(steps: int, seconds: float) -> str:
    return f"{steps / seconds:,.0f}"


def method(held: str, files: int, turns: int) -> list[str]:
    return [
        f"Machine: {cores()} cores, {processor()}. {versions()}. {held.capitalize()}; processor time.",
        f"CrowdPlay's way: {files} episodes of Space Invaders, one- and two-player, from bz2; each once.",
        f"The lake: the same episodes, and copies of them under other ids; from opening it to the last value of every"
        f" episode, the median of {turns} turns. A step counts once, whether one or two play.",
    ]


if __name__ == "__main__":
    sys.exit(main())
