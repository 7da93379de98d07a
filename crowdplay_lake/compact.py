"""Few big, hard compressed parts of many small ones: what ingests leave, written anew game by game.

There is a commit whenever some bytes are written, a minute's work or two, so whoever stops this loses no more, and the
next run goes on. Readers keep the parts they see until `vacuum` removes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from .commit import Change, Writer, writing
from .errors import InvalidArgument
from .findings import Progress, silent
from .layout import Part, open_parquet, write_parts
from .rewrite import Pair, pairs_of, replace_pairs, rewritten
from .schema import EPISODES, FRAMES, STEPS, TABLES
from .snapshot import Snapshot

if TYPE_CHECKING:
    from upath import UPath

__all__ = ["TARGET_BYTES", "CompactSummary", "compact"]

TARGET_BYTES = 128 << 20
# What is written waits for a commit until it has so many bytes.
_COMMIT_BYTES = 16 << 20


@dataclass(frozen=True)
class CompactSummary:
    """What a compact did: the parts of all tables and their bytes, before and after, and the commits it made."""

    parts_before: int
    parts_after: int
    bytes_before: int
    bytes_after: int
    commits: int
    commit: int


def compact(
    lake: str | PathLike[str] | UPath,
    target_bytes: int = TARGET_BYTES,
    progress: Progress | None = None,
    lock_wait: float = 10.0,
) -> CompactSummary:
    """Merge the parts of each game that are smaller than half of ``target_bytes``, until one such is left at most, and
    compress what `ingest` wrote harder.

    Where there is nothing to do there is no commit. Raises InvalidLake, LakeBusy.
    """
    if target_bytes < 1:
        raise InvalidArgument(f"a part of {target_bytes} bytes cannot be; the target is a number of bytes above 0")
    with writing(lake, lock_wait) as writer:
        before = writer.snapshot
        _Compaction(writer, target_bytes, progress or silent).run()
        after = writer.snapshot
    counts = [(len(parts), sum(part.size for part in parts)) for parts in (_all_parts(before), _all_parts(after))]
    (parts_before, bytes_before), (parts_after, bytes_after) = counts
    commits = after.number - before.number
    return CompactSummary(parts_before, parts_after, bytes_before, bytes_after, commits, after.number)


def _all_parts(snapshot: Snapshot) -> list[Part]:
    return [part for table in TABLES for part in snapshot.parts(table)]


class _Compaction:
    def __init__(self, writer: Writer, target: int, progress: Progress) -> None:
        self.writer = writer
        self.target = target
        self.progress = progress
        self.done = self.total = 0
        self._data_bytes: dict[str, int] = {}
        # What is written and not yet committed.
        self._changes: dict[str, Change] = {}
        self._counts = Counter[str]()
        self._written = 0

    def run(self) -> None:
        episodes = self.writer.snapshot.read(EPISODES.name)
        games = sorted(set(episodes["game"].to_pylist()))
        for game in games:
            pairs = self._candidates(pairs_of(self.writer.snapshot, _rows_of(episodes, game)))
            if not _is_done(pairs):
                self.total += sum(row["n_steps"] for pair in pairs for row in pair.rows)
        del episodes
        while games:
            # What came out small is merged once more, when it is committed.
            games = [game for game in games if self._merge_some(game)]
            self._commit()
        self._merge_small_tables()

    def _candidates(self, pairs: Iterable[Pair]) -> list[Pair]:
        """The pairs to be written anew, in the order of their first episodes."""
        chosen = [pair for pair in pairs if pair.size < self.target / 2 or not pair.is_packed]
        return sorted(chosen, key=lambda pair: min(row["episode_id"] for row in pair.rows))

    def _merge_some(self, game: str) -> bool:
        """Merge pairs of a game into one of the target's size; whether there was something to do."""
        snapshot = self.writer.snapshot
        rows = _rows_of(snapshot.read(EPISODES.name, {game}), game)
        candidates = self._candidates(pairs_of(snapshot, rows))
        group: list[Pair] = []
        size = 0
        while candidates and size < self.target:
            group.append(candidates.pop(0))
            size += self._data_size(snapshot, group[-1])
        if _is_done(group):
            return False
        moving = [row for pair in group for row in pair.rows]
        changes = replace_pairs(group, rewritten(snapshot.paths, game, moving, self._tell))
        changes[EPISODES.name] = self.writer.replacement(
            EPISODES.name, pa.Table.from_pylist(rows, EPISODES.schema), {game}
        )
        for table, change in changes.items():
            waiting = self._changes.setdefault(table, Change())
            waiting.add += change.add
            waiting.remove += change.remove
        self._counts.update(episodes=len(moving), parts=2 * len(group))
        self._written += sum(part.size for change in changes.values() for part in change.add)
        if self._written >= min(self.target, _COMMIT_BYTES):
            self._commit()
        return True

    def _commit(self) -> None:
        self.writer.commit("compact", self._changes, self._counts)
        self._changes, self._counts, self._written = {}, Counter(), 0

    def _tell(self, steps: int) -> None:
        self.done += steps
        # What came out small is merged once more.
        self.total = max(self.total, self.done)
        self.progress("compact", self.done, self.total)

    def _data_size(self, snapshot: Snapshot, pair: Pair) -> int:
        """Bytes without the footers, which a merged part has once."""
        return max(self._without_footer(snapshot, part) for part in (pair.steps, pair.frames))

    def _without_footer(self, snapshot: Snapshot, part: Part) -> int:
        if part.path not in self._data_bytes:
            footer = open_parquet(snapshot.paths.part(part.table, part.path)).metadata.serialized_size
            self._data_bytes[part.path] = max(part.size - footer, 1)
        return self._data_bytes[part.path]

    def _merge_small_tables(self) -> None:
        """Tables other than steps and frames have a part a partition, unless others than `ingest` wrote them."""
        snapshot = self.writer.snapshot
        changes: dict[str, Change] = {}
        for name in TABLES:
            parts = [part for part in snapshot.parts(name) if part.size < self.target / 2]
            for value in {part.partition for part in parts} if name not in (STEPS.name, FRAMES.name) else ():
                small = [part for part in parts if part.partition == value]
                if len(small) > 1:
                    rows = snapshot.read_parts(small)
                    change = changes.setdefault(name, Change())
                    change.add += write_parts(snapshot.paths, TABLES[name], rows)
                    change.remove += small
        self.writer.commit("compact", changes, {"parts": sum(len(change.remove) for change in changes.values())})


def _is_done(pairs: Sequence[Pair]) -> bool:
    """Whether there is nothing to gain from writing these anew as one."""
    return not pairs or (len(pairs) == 1 and pairs[0].is_packed)


def _rows_of(episodes: pa.Table, game: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = episodes.filter(pc.equal(episodes["game"], game)).to_pylist()
    return rows
