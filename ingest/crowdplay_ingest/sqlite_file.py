"""Opens a dataset.sqlite that a stranger made: only its tables are read, within bounds that follow from its size."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from urllib.parse import quote

from crowdplay_lake.errors import UnsupportedTrajectory

from .raw_files import MetadataFile

__all__ = ["BadText", "check_tables", "opened_database"]

# What is read into memory where SQLite cannot open the file itself. The published one has some 15,000 episodes.
MAX_BYTES = 512 << 20
# Of one value in the database. Longer ones are refused one by one, by `check` of the reader; this is the wall behind.
MAX_VALUE_BYTES = 64 << 20

# Waited for a program that writes to the file.
LOCK_SECONDS = 5.0

_MAGIC = b"SQLite format 3\0"
_WAL_MODE = 2
_STEPS_AT_ONCE = 100_000


class BadText(str):
    """Text that is no UTF-8, with its bytes escaped."""

    __slots__ = ()


@contextmanager
def opened_database(file: MetadataFile) -> Iterator[sqlite3.Connection]:
    """A connection that reads ``file`` and can do nothing else.

    Raises UnsupportedTrajectory where it is no database that can be read, LimitExceeded, OSError.
    """
    if file.unfinished is not None and (file.path is None or file.unfinished.endswith("-wal")):
        raise UnsupportedTrajectory(
            f"not complete without {file.unfinished} beside it: some program has it open, or did not end well. "
            "Close that program, or copy both and run: sqlite3 dataset.sqlite 'PRAGMA wal_checkpoint(TRUNCATE)'"
        )
    try:
        with closing(_connect(file)) as database:
            _restrict(database, file.size)
            yield database
    except sqlite3.Error as error:
        raise UnsupportedTrajectory(_reason(error)) from error


def _connect(file: MetadataFile) -> sqlite3.Connection:
    if file.path is not None:
        with file.path.open("rb") as header:
            _check_magic(start := header.read(20))
        # In WAL mode SQLite would make files beside it; its log is empty, so nothing is lost without.
        immutable = "&immutable=1" if _WAL_MODE in start[18:20] else ""
        return sqlite3.connect(f"file:{quote(str(file.path))}?mode=ro{immutable}", timeout=LOCK_SECONDS, uri=True)
    data = bytearray(file.read(MAX_BYTES))
    _check_magic(bytes(data[:20]))
    # A database in memory has no log.
    data[18:20] = b"\1\1"
    database = sqlite3.connect(":memory:")
    try:
        database.deserialize(data)
    except BaseException:
        database.close()
        raise
    return database


def _check_magic(start: bytes) -> None:
    if len(start) < 20 or not start.startswith(_MAGIC):
        raise UnsupportedTrajectory("not a dataset.sqlite that can be read: file is not a database")


def _restrict(database: sqlite3.Connection, size: int) -> None:
    """Data only: nothing that the database's schema says is run, and no page is read twice without end."""
    for pragma in ("query_only=ON", "trusted_schema=OFF", "cell_size_check=ON", "mmap_size=0"):
        database.execute(f"PRAGMA {pragma}")
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
    database.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    database.text_factory = _text
    # A row takes some 20 steps of SQLite's machine, and at least 8 bytes of a file that does not lie.
    steps_left = 2_000_000 + 10 * size

    def count() -> bool:
        nonlocal steps_left
        steps_left -= _STEPS_AT_ONCE
        return steps_left < 0

    database.set_progress_handler(count, _STEPS_AT_ONCE)


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return BadText(data.decode("utf-8", "backslashreplace"))


def _reason(error: sqlite3.Error) -> str:
    if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
        return "not a dataset.sqlite that can be read: its tables have more rows than a file of its size can hold"
    if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return "locked: some program is writing to this dataset.sqlite; close it, or make a copy of the file with it"
    return f"not a dataset.sqlite that can be read: {error}"


def check_tables(database: sqlite3.Connection, tables: Mapping[str, Sequence[str]]) -> None:
    """That each of ``tables`` is a real one, with its columns. Raises UnsupportedTrajectory."""
    # Asked for its row, a view would be computed and a virtual table would run code: neither has a page of its own.
    have = {
        str(name).lower(): kind == "table" and (page or 0) > 0
        for name, kind, page in database.execute("SELECT name, type, rootpage FROM sqlite_master")
        if kind in ("table", "view")
    }
    unreal = [table for table in tables if have.get(table) is False]
    if unreal:
        raise UnsupportedTrajectory(f"not a dataset.sqlite of CrowdPlay: {', '.join(unreal)} is no plain table")
    missing = [f"table {name}" for name in tables if name not in have]
    # Asked for in double quotes, a column that is not there is a text to SQLite. Computed columns are not listed here.
    missing += [
        f"column {table}.{column}"
        for table, columns in tables.items()
        if table in have
        for column in set(columns) - {row[1].lower() for row in database.execute(f'PRAGMA table_info("{table}")')}
    ]
    if missing:
        raise UnsupportedTrajectory(f"not a dataset.sqlite of CrowdPlay: it has no {', '.join(sorted(missing))}")
