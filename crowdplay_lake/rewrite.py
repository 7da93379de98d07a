"""Episodes from parts into new parts of the same game: some of them, and in the order of their ids."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa

from .commit import Change
from .layout import LakePaths, Part
from .parts import EpisodeRows, GameWriter
from .reading import EpisodeReader, in_order
from .schema import FRAMES, STEPS
from .snapshot import Snapshot

__all__ = ["Pair", "pairs_of", "replace_pairs", "rewritten"]

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
    with GameWriter(paths, game) as parts:
        for row, episode in _by_id(EpisodeReader(paths), rows):
            row.update(parts.write(episode))
            if tell is not None:
                tell(row["n_steps"])
        parts.close(added)
    return added


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
