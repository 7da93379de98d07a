"""Ingest again: what changed since, what was refused, what came later, what was removed; one row of docs a test."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from crowdplay_ingest.pipeline import IngestOptions, ingest
from crowdplay_ingest.recorder import EnvironmentPlan, EpisodePlan, RecordingOptions, record
from crowdplay_lake import Lake
from crowdplay_lake.errors import InvalidArgument, InvalidLake
from crowdplay_lake.remove import remove
from crowdplay_lake.verify import verify

HERE = IngestOptions(workers=0)
PLAN = [
    EnvironmentPlan("breakout_mturk", (EpisodePlan(20), EpisodePlan(12)), ("ben",)),
    EnvironmentPlan("space_invaders_left", (EpisodePlan(15),), ("ada",)),
]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three episodes with their metadata. Not to be changed."""
    pytest.importorskip("ale_py")
    folder = tmp_path_factory.mktemp("recorded")
    record(folder, PLAN, RecordingOptions(seed=3, compression="none"))
    return folder


@pytest.fixture
def raw(recorded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(recorded, tmp_path / "raw"))


@pytest.fixture
def lake(raw: Path, tmp_path: Path) -> Path:
    ingest(raw, tmp_path / "lake", HERE)
    return tmp_path / "lake"


def pickles(raw: Path) -> list[Path]:
    return sorted(raw.glob("*.pickle"))


def hashes(lake: Path) -> dict[str, str]:
    return dict(Lake(lake).sql("SELECT episode_id, content_hash FROM episodes WHERE n_steps IS NOT NULL").fetchall())


def swap(raw: Path) -> tuple[str, str]:
    """Give the first episode the bytes of the second; returns their ids."""
    first, second = pickles(raw)[:2]
    shutil.copy(second, first)
    return first.stem, second.stem


def test_a_changed_file_is_said_and_left_until_it_is_to_be_replaced(raw: Path, lake: Path) -> None:
    before = hashes(lake)
    first, second = swap(raw)
    summary = ingest(raw, lake, HERE)
    assert (summary.changed_files, summary.replaced, hashes(lake)) == ((f"{first}.pickle",), 0, before)

    reader = Lake(lake)
    summary = ingest(raw, lake, IngestOptions(workers=0, replace=True))
    assert (summary.changed_files, summary.replaced, summary.episodes) == ((), 1, 1)
    assert len(Lake(lake).episode(first)) == len(Lake(lake).episode(second))
    # The old rows are gone, those of its neighbours are not, and a reader of before keeps them all.
    assert verify(lake).proven
    assert hashes(lake).keys() == before.keys()
    assert {k: v for k, v in hashes(lake).items() if k != first} == {k: v for k, v in before.items() if k != first}
    assert reader.episode(first).get_raw_trajectory()
    # It is as the file is now: nothing more to do.
    again = ingest(raw, lake, IngestOptions(workers=0, replace=True))
    assert (again.replaced, again.commit) == (0, summary.commit)


def test_a_change_that_neither_size_nor_date_tells_is_told_by_rehash(raw: Path, lake: Path) -> None:
    path = pickles(raw)[0]
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert ingest(raw, lake, HERE).changed_files == ()
    assert ingest(raw, lake, IngestOptions(workers=0, rehash=True)).changed_files == (path.name,)


def test_metadata_alone(raw: Path, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    summary = ingest(raw, lake, IngestOptions(metadata_only=True))
    assert (summary.episodes, summary.without_trajectory, len(hashes(lake))) == (0, 3, 0)
    assert Lake(lake).sql("SELECT count(*) FROM keyword_data").fetchall()[0][0] > 0
    assert ingest(raw, lake, HERE).episodes == 3

    (raw / "dataset.sqlite").unlink()
    with pytest.raises(InvalidArgument, match=r"no dataset\.sqlite there; name one with --metadata"):
        ingest(raw, lake, IngestOptions(metadata_only=True))


def test_the_game_of_what_has_none(raw: Path, tmp_path: Path) -> None:
    (raw / "dataset.sqlite").unlink()
    ingest(raw, tmp_path / "lake", IngestOptions(workers=0, game="pong"))
    assert Lake(tmp_path / "lake").sql("SELECT DISTINCT game FROM episodes").fetchall() == [("pong",)]
    with pytest.raises(InvalidArgument, match="'' cannot be the name of a game"):
        ingest(raw, tmp_path / "lake", IngestOptions(game=""))


def test_what_was_refused_is_tried_again_when_it_changes_or_when_asked_to(raw: Path, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    path = pickles(raw)[0]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    (first,) = ingest(raw, lake, HERE).rejected
    assert first.name == path.name
    # Left alone, and still named.
    again = ingest(raw, lake, HERE)
    assert (again.rejected, again.bytes_in) == ((first,), 0)
    assert ingest(raw, lake, IngestOptions(workers=0, retry_rejected=True)).bytes_in == first.bytes
    path.write_bytes(whole)
    summary = ingest(raw, lake, HERE)
    assert (summary.rejected, summary.episodes) == ((), 1)
    assert Lake(lake).scan("rejected").collect().is_empty()


def test_a_limit_can_be_raised_and_lowered(raw: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from crowdplay_lake.cli import main; main()", "ingest", str(raw)]

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, str(tmp_path / "lake"), *options], capture_output=True, text=True, check=False)

    low = run("--limit", "max_steps=14", "--limit", "max_depth=50")
    assert low.returncode == 3
    assert low.stdout.count("more than 14 steps") == 2
    assert run("--retry-rejected").returncode == 0
    assert len(hashes(tmp_path / "lake")) == 3
    wrong = run("--limit", "max_step=14")
    assert (wrong.returncode, "did you mean 'max_step" in wrong.stderr) == (1, True)


def test_files_of_one_name_in_two_places_are_refused_each(raw: Path, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    other = tmp_path / "other"
    other.mkdir()
    for folder, content in ((raw, b"not a pickle"), (other, b"no pickle either")):
        (folder / "odd.pickle").write_bytes(content)
    ingest(raw, lake, HERE)
    (rejection,) = ingest(other, lake, HERE).rejected
    assert rejection.bytes == 16
    rows = Lake(lake).sql("SELECT source, name FROM rejected ORDER BY source").fetchall()
    assert rows == [(str(other), "odd.pickle"), (str(raw), "odd.pickle")]
    # Metadata that is right in one place says nothing of that of another.
    (other / "dataset.sqlite").write_bytes(b"no database")
    ingest(other, lake, HERE)
    ingest(raw, lake, HERE)
    assert len(Lake(lake).sql("SELECT 1 FROM rejected WHERE name = 'dataset.sqlite'").fetchall()) == 1


def test_one_episode_in_two_folders_is_named(raw: Path, tmp_path: Path) -> None:
    (raw / "b").mkdir()
    shutil.copy(pickles(raw)[1], raw / "b" / pickles(raw)[0].name)
    summary = ingest(raw, tmp_path / "lake", HERE)
    name = pickles(raw)[0].name
    assert summary.duplicates == ((name, f"b/{name}"),)


def test_what_was_removed_stays_out(raw: Path, lake: Path) -> None:
    gone = pickles(raw)[0].stem
    remove(lake, episodes=[gone])
    summary = ingest(raw, lake, HERE)
    assert (summary.episodes, summary.removed) == (0, 1)
    assert gone not in Lake(lake).episodes().ids

    (person,) = Lake(lake).sql("SELECT DISTINCT permanent_user_id FROM users ORDER BY 1 LIMIT 1").fetchall()[0]
    remove(lake, participants=[person])
    left = Lake(lake).episodes().ids
    ingest(raw, lake, IngestOptions(workers=0, retry_rejected=True))
    assert Lake(lake).episodes().ids == left
    assert person not in Lake(lake).sql("SELECT permanent_user_id FROM users").pl()["permanent_user_id"].to_list()


def test_ids_that_are_parts_of_other_ids_are_left_alone(raw: Path, lake: Path) -> None:
    people = [row[0] for row in Lake(lake).sql("SELECT DISTINCT permanent_user_id FROM users ORDER BY 1").fetchall()]
    remove(lake, participants=people[:1])
    # A short id occurs in the hash by which the first one is remembered.
    first, *_ = (e for e in Lake(lake).episodes())
    marks = Lake(lake).sql("SELECT count(*) FROM rejected").fetchall()
    remove(lake, episodes=[first.episode_id])
    assert Lake(lake).sql("SELECT count(*) FROM rejected").fetchall()[0][0] > marks[0][0]
    assert ingest(raw, lake, HERE).episodes == 0


def test_a_file_that_is_right_again_is_not_rejected_any_more(raw: Path, lake: Path) -> None:
    path = pickles(raw)[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    assert len(ingest(raw, lake, IngestOptions(workers=0, replace=True)).rejected) == 1
    path.write_bytes(whole)
    assert ingest(raw, lake, HERE).rejected == ()


def test_an_ingest_into_a_lake_inside_a_lake_is_refused(raw: Path, lake: Path) -> None:
    with pytest.raises(InvalidLake, match="is inside the lake"):
        ingest(raw, lake / "steps" / "game=x", HERE)
