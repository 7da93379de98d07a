"""A lake opened: its tables, its episodes and what is known of them, and filters that agree with each other."""

from __future__ import annotations

import operator
import os
import pickle
import shutil
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from conftest import read_raw
from hypothesis import given, settings
from hypothesis import strategies as st

from crowdplay_ingest.pipeline import IngestSummary, ingest
from crowdplay_ingest.recording_metadata import Rows, put_rows
from crowdplay_lake import Episode, Episodes, Lake
from crowdplay_lake.errors import (
    QueryNotAllowed,
    UnknownAgent,
    UnknownColumn,
    UnknownEnvironment,
    UnknownEpisode,
    UnknownTable,
)
from crowdplay_lake.schema import TABLES
from crowdplay_lake.wide import column_name

FIRST, SECOND = "game_0>player_0", "game_0>player_1"


# The lake


def test_a_lake_says_what_it_is(lake: Lake, ingested: tuple[Path, IngestSummary]) -> None:
    assert lake.commit == ingested[1].commit
    assert repr(lake) == f"Lake({str(lake.path)!r}, commit={lake.commit})"
    assert list(TABLES) == [name for name in TABLES if name in lake.tables()]
    assert set(lake.tables()) == {*TABLES, "episode_agents", "environment_agents", "episode_steps"}
    for name, table in TABLES.items():
        assert lake.tables()[name] == table.schema.names


@pytest.mark.parametrize("table", TABLES)
def test_sql_and_scan_give_the_same_table(lake: Lake, table: str) -> None:
    order = list(TABLES[table].sort)
    columns = [c.name for c in TABLES[table].columns if c.name not in ("gaps", "colors", "extra")]
    scanned = lake.scan(table).select(columns).sort(order).collect()
    asked = lake.sql(f"SELECT {', '.join(columns)} FROM {table}").pl().sort(order)
    assert scanned.columns == asked.columns
    assert scanned.height == asked.height
    # Times are UTC in both; SQL shows them without a zone.
    zoned = [name for name, kind in scanned.schema.items() if isinstance(kind, pl.Datetime)]
    assert scanned.with_columns(pl.col(zoned).dt.replace_time_zone(None)).rows() == asked.rows()


def test_an_unknown_table_names_the_nearest(lake: Lake) -> None:
    with pytest.raises(UnknownTable, match="no table 'episods'; did you mean 'episodes'"):
        lake.scan("episods")


def test_a_lake_travels(lake: Lake) -> None:
    """Workers open the same commit; a lake that has answered SQL travels too."""
    lake.sql("SELECT 1")
    copy = pickle.loads(pickle.dumps(lake))
    assert (copy.path, copy.commit) == (lake.path, lake.commit)
    assert copy.episodes().ids == lake.episodes().ids
    episode = pickle.loads(pickle.dumps(lake.episodes()[0]))
    assert len(episode.get_raw_trajectory()) == len(lake.episodes()[0])


def test_a_lake_does_not_care_where_the_process_goes(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(lake.path.parent)
    relative = Lake(lake.path.name)
    monkeypatch.chdir(tmp_path)
    assert relative.sql("SELECT count(*) FROM steps").fetchall() == lake.sql("SELECT count(*) FROM steps").fetchall()
    assert relative.scan("steps").select(pl.len()).collect().item() > 0
    assert len(relative.episodes()[0].frames(stop=1)) == 1


@pytest.fixture(scope="module")
def tiny(lake: Lake, raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake of the shortest episode, to be copied."""
    folder = tmp_path_factory.mktemp("tiny")
    shortest = min(lake.episodes(), key=len)
    (folder / "raw").mkdir()
    (path,) = raw.glob(f"{shortest.episode_id}.*")
    shutil.copy(path, folder / "raw")
    shutil.copy(raw / "dataset.sqlite", folder / "raw")
    ingest(folder / "raw", folder / "lake")
    return folder / "lake"


@pytest.mark.parametrize("name", ["my data", "ü", "50%", "it's", "a[1]", "{a,b}", "st*r", "q?", "a+b&c#d", "game=x"])
def test_a_lake_in_a_folder_of_any_name(tiny: Path, tmp_path: Path, name: str) -> None:
    path = Path(shutil.copytree(tiny, tmp_path / name))
    lake = Lake(path)
    (episode,) = [e for e in lake.episodes() if e.agents]
    n = len(episode) * len(episode.agents)
    assert lake.sql("SELECT count(*) FROM steps JOIN episode_agents USING (episode_id, agent_id)").fetchall() == [(n,)]
    assert lake.scan("steps").filter(game=episode.game).select(pl.len()).collect().item() == n
    assert len(episode.get_raw_trajectory()) == len(episode)


def test_a_lake_behind_a_link(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tiny)
    assert len(Lake(tmp_path / "link").sql("FROM episodes")) == len(Lake(tiny).episodes())


# Episodes


def test_episodes_are_a_sequence_ordered_by_id(lake: Lake) -> None:
    episodes = lake.episodes()
    ids = [e.episode_id for e in episodes]
    assert ids == sorted(ids) == episodes.ids
    assert len(episodes) == len(ids) > 10
    assert [episodes[i].episode_id for i in range(len(ids))] == ids
    assert (episodes[-1].episode_id, episodes[np.int64(1)].episode_id) == (ids[-1], ids[1])
    for part in (slice(2, 5), slice(None, None, 2), slice(None, None, -1), slice(-3, None), slice(5, 2), slice(0, 999)):
        assert isinstance(episodes[part], Episodes)
        assert episodes[part].ids == ids[part]
    assert [e.episode_id for e in reversed(episodes)] == ids[::-1]
    assert repr(episodes) == f"Episodes({len(ids)} of {lake})"
    for index in (len(ids), -len(ids) - 1):
        with pytest.raises(IndexError):
            episodes[index]


def test_every_raw_episode_is_there(raw: Path, lake: Lake) -> None:
    assert lake.episodes().ids == sorted(p.name.partition(".")[0] for p in raw.glob("*.pickle*"))


def test_an_episode_by_its_id(lake: Lake) -> None:
    episode = lake.episodes()[3]
    assert lake.episode(episode.episode_id).keyword_data == episode.keyword_data
    with pytest.raises(UnknownEpisode, match=episode.episode_id):
        lake.episode(episode.episode_id[:-1] + "x")


def test_an_environment_by_its_id(lake: Lake) -> None:
    episode = lake.episodes()[0]
    assert episode.environment_id is not None
    environment = lake.environment(episode.environment_id)
    assert environment.keyword_data == episode.environment.keyword_data
    assert (environment.environment_id, environment.task_id) == (episode.environment_id, episode.environment.task_id)
    assert environment.environment_id in repr(environment)
    with pytest.raises(UnknownEnvironment, match=environment.environment_id):
        lake.environment(environment.environment_id[:-1] + "x")


def test_what_is_known_of_an_episode_has_python_types(lake: Lake) -> None:
    for episode in lake.episodes():
        assert set(episode.agents) <= set(episode.keyword_data)
        data = episode.keyword_data[FIRST]
        assert type(data["Score"]) is int
        assert type(data.get("Time played", timedelta())) is timedelta
        assert type(episode.keyword_data["all"]["created_on"]) is datetime
        everyone = episode.environment.keyword_data["all"]
        assert everyone["game"] == episode.game
        assert episode.environment.task_id is not None
        assert episode.environment.task_id.startswith(everyone["game"])
        assert set(episode.environment.users) <= set(episode.agents)
        for agent, user in episode.environment.users.items():
            assert (user.agent_id, user.environment_id) == (agent, episode.environment_id)
        assert episode.action_meanings is not None
        assert episode.action_meanings[0] == "NOOP"
        assert bool(episode)
        assert episode.episode_id in repr(episode)


def test_metadata_is_what_was_recorded(raw: Path, lake: Lake) -> None:
    import sqlite3

    with sqlite3.connect(raw / "dataset.sqlite") as database:
        recorded = database.execute("SELECT episode_id, agent_id, key, value FROM episodekeyworddata").fetchall()
        of_environments = database.execute(
            "SELECT environment_id, agent_id, key, value FROM environmentkeyworddata"
        ).fetchall()
    assert recorded
    for episode_id, agent_id, key, value in recorded:
        assert lake.episode(episode_id).keyword_data[agent_id][key] == pickle.loads(value)
    for environment_id, agent_id, key, value in of_environments:
        assert lake.environment(environment_id).keyword_data[agent_id][key] == pickle.loads(value)
    assert len(recorded) == lake.scan("keyword_data").select(pl.len()).collect().item()


def test_steps_ram_and_frames_are_those_of_the_raw_trajectory(raw: Path, lake: Lake) -> None:
    episode = min(lake.episodes("game = 'space_invaders_2p'"), key=len)
    steps = read_raw(raw, episode.episode_id)
    for agent in episode.agents:
        rows = episode.steps(agent, ("step", "step_iter", "action", "reward", "lives"))
        assert rows["step"].to_pylist() == list(range(len(steps)))
        assert rows["step_iter"].to_pylist() == [s["step_iter"] for s in steps]
        assert rows["action"].to_pylist() == [s["action"][agent]["game"] for s in steps]
        assert rows["reward"].to_pylist() == [s["reward"][agent] for s in steps]
        assert rows["lives"].to_pylist() == [s["info"][agent]["ale.lives"] for s in steps]
        np.testing.assert_array_equal(episode.ram(agent), [s["info"][agent]["RAM"] for s in steps])
        for start, stop in ((0, 3), (100, 140), (len(steps) - 1, None), (5, 5)):
            frames = [s["prev_obs"][agent]["image"] for s in steps[start:stop]]
            assert (
                episode.steps(agent, ("step",), start, stop)["step"].to_pylist() == list(range(len(steps)))[start:stop]
            )
            shown = episode.frames(agent, start, stop)
            assert shown.shape == (len(frames), 210, 160, 3)
            np.testing.assert_array_equal(shown, np.array(frames).reshape(shown.shape))


@pytest.mark.parametrize("use", [Episode.steps, Episode.frames, Episode.observations, Episode.get_processed_trajectory])
def test_an_unknown_agent_names_those_there_are(lake: Lake, use: Callable[[Episode, str], Any]) -> None:
    with pytest.raises(UnknownAgent, match=r"no agent 'player_0' in episode .*game_0>player_0"):
        use(lake.episodes()[0], "player_0")


# Filters


def test_an_episode_qualifies_if_any_of_its_agents_does(lake: Lake) -> None:
    of_two = lake.episodes("game = 'space_invaders_2p'")
    assert of_two.ids
    both = {e.episode_id: [e.keyword_data[a]["Score"] for a in e.agents] for e in of_two}
    best = max(max(scores) for scores in both.values())
    any_agent = {i for i, scores in both.items() if max(scores) >= best}
    first_only = {i for i, scores in both.items() if scores[0] >= best}
    assert set(lake.episodes("game = 'space_invaders_2p' AND score >= ?", [best]).ids) == any_agent
    chosen = "game = 'space_invaders_2p' AND score >= $best AND agent_id = $agent"
    assert set(lake.episodes(chosen, {"best": best, "agent": FIRST}).ids) == first_only


WHERES: list[tuple[str, Any, Callable[[Episode], bool]]] = [
    ("game = 'breakout'", None, lambda e: e.game == "breakout"),
    ("game = ?", ["breakout"], lambda e: e.game == "breakout"),
    ("game = $game", {"game": "breakout"}, lambda e: e.game == "breakout"),
    ("game = 'breakout' -- the one with the bricks", None, lambda e: e.game == "breakout"),
    ("/* two */ game = 'breakout' OR game = 'qbert' --", None, lambda e: e.game in ("breakout", "qbert")),
    ("game IN ('breakout', 'qbert') AND true", None, lambda e: e.game in ("breakout", "qbert")),
    ("score > 1e9", None, lambda e: False),
    ("score IS NULL", None, lambda e: False),
    ("n_steps > 300", None, lambda e: len(e) > 300),
    ("task = 'left'", None, lambda e: e.environment.keyword_data["all"]["task"] == "left"),
    ("source = 'email'", None, lambda e: e.environment.keyword_data["all"]["source"] == "email"),
    ("user_id IS NOT NULL", None, lambda e: bool(e.environment.users)),
    ("true", None, lambda e: True),
]


@pytest.mark.parametrize(("where", "params", "expected"), WHERES, ids=[w for w, *_ in WHERES])
def test_where(lake: Lake, where: str, params: Any, expected: Callable[[Episode], bool]) -> None:
    assert lake.episodes(where, params).ids == [e.episode_id for e in lake.episodes() if expected(e)]


def test_an_unknown_column_in_where_names_the_nearest(lake: Lake) -> None:
    with pytest.raises(UnknownColumn, match="no column 'scroe'; did you mean 'score'"):
        lake.episodes("scroe > 100")


# One filter, four ways. Keys and values by hand: negative, above 256, floats, durations, dates.

EPISODES = 60
NUMBERS = [-300, -1, 0, 1, 9, 10, 99, 100, 255, 256, 257, 1000, 65536, 2**40]


def hand_made(folder: Path, values: dict[str, dict[str, Any]], protocol: int = 4, agent: str = FIRST) -> Lake:
    """A lake of metadata only: episode → key → value, each episode in an environment of its own."""
    folder.mkdir(exist_ok=True)
    rows: dict[str, Rows] = {
        "environments": [(f"v_{e}", "task") for e in values],
        "episodes": [(e, f"v_{e}") for e in values],
        "users": [(f"u_{e}", "person", "task", f"v_{e}", agent) for e in values],
        "episodekeyworddata": [
            (e, agent, key, pickle.dumps(value, protocol)) for e, data in values.items() for key, value in data.items()
        ],
    }
    put_rows(folder / "dataset.sqlite", rows)
    ingest(folder, folder / "lake")
    return Lake(folder / "lake")


@pytest.fixture(scope="module", params=[2, 4, 5], ids="protocol {}".format)
def numbers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Episodes with known values of each kind; not every episode has every key."""
    begin = datetime(2021, 9, 15, 8)
    values = {
        f"e{i:03}": {
            key: value
            for position, (key, value) in enumerate(
                {
                    "Score": NUMBERS[i % len(NUMBERS)],
                    "Accuracy (fraction)": i / 7 - 3,
                    "Time played": timedelta(seconds=NUMBERS[i % len(NUMBERS)], microseconds=i),
                    "Begun": begin + timedelta(hours=NUMBERS[i % 12]),
                    "Won": i % 2 == 0,
                    "Name": f"n{NUMBERS[i % len(NUMBERS)]}",
                }.items()
            )
            if (i + position) % 5
        }
        for i in range(EPISODES)
    }
    return hand_made(tmp_path_factory.mktemp("numbers"), values, request.param)


OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
    "<>": operator.ne,
}
KEYS = {
    "Score": ("score", st.sampled_from(NUMBERS) | st.integers(-400, 2**41)),
    "Accuracy (fraction)": ("accuracy_fraction", st.integers(-30, 60).map(lambda n: n / 7)),
    "Time played": ("time_played", st.integers(-400, 70_000).map(lambda s: timedelta(seconds=s))),
    "Begun": ("begun", st.integers(-400, 400).map(lambda h: datetime(2021, 9, 15) + timedelta(hours=h))),
    "Won": ("won", st.booleans()),
    "Name": ("name", st.sampled_from([f"n{n}" for n in NUMBERS])),
}


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_the_same_filter_in_sql_polars_and_python(numbers: Lake, data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(KEYS)))
    column, thresholds = KEYS[key]
    threshold = data.draw(thresholds)
    symbol = data.draw(st.sampled_from(sorted(OPERATORS)))
    compare = OPERATORS[symbol]

    looped = [
        e.episode_id
        for e in numbers.episodes()
        if key in e.keyword_data[FIRST] and compare(e.keyword_data[FIRST][key], threshold)
    ]
    # Durations are seconds in tables.
    value = threshold.total_seconds() if isinstance(threshold, timedelta) else threshold
    assert numbers.episodes(f"{column} {symbol} ?", [value]).ids == looped

    kind = {str: "value_text", datetime: "value_timestamp"}.get(type(threshold), "value_double")
    typed = value.replace(tzinfo=UTC) if isinstance(value, datetime) else float(value) if kind[6] == "d" else value
    rows = numbers.scan("keyword_data").filter(pl.col("key") == key).filter(compare(pl.col(kind), typed))
    assert rows.select("episode_id").sort("episode_id").collect()["episode_id"].to_list() == looped

    wide = numbers.sql("SELECT * FROM episode_agents").pl().filter(compare(pl.col(column), value))
    assert wide["episode_id"].sort().to_list() == looped


def test_comparisons_are_numeric(numbers: Lake) -> None:
    """Byte strings of pickles would put 256 before 9 and -1 after everything."""
    ordered = numbers.sql("SELECT score FROM episode_agents WHERE score IS NOT NULL ORDER BY score").numpy()["score"]
    assert ordered.tolist() == sorted(ordered.tolist())
    assert (ordered.min(), ordered.max()) == (-300, 2**40)
    assert numbers.sql("SELECT typeof(any_value(score)), typeof(any_value(begun)) FROM episode_agents").fetchall() == [
        ("BIGINT", "TIMESTAMP")
    ]


# Typed columns


COLUMNS = [
    # key, column of the agent's own value
    ("Score", "score"),
    ("Correct aliens shot (fraction)", "correct_aliens_shot_fraction"),
    ("left", "left_"),
    ("Right", "right_"),
    ("order", "order_"),
    ("2nd try", "_2nd_try"),
    ("  a -- b  ", "a_b"),
    ("ünï", "_"),
    ("!!!", "_"),
    ("", "_"),
]


@pytest.mark.parametrize(("key", "column"), COLUMNS)
def test_names_of_columns(key: str, column: str) -> None:
    name = column_name(key, {"left", "right", "order"})
    if column == "_":
        # Nothing of the key can stand in a plain name; it is a name that SQL takes all the same.
        assert name.replace("_", "a").isidentifier()
    else:
        assert name == column


def test_spellings_that_differ_in_capitals_share_a_column(tmp_path: Path) -> None:
    # CrowdPlay writes both; what a column means must not depend on which other episodes the lake holds.
    lake = hand_made(tmp_path / "made", {"e1": {"Active playtime": 1}, "e2": {"Active Playtime": 2}})
    rows = lake.sql("SELECT episode_id, active_playtime FROM episode_agents ORDER BY episode_id").fetchall()
    assert rows == [("e1", 1), ("e2", 2)]
    assert "active_playtime_2" not in lake.tables()["episode_agents"]


def test_a_key_becomes_a_column_and_clashes_are_numbered(tmp_path: Path) -> None:
    lake = hand_made(
        tmp_path / "made",
        {
            "e1": {
                "My Key": 1, "my key": 2, "my-key": 3, "my key 2": 4, "left": 5, "game": "x", "episode_id": "y",
                "n steps": 9, "": 6, "'quoted'": 7, 'dou"ble': 8, "1st": 10, "!!!": 11,
            }
        },
    )  # fmt: skip
    row = dict(zip((r := lake.sql("FROM episode_agents")).columns, r.fetchall()[0], strict=True))
    # In the order of the keys.
    numbered = [name for name in row if name.startswith("my_key")]
    assert sorted(row[name] for name in numbered) == [1, 2, 3, 4]
    assert len(set(numbered)) == 4
    assert row["left_"] == 5
    # Facts of the episode keep their names.
    assert (row["game"], row["episode_id"], row["n_steps"]) == ("unknown", "e1", None)
    assert (row["game_2"], row["episode_id_2"], row["n_steps_2"]) == ("x", "y", 9)
    assert {6, 7, 8, 10, 11} <= set(row.values())
    assert len(lake.episodes("left_ = 5 AND quoted = 7")) == 1


def test_prefixes_tell_whose_value_it_is(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    put_rows(
        raw / "dataset.sqlite",
        {
            "environments": [("v", "t")],
            "episodes": [("e", "v"), ("f", "v")],
            "users": [("u0", "p0", "t", "v", FIRST), ("u1", "p1", "t", "v", SECOND)],
            "episodekeyworddata": [
                ("e", FIRST, "Score", pickle.dumps(1)),
                ("e", SECOND, "Score", pickle.dumps(2)),
                ("e", "all", "Score", pickle.dumps(3)),
                ("f", SECOND, "Score", pickle.dumps(4)),
            ],
            "environmentkeyworddata": [
                ("v", FIRST, "Score", pickle.dumps(5)),
                ("v", "all", "Score", pickle.dumps(6)),
                ("v", "all", "game", pickle.dumps("g")),
            ],
        },
    )
    ingest(raw, tmp_path / "lake")
    lake = Lake(tmp_path / "lake")
    rows = lake.sql(
        "SELECT episode_id, agent_id, game, score, episode_score, environment_score, environment_score_2, "
        "permanent_user_id FROM episode_agents ORDER BY ALL"
    ).fetchall()
    assert rows == [
        ("e", FIRST, "g", 1, 3, 5, 6, "p0"),
        ("e", SECOND, "g", 2, 3, None, 6, "p1"),
        ("f", FIRST, "g", None, None, 5, 6, "p0"),
        ("f", SECOND, "g", 4, None, None, 6, "p1"),
    ]
    assert lake.episodes("score = 4 AND agent_id = 'game_0>player_1'").ids == ["f"]


TYPES: list[tuple[str, list[Any], str, list[Any]]] = [
    ("ints", [1, -5, 300], "BIGINT", [1, -5, 300]),
    ("floats", [1.5, 2.0, -0.25], "DOUBLE", [1.5, 2.0, -0.25]),
    ("ints and floats", [1, 2.5, 3], "DOUBLE", [1.0, 2.5, 3.0]),
    ("bools", [True, False, None], "BOOLEAN", [True, False, None]),
    ("bools and ints", [True, 5, 0], "BIGINT", [1, 5, 0]),
    ("texts", ["b", "a", ""], "VARCHAR", ["b", "a", ""]),
    ("none and ints", [None, 4, None], "BIGINT", [None, 4, None]),
    ("nothing but none", [None, None, None], "DOUBLE", [None, None, None]),
    ("durations", [timedelta(minutes=1), timedelta(0), timedelta(microseconds=5)], "DOUBLE", [60.0, 0.0, 5e-06]),
    ("dates", [datetime(2021, 1, 2, 3), None, datetime(1999, 1, 1)], "TIMESTAMP",
     [datetime(2021, 1, 2, 3), None, datetime(1999, 1, 1)]),
    ("numpy", [np.int64(3), np.int32(-1), np.uint8(255)], "BIGINT", [3, -1, 255]),
    ("numpy floats", [np.float32(0.5), np.float64(0.1), 1], "DOUBLE", [0.5, 0.1, 1.0]),
    ("numpy bools", [np.bool_(True), np.bool_(False), True], "BOOLEAN", [True, False, True]),
    ("mostly numbers", [1, 2, "three"], "BIGINT", [1, 2, None]),
    ("mostly texts", ["one", "two", 3], "VARCHAR", ["one", "two", None]),
    ("lists", [[1, 2], [], [3]], "VARCHAR", ["[1,2]", "[]", "[3]"]),
    ("dicts", [{"a": 1}, {"b": [2]}, {}], "VARCHAR", ['{"a":1}', '{"b":[2]}', "{}"]),
    ("lists and a number", [[1], [2], 5], "VARCHAR", ["[1]", "[2]", "5"]),
    ("big", [2**60, 1, 2], "DOUBLE", [float(2**60), 1.0, 2.0]),
    ("beyond", [10**400, 1, 2], "DOUBLE", [float("inf"), 1.0, 2.0]),
    ("infinite", [float("inf"), float("-inf"), 0.5], "DOUBLE", [float("inf"), float("-inf"), 0.5]),
]  # fmt: skip


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    values = {f"e{i}": {f"key {name}": given[i] for name, given, _, _ in TYPES} for i in range(3)}
    return hand_made(tmp_path_factory.mktemp("typed"), values)


@pytest.mark.parametrize(("name", "given_values", "sql_type", "expected"), TYPES, ids=[name for name, *_ in TYPES])
def test_values_of_every_type(
    typed: Lake, name: str, given_values: list[Any], sql_type: str, expected: list[Any]
) -> None:
    column = f"key_{name.replace(' ', '_')}"
    rows = typed.sql(f"SELECT {column}, typeof({column}) FROM episode_agents ORDER BY episode_id").fetchall()
    assert [value for value, _ in rows] == expected
    assert {kind for _, kind in rows} == {sql_type}
    # The typed column may round or leave out; the value itself never does.
    for value, episode in zip(given_values, typed.episodes(), strict=True):
        kept = episode.keyword_data[FIRST][f"key {name}"]
        assert kept == value
        assert type(kept) is type(value.item() if isinstance(value, np.generic) else value)


def test_values_that_equal_nothing_come_back(tmp_path: Path) -> None:
    values = {
        "e0": {"nan": float("nan"), "array": np.arange(6, dtype=np.int16).reshape(2, 3), "when": date(2021, 2, 3)},
        "e1": {"nan": 1.0, "array": np.zeros((0, 4)), "when": date(2000, 1, 1)},
    }
    lake = hand_made(tmp_path / "made", values)
    kept = lake.episode("e0").keyword_data[FIRST]
    assert np.isnan(kept["nan"])
    assert kept["when"] == date(2021, 2, 3)
    for episode in lake.episodes():
        array = episode.keyword_data[FIRST]["array"]
        expected = values[episode.episode_id]["array"]
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected)
    assert lake.sql("SELECT isnan(nan) FROM episode_agents ORDER BY episode_id").fetchall() == [(True,), (False,)]


# Reading no more than is needed


def test_scan_reads_only_the_partitions_it_needs(lake: Lake) -> None:
    every = lake.scan("steps").select("step").explain()
    one = lake.scan("steps").filter(pl.col("game") == "breakout").select("step").explain()
    assert "breakout" in one
    parts = {part.partition: part for part in lake.snapshot.parts("steps")}
    assert len(parts) == 8
    for game, part in parts.items():
        name = os.path.basename(part.path)
        assert (name in one) == (game == "breakout") or "Parquet SCAN [" in one
    assert one != every
    rows = lake.scan("steps").filter(pl.col("game") == "breakout").select(pl.len()).collect().item()
    assert rows == parts["breakout"].rows


def test_a_filter_on_the_game_reads_no_other_file(lake: Lake, tmp_path: Path) -> None:
    """Proof by ruin: the other games' parts are garbage and nobody notices."""
    path = Path(shutil.copytree(lake.path, tmp_path / "lake"))
    ruined = Lake(path)
    # The first file of all tells Polars the columns.
    first, *others = ruined.snapshot.parts("steps")
    assert first.partition != "breakout"
    for part in others:
        if part.partition != "breakout":
            (path / "steps" / part.path).write_bytes(b"garbage")
    expected = lake.scan("steps").filter(pl.col("game") == "breakout").select(pl.col("reward").sum()).collect().item()
    filtered = ruined.scan("steps").filter(pl.col("game") == "breakout").select(pl.col("reward").sum())
    assert filtered.collect().item() == expected
    asked = ruined.sql("SELECT sum(reward) FROM steps WHERE game = 'breakout'").fetchall()
    assert asked == [(expected,)]
    for episode in ruined.episodes("game = 'breakout'"):
        assert len(episode.get_raw_trajectory()) == len(episode)


def test_scan_reads_only_the_columns_it_needs(lake: Lake) -> None:
    plan = lake.scan("steps").select("episode_id", "ram_1c").explain()
    assert f"PROJECT 2/{len(TABLES['steps'].columns)} COLUMNS" in plan or "PROJECT 2/" in plan


def test_a_scan_is_lazy(lake: Lake) -> None:
    assert isinstance(lake.scan("frames"), pl.LazyFrame)
    assert lake.scan("frames").collect_schema().names() == TABLES["frames"].schema.names


@pytest.mark.parametrize("table", TABLES)
def test_an_empty_table_has_its_columns(table: str, tmp_path: Path) -> None:
    put_rows(tmp_path / "dataset.sqlite", {"environments": [("v", "t")]})
    ingest(tmp_path, tmp_path / "lake")
    lake = Lake(tmp_path / "lake")
    expected = TABLES[table].schema.names
    assert lake.scan(table).collect().columns == expected
    assert lake.sql(f"FROM {table}").columns == expected
    if table != "environments":
        assert lake.sql(f"FROM {table}").fetchall() == []
    assert lake.sql("FROM episode_agents").fetchall() == []
    assert len(lake.episodes("n_steps > 1")) == 0


def test_the_wide_view_answers_the_same_when_it_is_asked_again(lake: Lake) -> None:
    """The second time its rows are kept in the database."""
    again = Lake(lake.path)
    query = "SELECT * FROM episode_agents ORDER BY episode_id, agent_id"
    first, *others = (again.sql(query).arrow() for _ in range(4))
    assert all(other.equals(first) for other in others)
    assert again.tables() == lake.tables()
    assert not any(name.startswith("_") for name in again.tables())
    with pytest.raises(QueryNotAllowed):
        again.sql("DELETE FROM _episode_agents")
