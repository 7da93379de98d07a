"""Which tables and views a query may mean: each is defined when the first query names it.

To define all of them takes ten times as long as most questions do. What looks at the catalog itself sees all of it, and
a name that does not resolve is looked up once more with all of it there.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from .query import Database, identifier, literal, token_starts
from .schema import RAM_COLUMNS

__all__ = ["Catalog", "Definition", "View", "sees_catalog"]

# Words, in small letters, of what tells of other tables than it names, or runs text that is put together.
_TELLS = re.compile(
    r"(duckdb|pg|sqlite|pragma)_\w*|truncate_duckdb_logs|information_schema|show|describe|query|query_table|seq_scan"
    r"|json_execute_serialized_sql|json_serialize_plan|sql_auto_complete|\w+_description"
)
_TOKEN = re.compile(r"\w+|.")


@dataclass(frozen=True)
class View:
    """A view and its documentation."""

    name: str
    doc: str
    sql: str  # the SELECT
    columns: Mapping[str, str]  # column → what it means, of those that have a meaning of their own

    def definition(self) -> str:
        """The statement that makes it, in the place of another of its name."""
        return f"CREATE OR REPLACE VIEW {identifier(self.name)} AS {self.sql}"

    def comments(self) -> list[str]:
        """The statements that document it."""
        comments = [f"COMMENT ON VIEW {identifier(self.name)} IS {literal(self.doc)}"]
        for name, doc in self.columns.items():
            # 128 comments that say the same take as long as all others together: the first RAM byte speaks for all.
            if name in RAM_COLUMNS[1:]:
                continue
            text = doc.replace("byte 0x00", "bytes, ram_00 to ram_7f,")
            comments.append(f"COMMENT ON COLUMN {identifier(self.name)}.{identifier(name)} IS {literal(text)}")
        return comments


@dataclass(frozen=True)
class Definition:
    """How a view is made, once it is needed."""

    view: Callable[[], View]
    needs: tuple[str, ...] = ()  # the views that it reads


class Catalog:
    """The views of a database: as far as queries have named them, or all of them, with comments or without.

    Any thread may ask for views. The order of ``definitions`` is that in which all are made.
    """

    def __init__(self, database: Database, definitions: Mapping[str, Definition]) -> None:
        self._database = database
        self._definitions = definitions
        self._lock = threading.RLock()
        self._views: dict[str, View] = {}
        self._is_commented = False

    def define_for(self, query: str) -> None:
        """Define what a query may mean. Raises InvalidLake where a part cannot be read."""
        if self._is_commented:
            return
        if sees_catalog(query):
            self._comment()
        else:
            self._define(_words(query) & self._definitions.keys())

    def hidden(self, query: str, frames: Iterable[str]) -> list[str]:
        """Tables that views of a query read and ``frames`` have the names of: the views would read the frames."""
        named = _words(query) & self._definitions.keys()
        below = {table for view in named for table in self._definitions[view].needs}
        return sorted(below & {frame.lower() for frame in frames})

    @property
    def is_whole(self) -> bool:
        """Whether all views are defined."""
        return len(self._views) == len(self._definitions)

    def define_all(self) -> None:
        """Define all views."""
        self._define(self._definitions)

    def view(self, name: str) -> View:
        """The view of that name."""
        self._define([name])
        return self._views[name]

    def replace(self, view: View, before: str) -> None:
        """Put a view in the place of the one of its name, after a statement of what it needs."""
        with self._lock:
            comments = view.comments() if self._is_commented else []
            self._database.define([before, view.definition(), *comments])
            self._views[view.name] = view

    def _define(self, names: Iterable[str]) -> None:
        missing = [name for name in names if name not in self._views]
        if missing:
            with self._lock:
                for name in missing:
                    self._define_one(name)

    def _define_one(self, name: str) -> None:
        if name not in self._views:
            definition = self._definitions[name]
            for needed in definition.needs:
                self._define_one(needed)
            view = definition.view()
            self._database.define([view.definition()])
            self._views[name] = view

    def _comment(self) -> None:
        with self._lock:
            self.define_all()
            if not self._is_commented:
                self._database.define([comment for view in self._views.values() for comment in view.comments()])
                self._is_commented = True


def _words(query: str) -> set[str]:
    return set(re.findall(r"\w+", query.lower()))


def sees_catalog(query: str) -> bool:
    """Whether a query may tell of tables that it does not name. Rather once too often."""
    words = _words(query)
    return any(_TELLS.fullmatch(word) for word in words) or ("desc" in words and _describes(query))


def _describes(query: str) -> bool:
    """Whether a DESC begins something, as a DESCRIBE would; after something it is an order."""
    before = ""
    for start in token_starts(query):
        if token := _TOKEN.match(query, start):
            word = token[0].lower()
            if word == "desc" and before in ("", ";", "(", "explain"):
                return True
            before = word
    return False
