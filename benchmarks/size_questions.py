"""What is asked of the lakes of `real_size`, each question in a process of its own, and what it takes there."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import polars as pl

from crowdplay_lake import Episode, Lake
from crowdplay_lake.episode import DEFAULT_AGENT

from . import memory

__all__ = ["QUESTIONS", "Answer", "Measured", "Question", "answered"]

WHERE = f"game = 'space_invaders' AND score >= 100 AND agent_id = '{DEFAULT_AGENT}'"
AT_ONCE = 2


@dataclass(frozen=True)
class Answer:
    """``amounts`` are those of the recorded lake times the copies, the ``others`` are the same."""

    amounts: tuple[float, ...] = ()
    others: tuple[object, ...] = ()
    # Of processes beside the one that asks: processor seconds of all, bytes of the largest.
    processor: float = 0.0
    own: int = 0
    peak: int = 0

    def is_times(self, recorded: Answer, copies: int) -> bool:
        """Whether this is the answer of a lake that has everything recorded so often."""
        same = [_is_close(*pair) for pair in zip(self.others, recorded.others, strict=True)]
        return all(same) and self.amounts == tuple(copies * amount for amount in recorded.amounts)


def _is_close(one: object, other: object) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9)
    return one == other


@dataclass(frozen=True)
class Measured:
    """Seconds from opening the lake to the answer, by the clock and of the processor; bytes of memory at most."""

    answer: Answer
    seconds: float
    processor: float
    own: int
    peak: int


@dataclass(frozen=True)
class Question:
    """``ask`` is given the lake, and the id of one of its episodes."""

    name: str
    text: str
    ask: Callable[[Lake, str], Answer]
    runs: int = 3
    of_last: bool = True  # whether the largest lake is asked it too


def answered(path: Path, name: str, episode: str, warm: Path) -> Measured:
    """Ask the question of that name. ``warm``: another lake, with which what is asked with is loaded."""
    (question,) = (one for one in QUESTIONS if one.name == name)
    _load(warm)
    watched = memory.Anonymous()
    wall, processor = time.perf_counter(), time.process_time()
    answer = question.ask(Lake(path), episode)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    own, peak = max(watched.most, watched.now(), answer.own), max(memory.peak(), answer.peak)
    return Measured(answer, wall, processor + answer.processor, own, peak)


def _load(warm: Path) -> None:
    """Libraries and compiled kernels."""
    lake = Lake(warm)
    lake.sql("SELECT count(*) FROM episode_agents").fetchall()
    lake.episodes()[0].get_processed_trajectory(downsample_frequency=4)


# Metadata


def _opened(lake: Lake, episode: str) -> Answer:
    return Answer((len(lake.episodes()),))


def _listed(lake: Lake, episode: str) -> Answer:
    """The documentation's list comprehension."""
    found = [
        e
        for e in lake.episodes()
        if e.environment.keyword_data["all"]["game"] == "space_invaders"
        and e.keyword_data[DEFAULT_AGENT]["Score"] >= 100
    ]
    return Answer((len(found),))


def _filtered(lake: Lake, episode: str) -> Answer:
    return Answer((len(lake.episodes(WHERE).ids),))


def _filtered_by_sql(lake: Lake, episode: str) -> Answer:
    return Answer((len(lake.sql(f"SELECT DISTINCT episode_id FROM episode_agents WHERE {WHERE}").fetchall()),))


# RAM


def _ram_byte(lake: Lake, episode: str) -> Answer:
    return _groups(lake, "SELECT game, count(*), avg(ram_1c) FROM steps GROUP BY game ORDER BY game")


def _ram_bytes(lake: Lake, episode: str) -> Answer:
    query = """
        SELECT task, count(*), avg(ram_1c / 2 + ram_48 + ram_65), min(ram_7f), max(ram_2a) FROM episode_steps
        WHERE step >= 20 GROUP BY task ORDER BY task
    """
    return _groups(lake, query)


def _groups(lake: Lake, query: str) -> Answer:
    """Rows of a group's name, its size and other facts of it."""
    rows = lake.sql(query).fetchall()
    return Answer(tuple(row[1] for row in rows), tuple(fact for name, _, *facts in rows for fact in (name, *facts)))


def _statistic(lake: Lake, episode: str) -> Answer:
    values = lake.statistic("left").select(pl.len(), pl.col("value").mean()).collect(engine="streaming")
    count, mean = values.row(0)
    return Answer((count,), (mean,))


# Observations


def _one_episode(lake: Lake, episode: str) -> Answer:
    observations = lake.episode(episode).observations(downsample_frequency=4)[:]
    return Answer((), (observations.shape, int(observations.sum())))


_Amounts = tuple[int, int, int]


def _converted(episodes: Iterable[Episode]) -> _Amounts:
    emitted = actions = light = 0
    for episode in episodes:
        made = episode.get_processed_trajectory(framestack_axis_first=True, stack_n=1, downsample_frequency=4)
        emitted += len(made.observations)
        actions += int(made.actions.sum())
        light += int(made.observations[-1].sum())
    return emitted, actions, light


def _conversion(lake: Lake, episode: str) -> Answer:
    return Answer(_converted(lake.episodes()))


def _by_threads(lake: Lake, episode: str) -> Answer:
    episodes = lake.episodes()
    with ThreadPoolExecutor(AT_ONCE) as executor:
        done = executor.map(_converted, [episodes[share] for share in _shares(len(episodes))])
        return Answer(tuple(map(sum, zip(*done, strict=True))))


def _by_processes(lake: Lake, episode: str) -> Answer:
    shares = _shares(len(lake.episodes()))
    with ProcessPoolExecutor(AT_ONCE, mp_context=get_context("spawn")) as executor:
        done = list(executor.map(_of_share, [lake.path] * AT_ONCE, shares))
    amounts = tuple(map(sum, zip(*(one.amounts for one in done), strict=True)))
    own, peak = max(one.own for one in done), max(one.peak for one in done)
    return Answer(amounts, (), sum(one.processor for one in done), own, peak)


def _shares(episodes: int) -> list[slice]:
    return [slice(episodes * share // AT_ONCE, episodes * (share + 1) // AT_ONCE) for share in range(AT_ONCE)]


def _of_share(path: Path, share: slice) -> Answer:
    """In a process of its own; the loading of kernels is on the bill."""
    watched = memory.Anonymous()
    begun = time.process_time()
    amounts = _converted(Lake(path).episodes()[share])
    return Answer(amounts, (), time.process_time() - begun, watched.most, memory.peak())


QUESTIONS = (
    Question("open", "open, and count the episodes", _opened),
    Question("list", "game and Score: a list comprehension over `lake.episodes()`", _listed),
    Question("episodes", "the same: `lake.episodes(where)`", _filtered),
    Question("sql", "the same: `lake.sql`", _filtered_by_sql),
    Question("byte", "mean of a RAM byte over all steps, a game: `lake.sql`", _ram_byte),
    Question("bytes", "five RAM bytes of all steps, joined with their episodes, a task: `lake.sql`", _ram_bytes),
    Question("statistic", "where ship and plane are, of all steps of their games: `lake.statistic`", _statistic, 1),
    Question("one", "one episode: observations of every fourth step", _one_episode),
    Question("conversion", "full conversion: every fourth step to 84 x 84 arrays", _conversion, 1),
    Question("threads", "the same by two threads", _by_threads, 1, False),
    Question("processes", "the same by two processes", _by_processes, 1, False),
)
