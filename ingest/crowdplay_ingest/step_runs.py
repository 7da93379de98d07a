"""The quick way through a trajectory: steps that are made as one before need no interpreting.

The steps of a recording are the same opcodes again and again, but for numbers and frames. So the shape of a step that
the machine has interpreted (`step_shapes`) is compared with what follows, many steps at once, by compiled code
(`step_kernel`); those that match come out as a `Run`, of which `step_columns` makes rows.

The machine stays the reference, and nothing here knows better:

- Whatever is not the shape to the byte is left to it: other opcodes, other memo entries, the limits' brink, the end of
  a batch, damage. So errors are the machine's, too.
- A shape holds only while the memo entries of earlier steps that it refers to are the very same objects, and only if
  its steps leave no entry behind.
- `Run.step` gives any step of a run, as the machine makes it.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from .machine import DEFAULT_LIMITS, Limits, Reader
from .pickle_state import ROOT, Machine
from .step_shapes import RUN_LENGTH, Shape, shape_of

__all__ = ["Run", "iter_runs"]

_MOST_STEPS = 128  # of a run; some 40 full frames fit the reader's buffer
_MOST_SHAPES = 8
_MOST_ENTRIES = 4_096  # of the memo; recordings leave some 100
_LONGEST_STEP = 2**19
# A shape costs ten steps or so to make. What begins with so many that are of no use will go on like that.
_CREDIT = 32
_STEPS_A_SHAPE = 256  # that matched, after which one more is made


@dataclass(frozen=True, eq=False)
class Run:
    """Steps of one shape that follow each other. To be used before the next is asked for.

    ``numbers``: int64 (steps, holes), see `number`; ``runs``: uint8 (steps, RAMs, 128); ``longs``: int64 (steps,
    frames), where in ``data`` each frame begins; ``step(i)``: step i.
    """

    shape: Shape
    numbers: npt.NDArray[np.int64]
    runs: npt.NDArray[np.uint8]
    longs: npt.NDArray[np.int64]
    data: npt.NDArray[np.uint8]
    step: Callable[[int], Any]

    def __len__(self) -> int:
        return len(self.numbers)

    def number(self, hole: int, start: int, stop: int) -> npt.NDArray[Any]:
        """What is in a hole from step ``start`` to ``stop``, in the hole's dtype."""
        raw = np.ascontiguousarray(self.numbers[start:stop, hole])
        dtype = self.shape.numbers[hole].dtype
        return raw.view(dtype)[:: 8 // dtype.itemsize]


def iter_runs(stream: BinaryIO, limits: Limits = DEFAULT_LIMITS) -> Iterator[Any]:
    """What `iter_items` yields, but steps that are made alike come together, as a `Run`."""
    runs = _Runs(stream, limits)
    reader = runs.reader
    while not reader.run():
        yield from reader.take_ready()
        yield from runs.follow()
    reader.check_end()


class _Runs:
    """Knows the shapes of a trajectory, and looks for their steps in what its reader has read."""

    def __init__(self, stream: BinaryIO, limits: Limits) -> None:
        self.reader = Reader.of_items(stream, limits)
        self._shapes: list[Shape] = []  # the one used last first
        self._credit: float = _CREDIT
        self._begin: tuple[int, int] | None = None  # of the step that the machine interprets: its byte, its first entry

    def follow(self) -> Iterator[Run]:
        """The runs that begin behind the step just interpreted."""
        machine = self.reader.machine
        if not machine.split:  # in between two batches
            self._begin = None
            return
        if self._begin is not None and self._credit > 0:
            self._learn(*self._begin)
        shapes = [shape for shape in self._shapes if not shape.is_refused]
        while (run := self._next(shapes)) is not None:
            self._credit = min(self._credit + len(run) / _STEPS_A_SHAPE, _CREDIT)
            yield run
            if run.shape.is_refused:
                shapes.remove(run.shape)
        self._begin = self.reader.base + self.reader.position, machine.forgotten

    def _learn(self, begin: int, first_entry: int) -> None:
        """Keep the shape of the step that was interpreted last."""
        reader = self.reader
        start = begin - reader.base
        if start < 0 or reader.position - start > _LONGEST_STEP or len(reader.machine.memo) > _MOST_ENTRIES:
            return
        self._credit -= 1
        data, next_entry = bytes(reader.buffer[start : reader.position]), reader.machine.forgotten
        interpret = functools.partial(_interpret, reader, next_entry)
        shape = shape_of(data, reader.machine.memo, first_entry, next_entry, interpret)
        if shape is not None:
            self._shapes = [shape, *self._shapes[: _MOST_SHAPES - 1]]

    def _next(self, shapes: list[Shape]) -> Run | None:
        """The steps at the reader's position that have one of these shapes."""
        for shape in shapes:
            run, is_short = self._match(shape)
            if is_short and run is None and self.reader.read_on():
                run, _ = self._match(shape)
            if run is not None:
                for known in (shapes, self._shapes):
                    known.remove(shape)
                    known.insert(0, shape)
                return run
        return None

    def _match(self, shape: Shape) -> tuple[Run | None, bool]:
        """The run of this shape at the reader's position, if any, and whether the buffer ended before it did."""
        reader, limits = self.reader, self.reader.limits
        machine = reader.machine
        data = np.frombuffer(reader.buffer, np.uint8)
        numbers = np.empty((_MOST_STEPS, len(shape.numbers)), np.int64)
        runs = np.empty((_MOST_STEPS, len(shape.runs), RUN_LENGTH), np.uint8)
        longs = np.empty((_MOST_STEPS, len(shape.longs)), np.int64)
        ends = np.empty(_MOST_STEPS, np.int64)
        most = min(limits.max_step_bytes, limits.max_opcodes_per_step + shape.payload)
        start, entry = reader.position, machine.forgotten
        end = min(machine.end, limits.max_file_bytes - reader.base)
        n, is_short = _kernel()(
            data, start, end, most, shape.operations, shape.literals, entry, numbers, runs, longs, ends
        )
        if n == 0:
            return None, is_short and end == machine.end
        if not _holds(shape, machine, limits):
            shape.is_refused = True
            return None, False

        def step(index: int) -> Any:
            begin = ends[index - 1] if index else start
            return _interpret(reader, entry + index * shape.entries, bytes(reader.buffer[begin : ends[index]]))

        reader.skip_steps(n, int(ends[n - 1]), n * shape.entries)
        return Run(shape, numbers[:n], runs[:n], longs[:n], data, step), is_short


def _holds(shape: Shape, machine: Machine, limits: Limits) -> bool:
    """Whether the memo is as it was for the steps of this shape."""
    memo = machine.memo
    if len(memo) > _MOST_ENTRIES or len(memo) + shape.entries > limits.max_memo_entries:
        return False
    # A later entry would be stored over, which no pickler does.
    return max(memo, default=-1) < machine.forgotten and all(
        memo.get(index) is value for index, value in shape.recalled.items()
    )


def _interpret(reader: Reader, first_entry: int, data: bytes) -> Any:
    """The step of these bytes, which begin behind its EMPTY_DICT and end behind the next, as the machine makes it.

    Raises RawDataError; ValueError where it would leave something in the memo.
    """
    other = Reader(io.BytesIO(data), reader.limits, drain=True, chunk=len(data) + 1, in_a_row=1)
    machine, memo = other.machine, reader.machine.memo
    machine.memo.update(memo)
    machine.forgotten = first_entry
    machine.outer.append([ROOT])
    machine.stack.append({})
    other.run()
    machine.forget()
    if other.base + other.position != len(data) or len(machine.ready) != 1 or machine.memo != memo:
        raise ValueError("another step, or memo entries that stay")
    return machine.ready[0]


@functools.cache
def _kernel() -> Callable[..., tuple[int, bool]]:
    from .step_kernel import match

    return match
