"""One observation from anywhere in an episode of 100,000 steps: `python -m benchmarks.windows --help`.

The recorder plays up to three quarters of a minute; what it played is repeated until there are so many steps, and
plainly generated. Nothing is reported unless each window is the same as in the episode decoded as a whole.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from rich.console import Console

from crowdplay_ingest.pipeline import IngestOptions, ingest
from crowdplay_ingest.recorder import RecordingOptions, record, sample_plan
from crowdplay_lake import Episode, Lake
from crowdplay_lake.commit import Change, writing
from crowdplay_lake.layout import Part
from crowdplay_lake.parts import EpisodeRows, GameWriter
from crowdplay_lake.pixels import KEYFRAME_INTERVAL
from crowdplay_lake.reading import EpisodeReader
from crowdplay_lake.schema import EPISODES, FRAMES, STEPS

from .machine import cores, processor, stay_on_one_core, versions
from .report import Report, Table, replace_section

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
BEGIN = "<!-- measured: python -m benchmarks.windows --write -->\n"

GAMES = {"space_invaders", "breakout", "qbert", "riverraid", "beam_rider"}


@dataclass(frozen=True)
class Windows:
    """Milliseconds of single observations of an episode."""

    game: str
    steps: int
    first: float  # of a lake that was just opened
    found: Sequence[float]
    whole: float  # all observations of the episode


def lengthen(path: Path, episode: Episode, steps: int) -> str:
    """Add an episode of at least so many steps: the first ones of ``episode``, again and again. Returns its id."""
    name = f"generated-{episode.episode_id}"
    # Whole stretches between keyframes, so that each turn begins with one.
    piece = len(episode) // KEYFRAME_INTERVAL * KEYFRAME_INTERVAL
    turns = -(-steps // piece)
    with writing(path) as writer:
        row = dict(episode.row)
        read = EpisodeReader(writer.paths).read(row)
        played = [pa.concat_tables(rows).slice(0, piece) for rows in (read.steps, read.frames[0])]
        made = [_numbered(pa.concat_tables([rows] * turns), name) for rows in played]
        parts: dict[str, list[Part]] = {STEPS.name: [], FRAMES.name: []}
        with GameWriter(writer.paths, episode.game) as part:
            place = part.write(EpisodeRows([made[0]], [[made[1]]]))
            part.close(parts)
        row |= {**place, "episode_id": name, "n_steps": turns * piece, "source_name": "generated"}
        known = [*writer.snapshot.read(EPISODES.name).to_pylist(), row]
        changes = {table: Change(added) for table, added in parts.items()}
        changes[EPISODES.name] = writer.replacement(EPISODES.name, pa.Table.from_pylist(known, EPISODES.schema))
        writer.commit("generate", changes, {"episodes": 1})
    return name


def _numbered(rows: pa.Table, name: str) -> pa.Table:
    for column, values in (("episode_id", pa.array([name] * len(rows))), ("step", pa.array(np.arange(len(rows))))):
        rows = rows.set_column(rows.column_names.index(column), column, values)
    return rows


def measure(path: Path, name: str, windows: int) -> Windows:
    lake = Lake(path)
    draw = random.Random(1)
    episode = lake.episode(name)
    at = [draw.randrange(len(episode)) for _ in range(windows)]
    first, _ = _timed(Lake(path), name, at[0])
    found = [_timed(lake, name, step) for step in at][1:]
    start = time.process_time()
    whole = np.asarray(episode.observations())
    seconds = time.process_time() - start
    for step, (_, window) in zip(at[1:], found, strict=True):
        if not np.array_equal(window, whole[step]):
            raise SystemExit(f"{name}, step {step}: the window is another one than in the whole; nothing is reported")
    return Windows(episode.game, len(episode), first, [spent for spent, _ in found], 1000 * seconds)


def _timed(lake: Lake, name: str, step: int) -> tuple[float, np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    # As who has the episode at hand: a new lazy array each time, which has decoded nothing yet.
    episode = lake.episode(name)
    start = time.process_time()
    window = episode.observations()[step]
    return 1000 * (time.process_time() - start), window


def table(measured: Sequence[Windows]) -> Table:
    rows = [
        (
            one.game,
            f"{one.steps:,}",
            f"{one.first:.1f}",
            f"{statistics.median(one.found):.2f}",
            f"{np.quantile(one.found, 0.9):.2f}",
            f"{one.whole:,.0f}",
        )
        for one in sorted(measured, key=lambda one: one.game)
    ]
    columns = ("game", "steps", "the first, ms", "one, warm, ms", "nine of ten within, ms", "all of them, ms")
    return Table(columns, rows)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.windows", description="Observations out of long episodes.")
    parser.add_argument("--steps", type=int, default=100_000, help="of an episode (100000)")
    parser.add_argument("--windows", type=int, default=300, help="of each (300)")
    parser.add_argument("--write", action="store_true", help=f"write the section of {PAGE.parent.name}/{PAGE.name}")
    parsed = parser.parse_args(arguments)
    if parsed.windows < 2:
        parser.error(f"--windows is {parsed.windows}; at least 2")
    return parsed


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    say = Console(stderr=True, highlight=False)
    with tempfile.TemporaryDirectory(prefix="crowdplay-lake-bench-") as folder:
        raw, path = Path(folder) / "raw", Path(folder) / "lake"
        say.print("recording …")
        plan = [one for one in sample_plan(45.0) if one.task_id.rpartition("_")[0] in GAMES]
        record(raw, plan, RecordingOptions(compression="gz", protocol=5))
        ingest(raw, path, IngestOptions(workers=0))
        held = stay_on_one_core()
        # Compiles what is to be measured.
        Lake(path).episodes()[0].observations()[-1]
        measured = []
        for game in sorted(GAMES):
            say.print(f"{game} …")
            longest = max((one for one in Lake(path).episodes() if one.game == game), key=len)
            measured.append(measure(path, lengthen(path, longest, options.steps), options.windows))
    report = Report("Measured")
    report.add("One observation of four frames from anywhere", table(measured))
    report.add(
        "Method",
        [
            f"Machine: {cores()} cores, {processor()}. {versions()}. One process: {held}.",
            f"Episodes of {options.steps:,} steps are generated: what the recorder played in 45 s at most, repeated.",
            f"{options.windows} steps by chance, of each the default observation from a new lazy array, in a lake that "
            "is open, its files in the page cache; processor time. The first: in a lake just opened, without its "
            "opening. Each was compared with the episode decoded as a whole.",
        ],
    )
    if options.write:
        replace_section(PAGE, BEGIN, report.markdown())
    report.show(Console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
