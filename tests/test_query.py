"""SQL over a lake: what it answers, what comes back, and the walls around it."""

from __future__ import annotations

import shutil
import threading
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from conftest import read_raw

from crowdplay_lake import Lake, QueryResult
from crowdplay_lake.errors import (
    CrowdPlayLakeError,
    InvalidArgument,
    QueryError,
    QueryNotAllowed,
    UnknownColumn,
    UnknownTable,
)
from crowdplay_lake.query import Stop

# Questions


@pytest.fixture(scope="module")
def trajectories(raw: Path, lake: Lake) -> dict[str, list[dict[str, Any]]]:
    """Every raw trajectory as the real unpickler reads it, without the frames, by episode."""
    found = {}
    for episode_id in lake.episodes().ids:
        steps = read_raw(raw, episode_id)
        for step in steps:
            del step["prev_obs"]
        found[episode_id] = steps
    return found


def test_episodes_and_hours_per_game(lake: Lake, trajectories: dict[str, list[dict[str, Any]]]) -> None:
    episodes: dict[str, int] = defaultdict(int)
    steps: dict[str, int] = defaultdict(int)
    for episode in lake.episodes():
        game = episode.environment.keyword_data["all"]["game"]
        episodes[game] += 1
        steps[game] += len(trajectories[episode.episode_id])
    rows = lake.sql(
        "SELECT game, count(*), sum(n_steps) / 60.0 / 3600 AS hours FROM episodes GROUP BY game ORDER BY game"
    ).fetchall()
    assert [(game, n) for game, n, _ in rows] == sorted(episodes.items())
    assert [hours for *_, hours in rows] == pytest.approx([steps[game] / 60 / 3600 for game in sorted(steps)])


def test_mean_position_from_ram_per_task(lake: Lake, trajectories: dict[str, list[dict[str, Any]]]) -> None:
    positions: dict[str, list[float]] = defaultdict(list)
    for episode in lake.episodes("game LIKE 'space_invaders%'"):
        for step in trajectories[episode.episode_id]:
            for info in step["info"].values():
                positions[episode.environment.task_id or ""].append((info["RAM"][0x1C] - 35) / 82.0)
    rows = lake.sql(
        """SELECT task_id, avg((ram_1c - 35) / 82.0) FROM steps JOIN episodes USING (episode_id)
           WHERE episodes.game LIKE 'space_invaders%' GROUP BY task_id ORDER BY task_id"""
    ).fetchall()
    expected = {task: sum(values) / len(values) for task, values in positions.items()}
    assert len(rows) >= 4
    assert dict(rows) == pytest.approx(expected)
    # Left of the middle of byte 35 the difference is negative, where unsigned bytes would overflow.
    lowest = min(min(values) for values in positions.values())
    assert lake.sql("SELECT min(ram_1c - 35) / 82.0 FROM steps WHERE game LIKE 'space_invaders%'").fetchall() == [
        (pytest.approx(lowest),)
    ]


def test_share_of_an_ai_per_two_player_episode(lake: Lake, trajectories: dict[str, list[dict[str, Any]]]) -> None:
    expected = {}
    for episode in lake.episodes():
        if len(episode.agents) == 2:
            players = [kind for step in trajectories[episode.episode_id] for kind in step["user_type"].values()]
            expected[episode.episode_id] = players.count(2) / len(players)
    rows = lake.sql(
        """SELECT episode_id, avg((user_type = 2)::INTEGER) FROM steps JOIN episodes USING (episode_id)
           WHERE len(agents) = 2 GROUP BY episode_id"""
    ).fetchall()
    assert dict(rows) == pytest.approx(expected)
    # Nobody, somebody half-way, and one of the two from the start.
    assert {0.0, 0.5} < set(expected.values())


def test_environment_agents_hold_what_each_environment_says(lake: Lake) -> None:
    result = lake.sql("FROM environment_agents")
    rows = {(r["environment_id"], r["agent_id"]): r for r in result.pl().to_dicts()}
    expected: dict[tuple[str | None, str], list[Any]] = defaultdict(list)
    for episode in lake.episodes():
        if episode.environment_id is not None:
            for agent in {*episode.agents, *episode.environment.users}:
                expected[episode.environment_id, agent].append(episode)
    assert rows.keys() == expected.keys()
    assert len(result) == len(rows)
    seen = set()
    for (environment_id, agent), row in rows.items():
        environment = lake.environment(str(environment_id))
        episodes = expected[environment_id, agent]
        user = environment.users.get(agent)
        assert (row["task_id"], row["n_episodes"]) == (environment.task_id, len(episodes))
        assert row["n_steps"] == sum(map(len, episodes))
        assert row["permanent_user_id"] == (user.permanent_user_id if user else None)
        own = environment.keyword_data.get(agent, {})
        assert row["score"] == own.get("Score")
        played = own.get("Time played")
        assert row["time_played"] == (None if played is None else pytest.approx(played.total_seconds()))
        assert row["environment_source"] == environment.keyword_data["all"].get("source")
        seen |= {name for name in ("score", "time_played") if row[name] is not None}
    assert seen == {"score", "time_played"}


def test_episode_steps_are_steps_with_what_their_episode_says(lake: Lake) -> None:
    assert (
        lake.sql("SELECT count(*) FROM episode_steps").fetchall() == lake.sql("SELECT count(*) FROM steps").fetchall()
    )
    rows = lake.sql(
        """SELECT task_id, environment_id, max(n_steps), count(DISTINCT step), sum(reward), min(ram_1c)
           FROM episode_steps GROUP BY episode_id, task_id, environment_id ORDER BY episode_id"""
    ).fetchall()
    expected = []
    for episode in lake.episodes():
        tables = [episode.steps(agent) for agent in episode.agents]
        rewards = sum(sum(table["reward"].to_pylist()) for table in tables)
        lowest = min((v for table in tables for v in table["ram_1c"].to_pylist() if v is not None), default=None)
        environment = episode.environment
        expected.append((environment.task_id, environment.environment_id, len(episode), len(episode), rewards, lowest))
    assert rows == expected


def test_everything_that_can_be_asked_is_documented(lake: Lake) -> None:
    rows = lake.schema().fetchall()
    named = {(table, column): (kind, meaning) for table, column, kind, meaning in rows}
    assert {table for table, _ in named} == set(lake.tables())
    for (table, column), (kind, meaning) in named.items():
        assert meaning or column[:4] == "ram_", (table, column)
        assert kind or not column
    assert named["episode_agents", "time_played"][0] == "DOUBLE"
    assert named["episode_agents", "time_played"][1].endswith("timedelta; in seconds")
    assert lake.schema("users").columns == ["table", "column", "type", "meaning"]
    assert {row[0] for row in lake.schema("users")} == {"users"}
    with pytest.raises(UnknownTable, match="did you mean 'users'"):
        lake.schema("user")


def test_the_catalog_has_the_same_texts(lake: Lake) -> None:
    found = lake.sql("SELECT comment FROM duckdb_columns() WHERE table_name = 'episodes' AND column_name = 'n_steps'")
    assert found.fetchall() == [(named["meaning"],) for named in lake.schema("episodes").pl().to_dicts()
                                if named["column"] == "n_steps"]  # fmt: skip
    assert "emulator steps" in found.fetchall()[0][0]


# What is allowed


ALLOWED = [
    "SELECT 1",
    "SELECT 1;",
    "  -- a word before\n SELECT 1 -- and after",
    "(SELECT 1)",
    "SELECT count(*) FROM episodes",
    "FROM episodes",
    "FROM episodes SELECT game",
    "TABLE episodes",
    "VALUES (1), (2)",
    "WITH a AS (SELECT 1 AS b) SELECT * FROM a",
    "WITH RECURSIVE t(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM t WHERE n < 5) SELECT * FROM t",
    "PIVOT episodes ON game USING count(*) GROUP BY task",
    "PIVOT episodes ON game USING count(*) GROUP BY task;  -- ; and after",
    "PIVOT episodes ON game IN ('breakout', 'qbert') USING count(*) GROUP BY task",
    "SELECT * FROM (PIVOT episodes ON game USING count(*) GROUP BY task)",
    "WITH p AS (PIVOT episodes ON game USING count(*) GROUP BY task) SELECT * FROM p",
    "UNPIVOT (SELECT score, n_steps FROM episode_agents) ON score, n_steps INTO NAME what VALUE how_much",
    "DESCRIBE episodes",
    "DESCRIBE SELECT 1",
    "SUMMARIZE episodes",
    "SHOW TABLES",
    "EXPLAIN SELECT count(*) FROM steps",
    "EXPLAIN -- how\n SELECT 1",
    "SELECT copy FROM (SELECT 1 AS copy)",
    "SELECT (copy) FROM (SELECT 1 AS copy)",
    "SELECT 'COPY (SELECT 1) TO ''x'''",
]


@pytest.mark.parametrize("query", ALLOWED)
def test_what_reads_is_allowed(lake: Lake, query: str) -> None:
    result = lake.sql(query)
    assert result.columns
    assert len(result) > 0


def test_rows_come_in_the_order_that_is_asked_for(lake: Lake) -> None:
    (ids,) = lake.sql("SELECT episode_id FROM steps ORDER BY episode_id DESC, agent_id, step").numpy().values()
    assert ids.tolist() == sorted(ids.tolist(), reverse=True)


def test_pivot_counts(lake: Lake) -> None:
    wide = lake.sql("PIVOT episodes ON game USING count(*) GROUP BY source").pl()
    by_hand = lake.sql("SELECT game, source, count(*) AS n FROM episodes GROUP BY ALL").pl()
    for game, source, n in by_hand.rows():
        assert wide.filter(source=source)[game].item() == n
    assert wide.drop("source").sum().sum_horizontal().item() == len(lake.episodes())


# Parameters and frames


@pytest.mark.parametrize(
    ("query", "params"),
    [
        ("SELECT ?", ["breakout"]),
        ("SELECT ?", ("breakout",)),
        ("SELECT $game", {"game": "breakout"}),
        ("SELECT $1", ["breakout"]),
        ("SELECT DISTINCT game FROM episodes WHERE game = ?", ["breakout"]),
        ("SELECT DISTINCT game FROM episodes WHERE game IN (SELECT unnest(?))", [["breakout", "pong"]]),
        ("SELECT DISTINCT game FROM episodes WHERE list_contains($games, game)", {"games": ["breakout"]}),
    ],
)
def test_parameters(lake: Lake, query: str, params: Any) -> None:
    assert lake.sql(query, params).fetchall() == [("breakout",)]


def test_a_parameter_is_a_value_and_never_sql(lake: Lake) -> None:
    text = "x' OR true --"
    assert lake.sql("SELECT ?", [text]).fetchall() == [(text,)]
    assert len(lake.episodes("game = ?", [text])) == 0


@pytest.mark.parametrize(
    ("query", "params"),
    [("SELECT ?", None), ("SELECT ?", [1, 2]), ("SELECT $a", {"b": 1}), ("SELECT ? + $a", [1]), ("SELECT ?", [object])],
)
def test_parameters_that_do_not_fit(lake: Lake, query: str, params: Any) -> None:
    with pytest.raises(QueryError):
        lake.sql(query, params)


def frames_of_every_kind() -> Iterator[tuple[str, Any]]:
    frame = pl.DataFrame({"game": ["breakout", "qbert", "pong"], "weight": [2, 3, 4]})
    yield "polars", frame
    yield "lazy", frame.lazy()
    yield "arrow", frame.to_arrow()
    yield "batch", frame.to_arrow().combine_chunks().to_batches()[0]
    yield "pandas", pd.DataFrame({"game": ["breakout", "qbert", "pong"], "weight": [2, 3, 4]})


@pytest.mark.parametrize(
    ("kind", "frame"), list(frames_of_every_kind()), ids=[kind for kind, _ in frames_of_every_kind()]
)
def test_frames_of_ones_own_are_joined(lake: Lake, kind: str, frame: Any) -> None:
    del kind
    query = "SELECT DISTINCT game, weight FROM episodes JOIN mine USING (game) ORDER BY game"
    assert lake.sql(query, tables={"mine": frame}).fetchall() == [("breakout", 2), ("qbert", 3)]
    # They are there for one query only.
    with pytest.raises(UnknownTable):
        lake.sql(query)


def test_a_frame_may_have_the_name_of_a_table(lake: Lake) -> None:
    before = lake.sql("SELECT count(*) FROM episodes").fetchall()
    own = pl.DataFrame({"a": [1, 2, 3]})
    assert lake.sql("SELECT sum(a) FROM episodes", tables={"episodes": own}).fetchall() == [(6,)]
    assert lake.sql("SELECT count(*) FROM episodes").fetchall() == before
    assert lake.sql('FROM "odd; name"', tables={"odd; name": own}).fetchall() == [(1,), (2,), (3,)]


@pytest.mark.parametrize("frame", [{"a": [1]}, [1, 2], 5, None, "episodes"])
def test_what_is_no_frame_is_refused(lake: Lake, frame: Any) -> None:
    with pytest.raises(CrowdPlayLakeError):
        lake.sql("FROM mine", tables={"mine": frame})


def test_results_do_not_block_each_other(lake: Lake) -> None:
    first = iter(lake.sql("SELECT step FROM steps ORDER BY step LIMIT 3"))
    assert next(first) == (0,)
    assert lake.sql("SELECT 1").fetchall() == [(1,)]
    assert len(list(first)) == 2


# Results


@pytest.fixture
def result(lake: Lake) -> QueryResult:
    return lake.sql("SELECT * FROM (VALUES (1, 'a', 0.5), (2, NULL, 1.5)) AS t(number, text, share) ORDER BY number")


def test_a_result_becomes_what_one_works_with(result: QueryResult) -> None:
    assert result.columns == ["number", "text", "share"]
    assert len(result) == 2
    assert result.fetchall() == list(result) == [(1, "a", 0.5), (2, None, 1.5)]
    assert [type(v) for v in result.fetchall()[0]][:2] == [int, str]
    assert isinstance(result.arrow(), pa.Table)
    assert result.arrow().column_names == result.columns
    assert isinstance(result.pl(), pl.DataFrame)
    assert result.pl()["number"].to_list() == [1, 2]
    assert isinstance(result.df(), pd.DataFrame)
    assert result.df()["number"].tolist() == [1, 2]
    numpy = result.numpy()
    assert list(numpy) == result.columns
    np.testing.assert_array_equal(numpy["number"], [1, 2])


def test_a_result_shows_itself(result: QueryResult) -> None:
    for name in result.columns:
        assert name in repr(result)
        assert name in result._repr_html_()
    assert "<table" in result._repr_html_()
    # No relation of the database, which could write.
    assert {name for name in dir(result) if not name.startswith("_")} == {
        "arrow", "columns", "df", "fetchall", "numpy", "pl"
    }  # fmt: skip


def test_a_result_without_rows(lake: Lake) -> None:
    result = lake.sql("SELECT game, n_steps FROM episodes WHERE false")
    assert (len(result), result.fetchall(), list(result)) == (0, [], [])
    assert result.pl().shape == (0, 2)
    assert result.numpy()["n_steps"].shape == (0,)
    assert "game" in repr(result)


def test_values_of_every_sql_type(lake: Lake) -> None:
    (row,) = lake.sql(
        """SELECT [1, 2] AS l, {'a': 1} AS s, DATE '2020-01-01' AS d, 1::HUGEINT AS h, 'x'::BLOB AS b,
                  TIMESTAMP '2020-01-01 01:02:03' AS t, true AS y, NULL AS n"""
    ).fetchall()
    assert (row[0], row[1], str(row[2]), int(row[3]), row[4], row[5], row[6], row[7]) == (
        [1, 2], {"a": 1}, "2020-01-01", 1, b"x", datetime(2020, 1, 1, 1, 2, 3), True, None,
    )  # fmt: skip


# Errors


UNKNOWN = [
    ("SELECT scoer FROM episode_agents", UnknownColumn, "no column 'scoer'; did you mean 'score'"),
    ("SELECT e.scoer FROM episode_agents e", CrowdPlayLakeError, "did you mean 'score'"),
    ("SELECT episodes.gaem FROM episodes", CrowdPlayLakeError, "did you mean 'game'"),
    ("SELECT * FROM episodes WHERE n_step > 1", UnknownColumn, "did you mean 'n_steps'"),
    ("SELECT * FROM episodes WHERE n_step > ?", UnknownColumn, "did you mean 'n_steps'"),
    ("SELECT * FROM episods", UnknownTable, "no table 'episods'; did you mean 'episodes'"),
    ("SELECT * FROM episode_agent", UnknownTable, "did you mean 'episode_agents'"),
]


@pytest.mark.parametrize(("query", "kind", "message"), UNKNOWN)
def test_unknown_names_name_the_nearest(lake: Lake, query: str, kind: type[CrowdPlayLakeError], message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        lake.sql(query, [1] if "?" in query else None)
    assert "_no_" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    "query",
    [
        "SELEC 1",
        "SELECT FROM WHERE",
        "SELECT nothing_like_it(1)",
        "SELECT 'a'::INTEGER",
        "SELECT game FROM episodes GROUP BY task",
        "SELECT error('no')",
        "SELECT * FROM nowhere.episodes",
        "PIVOT",
    ],
)
def test_errors_of_the_database_are_ours(lake: Lake, query: str) -> None:
    with pytest.raises(QueryError) as caught:
        lake.sql(query)
    assert str(caught.value)
    assert not isinstance(caught.value, QueryNotAllowed)
    assert "exception_type" not in str(caught.value)


# The walls


@pytest.fixture(scope="module")
def walled(lake: Lake, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A copy of the lake: below ``house``, with secrets beside it, and a link inside that leads to them."""
    house = tmp_path_factory.mktemp("house")
    path = Path(shutil.copytree(lake.path, house / "lake"))
    for folder in ("beside", "lake2", ".tmp"):
        (house / folder).mkdir()
        (house / folder / "secret.csv").write_text("secret\n1\n")
        pl.DataFrame({"secret": [1]}).write_parquet(house / folder / "secret.parquet")
    (path / "link").symlink_to(house / "beside")
    return Lake(path)


def everything(house: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.lstat().st_size, p.lstat().st_mtime_ns) for p in house.rglob("*")}


WRITES = [
    "COPY episodes TO '{lake}/x.csv'",
    "COPY (SELECT 1) TO '{lake}/x.parquet' (FORMAT parquet)",
    "COPY (SELECT 1) TO '{house}/beside/x.csv'",
    "COPY (PIVOT episodes ON game USING count(*)) TO '{lake}/x.csv'",
    "WITH a AS (COPY (SELECT 1) TO '{lake}/x.csv') SELECT 1",
    "WITH a AS MATERIALIZED (COPY (SELECT 1) TO '{lake}/x.csv') FROM a",
    "WITH a AS (/* so */ COPY (SELECT 1) TO '{lake}/x.csv') FROM a",
    "WITH a AS (copy episodes TO '{lake}/x.parquet') FROM a",
    "WITH a AS (COPY (SELECT 1) TO '{lake}/x.csv'), b AS (PIVOT episodes ON game USING count(*)) FROM b",
    "WITH a AS (COPY (SELECT 1) TO '{lake}/x.csv') SELECT nothing FROM a",
    "WITH a AS (COPY (SELECT 1 AS a, 2 AS b) TO '{lake}/x' (FORMAT parquet, PARTITION_BY (a))) FROM a",
    "WITH a AS (COPY (SELECT 1) TO '.tmp/x.csv') FROM a",
    "WITH a AS (COPY (SELECT 1) TO '{house}/.tmp/x.csv') FROM a",
    "SELECT * FROM query('WITH a AS (COPY (SELECT 1) TO ''{lake}/x.csv'') FROM a')",
    "SELECT * FROM query('COPY (SELECT 1) TO ''{lake}/x.csv''')",
    "EXPLAIN ANALYZE WITH a AS (COPY (SELECT 1) TO '{lake}/x.csv') FROM a",
    "EXPORT DATABASE '{lake}/x'",
    "IMPORT DATABASE '{lake}/x'",
    "ATTACH '{lake}/x.db' AS d",
    "ATTACH ':memory:' AS d",
    "DETACH memory",
    "USE memory",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET threads = 1",
    "SET enable_external_access = true",
    "SET lock_configuration = false",
    "SET VARIABLE a = 1",
    "RESET allowed_directories",
    "PRAGMA enable_profiling",
    "PRAGMA database_list",
    "CREATE TABLE t (a INTEGER)",
    "CREATE TEMP TABLE t AS SELECT 1",
    "CREATE OR REPLACE VIEW episodes AS SELECT 1",
    "CREATE MACRO f(a) AS a",
    "CREATE SECRET (TYPE s3)",
    "INSERT INTO episodes SELECT * FROM episodes",
    "WITH a AS (INSERT INTO episodes SELECT * FROM episodes RETURNING *) FROM a",
    "DELETE FROM episodes",
    "TRUNCATE episodes",
    "UPDATE episodes SET game = 'x'",
    "MERGE INTO episodes USING episodes AS e ON true WHEN MATCHED THEN DELETE",
    "DROP VIEW episodes",
    "ALTER VIEW episodes RENAME TO e",
    "COMMENT ON VIEW episodes IS 'x'",
    "CALL pragma_version()",
    "CALL enable_logging(storage='file', storage_config={{'path': '{lake}/x'}})",
    "FROM enable_logging()",
    "FROM enable_profiling(format='json', save_location='{lake}/x.json')",
    "CHECKPOINT",
    "VACUUM",
    "BEGIN",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    "EXPLAIN ANALYZE SELECT 1",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{lake}/x.csv'",
    "EXPLAIN (ANALYZE) COPY (SELECT 1) TO '{lake}/x.csv'",
    "EXPLAIN (ANALYZE, FORMAT json) SELECT 1",
    "EXPLAIN /* so */ ANALYZE COPY (SELECT 1) TO '{lake}/x.csv'",
    "EXPLAIN COPY (SELECT 1) TO '{lake}/x.csv'",
    # Places in a query count in characters, not in bytes: what follows the comment is not where it seems.
    "/*üüüüüüüü*/EXPLAIN ANALYZE SELECT 1",
    "/*üüüüüüü*/EXPLAIN ANALYZE WITH a AS (COPY (SELECT 1) TO '{lake}/x.csv') FROM a",
    "/*üüüüüüüü*/EXPLAIN ANALYZE WITH a AS (COPY (SELECT 1) TO '{lake}/x.csv') FROM a",
    "SELECT 1; SELECT 2",
    "SELECT 1; COPY (SELECT 1) TO '{lake}/x.csv'",
    "PIVOT episodes ON game USING count(*); COPY (SELECT 1) TO '{lake}/x.csv'",
    "PIVOT episodes ON game USING count(*)) ; COPY (SELECT 1) TO '{lake}/x.csv' --",
    "",
    ";",
    "-- nothing",
]

LEAVES = [
    "SELECT * FROM read_csv('{house}/beside/secret.csv')",
    "SELECT * FROM read_text('{house}/beside/secret.csv')",
    "SELECT * FROM read_blob('{house}/beside/secret.csv')",
    "SELECT * FROM read_parquet('{house}/beside/secret.parquet')",
    "SELECT * FROM parquet_metadata('{house}/beside/secret.parquet')",
    "SELECT * FROM sniff_csv('{house}/beside/secret.csv')",
    "SELECT * FROM read_text('{lake}/../beside/secret.csv')",
    "SELECT * FROM read_text('{lake}/link/secret.csv')",
    "SELECT * FROM read_text('{lake}/episodes/../../beside/secret.csv')",
    "SELECT * FROM read_text('{house}/lake2/secret.csv')",
    "SELECT * FROM read_text('{house}/*/secret.csv')",
    "SELECT * FROM read_text('.tmp/secret.csv')",
    "SELECT * FROM read_text('{house}/.tmp/secret.csv')",
    "SELECT * FROM read_text('beside/secret.csv')",
    "SELECT * FROM read_text('file://{house}/beside/secret.csv')",
    "SELECT * FROM read_text('https://example.com')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_json('/proc/self/environ')",
    "SELECT * FROM glob('{house}/*')",
    "SELECT * FROM glob('{lake}/../*')",
    "SELECT * FROM glob('{lake}/link/*')",
    "SELECT * FROM '{house}/beside/secret.csv'",
    "SELECT * FROM '{house}/beside/secret.parquet'",
    "FROM '/etc/passwd'",
    "DESCRIBE '{house}/beside/secret.csv'",
    "SELECT * FROM query('FROM read_text(''{house}/beside/secret.csv'')')",
    "SELECT * FROM query_table('{house}/beside/secret.csv')",
    "SELECT (SELECT content FROM read_text('{house}/beside/secret.csv'))",
    "PIVOT (FROM read_csv('{house}/beside/secret.csv')) ON secret USING count(*)",
    "SELECT * FROM a_frame_of_python",
    "SELECT getenv('HOME')",
]


@pytest.mark.parametrize("query", WRITES)
def test_nothing_can_be_written(walled: Lake, monkeypatch: pytest.MonkeyPatch, query: str) -> None:
    house = walled.path.parent
    monkeypatch.chdir(house)
    before = everything(house)
    try:
        with pytest.raises(QueryError):
            walled.sql(query.format(lake=walled.path, house=house))
    finally:
        assert everything(house) == before


@pytest.mark.parametrize("query", LEAVES)
def test_nothing_outside_the_lake_can_be_read(walled: Lake, monkeypatch: pytest.MonkeyPatch, query: str) -> None:
    a_frame_of_python = pl.DataFrame({"secret": [1]})
    house = walled.path.parent
    monkeypatch.chdir(house)
    with pytest.raises((QueryError, UnknownTable)) as caught:
        walled.sql(query.format(lake=walled.path, house=house))
    assert len(a_frame_of_python) == 1
    assert "secret\n1" not in str(caught.value)


@pytest.mark.parametrize(
    "where",
    ["true); COPY (SELECT 1) TO '{lake}/x.csv' --", "true) OR (SELECT count(*) FROM '/etc/passwd') > 0 OR (true"],
)
def test_a_where_stays_inside_too(walled: Lake, where: str) -> None:
    before = everything(walled.path.parent)
    with pytest.raises((QueryError, UnknownTable)):
        walled.episodes(where.format(lake=walled.path))
    assert everything(walled.path.parent) == before


def test_what_is_refused_says_what_to_do(walled: Lake) -> None:
    with pytest.raises(
        QueryNotAllowed,
        match=r"DELETE is not allowed: a lake is read-only.*crowdplay-lake annotate.*crowdplay-lake ingest",
    ):
        walled.sql("DELETE FROM episodes")
    with pytest.raises(QueryNotAllowed, match="one statement at a time, this is 2"):
        walled.sql("SELECT 1; SELECT 2")
    with pytest.raises(QueryNotAllowed, match="a query reads the lake's tables only"):
        walled.sql("FROM read_text('/etc/passwd')")


def test_after_all_attacks_the_lake_answers_as_before(lake: Lake, walled: Lake) -> None:
    for query in WRITES:
        with pytest.raises(QueryError):
            walled.sql(query.format(lake=walled.path, house=walled.path.parent))
    for query in ("SELECT count(*), sum(n_steps) FROM episodes", "SELECT count(*) FROM episode_agents", "SHOW TABLES"):
        assert walled.sql(query).fetchall() == lake.sql(query).fetchall()
    settings = dict(walled.sql("SELECT name, value FROM duckdb_settings()").fetchall())
    assert str(settings["enable_external_access"]).lower() in ("false", "0")
    assert str(settings["lock_configuration"]).lower() in ("true", "1")


@pytest.mark.parametrize(
    ("view", "table"),
    [
        ("episode_agents", "episodes"),
        ("Episode_Agents", "USERS"),
        ("episode_agents", "keyword_data"),
        ("environment_agents", "environments"),
        ("episode_steps", "steps"),
    ],
)
def test_a_frame_takes_no_place_below_a_view(lake: Lake, view: str, table: str) -> None:
    own = {table: pl.DataFrame({"episode_id": ["x"]})}
    for _ in range(3):
        with pytest.raises(InvalidArgument, match=f"'{table.lower()}' is a table of the lake"):
            lake.sql(f"SELECT count(*) FROM {view}", tables=own)
    assert lake.sql(f"SELECT count(*) > 0 FROM {view}").fetchall() == [(True,)]


def test_what_is_kept_of_the_wide_view_is_not_shown(lake: Lake) -> None:
    lake = Lake(lake.path)
    before = lake.sql("SHOW TABLES").fetchall()
    rows = [lake.sql("SELECT * FROM episode_agents ORDER BY episode_id, agent_id").fetchall() for _ in range(3)]
    assert rows[0] == rows[1] == rows[2]
    assert lake.sql("SHOW TABLES").fetchall() == before
    assert lake.tables().keys() == {name for (name,) in before}


def test_queries_in_threads_do_not_disturb_each_other(lake: Lake) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def ask(number: int) -> int | str:
        try:
            return len(lake.sql("SELECT scoer FROM episodes" if number % 10 == 0 else "SELECT * FROM episode_agents"))
        except UnknownColumn as error:
            return error.name

    expected = len(lake.sql("SELECT * FROM episode_agents"))
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, range(60)))
    assert answers == ["scoer" if number % 10 == 0 else expected for number in range(60)]


# Limits


def test_no_more_rows_than_asked_for(lake: Lake) -> None:
    assert lake.sql("FROM range(10) ORDER BY range DESC", max_rows=3).fetchall() == [(9,), (8,), (7,)]
    assert len(lake.sql("FROM range(10)", max_rows=20)) == 10
    assert len(lake.sql("FROM range(10) WHERE range > ?", [5], max_rows=2)) == 2
    assert len(lake.sql("PIVOT episodes ON game USING count(*)", max_rows=1)) == 1
    assert lake.sql("SELECT 1 AS a, 2 AS a", max_rows=1).fetchall() == [(1, 2)]


def test_a_query_is_stopped_from_another_thread(lake: Lake) -> None:
    stop = Stop()
    ended = threading.Event()

    def keep_stopping() -> None:
        while not ended.wait(0.1):
            stop()

    thread = threading.Thread(target=keep_stopping)
    thread.start()
    try:
        with pytest.raises(QueryError, match=r"Interrupted|stopped"):
            lake.sql("SELECT count(*) FROM range(100000000000) a, range(1000000) b", stop=stop)
        with pytest.raises(QueryError, match="before it began"):
            lake.sql("SELECT 1", stop=stop)
    finally:
        ended.set()
        thread.join()
    assert lake.sql("SELECT 1", stop=Stop()).fetchall() == [(1,)]
