"""What an ingest knows of the lake: its small tables as they are and as they will be with the next commit."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from crowdplay_lake.commit import Change, Writer
from crowdplay_lake.errors import RawDataError
from crowdplay_lake.keywords import put_keyword_rows
from crowdplay_lake.removal import REMOVED, Kind, is_removed, removal_mark
from crowdplay_lake.schema import ENVIRONMENT_KEYWORD_DATA, EPISODES, KEYWORD_DATA, TABLES, UNKNOWN, Table

from .metadata import Metadata
from .sources import RawFile, split_name
from .tasks import Rejection

__all__ = ["Catalog", "Sorted"]

Row = dict[str, Any]


@dataclass
class Sorted:
    """The raw files of a source, by what is to be done with them."""

    new: list[RawFile] = field(default_factory=list)
    unchanged: list[RawFile] = field(default_factory=list)
    changed: list[RawFile] = field(default_factory=list)  # other bytes than the lake has
    unreadable: list[Rejection] = field(default_factory=list)  # the lake has them, and can't tell whether they changed
    removed: list[RawFile] = field(default_factory=list)  # taken out of the lake on purpose
    refused: list[RawFile] = field(default_factory=list)  # as they were when they were refused


class Catalog:
    """Rows of `episodes` and `rejected`, and the metadata that a run brings."""

    def __init__(self, writer: Writer, metadata: Metadata, source: str, game: str | None) -> None:
        self._writer = writer
        self._metadata = metadata
        self._source = source
        self.episodes: dict[str, Row] = {
            row["episode_id"]: row for row in writer.snapshot.read(EPISODES.name).to_pylist()
        }
        self.rejected: dict[tuple[str, str], Row] = {
            (row["source"], row["name"]): row for row in writer.snapshot.read("rejected").to_pylist()
        }
        self._marks = {name for _, name in self.rejected if name.startswith("removed ")}
        self._game = game
        # Episodes whose game the metadata tells otherwise than when they were ingested, and the game.
        self.moving: dict[str, str] = {}
        # Episodes that are in, and to be taken out: the metadata tells that they are of what was removed.
        self.leaving: set[str] = set()
        self._touched: set[str] = set()
        self._gone: set[str] = set()  # episodes, environments and users, of which no table keeps a row
        self._left_out = self._leave_out_removed()
        self._complete_environments(game)
        self._has_new_metadata = True
        self._merge_metadata()

    # Files

    def sort_out(self, files: Iterable[RawFile], rehash: bool, retry_rejected: bool) -> Sorted:
        """What is to be done with the files of the source. Reads those whose stamp alone differs, to tell."""
        found = Sorted()
        for file in files:
            known = self.episodes.get(file.episode_id)
            refused = self.rejected.get((self._source, file.name))
            is_in = known is not None and known["n_steps"] is not None
            is_out = file.episode_id in self._left_out or is_removed("episode", file.episode_id, self._marks)
            if is_out and (not is_in or file.episode_id in self.leaving):
                found.removed.append(file)
            elif known is not None and is_in:
                known = self._in_game_given(known)
                try:
                    if self._has_changed(file, known, rehash):
                        found.changed.append(file)
                    else:
                        found.unchanged.append(file)
                        # What was wrong with it for a while is right again.
                        self.rejected.pop((self._source, file.name), None)
                except (OSError, RawDataError) as error:
                    reason = f"cannot be read again ({error}); the lake keeps what it has"
                    found.unreadable.append(Rejection(file.name, file.size, None, None, reason))
            elif refused is not None and not retry_rejected and _is_as_it_was(file, refused):
                found.refused.append(file)
            else:
                found.new.append(file)
        return found

    def _has_changed(self, file: RawFile, known: Row, rehash: bool) -> bool:
        """Whether a file holds other bytes than when it was ingested.

        The episode in another packing (repacked to gzip, say) is not the same file, and no change of it.
        """
        if PurePosixPath(file.name).name != PurePosixPath(known["source_name"]).name:
            return False
        if file.size != known["source_bytes"]:
            return True
        if file.stamp == known["source_stamp"] and not rehash:
            return False
        with file.open() as opened:
            if opened.sha256() != known["source_sha256"]:
                return True
        if file.stamp != known["source_stamp"]:
            known["source_stamp"] = file.stamp
            self._touched.add(known["game"])
        return False

    def _in_game_given(self, known: Row) -> Row:
        """The row of an episode; one that came in when nobody told its game moves to the one that is given now."""
        row = self._described(known["episode_id"])
        if row["game"] == known["game"]:
            return known
        self.moving[row["episode_id"]] = row["game"]
        self._touched |= {row["game"], known["game"]}
        self.episodes[row["episode_id"]] = row
        return row

    def game_of(self, file: RawFile) -> str:
        """The game whose partition the file's episode goes to."""
        return str(self._described(file.episode_id)["game"])

    def reject(self, rejections: Iterable[Rejection]) -> None:
        """Enter what was refused; one that was refused before, for the same reason, keeps its time."""
        for rejection in rejections:
            row = {"source": self._source, **vars(rejection), "time": datetime.now(UTC)}
            key = (self._source, rejection.name)
            known = self.rejected.get(key)
            if known is None or any(known[name] != row[name] for name in row if name != "time"):
                self.rejected[key] = row

    def rejected_metadata(
        self, files: Collection[str], unreadable: Collection[str], found: Iterable[Rejection]
    ) -> None:
        """Enter what is wrong with the metadata, and what could not be looked at; forget what was and is not any more.

        ``files``: names of the metadata files; ``unreadable``: of the folders and files that could not be looked at.
        What is below such a folder stays as it was told before.
        """
        before, files, folders = self.rejected, set(files), set(unreadable)

        def is_told_anew(name: str, row: Row) -> bool:
            above = _and_above(name)
            return not files.isdisjoint(above) or (_is_place(row) and folders.isdisjoint(above - {name}))

        self.rejected = {
            (source, name): row
            for (source, name), row in before.items()
            if source != self._source or not is_told_anew(name, row)
        }
        self.reject(found)
        for key, row in self.rejected.items():
            if key in before and all(before[key][name] == row[name] for name in row if name != "time"):
                self.rejected[key] = before[key]

    def rejections(self, names: Collection[str]) -> list[Rejection]:
        """What is rejected of the source's files of these names, and of values in them."""
        columns = ("name", "bytes", "sha256", "stamp", "reason", "step")
        wanted = set(names)
        return [
            Rejection(*(row[column] for column in columns))
            for (source, name), row in sorted(self.rejected.items())
            if source == self._source and not wanted.isdisjoint(_and_above(name))
        ]

    # Episodes

    def _described(self, episode_id: str) -> Row:
        """The row as the metadata tells it: of this run, or else of an earlier one."""
        known = self.episodes.get(episode_id, dict.fromkeys(EPISODES.schema.names))
        if episode_id in self._metadata.environment_of or known["game"] in (None, UNKNOWN):
            told = self._metadata.episode_columns(episode_id)
            if told["game"] == UNKNOWN and self._game is not None:
                told["game"] = self._game
            return {**known, **_completed(told, known), "episode_id": episode_id}
        return dict(known)

    def _leave_out_removed(self) -> set[str]:
        """Take what was removed from the lake out of the metadata, too. Returns the episodes that it was of."""
        if not self._marks:
            return set()
        told = self._metadata
        environments = {name for name in told.environments if is_removed("environment", name, self._marks)}
        gone = {
            user_id: row["environment_id"]
            for user_id, row in told.users.items()
            if row["environment_id"] in environments
            or is_removed("participant", row["permanent_user_id"] or "", self._marks)
        }
        environments |= {*gone.values()} - {None}
        episodes = {
            episode_id
            for episode_id, environment_id in told.environment_of.items()
            if environment_id in environments or is_removed("episode", episode_id, self._marks)
        }
        # Whom they played with, of earlier runs too.
        known = {row["user_id"]: row for row in self._writer.snapshot.read("users").to_pylist()} if environments else {}
        users = {*gone, *(n for n, row in {**known, **told.users}.items() if row["environment_id"] in environments)}
        told.leave_out(episodes, environments, users)
        # Rows that came before anybody could tell whose they are.
        self.leaving = {e for e, row in self.episodes.items() if e in episodes or row["environment_id"] in environments}
        self._gone = {*self.leaving, *environments, *users}
        self._touched |= {self.episodes[episode_id]["game"] for episode_id in self.leaving}
        # Known by themselves from here on, also to who has no such metadata.
        for environment_id in environments:
            self._mark_removed("environment", environment_id)
        for episode_id in {*episodes, *self.leaving}:
            self._mark_removed("episode", episode_id)
        return {*episodes, *self.leaving}

    def _mark_removed(self, kind: Kind, identity: str) -> None:
        name = removal_mark(kind, identity)
        if ("", name) not in self.rejected:
            now = datetime.now(UTC)
            row = dict.fromkeys(TABLES["rejected"].schema.names)
            self.rejected["", name] = {**row, "source": "", "name": name, "reason": REMOVED, "time": now}

    def _complete_environments(self, game: str | None) -> None:
        """What the metadata leaves out of an environment, it has not taken back: an earlier run's values stay."""
        known = {row["environment_id"]: row for row in self._writer.snapshot.read("environments").to_pylist()}
        environments = self._metadata.environments
        for environment_id in {*environments, *self._metadata.environment_of.values()} & known.keys():
            told = environments.get(environment_id, {})
            environments[environment_id] = {**known[environment_id], **_completed(told, known[environment_id])}
        if game is not None:
            for row in environments.values():
                if row.get("game", UNKNOWN) == UNKNOWN:
                    row["game"] = game

    def _merge_metadata(self) -> None:
        """Rows of `episodes` for what the metadata knows; an episode with a trajectory keeps it."""
        for episode_id in self._metadata.environment_of:
            row = self._described(episode_id)
            known = self.episodes.get(episode_id)
            if known is not None and known["n_steps"] is not None and known["game"] != row["game"]:
                self.moving[episode_id] = row["game"]
            if row != known:
                self._touched |= {row["game"], known["game"]} if known is not None else {row["game"]}
                self.episodes[episode_id] = row

    def take(self, episodes: Iterable[Row]) -> None:
        """Enter episodes that were converted: their facts, and where their rows are."""
        unplaced = {row["episode_id"] for row in self._metadata.keyword_data.values()} - self.episodes.keys()
        taken = set()
        for row in episodes:
            episode_id = row["episode_id"]
            taken.add(episode_id)
            self.episodes[episode_id] = {**self._described(episode_id), **row}
            self._touched.add(self.episodes[episode_id]["game"])
            self._has_new_metadata |= episode_id in unplaced
        # What was refused in an earlier form, and is in now.
        self.rejected = {key: row for key, row in self.rejected.items() if _episode_of(key[1]) not in taken}

    def take_out(self) -> None:
        """Forget the episodes that are `leaving`: their rows are in no part of the next commit any more."""
        for episode_id in self.leaving:
            self.episodes.pop(episode_id, None)

    # Tables

    def changes(self) -> dict[str, Change]:
        """What a commit has to do to the small tables."""
        changed = [row for row in self.episodes.values() if row["game"] in self._touched]
        rows = pa.Table.from_pylist(changed, EPISODES.schema)
        replacement = self._writer.replacement
        found = {EPISODES.name: replacement(EPISODES.name, rows, self._touched)}
        rejected = pa.Table.from_pylist(list(self.rejected.values()), TABLES["rejected"].schema)
        found["rejected"] = replacement("rejected", rejected)
        if self._has_new_metadata:
            found |= {name: replacement(name, rows) for name, rows in self._metadata_tables().items()}
        return found

    def committed(self) -> None:
        """The last `changes` are in the lake."""
        self._touched = set()
        self.moving = {}
        self.leaving = set()
        self._has_new_metadata = False

    def _metadata_tables(self) -> Mapping[str, pa.Table]:
        metadata = self._metadata
        of_episodes = self._with_keywords(
            KEYWORD_DATA, [row for row in metadata.keyword_data.values() if row["episode_id"] in self.episodes]
        )
        # Rows follow their episode, also those that an earlier ingest wrote.
        game = [self.episodes[episode_id]["game"] for episode_id in of_episodes["episode_id"].to_pylist()]
        at = of_episodes.schema.get_field_index("game")
        return {
            "environments": self._upserted("environments", "environment_id", metadata.environments.values()),
            "users": self._upserted("users", "user_id", metadata.users.values()),
            KEYWORD_DATA.name: of_episodes.set_column(at, "game", pa.array(game, pa.string())),
            ENVIRONMENT_KEYWORD_DATA.name: self._with_keywords(
                ENVIRONMENT_KEYWORD_DATA, metadata.environment_keyword_data.values()
            ),
        }

    def _kept(self, table: Table, key: str) -> pa.Table:
        """The table's rows but of those who leave."""
        rows = self._writer.snapshot.read(table.name)
        return rows.filter(pc.invert(pc.is_in(rows[key], value_set=pa.array(sorted(self._gone), pa.string()))))

    def _with_keywords(self, table: Table, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
        kept = self._kept(table, table.sort[0])
        return put_keyword_rows(table, kept, rows, self._writer.snapshot.number + 1, annotates=False)[0]

    def _upserted(self, name: str, key: str, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
        """The table with ``rows`` put in by ``key``."""
        schema = TABLES[name].schema
        merged = {row[key]: row for row in self._kept(TABLES[name], key).to_pylist()}
        merged |= {row[key]: row for row in rows}
        return pa.Table.from_pylist([{c: row.get(c) for c in schema.names} for row in merged.values()], schema)


def _completed(told: Mapping[str, Any], known: Mapping[str, Any]) -> Row:
    """``told``, and where it says nothing, what is ``known``."""
    return {
        name: known[name] if value in (None, UNKNOWN) and known.get(name) is not None else value
        for name, value in told.items()
    }


def _and_above(name: str) -> set[str]:
    """A name and those of all it lies in: folders, and the file that a value is in."""
    parts = name.split("/")
    return {"/".join(parts[: end + 1]) for end in range(len(parts))}


def _is_place(row: Row) -> bool:
    """Whether a row is of a folder or file that could not even be looked at: see `Source.unreadable`."""
    return not row["bytes"] and row["sha256"] is row["stamp"] is row["step"] is None


def _is_as_it_was(file: RawFile, refused: Row) -> bool:
    return bool((refused["bytes"], refused["stamp"]) == (file.size, file.stamp))


def _episode_of(name: str) -> str | None:
    """The episode that a file of that name would be, however it is packed; None for any other file."""
    split = split_name(PurePosixPath(name).name)
    return None if split is None else split[0]
