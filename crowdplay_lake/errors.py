"""Every error this software raises on purpose, as one tree.

::

    CrowdPlayLakeError
    ├── CannotWrite                      a disk takes nothing more: the lake's, that of a map, of temporary files
    ├── InvalidArgument (ValueError)     an argument that cannot mean anything here
    ├── UnknownName (LookupError)        no such thing; names the nearest that exist
    │   ├── UnknownAgent
    │   ├── UnknownAlgorithm
    │   ├── UnknownColumn
    │   ├── UnknownDataset
    │   ├── UnknownEnvironment
    │   ├── UnknownEpisode
    │   ├── UnknownFormat
    │   ├── UnknownLimit
    │   ├── UnknownMap
    │   ├── UnknownParticipant
    │   ├── UnknownPath
    │   ├── UnknownStatistic
    │   ├── UnknownTable
    │   └── UnknownTask
    ├── InvalidLake                      the path holds no lake, or a broken or newer one
    │   └── UnknownCommit                a commit that it does not have, or no longer
    ├── LakeBusy                         somebody else is writing
    ├── MissingExtra (ImportError)       an optional library is not installed
    ├── NoTrajectory                     the episode's metadata is here, its steps are not
    ├── QueryError                       the database refused the SQL
    │   └── QueryNotAllowed              the SQL would write, or read outside the lake
    ├── RawDataError                     a raw file that cannot be taken
    │   ├── BrokenPickle                 truncated, malformed, or not a pickle at all
    │   ├── LimitExceeded                expands beyond the limits it may use
    │   ├── UnsafePickle                 asks for anything but plain data
    │   └── UnsupportedTrajectory        plain data, but not a trajectory we can keep whole
    └── WorkersLost                      the processes that do the work cannot be kept alive

A message says what is wrong, where (file, episode, step) and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "BrokenPickle",
    "CannotWrite",
    "CrowdPlayLakeError",
    "InvalidArgument",
    "InvalidLake",
    "LakeBusy",
    "LimitExceeded",
    "MissingExtra",
    "NoTrajectory",
    "QueryError",
    "QueryNotAllowed",
    "RawDataError",
    "UnknownAgent",
    "UnknownAlgorithm",
    "UnknownColumn",
    "UnknownCommit",
    "UnknownDataset",
    "UnknownEnvironment",
    "UnknownEpisode",
    "UnknownFormat",
    "UnknownLimit",
    "UnknownMap",
    "UnknownName",
    "UnknownParticipant",
    "UnknownPath",
    "UnknownStatistic",
    "UnknownTable",
    "UnknownTask",
    "UnsafePickle",
    "UnsupportedTrajectory",
    "WorkersLost",
    "did_you_mean",
    "nearest",
    "printable",
]


LONGEST_REASON = 1_000


def nearest(name: str, known: Iterable[str], count: int = 3, least: float = 0.5) -> list[str]:
    """The known names most like ``name`` (0 to 1), best first; all of them where they are few."""
    name = str(name)
    names = list(dict.fromkeys(known))
    if len(name) >= 4 and (begin_so := [candidate for candidate in names if candidate.startswith(name)]):
        return begin_so[:count]
    by_folded = {candidate.casefold(): candidate for candidate in names}
    close = difflib.get_close_matches(name.casefold(), by_folded, n=count, cutoff=least)
    if close:
        return [by_folded[folded] for folded in close]
    return names if len(names) <= count else []


def did_you_mean(names: Iterable[str]) -> str:
    """The end of a message that names what might have been meant; empty where there is nothing."""
    listed = " or ".join(map(repr, names))
    return f"; did you mean {listed}?" if listed else ""


def printable(text: str, keep: str = "", longest: int = 2_000) -> str:
    """``text`` for a terminal: what a stranger's file says may not move the cursor or begin a line of its own.

    ``keep``: characters that may stay though they are no print.
    """
    if len(text) > longest:
        text = f"{text[:longest]}…"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


class CrowdPlayLakeError(Exception):
    """Base of all errors of this software."""


class CannotWrite(CrowdPlayLakeError):
    """The disk is full, or may not be written to."""


class InvalidArgument(CrowdPlayLakeError, ValueError):
    """An argument that cannot mean anything here."""


class UnknownName(CrowdPlayLakeError, LookupError):
    """Nothing has this name. Builds its own message with the nearest names that exist."""

    kind = "name"

    def __init__(self, name: str, known: Iterable[str] = (), where: str = "") -> None:
        self.name = name
        self.suggestions = nearest(name, known)
        message = f"no {self.kind} {name!r}"
        if where:
            message += f" in {where}"
        super().__init__(message + did_you_mean(self.suggestions))


class UnknownAgent(UnknownName):
    """The episode has no such agent."""

    kind = "agent"


class UnknownAlgorithm(UnknownName):
    """The benchmark has no such algorithm."""

    kind = "algorithm"


class UnknownColumn(UnknownName):
    """The query names a column that no table has."""

    kind = "column"


class UnknownDataset(UnknownName):
    """No dataset of this name is in the lake home."""

    kind = "dataset"

    def __init__(self, name: str, known: Iterable[str], home: object, here: object, variable: str) -> None:
        names = sorted(known)
        super().__init__(name, names, f"{home} or {here}")
        told = f"; known: {', '.join(names)}" if names else "; there is none yet"
        message = f"{self.args[0]}{told}. Ingest it to {home}/{name}, set {variable}, or give the path of a lake"
        self.args = (message,)


class UnknownEnvironment(UnknownName):
    """The lake has no such environment."""

    kind = "environment"


class UnknownEpisode(UnknownName):
    """The lake has no such episode."""

    kind = "episode"


class UnknownFormat(UnknownName):
    """Nothing is exported to this."""

    kind = "format"


class UnknownParticipant(UnknownName):
    """Nobody in the lake has this permanent user id."""

    kind = "participant"


class UnknownLimit(UnknownName):
    """There is no such limit on what a raw file may use."""

    kind = "limit"


class UnknownMap(UnknownName):
    """The folder has no memory map of this name."""

    kind = "memory map"


class UnknownPath(UnknownName):
    """There is no such folder or file."""

    kind = "path"


class UnknownStatistic(UnknownName):
    """No behavioural statistic has this name."""

    kind = "statistic"


class UnknownTable(UnknownName):
    """The lake has no such table."""

    kind = "table"


class UnknownTask(UnknownName):
    """The benchmark has no such task."""

    kind = "task"


class InvalidLake(CrowdPlayLakeError):
    """The path holds no lake, or one this version cannot read."""


class UnknownCommit(InvalidLake):
    """The lake has no commit of that number, or has it no longer."""


class LakeBusy(CrowdPlayLakeError):
    """Another process is writing to the lake."""


class MissingExtra(CrowdPlayLakeError, ImportError):
    """An optional library is not installed; the message is the command that installs it."""

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(f"{library} is not installed: pip install 'crowdplay-lake[{extra}]'")


class NoTrajectory(CrowdPlayLakeError):
    """The episode is known from the metadata, but its trajectory was never ingested."""


class QueryError(CrowdPlayLakeError):
    """The database refused the SQL. ``query`` is the statement, the database's own error the cause."""

    def __init__(self, message: str, query: str = "") -> None:
        self.query = query
        super().__init__(message)


class QueryNotAllowed(QueryError):
    """The SQL would write, or read something outside the lake."""


class RawDataError(CrowdPlayLakeError):
    """A raw file, or a value in one, that cannot be taken.

    ``reason`` is the bare reason, ``step`` the index of the step (from 0) where it shows, if any.
    """

    def __init__(self, reason: str, step: int | None = None) -> None:
        # It may quote the file, and is printed and kept.
        self.reason = reason if len(reason) <= LONGEST_REASON else f"{reason[:LONGEST_REASON]}…"
        self.step = step
        super().__init__(self.reason if step is None else f"step {step}: {self.reason}")

    def __reduce__(self) -> tuple[type[RawDataError], tuple[str, int | None]]:
        # Errors travel from workers to the process that commits.
        return type(self), (self.reason, self.step)


class BrokenPickle(RawDataError):
    """Truncated, malformed, or not a pickle at all."""


class LimitExceeded(RawDataError):
    """Expands beyond the limits it may use."""


class UnsafePickle(RawDataError):
    """Asks for anything but plain data: a call, an import, an attribute."""


class UnsupportedTrajectory(RawDataError):
    """Plain data, but not a trajectory that can be kept whole."""


class WorkersLost(CrowdPlayLakeError):
    """The processes that do the work die as soon as they start, or cannot be reached."""
