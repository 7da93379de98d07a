"""Ingest again: what changed since, what was refused, what came later, what was removed; one row of docs a test."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from crowdplay_ingest.pipeline import IngestOptions, Progress, ingest
from crowdplay_ingest.recorder import EnvironmentPlan, EpisodePlan, RecordingOptions, record
from crowdplay_ingest.recording_metadata import put_rows
from crowdplay_ingest.verify_raw import verify_raw
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


def games(lake: Path, table: str) -> list[str]:
    return sorted(Lake(lake).scan(table).collect()["game"].unique())


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


def test_a_file_that_is_written_anew_while_it_waits_is_in_as_it_is_then(raw: Path, tmp_path: Path) -> None:
    class Rewritten(Progress):
        def planned(self, episodes: int, total_bytes: int) -> None:
            swap(raw)

    assert ingest(raw, tmp_path / "lake", HERE, Rewritten()).episodes == 3
    assert ingest(raw, tmp_path / "lake", HERE).changed_files == ()
    assert verify_raw(tmp_path / "lake", raw)[1] == []


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
    ingest(raw, tmp_path / "lake", HERE)
    before = hashes(tmp_path / "lake")
    assert games(tmp_path / "lake", "steps") == ["unknown"]
    # Given later, it is that of what came in from here without one, and of nothing else.
    elsewhere = pickles(raw)[0].rename(tmp_path / pickles(raw)[0].name).stem
    ingest(raw, tmp_path / "lake", IngestOptions(workers=0, game="pong"))
    for table in ("episodes", "steps", "frames"):
        assert games(tmp_path / "lake", table) == ["pong", "unknown"]
    assert Lake(tmp_path / "lake").episodes("game = 'unknown'").ids == [elsewhere]
    assert hashes(tmp_path / "lake") == before
    assert verify(tmp_path / "lake").proven
    ingest(raw, tmp_path / "lake", IngestOptions(workers=0, game="breakout"))
    assert games(tmp_path / "lake", "steps") == ["pong", "unknown"]
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


def test_what_was_in_before_anybody_knew_whose_it_is_goes_with_its_metadata(
    raw: Path, lake: Path, tmp_path: Path
) -> None:
    ben = participant_of(lake, "breakout")
    remove(lake, participants=[ben])
    (kept,) = Lake(lake).episodes().ids
    # One without metadata, one in an environment of somebody else, and one of which nothing is known.
    later, sqlite = tmp_path / "later", tmp_path / "later" / "dataset.sqlite"
    later.mkdir()
    for name in ("alone", "together", "other"):
        shutil.copy(pickles(raw)[0], later / f"{name}.pickle")
    task, agent = "breakout_mturk", "game_0>player_0"
    score = [("together", agent, "Score", pickle.dumps(1))]
    rows = {"environments": [("E2", task)], "episodes": [("together", "E2")], "episodekeyworddata": score}
    put_rows(sqlite, {**rows, "users": [("U1", "cleo", task, "E2", agent)]})
    assert ingest(later, lake, HERE).episodes == 3

    new = {"environments": [("E1", task)], "episodes": [("alone", "E1")]}
    put_rows(sqlite, {**new, "users": [("U2", ben, task, "E1", agent), ("U3", ben, task, "E2", "game_0>player_1")]})
    summary = ingest(later, lake, IngestOptions(metadata_only=True))
    assert (summary.taken_out, summary.removed) == (2, 0)
    assert sorted(Lake(lake).episodes().ids) == sorted([kept, "other"])
    for table in ("steps", "frames", "keyword_data"):
        assert not set(Lake(lake).scan(table).collect()["episode_id"]) & {"alone", "together"}
    for table in ("environments", "users"):
        assert not set(Lake(lake).scan(table).collect()["environment_id"]) & {"E1", "E2"}
    assert verify(lake).proven

    # It stays so, also for metadata that does not tell who played.
    again = ingest(later, lake, HERE)
    assert (again.taken_out, again.removed, again.commit) == (0, 2, summary.commit)
    sqlite.unlink()
    put_rows(sqlite, {"environments": [("E2", task)], "episodes": [("another", "E2")]})
    shutil.copy(pickles(raw)[0], later / "another.pickle")
    assert (ingest(later, lake, HERE).removed, ingest(later, lake, HERE).removed) == (3, 3)
    assert verify_raw(lake, later)[1] == []


def test_only_the_environments_of_a_participant_are_marked(raw: Path, lake: Path) -> None:
    (episode,) = Lake(lake).episodes("game = 'space_invaders'")
    remove(lake, [episode.episode_id], [participant_of(lake, "breakout")])
    marks = Lake(lake).sql("SELECT name FROM rejected").pl()["name"].to_list()
    assert sum(name.startswith("removed environment ") for name in marks) == 1
    # Others of that environment may come.
    put_rows(raw / "dataset.sqlite", {"episodes": [("another", episode.environment.environment_id)]})
    shutil.copy(pickles(raw)[0], raw / "another.pickle")
    assert ingest(raw, lake, HERE).episodes == 1
    assert Lake(lake).episode("another").game == "space_invaders"


def participant_of(lake: Path, game: str) -> str:
    query = "SELECT DISTINCT permanent_user_id FROM users JOIN environments USING (environment_id) WHERE game = ?"
    ((person,),) = Lake(lake).sql(query, [game]).fetchall()
    return str(person)


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
