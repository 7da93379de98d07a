"""The tables in other engines: the same questions, the same answers as `lake.sql`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import polars as pl
import pytest

from crowdplay_lake import Lake

HOURS = "SELECT game, count(*) AS episodes, sum(n_steps) / 216000.0 AS hours FROM episodes GROUP BY game"
POSITION = """
    SELECT task, avg((ram_1c - 35) / 82.0) AS position FROM episode_steps
    WHERE game LIKE 'space_invaders%' AND step >= 120 GROUP BY task
"""


def answers(lake: Lake, query: str) -> list[tuple[Any, ...]]:
    return sorted(lake.sql(query).fetchall())


def close(rows: Any) -> list[Any]:
    return [pytest.approx(row) for row in sorted(map(tuple, rows))]


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """A client of a real cluster: a scheduler and two worker processes, over TCP."""
    distributed = pytest.importorskip("distributed")
    pytest.importorskip("dask.dataframe")
    local = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "host": "127.0.0.1"}
    with distributed.LocalCluster(**local, dashboard_address=None) as cluster:
        assert cluster.scheduler_address.startswith("tcp://")
        with distributed.Client(cluster) as client:
            yield client


def dask_frame(lake: Lake, table: str, columns: list[str]) -> Any:
    import dask.dataframe as dd

    # The partition's type is said in the folder's name only; texts stay texts.
    files = [str(file) for file in lake.snapshot.files(table)]
    return dd.read_parquet(files, columns=columns, dataset={"partitioning": {"flavor": "hive"}})


def test_hours_a_game_in_dask(client: Any, lake: Lake) -> None:
    episodes = dask_frame(lake, "episodes", ["game", "episode_id", "n_steps"])
    games = episodes.groupby(episodes["game"].astype(str)).agg({"episode_id": "count", "n_steps": "sum"}).compute()
    found = [(game, row["episode_id"], row["n_steps"] / 216000) for game, row in games.iterrows()]
    assert close(found) == answers(lake, HOURS)
    assert len(found) >= 6


def test_a_position_from_ram_a_task_in_dask(client: Any, lake: Lake) -> None:
    steps = dask_frame(lake, "steps", ["game", "episode_id", "step", "ram_1c"])
    steps = steps[steps["game"].astype(str).str.startswith("space_invaders") & (steps["step"] >= 120)]
    tasks = dask_frame(lake, "episodes", ["episode_id", "task"])
    joined = steps.merge(tasks, on="episode_id")
    means = ((joined["ram_1c"] - 35) / 82.0).groupby(joined["task"]).mean().compute()
    assert close(means.items()) == answers(lake, POSITION)
    assert len(means) >= 4


def test_the_same_in_polars(lake: Lake) -> None:
    hours = lake.scan("episodes").group_by("game").agg(pl.len(), pl.col("n_steps").sum() / 216000).collect()
    assert close(hours.rows()) == answers(lake, HOURS)
    steps = lake.scan("steps").filter(pl.col("game").str.starts_with("space_invaders"), pl.col("step") >= 120)
    joined = steps.join(lake.scan("episodes").select("episode_id", "task"), on="episode_id")
    means = joined.group_by("task").agg(((pl.col("ram_1c") - 35) / 82.0).mean()).collect()
    assert close(means.rows()) == answers(lake, POSITION)


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    """A session of Spark in this process's own Java."""
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java")
    sql = pytest.importorskip("pyspark.sql", reason="not of any extra, 400 MB: pip install pyspark==4.3.0")
    builder = sql.SparkSession.builder.master("local[2]")
    options = {"ui.enabled": "false", "sql.shuffle.partitions": "2", "driver.host": "127.0.0.1"}
    # A game called "007" is a text here.
    options["sql.sources.partitionColumnTypeInference.enabled"] = "false"
    for name, value in options.items():
        builder = builder.config(f"spark.{name}", value)
    session = builder.getOrCreate()
    yield session
    session.stop()


def spark_frame(spark: Any, lake: Lake, table: str) -> Any:
    files = [str(file) for file in lake.snapshot.files(table)]
    return spark.read.option("basePath", f"{lake.path}/{table}").parquet(*files)


@pytest.mark.soak
def test_the_same_in_spark(spark: Any, lake: Lake) -> None:
    from pyspark.sql import functions  # type: ignore[import-not-found, unused-ignore]

    episodes = spark_frame(spark, lake, "episodes")
    hours = episodes.groupBy("game").agg(functions.count("*"), functions.sum("n_steps") / 216000).collect()
    assert close(hours) == answers(lake, HOURS)
    assert len(hours) >= 6
    steps = spark_frame(spark, lake, "steps").where("game LIKE 'space_invaders%' AND step >= 120")
    joined = steps.join(episodes.select("episode_id", "task"), "episode_id")
    means = joined.groupBy("task").agg(functions.avg((functions.col("ram_1c") - 35) / 82)).collect()
    assert close(means) == answers(lake, POSITION)
    assert len(means) >= 4
