"""Change logs in memory, packed: they take a fraction of a hundredth of the frames, and of what is made from them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..errors import InvalidLake
from ..frame_log import FrameLog, read_group
from ..layout import LakePaths, group_starts
from ..pixels import DAMAGED, ChangeLog, Screen
from ..schema import FRAMES

__all__ = ["PackedLog", "PackedLogs"]

CODEC = "lz4_raw"
# What a block takes beside its bytes.
OVERHEAD = 300


@dataclass(frozen=True, slots=True)
class _Block:
    """A keyframe and the changes after it, up to the next keyframe."""

    rows: int
    pixels: int
    changes: int
    packed: bytes  # how many changes each row has but the first (uint16), gaps, colours

    @classmethod
    def of(cls, log: ChangeLog, start: int, stop: int) -> _Block:
        gaps, colors = log.gap_ends[start : stop + 1], log.color_ends[start : stop + 1]
        counts, pixels = np.diff(gaps), int(colors[1] - colors[0])
        if counts[0] or not np.array_equal(counts[1:], np.diff(colors)[1:]):
            raise InvalidLake(DAMAGED)
        pieces = counts[1:].astype("<u2"), log.gaps[gaps[0] : gaps[-1]], log.colors[colors[0] : colors[-1]]
        packed = pa.compress(b"".join(piece.tobytes() for piece in pieces), CODEC, asbytes=True)
        return cls(stop - start, pixels, int(gaps[-1] - gaps[0]), packed)

    @property
    def size(self) -> int:
        """Bytes in memory, about."""
        return len(self.packed) + OVERHEAD

    def log(self, first: int) -> ChangeLog:
        n, changes = self.rows - 1, self.changes
        flat = np.frombuffer(pa.decompress(self.packed, 2 * n + 3 * changes + self.pixels, CODEC), np.uint8)
        gap_ends = np.zeros(self.rows + 1, np.int64)
        np.cumsum(flat[: 2 * n].view("<u2"), out=gap_ends[2:])
        color_ends = gap_ends + self.pixels
        color_ends[0] = 0
        keyframe = np.zeros(self.rows, np.bool_)
        keyframe[0] = True
        gaps = flat[2 * n : 2 * (n + changes)].view("<u2")
        return ChangeLog(first, keyframe, gap_ends, gaps, color_ends, flat[2 * (n + changes) :])


class PackedLogs:
    """The change logs of a lake, read once and kept packed until ``memory`` bytes are full.

    What is in stays in: who samples at random gains nothing from what was asked for last. What there is no room for is
    read from the lake each time. Can be used by several threads, and after a fork; pickled, it is empty.
    """

    def __init__(self, paths: LakePaths, memory: int) -> None:
        self._paths = paths
        self._memory = memory
        self._forget()

    def _forget(self) -> None:
        # By part and row: the keyframes of a row group that was read, and what begins with each.
        self._keyframes: dict[tuple[str, int], npt.NDArray[np.int64]] = {}
        self._blocks: dict[tuple[str, int], _Block] = {}
        self._groups: dict[str, npt.NDArray[np.int64]] = {}
        self._last: tuple[tuple[str, int], ChangeLog] | None = None
        self.used = 0
        self._renew_lock()

    def _renew_lock(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[PackedLogs], tuple[LakePaths, int]]:
        return PackedLogs, (self._paths, self._memory)

    def log(self, part: str, first: int, last: int) -> ChangeLog:
        """Rows of a part of `frames`, from the keyframe at or before ``first`` to ``last`` or beyond."""
        found = []
        row = first
        while row <= last:
            found.append(self._from_keyframe(part, row))
            row = found[-1].first_step + len(found[-1])
        return _joined(found)

    def _from_keyframe(self, part: str, row: int) -> ChangeLog:
        """The rows from the keyframe at or before ``row`` up to the next one."""
        groups = self._groups.get(part)
        if groups is None:
            groups = self._groups[part] = group_starts(self._paths, FRAMES.name, part)
        number = int(groups.searchsorted(row, side="right"))
        group, next_group = int(groups[number - 1]), int(groups[number])
        keyframes = self._keyframes.get((part, group))
        if keyframes is not None:
            start = int(keyframes[keyframes.searchsorted(row, side="right") - 1])
            block = self._blocks.get((part, start))
            if block is not None:
                return block.log(start)
        log = self._read(part, group, next_group)
        starts = np.flatnonzero(log.keyframe) + group
        at = int(np.searchsorted(starts, row, side="right"))
        if at == 0:
            raise InvalidLake(DAMAGED)
        stop = int(starts[at]) if at < len(starts) else next_group
        return log.within(int(starts[at - 1]), stop - 1, 0)

    def _read(self, part: str, group: int, next_group: int) -> ChangeLog:
        key = part, group
        last = self._last
        if last is not None and last[0] == key:
            return last[1]
        log = read_group(self._paths, part, group, next_group)
        self._last = key, log
        if key not in self._keyframes:
            self._keep(part, log)
        return log

    def _keep(self, part: str, log: ChangeLog) -> None:
        starts = np.flatnonzero(log.keyframe)
        stops = np.append(starts[1:], len(log)).tolist()
        for start, stop in zip(starts.tolist(), stops, strict=True):
            if self.used >= self._memory:
                break
            self._add((part, log.first_step + start), _Block.of(log, start, stop))
        self._keyframes[part, log.first_step] = starts + log.first_step

    def _add(self, key: tuple[str, int], block: _Block) -> None:
        if self._process != os.getpid():
            # Whoever held it may have been left behind by the fork.
            self._renew_lock()
        with self._lock:
            if key not in self._blocks:
                self._blocks[key] = block
                self.used += block.size


def _joined(logs: Sequence[ChangeLog]) -> ChangeLog:
    if len(logs) == 1:
        return logs[0]
    gaps, colors = ([len(getattr(log, name)) for log in logs] for name in ("gaps", "colors"))
    return ChangeLog(
        logs[0].first_step,
        np.concatenate([log.keyframe for log in logs]),
        _joined_ends([log.gap_ends for log in logs], gaps),
        np.concatenate([log.gaps for log in logs]),
        _joined_ends([log.color_ends for log in logs], colors),
        np.concatenate([log.colors for log in logs]),
    )


def _joined_ends(ends: Sequence[npt.NDArray[np.int64]], lengths: Sequence[int]) -> npt.NDArray[np.int64]:
    before = np.cumsum([0, *lengths[:-1]])
    return np.concatenate([[0], *(own[1:] + shift for own, shift in zip(ends, before, strict=True))])


class PackedLog:
    """The change log of one screen, through `PackedLogs`."""

    def __init__(self, logs: PackedLogs, frames: FrameLog) -> None:
        self._logs = logs
        self._frames = frames

    @property
    def screen(self) -> Screen:
        return self._frames.screen

    def __len__(self) -> int:
        return len(self._frames)

    def log(self, first_step: int, last_step: int) -> ChangeLog:
        first = self._frames.first_row
        log = self._logs.log(self._frames.part, first + first_step, first + last_step)
        return replace(log, first_step=log.first_step - first)

    def stretches(self, first_step: int, last_step: int) -> Iterator[tuple[int, int]]:
        return self._frames.stretches(first_step, last_step)
