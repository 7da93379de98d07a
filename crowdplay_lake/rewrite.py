"""Episodes from parts into new parts: some of a game's, in the order of their ids, or those of another game."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import pyarrow as pa

from .commit import Change, Writer
from .games import ACTION_MEANINGS, is_frame_limit
from .layout import LakePaths, Part, read_rows
from .parts import EpisodeRows, GameWriter
from .reading import EpisodeReader, in_order
from .schema import FRAMES, RAM_COLUMNS, STEPS
from .snapshot import Snapshot

__all__ = ["Pair", "moved", "pairs_of", "replace_pairs", "rewritten"]

Row = MutableMapping[str, Any]


@dataclass(frozen=True)
class Pair:
    """A part of `steps` and the part of `frames` with the same episodes: they are written together."""

    steps: Part
    frames: Part
    rows: Sequence[Row]  # of its episodes, in `episodes`

    @property
    def size(self) -> int:
        """Bytes of the larger of the two."""
        return max(self.steps.size, self.frames.size)

    @property
    def is_packed(self) -> bool:
        """Whether both are compressed as well as can be."""
        return self.steps.is_packed and self.frames.is_packed


def pairs_of(snapshot: Snapshot, rows: Iterable[Row]) -> list[Pair]:
    """The parts in which episodes lie; ``rows``: all rows of `episodes` of one game or more."""
    steps = {part.path: part for part in snapshot.parts(STEPS.name)}
    frames = {part.path: part for part in snapshot.parts(FRAMES.name)}
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["n_steps"] is not None:
            found.setdefault((row["steps_part"], row["frames_part"]), []).append(row)
    return [Pair(steps[s], frames[f], own) for (s, f), own in sorted(found.items())]


def rewritten(
    paths: LakePaths, game: str, rows: Sequence[Row], tell: Callable[[int], None] | None = None
) -> dict[str, list[Part]]:
    """Write episodes of a game into one new pair of parts, by id. ``rows`` are brought up to date.

    Returns the parts by table; a commit has to name them. ``tell`` is told of each episode's steps.
    """
    added: dict[str, list[Part]] = {STEPS.name: [], FRAMES.name: []}
    with GameWriter(paths, game, lasting=True) as parts:
        for row, episode in _by_id(EpisodeReader(paths), rows):
            row.update(parts.write(episode))
            if tell is not None:
                tell(row["n_steps"])
        parts.close(added)
    return added


def moved(
    writer: Writer, episodes: Mapping[str, Row], games: Mapping[str, str], gone: Collection[str] = ()
) -> dict[str, Change]:
    """Move episodes to the partitions of other ``games`` (by id), and leave out the rows of those that are ``gone``.

    The parts they lie in are written anew, for the episodes that stay in them too. ``episodes`` (all rows of the
    table, by id) is brought up to date, but for those that are gone.
    """
    snapshot = writer.snapshot
    rows = _sharing_parts([r for r in episodes.values() if r["n_steps"] is not None], {*games, *gone})
    left = {STEPS.name: {r["steps_part"] for r in rows}, FRAMES.name: {r["frames_part"] for r in rows}}
    changes = {t: Change([], [p for p in snapshot.parts(t) if p.path in paths]) for t, paths in left.items()}
    added: dict[str, list[Part]] = {STEPS.name: [], FRAMES.name: []}
    reader = EpisodeReader(snapshot.paths)
    staying = sorted((row for row in rows if row["episode_id"] not in gone), key=_game_and_id)
    for game, group in itertools.groupby(staying, key=lambda row: str(row["game"])):
        with GameWriter(snapshot.paths, game, lasting=True) as parts:
            for row in group:
                whole = reader.read(row)
                if row["episode_id"] in games:
                    row.update(_of_game(game, row, snapshot.paths))
                row.update(parts.write(whole))
            parts.close(added)
    for table, parts_of_table in added.items():
        changes[table].add += parts_of_table
    return changes


def _sharing_parts(rows: Sequence[Row], ids: Collection[str]) -> list[Row]:
    """The rows of these episodes, and of all that lie in the same parts, or in the same as those."""
    steps: set[str] = set()
    frames: set[str] = set()
    found: list[Row] = []
    more = [row for row in rows if row["episode_id"] in ids]
    while len(more) > len(found):
        found = more
        steps |= {row["steps_part"] for row in found}
        frames |= {row["frames_part"] for row in found}
        more = [row for row in rows if row["steps_part"] in steps or row["frames_part"] in frames]
    return found


def _game_and_id(row: Row) -> tuple[str, str]:
    return row["game"], row["episode_id"]


def _of_game(game: str, row: Row, paths: LakePaths) -> dict[str, Any]:
    """What the game decides: the names of the actions, and whether an end with lives left is the game's own."""
    limits = []
    n = row["n_steps"]
    columns = ["lives", "done_all", *RAM_COLUMNS]
    for agent, step, at_limit in zip(row["agents"], row["first_done_step"], row["frame_limit_reached"], strict=True):
        if step is not None:
            first = row["steps_first_row"] + sorted(row["agents"]).index(agent) * n
            _, own = read_rows(paths, STEPS.name, row["steps_part"], first, first + step + 1, columns)
            ram = own.select(RAM_COLUMNS).slice(step, 1).to_pylist()[0].values()
            known = None if None in ram else np.array(list(ram), np.uint8)
            everybody = own["done_all"][step].as_py()
            *before, lives = own["lives"].to_pylist()
            at_limit = bool(everybody) and is_frame_limit(game, step, lives, 0 in before, known)
        limits.append(at_limit)
    meanings = ACTION_MEANINGS.get(game)
    return {"frame_limit_reached": limits, "action_meanings": None if meanings is None else list(meanings)}


def replace_pairs(pairs: Iterable[Pair], added: Mapping[str, Sequence[Part]]) -> dict[str, Change]:
    """The change of `steps` and `frames` that puts new parts in the place of pairs."""
    pairs = list(pairs)
    return {
        STEPS.name: Change(list(added[STEPS.name]), [pair.steps for pair in pairs]),
        FRAMES.name: Change(list(added[FRAMES.name]), [pair.frames for pair in pairs]),
    }


def _by_id(reader: EpisodeReader, rows: Sequence[Row]) -> Iterator[tuple[Row, EpisodeRows]]:
    """Episodes by id. Row groups are decoded once: where they lie in another order, the rows wait on disk."""
    as_they_lie = sorted(rows, key=in_order)
    by_id = sorted(rows, key=lambda row: str(row["episode_id"]))
    if as_they_lie == by_id:
        yield from ((row, reader.read(row)) for row in by_id)
        return
    with tempfile.TemporaryFile() as file:
        spool = _Spool(file)
        waiting = {row["episode_id"]: spool.put(reader.read(row)) for row in as_they_lie}
        yield from ((row, spool.get(waiting[row["episode_id"]])) for row in by_id)


@dataclass(frozen=True)
class _Place:
    """Where a piece waits in the spool."""

    schema: pa.Schema
    offset: int
    packed: int
    size: int


class _Spool:
    """Rows of episodes in a temporary file, lightly compressed: most of RAM repeats itself."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._codec = pa.Codec("zstd", compression_level=1)

    def put(self, episode: EpisodeRows) -> tuple[list[_Place], list[list[_Place]]]:
        steps = [self._put(piece) for piece in episode.steps]
        return steps, [[self._put(piece) for piece in pieces] for pieces in episode.frames]

    def get(self, places: tuple[list[_Place], list[list[_Place]]]) -> EpisodeRows:
        steps, frames = places
        return EpisodeRows(map(self._get, steps), [map(self._get, pieces) for pieces in frames])

    def _put(self, piece: pa.Table) -> _Place:
        (batch,) = piece.combine_chunks().to_batches()
        data = batch.serialize()
        packed = self._codec.compress(data, asbytes=True)
        place = _Place(batch.schema, self._file.tell(), len(packed), data.size)
        self._file.write(packed)
        return place

    def _get(self, place: _Place) -> pa.Table:
        self._file.seek(place.offset)
        data = self._codec.decompress(self._file.read(place.packed), place.size)
        return pa.Table.from_batches([pa.ipc.read_record_batch(data, place.schema)])
