"""The one way to change a lake: an atomic commit over several Delta tables.

Delta is atomic for one table, a change here touches several. So a writer takes the lock, brings every table back to
the versions in the last row of `commits` (which removes what a crash left), writes parts, commits each table, and
appends a row to `commits`. That row *is* the commit: a reader opens the last row and pins the versions it names, so it
sees all of a change or nothing, and keeps its snapshot while others write.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake.exceptions import DeltaError

from .checksums import LOG, logs_between, read_checksums, read_list, recorded_commits, write_checksums
from .delta import append_version, create_table, made_with, remove_torn_table, restore_version
from .errors import InvalidArgument, InvalidLake, LakeBusy, nearest
from .layout import PART_SUFFIX, LakePaths, Part, PartWriter, write_parts
from .lock import LOCK_NAMES, Hold, locked
from .remote_faults import told
from .schema import COMMITS, FORMAT_VERSION, TABLES, Table
from .snapshot import Snapshot, delta_table, history, is_table, new_commit_name, open_snapshot
from .storage import AnyPath, as_path, cannot_write, files_below, make_folder, remove, sync

if TYPE_CHECKING:
    from upath import UPath

__all__ = ["Change", "Writer", "writing"]


@dataclass
class Change:
    """What a commit does to one table."""

    add: list[Part] = field(default_factory=list)
    remove: list[Part] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.add or self.remove)


class Writer:
    """Changes a lake, while it holds the lock. Made by `writing`."""

    def __init__(self, snapshot: Snapshot, hold: Hold, versions: Mapping[str, int]) -> None:
        self.snapshot = snapshot
        self.paths = snapshot.paths
        self._hold = hold
        self._versions = dict(versions)  # the last one of each table
        self._not_synced: set[AnyPath] = set()

    def commit(self, operation: str, changes: Mapping[str, Change], counts: Mapping[str, int]) -> Snapshot:
        """Make ``changes`` visible, all at once. Without a change there is no commit."""
        changes = {name: change for name, change in changes.items() if change}
        if not changes:
            return self.snapshot
        unknown = [name for name in changes if name not in TABLES]
        if unknown:
            raise InvalidArgument(f"no table {unknown[0]!r}; nearest: {nearest(unknown[0], TABLES)}")
        self._check_last()
        number = self.snapshot.number + 1
        versions = dict(self.snapshot.versions)
        for name in TABLES:
            if name in changes:
                versions[name] = self._commit_table(name, changes[name], number)
        row = self._append_row(number, operation, versions, counts)
        return self._committed([row, *(part for change in changes.values() for part in change.add)])

    def drop(self, commits: Iterable[Snapshot], operation: str, counts: Mapping[str, int]) -> Snapshot:
        """Take earlier commits out of the table of commits, by a commit that changes no other table. Files stay."""
        self._check_last()
        row = self._append_row(self.snapshot.number + 1, operation, self.snapshot.versions, counts, commits)
        return self._committed([row])

    def fence(self) -> None:
        """Shut out a writer that had the lock before and was taken for dead: should it wake up, it can't commit.

        By a commit that changes nothing: the row that the other would append has no place any more. So what nobody
        names now, nobody will. Raises LakeBusy where the other one is quicker.
        """
        row = self._append_row(self.snapshot.number + 1, "recover", self.snapshot.versions, {})
        self._committed([row])

    def _check_last(self) -> None:
        """Whether the lock is ours, and nobody has committed since. Raises LakeBusy."""
        self._hold.check()
        last = open_snapshot(self.paths.root)
        if last.number != self.snapshot.number:
            raise LakeBusy(
                f"{self.paths.root}: somebody committed {last.number} while this was based on {self.snapshot.number};"
                " nothing was changed, run it again"
            )

    def _committed(self, written: Iterable[Part]) -> Snapshot:
        before, self.snapshot = self.snapshot, open_snapshot(self.paths.root)
        _record_checksums(self.snapshot, before, written)
        return self.snapshot

    def replacement(self, table: str, rows: pa.Table, partitions: Iterable[str] | None = None) -> Change:
        """The change that makes ``rows`` the table's content. Partitions that are so already stay as they are.

        ``partitions``: look at these only; ``rows`` are all rows of them.
        """
        spec = TABLES[table]
        order = [(name, "ascending") for name in spec.sort]
        looked_at = None if partitions is None else set(partitions)
        before = self.snapshot.read(table, looked_at).sort_by(order)
        after = rows.select(before.schema.names).cast(before.schema).sort_by(order)
        change = Change()
        parts = self.snapshot.parts(table)
        for value in sorted({*_partition_values(spec, before), *_partition_values(spec, after)}, key=str):
            new = _partition(spec, after, value)
            if not _same(_partition(spec, before, value), new):
                change.add += write_parts(self.paths, spec, new)
                change.remove += [part for part in parts if part.partition == value]
        return change

    def _commit_table(self, name: str, change: Change, number: int) -> int:
        before = self._versions[name]
        version = append_version(self.paths.table(name), TABLES[name], before, change.add, change.remove, number)
        self._versions[name] = version
        self._not_synced |= made_with(self.paths.table(name), version, change.add)
        return version

    def _append_row(
        self,
        number: int,
        operation: str,
        versions: Mapping[str, int],
        counts: Mapping[str, int],
        drop: Iterable[Snapshot] = (),
    ) -> Part:
        self._hold.check()
        part = _write_commit_row(self.paths, number, operation, versions, counts)
        dropped = [Part(COMMITS.name, one.row, 0, 1) for one in drop]
        before = self._versions[COMMITS.name]
        # The row must not outlive what it names in a power cut.
        sync({*self._not_synced, self.paths.part(COMMITS.name, part.path), self.paths.commits})
        self._not_synced = set()
        try:
            after = append_version(self.paths.commits, COMMITS, before, [part], dropped, number)
        except LakeBusy:
            remove(self.paths.part(COMMITS.name, part.path))
            raise
        self._versions[COMMITS.name] = after
        sync(made_with(self.paths.commits, after))
        return part

    def recover(self) -> None:
        """Bring every table back to the last commit: what a crash left beyond it was never visible."""
        for name, version in self.snapshot.versions.items():
            self._versions[name] = restore_version(self.paths.table(name), version)
            if self._versions[name] > version:
                self._not_synced |= made_with(self.paths.table(name), self._versions[name])

    def remove_leftovers(self) -> int:
        """Remove the parts that no commit names: what a crash, or an interrupted worker, left. Returns their bytes."""
        recorded = read_checksums(self.paths)
        if not {kept.number for kept in history(self.paths.root)} <= set(recorded_commits(self.paths)):
            # Lists are missing: what a commit named can't be told from what none did.
            return 0
        found: dict[AnyPath, int] = {}
        for name in (*TABLES, COMMITS.name):
            known = {part.path for part in self.snapshot.parts(name)} if name in TABLES else set()
            for path, size in files_below(self.paths.table(name)):
                is_ours = _is_begun_log(path) if path.startswith(LOG) else path.endswith(PART_SUFFIX)
                if is_ours and path not in known and f"{name}/{path}" not in recorded:
                    found[self.paths.part(name, path)] = size
        if self._hold.is_lost():
            # Lost while they were listed: some may be those of the next holder.
            return 0
        for part in found:
            remove(part)
        return sum(found.values())


def _is_begun_log(path: str) -> bool:
    """Whether a file among Delta's logs is one that was never finished."""
    return path.endswith(".tmp") or "#" in path


def _same(before: pa.Table, after: pa.Table) -> bool:
    """Equal row for row; unlike in Arrow, NaN equals NaN."""
    return len(before) == len(after) and all(_bits(before[n]).equals(_bits(after[n])) for n in after.column_names)


def _bits(column: pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    if not pa.types.is_floating(column.type):
        return column
    bits = column.fill_null(0.0).to_numpy().view(np.int64)
    return pa.array(bits, mask=column.is_null().to_numpy())


def _partition_values(table: Table, rows: pa.Table) -> list[str | None]:
    return [None] if table.partition is None else list(rows[table.partition].unique().to_pylist())


def _partition(table: Table, rows: pa.Table, value: str | None) -> pa.Table:
    return rows if table.partition is None else rows.filter(pc.equal(rows[table.partition], value))


def _write_commit_row(
    paths: LakePaths, number: int, operation: str, versions: Mapping[str, int], counts: Mapping[str, int]
) -> Part:
    row = {
        "number": number,
        "time": datetime.now(UTC),
        "operation": operation,
        "format_version": FORMAT_VERSION,
        "versions": list(versions.items()),
        "counts": list(counts.items()),
    }
    with PartWriter(paths, COMMITS, name=new_commit_name(number)) as writer:
        writer.write(pa.Table.from_pylist([row], COMMITS.schema))
        return writer.close()


def _create(paths: LakePaths) -> None:
    """Empty tables, then commit 0. A crash in between is finished by the next writer."""
    for table in TABLES.values():
        path = paths.table(table.name)
        remove_torn_table(path)
        if not is_table(path):
            make_folder(path)
            create_table(path, table, f"crowdplay-lake: one row per {table.row}")
    row = _write_commit_row(paths, 0, "create", dict.fromkeys(TABLES, 0), {})
    tables = set().union(*({paths.table(name), *made_with(paths.table(name), 0)} for name in TABLES))
    sync({paths.root, paths.commits, paths.part(COMMITS.name, row.path), *tables})
    create_table(paths.commits, COMMITS, parts=[row])
    sync({paths.commits, *made_with(paths.commits, 0)})


def _record_checksums(snapshot: Snapshot, before: Snapshot | None, written: Iterable[Part]) -> None:
    """The checksums of what led from the commit ``before`` to a snapshot, the last one."""
    paths = snapshot.paths
    last = delta_table(paths.commits).version()
    known = {} if before is None else {**before.versions, COMMITS.name: _last_log(before, last - 1)}
    logs = logs_between(paths, known, {**snapshot.versions, COMMITS.name: last})
    write_checksums(paths, snapshot.number, written, logs)


def _last_log(commit: Snapshot, otherwise: int) -> int:
    """The version of the table of commits up to which a commit's list has checksums; a power cut may leave more."""
    with suppress(InvalidLake, OSError):
        names = [name.split("/") for name in read_list(commit.paths.checksum_file(commit.number))]
        logs = [name[2] for name in names if name[:2] == [COMMITS.name, LOG] and name[2].endswith(".json")]
        return max((int(log.partition(".")[0]) for log in logs), default=otherwise)
    return otherwise


def _complete_checksums(snapshot: Snapshot) -> None:
    """A crash may have come between a commit and its checksums: take them from the files, as the last moment to."""
    if snapshot.number in recorded_commits(snapshot.paths):
        return
    earlier = [other for other in history(snapshot.paths.root) if other.number < snapshot.number]
    before = earlier[-1] if earlier else None
    known = {name: {part.path for part in earlier[-1].parts(name)} if earlier else set() for name in TABLES}
    written = [part for name in TABLES for part in snapshot.parts(name) if part.path not in known[name]]
    _record_checksums(snapshot, before, [*written, Part(COMMITS.name, snapshot.row, 0, 1)])


@contextmanager
def writing(root: str | PathLike[str] | UPath, wait: float = 10.0) -> Iterator[Writer]:
    """Hold the lake at ``root`` (made if there is none) for writing.

    ``wait``: seconds to wait for another writer before LakeBusy. The lock heals when its holder is gone (see `lock`),
    and what a crash left half-done is put right here.
    """
    paths = LakePaths(as_path(root))
    is_local = isinstance(paths.root, Path)
    with _told_if_full(paths), nullcontext() if is_local else told(str(paths.root)):
        _check_place(paths)
        make_folder(paths.root)
        with locked(paths.root, wait) as hold:
            writer = _prepared(paths, hold)
            try:
                yield writer
            except BaseException:
                # Marked while it is so: this may be interrupted, too.
                hold.unclean = True
                writer.remove_leftovers()
                hold.unclean = False
                raise


@contextmanager
def _told_if_full(paths: LakePaths) -> Iterator[None]:
    try:
        yield
    except (OSError, DeltaError) as error:
        if explained := cannot_write(paths.root, error):
            raise explained from error
        raise


def _prepared(paths: LakePaths, hold: Hold) -> Writer:
    """A writer of a lake that is whole: what a crash left half-done is put right."""
    is_begun = not recorded_commits(paths)
    if is_begun:
        remove_torn_table(paths.commits)
    if not is_table(paths.commits):
        if not is_begun:
            raise InvalidLake(
                f"{paths.root}: its table of commits is gone; restore the folder {COMMITS.name} from a copy"
            )
        _create(paths)
    # Before the row is read: what is committed in between is not taken for what this is based on.
    version = int(delta_table(paths.commits).version())
    snapshot = open_snapshot(paths.root)
    _complete_checksums(snapshot)
    writer = Writer(snapshot, hold, {COMMITS.name: version})
    if hold.unclean and hold.lease is not None:
        # Unlike the lock of a disk, a lease passes on while its holder may only be asleep.
        writer.fence()
    writer.recover()
    if hold.unclean:
        writer.remove_leftovers()
        hold.unclean = False
    return writer


def _check_place(paths: LakePaths) -> None:
    """Whether a lake is there, or can be made there. Raises InvalidLake."""
    if paths.root.is_file():
        raise InvalidLake(f"{paths.root}: is a file; a lake is a folder")
    if isinstance(paths.root, Path) and paths.root.is_symlink() and not paths.root.exists():
        raise InvalidLake(f"{paths.root}: is a link that leads nowhere; is that disk mounted?")
    is_folder = paths.root.is_dir()
    if is_folder and (is_table(paths.commits) or any(is_table(paths.table(name)) for name in TABLES)):
        return
    for above in paths.root.parents:
        if isinstance(above, Path) and (above / COMMITS.name / LOG).is_dir():
            raise InvalidLake(f"{paths.root}: is inside the lake {above}; name a place outside it")
    # A crash while the lake was made leaves its lock and the folders of its tables.
    ours = {*LOCK_NAMES, *TABLES, COMMITS.name}
    if is_folder and any(entry.name not in ours for entry in paths.root.iterdir()):
        raise InvalidLake(f"{paths.root}: is a folder with something else in it; name an empty or a new one")
