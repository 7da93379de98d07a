"""CrowdPlay's `dataset.sqlite` as typed rows. Its values are pickles: read as data, by the machine."""

from __future__ import annotations

import sqlite3
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from crowdplay_lake.errors import BrokenPickle, LimitExceeded, RawDataError
from crowdplay_lake.keywords import keyword_columns
from crowdplay_lake.layout import is_partition
from crowdplay_lake.schema import ALL_AGENTS, UNKNOWN

from .machine import Limits, load
from .raw_files import MetadataFile
from .sqlite_file import MAX_VALUE_BYTES, BadText, check_tables, opened_database

__all__ = ["Metadata", "RefusedValue", "read_metadata"]

_TABLES: Mapping[str, tuple[str, ...]] = {
    "environments": ("environment_id", "task_id"),
    "environmentkeyworddata": ("environment_id", "agent_id", "key", "value"),
    "episodes": ("episode_id", "environment_id"),
    "episodekeyworddata": ("episode_id", "agent_id", "key", "value"),
    "users": ("user_id", "permanent_user_id", "task_id", "environment_id", "agent_id"),
}

# Of an id or a key, in characters.
_LONGEST_TEXT = 1 << 16

# What the values of a small file may expand to as JSON.
_EXPANDED_BYTES = 64 << 20

Key = tuple[str, str, str]


@dataclass(frozen=True)
class RefusedValue:
    """A metadata value that is not plain data, or not a pickle."""

    name: str  # table, owner, agent and key
    bytes: int
    reason: str


@dataclass
class Metadata:
    """The rows of one or more dataset.sqlite files, keyed; a later file wins over an earlier one."""

    environments: dict[str, dict[str, Any]] = field(default_factory=dict)
    users: dict[str, dict[str, Any]] = field(default_factory=dict)
    environment_of: dict[str, str] = field(default_factory=dict)  # of an episode
    keyword_data: dict[Key, dict[str, Any]] = field(default_factory=dict)  # (episode, agent, key)
    environment_keyword_data: dict[Key, dict[str, Any]] = field(default_factory=dict)
    refusals: dict[str, RefusedValue] = field(default_factory=dict)  # by name: a damaged file may repeat a row

    def update(self, other: Metadata) -> None:
        for name in ("users", "environment_of", "keyword_data", "environment_keyword_data"):
            getattr(self, name).update(getattr(other, name))
        for environment_id, row in other.environments.items():
            # A file that knows less of an environment takes nothing back.
            told = {name: value for name, value in row.items() if value not in (None, UNKNOWN)}
            self.environments[environment_id] = {**row, **self.environments.get(environment_id, {}), **told}
        self.refusals.update(other.refusals)

    @property
    def refused(self) -> list[RefusedValue]:
        """What could not be taken."""
        return list(self.refusals.values())

    def leave_out(self, episodes: Container[str], environments: Container[str], users: Container[str]) -> None:
        """Forget these, by id, and what is said of them."""
        self.environment_of = {k: v for k, v in self.environment_of.items() if k not in episodes}
        self.keyword_data = {k: v for k, v in self.keyword_data.items() if k[0] not in episodes}
        self.environments = {k: v for k, v in self.environments.items() if k not in environments}
        self.environment_keyword_data = {
            k: v for k, v in self.environment_keyword_data.items() if k[0] not in environments
        }
        self.users = {k: v for k, v in self.users.items() if k not in users}

    def episode_columns(self, episode_id: str) -> dict[str, Any]:
        """What the `episodes` table takes from the metadata."""
        environment_id = self.environment_of.get(episode_id)
        environment = self.environments.get(environment_id or "", {})
        created = self.keyword_data.get((episode_id, ALL_AGENTS, "created_on"), {})
        return {
            "environment_id": environment_id,
            "task_id": environment.get("task_id"),
            "game": environment.get("game", UNKNOWN),
            "task": environment.get("task", UNKNOWN),
            "source": environment.get("source"),
            "created_on": created.get("value_timestamp") or environment.get("created_on"),
        }


class _Budget:
    """What the values of one file may expand to, together: what is shared in a pickle is written out each time.

    Beyond it they are refused without another look.
    """

    def __init__(self, file_bytes: int) -> None:
        self._read_left = file_bytes + (1 << 20)  # a file that does not lie holds each of its bytes once
        self._left = _EXPANDED_BYTES + 16 * file_bytes

    def read(self, count: int) -> None:
        self._read_left -= count
        if self._read_left < 0:
            raise LimitExceeded("together with others it is longer than the file it lies in: the file is forged")
        if self._left < 0:
            raise LimitExceeded("together with others it expands to more than a file of this size may")

    def columns(self, value: object) -> dict[str, Any]:
        try:
            columns = keyword_columns(value)
        except LimitExceeded:
            self._left -= _EXPANDED_BYTES // 4
            raise
        self._left -= len(columns["value_json"])
        return columns


def read_metadata(file: MetadataFile, limits: Limits | None = None) -> Metadata:
    """All rows of a dataset.sqlite. What of it cannot be taken is left out and listed in ``refused``.

    Raises UnsupportedTrajectory where the file is no such database, LimitExceeded, OSError.
    """
    metadata = Metadata()
    with opened_database(file) as database:
        check_tables(database, _TABLES)
        for environment_id, task_id in _rows(database, "environments", metadata):
            metadata.environments[environment_id] = {"environment_id": environment_id, "task_id": task_id}
        for user in _rows(database, "users", metadata):
            metadata.users[user[0]] = dict(zip(_TABLES["users"], user, strict=True))
        metadata.environment_of.update(_rows(database, "episodes", metadata))
        budget = _Budget(file.size)
        _read_values(database, "episodekeyworddata", metadata.keyword_data, metadata, limits, budget)
        _read_values(database, "environmentkeyworddata", metadata.environment_keyword_data, metadata, limits, budget)
    for environment_id, row in metadata.environments.items():
        row.update(_environment_facts(environment_id, metadata))
    return metadata


def _rows(database: sqlite3.Connection, table: str, metadata: Metadata) -> Iterator[tuple[Any, ...]]:
    """The rows of a table. One that cannot be taken is refused."""
    names = _TABLES[table]
    longest = [MAX_VALUE_BYTES if name == "value" else _LONGEST_TEXT for name in names]
    columns = [f'CASE WHEN length("{name}") <= {n} THEN "{name}" END' for name, n in zip(names, longest, strict=True)]
    # SQLite tells the length of a blob without reading it.
    lengths = [f'length("{name}")' for name in names]
    for row in database.execute(f'SELECT {", ".join(columns + lengths)} FROM "{table}"'):
        cells = [v if v is None or isinstance(v, str | bytes) else str(v) for v in row[: len(names)]]
        sizes = [size or 0 for size in row[len(names) :]]
        texts = cells[:-1] if names[-1] == "value" else cells
        reason = None
        if any(size > limit for size, limit in zip(sizes, longest, strict=True)):
            reason = f"too long: of a value {MAX_VALUE_BYTES:,} bytes are read, of ids and keys {_LONGEST_TEXT:,}"
        elif any(isinstance(cell, bytes | BadText) for cell in texts):
            reason = "its ids and keys are not all text"
        if reason is not None:
            name = "/".join([table, *(str(cell) for cell in texts)])
            metadata.refusals[name] = RefusedValue(name, sum(sizes), reason)
        elif cells[0] is not None:
            yield tuple(cells)


def _read_values(
    database: sqlite3.Connection,
    table: str,
    into: dict[Key, dict[str, Any]],
    metadata: Metadata,
    limits: Limits | None,
    budget: _Budget,
) -> None:
    owner = _TABLES[table][0]
    for owner_id, agent_id, key, blob in _rows(database, table, metadata):
        try:
            if not isinstance(blob, bytes):
                raise BrokenPickle(f"the value is {type(blob).__name__}, a pickle is expected")
            budget.read(len(blob))
            columns = budget.columns(load(blob) if limits is None else load(blob, limits))
        except RawDataError as error:
            size = len(blob) if isinstance(blob, bytes | str) else 0
            name = f"{table}/{owner_id}/{agent_id}/{key}"
            metadata.refusals[name] = RefusedValue(name, size, error.reason)
            continue
        into[owner_id, agent_id, key] = {owner: owner_id, "agent_id": agent_id, "key": key, **columns}


def _environment_facts(environment_id: str, metadata: Metadata) -> dict[str, Any]:
    def value(key: str, column: str) -> Any:
        return metadata.environment_keyword_data.get((environment_id, ALL_AGENTS, key), {}).get(column)

    game = value("game", "value_text") or UNKNOWN
    if not is_partition(game):
        name = f"environmentkeyworddata/{environment_id}/{ALL_AGENTS}/game"
        metadata.refusals[name] = RefusedValue(name, len(game), f"{game[:100]!r}… cannot be the name of a game")
        game = UNKNOWN
    created: datetime | None = value("created_on", "value_timestamp")
    return {
        "game": game,
        "task": value("task", "value_text") or UNKNOWN,
        "source": value("source", "value_text"),
        "created_on": created.astimezone(UTC) if created else None,
    }
