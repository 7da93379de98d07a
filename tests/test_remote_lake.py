"""A lake on object storage: the same as one on disk. A real S3 server, in a process of its own."""

from __future__ import annotations

import io
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from crowdplay_ingest.pipeline import IngestOptions, ingest
from crowdplay_lake import Lake
from crowdplay_lake.annotations import KeywordRow, write_keyword_data
from crowdplay_lake.commit import writing
from crowdplay_lake.compact import compact
from crowdplay_lake.errors import InvalidArgument, InvalidLake, LakeBusy, QueryNotAllowed
from crowdplay_lake.offline.lazy import SINGLE, LazyObservations
from crowdplay_lake.offline.mapped import map_observations
from crowdplay_lake.offline.selection import select
from crowdplay_lake.offline.transitions import Conversion
from crowdplay_lake.storage import as_path
from crowdplay_lake.verify import verify

HASHES = "SELECT episode_id, content_hash FROM episodes ORDER BY episode_id"


@pytest.fixture
def remote(small_raw: Path, bucket: str) -> str:
    """The address of a lake of `small_raw`."""
    address = f"s3://{bucket}/some/lake"
    ingest(small_raw, address, IngestOptions(workers=0))
    return address


def test_a_lake_on_object_storage_is_the_same(remote: str, small_raw: Path, small_lake: Path) -> None:
    there, here = Lake(remote), Lake(small_lake)
    assert there.sql(HASHES).fetchall() == here.sql(HASHES).fetchall()
    assert (
        there.sql("SELECT count(*), sum(ram_00) FROM steps").fetchall()
        == here.sql("SELECT count(*), sum(ram_00) FROM steps").fetchall()
    )
    wide = "SELECT * FROM episode_agents ORDER BY episode_id, agent_id"
    # What differs says where and when the lake was written.
    written = ["steps_part", "frames_part", "steps_first_row", "frames_first_row"]
    assert there.sql(wide).pl().drop(written, strict=False).equals(here.sql(wide).pl().drop(written, strict=False))
    rewards = pl.col("reward").sum()
    assert there.scan("steps").select(rewards).collect().item() == here.scan("steps").select(rewards).collect().item()
    for mine, theirs in zip(there.episodes(), here.episodes(), strict=True):
        assert np.array_equal(mine.observations()[2:6], theirs.observations()[2:6])
        assert len(mine.get_raw_trajectory()) == len(theirs)


def test_observations_of_it_are_lazy_and_mapped(remote: str, small_lake: Path, tmp_path: Path) -> None:
    here, there = (select(Lake(path).episodes("game = 'breakout'"), Conversion()) for path in (small_lake, remote))
    expected = LazyObservations(here)[:]
    lazy = LazyObservations(there)
    assert np.array_equal(lazy[[5, 3, -1]], expected[[5, 3, -1]])
    assert np.array_equal(pickle.loads(pickle.dumps(lazy))[:], expected)
    assert np.array_equal(map_observations(there, SINGLE, tmp_path / "map"), expected)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        assert np.array_equal(map_observations(there, SINGLE, tmp_path / "again", executor), expected)


def test_it_is_added_to_verified_and_compacted(remote: str, small_raw: Path) -> None:
    before = Lake(remote)
    again = ingest(small_raw, remote, IngestOptions(workers=0))
    assert (again.episodes, again.commit) == (0, before.commit)
    compact(remote)
    assert verify(remote).proven
    assert before.sql(HASHES).fetchall() == Lake(remote).sql(HASHES).fetchall()


def test_worker_processes_write_into_it(small_raw: Path, small_lake: Path, bucket: str) -> None:
    address = f"s3://{bucket}/lake"
    ingest(small_raw, address, IngestOptions(workers=2, task_seconds=0))
    assert Lake(address).sql(HASHES).fetchall() == Lake(small_lake).sql(HASHES).fetchall()


def test_a_query_cannot_leave_it(remote: str, bucket: str) -> None:
    frame = io.BytesIO()
    pl.DataFrame({"secret": [1]}).write_parquet(frame)
    as_path(f"s3://{bucket}/other.parquet").write_bytes(frame.getvalue())
    lake = Lake(remote)
    for elsewhere in (f"s3://{bucket}/other.parquet", "/etc/hostname"):
        with pytest.raises(QueryNotAllowed):
            lake.sql(f"SELECT * FROM read_parquet('{elsewhere}')")
    with pytest.raises(QueryNotAllowed):
        lake.sql(f"COPY (SELECT 1) TO '{remote}/mine.parquet'")


def test_another_writer_is_told_who_holds_it(remote: str, small_raw: Path) -> None:
    with writing(remote), pytest.raises(LakeBusy, match=r"process \d+ on .* is writing to it"):
        ingest(small_raw, remote, IngestOptions(workers=0, lock_wait=0.2))


def test_what_is_not_there_or_not_an_address_is_told(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidLake, match="no lake here"):
        Lake(f"s3://{bucket}/nothing")
    with pytest.raises(InvalidArgument, match="holds credentials") as told:
        Lake(f"s3://me:s3cret@{bucket}/lake")
    assert "s3cret" not in str(told.value)
    with pytest.raises(InvalidArgument, match="letters, digits"):
        Lake(f"s3://{bucket}/my lake")
    with pytest.raises(InvalidArgument, match="no storage of that kind"):
        Lake("gopher://bucket/lake")


def test_credentials_are_in_no_file_of_it(remote: str) -> None:
    from crowdplay_lake.storage import files_below

    root = as_path(remote)
    for name, _ in files_below(root):
        content = (root / name).read_bytes()
        assert b"test-secret-key" not in content
        assert b"test-key-id" not in content


def test_keyword_data_is_written_to_it_also_through_crowdplays_api(remote: str) -> None:
    pytest.importorskip("sqlalchemy")
    from crowdplay_lake.orm import EpisodeModel, get_engine_and_session

    first = Lake(remote).episodes()[0].episode_id
    write_keyword_data(remote, [KeywordRow("keyword_data", first, "all", "rating", 5)])
    _, session = get_engine_and_session(remote)
    episode = session.query(EpisodeModel).filter_by(episode_id=first).one()
    episode.update_kwdata("all", "rating", episode.keyword_data["all"]["rating"] + 1)
    session.commit()
    assert Lake(remote).episode(first).keyword_data["all"]["rating"] == 6
    assert len(episode.get_raw_trajectory()) > 0
    assert verify(remote).proven
