"""What steps that are made alike have in common: their shape, which is their bytes with holes.

A hole is where a number, a RAM or a frame stands, whose value decides nothing but itself. Sizes, keys and all the rest
are no holes: a step in which they differ has another shape. Which is which is told by following the opcodes of one
step (`_Step`); that this was right, by the machine, which makes two steps of the shape with other values in all holes,
the probes. What is not understood has no shape.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from crowdplay_lake.errors import RawDataError

from .pickle_symbols import DType, Symbol
from .pickle_table import WIDTHS

__all__ = [
    "LITERAL",
    "LONG",
    "NUMBER",
    "PUT",
    "RAW",
    "RECALL",
    "RUN",
    "RUN_LENGTH",
    "SKIP",
    "Hole",
    "Shape",
    "shape_of",
]

Interpret = Callable[[bytes], Any]
"""The machine: the step that is made of these bytes, which begin behind its EMPTY_DICT and end behind the next one."""

# Kinds of operations. Each is a row: kind, operand, most bytes that it takes, and of a number the bounds.
LITERAL = 0  # bytes, which begin at the operand in `literals`
PUT = 1  # the next memo entry is made
RECALL = 2  # a memo entry of this step, the operand, is fetched
NUMBER = 3  # BININT, BININT1 or BININT2
RAW = 4  # the bytes of a number, up to 8
RUN = 5  # small integers
LONG = 6  # a long string
SKIP = 7  # any bytes
_HOLES = (NUMBER, RAW, RUN)  # The operand of these and of LONG is the hole's number among those of its kind.

RUN_LENGTH = 128  # a RAM
_LONG_FROM = 256
_MOST_TOKENS = 2_048
_MOST_HOLES = 500
_SIZED = frozenset(b"CBX\x8c\x8e\x96")
_INT = np.dtype(np.int64)
_INT32 = (-(2**31), 2**31 - 1)
# Of timedelta's days, seconds and microseconds: none that is carried over to the next larger one.
_TIME_BOUNDS = ((-999_999_999, 999_999_999), (0, 86_399), (0, 999_999))
_SCALARS = ("<i4", "<i8", "<f4", "<f8")


@dataclass(frozen=True, eq=False)
class Hole:
    """A number that differs from step to step, and its values in the probes."""

    dtype: np.dtype[Any]
    probes: tuple[int, int]


@dataclass(eq=False)
class Shape:
    """Steps that differ in nothing but what is in the holes."""

    probes: tuple[Any, Any]
    size: int  # of one step
    payload: int  # bytes of a step that are content of strings
    recalled: Mapping[int, object]  # memo entries of earlier steps that it refers to
    operations: npt.NDArray[np.int64]  # (n, 5)
    literals: npt.NDArray[np.uint8]
    entries: int  # of the memo, that a step makes
    numbers: list[Hole]
    runs: list[tuple[bytes, bytes]]  # their values in the probes
    longs: list[tuple[bytes, bytes]]
    is_refused: bool = False  # by who was to take steps of it


@dataclass(eq=False)
class _Token:
    """One opcode with its argument, or a run of them."""

    code: int
    start: int
    argument: int  # where the argument begins; of a string, where its content does
    end: int
    kind: int = LITERAL
    operand: int = 0
    dtype: np.dtype[Any] = _INT
    bounds: tuple[int, int] = _INT32


@dataclass(eq=False)
class _Entry:
    """What stands on the stack: what it is made of, or if it is of an earlier step, what it is."""

    items: list[_Entry] = field(default_factory=list)
    token: _Token | None = None
    value: object = None
    is_fixed: bool = False

    def fix(self) -> None:
        """It decides more than a value: it holds no holes."""
        entries = [self]
        while entries:
            entry = entries.pop()
            if not entry.is_fixed:
                entry.is_fixed = True
                entries += entry.items

    def add(self, items: list[_Entry]) -> None:
        self.items += items
        if self.is_fixed:
            for item in items:
                item.fix()


class _Unknown(Exception):
    """Nothing to make a shape of."""


def _tokens(data: bytes) -> list[_Token]:
    tokens: list[_Token] = []
    at = 0
    while at < len(data):
        code, start = data[at], at
        at += 1 + WIDTHS[code]
        token = _Token(code, start, start + 1, at)
        if code in _SIZED:
            token.argument = at
            at += int.from_bytes(data[start + 1 : at], "little")
            if code in b"CB\x8e\x96" and at - token.argument >= _LONG_FROM:
                token.kind = LONG
        elif data[start : start + 2 * RUN_LENGTH : 2] == b"K" * RUN_LENGTH:
            at = start + 2 * RUN_LENGTH
            token.kind = RUN
        elif code in b"KMJ":
            token.kind = NUMBER
        elif code in b"G":
            token.kind, token.dtype = RAW, np.dtype(">f8")
        elif code in b"qr\x94":
            token.kind = PUT
        elif code == 0x95:  # FRAME, whose length is a hint
            token.kind = SKIP
        token.end = at
        tokens.append(token)
        if len(tokens) > _MOST_TOKENS:
            raise _Unknown
    return tokens


class _Step:
    """Follows the opcodes of a step to see what each number is for."""

    def __init__(self, data: bytes, memo: Mapping[int, object], first_entry: int) -> None:
        self._data = data
        self._memo = memo
        self._first_entry = first_entry
        self._stack = [_Entry()]  # the step's dict
        self._marks: list[int] = []
        self._own: list[_Entry] = []  # memo entries of this step
        self.recalled: dict[int, object] = {}

    def follow(self, tokens: list[_Token]) -> None:
        pushed = []
        for token in tokens:
            code = token.code
            if code in b"KMJGNCBX})]\x88\x89\x8c\x8e\x96":
                pushed.append(_Entry(token=token))
                self._stack.append(pushed[-1])
            elif code in b"hj":
                self._recall(token)
            elif code in b"qr\x94":
                if code != 0x94 and self._index(token) != self._first_entry + len(self._own):
                    raise _Unknown
                self._own.append(self._stack[-1])
            elif code in b"su":
                items = self._take(2) if code == 0x73 else self._take_marked()
                for key in items[::2]:
                    key.fix()
                self._stack[-1].add(items[1::2])
            elif code in b"ae":
                items = self._take(1) if code == 0x61 else self._take_marked()
                self._stack[-1].add(items)
            elif code in b"(":
                self._marks.append(len(self._stack))
            elif code in b"t\x85\x86\x87":
                self._stack.append(_Entry(self._take_marked() if code == 0x74 else self._take(code - 0x84)))
            elif code in b"R":
                self._reduce(*self._take(2))
            elif code in b"b":
                self._take(1)[0].fix()
            elif token.kind != SKIP:
                raise _Unknown
        for entry in pushed:
            if entry.is_fixed and entry.token and entry.token.kind in _HOLES:
                entry.token.kind = LITERAL

    def _index(self, token: _Token) -> int:
        return int.from_bytes(self._data[token.argument : token.end], "little")

    def _recall(self, token: _Token) -> None:
        index = self._index(token)
        if index < self._first_entry:
            self.recalled[index] = self._memo[index]
            self._stack.append(_Entry(value=self._memo[index]))
        else:
            token.kind, token.operand = RECALL, index - self._first_entry
            self._stack.append(self._own[token.operand])

    def _take(self, count: int) -> list[_Entry]:
        taken = self._stack[-count:] if count else []
        del self._stack[len(self._stack) - count :]
        return taken

    def _take_marked(self) -> list[_Entry]:
        return self._take(len(self._stack) - self._marks.pop())

    def _reduce(self, symbol: _Entry, arguments: _Entry) -> None:
        name = symbol.value.name if isinstance(symbol.value, Symbol) else ""
        items = arguments.items
        if name == "timedelta":
            for item, bounds in zip(items, _TIME_BOUNDS, strict=True):
                if item.token:
                    item.token.bounds = bounds
        elif name == "scalar" and isinstance(items[0].value, DType) and items[1].token:
            token, dtype = items[1].token, items[0].value.dtype
            if dtype.str in _SCALARS and token.code == 0x43 and token.end - token.argument == dtype.itemsize:
                token.kind, token.dtype = RAW, dtype
        else:
            arguments.fix()
        self._stack.append(_Entry([*items]))


class _Builder:
    """Writes the operations, and the bytes of the probes."""

    def __init__(self, data: bytes, next_entry: int) -> None:
        self._data = data
        self._next_entry = next_entry  # the number of the probes' first memo entry
        self.operations: list[tuple[int, int, int, int, int]] = []
        self.literals = bytearray()
        self.probes = (bytearray(), bytearray())
        self.entries = 0
        self.numbers: list[Hole] = []
        self.runs: list[tuple[bytes, bytes]] = []
        self.longs: list[tuple[bytes, bytes]] = []

    def add(self, token: _Token) -> None:
        if token.kind in (LITERAL, RAW, LONG, SKIP):
            # All but the hole.
            self._add_literal(token.start, token.end if token.kind == LITERAL else token.argument)
        size = token.end - token.argument
        if token.kind == PUT:
            self._add(PUT, 0, 1 if token.code == 0x94 else 5, (b"\x94", b"\x94"))
            self.entries += 1
        elif token.kind == RECALL:
            fetched = struct.pack("<cI", b"j", self._next_entry + token.operand)
            self._add(RECALL, token.operand, 5, (fetched, fetched))
        elif token.kind == NUMBER:
            hole = self._hole(_INT)
            first, second = (struct.pack("<ci", b"J", value) for value in hole.probes)
            self._add(NUMBER, len(self.numbers) - 1, 5, (first, second), token.bounds)
        elif token.kind == RAW:
            hole = self._hole(token.dtype)
            first, second = (np.array(value, token.dtype).tobytes() for value in hole.probes)
            self._add(RAW, len(self.numbers) - 1, size, (first, second))
        elif token.kind == RUN:
            first, second = (bytes((i + shift + len(self.runs)) % 256 for i in range(RUN_LENGTH)) for shift in (0, 7))
            self.runs.append((first, second))
            codes = (b"".join(b"K%c" % byte for byte in first), b"".join(b"K%c" % byte for byte in second))
            self._add(RUN, len(self.runs) - 1, 2 * RUN_LENGTH, codes)
        elif token.kind == LONG:
            # Of few enough colours, and such that another order of the pixels is seen.
            grays = np.repeat(np.arange(251, dtype=np.uint8), 3)
            self.longs.append((np.resize(grays, size).tobytes(), np.resize(grays[::-1], size).tobytes()))
            self._add(LONG, len(self.longs) - 1, size, self.longs[-1])
        elif token.kind == SKIP:
            self._add(SKIP, 0, size, (bytes(size), bytes(size)))

    def _add(
        self, kind: int, operand: int, size: int, probes: tuple[bytes, bytes], bounds: tuple[int, int] = _INT32
    ) -> None:
        self.operations.append((kind, operand, size, *bounds))
        for probe, data in zip(self.probes, probes, strict=True):
            probe += data

    def _add_literal(self, start: int, end: int) -> None:
        data = self._data[start:end]
        first, size = len(self.literals), len(data)
        if self.operations and self.operations[-1][0] == LITERAL:
            _, first, before, *_ = self.operations.pop()
            size += before
        self._add(LITERAL, first, size, (data, data))
        self.literals += data

    def _hole(self, dtype: np.dtype[Any]) -> Hole:
        number = len(self.numbers)
        if number == _MOST_HOLES:
            raise _Unknown
        # No two holes have the same pair, and each value is good for any dtype, a second or a day.
        self.numbers.append(Hole(dtype, (1_000 + number, 1_000 + _MOST_HOLES + number)))
        return self.numbers[-1]


def shape_of(
    data: bytes, memo: Mapping[int, object], first_entry: int, next_entry: int, interpret: Interpret
) -> Shape | None:
    """The shape of a step, or None where it has none.

    ``data`` are its bytes, as for ``interpret``; its memo entries begin with ``first_entry``, those of the step that
    follows with ``next_entry``, and ``memo`` holds the earlier ones. ``interpret`` may raise RawDataError.
    """
    try:
        tokens = _tokens(data)
        step = _Step(data, memo, first_entry)
        step.follow(tokens[:-1])  # without the EMPTY_DICT of the next step
        builder = _Builder(data, next_entry)
        for token in tokens:
            builder.add(token)
        first, second = (interpret(bytes(probe)) for probe in builder.probes)
    except (_Unknown, LookupError, ValueError, RawDataError):
        return None
    return Shape(
        probes=(first, second),
        size=len(data),
        payload=sum(token.end - token.argument for token in tokens if token.code in _SIZED),
        recalled=step.recalled,
        operations=np.array(builder.operations, np.int64),
        literals=np.frombuffer(builder.literals, np.uint8),
        entries=builder.entries,
        numbers=builder.numbers,
        runs=builder.runs,
        longs=builder.longs,
    )
