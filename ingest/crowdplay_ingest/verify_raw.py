"""Proves a lake against the raw episodes it was made of: all are there, and come back as they were pickled.

The machine reads the pickles; nothing unpickles. Both sides come step by step: no trajectory is whole in memory.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crowdplay_lake.errors import CrowdPlayLakeError, RawDataError
from crowdplay_lake.findings import Finding, Progress, silent
from crowdplay_lake.removal import is_removed
from crowdplay_lake.replay import Replay
from crowdplay_lake.schema import EPISODES
from crowdplay_lake.snapshot import Snapshot, open_snapshot

from .machine import Limits, iter_items
from .sources import RawFile, open_source, place_of

if TYPE_CHECKING:
    from upath import UPath

__all__ = ["RawSample", "difference", "verify_raw"]

_END = object()
REPORT_EVERY = 250


@dataclass(frozen=True)
class RawSample:
    """Which raw episodes are decoded: all, or ``count`` (by default a hundredth, five at least), one of each game."""

    all: bool = False
    count: int | None = None
    seed: int = 0
    limits: Limits = field(default_factory=Limits)

    def chosen(self, files: list[RawFile], rows: Mapping[str, Mapping[str, Any]]) -> list[RawFile]:
        """Of ``files``, in their order."""
        if self.all:
            return files
        shuffled = random.Random(self.seed).sample(files, len(files))
        first_of = {rows[file.episode_id]["game"]: file for file in reversed(shuffled)}
        wanted = dict.fromkeys(file.episode_id for file in first_of.values())
        count = max(5, len(files) // 100) if self.count is None else self.count
        others = (file.episode_id for file in shuffled if file.episode_id not in wanted)
        wanted |= dict.fromkeys(itertools.islice(others, max(count - len(wanted), 0)))
        return [file for file in files if file.episode_id in wanted]


def verify_raw(
    lake: str | PathLike[str] | UPath,
    raw: str | PathLike[str],
    sample: RawSample | None = None,
    progress: Progress | None = None,
) -> tuple[int, list[Finding]]:
    """Whether every raw episode below ``raw`` is in the lake or known as rejected, and a sample is equal to its file.

    Returns (the number of episodes that were compared, what is wrong). Raises UnknownPath, InvalidLake.
    """
    sample, progress = sample or RawSample(), progress or silent
    snapshot = open_snapshot(lake)
    rows = {row["episode_id"]: row for row in snapshot.read(EPISODES.name).to_pylist() if row["n_steps"] is not None}
    source = open_source(str(raw))
    files = source.episodes()
    findings = [Finding(f"cannot be looked at: {reason}", name) for name, reason in source.unreadable]
    findings += _missing(snapshot, files, rows, place_of(str(raw)))
    chosen = sample.chosen([file for file in files if file.episode_id in rows], rows)
    replay = Replay(snapshot.paths)
    total, done = sum(rows[file.episode_id]["n_steps"] for file in chosen), 0
    for file in sorted(chosen, key=lambda file: (rows[file.episode_id]["steps_part"], file.episode_id)):
        row = rows[file.episode_id]

        def tell(steps: int, before: int = done) -> None:
            progress("raw steps", before + steps, total)

        if found := _compared(file, row, replay, sample.limits, tell):
            findings.append(found)
        done += row["n_steps"]
    return len(chosen), findings


def _missing(
    snapshot: Snapshot, files: Iterable[RawFile], rows: Mapping[str, Mapping[str, Any]], place: str
) -> Iterator[Finding]:
    rejected: dict[str, list[Mapping[str, Any]]] = {}
    for row in snapshot.read("rejected").to_pylist():
        rejected.setdefault(row["name"], []).append(row)
    for file in files:
        if file.episode_id in rows or is_removed("episode", file.episode_id, rejected):
            continue
        refused = rejected.get(file.name, [])
        if any(_is_refused(file, row, place) for row in refused) or _is_refused_elsewhere(file, refused):
            continue
        changed = "has changed since it was rejected" if refused else "is neither in the lake nor in `rejected`"
        yield Finding(f"{changed}: ingest it", file.name, None, file.episode_id)


def _is_refused(file: RawFile, row: Mapping[str, Any], place: str) -> bool:
    """Whether a row of `rejected`, of this name, is of this very file, as it is."""
    is_same = (row["source"], row["bytes"]) == (place, file.size)
    # Without a stamp: what could not be read, say. Every ingest tries it again.
    return is_same and row["stamp"] in (None, file.stamp)


def _is_refused_elsewhere(file: RawFile, rows: Iterable[Mapping[str, Any]]) -> bool:
    """Whether the raw files were moved or copied since: then the checksum tells, which reads the file."""
    sums = {row["sha256"] for row in rows if row["bytes"] == file.size} - {None}
    if not sums:
        return False
    try:
        with file.open() as opened:
            return opened.sha256() in sums
    except (OSError, RawDataError):
        return False


def _compared(file: RawFile, row: Mapping[str, Any], replay: Replay, limits: Limits, tell: Any) -> Finding | None:
    """The first difference between a raw episode and what the lake gives back."""
    step = 0
    try:
        with file.open() as opened:
            pairs = itertools.zip_longest(iter_items(opened.stream, limits), replay.steps(row), fillvalue=_END)
            for step, (expected, result) in enumerate(pairs):
                if result is _END or expected is _END:
                    longer = "file" if result is _END else "lake"
                    return _finding(f"the {longer} has more steps", file, step)
                if found := difference(expected, result):
                    return _finding(f"the lake differs from the file: {found}", file, step)
                if step % REPORT_EVERY == 0:
                    tell(step)
            is_same_file = Path(file.name).name == Path(row["source_name"]).name
            if is_same_file and opened.sha256() != row["source_sha256"]:
                return _finding("the file's bytes are not those that were ingested, its steps are", file, None)
    except RawDataError as error:
        return _finding(f"the file cannot be read: {error.reason}", file, error.step)
    except (CrowdPlayLakeError, OSError, RuntimeError, ValueError) as error:
        return _finding(f"cannot be compared: {error}", file, step)
    return None


def _finding(problem: str, file: RawFile, step: int | None) -> Finding:
    return Finding(problem, file.name, None, file.episode_id, step)


# Values


def difference(expected: Any, result: Any, where: str = "") -> str | None:
    """Where two values differ, by type or value. A numpy scalar comes back as the Python one it equals."""
    if isinstance(expected, np.generic):
        expected = expected.item()
    if type(expected) is not type(result):
        return f"{where} {type(expected).__name__} {expected!r:.80} became {type(result).__name__} {result!r:.80}"
    if isinstance(expected, np.ndarray):
        same = expected.dtype == result.dtype and expected.shape == result.shape
        return None if same and _bytes(expected) == _bytes(result) else f"{where} is another array"
    if isinstance(expected, dict | list | tuple):
        return _difference_inside(expected, result, where)
    return None if _equal(expected, result) else f"{where} {expected!r:.80} became {result!r:.80}"


def _bytes(array: np.ndarray[Any, Any]) -> memoryview | bytes:
    return array.data if array.flags.c_contiguous and array.dtype.kind in "biuf" and array.size else array.tobytes()


def _difference_inside(expected: Any, result: Any, where: str) -> str | None:
    if isinstance(expected, dict):
        told, got = list(map(repr, expected)), list(map(repr, result))
        if told != got and (isinstance(expected, OrderedDict) or sorted(told) != sorted(got)):
            return f"{where} keys {', '.join(told):.80} became {', '.join(got):.80}"
        pairs: Iterable[tuple[Any, Any, Any]] = ((key, expected[key], result[key]) for key in expected)
    elif len(expected) != len(result):
        return f"{where} {len(expected)} items became {len(result)}"
    elif set(map(type, expected)) == set(map(type, result)) == {int} and expected == result:
        return None  # RAM, mostly
    else:
        pairs = ((index, a, b) for index, (a, b) in enumerate(zip(expected, result, strict=True)))
    return next((found for key, a, b in pairs if (found := difference(a, b, f"{where}[{key!r}]"))), None)


def _equal(expected: Any, result: Any) -> bool:
    """Unlike in Python, NaN equals NaN, and -0.0 does not equal 0.0."""
    if isinstance(expected, float):
        same = expected == result and math.copysign(1, expected) == math.copysign(1, result)
        return same or (math.isnan(expected) and math.isnan(result))
    if isinstance(expected, complex):
        return _equal(expected.real, result.real) and _equal(expected.imag, result.imag)
    if isinstance(expected, datetime):
        return bool(expected == result) and expected.fold == result.fold
    return bool(expected == result)
