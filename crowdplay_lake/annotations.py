"""Keyword data written into a lake: one atomic commit, from as many processes at once as there are."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from . import forked
from .commit import Change, Writer, writing
from .errors import InvalidArgument, RawDataError, UnknownAgent, UnknownEnvironment, UnknownEpisode, printable
from .keywords import is_storable, keyword_columns, put_keyword_rows
from .layout import write_parts
from .schema import ALL_AGENTS, ENVIRONMENT_KEYWORD_DATA, ENVIRONMENTS, EPISODES, KEYWORD_DATA, USERS, Table
from .snapshot import Snapshot, open_snapshot

if TYPE_CHECKING:
    from upath import UPath

__all__ = ["KeywordRow", "KeywordTable", "write_checked", "write_keyword_data"]

KeywordTable: TypeAlias = Literal["keyword_data", "environment_keyword_data"]

# Keys under 'all' of which columns of `environments` and `episodes` of the same name are made.
_FACTS = ("game", "task", "source", "created_on")
# Of a text that names an agent or a key, in characters; as ingest reads them.
_LONGEST_TEXT = 1 << 16
# Of many faults so many are told.
_TOLD = 5


class KeywordRow(NamedTuple):
    """One keyword value of an episode's or an environment's agent, or of 'all'."""

    table: KeywordTable
    owner_id: str  # an episode_id in keyword_data, an environment_id in environment_keyword_data
    agent_id: str
    key: str
    value: object  # plain data: numbers, text, bool, None, dates, durations, lists and dicts of them, numpy arrays


def write_keyword_data(
    lake: str | PathLike[str] | UPath,
    rows: Iterable[KeywordRow],
    operation: str = "annotate",
    lock_wait: float = 60.0,
) -> Snapshot:
    """Write keyword values into the lake at ``lake``, all in one commit. Returns the snapshot after it.

    A value that is there already is replaced, and the last of several for the same owner, agent and key counts; values
    that are as they were make no commit. It starts from the lake's last commit, whatever the caller has open, so
    what others write at the same time stays. ``operation``: the commit's name in the lake's log. ``lock_wait``:
    seconds to wait for other writers.

    >>> row = KeywordRow("keyword_data", episode.episode_id, "game_0>player_0", "liked it", True)   # doctest: +SKIP
    >>> write_keyword_data("lake", [row]).number                                                    # doctest: +SKIP
    13

    Raises UnknownEpisode, UnknownEnvironment and UnknownAgent with the nearest that exist; InvalidArgument for keys and
    values that cannot be kept, and for game, task, source and created_on under 'all' where they would be others than
    the lake's columns tell: those come from ingest. Then nothing is written. LakeBusy after ``lock_wait``.
    """
    wanted = _checked(rows)
    if wanted and forked.is_cut_off():
        number = forked.ask("write", root=str(lake), rows=wanted, operation=operation, lock_wait=lock_wait)
        return open_snapshot(lake, number)
    return write_checked(lake, wanted, operation, lock_wait)


# A row of one of the two tables, complete but for what the lake knows of its owner.
_Row: TypeAlias = dict[str, Any]


def write_checked(
    lake: str | PathLike[str] | UPath, wanted: Iterable[tuple[str, _Row]], operation: str, lock_wait: float
) -> Snapshot:
    """Write (table, row) pairs that are known to be storable; the rest is `write_keyword_data`."""
    wanted = list(wanted)
    # It is opened before the lock is taken, which would make a lake where there is none.
    snapshot = open_snapshot(lake)
    if not wanted:
        return snapshot
    with writing(lake, lock_wait) as writer:
        changes: dict[str, Change] = {}
        counts: dict[str, int] = {}
        for table in (KEYWORD_DATA, ENVIRONMENT_KEYWORD_DATA):
            own = [row for name, row in wanted if name == table.name]
            if own:
                changes[table.name], counts[table.name] = _change(writer, table, own)
        return writer.commit(operation, changes, counts)


def _checked(rows: Iterable[KeywordRow]) -> list[tuple[str, _Row]]:
    """(table, row) of each, with the value's columns. Raises InvalidArgument for all that cannot be kept."""
    found: list[tuple[str, _Row]] = []
    faults = []
    for table, owner_id, agent_id, key, value in rows:
        spec = {KEYWORD_DATA.name: KEYWORD_DATA, ENVIRONMENT_KEYWORD_DATA.name: ENVIRONMENT_KEYWORD_DATA}.get(table)
        if spec is None:
            raise InvalidArgument(f"keyword data lies in keyword_data and environment_keyword_data, not in {table!r}")
        where = printable(f"{owner_id}, {agent_id}, {key!r}", longest=200)
        told = {"the id": owner_id, "the agent": agent_id, "the key": key}
        wrong = [f"{where}: {name} {fault}" for name, text in told.items() if (fault := _fault(text))]
        try:
            columns = {} if wrong else keyword_columns(value)
        except RawDataError as error:
            wrong = [f"{where}: {error.reason}"]
        faults += wrong
        if not wrong:
            found.append((table, {spec.sort[0]: owner_id, "agent_id": agent_id, "key": key, **columns}))
    if faults:
        more = f"; and {len(faults) - _TOLD} more" if len(faults) > _TOLD else ""
        raise InvalidArgument("; ".join(faults[:_TOLD]) + more + "; nothing was written")
    return found


def _fault(text: object) -> str | None:
    if not isinstance(text, str):
        return f"is {type(text).__name__}, a text is expected"
    if not text:
        return "is empty"
    if len(text) > _LONGEST_TEXT:
        return f"is longer than {_LONGEST_TEXT:,} characters"
    return None if is_storable(text) else "holds half of a surrogate pair"


def _change(writer: Writer, table: Table, rows: list[_Row]) -> tuple[Change, int]:
    """What is to be done to a table, and how many values change."""
    snapshot = writer.snapshot
    games = _check_owners(snapshot, table, rows)
    for row in rows:
        if table.partition is not None:
            row[table.partition] = games[row[table.sort[0]]]
    partitions = {row.get(table.partition or "") for row in rows}
    parts = [part for part in snapshot.parts(table.name) if part.partition in partitions]
    before = snapshot.read_parts(parts) if parts else table.schema.empty_table()
    _check_agents(snapshot, table, rows, before)
    after, changed = put_keyword_rows(table, before, rows, snapshot.number + 1, annotates=True)
    if not changed:
        return Change(), 0
    return Change(write_parts(snapshot.paths, table, after), parts), changed


def _check_owners(snapshot: Snapshot, table: Table, rows: list[_Row]) -> Mapping[str, str]:
    """Whether each row's owner exists, and the row agrees with what the lake's columns tell of it.

    Returns the game of each owner. Raises UnknownEpisode, UnknownEnvironment, InvalidArgument.
    """
    owner = table.sort[0]
    facts = snapshot.read(
        EPISODES.name, columns=["episode_id", "environment_id", "game", "task", "source", "created_on"]
    )
    if owner == "environment_id":
        own = snapshot.read(ENVIRONMENTS.name)
        # Metadata may leave out an environment and have episodes of it.
        others = facts.filter(pc.invert(pc.is_in(facts[owner], value_set=own[owner].combine_chunks())))
        facts = pa.concat_tables([own.select(others.schema.names[1:]), others.drop_columns(["episode_id"])])
    known = set(facts[owner].to_pylist())
    for row in rows:
        if row[owner] not in known:
            error = UnknownEpisode if table is KEYWORD_DATA else UnknownEnvironment
            raise error(row[owner], known - {None}, str(snapshot.paths.root))
    wanted = pa.array({row[owner] for row in rows}, pa.string())
    told = {row[owner]: row for row in facts.filter(pc.is_in(facts[owner], value_set=wanted)).to_pylist()}
    for row in rows:
        _check_fact(row, told[row[owner]], owner)
    return {name: facts["game"] for name, facts in told.items()}


def _check_fact(row: _Row, told: Mapping[str, Any], owner: str) -> None:
    key = row["key"]
    if row["agent_id"] != ALL_AGENTS or key not in _FACTS or (owner == "episode_id" and key != "created_on"):
        return
    if (row["value_timestamp"] if key == "created_on" else row["value_text"]) == told[key]:
        return
    raise InvalidArgument(
        f"{row[owner]}: {key!r} under 'all' is {told[key]!r}, and tables are filed by it; it comes from dataset.sqlite:"
        " change it there and run 'crowdplay-lake ingest' again"
    )


def _check_agents(snapshot: Snapshot, table: Table, rows: list[_Row], before: pa.Table) -> None:
    """Whether each row's agent is one of its owner's, as far as the lake knows them. Raises UnknownAgent."""
    owner = table.sort[0]
    owners = {row[owner] for row in rows if row["agent_id"] != ALL_AGENTS}
    if not owners:
        return
    known: dict[str, set[str]] = {}
    pairs = before.filter(pc.is_in(before[owner], value_set=pa.array(owners, pa.string())))
    for name, agent in zip(pairs[owner].to_pylist(), pairs["agent_id"].to_pylist(), strict=True):
        known.setdefault(name, set()).add(agent)
    episodes = snapshot.read(EPISODES.name, columns=["episode_id", "environment_id", "agents"]).to_pylist()
    users: dict[str, set[str]] = {}
    for row in snapshot.read(USERS.name, columns=["environment_id", "agent_id"]).to_pylist():
        users.setdefault(row["environment_id"], set()).add(row["agent_id"])
    for name in owners & users.keys():
        known.setdefault(name, set()).update(users[name])
    for row in episodes:
        if row[owner] in owners:
            known.setdefault(row[owner], set()).update(row["agents"] or (), users.get(row["environment_id"], ()))
    for row in rows:
        _check_agent(row["agent_id"], row[owner], known.get(row[owner], set()) - {None})


def _check_agent(agent: str, owner: str, known: Collection[str]) -> None:
    # Where nothing but 'all' is known, anybody may have taken part.
    agents = sorted({*known} - {ALL_AGENTS})
    if agent != ALL_AGENTS and agents and agent not in agents:
        raise UnknownAgent(agent, [*agents, ALL_AGENTS], f"{owner}, which has {', '.join(agents)} and {ALL_AGENTS!r}")
