"""Metadata by its owner, for many owners at once: columns are decoded as a whole, dicts are made when asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from .tagged import dumps, loads

__all__ = ["Columns", "KeywordsByGame", "KeywordsByOwner", "Row"]

# Below these a double tells every whole number, and every microsecond, from the next.
_EXACT_INTEGERS = 2.0**53
_EXACT_SECONDS = 2.0**50 / 1e6
# How long the JSON of a date and time without time zone is, without and with microseconds; no other is of these
# lengths (`tagged` writes them). value_timestamp then has all of it.
_NAIVE = tuple(len(dumps(datetime(2021, 9, 1, microsecond=part))) for part in (0, 1))


class _Json(str):
    """A value that is decoded for each who asks: lists and dicts can be changed."""

    __slots__ = ()


class KeywordsByOwner:
    """The rows of a keyword table, by the episode or environment they are of.

    >>> KeywordsByOwner(snapshot.read("keyword_data"), "episode_id").of(episode_id)   # doctest: +SKIP
    {'game_0>player_0': {'Score': 50, 'Time played': datetime.timedelta(seconds=31)}}
    """

    COLUMNS = ("agent_id", "key", "value_type", "value_double", "value_text", "value_timestamp", "value_json")
    # Of these, those with few different texts.
    ENCODED = ("agent_id", "key", "value_type", "value_text")

    def __init__(self, table: pa.Table, owner: str) -> None:
        """``table``: its columns ``owner`` and COLUMNS; texts may be dictionaries."""
        owners, first = _runs(table[owner])
        self._index: dict[str | None, int] = dict(zip(owners, range(len(owners)), strict=True))
        if len(self._index) < len(owners):
            # Parts are sorted, and an owner's rows are in one of them, unless others than this software wrote them.
            table = table.set_column(0, owner, table[owner].cast(pa.string())).sort_by(owner)
            owners, first = _runs(table[owner])
            self._index = dict(zip(owners, range(len(owners)), strict=True))
        agents, names = _encoded(table["agent_id"])
        # Rows of one agent of one owner follow each other: where such a run begins, and which is an owner's first.
        begins = np.ones(len(table), bool)
        begins[1:] = agents[1:] != agents[:-1]
        begins[first] = True
        edges = np.flatnonzero(begins)
        self._first_run = [*np.searchsorted(edges, first).tolist(), len(edges)]
        self._edges = [*edges.tolist(), len(table)]
        self._agents = names[agents[edges]].tolist()
        self._keys = _texts(table["key"])
        self._values, self._changeable = _values(table)

    def of(self, owner: str | None) -> dict[str, dict[str, Any]]:
        """agent → key → value; new dicts each time."""
        data: dict[str, dict[str, Any]] = {}
        index = self._index.get(owner)
        if index is None:
            return data
        keys, values, edges, changeable = self._keys, self._values, self._edges, self._changeable
        begin = edges[self._first_run[index]]
        for run in range(self._first_run[index], self._first_run[index + 1]):
            end = edges[run + 1]
            # Without `strict`, which costs a third of this: it is asked of ten thousand owners at a time.
            of_agent = dict(zip(keys[begin:end], values[begin:end]))  # noqa: B905
            if changeable and not changeable.isdisjoint(range(begin, end)):
                of_agent = {key: loads(v) if type(v) is _Json else v for key, v in of_agent.items()}
            agent = self._agents[run]
            data[agent] = {**data[agent], **of_agent} if agent in data else of_agent
            begin = end
        return data


class KeywordsByGame:
    """The keyword data of episodes, decoded a game at a time: most who ask for any ask for those of one game."""

    def __init__(self, games: Iterable[str], read: Callable[[str], KeywordsByOwner]) -> None:
        """``read``: gives the keyword data of the episodes of a game."""
        self._games = frozenset(games)
        self._read = read
        self._by_game: dict[str, KeywordsByOwner] = {}

    def of(self, episode_id: str, game: str | None = None) -> dict[str, dict[str, Any]]:
        """agent → key → value; new dicts each time. ``game``: of the episode, None where it is not known."""
        if game is None:
            return next((data for one in self._games if (data := self.of(episode_id, one))), {})
        known = self._by_game.get(game)
        if known is None:
            if game not in self._games:
                return {}
            known = self._by_game[game] = self._read(game)
        return known.of(episode_id)


def _runs(owners: pa.ChunkedArray) -> tuple[list[str], list[int]]:
    """(the owner, the first row) of each run of rows of one owner."""
    codes, names = _encoded(owners)
    first = np.flatnonzero(np.diff(codes, prepend=-1))
    return names[codes[first]].tolist(), first.tolist()


def _encoded(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.int32], npt.NDArray[Any]]:
    """(the code of each row, the texts by code) of a column without nulls; each text is one object."""
    whole = column.combine_chunks()
    if not pa.types.is_dictionary(whole.type):
        whole = whole.dictionary_encode()
    # An empty one would not be of objects.
    return whole.indices.to_numpy(), np.array([*whole.dictionary.to_pylist(), None], object)


def _texts(column: pa.ChunkedArray) -> list[str]:
    """A column of few different texts."""
    codes, names = _encoded(column)
    found: list[str] = names[codes].tolist()
    return found


def _values(table: pa.Table) -> tuple[list[Any], set[int]]:
    """(the values of keyword rows, from the typed columns where these have all of one; the rows of `_Json`)."""
    values = np.empty(len(table), object)
    encoded: set[int] = set()
    codes, kinds = _encoded(table["value_type"])
    double = table["value_double"].to_numpy()
    for code, kind in enumerate(kinds[:-1].tolist()):
        rows = np.flatnonzero(codes == code)
        whole, decoded = _decoded(kind, table, rows, double)
        # An array of Python objects takes a list as it is; numpy's own scalars would stay numpy's.
        values[rows[whole]] = np.fromiter(decoded, object, len(decoded))
        rest = rows[~whole]
        values[rest] = [_Json(text) for text in table["value_json"].take(rest).to_pylist()]
        encoded.update(rest.tolist())
    return values.tolist(), encoded


def _decoded(
    kind: str, table: pa.Table, rows: npt.NDArray[np.intp], double: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.bool_], list[Any]]:
    """(of which ``rows``, all of one type, a typed column has the whole value; these values)."""
    numbers = double[rows]
    whole = np.ones(len(rows), bool)
    if kind == "none":
        return whole, [None] * len(rows)
    if kind == "bool":
        return whole, (numbers != 0).tolist()
    if kind == "float":
        return whole, numbers.tolist()
    if kind == "int":
        whole = np.abs(numbers) < _EXACT_INTEGERS
        return whole, numbers[whole].astype(np.int64).tolist()
    if kind == "timedelta":
        whole = np.abs(numbers) < _EXACT_SECONDS
        return whole, np.rint(numbers[whole] * 1e6).astype(np.int64).astype("timedelta64[us]").tolist()
    if kind == "str":
        text = table["value_text"].take(rows)
        whole = text.is_valid().to_numpy()
        return whole, _texts(text.filter(whole))
    if kind == "datetime":
        whole = np.isin(pc.binary_length(table["value_json"]).to_numpy()[rows], _NAIVE)
        return whole, table["value_timestamp"].take(rows[whole]).cast(pa.timestamp("us")).to_numpy().tolist()
    return ~whole, []


class Columns:
    """Rows of a table whose columns become Python lists when more than a few rows are asked for one.

    ``more``: gives a column that ``rows`` does not have, of these rows; asked for once, if at all. ``names``: of all.
    """

    __slots__ = ("few", "lists", "more", "names", "table")

    def __init__(
        self,
        rows: pa.Table | pa.RecordBatch,
        more: Callable[[pa.Table | pa.RecordBatch, str], pa.ChunkedArray] | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        self.table = rows
        self.more = more
        self.names = rows.schema.names if names is None else names
        self.lists: dict[str, list[Any]] = {}
        # Column → how many single values may still be asked of it, before it becomes a list.
        self.few: dict[str, int] = dict.fromkeys(rows.schema.names, len(rows) // 32)

    def value(self, name: str, index: int) -> Any:
        """One value of a column that is no list yet: of a few rows it costs less to convert these alone."""
        left = self.few.get(name, 0)
        if left == 0:
            return self[name][index]
        self.few[name] = left - 1
        return self.table.column(name)[index].as_py()

    def __getitem__(self, name: str) -> list[Any]:
        if name not in self.lists:
            elsewhere = self.more if name in self.names and name not in self.table.schema.names else None
            column = self.table.column(name) if elsewhere is None else elsewhere(self.table, name)
            self.lists[name] = column.to_pylist()
        return self.lists[name]

    def rows(self) -> Iterator[Row]:
        """Each row, as a mapping."""
        return (Row(self, index) for index in range(len(self.table)))


class Row(Mapping[str, Any]):
    """One row of `Columns`."""

    __slots__ = ("_columns", "_index")

    def __init__(self, columns: Columns, index: int) -> None:
        self._columns = columns
        self._index = index

    def __getitem__(self, name: str) -> Any:
        lists = self._columns.lists
        return lists[name][self._index] if name in lists else self._columns.value(name, self._index)

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns.names)

    def __len__(self) -> int:
        return len(self._columns.names)
