"""Views are defined when a query names them: it never shows in an answer."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import duckdb
import pytest

from crowdplay_lake import Lake
from crowdplay_lake.catalog import sees_catalog
from crowdplay_lake.errors import QueryError, UnknownColumn, UnknownTable
from crowdplay_lake.schema import TABLES
from crowdplay_lake.views import VIEWS

# What tells of tables that it does not name.
OF_THE_CATALOG = [
    "SHOW TABLES",
    "SHOW",
    "SHOW ALL TABLES",
    "DESCRIBE",
    "DESC",
    "; DESC",
    "desc;",
    "EXPLAIN DESC",
    "FROM (SHOW TABLES)",
    "SELECT name FROM (DESC) ORDER BY name DESC",
    "SELECT name FROM (/* so */ DESC) ORDER BY name",
    "WITH a AS (DESCRIBE) SELECT name FROM a",
    "SELECT view_name, comment FROM duckdb_views() WHERE NOT internal",
    'SELECT table_name, column_name, comment FROM "DUCKDB_columns"() WHERE NOT internal',
    "SELECT table_name, table_type FROM information_schema.tables",
    "SELECT relname FROM pg_catalog.pg_class",
    "SELECT viewname, definition FROM pg_views",
    "SELECT name, sql FROM sqlite_master",
    "SELECT (SELECT count(*) FROM duckdb_views() WHERE NOT internal) AS n",
    "FROM query('SHOW TAB' || 'LES')",
]
# Names that are not in the query as they are in the lake.
PUT_TOGETHER = [
    "SELECT count(*) FROM query_table('epi' || 'sodes')",
    "SELECT count(*) FROM query('FROM epi' || 'sodes')",
    "SELECT count(*) FROM query_table(['ste' || 'ps'])",
    "FROM json_execute_serialized_sql(json_serialize_sql('SELECT count(*) FROM epi' || 'sodes'))",
    "SELECT json_serialize_plan('SELECT count(*) FROM epi' || 'sodes') LIKE '%error_message%' AS failed",
    'SELECT count(*) FROM "EPISODES"',
    "SELECT count(*) FROM memory.main.Episode_Agents",
    "PIVOT episodes ON game USING count(*)",
    "SUMMARIZE users",
    "DESCRIBE episode_steps",
    "DESC frames",
    "SHOW rejected",
    "PIVOT (FROM keyword_data) ON key USING count(*)",
]


@pytest.fixture(scope="module")
def whole(lake: Lake) -> Lake:
    """A lake of which everything is defined."""
    opened = Lake(lake.path)
    opened.schema()
    return opened


def defined(lake: Lake) -> set[str]:
    rows = lake._database.fetch("SELECT view_name FROM duckdb_views() WHERE NOT internal")
    return {name for (name,) in rows}


@pytest.mark.parametrize("query", [*OF_THE_CATALOG, *PUT_TOGETHER])
def test_the_first_question_is_answered_as_the_last(whole: Lake, query: str) -> None:
    first = Lake(whole.path)
    assert sorted(map(repr, first.sql(query))) == sorted(map(repr, whole.sql(query)))
    assert defined(whole) == {*TABLES, *VIEWS}


@pytest.mark.parametrize("query", OF_THE_CATALOG)
def test_what_asks_for_the_catalog_sees_all_of_it(whole: Lake, query: str) -> None:
    first = Lake(whole.path)
    first.sql(query)
    assert defined(first) == {*TABLES, *VIEWS}


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("SELECT 1", set()),
        ("SELECT n_steps FROM episodes ORDER BY n_steps DESC", {"episodes"}),
        ("SELECT max(ram_1c) FROM steps -- desc", {"steps"}),
        ("SELECT episode_id FROM episode_steps LIMIT 1", {"steps", "episodes", "episode_steps"}),
        (
            "SELECT score FROM episode_agents ORDER BY score DESC, (n_steps) desc",
            {"episode_agents", "episodes", "users", "keyword_data", "environment_keyword_data"},
        ),
    ],
)
def test_a_question_defines_what_it_names(lake: Lake, query: str, names: set[str]) -> None:
    first = Lake(lake.path)
    first.sql(query)
    assert defined(first) == names


def test_comments_stay_when_the_wide_view_is_kept(whole: Lake) -> None:
    query = "SELECT column_name, comment FROM duckdb_columns() WHERE table_name = 'episode_agents'"
    before, after = Lake(whole.path), Lake(whole.path)
    asked = "SELECT count(*) FROM episode_agents"
    answers = {before.sql(asked).fetchall()[0], before.sql(asked).fetchall()[0], before.sql(asked).fetchall()[0]}
    after.sql(query)
    answers |= {after.sql(asked).fetchall()[0], after.sql(asked).fetchall()[0], after.sql(asked).fetchall()[0]}
    assert len(answers) == 1
    assert ("_episode_agents",) in before.sql("SELECT table_name FROM duckdb_tables()").fetchall()
    expected = sorted(whole.sql(query).fetchall())
    assert sorted(before.sql(query).fetchall()) == sorted(after.sql(query).fetchall()) == expected
    assert all(comment for _, comment in expected)


@pytest.mark.parametrize(
    ("query", "error", "message"),
    [
        ("SELECT scoer FROM episodes", UnknownColumn, "did you mean 'score'"),
        ("SELECT score FROM episodes", UnknownColumn, "it is in .*episode_agents"),
        ("FROM epsiode_agents", UnknownTable, "did you mean 'episode_agents'"),
        ("SELECT * FROM query_table('epsi' || 'odes')", (UnknownTable, QueryError), "did you mean .episodes"),
    ],
)
def test_the_first_error_knows_all_names(
    lake: Lake, query: str, error: type[Exception] | tuple[type[Exception], ...], message: str
) -> None:
    with pytest.raises(error, match=message):
        Lake(lake.path).sql(query)


def test_first_questions_in_threads(lake: Lake) -> None:
    names = [*TABLES, *VIEWS]
    other = Lake(lake.path)
    expected = {name: other.sql(f"SELECT count(*) FROM {name}").fetchall() for name in names}
    for _ in range(3):
        first = Lake(lake.path)
        with ThreadPoolExecutor(8) as pool:
            asked = [*names, *reversed(names), *names]
            answers = list(pool.map(lambda name: first.sql(f"SELECT count(*) FROM {name}").fetchall(), asked))  # noqa: B023
        assert answers == [expected[name] for name in asked]


def test_a_lake_that_nobody_holds_closes_its_database(lake: Lake) -> None:
    opened = Lake(lake.path)
    opened.sql("SELECT count(*) FROM episode_agents")
    opened.schema()
    database = weakref.ref(opened._database)
    gc.disable()
    try:
        del opened
        assert database() is None
    finally:
        gc.enable()


# Of this version of the database: functions that read what they are given, and tell of nothing else.
HARMLESS = {
    "arrow_scan", "arrow_scan_dumb", "checkpoint", "create_external_resource", "deregister_external_resource",
    "destroy_external_resource", "disable_logging", "disable_profiling", "enable_logging", "enable_profiling",
    "force_checkpoint", "generate_series", "glob", "histogram", "histogram_values", "icu_calendar_names", "json_each",
    "json_tree", "pandas_scan", "parquet_bloom_probe", "parquet_file_metadata", "parquet_full_metadata",
    "parquet_kv_metadata", "parquet_metadata", "parquet_scan", "parquet_schema", "python_arrow_scan",
    "python_map_function", "range", "read_blob", "read_csv", "read_csv_auto", "read_duckdb", "read_json",
    "read_json_auto", "read_json_objects", "read_json_objects_auto", "read_ndjson", "read_ndjson_auto",
    "read_ndjson_objects", "read_parquet", "read_single_csv_file", "read_single_json_file",
    "read_single_parquet_file", "read_text", "register_external_resource", "register_external_resource_type",
    "repeat", "repeat_row", "sniff_csv", "summary", "test_all_types", "test_vector_types", "unnest", "which_secret",
}  # fmt: skip


def test_no_function_of_the_database_is_overlooked() -> None:
    """A new version of the database may bring another way to look at the catalog."""
    with duckdb.connect() as connection:
        functions = connection.execute(
            "SELECT DISTINCT function_name FROM duckdb_functions() WHERE function_type IN ('table', 'table_macro')"
        ).fetchall()
        views = connection.execute(
            "SELECT view_name FROM duckdb_views() WHERE internal AND schema_name <> 'information_schema'"
        ).fetchall()
    names = {name for (name,) in (*functions, *views)}
    assert len(names) > 100
    assert {name for name in names if not sees_catalog(f"FROM {name}")} <= HARMLESS
