"""Raw episodes into a lake: plan, convert, commit; what is refused is recorded, the rest goes in.

Work is cut into tasks of whole episodes, ordered by game. A task writes its Parquet parts, which nobody sees until
the commit names them; each task is one commit, so a reader sees all of it or nothing, and an ingest that was
interrupted goes on where it stopped.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from crowdplay_lake.commit import Change, Writer, writing
from crowdplay_lake.errors import InvalidArgument, RawDataError
from crowdplay_lake.parts import moved
from crowdplay_lake.schema import EPISODES, TABLES, UNKNOWN, Table

from .machine import Limits
from .metadata import Metadata, read_metadata
from .sources import MetadataFile, RawFile, open_metadata, open_source, split_name
from .stored import shown
from .tasks import Progress, Rejection, TaskResult, plan, run_task

__all__ = ["IngestOptions", "IngestSummary", "Progress", "Rejection", "ingest"]


@dataclass(frozen=True)
class IngestOptions:
    """How to ingest; the defaults suit a folder of CrowdPlay data."""

    metadata: str | os.PathLike[str] | None = None  # a dataset.sqlite; searched below the source by default
    task_bytes: int = 64 << 20  # raw bytes of a task, and so of a commit
    limits: Limits = field(default_factory=Limits)
    lock_wait: float = 10.0  # seconds


@dataclass(frozen=True)
class IngestSummary:
    """What an ingest did. ``rejected`` names what the lake does not have, from earlier runs too."""

    episodes: int
    steps: int
    bytes_in: int
    bytes_out: int
    unchanged: int
    changed_files: tuple[str, ...]
    without_metadata: int
    without_trajectory: int
    rejected: tuple[Rejection, ...]
    commit: int


def ingest(
    raw: str | os.PathLike[str], lake: Path, options: IngestOptions | None = None, progress: Progress | None = None
) -> IngestSummary:
    """Bring everything below ``raw`` into the lake at ``lake``, which is made if there is none.

    Run again, it adds what is new and leaves the rest alone. Raises UnknownPath, InvalidArgument (nothing to ingest),
    InvalidLake, LakeBusy; a raw file that cannot be taken is no error but a `Rejection` in the summary.
    """
    options = options or IngestOptions()
    progress = progress or Progress()
    source = open_source(raw)
    files = source.episodes()
    metadata_files = [open_metadata(options.metadata)] if options.metadata else source.metadata()
    if not (files or metadata_files or source.unreadable):
        archives = f"; archives in it are not looked into, name one: {', '.join(source.archives[:3])}"
        raise InvalidArgument(
            f"{shown(str(raw))}: no raw episodes (.pickle, .pickle.gz, .pickle.bz2) and no dataset.sqlite below it"
            + (archives if source.archives else "")
        )
    names = [file.name for file in metadata_files] + [name for name, _ in source.unreadable]
    metadata, rejected = _read_all_metadata(metadata_files, options.limits)
    rejected += [Rejection(name, 0, None, None, reason) for name, reason in source.unreadable]
    with writing(lake, options.lock_wait) as writer:
        return _Ingest(writer, metadata, names, rejected, options, progress).run(files)


def _read_all_metadata(files: Iterable[MetadataFile], limits: Limits) -> tuple[Metadata, list[Rejection]]:
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


class _Ingest:
    """One run, while it holds the lake's lock."""

    def __init__(
        self,
        writer: Writer,
        metadata: Metadata,
        metadata_names: Sequence[str],
        rejected: Sequence[Rejection],
        options: IngestOptions,
        progress: Progress,
    ) -> None:
        self.writer = writer
        self.metadata = metadata
        self.metadata_names = metadata_names
        self.options = options
        self.progress = progress
        self.episodes = {row["episode_id"]: row for row in writer.snapshot.read(EPISODES.name).to_pylist()}
        self.rejected = {row["name"]: row for row in writer.snapshot.read("rejected").to_pylist()}
        before = self.rejected
        # The metadata was read anew: what was wrong with it then and is not now is mended.
        self.rejected = {name: row for name, row in before.items() if not _is_of(name, metadata_names)}
        self._reject(rejected)
        for name, row in self.rejected.items():
            if name in before and all(before[name][key] == row[key] for key in row if key != "time"):
                self.rejected[name] = before[name]
        self._complete_environments()
        # Episodes whose game the metadata tells otherwise than when they were ingested, and the game.
        self.moving: dict[str, str] = {}
        self.steps = 0
        self.bytes_out = 0

    def run(self, files: Sequence[RawFile]) -> IngestSummary:
        new, unchanged, changed = self._sort_out(files)
        self._merge_metadata()
        self.progress.planned(len(new), sum(file.size for file in new))
        ingested = 0
        for task in plan(new, self._game_of, self.options.task_bytes):
            result = run_task(self.writer.paths, task, self.options.limits, self.progress)
            ingested += len(result.episodes)
            self._commit(result)
        if not new:
            self._commit(TaskResult())
        names = {file.name for file in files}
        return IngestSummary(
            episodes=ingested,
            steps=self.steps,
            bytes_in=sum(file.size for file in new),
            bytes_out=self.bytes_out,
            unchanged=unchanged,
            changed_files=tuple(changed),
            without_metadata=sum(
                f.episode_id in self.episodes and self.episodes[f.episode_id]["environment_id"] is None for f in files
            ),
            without_trajectory=sum(row["n_steps"] is None for row in self.episodes.values()),
            rejected=tuple(
                Rejection(*(row[key] for key in ("name", "bytes", "sha256", "stamp", "reason", "step")))
                for name, row in sorted(self.rejected.items())
                if name in names or _is_of(name, self.metadata_names)
            ),
            commit=self.writer.snapshot.number,
        )

    def _sort_out(self, files: Sequence[RawFile]) -> tuple[list[RawFile], int, list[str]]:
        """(files to read, number of those the lake has, names of those whose bytes changed since it took them)."""
        new, unchanged, changed = [], 0, []
        for file in files:
            known = self.episodes.get(file.episode_id)
            refused = self.rejected.get(file.name)
            if known is not None and known["n_steps"] is not None:
                if _has_changed(file, known):
                    changed.append(file.name)
                else:
                    unchanged += 1
            elif refused is not None and (refused["bytes"], refused["stamp"]) == (file.size, file.stamp):
                continue
            else:
                new.append(file)
        return new, unchanged, changed

    def _game_of(self, file: RawFile) -> str:
        return str(self._described(file.episode_id)["game"])

    def _described(self, episode_id: str) -> dict[str, Any]:
        """The row as the metadata tells it: of this run, or else of an earlier one."""
        known = self.episodes.get(episode_id, dict.fromkeys(EPISODES.schema.names))
        if episode_id in self.metadata.environment_of or known["game"] is None:
            told = self.metadata.episode_columns(episode_id)
            return {**known, **_completed(told, known), "episode_id": episode_id}
        return dict(known)

    def _complete_environments(self) -> None:
        """What the metadata leaves out of an environment, it has not taken back: an earlier run's values stay."""
        known = {row["environment_id"]: row for row in self.writer.snapshot.read("environments").to_pylist()}
        environments = self.metadata.environments
        for environment_id in {*environments, *self.metadata.environment_of.values()} & known.keys():
            told = environments.get(environment_id, {})
            environments[environment_id] = {**known[environment_id], **_completed(told, known[environment_id])}

    def _reject(self, rejections: Iterable[Rejection]) -> None:
        for rejection in rejections:
            row = {**vars(rejection), "time": datetime.now(UTC)}
            known = self.rejected.get(rejection.name)
            if known is None or any(known[key] != row[key] for key in row if key != "time"):
                self.rejected[rejection.name] = row

    def _merge_metadata(self) -> None:
        """Rows of `episodes` for what the metadata knows; an episode with a trajectory keeps it."""
        for episode_id in self.metadata.environment_of:
            row = self._described(episode_id)
            known = self.episodes.get(episode_id)
            if known is not None and known["n_steps"] is not None and known["game"] != row["game"]:
                self.moving[episode_id] = row["game"]
            self.episodes[episode_id] = row

    def _commit(self, result: TaskResult) -> None:
        for row in result.episodes:
            self.episodes[row["episode_id"]] = {**self._described(row["episode_id"]), **row}
        self._reject(result.rejected)
        for row in result.episodes:
            # It was refused in an earlier form, and is in now.
            self.rejected = {n: r for n, r in self.rejected.items() if not _is_form_of(n, row["episode_id"])}
        changes = {name: Change(parts) for name, parts in result.parts.items()}
        for name, change in moved(self.writer, self.episodes, self.moving).items():
            changes[name].add += change.add
            changes[name].remove += change.remove
        self.moving = {}
        changes |= {name: self.writer.replacement(name, rows) for name, rows in self._small_tables().items()}
        steps = sum(row["n_steps"] for row in result.episodes)
        before = self.writer.snapshot.number
        after = self.writer.commit("ingest", changes, {"episodes": len(result.episodes), "steps": steps})
        self.steps += steps
        if after.number != before:
            self.bytes_out += sum(part.size for change in changes.values() for part in change.add)

    def _small_tables(self) -> Mapping[str, pa.Table]:
        """The whole content of every table but `steps` and `frames`."""
        metadata = self.metadata
        return {
            EPISODES.name: pa.Table.from_pylist(list(self.episodes.values()), EPISODES.schema),
            "environments": self._upserted("environments", ["environment_id"], metadata.environments.values()),
            "users": self._upserted("users", ["user_id"], metadata.users.values()),
            "keyword_data": self._upserted(
                "keyword_data",
                ["episode_id", "agent_id", "key"],
                [row for row in metadata.keyword_data.values() if row["episode_id"] in self.episodes],
            ),
            "environment_keyword_data": self._upserted(
                "environment_keyword_data",
                ["environment_id", "agent_id", "key"],
                metadata.environment_keyword_data.values(),
            ),
            "rejected": pa.Table.from_pylist(list(self.rejected.values()), TABLES["rejected"].schema),
        }

    def _upserted(self, name: str, key: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> pa.Table:
        """The table with ``rows`` put in by ``key``; a row that is there already keeps the commit that wrote it."""
        table: Table = TABLES[name]
        number = self.writer.snapshot.number + 1
        merged = {tuple(row[k] for k in key): row for row in self.writer.snapshot.read(name).to_pylist()}
        # value_json tells values apart; in value_double NaN would differ from itself.
        columns = [c for c in table.schema.names if c not in ("commit", "value_double", table.partition)]
        for row in rows:
            identity = tuple(row[k] for k in key)
            known = merged.get(identity)
            if known is None or any(known[c] != row.get(c) for c in columns):
                merged[identity] = {**row, "commit": number}
        if table.partition is not None:
            # Rows follow their episode, also those that an earlier ingest wrote.
            for row in merged.values():
                row[table.partition] = self.episodes[row["episode_id"]][table.partition]
        schema = table.schema
        return pa.Table.from_pylist([{c: row.get(c) for c in schema.names} for row in merged.values()], schema)


def _completed(told: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """``told``, and where it says nothing, what is ``known``."""
    return {
        name: known[name] if value in (None, UNKNOWN) and known.get(name) is not None else value
        for name, value in told.items()
    }


def _has_changed(file: RawFile, known: Mapping[str, Any]) -> bool:
    """Whether a file holds other bytes than when it was ingested. One that only has another date is read to tell.

    The episode in another packing (repacked to gzip, say) is not the same file, and no change of it.
    """
    if Path(file.name).name != Path(known["source_name"]).name:
        return False
    if file.size != known["source_bytes"]:
        return True
    if file.stamp == known["source_stamp"]:
        return False
    with file.open() as opened:
        return opened.sha256() != str(known["source_sha256"])


def _is_of(name: str, metadata_names: Iterable[str]) -> bool:
    """Whether a rejection's name is that of a metadata file, or of a value in one."""
    return any(name == file or name.startswith(f"{file}/") for file in metadata_names)


def _is_form_of(name: str, episode_id: str) -> bool:
    """Whether a file of that name would be this episode, however it is packed."""
    split = split_name(Path(name).name)
    return split is not None and split[0] == episode_id
