"""SQL over a lake, read-only, inside walls.

The database reads files below the lake's folder and nothing else; what could still write inside (COPY, EXPORT, ATTACH,
EXPLAIN ANALYZE of those) is refused by statement type before it runs.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np

from .errors import (
    CrowdPlayLakeError,
    InvalidArgument,
    InvalidLake,
    QueryError,
    QueryNotAllowed,
    UnknownColumn,
    UnknownTable,
    did_you_mean,
    nearest,
)
from .query_result import QueryResult
from .storage import AnyPath

if TYPE_CHECKING:
    from .catalog import Catalog

__all__ = ["Database", "ReadingConnection", "Stop", "identifier", "literal", "token_starts"]

Parameters = Sequence[Any] | Mapping[str, Any] | None

_READS = (
    "a lake is read-only through SQL: keyword data is written with 'crowdplay-lake annotate', everything else comes "
    "from 'crowdplay-lake ingest'"
)


def identifier(name: str) -> str:
    """``name`` quoted as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """``text`` quoted as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


class Stop:
    """Stops a query from another thread: ``lake.sql(query, stop=stop)`` there, ``stop()`` here.

    The query ends with a QueryError. One that is only about to begin may miss it: call again until it has ended.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cursor: duckdb.DuckDBPyConnection | None = None
        self._is_asked = False

    def __call__(self) -> None:
        with self._lock:
            self._is_asked = True
            if self._cursor is not None:
                self._cursor.interrupt()

    @contextlib.contextmanager
    def watching(self, cursor: duckdb.DuckDBPyConnection) -> Iterator[None]:
        """While this holds, a call interrupts ``cursor``. Raises QueryError where there was one before."""
        with self._lock:
            if self._is_asked:
                raise QueryError("the query was stopped before it began")
            self._cursor = cursor
        try:
            yield
        finally:
            with self._lock:
                self._cursor = None


def _plain_parameters(parameters: Parameters) -> Parameters:
    """The values for a query's placeholders, numpy scalars as the Python ones they equal."""
    if parameters is None:
        return None
    if isinstance(parameters, Mapping):
        return {name: _plain(value) for name, value in parameters.items()}
    if isinstance(parameters, Sequence) and not isinstance(parameters, str | bytes):
        return [_plain(value) for value in parameters]
    raise InvalidArgument(f"params must be a list for ? or a dict for $name, not {type(parameters).__name__}")


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _told(error: duckdb.Error) -> str:
    """What the database says, in one line."""
    _, _, text = str(error).partition("{")
    try:
        return str(json.loads("{" + text)["exception_message"]).splitlines()[0]
    except (ValueError, KeyError):
        return str(error).splitlines()[0]


def _in_detail(
    error: duckdb.Error, cursor: duckdb.DuckDBPyConnection, statement: str, parameters: Parameters
) -> duckdb.Error:
    """The same error with its details. Names that do not resolve are told as text by `sql`, as JSON by `execute`."""
    if isinstance(error, duckdb.BinderException | duckdb.CatalogException | duckdb.PermissionException):
        try:
            cursor.execute(statement, parameters)
        except duckdb.Error as detailed:
            return detailed
    return error


def token_starts(query: str) -> list[int]:
    """Where the tokens begin, comments aside, in characters: the database counts in bytes."""
    data = query.encode()
    starts = [start for start, kind in duckdb.tokenize(query) if kind != duckdb.token_type.comment]
    return [len(data[:start].decode()) for start in starts]


def _without_end(query: str) -> str:
    """``query`` without the semicolons at its end, and what follows them."""
    for start in reversed(token_starts(query)):
        if query[start] != ";":
            break
        query = query[:start]
    return query


class Database:
    """An in-memory DuckDB behind walls: it can read ``root`` and what is registered, and write nothing."""

    def __init__(self, root: AnyPath) -> None:
        self._root = root
        # Set here, these hold for every cursor.
        # A large query spills into a folder of its own: the default, .tmp where the process runs, would also be
        # open to reading and writing.
        spill = tempfile.mkdtemp(prefix="crowdplay-lake-")
        weakref.finalize(self, shutil.rmtree, spill, ignore_errors=True)
        config: dict[str, str | bool | int | float | list[str]] = {
            "autoinstall_known_extensions": "false",
            "errors_as_json": "true",
            "temp_directory": spill,
        }
        self._connection = duckdb.connect(":memory:", config=config)
        run = self._connection.execute
        run("SET TimeZone = 'UTC'")
        # In a notebook without ipywidgets there is none, and DuckDB refuses to have it set.
        if run("SELECT current_setting('enable_progress_bar')").fetchall() != [(False,)]:
            run("SET enable_progress_bar = false")
        if not isinstance(root, Path):
            self._connection.register_filesystem(root.fs)
        # With the slash, so that no folder beside the lake whose name begins like its own is meant.
        run(f"SET allowed_directories = [{literal(str(self._root) + '/')}]")
        run("SET enable_external_access = false")
        self.catalog: Catalog | None = None  # of what is defined when a query names it

    def define(self, statements: Sequence[str]) -> None:
        """Run our own statements (views). Raises InvalidLake where a part cannot be read."""
        try:
            # On a cursor, as in `fetch`.
            with contextlib.closing(self._connection.cursor()) as cursor:
                for statement in statements:
                    cursor.execute(statement)
        except duckdb.Error as error:
            raise InvalidLake(f"{self._root}: {_told(error)}; restore the file, or ingest again") from error

    def fetch(self, query: str) -> list[tuple[Any, ...]]:
        """Rows of a query of our own."""
        # The connection refuses a second call while one runs, so each has a cursor of its own.
        with contextlib.closing(self._connection.cursor()) as cursor:
            return cursor.execute(query).fetchall()

    def reading_connection(self) -> ReadingConnection:
        """A connection for a library that speaks DB-API: behind the same walls."""
        return ReadingConnection(self, self._connection.cursor())

    def lock(self) -> None:
        """From here on settings cannot be changed, by anybody."""
        self._connection.execute("SET lock_configuration = true")

    def names(self) -> dict[str, list[str]]:
        """Table or view → its columns; but for those of our own, whose names begin with an underscore."""
        if self.catalog is not None:
            self.catalog.define_all()
        rows = self.fetch(
            "SELECT table_name, column_name FROM duckdb_columns() "
            "WHERE NOT internal AND NOT starts_with(table_name, '_') ORDER BY table_name, column_index"
        )
        names: dict[str, list[str]] = {}
        for table, column in rows:
            names.setdefault(table, []).append(column)
        return names

    def query(
        self,
        query: str,
        parameters: Parameters = None,
        tables: Mapping[str, Any] | None = None,
        max_rows: int | None = None,
        stop: Stop | None = None,
    ) -> QueryResult:
        """Run one reading statement on a cursor of its own. ``tables``: frames to join in, by name.

        ``max_rows``: no more of them are computed. ``stop``: what may stop it.
        """
        parameters = _plain_parameters(parameters)
        cursor = self._connection.cursor()
        statement = query
        try:
            with contextlib.nullcontext() if stop is None else stop.watching(cursor):
                try:
                    statement = self.reading_statement(query)
                    hidden = self.catalog.hidden(statement, tables) if self.catalog is not None and tables else []
                    if hidden:
                        raise InvalidArgument(
                            f"tables: {hidden[0]!r} is a table of the lake that a view of this query reads; "
                            "give the frame another name"
                        )
                    for name, frame in (tables or {}).items():
                        if frame is None:
                            raise InvalidArgument(f"tables: {name!r} is None, a frame is expected")
                        cursor.register(name, frame)
                    return self._result(cursor, statement, parameters, max_rows)
                except duckdb.Error as error:
                    raise self.translated(_in_detail(error, cursor, statement, parameters), query) from error
        finally:
            for name in tables or {}:
                cursor.unregister(name)
            cursor.close()

    def _result(
        self, cursor: duckdb.DuckDBPyConnection, statement: str, parameters: Parameters, max_rows: int | None
    ) -> QueryResult:
        def result() -> QueryResult:
            rows = cursor.sql(statement, params=parameters)
            return QueryResult((rows if max_rows is None else rows.limit(max_rows)).to_arrow_table())

        if self.catalog is None:
            return result()
        was_whole = self.catalog.is_whole
        self.catalog.define_for(statement)
        try:
            return result()
        except (duckdb.BinderException, duckdb.CatalogException):
            # A name may have been put together, as in query_table, and what is near to it is told from all names.
            if was_whole:
                raise
            self.catalog.define_all()
        return result()

    def reading_statement(self, query: str) -> str:
        """``query`` if it is one statement that only reads. Raises QueryNotAllowed, naming what it is instead."""
        statements = self._connection.extract_statements(query)
        if len(statements) != 1:
            raise QueryNotAllowed(f"one statement at a time, this is {len(statements)}")
        kind = statements[0].type
        copies = kind == duckdb.StatementType.SELECT and "copy" in query.lower()
        if kind == duckdb.StatementType.MULTI or copies:
            # PIVOT runs as several statements, and a WITH at the top may hold a COPY that writes. What can stand as a
            # subquery only reads.
            query = f"SELECT * FROM (\n{_without_end(query)}\n)"
            statements = self._connection.extract_statements(query)
            if len(statements) != 1 or statements[0].type not in (kind, duckdb.StatementType.SELECT):
                raise QueryNotAllowed(f"several statements in one: {_READS}")
        elif kind == duckdb.StatementType.EXPLAIN:
            self._check_explain(query)
        elif kind != duckdb.StatementType.SELECT:
            raise QueryNotAllowed(f"{kind.name} is not allowed: {_READS}")
        return query

    def _check_explain(self, query: str) -> None:
        """Plain EXPLAIN only shows the plan; EXPLAIN ANALYZE runs what it explains."""
        tokens = token_starts(query)
        rest = query[tokens[1] :] if len(tokens) > 1 else ""
        if rest[:1] == "(" or rest[:7].lower() in ("analyze", "analyse"):
            raise QueryNotAllowed("EXPLAIN with options runs the statement: use plain EXPLAIN")
        self.reading_statement(rest)

    def translated(self, error: duckdb.Error, query: str) -> CrowdPlayLakeError:
        """The error of ours for one of the database's, by what it says of itself as JSON."""
        _, _, text = str(error).partition("{")
        try:
            details = json.loads("{" + text)
        except ValueError:
            return QueryError(str(error).splitlines()[0] + self._hint(query), query)
        name = details.get("name", "")
        subtype, kind = details.get("error_subtype"), details.get("type")
        if subtype == "COLUMN_NOT_FOUND":
            return self._unknown_column(name, query)
        if subtype == "MISSING_ENTRY" and kind == "Table":
            return UnknownTable(name, self.names())
        message = details.get("exception_message", str(error)).splitlines()[0]
        if details.get("exception_type") == "Permission":
            return QueryNotAllowed(f"{message}: a query reads the lake's tables only", query)
        return QueryError(message + self._hint(query), query)

    def _unknown_column(self, name: str, query: str) -> UnknownColumn:
        names = self.names()
        owners = [table for table, columns in names.items() if name in columns]
        if owners:
            return UnknownColumn(name, (), f"what this query reads; it is in {', '.join(owners)}")
        if f'"{name}"' in query:
            return UnknownColumn(name, (), "the lake (a text takes single quotes)")
        return UnknownColumn(name, [column for columns in names.values() for column in columns])

    def _hint(self, query: str) -> str:
        """What might have been meant by names in ``query`` that are almost those of tables or columns."""
        names = self.names()
        known = {*names, *(column for columns in names.values() for column in columns)}
        words = {match[0] for start in token_starts(query) if (match := re.compile(r"\w+").match(query, start))}
        close = [nearest(word, known, 1, 0.75) for word in sorted(words - known)]
        return did_you_mean(name for names in close for name in names)


class ReadingConnection:
    """What DB-API asks of a connection and its cursor, of statements that only read."""

    def __init__(self, database: Database, connection: duckdb.DuckDBPyConnection) -> None:
        self._database = database
        self._connection = connection

    def execute(self, query: str, parameters: Any = None) -> ReadingConnection:
        """Run one reading statement. Raises as `Database.query`."""
        try:
            self._connection.execute(self._database.reading_statement(query), parameters)
        except duckdb.Error as error:
            raise self._database.translated(error, query) from error
        return self

    def executemany(self, query: str, parameters: Any = None) -> ReadingConnection:
        """What is run many times is there to write. Raises QueryNotAllowed."""
        raise QueryNotAllowed(_READS, query)

    def commit(self) -> None:
        """End the transaction, if there is one."""
        with contextlib.suppress(duckdb.TransactionException):
            self._connection.commit()

    def rollback(self) -> None:
        """End the transaction, if there is one."""
        with contextlib.suppress(duckdb.TransactionException):
            self._connection.rollback()

    def __getattr__(self, name: str) -> Any:
        # Transactions and results; what runs statements by other names stays out.
        if name in _HARMLESS:
            return getattr(self._connection, name)
        raise AttributeError(name)


_HARMLESS = {"begin", "close", "description", "fetchall", "fetchmany", "fetchone", "rowcount"}
