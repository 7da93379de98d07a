"""How fast a d3rlpy trainer is fed, and from how much memory: `python -m benchmarks.feeding --help`.

Each way has a process of its own: d3rlpy's dataset in memory, from a memory map, and lazily. They take turns, so that
what else the machine does falls on all of them. Nothing is reported unless all ways gave the same batches of the same
random numbers. With --train some steps of behaviour cloning are trained from the map and lazily.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from crowdplay_ingest.pipeline import IngestOptions, ingest
from crowdplay_ingest.recorder import RecordingOptions, record, sample_plan
from crowdplay_lake import CrowdPlayLakeError, Episode, Lake
from crowdplay_lake.offline.selection import select
from crowdplay_lake.offline.transitions import Conversion

from .machine import cores, processor, versions
from .memory import Anonymous
from .repeated import repeat_episodes
from .report import Report, Table, replace_section

PAGE = Path(__file__).parent.parent / "docs" / "feeding.md"
BEGIN = "<!-- measured: python -m benchmarks.feeding --write -->\n"

BATCH = 256
FREQUENCY = 4
MOST = 2 << 30
LARGE = 900_000
MEMORY, MAP = "in memory", "memory map"
UNIFORM, SHUFFLED = "lazily, uniform", "lazily, shuffle buffer"


@dataclass(frozen=True)
class Way:
    """Arguments of `to_lazy_dataset`, None for a dataset that is not; ``target``: of the speed in memory."""

    target: float = 0.0
    lazy: Mapping[str, Any] | None = None
    threaded: bool = False


def ways(buffer: int) -> dict[str, Way]:
    return {
        MEMORY: Way(),
        MAP: Way(0.9),
        UNIFORM: Way(0.1, {"prefetch": 0}),
        f"{UNIFORM}, thread": Way(0.1, {"prefetch": 1}, True),
        SHUFFLED: Way(1 / 3, {"prefetch": 0, "shuffle_buffer": buffer}),
        f"{SHUFFLED}, thread": Way(1 / 3, {"prefetch": 1, "shuffle_buffer": buffer}, True),
    }


# In the process of a way


def serve(pipe: Connection, lake: str, folder: str, name: str, buffer: int) -> None:
    from crowdplay_lake.offline.d3rlpy import to_lazy_dataset, to_mdp_dataset

    way = ways(buffer)[name]

    episodes: Sequence[Episode] = Lake(lake).episodes()

    def opened(chosen: Any, folder: str) -> Any:
        arguments: dict[str, Any] = {"downsample_frequency": FREQUENCY, "action_size": 18}
        if way.lazy is not None:
            own = way.lazy if chosen is episodes else {**way.lazy, "shuffle_buffer": BATCH}
            return to_lazy_dataset(chosen, **arguments, **own)
        return to_mdp_dataset(chosen, memory_map=folder if name == MAP else None, **arguments)

    # What the libraries and a batch take is no dataset's.
    small = opened(episodes[:3], f"{folder}-small")
    _sample(small, 2)
    del small
    watched = Anonymous()
    before = watched.now()
    start = time.perf_counter()
    dataset = opened(episodes, folder)
    pipe.send((time.perf_counter() - start, dataset.transition_count))
    while True:
        try:
            task, number = pipe.recv()
        except EOFError:
            return
        if task == "digest":
            pipe.send(_digest(dataset, number))
        elif task == "sample":
            pipe.send(_sample(dataset, number))
        elif task == "memory":
            pipe.send((watched.now() - before, watched.most))
        elif task == "train":
            pipe.send(_train(dataset, number))


def _digest(dataset: Any, count: int) -> str:
    np.random.seed(0)  # noqa: NPY002
    digest = hashlib.sha256()
    for _ in range(count):
        batch = dataset.sample_transition_batch(BATCH)
        for values in (batch.observations, batch.next_observations, batch.actions, batch.rewards, batch.terminals):
            digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def _sample(dataset: Any, count: int) -> tuple[float, float]:
    """(seconds, processor seconds) of a batch."""
    if hasattr(dataset, "close"):
        # What a thread made while others had their turn does not count.
        dataset.close()
    wall, own = time.perf_counter(), time.process_time()
    for _ in range(count):
        dataset.sample_transition_batch(BATCH)
    return (time.perf_counter() - wall) / count, (time.process_time() - own) / count


def _train(dataset: Any, steps: int) -> float:
    """Seconds of a step of behaviour cloning."""
    import d3rlpy

    scaler = d3rlpy.preprocessing.PixelObservationScaler()
    algorithm = d3rlpy.algos.DiscreteBCConfig(batch_size=BATCH, observation_scaler=scaler).create(device="cpu:0")
    quiet = {"logger_adapter": d3rlpy.logging.NoopAdapterFactory(), "show_progress": False}
    start = time.perf_counter()
    algorithm.fit(dataset, n_steps=steps, n_steps_per_epoch=steps, **quiet)
    return (time.perf_counter() - start) / steps


# In the process that compares


Turn = tuple[float, float]


@dataclass
class Fed:
    """What was measured of a way."""

    way: Way
    pipe: Connection
    opened: float
    transitions: int
    # (seconds, processor seconds) of a batch: in memory, and this way, turn by turn
    rounds: list[tuple[Turn, Turn]] = field(default_factory=list)
    memory: tuple[int, int] = (0, 0)  # bytes: added by the dataset, and all of the process at most
    step: float | None = None
    most: int = 0  # bytes of the process while it trained

    def ask(self, task: str, number: int = 0) -> Any:
        self.pipe.send((task, number))
        return self.pipe.recv()


def start(name: str, lake: Path, folder: Path, buffer: int) -> Fed:
    ours, theirs = get_context("spawn").Pipe()
    arguments = (theirs, str(lake), str(folder / "map"), name, buffer)
    get_context("spawn").Process(target=serve, args=arguments, daemon=True).start()
    theirs.close()
    return Fed(ways(buffer)[name], ours, *ours.recv())


def measure(lake: Path, folder: Path, options: argparse.Namespace, say: Console) -> dict[str, Fed]:
    """Each way beside the dataset in memory, one after the other: their memory is the machine's, and a map's pages."""
    say.print(f"opening: {MEMORY} …")
    base = start(MEMORY, lake, folder, options.buffer)
    base.ask("sample", options.warm)
    fed = {MEMORY: base}
    for name in ways(options.buffer):
        if name == MEMORY:
            continue
        say.print(f"opening: {name} …")
        fed[name] = one = start(name, lake, folder, options.buffer)
        say.print("comparing …")
        is_same = one.transitions == base.transitions
        if name in (MAP, UNIFORM):
            is_same = is_same and one.ask("digest", 3) == base.ask("digest", 3)
        if not is_same:
            raise SystemExit(f"{name}: other batches than in memory; nothing is reported")
        if name == MAP:
            _read_through(folder / "map")
        say.print("sampling …")
        one.ask("sample", options.warm)
        for _ in range(options.turns):
            theirs, mine = base.ask("sample", options.batches), one.ask("sample", options.batches)
            one.rounds.append((theirs, mine))
        one.memory = one.ask("memory")
        if options.train and name in (MAP, f"{SHUFFLED}, thread"):
            say.print("training …")
            one.step = one.ask("train", options.train)
            one.most = one.ask("memory")[1]
        one.pipe.close()
    base.memory = base.ask("memory")
    base.rounds = [(theirs, theirs) for one in fed.values() for theirs, _ in one.rounds]
    return fed


def _read_through(folder: Path) -> None:
    """Have the system keep the file's pages, as far as it has room: as after a first pass of a training."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            while file.read(1 << 24):
                pass


def report(fed: Mapping[str, Fed], options: argparse.Namespace, steps: int) -> Report:
    made = Report("Measured")
    base = fed[MEMORY]
    observations = base.memory[0]
    rows = []
    told = []
    for name, one in fed.items():
        # A process with a thread makes batches on two cores: there only the clock tells.
        at = 0 if one.way.threaded else 1
        ratio = statistics.median(theirs[at] / mine[at] for theirs, mine in one.rounds)
        spent = statistics.median(mine[at] for _, mine in one.rounds)
        share = one.memory[0] / observations
        added = f"{one.memory[0] / 2**20:,.0f}"
        rows.append((name, f"{1000 * spent:,.1f}", f"{ratio:.2f}", added, f"{share:.3f}", f"{one.opened:,.1f}"))
        if one.way.target:
            met = "met" if ratio >= one.way.target else "missed"
            told.append(f"{name}: {ratio:.2f} of the speed in memory (target: {one.way.target:.2f}, {met}).")
    # Of a small dataset a buffer and a batch are no small part.
    for name in (UNIFORM, SHUFFLED) if base.transitions >= LARGE else ():
        share = fed[name].memory[0] / observations
        told.append(f"{name}: {share:.3f} of the memory (target: 0.05, {'met' if share <= 0.05 else 'missed'}).")
    for name, one in fed.items():
        if one.step is not None:
            met = "met" if one.most < MOST else "missed"
            told.append(
                f"Training, {name.partition(', thread')[0]}: at most {one.most / 2**20:,.0f} MiB of the process's own"
                f" memory, torch and d3rlpy included (target: {MOST >> 20:,}, {met});"
                f" {one.step:.2f} s a step of DiscreteBC."
            )
    made.add("Result", told)
    columns = ("way", "ms a batch", "speed", "MiB", "of memory", "opened in s")
    made.add(f"Batches of {BATCH} transitions of four stacked frames", Table(columns, rows))
    made.add("Method", method(base, options, steps))
    return made


def method(base: Fed, options: argparse.Namespace, steps: int) -> list[str]:
    return [
        f"Machine: {cores()} cores, {processor()}. {versions()}.",
        f"A lake of {steps:,} steps, recorded episodes copied whole under other ids: {base.transitions:,} transitions"
        f" of the first player at every {FREQUENCY}th step. Shuffle buffer: {options.buffer:,} transitions.",
        f"A process a way, in turns with the one that has the dataset in memory: {options.turns} of {options.batches}"
        " batches. Speed: of that one's, the median of the turns; processor time, but by the clock where a thread makes"
        " batches ahead. The map was read through once before.",
        "Memory: what the process's anonymous resident memory grew by, from when it had sampled from three"
        " episodes and all libraries were loaded. The pages of a map are the system's.",
        "Before that: the ways that sample uniformly gave the same batches of the same random numbers.",
    ]


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.feeding", description="Speed and memory of feeding d3rlpy.")
    parser.add_argument("--observations", type=int, default=40_000, help="of the dataset (40,000)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of game time of an episode of the sample (20)")
    parser.add_argument("--buffer", type=int, default=2_000, help="transitions in the shuffle buffer (2,000)")
    parser.add_argument("--turns", type=int, default=5, help="of each way (5)")
    parser.add_argument("--batches", type=int, default=10, help="of a turn (10)")
    parser.add_argument("--warm", type=int, default=10, help="batches of each way before that (10)")
    parser.add_argument("--train", type=int, default=0, help="so many steps from the map and lazily (0)")
    parser.add_argument("--folder", type=Path, help="where lake and map are made and kept; by default a temporary one")
    parser.add_argument("--write", action="store_true", help=f"write the section of {PAGE.parent.name}/{PAGE.name}")
    return parser.parse_args(arguments)


def made_lake(folder: Path, options: argparse.Namespace, say: Console) -> Path:
    lake = folder / "lake"
    if not lake.exists():
        say.print("recording …")
        record(folder / "raw", sample_plan(options.seconds), RecordingOptions(compression="gz"))
        ingest(folder / "raw", lake, IngestOptions(workers=0))
        say.print("growing the lake …")
        known = Lake(lake)
        made = len(select(known.episodes(), Conversion(downsample_frequency=FREQUENCY), action_size=18))
        repeat_episodes(lake, _steps(known) * -(-options.observations // made))
    return lake


def _steps(lake: Lake) -> int:
    return int(lake.sql("SELECT sum(n_steps) FROM episodes").fetchall()[0][0])


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    say = Console(stderr=True, highlight=False)
    with tempfile.TemporaryDirectory(prefix="crowdplay-lake-bench-") as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lake = made_lake(folder, options, say)
            made = report(measure(lake, folder, options, say), options, _steps(Lake(lake)))
        except CrowdPlayLakeError as error:
            say.print(str(error), markup=False)
            return 1
    if options.write:
        replace_section(PAGE, BEGIN, made.markdown())
    made.show(Console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
