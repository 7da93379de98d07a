"""The growing rows of one episode, kept small until they are written.

Nothing of an episode may be written before all of it is known to be sound, and its agents' rows follow each other,
while its steps come agent by agent. So what has come waits, in pieces of some 2,000 rows, each an Arrow table
compressed at the codec's quickest: a tenth of what the rows take as Python objects or less.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from crowdplay_lake.errors import LimitExceeded
from crowdplay_lake.pixels import ScreenEncoder
from crowdplay_lake.schema import FRAMES, RAM_BYTES, RAM_COLUMNS, STEPS

__all__ = ["AgentRows", "FirstDone", "Held", "Pieces", "Rows", "ScreenRows"]

_OPTIONS = pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd", compression_level=1), use_threads=False)
_IDENTITY = ("episode_id", "agent_id", "step")
# Rows of a recording are compressed to a tenth at best; so many times what they may take compressed is too much.
_MOST_TIMES = 16
_ALONE = pa.ipc.IpcReadOptions(use_threads=False)


class Held:
    """The bytes that an episode's rows take in memory, and how many they may take."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept = 0
        self._total = 0
        self.pending = 0  # of rows that are in no piece yet

    def keep(self, count: int) -> None:
        """Rows have become a piece of ``count`` bytes."""
        self._kept += count

    def has_room(self, count: int) -> bool:
        """Whether rows of ``count`` bytes could come."""
        most = min(_MOST_TIMES * self._limit - self._total, self._limit - self.pending - self._kept)
        return count <= most

    def add(self, count: int) -> None:
        """Rows of ``count`` bytes have come."""
        self.pending += count
        self._total += count
        if self._total > _MOST_TIMES * self._limit:
            # What says the same again and again takes no room, and all the time of the world.
            raise LimitExceeded(f"the episode's rows take more than {_MOST_TIMES * self._limit:,} bytes")
        if self.pending + self._kept > self._limit:
            raise LimitExceeded(f"the episode's rows take more than {self._limit:,} bytes, even compressed")


class Pieces:
    """Consecutive rows of one agent or screen, as compressed tables of what is the row's own: not whose it is."""

    def __init__(self, schema: pa.Schema, buffers: Iterable[pa.Buffer] = ()) -> None:
        self._schema = schema
        self._buffers = list(buffers)

    def append(self, columns: Mapping[str, Any]) -> int:
        """Keep rows; returns how many bytes that takes."""
        own = [field for field in self._schema if field.name not in _IDENTITY]
        table = pa.table([pa.array(columns[field.name], field.type) for field in own], schema=pa.schema(own))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema, options=_OPTIONS) as writer:
            writer.write_table(table)
        buffer = sink.getvalue()
        self._buffers.append(buffer)
        return int(buffer.size)

    def fork(self) -> Pieces:
        """The same rows so far; nothing changes a piece."""
        return Pieces(self._schema, self._buffers)

    def tables(self, episode_id: str, agent: str) -> Iterator[pa.Table]:
        """The rows as stored, of this episode and agent."""
        first_step = 0
        for buffer in self._buffers:
            own = pa.ipc.open_stream(buffer, options=_ALONE).read_all()
            n = len(own)
            identity = {
                "episode_id": pa.repeat(pa.scalar(episode_id, pa.string()), n),
                "agent_id": pa.repeat(pa.scalar(agent, pa.string()), n),
                "step": pa.array(np.arange(first_step, first_step + n, dtype=np.int32)),
            }
            columns = [identity[name] if name in identity else own[name] for name in self._schema.names]
            yield pa.table(columns, schema=self._schema)
            first_step += n


class Rows(Iterable[pa.Table]):
    """The rows of an episode, agent after agent, as tables that are made when they are asked for, each time anew."""

    def __init__(self, episode_id: str, by_agent: Sequence[tuple[str, Pieces]]) -> None:
        self._episode_id = episode_id
        self._by_agent = by_agent

    def __iter__(self) -> Iterator[pa.Table]:
        for agent, pieces in self._by_agent:
            yield from pieces.tables(self._episode_id, agent)


@dataclass(frozen=True)
class FirstDone:
    """The step after which an agent was done for the first time, and what tells why."""

    step: int
    everybody: bool | None
    lives: int | None
    played_with_none: bool  # whether it was seen playing with 0 lives before
    ram: npt.NDArray[np.uint8] | None


class AgentRows:
    """The rows of `steps` of one agent. What every agent shares, step_iter and done_all, comes with `flush`."""

    def __init__(self) -> None:
        self.pieces = Pieces(STEPS.stored_schema)
        self.first_done: FirstDone | None = None
        self._played_with_none = False
        self._begin()

    def _begin(self) -> None:
        self.action: list[int | None] = []
        self.action_step_iter: list[int | None] = []
        self.reward: list[float | None] = []
        self.done: list[bool | None] = []
        self.user_type: list[int | None] = []
        self.lives: list[int | None] = []
        self.ram = bytearray()
        self.has_ram: list[bool] = []
        self.extra: list[str | None] = []

    def flush(self, first_step: int, step_iter: list[int | None], done_all: list[bool | None]) -> int:
        """Make a piece of the rows so far, which begin at ``first_step``. Returns its bytes."""
        self._look_for_done(first_step, done_all)
        columns: dict[str, Any] = {
            "step_iter": step_iter,
            "action": self.action,
            "action_step_iter": self.action_step_iter,
            "reward": self.reward,
            "done": self.done,
            "done_all": done_all,
            "user_type": self.user_type,
            "lives": self.lives,
            "extra": self.extra,
        }
        no_ram = ~np.array(self.has_ram, np.bool_)
        mask = no_ram if no_ram.any() else None
        by_address = self._ram().T.astype(np.int32, order="C")
        for name, values in zip(RAM_COLUMNS, by_address, strict=True):
            columns[name] = pa.array(values, pa.int32(), mask=mask)
        taken = self.pieces.append(columns)
        self._begin()
        return taken

    def _look_for_done(self, first_step: int, done_all: list[bool | None]) -> None:
        if self.first_done is None and True in self.done:
            at = self.done.index(True)
            ram = self._ram()[at].copy() if self.has_ram[at] else None
            played_with_none = self._played_with_none or 0 in self.lives[:at]
            self.first_done = FirstDone(first_step + at, done_all[at], self.lives[at], played_with_none, ram)
        self._played_with_none = self._played_with_none or 0 in self.lives

    def _ram(self) -> npt.NDArray[np.uint8]:
        return np.frombuffer(self.ram, np.uint8).reshape(-1, RAM_BYTES)


class ScreenRows:
    """The rows of `frames` of one screen."""

    def __init__(self, encoder: ScreenEncoder) -> None:
        self.encoder = encoder
        self.pieces = Pieces(FRAMES.stored_schema)
        self._begin()

    def _begin(self) -> None:
        self._keyframe: list[bool] = []
        self._gaps, self._gap_ends = bytearray(), [0]
        self._colors, self._color_ends = bytearray(), [0]

    def add(self, frame: npt.NDArray[np.uint8]) -> int:
        """The next frame. Returns the bytes of its row."""
        is_keyframe, gaps, colors = self.encoder.add(frame)
        self._keyframe.append(is_keyframe)
        self._gaps += gaps
        self._colors += colors
        self._gap_ends.append(len(self._gaps))
        self._color_ends.append(len(self._colors))
        return len(gaps) + len(colors)

    @property
    def most_bytes(self) -> int:
        """That a row may have."""
        return 3 * self.encoder.pixels

    def add_many(self, data: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64]) -> int | None:
        """The next RGB frames, see `ScreenEncoder.add_many`. Returns the bytes of their rows; None: none is added."""
        added = self.encoder.add_many(data, starts)
        if added is None:
            return None
        ends, gaps, colors = added
        self._keyframe += [False] * len(ends)
        self._gap_ends += (len(self._gaps) + 2 * ends).tolist()
        self._color_ends += (len(self._colors) + ends).tolist()
        self._gaps += gaps
        self._colors += colors
        return len(gaps) + len(colors)

    def fork(self) -> ScreenRows:
        """Rows of a screen that was the same so far."""
        other = ScreenRows(self.encoder.fork())
        other.pieces = self.pieces.fork()
        other._keyframe = list(self._keyframe)
        other._gaps, other._gap_ends = bytearray(self._gaps), list(self._gap_ends)
        other._colors, other._color_ends = bytearray(self._colors), list(self._color_ends)
        return other

    def flush(self) -> int:
        """Make a piece of the rows so far, which begin with a keyframe. Returns its bytes."""
        gaps = _binary(self._gaps, self._gap_ends)
        colors = _binary(self._colors, self._color_ends)
        taken = self.pieces.append({"keyframe": self._keyframe, "gaps": gaps, "colors": colors})
        self._begin()
        return taken


def _binary(data: bytearray, ends: list[int]) -> pa.Array:
    buffers = [None, pa.py_buffer(np.array(ends, np.int32)), pa.py_buffer(data)]
    return pa.BinaryArray.from_buffers(pa.binary(), len(ends) - 1, buffers)
