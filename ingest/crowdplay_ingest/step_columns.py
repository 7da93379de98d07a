"""The steps of a run into rows, a column at a time.

Where in the rows a shape's holes go is not told but found out: its probes, two steps in which every hole holds
something else, are converted like any other, and what differs between their rows has to be what the holes held. So
what a step means is known in `converter` alone. A shape that this does not explain is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from crowdplay_lake.errors import RawDataError
from crowdplay_lake.schema import RAM_BYTES

from .converter import ROW_BYTES, Converter
from .rows import AgentRows
from .step_runs import Run
from .step_shapes import Shape

__all__ = ["RunTaker"]

_BY_AGENT = ("action", "action_step_iter", "reward", "done", "user_type", "lives")
_INT32 = np.iinfo(np.int32)
_LONGEST_TEXT = 2**16
_NUMBER = re.compile(r"(-?\d+(?:\.\d+)?(?:e[-+]?\d+)?)")


class _Unexplained(Exception):
    """The rows of the probes differ in something else, too."""


@dataclass(frozen=True)
class _Column:
    """The values of a column: what is in a hole, or always the same."""

    hole: int | None
    kind: type  # int or float, of a hole
    constant: Any = None

    def values(self, run: Run, start: int, stop: int) -> list[Any]:
        if self.hole is None:
            return [self.constant] * (stop - start)
        return run.number(self.hole, start, stop).astype(self.kind).tolist()  # type: ignore[no-any-return]


@dataclass(frozen=True)
class _Text:
    """The values of `extra`: the same text, but for the numbers in these holes."""

    format: str | None
    holes: tuple[int, ...]

    def values(self, run: Run, start: int, stop: int) -> list[str | None]:
        if self.format is None or not self.holes:
            return [self.format and self.format % ()] * (stop - start)
        columns = [run.number(hole, start, stop).tolist() for hole in self.holes]
        return [self.format % numbers for numbers in zip(*columns, strict=True)]


@dataclass(frozen=True)
class _AgentColumns:
    """The columns of one agent's rows."""

    columns: dict[str, _Column]
    extra: _Text
    ram: int | None  # which of the run's RAMs
    has_ram: bool

    def add_to(self, rows: AgentRows, run: Run, start: int, stop: int) -> None:
        """Append the rows of steps ``start`` to ``stop``, but for `extra`."""
        count = stop - start
        for name, column in self.columns.items():
            getattr(rows, name).extend(column.values(run, start, stop))
        rows.ram += bytes(RAM_BYTES * count) if self.ram is None else run.runs[start:stop, self.ram].tobytes()
        rows.has_ram += [self.has_ram] * count


@dataclass(frozen=True)
class _RunColumns:
    """The columns of the rows of a shape's steps."""

    step_iter: _Column
    done_all: _Column
    agents: list[_AgentColumns]
    wide: list[int]  # holes whose integers may be too large for a column
    floats: list[int]

    def fit(self, run: Run, start: int, stop: int) -> bool:
        """Whether all numbers are such as the probes': no other integers or floats are treated otherwise."""
        wide = run.numbers[start:stop, self.wide]
        if (wide < _INT32.min).any() or (wide > _INT32.max).any():
            return False
        return all(np.isfinite(run.number(hole, start, stop)).all() for hole in self.floats)


class RunTaker:
    """Adds runs to the rows of a converter."""

    def __init__(self, converter: Converter) -> None:
        self._converter = converter
        self._columns: WeakKeyDictionary[Shape, _RunColumns | None] = WeakKeyDictionary()

    def take(self, run: Run, at: int) -> int:
        """Add steps from ``at`` on, all at once. Returns how many; 0 where the next has to be added by itself."""
        converter, shape = self._converter, run.shape
        if shape not in self._columns:
            self._columns[shape] = _columns_of(shape, converter)
        columns = self._columns[shape]
        if columns is None or len(converter.screens) > 1:
            shape.is_refused = True
            return 0
        (screen,) = converter.screens.values()
        # A keyframe is where rows may be put away.
        stop = at + min(len(run) - at, screen.encoder.until_keyframe, converter.steps_left)
        if stop <= at:
            return 0
        if not columns.fit(run, at, stop):
            shape.is_refused = True
            return 0
        texts = [own.extra.values(run, at, stop) for own in columns.agents]
        size = sum(ROW_BYTES + len(text or "") for text in chain.from_iterable(texts))
        if not converter.held.has_room(size + (stop - at) * screen.most_bytes):
            return 0
        size_of_frames = screen.add_many(run.data, run.longs[at:stop, 0])
        if size_of_frames is None:
            return 0
        converter.held.add(size + size_of_frames)
        converter.step_iter += columns.step_iter.values(run, at, stop)
        converter.done_all += columns.done_all.values(run, at, stop)
        for rows, own, extra in zip(converter.rows.values(), columns.agents, texts, strict=True):
            own.add_to(rows, run, at, stop)
            rows.extra += extra
        return stop - at


def _columns_of(shape: Shape, converter: Converter) -> _RunColumns | None:
    """The columns of this shape's steps, None where they are not to be found."""
    try:
        other = converter.begin_alike(shape.probes[0])
        for probe in shape.probes:
            other.add(probe)
        # One screen, and its frames are the only long strings.
        frames = [other.frame(probe["prev_obs"], other.agents[0]) for probe in shape.probes]
        (screen,) = other.screens.values()
        is_rgb = screen.encoder.channels == 3
        if not is_rgb or shape.longs != [tuple(frame.tobytes() for frame in frames)]:
            return None
        return _explain(shape, other)
    except (RawDataError, ValueError, _Unexplained):
        return None


def _explain(shape: Shape, other: Converter) -> _RunColumns:
    """The columns of which the rows of the probes are examples."""
    found = _Found(shape)
    return _RunColumns(
        step_iter=found.column(other.step_iter),
        done_all=found.column(other.done_all),
        agents=[found.agent(rows) for rows in other.rows.values()],
        wide=[number for number, hole in enumerate(shape.numbers) if hole.dtype == np.int64],
        floats=[number for number, hole in enumerate(shape.numbers) if hole.dtype.kind == "f"],
    )


class _Found:
    """Finds the hole that held two values, of the first and of the second probe."""

    def __init__(self, shape: Shape) -> None:
        self._numbers = {hole.probes: number for number, hole in enumerate(shape.numbers)}
        self._runs = {probes: number for number, probes in enumerate(shape.runs)}
        self._texts: dict[tuple[str, str], int] = {}
        for number, hole in enumerate(shape.numbers):
            kind = float if hole.dtype.kind == "f" else int
            first, second = hole.probes
            self._texts[repr(kind(first)), repr(kind(second))] = number

    def agent(self, rows: AgentRows) -> _AgentColumns:
        columns = {name: self.column(getattr(rows, name)) for name in _BY_AGENT}
        has_ram, also = rows.has_ram
        if has_ram is not also:
            raise _Unexplained
        ram = bytes(rows.ram[:RAM_BYTES]), bytes(rows.ram[RAM_BYTES:])
        if has_ram and ram not in self._runs:
            raise _Unexplained
        return _AgentColumns(columns, self._text(rows.extra), self._runs[ram] if has_ram else None, has_ram)

    def column(self, values: Sequence[Any]) -> _Column:
        first, second = values
        if first == second:
            return _Column(None, type(first), first)
        if (first, second) not in self._numbers:
            raise _Unexplained
        return _Column(self._numbers[first, second], type(first))

    def _text(self, values: Sequence[str | None]) -> _Text:
        first, second = values
        if first is None or second is None:
            if first is not second:
                raise _Unexplained
            return _Text(None, ())
        if len(first) > _LONGEST_TEXT:
            raise _Unexplained
        # Every other piece is a number.
        pieces, others = _NUMBER.split(first), _NUMBER.split(second)
        holes = []
        if len(pieces) != len(others):
            raise _Unexplained
        for at, pair in enumerate(zip(pieces, others, strict=True)):
            if pair[0] == pair[1]:
                pieces[at] = pair[0].replace("%", "%%")
            elif pair in self._texts:
                pieces[at] = "%r"
                holes.append(self._texts[pair])
            else:
                raise _Unexplained
        return _Text("".join(pieces), tuple(holes))
