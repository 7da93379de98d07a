"""Raw episodes into a lake: plan, convert, commit; what is refused is recorded, the rest goes in.

Work is cut into tasks of whole episodes, ordered by game, which any executor may do. A task writes its Parquet parts,
which nobody sees until a commit names them; results are committed as they come, so a reader sees all of a task or
nothing, and an ingest that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, TypeAlias

from crowdplay_lake.commit import Change, Writer, writing
from crowdplay_lake.errors import InvalidArgument, RawDataError
from crowdplay_lake.keywords import is_storable
from crowdplay_lake.layout import is_partition
from crowdplay_lake.rewrite import moved

from .catalog import Catalog, Sorted
from .machine import Limits
from .metadata import Metadata, read_metadata
from .sources import MetadataFile, RawFile, Source, open_metadata, open_source, place_of
from .tasks import Rejection, Task, TaskResult, plan, work_of
from .workers import Workers, dask_executor, on_executor, on_processes, run_tasks, this_process

if TYPE_CHECKING:
    from upath import UPath

    Place: TypeAlias = str | PathLike[str] | UPath

__all__ = ["IngestOptions", "IngestSummary", "Progress", "Rejection", "ingest"]

# Less work than this, in seconds of one core, is done before other processes have started.
LITTLE_WORK = 8.0
# What a process may take, in bytes, beyond what it starts with.
WORKER_MEMORY = 1536 << 20
# Each worker gets so many tasks at least, so that none is idle while the last one ends.
TASKS_PER_WORKER = 3


@dataclass(frozen=True)
class IngestOptions:
    """How to ingest; the defaults suit a folder of CrowdPlay data on one machine."""

    metadata: str | PathLike[str] | None = None  # a dataset.sqlite; searched below the source by default
    metadata_only: bool = False  # leave the trajectories alone
    game: str | None = None  # of what has none in its metadata
    replace: bool = False  # take files anew whose bytes have changed since they were ingested
    rehash: bool = False  # tell a change by checksum, reading every file
    retry_rejected: bool = False  # try rejected files again though they have not changed
    workers: int | None = None  # processes; 0: this one; by default one a core, and this one for little work
    worker_memory: int | None = None  # bytes that each of them may take; by default `WORKER_MEMORY`
    executor: Executor | None = None  # does the work instead: a cluster's, say
    dask: str | None = None  # address of a Dask scheduler, whose workers see the source and the lake
    task_seconds: float = 90.0  # of work in a task, by bytes
    limits: Limits = field(default_factory=Limits)
    lock_wait: float = 10.0  # seconds


@dataclass(frozen=True)
class IngestSummary:
    """What an ingest did. ``rejected`` names what the lake does not have, from earlier runs too."""

    episodes: int
    steps: int
    bytes_in: int
    bytes_out: int  # by which the lake's parts grew
    seconds: float
    unchanged: int
    replaced: int
    changed_files: tuple[str, ...]  # whose bytes have changed, and which the lake keeps as they were
    duplicates: tuple[tuple[str, str], ...]  # (file taken, file of the same episode elsewhere)
    removed: int  # files of episodes that were taken out of the lake on purpose: they stay out
    taken_out: int  # episodes that were in, and that the metadata now tells to be of what was removed
    without_metadata: int
    without_trajectory: int
    rejected: tuple[Rejection, ...]
    commits: int
    commit: int


class Progress:
    """What is told of a running ingest; this one says nothing."""

    def planned(self, episodes: int, total_bytes: int) -> None:
        """``episodes`` raw files of together ``total_bytes`` are to be read."""

    def advanced(self, steps: int, read_bytes: int) -> None:
        """So many more steps are converted, so many more bytes read."""

    def finished(self, episode_id: str) -> None:
        """One episode is converted."""

    def rejected(self, rejection: Rejection) -> None:
        """One raw file, or a value of the metadata, is refused."""

    def committed(self, commit: int, episodes: int, steps: int) -> None:
        """So many more episodes and steps are in the lake, with this commit."""


def ingest(
    raw: Place, lake: Place, options: IngestOptions | None = None, progress: Progress | None = None
) -> IngestSummary:
    """Bring everything in ``raw`` into the lake at ``lake``, which is made if there is none.

    ``raw``: a folder, CrowdPlay's zip, or one episode's file, on disk or at an address (``s3://``, ``https://``).
    Run again, it adds what is new and leaves the rest alone. Raises UnknownPath, InvalidArgument (nothing to ingest),
    InvalidLake, LakeBusy, WorkersLost; a raw file that cannot be taken is no error but a `Rejection` in the summary.
    """
    options = options or IngestOptions()
    _check(options)
    began = time.monotonic()
    source = open_source(str(raw))
    files = [] if options.metadata_only else source.episodes()
    metadata_files = [open_metadata(options.metadata)] if options.metadata is not None else source.metadata()
    place = place_of(str(raw))
    if not (files or metadata_files or source.unreadable):
        raise InvalidArgument(_nothing(place, source, options.metadata_only))
    metadata, rejections = _read_all_metadata(metadata_files, options.limits)
    rejections += [Rejection(name, 0, None, None, reason) for name, reason in source.unreadable]
    with writing(lake, options.lock_wait) as writer:
        catalog = Catalog(writer, metadata, place, options.game)
        names, unreadable = [file.name for file in metadata_files], [name for name, _ in source.unreadable]
        catalog.rejected_metadata(names, unreadable, rejections)
        run = _Run(writer, catalog, options, progress or Progress())
        return run.run(source, files, [*names, *unreadable], began)


def _nothing(place: str, source: Source, metadata_only: bool) -> str:
    if metadata_only:
        return f"{place}: no dataset.sqlite there; name one with --metadata"
    archives = f"; archives in it are not looked into, name one: {', '.join(source.archives[:3])}"
    return f"{place}: no raw episodes (.pickle, .pickle.gz, .pickle.bz2) and no dataset.sqlite there" + (
        archives if source.archives else ""
    )


def _check(options: IngestOptions) -> None:
    """Raises InvalidArgument for options that cannot mean anything."""
    if options.workers is not None and options.workers < 0:
        raise InvalidArgument(f"workers is {options.workers}; name a number of processes, or 0 for this one")
    if sum(option is not None for option in (options.workers, options.executor, options.dask)) > 1:
        raise InvalidArgument("name one of workers, an executor and a Dask cluster: who is to do the work?")
    if options.game is not None and not (is_storable(options.game) and is_partition(options.game)):
        raise InvalidArgument(f"{options.game!r} cannot be the name of a game")
    if options.worker_memory is not None:
        _check_memory(options, options.worker_memory)


def _check_memory(options: IngestOptions, memory: int) -> None:
    if options.dask is not None or options.executor is not None:
        raise InvalidArgument(
            "worker_memory limits processes that are started here; what a cluster's workers may take is told to them"
            " when they start (dask worker --memory-limit)"
        )
    if options.workers == 0:
        raise InvalidArgument("worker_memory limits processes beside this one, and workers is 0: name one at least")
    if memory < 256 << 20:
        raise InvalidArgument("a worker needs 256 MiB of memory at least")


def _read_all_metadata(files: Sequence[MetadataFile], limits: Limits) -> tuple[Metadata, list[Rejection]]:
    metadata = Metadata()
    rejected: list[Rejection] = []
    for file in files:
        try:
            read = read_metadata(file, limits)
        except RawDataError as error:
            rejected.append(Rejection(file.name, file.size, None, file.stamp, error.reason))
            continue
        except OSError as error:
            rejected.append(Rejection(file.name, file.size, None, None, f"cannot be read: {error.strerror or error}"))
            continue
        rejected += [
            Rejection(f"{file.name}/{value.name}", value.bytes, None, None, value.reason) for value in read.refused
        ]
        metadata.update(read)
    return metadata, rejected


class _Run:
    """One run, while it holds the lake's lock."""

    def __init__(self, writer: Writer, catalog: Catalog, options: IngestOptions, progress: Progress) -> None:
        self.writer = writer
        self.catalog = catalog
        self.options = options
        self.progress = progress
        self.replacing: set[str] = set()  # episodes whose old rows go when the new ones come
        self.told = (0, 0)  # steps and bytes
        self.episodes = self.steps = self.bytes_out = self.replaced = self.taken_out = self.commits = 0

    def run(
        self, source: Source, files: Sequence[RawFile], metadata_names: Sequence[str], began: float
    ) -> IngestSummary:
        options = self.options
        found = self.catalog.sort_out(files, options.rehash, options.retry_rejected)
        new = found.new
        if options.replace:
            new = [*new, *found.changed]
            self.replacing = {file.episode_id for file in found.changed}
        self.progress.planned(len(new), sum(file.size for file in new))
        try:
            self._convert(new)
        except BaseException:
            # Nobody will name what unfinished tasks have written.
            self.writer.remove_leftovers()
            raise
        return self._summary(source, files, found, new, metadata_names, began)

    def _convert(self, new: Sequence[RawFile]) -> None:
        work = sum(map(work_of, new))
        width = self._width(work)
        seconds = min(self.options.task_seconds, max(2.0, work / (max(width, 1) * TASKS_PER_WORKER)))
        tasks = plan(new, self.catalog.game_of, seconds)
        if tasks:
            with self._workers(width, tasks) as workers:
                for results in run_tasks(workers, tasks, lambda: self._look(workers)):
                    self._take(results, workers)
            if workers.has_lost:
                # Parts that somebody was writing who died.
                self.writer.remove_leftovers()
        # The metadata alone, where there was nothing else.
        self._commit([])

    def _width(self, work: float) -> int:
        if self.options.workers is not None:
            return self.options.workers
        if work < LITTLE_WORK and self.options.worker_memory is None:
            return 0
        from loky import cpu_count

        # What a container's quota allows, where it allows less than the machine has.
        return int(cpu_count())

    @contextmanager
    def _workers(self, width: int, tasks: Sequence[Task]) -> Iterator[Workers]:
        paths, options = self.writer.paths, self.options
        if options.dask is not None:
            with dask_executor(options.dask) as executor, on_executor(executor, paths, options.limits) as workers:
                yield workers
        elif options.executor is not None:
            with on_executor(options.executor, paths, options.limits) as workers:
                yield workers
        elif width == 0:
            with this_process(paths, options.limits, self._tell) as workers:
                yield workers
        else:
            count = min(width, len(tasks))
            memory = WORKER_MEMORY if options.worker_memory is None else options.worker_memory
            with on_processes(count, memory, paths, options.limits, tasks) as workers:
                yield workers

    # Progress

    def _tell(self, steps: int, read_bytes: int) -> None:
        """Tell what was done since the last time. What is done again, after a worker died, is not told twice."""
        before = self.told
        self.told = (max(steps, before[0]), max(read_bytes, before[1]))
        steps, read_bytes = self.told
        if before != self.told:
            self.progress.advanced(steps - before[0], read_bytes - before[1])

    def _look(self, workers: Workers) -> None:
        done = workers.progress()
        if done is not None:
            self._tell(*done)

    # Commits

    def _take(self, results: Sequence[TaskResult], workers: Workers) -> None:
        for result in results:
            for row in result.episodes:
                self.progress.finished(row["episode_id"])
            for rejection in result.rejected:
                self.progress.rejected(rejection)
            if workers.progress() is None:
                steps = sum(row["n_steps"] for row in result.episodes)
                read_bytes = sum(row["source_bytes"] for row in result.episodes)
                read_bytes += sum(rejection.bytes for rejection in result.rejected)
                self._tell(self.told[0] + steps, self.told[1] + read_bytes)
        self._commit(results)

    def _commit(self, results: Sequence[TaskResult]) -> None:
        rows = [row for result in results for row in result.episodes]
        replaced = {row["episode_id"] for row in rows} & self.replacing
        leaving = self.catalog.leaving
        changes = moved(self.writer, self.catalog.episodes, self.catalog.moving, replaced | leaving)
        self.catalog.take_out()
        for result in results:
            for table, parts in result.parts.items():
                changes.setdefault(table, Change()).add += parts
            self.catalog.reject(result.rejected)
        self.catalog.take(rows)
        changes |= self.catalog.changes()
        steps = sum(row["n_steps"] for row in rows)
        before = self.writer.snapshot.number
        counts = {"episodes": len(rows), "steps": steps} | ({"taken_out": len(leaving)} if leaving else {})
        after = self.writer.commit("ingest", changes, counts)
        self.catalog.committed()
        self.episodes += len(rows)
        self.steps += steps
        self.replaced += len(replaced)
        self.taken_out += len(leaving)
        if after.number != before:
            self.commits += 1
            for change in changes.values():
                self.bytes_out += sum(part.size for part in change.add) - sum(part.size for part in change.remove)
            self.progress.committed(after.number, len(rows), steps)

    def _summary(
        self,
        source: Source,
        files: Sequence[RawFile],
        found: Sorted,
        new: Sequence[RawFile],
        metadata_names: Sequence[str],
        began: float,
    ) -> IngestSummary:
        episodes = self.catalog.episodes
        return IngestSummary(
            episodes=self.episodes,
            steps=self.steps,
            bytes_in=sum(file.size for file in new),
            bytes_out=self.bytes_out,
            seconds=time.monotonic() - began,
            unchanged=len(found.unchanged),
            replaced=self.replaced,
            changed_files=() if self.options.replace else tuple(file.name for file in found.changed),
            duplicates=tuple(source.duplicates),
            removed=len(found.removed),
            taken_out=self.taken_out,
            without_metadata=sum(
                f.episode_id in episodes and episodes[f.episode_id]["environment_id"] is None for f in files
            ),
            without_trajectory=sum(row["n_steps"] is None for row in episodes.values()),
            rejected=(*self.catalog.rejections([*(file.name for file in files), *metadata_names]), *found.unreadable),
            commits=self.commits,
            commit=self.writer.snapshot.number,
        )
