"""One filter, asked in four ways: the ORM's answer, the SQL's, Polars' and a plain Python loop's are the same."""

from __future__ import annotations

import operator
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metadata_folders import P0, P1, Keywords, Sitting, write_metadata

pytest.importorskip("sqlalchemy")

from sqlalchemy.orm import aliased

from crowdplay_ingest.pipeline import IngestOptions, ingest
from crowdplay_lake import Lake
from crowdplay_lake.orm import EpisodeKeywordDataModel, EpisodeModel, get_engine_and_session
from crowdplay_lake.orm.session import LakeSession

BEGUN = datetime(2021, 9, 1)
EPISODES = 60
# Key → (its column in episode_agents, its typed column in keyword_data).
KEYS = {
    "Score": ("score", "value_double"),
    "Fraction": ("fraction", "value_double"),
    "Time played": ("time_played", "value_double"),
    "Seen on": ("seen_on", "value_timestamp"),
    "Note": ("note", "value_text"),
}
OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def draw_keywords(draw: random.Random) -> Keywords:
    def of_agent() -> dict[str, Any]:
        values = {
            # Both sides of a byte, and of zero; pickles of these sort in no order of numbers.
            "Score": draw.choice([-300, -1, 0, 7, 255, 256, 257, 500, 65_536, draw.randrange(3000)]),
            "Fraction": draw.choice([-0.5, 0.0, 0.25, 1.0, draw.random()]),
            "Time played": timedelta(seconds=draw.choice([0, 1, 256.5, 90, draw.randrange(1000)])),
            "Seen on": BEGUN + timedelta(hours=draw.choice([-1, 0, 1, draw.randrange(1000)])),
            "Note": draw.choice(["", "a", "B", "ab", "Ä", "10", "9"]),
        }
        return {key: value for key, value in values.items() if draw.random() < 0.8}

    return {agent: of_agent() for agent in (P0, P1)}


@pytest.fixture(scope="module", params=[4, 5], ids=["protocol 4", "protocol 5"])
def lake(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    draw = random.Random(11)
    folder: Path = tmp_path_factory.mktemp("filters")
    of_game = {"game": "breakout", "task": "plain", "source": "mturk"}
    episodes = {f"e{number:03d}": draw_keywords(draw) for number in range(EPISODES)}
    write_metadata(folder / "raw", [Sitting("v1", "breakout", {"all": of_game}, episodes)], request.param)
    ingest(folder / "raw", folder / "lake", IngestOptions(workers=0))
    return Lake(folder / "lake")


@pytest.fixture(scope="module")
def session(lake: Lake) -> LakeSession:
    return get_engine_and_session(lake.path)[1]


@dataclass(frozen=True)
class Condition:
    key: str
    sign: str
    threshold: Any

    @property
    def plain(self) -> Any:
        """As a typed column holds it."""
        return self.threshold.total_seconds() if isinstance(self.threshold, timedelta) else self.threshold


THRESHOLDS: dict[str, st.SearchStrategy[Any]] = {
    "Score": st.one_of(st.sampled_from([-300, 0, 255, 256, 500, 255.5]), st.integers(-400, 3100)),
    "Fraction": st.one_of(st.sampled_from([-0.5, 0, 0.25, 1]), st.floats(-1, 1)),
    "Time played": st.timedeltas(timedelta(seconds=-10), timedelta(seconds=1000)),
    "Seen on": st.one_of(st.just(BEGUN), st.datetimes(BEGUN - timedelta(days=1), BEGUN + timedelta(days=45))),
    "Note": st.sampled_from(["", "a", "B", "ab", "Ä", "10", "9", "b"]),
}
CONDITIONS = st.lists(
    st.sampled_from(sorted(KEYS)).flatmap(
        lambda key: st.builds(Condition, st.just(key), st.sampled_from(sorted(OPERATORS)), THRESHOLDS[key])
    ),
    min_size=1,
    max_size=3,
)


def by_python(lake: Lake, agent: str, conditions: Sequence[Condition]) -> set[str]:
    return {
        episode.episode_id
        for episode in lake.episodes()
        if all(
            one.key in episode.keyword_data[agent]
            and OPERATORS[one.sign](episode.keyword_data[agent][one.key], one.threshold)
            for one in conditions
        )
    }


def by_orm(session: LakeSession, agent: str, conditions: Sequence[Condition]) -> set[str]:
    query = session.query(EpisodeModel)
    for one in conditions:
        row = aliased(EpisodeKeywordDataModel)
        query = (
            query.filter(row.episode_id == EpisodeModel.episode_id)
            .filter(row.agent_id == agent)
            .filter(row.key == one.key)
            .filter(OPERATORS[one.sign](row.value, one.threshold))
        )
    return {episode.episode_id for episode in query.all()}


def by_sql(lake: Lake, agent: str, conditions: Sequence[Condition]) -> set[str]:
    where = " AND ".join(f"{KEYS[one.key][0]} {one.sign} ?" for one in conditions)
    query = f"SELECT episode_id FROM episode_agents WHERE agent_id = ? AND {where}"
    return {row[0] for row in lake.sql(query, [agent, *(one.plain for one in conditions)])}


def by_polars(lake: Lake, agent: str, conditions: Sequence[Condition]) -> set[str]:
    frame = lake.scan("keyword_data").filter(pl.col("agent_id") == agent)
    found = None
    for one in conditions:
        plain = one.plain.replace(tzinfo=UTC) if isinstance(one.plain, datetime) else one.plain
        matches = OPERATORS[one.sign](pl.col(KEYS[one.key][1]), pl.lit(plain))
        ids = set(frame.filter((pl.col("key") == one.key) & matches).collect()["episode_id"].to_list())
        found = ids if found is None else found & ids
    return found or set()


@settings(deadline=None, max_examples=60)
@given(agent=st.sampled_from([P0, P1]), conditions=CONDITIONS)
def test_four_ways_to_filter_agree(lake: Lake, session: LakeSession, agent: str, conditions: list[Condition]) -> None:
    expected = by_python(lake, agent, conditions)
    assert by_orm(session, agent, conditions) == expected
    assert by_sql(lake, agent, conditions) == expected
    assert by_polars(lake, agent, conditions) == expected


def test_a_key_of_mixed_types_keeps_them_all_and_its_column_is_of_the_common_one(tmp_path: Path) -> None:
    values = {"e1": 3, "e2": 300, "e3": "300", "e4": -1}
    episodes = {episode: {P0: {"m": value}} for episode, value in values.items()}
    write_metadata(tmp_path / "raw", [Sitting("v1", "t", {"all": {"game": "breakout"}}, episodes)])
    ingest(tmp_path / "raw", tmp_path / "lake", IngestOptions(workers=0))
    lake = Lake(tmp_path / "lake")
    assert lake.sql("SELECT episode_id, m FROM episode_agents ORDER BY 1").fetchall() == [
        ("e1", 3), ("e2", 300), ("e3", None), ("e4", -1),
    ]  # fmt: skip
    assert [episode.keyword_data[P0]["m"] for episode in lake.episodes()] == list(values.values())
    session = get_engine_and_session(tmp_path / "lake")[1]
    value = EpisodeKeywordDataModel.value
    for condition, expected in ((value >= 3, ["e1", "e2"]), (value >= "3", ["e3"]), (value != 3, ["e2", "e3", "e4"])):
        rows = session.query(EpisodeKeywordDataModel).filter(condition).order_by(EpisodeKeywordDataModel.episode_id)
        assert [row.episode_id for row in rows] == expected
