"""Finding episodes by their metadata, CrowdPlay's way and the lake's: `python -m benchmarks.metadata --help`.

Ten thousand episodes, each in an environment of its own; game, task, source and score are asked for as CrowdPlay's
documentation does. Nothing is reported unless all ways find the same episodes.
"""

from __future__ import annotations

import argparse
import pickle
import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console

from crowdplay_ingest.pipeline import IngestOptions, ingest
from crowdplay_ingest.recording_metadata import METADATA_FILE, put_rows
from crowdplay_lake import Lake
from crowdplay_lake.orm import EnvironmentModel, EpisodeKeywordDataModel, EpisodeModel, get_engine_and_session

from .crowdplay_metadata import CrowdPlayEnvironment, CrowdPlayEpisode, CrowdPlayEpisodeValue, crowdplay_session
from .machine import cores, processor, versions
from .measuring import Spent, timed
from .report import Report, Table, replace_section

PAGE = Path(__file__).parent.parent / "docs" / "crowdplay.md"
BEGIN = "<!-- measured: python -m benchmarks.metadata --write -->\n"

FIRST = "game_0>player_0"
GAMES = ("beam_rider", "breakout", "qbert", "riverraid", "space_invaders")
TASKS = ("insideout", "outsidein", "plain", "rowbyrow")
SOURCES = ("email", "mturk", "socialmedia")
GAME, TASK, SOURCE, SCORE = "space_invaders", "insideout", "mturk", 100
WHERE = "game = ? AND task = ? AND source = ? AND score >= ? AND agent_id = ?"
ASKED = [GAME, TASK, SOURCE, SCORE, FIRST]

Found = set[str]


def write_metadata(path: Path, episodes: int, protocol: int) -> None:
    """A `dataset.sqlite` of so many episodes, as CrowdPlay's dump makes it: four keys an agent, four of all."""
    draw = random.Random(7)
    tables: dict[str, list[tuple[str | bytes, ...]]] = {
        name: [] for name in ("environments", "environmentkeyworddata", "episodes", "episodekeyworddata", "users")
    }
    for number in range(episodes):
        game, task, source = draw.choice(GAMES), draw.choice(TASKS), draw.choice(SOURCES)
        environment, episode = f"{draw.getrandbits(128):032x}", f"{draw.getrandbits(128):032x}"
        begun = datetime(2021, 9, 1) + timedelta(seconds=draw.uniform(0, 1e7))
        played = timedelta(seconds=draw.uniform(10, 1600))
        of_player = {
            "Score": draw.randrange(3000),
            "Time played": played,
            "Active playtime": played * draw.random(),
            "Correct aliens shot (fraction)": draw.random(),
        }
        of_all = {"game": game, "task": task, "source": source, "created_on": begun}
        tables["environments"].append((environment, f"{game}_{task}_{source}"))
        tables["episodes"].append((episode, environment))
        tables["users"].append((f"u{number}", f"p{draw.randrange(3000)}", game, environment, FIRST))
        for table, owner, about in (
            ("environmentkeyworddata", environment, of_all),
            ("episodekeyworddata", episode, {"created_on": begun}),
        ):
            for agent, values in (("all", about), (FIRST, of_player)):
                tables[table] += [(owner, agent, key, pickle.dumps(v, protocol)) for key, v in values.items()]
    put_rows(path, tables)


def _wanted(episode: Any) -> bool:
    """The condition of CrowdPlay's documentation, on an episode of any of the three."""
    about = episode.environment.keyword_data["all"]
    return bool(
        about["game"] == GAME
        and about["task"] == TASK
        and about["source"] == SOURCE
        and episode.keyword_data[FIRST]["Score"] >= SCORE
    )


def crowdplay_loop(database: Path) -> Found:
    episodes = crowdplay_session(database).query(CrowdPlayEpisode).all()
    return {str(e.episode_id) for e in episodes if _wanted(e)}


def lake_loop(lake: Lake) -> Found:
    return {e.episode_id for e in lake.episodes() if _wanted(e)}


def orm_loop(path: Path) -> Found:
    _, session = get_engine_and_session(path)
    return {e.episode_id for e in session.query(EpisodeModel).all() if _wanted(e)}


def sql_filter(lake: Lake) -> Found:
    query = f"SELECT DISTINCT episode_id FROM episode_agents WHERE {WHERE}"
    return {row[0] for row in lake.sql(query, ASKED)}


def orm_filter(session: Any, score: int) -> Found:
    rows = (
        session.query(EpisodeModel)
        .filter(EnvironmentModel.environment_id == EpisodeModel.environment_id)
        .filter(EnvironmentModel.task_id == f"{GAME}_{TASK}_{SOURCE}")
        .filter(EpisodeKeywordDataModel.episode_id == EpisodeModel.episode_id)
        .filter(EpisodeKeywordDataModel.key == "Score")
        .filter(EpisodeKeywordDataModel.value >= score)
    )
    return {row.episode_id for row in rows}


def crowdplay_filter(session: Any, score: int) -> Found:
    rows = (
        session.query(CrowdPlayEpisode.episode_id)
        .filter(CrowdPlayEnvironment.environment_id == CrowdPlayEpisode.environment_id)
        .filter(CrowdPlayEnvironment.task_id == f"{GAME}_{TASK}_{SOURCE}")
        .filter(CrowdPlayEpisodeValue.episode_id == CrowdPlayEpisode.episode_id)
        .filter(CrowdPlayEpisodeValue.key == "Score")
        .filter(CrowdPlayEpisodeValue.value >= score)
    )
    return {row[0] for row in rows}


@dataclass
class Way:
    """One way to find the episodes, and what each turn of it took."""

    name: str
    find: Callable[[], Found]
    target: float | None = None  # times as fast as CrowdPlay's loop
    runs: int = 1  # a turn
    spent: list[Spent] = field(default_factory=list)

    @property
    def wall(self) -> float:
        return statistics.median(one.wall for one in self.spent)

    @property
    def processor(self) -> float:
        return statistics.median(one.processor for one in self.spent)


def ways(database: Path, path: Path) -> list[Way]:
    """CrowdPlay's loop first. Sessions and lakes are opened anew, but where it says otherwise."""
    opened = Lake(path)
    return [
        Way("CrowdPlay: list comprehension", lambda: crowdplay_loop(database)),
        Way("lake.episodes(): the same comprehension", lambda: lake_loop(Lake(path)), 100, 3),
        Way("lake.episodes(): again, in a lake that is open", lambda: lake_loop(opened), None, 3),
        Way("our ORM: the same comprehension", lambda: orm_loop(path), 25, 3),
        Way("lake.sql: the filter, in a lake that is open", lambda: sql_filter(opened), 500, 5),
        Way("lake.sql: the filter, first question", lambda: sql_filter(Lake(path)), None, 3),
    ]


def measure(found: Sequence[Way], turns: int, say: Console) -> int:
    """Each way in turn; returns how many episodes were found. They are the same, or nothing is reported."""
    expected = found[0].find()
    for way in found[1:]:
        for _ in range(3):
            if way.find() != expected:
                raise SystemExit(f"{way.name}: finds other episodes than CrowdPlay's loop; nothing is reported")
    for turn in range(turns):
        say.print(f"turn {turn + 1} of {turns} …")
        for way in found:
            way.spent += [timed(way.find)[1] for _ in range(way.runs)]
    return len(expected)


def speed_table(found: Sequence[Way]) -> Table:
    slow = found[0]
    rows = [
        (
            way.name,
            f"{way.wall * 1000:,.1f}",
            f"{way.processor * 1000:,.1f}",
            f"{slow.wall / way.wall:,.0f}",
            "" if way.target is None else f"{way.target:,.0f}",
        )
        for way in found
    ]
    return Table(("way", "ms", "processor ms", "times as fast", "target"), rows)


def verdicts(found: Sequence[Way]) -> list[str]:
    slow = found[0]
    told = []
    for way in found:
        if way.target is not None:
            times, by_processor = slow.wall / way.wall, slow.processor / way.processor
            met = "met" if times >= way.target else "missed"
            told.append(
                f"{way.name}: {times:,.0f} times as fast as CrowdPlay's loop (target: {way.target:,.0f}, {met});"
                f" by processor time {by_processor:,.0f} times."
            )
    return told


def filter_table(databases: dict[int, Path], path: Path) -> Table:
    """What CrowdPlay's own filter finds, which compares pickles as bytes."""
    _, session = get_engine_and_session(path)
    rows = []
    for score in (50, 500, 1000):
        right = orm_filter(session, score)
        cells = [f"Score >= {score}", f"{len(right):,}"]
        for database in databases.values():
            theirs = crowdplay_filter(crowdplay_session(database), score)
            cells.append(f"{len(theirs):,} ({len(theirs & right):,} of them right)")
        rows.append(tuple(cells))
    return Table(("filter", "lake", *(f"CrowdPlay, protocol {protocol}" for protocol in databases)), rows)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.metadata", description="Finding episodes by metadata.")
    parser.add_argument("--episodes", type=int, default=10_000, help="(10000)")
    parser.add_argument("--turns", type=int, default=3, help="of each way (3)")
    parser.add_argument("--write", action="store_true", help=f"write the section of {PAGE.parent.name}/{PAGE.name}")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    say = Console(stderr=True, highlight=False)
    with tempfile.TemporaryDirectory(prefix="crowdplay-lake-bench-") as folder:
        databases = {}
        for protocol in (4, 5):
            raw = Path(folder) / f"protocol-{protocol}"
            raw.mkdir()
            databases[protocol] = raw / METADATA_FILE
            write_metadata(databases[protocol], options.episodes, protocol)
        path = Path(folder) / "lake"
        ingest(databases[5].parent, path, IngestOptions(workers=0))
        found = ways(databases[5], path)
        matches = measure(found, options.turns, say)
        report = Report("Measured")
        report.add("Result", verdicts(found))
        report.add("Finding episodes", speed_table(found))
        report.add("What CrowdPlay's filter on values finds", filter_table(databases, path))
    report.add(
        "Method",
        [
            f"Machine: {cores()} cores, {processor()}. {versions()}.",
            f"{options.episodes:,} episodes in as many environments, five to eight keys each; {matches:,} match game, "
            "task, source and score. All ways found the same ones.",
            "CrowdPlay's way is its data model over SQLite, re-created here: pickled values, and a query for the "
            "keyword data of each episode and environment. Sessions and lakes are opened anew each time, but where it "
            f"says otherwise. {options.turns} turns, in each all ways; medians.",
            "Its filter on values compares pickles as byte strings, here with the protocol that this Python pickles a "
            "query's number with.",
        ],
    )
    if options.write:
        replace_section(PAGE, BEGIN, report.markdown())
    report.show(Console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
