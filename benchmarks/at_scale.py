"""Questions to the metadata of a million episodes: `python -m benchmarks.at_scale --help`.

The metadata are generated and plainly so (`generated`); `real_size` has steps and frames. Each question is asked in a
process of its own, twice: from opening the lake, and again of the open lake. Before that, the answers are checked
against a loop over a lake of 1,000 episodes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from rich.console import Console

from crowdplay_lake import CrowdPlayLakeError, Lake
from crowdplay_lake.orm import EnvironmentModel, EpisodeKeywordDataModel, EpisodeModel, get_engine_and_session

from . import memory
from .generated import AGENT, made_up_metadata
from .machine import cores, processor, versions
from .report import Report, Table, replace_section

PAGE = Path(__file__).parent.parent / "docs" / "scale.md"
BEGIN = "<!-- measured: python -m benchmarks.at_scale --write -->\n"
CHECKED = 1_000
TASK = "space_invaders_left"


@dataclass(frozen=True)
class Question:
    """What is asked of a lake, and the same by a loop over its episodes."""

    text: str
    ask: Callable[[Lake], object]
    loop: Callable[[Lake], object] | None = None


def _left_and_scored(lake: Lake) -> list[str]:
    """The documentation's list comprehension."""
    return [
        e.episode_id
        for e in lake.episodes()
        if e.environment.keyword_data["all"]["game"] == "space_invaders"
        and e.environment.keyword_data["all"]["task"] == "left"
        and e.keyword_data[AGENT]["Score"] >= 50
    ]


def _per_task(lake: Lake) -> list[tuple[object, ...]]:
    scores: dict[str, list[int]] = {}
    for e in lake.episodes():
        scores.setdefault(str(e.environment.task_id), []).append(e.keyword_data[AGENT]["Score"])
    return [(task, len(s), round(sum(s) / len(s), 6)) for task, s in sorted(scores.items())]


def _by_orm(lake: Lake) -> list[str]:
    """The documentation's filter; the session opens the lake anew."""
    _, session = get_engine_and_session(lake.path)
    query = (
        session.query(EpisodeModel)
        .filter(EnvironmentModel.environment_id == EpisodeModel.environment_id)
        .filter(EnvironmentModel.task_id == TASK)
        .filter(EpisodeKeywordDataModel.episode_id == EpisodeModel.episode_id)
        .filter(EpisodeKeywordDataModel.key == "Score")
        .filter(EpisodeKeywordDataModel.value >= 50)
    )
    return sorted(episode.episode_id for episode in query)


def _task_and_scored(lake: Lake) -> list[str]:
    return [
        e.episode_id for e in lake.episodes() if e.environment.task_id == TASK and e.keyword_data[AGENT]["Score"] >= 50
    ]


LEFT_AND_SCORED = "game = 'space_invaders' AND task = 'left' AND score >= 50"

METADATA = (
    Question("number of episodes", lambda lake: len(lake.episodes()), lambda lake: len(list(lake.episodes()))),
    Question(
        "game, task and Score >= 50: `lake.sql`",
        lambda lake: [
            row[0]
            for row in lake.sql(
                f"SELECT episode_id FROM episode_agents WHERE {LEFT_AND_SCORED} ORDER BY ALL"
            ).fetchall()
        ],
        _left_and_scored,
    ),
    Question("the same: `lake.episodes(where)`", lambda lake: lake.episodes(LEFT_AND_SCORED).ids, _left_and_scored),
    Question(
        "episodes and mean Score a task",
        lambda lake: lake.sql(
            "SELECT task_id, count(*), round(avg(score), 6) FROM episode_agents GROUP BY task_id ORDER BY task_id"
        ).fetchall(),
        _per_task,
    ),
    Question("the same: a list comprehension", _left_and_scored),
    Question("task and Score >= 50: the ORM's filter", _by_orm, _task_and_scored),
)


@dataclass(frozen=True)
class Answer:
    """Seconds, and MiB at most."""

    opening: float
    again: float
    peak: int


def asked(path: Path, number: int) -> Answer:
    """Ask one question, in a process of its own."""
    question = METADATA[number]
    begun = time.perf_counter()
    lake = Lake(path)
    question.ask(lake)
    opening = time.perf_counter() - begun
    begun = time.perf_counter()
    question.ask(lake)
    return Answer(opening, time.perf_counter() - begun, memory.peak() // 2**20)


def check(path: Path) -> None:
    """Every question with a loop gives what the loop gives."""
    lake = Lake(path)
    for question in METADATA:
        if question.loop is not None and question.ask(lake) != question.loop(lake):
            raise SystemExit(f"{question.text}: a loop gives something else; nothing is reported")


def table(path: Path, say: Console) -> Table:
    rows = []
    for number, question in enumerate(METADATA):
        say.print(f"{question.text} …", markup=False)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
            answer = executor.submit(asked, path, number).result()
        rows.append((question.text, f"{answer.opening:,.2f}", f"{answer.again:,.3f}", f"{answer.peak:,}"))
    return Table(("question", "from opening, s", "again, s", "peak, MiB"), rows)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.at_scale", description="Questions to large lakes.")
    parser.add_argument("--episodes", type=int, nargs="*", default=[10_000, 1_000_000], help="of made-up metadata")
    parser.add_argument("--folder", type=Path, help="where the lakes are made")
    parser.add_argument("--write", action="store_true", help=f"write the section of {PAGE.parent.name}/{PAGE.name}")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    say = Console(stderr=True, highlight=False)
    report = Report("Measured at size")
    with tempfile.TemporaryDirectory(prefix="crowdplay-lake-bench-", dir=options.folder) as folder:
        work = Path(folder)
        try:
            made_up_metadata(work / "checked", CHECKED)
            check(work / "checked")
            for episodes in options.episodes:
                say.print(f"making the metadata of {episodes:,} episodes …")
                made_up_metadata(path := work / f"episodes-{episodes}", episodes)
                report.add(f"Metadata of {episodes:,} generated episodes", table(path, say))
        except CrowdPlayLakeError as error:
            say.print(str(error), markup=False)
            return 1
    report.add(
        "Method",
        [
            f"Machine: {cores()} cores, {processor()}. {versions()}.",
            "Wall-clock time, all cores, files in the page cache. Each question in a process of its own: from opening "
            "the lake to the answer, then once more. The peak is of the process, imports included.",
            "Everything here is generated: made-up metadata, ten keys an episode.",
        ],
    )
    if options.write:
        replace_section(PAGE, BEGIN, report.markdown())
    report.show(Console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
