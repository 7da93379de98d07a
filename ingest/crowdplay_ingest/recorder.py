"""Plays real Atari games and stores them as CrowdPlay stores what people play: raw episodes and metadata.

The project's tests, its demo and its AI roll-outs stand on these recordings, so nothing in them is noise and
nothing is downloaded. One-player games need the extra ``record`` (``ale-py``); two-player games also
``multi-agent-ale-py``, and are skipped with a word where that is missing.

This is the only module of the project that imports ``pickle``, and it only writes.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import os
import pickle
import random
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Protocol

import numpy as np

from crowdplay_ingest.consoles import Console, OnePlayerConsole, TwoPlayerConsole, can_play_two
from crowdplay_ingest.playing import Episode, Step, Values, make_statistics
from crowdplay_ingest.recording_metadata import METADATA_FILE, Rows, put_rows
from crowdplay_ingest.recording_plan import EnvironmentPlan, EpisodePlan, check_plan, sample_plan
from crowdplay_ingest.recording_tasks import GAMES, TASKS, Game, Task
from crowdplay_ingest.running_statistics import Value
from crowdplay_lake.errors import InvalidArgument

__all__ = [
    "GAMES",
    "TASKS",
    "EnvironmentPlan",
    "EpisodePlan",
    "RecordingOptions",
    "RecordingSummary",
    "record",
    "sample_plan",
]

_PROTOCOLS = (3, 4, 5)
_STEPS_PER_SECOND = 60

Store = dict[str, str | int | float | timedelta | datetime]


@dataclass(frozen=True)
class RecordingOptions:
    """How to record. The same options and plan give the same files, byte for byte.

    Attributes:
        seed: of ids, dates and players. Another seed adds to a folder, the same one replaces.
        protocol: of the trajectory's pickle; 3 is the published dataset's.
        compression: "bz2" (CrowdPlay's), "gz" or "none".
        frame_limit: emulator frames after which an episode ends as if the game were over.
        metadata: whether to write ``dataset.sqlite``.
        metadata_protocol: of the values in ``dataset.sqlite``.
    """

    seed: int = 0
    protocol: int = 3
    compression: str = "bz2"
    frame_limit: int = 100_000
    metadata: bool = True
    metadata_protocol: int = 4

    def __post_init__(self) -> None:
        allowed: tuple[tuple[str, Sequence[object]], ...] = (
            ("protocol", _PROTOCOLS),
            ("metadata_protocol", _PROTOCOLS),
            ("compression", tuple(_COMPRESSIONS)),
        )
        faults = [
            f"{name} is {getattr(self, name)!r}; one of {', '.join(map(str, values))}"
            for name, values in allowed
            if getattr(self, name) not in values
        ]
        if self.frame_limit < 1:
            faults.append(f"frame_limit is {self.frame_limit}; at least 1")
        if faults:
            raise InvalidArgument("; ".join(faults))


@dataclass(frozen=True)
class RecordingSummary:
    """What :func:`record` did; ``seconds`` of wall time. ``skipped`` says why an environment was left out."""

    episodes: int
    steps: int
    skipped: list[str]
    files: list[Path]
    seconds: float


def record(
    raw: Path,
    plan: Sequence[EnvironmentPlan],
    options: RecordingOptions | None = None,
    on_episode: Callable[[str, int], None] | None = None,
) -> RecordingSummary:
    """Plays the plan and writes it to the folder ``raw``: a file per episode, and ``dataset.sqlite``.

    Each file appears whole or not at all; the metadata of an environment follows its last episode. An episode
    is held in memory until it is written, as CrowdPlay holds it: about 100 KB a step, 200 KB while a pickle
    of protocol 3 is made, so 100,000 steps need 20 GB.

    Args:
        raw: the folder, made if missing. A recording of another seed is added to what is there.
        plan: see :func:`sample_plan` for an example with everything in it.
        options: see :class:`RecordingOptions`.
        on_episode: called with the id and the number of steps of each episode written.

    Raises:
        UnknownName, InvalidArgument: the plan cannot be played. Nothing was written.
        MissingExtra: ``ale-py`` is not installed.
    """
    options = options or RecordingOptions()
    check_plan(plan)
    started = time.monotonic()
    raw = Path(raw)
    raw.mkdir(parents=True, exist_ok=True)
    steps: list[int] = []
    skipped: list[str] = []
    files: list[Path] = []
    for index, environment in enumerate(plan):
        game = GAMES[TASKS[environment.task_id].game]
        if len(game.agents) > 1 and not can_play_two():
            skipped.append(
                f"environment {index} ({environment.task_id}): two players need multi-agent-ale-py, "
                "whose wheels end with CPython 3.11"
            )
            continue
        sitting = _Sitting(index, environment, options)
        for episode_id, trajectory in sitting.play(_make_console(game)):
            files.append(_write_trajectory(raw, episode_id, trajectory, options))
            steps.append(len(trajectory))
            if on_episode is not None:
                on_episode(episode_id, len(trajectory))
        if options.metadata:
            put_rows(raw / METADATA_FILE, sitting.metadata())
    if options.metadata and files:
        files.append(raw / METADATA_FILE)
    return RecordingSummary(len(steps), sum(steps), skipped, files, time.monotonic() - started)


def _make_console(game: Game) -> Console:
    return TwoPlayerConsole(game.rom) if len(game.agents) > 1 else OnePlayerConsole(game.rom)


def _identifier(*parts: object) -> str:
    """A uuid's 32 hex digits, the same for the same parts on every machine."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=16).digest()
    return uuid.UUID(bytes=digest, version=4).hex


def _permanent_id(person: str) -> str:
    """A person's id in all recordings: 40 hex digits, as CrowdPlay hashes its workers."""
    return hashlib.blake2b(person.encode(), digest_size=20).hexdigest()


class _Sitting:
    """One environment being recorded: people sit down, play their episodes in a row, and leave."""

    def __init__(self, index: int, plan: EnvironmentPlan, options: RecordingOptions) -> None:
        self._plan = plan
        self._options = options
        self._task: Task = TASKS[plan.task_id]
        self._id = _identifier("environment", options.seed, index, plan.task_id)
        self._began = _date(self._id)
        self._episodes: dict[str, tuple[datetime, Values]] = {}  # id -> (when it began, its last values)
        self._values: Values = {}

    def play(self, console: Console) -> Iterator[tuple[str, list[Step]]]:
        """Plays the episodes one by one: (id, steps)."""
        of_task = make_statistics(self._task)
        began = self._began
        for number, plan in enumerate(self._plan.episodes):
            episode_id = _identifier("episode", self._id, number)
            episode = Episode(console, self._task, plan, of_task, self._options.frame_limit, episode_id)
            trajectory = episode.play()
            self._episodes[episode_id] = began, episode.of_episode
            self._values = episode.of_environment
            began += timedelta(seconds=len(trajectory) // _STEPS_PER_SECOND + 5)
            yield episode_id, trajectory

    def metadata(self) -> dict[str, Rows]:
        """The environment's rows for ``dataset.sqlite``, by table."""
        about: Store = {
            "game": self._task.game,
            "task": self._task.task,
            "source": self._task.source,
            "created_on": self._began,
            **self._plan.about,
        }
        agents = GAMES[self._task.game].agents
        return {
            "environments": [(self._id, self._plan.task_id)],
            "environmentkeyworddata": self._keyword_rows(self._id, about, self._values),
            "episodes": [(episode_id, self._id) for episode_id in self._episodes],
            "episodekeyworddata": [
                row
                for episode_id, (began, values) in self._episodes.items()
                for row in self._keyword_rows(episode_id, {"created_on": began}, values)
            ],
            "users": [
                (
                    _identifier("user", self._id, agent),
                    _permanent_id(person),
                    self._plan.task_id,
                    self._id,
                    agent,
                )
                # An AI that plays from the start is no user; it is the last agent.
                for agent, person in zip(agents, self._plan.participants, strict=False)
            ],
        }

    def _keyword_rows(self, owner: str, about: Store, values: Values) -> list[tuple[str, str, str, bytes]]:
        protocol = self._options.metadata_protocol
        rows = [(owner, "all", key, pickle.dumps(value, protocol)) for key, value in about.items()]
        rows += [
            (owner, agent, name, pickle.dumps(_plain(value), protocol))
            for name, by_agent in values.items()
            for agent, value in by_agent.items()
        ]
        return rows


def _plain(value: Value) -> int | float | timedelta:
    """The value as it comes out of CrowdPlay's database, which keeps text: without numpy."""
    if isinstance(value, np.generic):
        plain: int | float = value.item()
        return plain
    return value


def _date(environment_id: str) -> datetime:
    """When people sat down: some second of ten days in September 2021, when CrowdPlay-Atari was recorded."""
    chance = random.Random(environment_id)
    return datetime(2021, 9, 15) + timedelta(seconds=chance.randrange(10 * 24 * 60 * 60))


class SupportsWrite(Protocol):
    """What a pickler needs of a file."""

    def write(self, data: bytes, /) -> int: ...


@contextmanager
def _gzip(file: IO[bytes]) -> Iterator[SupportsWrite]:
    # No name and no time inside, so that the same episode is the same file. Quick: its size is nobody's measure.
    with gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=file, mtime=0) as packed:
        yield packed


@contextmanager
def _bz2(file: IO[bytes]) -> Iterator[SupportsWrite]:
    with bz2.BZ2File(file, "wb") as packed:
        yield packed


@contextmanager
def _plain_file(file: IO[bytes]) -> Iterator[SupportsWrite]:
    yield file


_COMPRESSIONS = {"bz2": (".bz2", _bz2), "gz": (".gz", _gzip), "none": ("", _plain_file)}


def _write_trajectory(raw: Path, episode_id: str, trajectory: list[Step], options: RecordingOptions) -> Path:
    """One list in one pickle, under a temporary name until it is whole."""
    suffix, opened = _COMPRESSIONS[options.compression]
    path = raw / f"{episode_id}.pickle{suffix}"
    unfinished = raw / f".{path.name}.{os.getpid()}.unfinished"
    try:
        with open(unfinished, "wb") as file, opened(file) as packed:
            pickle.Pickler(packed, options.protocol).dump(trajectory)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    # Recorded before with another compression: it would be the same episode twice.
    for other, _ in _COMPRESSIONS.values():
        if other != suffix:
            (raw / f"{episode_id}.pickle{other}").unlink(missing_ok=True)
    return path
