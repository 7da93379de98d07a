"""CrowdPlay's API over a lake: its models, relationships, queries and writes."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from metadata_folders import P0, P1, Sitting, write_metadata

pytest.importorskip("sqlalchemy")

from sqlalchemy import delete, event, func, insert, select, text, update
from sqlalchemy.orm import aliased, joinedload

from crowdplay_ingest.pipeline import IngestOptions, ingest
from crowdplay_lake import Lake
from crowdplay_lake.commit import writing
from crowdplay_lake.errors import (
    InvalidArgument,
    InvalidLake,
    LakeBusy,
    QueryNotAllowed,
    UnknownAgent,
    UnknownColumn,
    UnknownDataset,
    UnknownEpisode,
)
from crowdplay_lake.orm import (
    EnvironmentKeywordDataModel,
    EnvironmentModel,
    EpisodeKeywordDataModel,
    EpisodeModel,
    UserModel,
    get_engine_and_session,
    get_trajectory_by_id,
)
from crowdplay_lake.orm import (
    session as orm_session,
)
from crowdplay_lake.orm.home import HOME_VARIABLE, lake_home
from crowdplay_lake.orm.session import LakeSession
from crowdplay_lake.snapshot import history

BEGUN = datetime(2021, 9, 1, 12)
FACTS = {"source": "mturk", "created_on": BEGUN}
VALUES: list[Any] = [
    -300, -1, 0, 7, 255, 256, 257, 500, 2**40, 2**70, -0.5, 0.25, 499.5, float("nan"), float("inf"), True, False, None,
    "500", "abc", "abd", "", "Ä", timedelta(seconds=499), timedelta(seconds=500), timedelta(days=-1), BEGUN,
    BEGUN + timedelta(days=1), [1, 2], {"a": 1}, (1, 2),
]  # fmt: skip


def sittings() -> list[Sitting]:
    two = {P0: "ada", P1: "ben"}
    of_all_kinds = {f"k{i:02d}": {P0: {"x": value}} for i, value in enumerate(VALUES)}
    return [
        Sitting(
            "v1",
            "space_invaders_insideout",
            {"all": {"game": "space_invaders", "task": "insideout", **FACTS}, P0: {"Score": 600}},
            {
                "e1": {P0: {"Score": 500, "Time played": timedelta(seconds=90)}, "all": {"created_on": BEGUN}},
                "e2": {P0: {"Score": 100, "Time played": timedelta(seconds=30)}, "all": {"created_on": BEGUN}},
            },
        ),
        Sitting(
            "v2",
            "space_invaders_2p",
            {"all": {"game": "space_invaders_2p", "task": "competitive", **FACTS}},
            {"e3": {P0: {"Score": 255}, P1: {"Score": 1200}}},
            two,
        ),
        Sitting("v3", "kinds", {"all": {"game": "qbert", "task": "plain", **FACTS}}, of_all_kinds),
        Sitting("v4", "roll_out", {}, {"e4": {}}, {}),
    ]


@pytest.fixture(scope="module", params=[4, 5], ids=["protocol 4", "protocol 5"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake of metadata, written with one protocol. Not to be changed."""
    folder = tmp_path_factory.mktemp("made")
    ingest(write_metadata(folder / "raw", sittings(), request.param), folder / "lake", IngestOptions(workers=0))
    return folder / "lake"


@pytest.fixture
def session(made: Path) -> LakeSession:
    return get_engine_and_session(made)[1]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A lake to be changed."""
    ingest(write_metadata(tmp_path / "raw", sittings()), tmp_path / "lake", IngestOptions(workers=0))
    return tmp_path / "lake"


@pytest.fixture
def writer(path: Path) -> LakeSession:
    return get_engine_and_session(path)[1]


@contextmanager
def counted(session: LakeSession) -> Iterator[list[str]]:
    """The statements that are sent to the database meanwhile."""
    found: list[str] = []

    def note(connection: object, cursor: object, statement: str, *_: object) -> None:
        found.append(statement)

    engine = session.get_bind()
    event.listen(engine, "before_cursor_execute", note)
    yield found
    event.remove(engine, "before_cursor_execute", note)


def ids(episodes: list[EpisodeModel]) -> list[str]:
    return sorted(episode.episode_id for episode in episodes)


def get(session: LakeSession, episode_id: str) -> EpisodeModel:
    return session.query(EpisodeModel).filter(EpisodeModel.episode_id == episode_id).one()


# Datasets by name


def test_a_dataset_is_found_by_name_in_the_lake_home_or_by_path(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    (tmp_path / "crowdplay_atari-v0").symlink_to(made)
    _, session = get_engine_and_session("crowdplay_atari-v0")
    assert session.query(EpisodeModel).count() == len(VALUES) + 4
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "none"))
    for dataset in (made, str(made), str(made.relative_to(made.parent.parent))):
        monkeypatch.chdir(made.parent.parent)
        assert get_engine_and_session(dataset)[1].query(EpisodeModel).count() == len(VALUES) + 4
    monkeypatch.chdir(made.parent)
    assert get_engine_and_session("lake")[1].query(EpisodeModel).count() == len(VALUES) + 4


def test_an_unknown_name_tells_the_known_ones_and_where_they_were_looked_for(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    with pytest.raises(UnknownDataset, match="there is none yet"):
        get_engine_and_session("crowdplay_atari-v0")
    for name in ("crowdplay_atari-v0", "mine"):
        (tmp_path / name).symlink_to(made)
    (tmp_path / "other").mkdir()
    with pytest.raises(UnknownDataset) as caught:
        get_engine_and_session("crowdplay_atari-v1")
    told = str(caught.value)
    assert "known: crowdplay_atari-v0, mine." in told
    assert str(tmp_path) in told
    assert str(Path.cwd()) in told
    assert HOME_VARIABLE in told
    assert "did you mean 'crowdplay_atari-v0'" in told
    with pytest.raises(InvalidLake):
        get_engine_and_session(tmp_path / "other")
    with pytest.raises(InvalidArgument, match="ingest"):
        get_engine_and_session("mine", create=True)


def test_the_lake_home_is_where_a_users_data_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(HOME_VARIABLE, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert lake_home() == tmp_path / "crowdplay-lake"
    monkeypatch.delenv("XDG_DATA_HOME")
    assert lake_home() == Path.home() / ".local" / "share" / "crowdplay-lake"


# Reading


def test_episodes_have_what_crowdplay_gives_them(session: LakeSession) -> None:
    episode = get(session, "e1")
    assert episode.keyword_data == {
        P0: {"Score": 500, "Time played": timedelta(seconds=90)},
        "all": {"created_on": BEGUN},
    }
    assert episode.environment_id == episode.environment.environment_id == "v1"
    assert episode.environment.task_id == "space_invaders_insideout"
    assert episode.environment.keyword_data["all"]["source"] == "mturk"
    assert ids(episode.environment.episodes) == ["e1", "e2"]
    assert episode.environment.episodes[0].environment is episode.environment
    user = episode.environment.users[P0]
    assert (user.permanent_user_id, user.task_id, user.environment) == (
        "ada",
        "space_invaders_insideout",
        episode.environment,
    )
    assert {one.key: one.value for one in episode.keyword_data_list}["Score"] == 500
    assert {one.episode for one in episode.keyword_data_list} == {episode}
    assert str(episode).startswith("<Episode(episode_id=e1, environment_id=v1, kwdata={")
    two_players = get(session, "e3").environment
    assert {agent: user.permanent_user_id for agent, user in two_players.users.items()} == {P0: "ada", P1: "ben"}
    assert session.query(UserModel).count() == 4


def test_an_environment_without_keywords_has_game_and_task_as_the_lake_files_it(session: LakeSession) -> None:
    assert get(session, "e4").environment.keyword_data == {"all": {"game": "unknown", "task": "unknown"}}


def test_no_query_is_issued_per_episode(session: LakeSession) -> None:
    with counted(session) as statements:
        episodes = session.query(EpisodeModel).all()
        for episode in episodes:
            assert episode.environment.keyword_data["all"]["game"]
            assert episode.environment.episodes
            assert episode.environment.users or episode.episode_id == "e4"
            assert episode.keyword_data_list or episode.episode_id == "e4"
    # One a relationship, and the one that SQLAlchemy was about to issue when it was first asked for.
    assert len(episodes) == len(VALUES) + 4
    assert len(statements) <= 1 + 4 * 2


def test_joins_options_and_statements_work(session: LakeSession) -> None:
    names = session.execute(
        select(EnvironmentModel.task_id, func.count())
        .join(EnvironmentModel.episodes)
        .group_by(EnvironmentModel.task_id)
    )
    assert dict(tuple(row) for row in names)["space_invaders_insideout"] == 2
    loaded = session.query(EpisodeModel).options(joinedload(EpisodeModel.environment)).all()
    assert len(loaded) == len(VALUES) + 4
    played = session.query(EpisodeModel).filter(EpisodeModel.environment.has(EnvironmentModel.users.any(agent_id=P1)))
    assert ids(played.all()) == ["e3"]
    assert session.execute(text("SELECT count(*) FROM episodes")).scalar() == len(VALUES) + 4
    assert session.get(EpisodeModel, "e1") is get(session, "e1")
    scores = session.query(EpisodeKeywordDataModel.value).filter_by(key="Score")
    assert [value for (value,) in scores.order_by(EpisodeKeywordDataModel.value)] == [100, 255, 500, 1200]
    assert [value for (value,) in scores.order_by(EpisodeKeywordDataModel.value.desc())] == [1200, 500, 255, 100]


def test_an_episode_outlives_its_session_and_travels(made: Path) -> None:
    def loaded() -> EpisodeModel:
        return get(get_engine_and_session(made)[1], "e1")

    assert loaded().keyword_data[P0]["Score"] == 500
    copy = pickle.loads(pickle.dumps(loaded()))
    assert copy.keyword_data[P0]["Score"] == 500
    with pytest.raises(InvalidArgument, match="in no session"):
        copy.update_kwdata(P0, "x", 1)


def test_names_that_do_not_exist_are_told(session: LakeSession, made: Path) -> None:
    with pytest.raises(UnknownColumn, match="episode_id"):
        session.execute(text("SELECT episode_idd FROM episodes"))
    with pytest.raises(UnknownEpisode, match="did you mean"):
        get_trajectory_by_id("e9")


def test_after_a_rollback_relationships_still_load(session: LakeSession) -> None:
    episodes = session.query(EpisodeModel).filter(EpisodeModel.episode_id.in_(["e1", "e2", "e3"])).all()
    session.rollback()
    assert sorted(episode.environment.environment_id for episode in episodes) == ["v1", "v1", "v2"]


# Comparing values


def found(session: LakeSession, condition: Any) -> set[str]:
    rows = session.query(EpisodeKeywordDataModel).filter_by(key="x").filter(condition)
    return {row.episode_id for row in rows}


Python = Callable[[Any], bool]
VALUE = EpisodeKeywordDataModel.value


def is_number(value: object) -> bool:
    return isinstance(value, int | float)


CONDITIONS: list[tuple[str, Any, Python]] = [
    *((f">= {n}", n <= VALUE, lambda v, n=n: is_number(v) and v >= n) for n in (-1, 0, 255, 256, 500, 499.5, 2**70)),
    *((f"> {n}", n < VALUE, lambda v, n=n: is_number(v) and v > n) for n in (-300, 255.5, 256, np.float32(0.25))),
    *((f"< {n}", n > VALUE, lambda v, n=n: is_number(v) and v < n) for n in (-0.5, 0, 500, np.int64(257))),
    *((f"<= {n}", n >= VALUE, lambda v, n=n: is_number(v) and v <= n) for n in (-1, 256, float("inf"))),
    *(
        (f"== {v}", v == VALUE, lambda x, v=v: type(x) is type(v) and x == v)
        for v in ("500", "abc", "", (1, 2), [1, 2])
    ),
    ("== 500", VALUE == 500, lambda v: is_number(v) and v == 500),
    ("== True", VALUE == True, lambda v: is_number(v) and v == 1),  # noqa: E712
    ("== None", VALUE == None, lambda v: v is None),  # noqa: E711
    ("is not None", VALUE.is_not(None), lambda v: v is not None),
    ("== nan", float("nan") == VALUE, lambda v: False),
    ("!= 500", VALUE != 500, lambda v: v != 500),
    ("== dict", VALUE == {"a": 1}, lambda v: v == {"a": 1}),
    ("> text", VALUE > "abc", lambda v: isinstance(v, str) and v > "abc"),
    ("like", VALUE.like("ab%"), lambda v: isinstance(v, str) and v.startswith("ab")),
    ("contains", VALUE.contains("b"), lambda v: isinstance(v, str) and "b" in v),
    (
        ">= duration",
        timedelta(seconds=500) <= VALUE,
        lambda v: isinstance(v, timedelta) and v >= timedelta(seconds=500),
    ),
    ("< duration", timedelta(0) > VALUE, lambda v: isinstance(v, timedelta) and v < timedelta(0)),
    ("> date", VALUE > BEGUN, lambda v: isinstance(v, datetime) and v > BEGUN),
    ("== aware date", BEGUN.replace(tzinfo=UTC) == VALUE, lambda v: v == BEGUN),
    ("between", VALUE.between(0, 256), lambda v: is_number(v) and 0 <= v <= 256),
    ("in", VALUE.in_([500, "abc", None]), lambda v: v is None or v in (500, "abc")),
    ("not in", VALUE.not_in([500, "abc"]), lambda v: v not in (500, "abc")),
]


@pytest.mark.parametrize(("name", "condition", "expected"), CONDITIONS, ids=[name for name, *_ in CONDITIONS])
def test_values_compare_as_what_they_are(session: LakeSession, name: str, condition: Any, expected: Python) -> None:
    assert found(session, condition) == {f"k{i:02d}" for i, value in enumerate(VALUES) if expected(value)}


def test_values_compare_with_each_other(session: LakeSession) -> None:
    other = aliased(EpisodeKeywordDataModel)
    rows = (
        session.query(EpisodeKeywordDataModel.episode_id, other.episode_id)
        .filter(EpisodeKeywordDataModel.key == "Score", other.key == "Score")
        .filter(EpisodeKeywordDataModel.value > other.value, other.value >= 255)
    )
    assert sorted(rows.all()) == [("e1", "e3"), ("e3", "e1"), ("e3", "e3")]


@pytest.mark.parametrize("condition", [lambda: VALUE > [1], lambda: VALUE + 1, lambda: VALUE.op("~")("a")])
def test_what_values_cannot_do_is_told(condition: Callable[[], Any]) -> None:
    with pytest.raises(InvalidArgument):
        condition()


# Writing


def value_of(path: Path, episode_id: str, agent: str, key: str) -> Any:
    return Lake(path).episode(episode_id).keyword_data[agent][key]


def test_everything_written_is_one_commit(path: Path, writer: LakeSession) -> None:
    before = Lake(path).commit
    episode = get(writer, "e1")
    episode.update_kwdata("all", "total", 5)
    episode.update_kwdata(P0, "Score", 501)
    writer.merge(EpisodeKeywordDataModel(episode_id="e2", agent_id="all", key="total", value=6))
    writer.merge(EpisodeKeywordDataModel(episode_id="e2", agent_id=P0, key="Score", value=101))
    writer.add(EpisodeKeywordDataModel(episode_id="e3", agent_id="all", key="total", value=[1, {"a": 2.5}]))
    writer.merge(EnvironmentKeywordDataModel(environment_id="v1", agent_id="all", key="note", value="good"))
    score = writer.query(EpisodeKeywordDataModel).filter_by(episode_id="e3", agent_id=P1, key="Score").one()
    score.value += 1
    assert Lake(path).commit == before
    assert episode.keyword_data["all"]["total"] == 5
    writer.commit()
    assert Lake(path).commit == before + 1
    assert history(path)[-1].operation == "session.commit"
    assert value_of(path, "e1", "all", "total") == 5
    assert value_of(path, "e1", P0, "Score") == 501
    assert [value_of(path, "e2", *of) for of in (("all", "total"), (P0, "Score"))] == [6, 101]
    assert value_of(path, "e3", "all", "total") == [1, {"a": 2.5}]
    assert value_of(path, "e3", P1, "Score") == 1201
    assert Lake(path).environment("v1").keyword_data["all"]["note"] == "good"


def test_a_session_sees_what_it_wrote_in_objects_at_once_and_in_queries_after_its_commit(writer: LakeSession) -> None:
    episode, other = get(writer, "e1"), get(writer, "e2")
    rows = episode.keyword_data_list
    episode.update_kwdata(P0, "Score", 7)
    assert next(row.value for row in rows if row.key == "Score") == 7
    writer.merge(EpisodeKeywordDataModel(episode_id="e2", agent_id=P0, key="Score", value=8))
    writer.flush()
    assert [e.keyword_data[P0]["Score"] for e in (episode, other)] == [7, 8]
    query = writer.query(EpisodeModel).filter(EpisodeKeywordDataModel.episode_id == EpisodeModel.episode_id)
    query = query.filter(EpisodeKeywordDataModel.key == "Score").filter(EpisodeKeywordDataModel.value <= 8)
    assert ids(query.all()) == []
    writer.commit()
    assert ids(query.all()) == ["e1", "e2"]
    assert get(writer, "e1") is episode


def test_commits_without_changes_are_none(path: Path, writer: LakeSession) -> None:
    before = Lake(path).commit
    episode = get(writer, "e1")
    episode.keyword_data["mine"] = {"only": "in Python"}
    episode.update_kwdata(P0, "Score", 500)
    writer.merge(EpisodeModel(episode_id="e1", environment_id="v1"))
    writer.merge(EpisodeKeywordDataModel(episode_id="e2", agent_id=P0, key="Score", value=100))
    writer.commit()
    writer.commit()
    assert Lake(path).commit == before


def test_a_rollback_and_a_close_write_nothing(path: Path, writer: LakeSession) -> None:
    before = Lake(path).commit
    for end in (writer.rollback, writer.close):
        get(writer, "e1").update_kwdata("all", "x", 1)
        added = EpisodeKeywordDataModel(episode_id="e2", agent_id="all", key="x", value=1)
        writer.add(added)
        writer.flush()
        end()
        assert added not in writer
        writer.commit()
    assert Lake(path).commit == before
    assert "all" in get(writer, "e1").keyword_data


def test_by_the_list_of_an_episode_too(path: Path, writer: LakeSession) -> None:
    episode = get(writer, "e1")
    episode.keyword_data_list.append(EpisodeKeywordDataModel(agent_id="all", key="x", value=np.eye(2)))
    writer.add(EpisodeKeywordDataModel(episode=episode, agent_id="all", key="y", value=timedelta(seconds=1)))
    writer.commit()
    assert (value_of(path, "e1", "all", "x") == np.eye(2)).all()
    assert value_of(path, "e1", "all", "y") == timedelta(seconds=1)


REFUSED: list[tuple[Callable[[LakeSession], Any], str]] = [
    (lambda s: s.merge(EnvironmentModel(environment_id="new", task_id="t")), "crowdplay-lake ingest"),
    (lambda s: s.merge(EpisodeModel(episode_id="new", environment_id="v1")), "crowdplay-lake ingest"),
    (lambda s: s.merge(EnvironmentModel(environment_id="v1", task_id="t")), "crowdplay-lake ingest"),
    (lambda s: s.add(UserModel(user_id="u", agent_id=P0, environment_id="v1")), "crowdplay-lake ingest"),
    (lambda s: s.delete(get(s, "e1")), "crowdplay-lake remove"),
    (lambda s: s.delete(get(s, "e1").keyword_data_list[0]), "None"),
    (lambda s: setattr(get(s, "e1"), "environment_id", "v2"), "crowdplay-lake ingest"),
    (lambda s: setattr(get(s, "e1").keyword_data_list[0], "key", "new"), "key cannot be changed"),
    (lambda s: s.execute(delete(EpisodeModel)), "update_kwdata"),
    (lambda s: s.execute(update(EpisodeKeywordDataModel).values(key="x")), "update_kwdata"),
    (lambda s: s.execute(insert(UserModel), [{"user_id": "u"}]), "update_kwdata"),
    (lambda s: s.query(EpisodeModel).delete(), "update_kwdata"),
    (lambda s: s.execute(text("DELETE FROM episodes")), "crowdplay-lake annotate"),
    (lambda s: s.execute(text("COPY episodes TO 'x.csv'")), "crowdplay-lake"),
    (lambda s: s.connection().exec_driver_sql("CREATE TABLE x (i INT)"), "crowdplay-lake"),
    (lambda s: s.bulk_save_objects([EpisodeModel(episode_id="n", environment_id="v1")]), "crowdplay-lake"),
]


@pytest.mark.parametrize(("write", "told"), REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_other_writes_are_refused_and_the_right_call_is_named(
    path: Path, writer: LakeSession, write: Callable[[LakeSession], Any], told: str
) -> None:
    before = Lake(path).commit
    with pytest.raises(QueryNotAllowed, match=told):  # noqa: PT012
        write(writer)
        writer.commit()
    writer.rollback()
    assert Lake(path).commit == before
    assert ids(writer.query(EpisodeModel).all()) == ids(get_engine_and_session(path)[1].query(EpisodeModel).all())


def test_what_cannot_be_kept_is_told_when_it_is_written(writer: LakeSession) -> None:
    for rows, error, told in (
        ([EpisodeKeywordDataModel(episode_id="e1", agent_id=P0, key="Score", value=1)], InvalidArgument, "merge"),
        ([EpisodeKeywordDataModel(episode_id="e1", agent_id=P0, key="x")], InvalidArgument, "value"),
        ([EpisodeKeywordDataModel(agent_id=P0, key="x", value=1)], InvalidArgument, "episode_id"),
        ([EpisodeKeywordDataModel(episode_id="e9", agent_id=P0, key="x", value=1)], UnknownEpisode, "e9"),
        ([EpisodeKeywordDataModel(episode_id="e1", agent_id="player", key="x", value=1)], UnknownAgent, "player"),
        ([EpisodeKeywordDataModel(episode_id="e1", agent_id=P0, key="x", value=print)], InvalidArgument, "plain data"),
    ):
        writer.add_all(rows)
        with pytest.raises(error, match=told):
            writer.commit()
        writer.rollback()


def test_a_commit_that_had_to_wait_too_long_can_be_tried_again(
    path: Path, writer: LakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orm_session, "LOCK_WAIT", 0.1)
    get(writer, "e1").update_kwdata("all", "x", 1)
    with writing(path), pytest.raises(LakeBusy, match=str(os.getpid())):
        writer.commit()
    writer.commit()
    assert value_of(path, "e1", "all", "x") == 1


def test_sessions_of_two_processes_lose_nothing(path: Path) -> None:
    code = """
import sys
from crowdplay_lake.orm import EpisodeModel, get_engine_and_session
_, session = get_engine_and_session(sys.argv[1])
for i in range(3):
    session.query(EpisodeModel).filter_by(episode_id="e1").one().update_kwdata("all", f"{sys.argv[2]} {i}", i)
    session.commit()
"""
    running = [subprocess.Popen([sys.executable, "-c", code, str(path), f"p{i}"]) for i in range(2)]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    known = Lake(path).episode("e1").keyword_data["all"]
    assert {f"p{i} {j}" for i in range(2) for j in range(3)} <= set(known)
