"""What a pickle's opcodes work on: the stack, the marks and the memo of one pickle, and its limits.

Two rules keep the outcome plain. Names, dtypes and unfinished arrays (`INERT`) stay between opcodes: they may
be arguments, never values. And a container that was fetched from the memo may not change any more, so that
none can ever come to hold itself.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from crowdplay_lake.errors import BrokenPickle, LimitExceeded, UnsafePickle, UnsupportedTrajectory

from .pickle_symbols import (
    INERT,
    ArgumentTuple,
    DType,
    PendingArray,
    Symbol,
    check_key,
    retained_size,
)


@dataclass(frozen=True)
class Limits:
    """What one pickle may use. "A step" is one item of a trajectory, or the whole of a single value.

    A step of a real trajectory takes 100 KB, of which 1 KB are opcodes; it opens 4 marks.
    """

    max_item_bytes: int = 16 * 2**20
    """Longest single string, bytes or frame."""
    max_step_bytes: int = 64 * 2**20
    """Longest step in the file, and again the memory that its constructions may take beyond that."""
    max_opcodes_per_step: int = 2 * 2**20
    """Bytes of a step outside of long strings, so at most this many opcodes."""
    max_depth: int = 100
    """Marks open at once."""
    max_memo_entries: int = 2**20
    """Entries of the memo at once."""
    max_memo_bytes: int = 256 * 2**20
    """Memory of what is remembered from step to step (text, dtypes)."""
    max_file_bytes: int = 64 * 2**30
    """Longest pickle, decompressed. 100,000 steps of two players with a screen each are 20 GB."""
    max_steps: int = 2**20
    """Steps of one episode. CrowdPlay stops at 100,000."""
    max_agents: int = 64
    """Agents of one episode."""
    max_episode_bytes: int = 640 * 2**20
    """Memory that the rows of one episode take, compressed, until all of it is read."""
    max_int_bytes: int = 2**10
    """Longest integer. Python itself refuses to print one of more than 4,300 digits, 1,785 bytes."""


class NeedMore(Exception):
    """The opcode's argument reaches to ``end`` in the buffer, which ends before."""

    def __init__(self, end: int) -> None:
        self.end = end


class Pause(Exception):
    """Items are ready, or the pickle has stopped; go on at ``position``."""

    def __init__(self, position: int, stopped: bool = False) -> None:
        self.position = position
        self.stopped = stopped


class Root:
    """Stands for the list of steps, which is never made."""

    __slots__ = ()


class _Missing:
    __slots__ = ()


ROOT = Root()
MISSING = _Missing()
NO_VALUES = INERT | {Root}
"""Types that may not be in a container."""
_MUTABLE = frozenset({list, dict, OrderedDict, set})
CAREFUL = _MUTABLE | {Root, PendingArray, _Missing}
"""Types that GET cannot simply push: see `Machine.fetch`."""
_DICTS = frozenset({dict, OrderedDict})
# np.True_ and np.False_ are two objects, like True and False, but pickled as objects.
_MAY_RECUR = frozenset({str, bytes, Symbol, DType, Root, np.bool_, bool, int, float, type(None)})
_LONGEST_NAME = 1024


def _recurs(value: object) -> bool:
    """Whether later steps may refer to this object, of a type in _MAY_RECUR, of an earlier one."""
    if type(value) is str:
        # Keys and names. Long text is none: protocols 0 to 2 write a frame as such.
        return len(value) <= _LONGEST_NAME
    # CPython has one object for each bytes of length 0 or 1 (numpy writes b"b").
    return type(value) is not bytes or len(value) <= 1


class Machine:
    """The state of one pickle: the stack, the stacks under open marks, the memo."""

    __slots__ = (
        "charged",
        "drain",
        "end",
        "forgotten",
        "fresh",
        "limits",
        "memo",
        "memo_bytes",
        "outer",
        "payload",
        "ready",
        "sealed",
        "spent",
        "split",
        "stack",
    )

    def __init__(self, limits: Limits, drain: bool) -> None:
        self.limits = limits
        self.drain = drain  # hand out the items of the first list instead of keeping them
        self.end = 0  # of the bytes of the file that are in the buffer
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.fresh: list[int] = []  # memo indices stored during this step, in order
        self.forgotten = 0  # how many were stored before
        self.memo_bytes = 0
        self.sealed: dict[int, Any] = {}  # containers that are shared by now, by id
        self.spent: list[str] = []  # texts of this step that only spelled bytes
        self.ready: deque[Any] = deque()  # items that are whole, to be handed out
        self.split = False  # items above the open mark have been handed out already
        self.charged = 0  # memory that this step takes beyond its bytes
        self.payload = 0  # bytes of this step that are content of strings

    # ---- memory ----------------------------------------------------------------------------------------

    def charge(self, count: int) -> None:
        """Book ``count`` bytes of memory that no bytes of the file pay for."""
        self.charged += count
        if self.charged > self.limits.max_step_bytes:
            raise LimitExceeded(f"it expands to more than {self.limits.max_step_bytes:,} bytes in one step")

    def forget(self) -> None:
        """A step is over: drop its memo entries, but for text and the like, which later steps refer to."""
        memo = self.memo
        # Protocols 0 to 2 write bytes as text, made for that and used once. Of a single character there is but one.
        spent = {id(text) for text in self.spent if len(text) > 1}
        for index in self.fresh:
            value = memo.get(index)
            if type(value) not in _MAY_RECUR or not _recurs(value) or id(value) in spent:
                memo.pop(index, None)
            else:
                self.memo_bytes += retained_size(value)
        if self.memo_bytes > self.limits.max_memo_bytes:
            raise LimitExceeded(f"more than {self.limits.max_memo_bytes:,} bytes of text to remember")
        self.forgotten += len(self.fresh)
        self.fresh.clear()
        self.sealed.clear()
        self.spent.clear()
        self.charged = 0
        self.payload = 0

    def remember(self, index: int) -> None:
        """Store the top of the stack in the memo (PUT)."""
        if index < 0:
            raise BrokenPickle("a negative memo index")
        self.memo[index] = self.stack[-1]
        self.fresh.append(index)

    def recall(self, index: int) -> None:
        """Push what the memo holds (GET)."""
        value = self.memo.get(index, MISSING)
        if type(value) in CAREFUL:
            value = self.fetch(value, index)
        self.stack.append(value)

    def fetch(self, value: Any, index: int) -> Any:
        """What to push for a shared ``value`` of the types CAREFUL, found under ``index``."""
        if type(value) is _Missing:
            # Picklers number entries in order, so this one existed and was forgotten with its step.
            if index < self.forgotten:
                raise UnsupportedTrajectory(f"it shares an object with an earlier step (memo entry {index})")
            raise BrokenPickle(f"memo entry {index} was never stored")
        if type(value) is Root:
            raise UnsafePickle("the list of steps is put inside itself")
        if type(value) is PendingArray:
            if value.value is None:
                raise UnsafePickle("an array is used before it has its content")
            return value.value
        self.sealed[id(value)] = value
        return value

    def check_open(self, target: Any) -> None:
        """Refuse to change a container that is already shared."""
        if id(target) in self.sealed:
            raise UnsafePickle(f"a {type(target).__name__} changes after it was shared, or holds itself")

    # ---- the stack -------------------------------------------------------------------------------------

    def pop_mark(self, is_appends: bool = False) -> list[Any]:
        """What was pushed since the last mark."""
        items = self.stack
        if self.split and len(self.outer) == 1 and not is_appends:
            # What was taken for the first steps of a batch was the beginning of a tuple.
            raise UnsupportedTrajectory("the steps are tuples, expected dicts")
        if not self.outer:
            raise BrokenPickle("no mark is open")
        self.stack = self.outer.pop()
        return items

    def join(self, size: int) -> tuple[Any, ...]:
        """Replace the ``size`` topmost objects with their tuple, and return that."""
        stack = self.stack
        items = stack[-size:]
        if len(items) < size:
            if self.split and len(self.outer) == 1:
                raise UnsupportedTrajectory("the steps are tuples, expected dicts")
            raise BrokenPickle("the stack is empty")
        made = make_tuple(items)
        stack[-size:] = [made]
        return made

    def fill_list(self, items: list[Any], position: int) -> None:
        """Append to the list on top of the stack."""
        if not NO_VALUES.isdisjoint(map(type, items)):
            refuse_inert(items)
        target = self.stack[-1]
        if type(target) is Root:
            self.split = False
            self.ready.extend(items)
            raise Pause(position)
        if type(target) is not list:
            raise UnsafePickle(f"items are appended to a {type(target).__name__}")
        if self.sealed:
            self.check_open(target)
        target.extend(items)

    def fill_dict(self, items: list[Any]) -> None:
        """Put keys and values, in turn, into the dict on top of the stack."""
        target = self.stack[-1]
        if type(target) not in _DICTS:
            raise UnsafePickle(f"keys are set on a {type(target).__name__}")
        if self.sealed:
            self.check_open(target)
        if len(items) % 2:
            raise BrokenPickle("a key has no value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) is not str:
                check_key(key, self.charge)
            if type(value) in NO_VALUES:
                refuse_inert([value])
            target[key] = value

    def take(self, buffer: bytearray, start: int, size: int) -> bytes:
        """A long argument, and its bytes booked as payload."""
        if size > self.limits.max_item_bytes:
            raise LimitExceeded(f"a string of {size:,} bytes, more than {self.limits.max_item_bytes:,}")
        end = start + size
        if end > self.end:
            raise NeedMore(end)
        self.payload += size
        if size < _LONGEST_NAME:
            return bytes(buffer[start:end])
        with memoryview(buffer) as view:
            return bytes(view[start:end])  # copied once

    def take_line(self, buffer: bytearray, start: int, limit: int) -> tuple[bytes, int]:
        """A text argument without its newline, and the position behind that."""
        end = buffer.find(b"\n", start, min(start + limit + 1, self.end))
        if end < 0:
            if self.end - start > limit:
                raise LimitExceeded(f"a line of more than {limit:,} bytes")
            raise NeedMore(self.end + 1)
        return bytes(buffer[start:end]), end + 1


def make_tuple(items: list[Any]) -> tuple[Any, ...]:
    """A tuple that tells whether it is a value or but an argument."""
    return tuple(items) if NO_VALUES.isdisjoint(map(type, items)) else ArgumentTuple(items)


def refuse_inert(values: list[Any]) -> None:
    """Raise if one of the values is none."""
    for value in values:
        if type(value) is Symbol:
            raise UnsafePickle(f"it holds a reference to {value}, which is not plain data")
        if type(value) in NO_VALUES:
            raise UnsafePickle("it holds a dtype, an unfinished array or the list itself as a value")
