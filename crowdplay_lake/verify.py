"""Proves a lake: its files are as they were written, its commits open, its rows are whole and agree with each other.

Files first, by their checksums. What is damaged is named and not opened: a broken log or part could make a library
fail in any way. Then the commits, then the rows of the last one (`verify_rows`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from os import PathLike
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from .checksums import LAST_CHECKPOINT, LOG, file_sha256, read_list, recorded_commits
from .errors import CrowdPlayLakeError
from .findings import Finding, Progress, VerifyReport, first_line, silent
from .layout import PART_SUFFIX, LakePaths
from .lock import LOCK_NAMES
from .schema import COMMITS, TABLES
from .snapshot import Snapshot, delta_table, history, open_snapshot
from .storage import as_path, files_below
from .verify_rows import verify_rows

if TYPE_CHECKING:
    from upath import UPath

__all__ = ["verify"]

# Files that are hashed at the same time: SHA-256 is the processor's work, on object storage it is the network's.
HASHING = 4
# What Delta may say in `_last_checkpoint`.
_CHECKPOINT_KEYS = {"version", "size", "parts", "sizeInBytes", "numOfAddFiles", "checkpointSchema", "checksum", "tags"}


def verify(lake: str | PathLike[str] | UPath, progress: Progress | None = None) -> VerifyReport:
    """Look at everything in the lake at ``lake``; what is wrong is in the report's findings.

    Raises InvalidLake where there is no lake at all. Nothing is written, and others may write meanwhile.
    """
    paths = LakePaths(as_path(lake))
    return _Verification(paths, progress or silent).run()


class _Verification:
    def __init__(self, paths: LakePaths, progress: Progress) -> None:
        self.paths = paths
        self.progress = progress
        self.report = VerifyReport(str(paths.root))
        self.sums: dict[str, str] = {}  # recorded, by file
        self.lists: set[int] = set()  # the commits that have a list
        self.lists_whole = True
        self.damaged: set[str] = set()
        self.unopened: set[str] = set()  # tables

    def run(self) -> VerifyReport:
        self._read_lists()
        self.files = {name: size for name, size in files_below(self.paths.root) if name.split("/")[0] not in LOCK_NAMES}
        if not any(name.startswith((f"{COMMITS.name}/", "checksums/")) for name in self.files):
            open_snapshot(self.paths.root)
        self._check_sums()
        self._check_last_checkpoints()
        commits = self._open_commits()
        if not commits:
            self._note_left_overs({})
            return self.report
        last = commits[-1]
        self.report.commit, self.report.commits = last.number, len(commits)
        self._check_lists(commits)
        self._check_parts(commits)
        self._note_left_overs(self._versions(last))
        if not self.unopened and not any(self._is_log_damaged(name) for name in TABLES):
            self._verify_rows(last)
        return self.report

    def _verify_rows(self, last: Snapshot) -> None:
        try:
            verify_rows(last, self.damaged, self.report, self.progress)
        except Exception as error:
            # A log that no list names, of the newest commit, may say anything.
            self._found(f"its rows cannot be looked at: {first_line(error)}", commit=last.number)

    def _found(self, problem: str, file: str | None = None, commit: int | None = None) -> None:
        self.report.findings.append(Finding(problem, file, commit=commit))

    # Files

    def _read_lists(self) -> None:
        for number in recorded_commits(self.paths):
            self.lists.add(number)
            file = self.paths.checksum_file(number)
            try:
                self.sums |= read_list(file)
            except (CrowdPlayLakeError, OSError):
                self.lists_whole = False
                self.damaged.add(f"checksums/{file.name}")
                self._found("the list of checksums is damaged", f"checksums/{file.name}")

    def _check_sums(self) -> None:
        there = sorted(name for name in self.sums if name in self.files)
        total = sum(self.files[name] for name in there)
        for name in sorted(self.sums.keys() - self.files.keys()):
            self.damaged.add(name)
            self._found("is gone", name)
        with ThreadPoolExecutor(HASHING, "crowdplay-lake verify") as pool:
            for name, found in zip(there, pool.map(self._hashed, there), strict=True):
                if found != self.sums[name]:
                    self.damaged.add(name)
                    self._found(found if found.startswith("cannot") else "is not as it was written", name)
                self.report.files += 1
                self.report.bytes += self.files[name]
                self.progress("files", self.report.bytes, total)

    def _hashed(self, name: str) -> str:
        try:
            return file_sha256(self.paths.root / name)
        except OSError as error:
            return f"cannot be read: {error.strerror or error}"

    def _check_last_checkpoints(self) -> None:
        """Delta writes this note anew with every checkpoint, so it has no checksum; all it says can be told."""
        for table in (*TABLES, COMMITS.name):
            name = f"{table}/{LOG}/{LAST_CHECKPOINT}"
            if name in self.files and not self._is_log_damaged(table):
                try:
                    is_right = self._is_right(table, (self.paths.root / name).read_bytes())
                except (OSError, ValueError, TypeError, KeyError):
                    is_right = False
                if not is_right:
                    self.damaged.add(name)
                    self._found("is damaged; Delta can do without it: remove it", name)

    def _is_right(self, table: str, content: bytes) -> bool:
        told = json.loads(content)
        checkpoint = f"{table}/{LOG}/{told['version']:020d}.checkpoint{PART_SUFFIX}"
        written = json.dumps(told, separators=(",", ":")).encode()
        if not set(told) <= _CHECKPOINT_KEYS or content not in (written, written + b"\n"):
            return False
        with (self.paths.root / checkpoint).open("rb") as file:
            rows = pq.ParquetFile(file).read(columns=["add"])["add"]
        facts = {
            "size": len(rows),
            "sizeInBytes": self.files[checkpoint],
            "numOfAddFiles": rows.is_valid().to_pylist().count(True),
        }
        return all(told[name] == value for name, value in facts.items() if name in told)

    def _is_log_damaged(self, table: str) -> bool:
        return any(name.startswith(f"{table}/{LOG}/") for name in self.damaged)

    # Commits

    def _open_commits(self) -> list[Snapshot]:
        if any(name.startswith(f"{COMMITS.name}/") for name in self.damaged):
            return []
        try:
            return history(self.paths.root)
        except Exception as error:
            self._found(f"cannot be opened: {first_line(error)}", COMMITS.name)
            return []

    def _check_lists(self, commits: Iterable[Snapshot]) -> None:
        """Every commit has its list of checksums; but a crash may have come before that of the newest."""
        newest = max(self.lists, default=-1)
        for commit in commits:
            if commit.number in self.lists:
                continue
            self.lists_whole = False
            if commit.number > newest:
                self.report.notes.append(
                    f"commit {commit.number} has no checksums yet (a crash, or it is new): the next writer adds them"
                )
            else:
                self._found(
                    "its list of checksums is gone", f"checksums/{self.paths.checksum_file(commit.number).name}"
                )

    def _check_parts(self, commits: list[Snapshot]) -> None:
        """Every commit opens, and what it is made of is there."""
        seen: set[tuple[str, int]] = set()
        named: dict[str, int] = {f"{COMMITS.name}/{c.row}": c.number for c in commits}
        for index, commit in enumerate(commits):
            self.progress("commits", index, len(commits))
            for table, version in commit.versions.items():
                if (table, version) in seen or self._is_log_damaged(table):
                    continue
                seen.add((table, version))
                try:
                    parts = commit.parts(table)
                except Exception as error:
                    self.unopened.add(table)
                    self._found(f"cannot be opened: {first_line(error)}", table, commit.number)
                    continue
                for part in parts:
                    name = f"{table}/{part.path}"
                    if name not in self.damaged | named.keys() and self.files.get(name, part.size) != part.size:
                        self._found(f"has {self.files[name]} bytes, the log says {part.size}", name)
                    named.setdefault(name, commit.number)
        for name, number in named.items():
            if name not in self.files and name not in self.sums:
                self._found("is gone", name, number)
            elif name not in self.sums and self.lists_whole:
                self._found("no checksum was recorded for it", name, number)

    def _versions(self, last: Snapshot) -> dict[str, int]:
        """The version of every table in the last commit, the table of commits among them."""
        return {**last.versions, COMMITS.name: int(delta_table(self.paths.commits).version())}

    def _note_left_overs(self, versions: Mapping[str, int]) -> None:
        """Files that no list names: what a crash left. A log file up to the last commit is none of those."""
        for name in sorted(self.files.keys() - self.sums.keys()):
            table, _, rest = name.partition("/")
            log, _, file = rest.rpartition("/")
            number, _, kind = file.partition(".")
            if (table == "checksums" and file.startswith("commit-")) or file == LAST_CHECKPOINT:
                continue
            is_log = log == LOG and number.isdigit() and kind in ("json", f"checkpoint{PART_SUFFIX}")
            if is_log and int(number) <= versions.get(table, -1):
                if self.lists_whole:
                    self._found("no checksum was recorded for it", name)
            elif table not in (*TABLES, COMMITS.name, "checksums"):
                self.report.notes.append(f"{name}: is no file of a lake; nothing here reads or removes it")
            elif self.lists_whole or not versions:
                self.report.notes.append(
                    f"{name}: no commit names it; `crowdplay-lake vacuum` removes what a crash left"
                )
