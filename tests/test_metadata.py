"""dataset.sqlite, wherever it lies and whoever made it."""

from __future__ import annotations

import itertools
import pickle
import shutil
import sqlite3
import time
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from crowdplay_ingest import sqlite_file
from crowdplay_ingest.metadata import Metadata, read_metadata
from crowdplay_ingest.recording_metadata import put_rows
from crowdplay_ingest.sources import MetadataFile, open_metadata, open_source
from crowdplay_lake.errors import LimitExceeded, RawDataError, UnsupportedTrajectory

AGENT = "game_0>player_0"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A small dataset.sqlite in a folder of its own."""
    folder = tmp_path / "raw"
    folder.mkdir()
    put_rows(
        folder / "dataset.sqlite",
        {
            "environments": [("v", "t")],
            "environmentkeyworddata": [("v", "all", "game", pickle.dumps("breakout"))],
            "episodes": [("e", "v")],
            "episodekeyworddata": [("e", AGENT, "Score", pickle.dumps(7))],
            "users": [("u", "p", "t", "v", AGENT)],
        },
    )
    return folder / "dataset.sqlite"


def execute(path: Path, *statements: str, values: tuple[object, ...] = ()) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement, values)


def in_folder(database: Path) -> MetadataFile:
    (file,) = open_source(database.parent).metadata()
    return file


def in_zip(database: Path) -> MetadataFile:
    with zipfile.ZipFile(database.parent.parent / "raw.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(database.parent.iterdir()):
            archive.write(path, f"in/{path.name}")
    (file,) = open_source(database.parent.parent / "raw.zip").metadata()
    return file


PLACES = pytest.mark.parametrize("place", [in_folder, in_zip], ids=["folder", "zip"])
Place = Callable[[Path], MetadataFile]


def is_whole(metadata: Metadata) -> bool:
    return (
        metadata.environment_of == {"e": "v"}
        and metadata.environments["v"]["game"] == "breakout"
        and metadata.keyword_data["e", AGENT, "Score"]["value_double"] == 7
        and metadata.users["u"]["agent_id"] == AGENT
        and metadata.refused == []
    )


@PLACES
def test_a_database_is_read_where_it_lies_and_leaves_nothing_there(database: Path, place: Place) -> None:
    file = place(database)
    before = sorted(database.parent.parent.rglob("*"))
    assert is_whole(read_metadata(file))
    assert sorted(database.parent.parent.rglob("*")) == before


@PLACES
def test_a_database_that_was_closed_in_wal_mode(database: Path, place: Place) -> None:
    execute(database, "PRAGMA journal_mode=WAL", "UPDATE users SET user_id = user_id")
    assert database.read_bytes()[18] == 2
    database.with_name("dataset.sqlite-wal").touch()
    file = place(database)
    before = sorted(database.parent.iterdir())
    assert is_whole(read_metadata(file))
    assert sorted(database.parent.iterdir()) == before


@PLACES
def test_a_database_that_another_program_holds_open_in_wal_mode(database: Path, place: Place) -> None:
    with closing(sqlite3.connect(database)) as other:
        other.execute("PRAGMA journal_mode=WAL")
        other.execute("UPDATE episodes SET environment_id = 'w'")
        other.commit()
        file = place(database)
        with pytest.raises(UnsupportedTrajectory, match=r"not complete without .*dataset\.sqlite-wal.* Close that"):
            read_metadata(file)
        assert open_metadata(database).unfinished == "dataset.sqlite-wal"


def test_a_database_that_is_locked(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file, "LOCK_SECONDS", 0.1)
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UnsupportedTrajectory, match="locked: some program is writing"):
            read_metadata(in_folder(database))
    assert is_whole(read_metadata(in_folder(database)))


def test_one_that_was_copied_in_the_middle_of_a_change(database: Path) -> None:
    database.with_name("dataset.sqlite-journal").write_bytes(b"x")
    with pytest.raises(UnsupportedTrajectory, match=r"dataset\.sqlite-journal"):
        read_metadata(in_zip(database))


ENDLESS = (
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
    "SELECT 'e' || i AS episode_id, 'v' AS environment_id FROM n"
)

HOSTILE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "view without end": (
        lambda path: execute(path, "DROP TABLE episodes", f"CREATE VIEW episodes AS {ENDLESS}"),
        "episodes is no plain table",
    ),
    "view in other letters": (
        lambda path: execute(path, "DROP TABLE episodes", f"CREATE VIEW Episodes AS {ENDLESS}"),
        "episodes is no plain table",
    ),
    "virtual table": (
        lambda path: execute(path, "DROP TABLE users", f"CREATE VIRTUAL TABLE users USING fts5({USERS})"),
        "users is no plain table",
    ),
    "computed column": (
        lambda path: execute(
            path,
            "DROP TABLE episodes",
            "CREATE TABLE episodes (episode_id TEXT, environment_id AS (hex(zeroblob(50000000))))",
            "INSERT INTO episodes VALUES ('e')",
        ),
        "no column episodes.environment_id",
    ),
    "corrupt": (lambda path: overwrite(path, 100, b"\xff" * 3000), "not a dataset.sqlite that can be read"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:5000]), "not a dataset.sqlite"),
    "empty": (lambda path: path.write_bytes(b""), "file is not a database"),
    "no database": (lambda path: path.write_bytes(b"hello" * 1000), "file is not a database"),
    "pages that repeat": (lambda path: repeat_pages(path), "more rows than a file of its size can hold"),
}
USERS = "user_id, permanent_user_id, task_id, environment_id, agent_id"


def overwrite(path: Path, at: int, data: bytes) -> None:
    whole = bytearray(path.read_bytes())
    whole[at : at + len(data)] = data
    path.write_bytes(whole)


def repeat_pages(path: Path, levels: int = 12, fanout: int = 50) -> None:
    """A table whose tree says, on each of its levels, fifty times the same page: 50 ** 12 rows in a few pages."""
    execute(path, "DROP TABLE users", f"CREATE TABLE users ({USERS})", "VACUUM")
    execute(path, "INSERT INTO users VALUES ('u', 'p', 't', 'v', 'a')")
    with closing(sqlite3.connect(path)) as connection:
        ((root,),) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'users'")
        ((size,),) = connection.execute("PRAGMA page_size")
    data = bytearray(path.read_bytes())
    count = len(data) // size
    leaf = bytes(data[(root - 1) * size : root * size])
    # The root and the pages behind the file's end, each fifty times the next, the last one the leaf with its row.
    numbers = [root, *range(count + 1, count + levels + 1)]
    data += bytes(size * levels)
    for number, following in itertools.pairwise(numbers):
        cells = b"".join(following.to_bytes(4, "big") + bytes([1]) for _ in range(fanout))
        start = size - len(cells)
        pointers = b"".join((start + 5 * i).to_bytes(2, "big") for i in range(fanout))
        head = b"\x05\0\0" + fanout.to_bytes(2, "big") + start.to_bytes(2, "big") + b"\0" + following.to_bytes(4, "big")
        page = head + pointers
        data[(number - 1) * size : number * size] = page + bytes(start - len(page)) + cells
    data[(numbers[-1] - 1) * size :] = leaf
    data[28:32] = (len(data) // size).to_bytes(4, "big")
    path.write_bytes(data)


@PLACES
@pytest.mark.parametrize("fault", HOSTILE)
def test_a_hostile_database_is_refused_soon(database: Path, place: Place, fault: str) -> None:
    change, reason = HOSTILE[fault]
    change(database)
    file = place(database)
    began = time.monotonic()
    with pytest.raises(RawDataError, match=reason):
        read_metadata(file)
    assert time.monotonic() - began < 20


@PLACES
def test_what_a_schema_holds_besides_is_not_run(database: Path, place: Place) -> None:
    execute(
        database,
        "CREATE TABLE canary (sung INTEGER)",
        "CREATE TRIGGER one AFTER UPDATE ON users BEGIN INSERT INTO canary VALUES (1); END",
        f"CREATE VIEW bomb AS {ENDLESS}",
        "CREATE INDEX two ON users (upper(user_id)) WHERE user_id <> ''",
        "CREATE VIRTUAL TABLE words USING fts5(word)",
    )
    assert is_whole(read_metadata(place(database)))
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT * FROM canary").fetchall() == []


def test_nothing_can_be_written_or_attached(database: Path, tmp_path: Path) -> None:
    for file in (in_folder(database), in_zip(database)):
        for statement in ("INSERT INTO episodes VALUES ('x', 'y')", f"ATTACH '{tmp_path / 'x'}' AS x"):
            with pytest.raises(UnsupportedTrajectory), sqlite_file.opened_database(file) as connection:
                connection.execute(statement)
    assert not (tmp_path / "x").exists()


@PLACES
def test_one_bad_value_does_not_cost_the_others(database: Path, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crowdplay_ingest.metadata.MAX_VALUE_BYTES", 1000)
    values = {
        "long": bytes(2000),
        "text": "12",
        "number": 5,
        "no pickle": b"\xff\xfe",
    }
    for key, value in values.items():
        execute(database, "INSERT INTO episodekeyworddata VALUES ('e', 'all', ?, ?)", values=(key, value))
    execute(database, "INSERT INTO episodes VALUES (CAST(x'ff41' AS TEXT), 'v')")
    execute(database, "INSERT INTO episodes VALUES (x'4142', 'v')")
    execute(database, "INSERT INTO episodes VALUES (?, 'v')", values=("x" * 70_000,))
    metadata = read_metadata(place(database))
    refused = {value.name: value.reason for value in metadata.refused}
    assert {name.rpartition("/")[2] for name in refused if name.startswith("episodekey")} == set(values)
    assert "too long" in refused["episodekeyworddata/e/all/long"]
    assert sum("not all text" in reason for reason in refused.values()) == 2
    assert len(refused) == len(values) + 3
    assert metadata.environment_of == {"e": "v"}
    assert metadata.keyword_data.keys() == {("e", AGENT, "Score")}


def test_a_database_in_an_archive_has_a_longest_size(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file, "MAX_BYTES", 4096)
    assert is_whole(read_metadata(in_folder(database)))
    with pytest.raises(LimitExceeded, match="copy it to a local file and name that with --metadata"):
        read_metadata(in_zip(database))


def test_a_large_database_is_not_taken_for_one_without_end(database: Path) -> None:
    put_rows(
        database,
        {
            "episodes": [(f"e{n}", "v") for n in range(50_000)],
            "environments": [(str(n), "") for n in range(50_000)],
        },
    )
    assert len(read_metadata(in_folder(database)).environment_of) == 50_001


def test_a_damaged_member_is_refused(database: Path) -> None:
    file = in_zip(database)
    archive = Path(file.stored.location)
    assert file.stored.member is not None
    overwrite(archive, file.stored.member.offset + 60, b"\0\0\0\0\0")
    with pytest.raises(RawDataError, match="in the archive"):
        read_metadata(file)


def test_a_database_on_object_storage(database: Path, bucket: str) -> None:
    import boto3

    boto3.client("s3").upload_file(str(database), bucket, "a/dataset.sqlite")
    (file,) = open_source(f"s3://{bucket}/a/").metadata()
    assert (file.name, file.path) == ("dataset.sqlite", None)
    assert is_whole(read_metadata(file))
    assert is_whole(read_metadata(open_metadata(f"s3://{bucket}/a/dataset.sqlite")))


def test_a_path_with_odd_characters(database: Path) -> None:
    odd = Path(shutil.copytree(database.parent, database.parent.parent / "a%20b?c#d ü"))
    assert is_whole(read_metadata(in_folder(odd / "dataset.sqlite")))
