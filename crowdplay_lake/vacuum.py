"""Removes what no kept commit needs: old commits, the parts that only they had, old logs, and what crashes left.

In an order that a crash cannot hurt: first a commit takes the old ones out of the table of commits, then the lists of
checksums forget the files, then the files go. The next vacuum goes on where this one stopped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from os import PathLike
from typing import TYPE_CHECKING

from .checksums import LOG, file_sha256, read_list, recorded_commits, write_list
from .commit import Writer, writing
from .errors import InvalidArgument, InvalidLake
from .findings import Progress, first_line, silent
from .layout import PART_SUFFIX, LakePaths
from .schema import COMMITS, TABLES
from .snapshot import Snapshot, delta_table, history
from .storage import as_path, files_below, remove

if TYPE_CHECKING:
    from upath import UPath

__all__ = ["OLDER_THAN", "VacuumSummary", "vacuum"]

OLDER_THAN = timedelta(days=7)
_LOG_FILE = re.compile(r"(\d{20})\.(json|checkpoint\.parquet)")
_CHECKPOINT = f".checkpoint{PART_SUFFIX}"


@dataclass(frozen=True)
class VacuumSummary:
    """What a vacuum removed, or with ``dry_run`` would remove: commits by number, files, their bytes."""

    commits: tuple[int, ...]
    files: int
    bytes: int
    dry_run: bool
    commit: int  # the last one


def vacuum(
    lake: str | PathLike[str] | UPath,
    older_than: timedelta = OLDER_THAN,
    dry_run: bool = False,
    progress: Progress | None = None,
    lock_wait: float = 10.0,
) -> VacuumSummary:
    """Drop the commits that were superseded more than ``older_than`` ago, never the last one, and what only they need.

    A reader that has such a commit open fails at the next part it wants. Without anything to remove, nothing happens.
    Raises InvalidLake (also where a commit to keep cannot be opened: nothing is removed then), LakeBusy.
    """
    if older_than < timedelta(0):
        raise InvalidArgument("older_than is a time span: 0 or longer")
    if dry_run:
        plan = _Plan(LakePaths(as_path(lake)), older_than)
        return plan.summary(True, plan.kept[-1].number)
    with writing(lake, lock_wait) as writer:
        plan = _Plan(writer.paths, older_than)
        plan.carry_out(writer, progress or silent)
        return plan.summary(False, writer.snapshot.number)


class _Plan:
    def __init__(self, paths: LakePaths, older_than: timedelta) -> None:
        self.paths = paths
        commits = history(paths.root)
        last, cutoff = commits[-1], datetime.now(UTC) - older_than
        # A commit ends when the next one is made. What equals the last one, as after a vacuum, costs nothing.
        ends = [*(after.time for after in commits[1:]), datetime.max.replace(tzinfo=UTC)]
        is_kept = [end >= cutoff or c.versions == last.versions for c, end in zip(commits, ends, strict=True)]
        self.kept = [commit for commit, kept in zip(commits, is_kept, strict=True) if kept]
        self.dropped = [commit for commit, kept in zip(commits, is_kept, strict=True) if not kept]
        self.lists = {number: read_list(paths.checksum_file(number)) for number in recorded_commits(paths)}
        files = {name: size for name, size in files_below(paths.root) if not name.startswith("checksums/commit-")}
        needed = _needed(self.kept) | self._logs(files)
        self.doomed = {name: size for name, size in files.items() if _is_ours(name) and name not in needed}

    def _logs(self, files: Iterable[str]) -> set[str]:
        """The log files that lead to the kept commits: from the last checkpoint before them on."""
        first = {table: min(commit.versions[table] for commit in self.kept) for table in TABLES}
        first[COMMITS.name] = int(delta_table(self.paths.commits).version())
        logs: dict[str, dict[str, int]] = {}
        for name in files:
            folder, _, file = name.rpartition("/")
            if folder.endswith(f"/{LOG}") and (match := _LOG_FILE.fullmatch(file)):
                logs.setdefault(folder.partition("/")[0], {})[name] = int(match[1])
        needed: set[str] = set()
        for table, versions in logs.items():
            start = max((v for name, v in versions.items() if v <= first[table] and self._is_whole(name)), default=0)
            needed.update(name for name, version in versions.items() if version >= start)
        return needed

    def _is_whole(self, name: str) -> bool:
        """Whether a log file is a checkpoint, as it was written: the logs before it are not needed then."""
        recorded = {sums[name] for sums in self.lists.values() if name in sums}
        return name.endswith(_CHECKPOINT) and file_sha256(self.paths.root / name) in recorded

    def summary(self, dry_run: bool, commit: int) -> VacuumSummary:
        numbers = tuple(commit.number for commit in self.dropped)
        return VacuumSummary(numbers, len(self.doomed), sum(self.doomed.values()), dry_run, commit)

    def carry_out(self, writer: Writer, progress: Progress) -> None:
        if self.dropped:
            freed = sum(self.doomed.values())
            counts = {"commits": len(self.dropped), "files": len(self.doomed), "bytes": freed}
            last = writer.drop(self.dropped, "vacuum", counts).number
            self.lists[last] = read_list(self.paths.checksum_file(last))
        else:
            last = writer.snapshot.number
        self._forget({*(commit.number for commit in self.kept), last}, last)
        for index, name in enumerate(self.doomed):
            remove(self.paths.root / name)
            progress("vacuum", index + 1, len(self.doomed))

    def _forget(self, kept: set[int], last: int) -> None:
        """The lists name what stays, and only commits that stay have one: the last one takes over the rest."""
        stays = {number: self._staying(sums) for number, sums in self.lists.items()}
        for number in sorted(stays.keys() - kept):
            stays[last] = {**stays[number], **stays[last]}
        # The last one first: at no moment is a file that stays without a checksum.
        for number in sorted(stays.keys() & kept, reverse=True):
            if stays[number] != self.lists[number]:
                write_list(self.paths.checksum_file(number), stays[number])
        for number in sorted(stays.keys() - kept):
            remove(self.paths.checksum_file(number))

    def _staying(self, sums: Mapping[str, str]) -> dict[str, str]:
        return {name: value for name, value in sums.items() if name not in self.doomed}


def _needed(commits: Iterable[Snapshot]) -> set[str]:
    """The parts of commits. Raises InvalidLake where one cannot be opened."""
    needed: set[str] = set()
    seen: set[tuple[str, int]] = set()
    for commit in commits:
        needed.add(f"{COMMITS.name}/{commit.row}")
        for table, version in commit.versions.items():
            if (table, version) not in seen:
                seen.add((table, version))
                try:
                    needed.update(f"{table}/{part.path}" for part in commit.parts(table))
                except Exception as error:
                    raise InvalidLake(
                        f"{commit.paths.root}: commit {commit.number} cannot be opened ({first_line(error)});"
                        f" nothing was removed, look at it with: crowdplay-lake verify {commit.paths.root}"
                    ) from error
    return needed


def _is_ours(name: str) -> bool:
    """Whether a file is a part, a log, or the beginning of one: nothing else is ever removed."""
    table, _, rest = name.partition("/")
    folder, _, file = rest.rpartition("/")
    if table == "checksums":
        return file.startswith(".commit-")
    if table not in TABLES and table != COMMITS.name:
        return False
    if folder == LOG:
        return bool(_LOG_FILE.fullmatch(file)) or file.endswith(".tmp") or "#" in file
    return file.endswith(PART_SUFFIX)
