"""The pickle machine: bytes in, plain data out, nothing else possible.

Python's own unpickler calls what the file names, and keeps every object of a trajectory until its end. This one
interprets pickle protocols 0 to 5 itself (`pickle_opcodes`, `pickle_values`, `pickle_state`), makes values only from
a fixed table (`pickle_symbols`), and hands out the steps of a trajectory one by one, so that memory does not grow
with its length.

What comes out: None, bool, int, float, str, bytes, bytearray, list, tuple, dict, OrderedDict, set, frozenset,
timedelta, datetime, date, numpy arrays (read-only) and numpy scalars. No container ever holds itself, but one
object may be referred to many times and nesting may be deep: whoever walks a value keeps count.

    with bz2.open("episode.pickle.bz2") as stream:
        for step in iter_items(stream):
            ...
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, BinaryIO

from crowdplay_lake.errors import BrokenPickle, LimitExceeded, RawDataError, UnsafePickle

from .pickle_opcodes import BINGET, HANDLERS, LONG_BINPUT, LONG_INDEX, MARGIN, NAMES, WIDTHS
from .pickle_state import CAREFUL, MISSING, ROOT, Limits, Machine, NeedMore, Pause
from .pickle_symbols import INERT

__all__ = ["DEFAULT_LIMITS", "Limits", "Reader", "iter_items", "load"]

DEFAULT_LIMITS = Limits()

_CHUNK = 2**18  # bytes read at once, and looked at between two checks of the limits
# Chunks read in a row. bz2 looks things up all over a table of 4 MB, and each turn of the interpreter drives that out
# of the processor's caches: with a turn after every MiB, decompression took a quarter longer than after four.
_IN_A_ROW = 16

_FOREIGN = {
    b"BZh": "bz2",
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"PK\x03\x04": "zip",
    b"SQLite format": "SQLite",
}


def load(data: bytes, limits: Limits = DEFAULT_LIMITS) -> object:
    """The value of one whole pickle, such as a metadata value.

    Raises RawDataError (BrokenPickle, UnsafePickle, LimitExceeded), and nothing else, whatever the bytes are.
    """
    reader = Reader(io.BytesIO(data), limits, drain=False, chunk=min(_CHUNK, len(data) + 1), in_a_row=1)
    reader.run()
    return reader.result()


def iter_items(stream: BinaryIO, limits: Limits = DEFAULT_LIMITS) -> Iterator[Any]:
    """The items of a pickled list, each as soon as it is whole, none of them kept.

    ``stream`` is anything with ``readinto(buffer)``: a plain file, `bz2.BZ2File`, `gzip.GzipFile`. The steps of a
    trajectory are dicts; items of other types come in the batches that the pickler wrote (1,000), and the
    limits of a step apply to a batch. Raises RawDataError, whose ``step`` is the number of items handed out
    before. A failing disk is no fault of the file: an `OSError` with an ``errno`` passes through.
    """
    reader = Reader.of_items(stream, limits)
    while not reader.run():
        yield from reader.take_ready()
    reader.check_end()


class Reader:
    """Feeds a stream to the machine, checks the limits, makes every fault a RawDataError that says where."""

    def __init__(self, stream: BinaryIO, limits: Limits, drain: bool, chunk: int, in_a_row: int) -> None:
        self.stream = stream
        self.limits = limits
        self.machine = Machine(limits, drain)
        self.chunk = chunk
        self.in_a_row = in_a_row
        self.failure: Exception | None = None  # of reading on; to be raised when what precedes it is used up
        # One buffer for the whole file: new ones of this size would be new memory each time, which is to be cleared.
        self.buffer = bytearray()
        self.position = 0  # in the buffer, of the next opcode
        self.base = 0  # of the buffer, in the file
        self.at_end = False  # the buffer holds the end of the file
        self.step_start = 0  # in the file
        self.yielded = 0

    @classmethod
    def of_items(cls, stream: BinaryIO, limits: Limits) -> Reader:
        """For a list whose items are handed out."""
        return cls(stream, limits, drain=True, chunk=_CHUNK, in_a_row=_IN_A_ROW)

    def run(self) -> bool:
        """Run until items are ready or the pickle stops. Returns whether it has stopped."""
        machine, handlers = self.machine, HANDLERS
        memo, stored, index_at = machine.memo, machine.fresh.append, LONG_INDEX
        needed = 0
        while True:
            safe = self._refill(needed)
            buffer, position = self.buffer, self.position
            try:
                while position < safe:
                    opcode = buffer[position]
                    # The two commonest, done here: a call takes longer than what it does.
                    if opcode == BINGET and type(value := memo.get(buffer[position + 1], MISSING)) not in CAREFUL:
                        machine.stack.append(value)
                        position += 2
                    elif opcode == LONG_BINPUT:
                        index = index_at(buffer, position + 1)[0]
                        memo[index] = machine.stack[-1]
                        stored(index)
                        position += 5
                    else:
                        position = handlers[opcode](machine, buffer, position + 1)
                needed = 0
            except NeedMore as more:
                needed = more.end - position
            except Pause as pause:
                self.position = pause.position
                return pause.stopped
            except MemoryError:
                raise  # of this process, not of the file
            except RawDataError as error:
                raise self._located(error, position) from None
            except Exception as error:
                raise self._located(error, position) from error
            self.position = position

    def take_ready(self) -> Iterator[Any]:
        """The items that are ready; once they are handed out, what only they needed is forgotten."""
        ready = self.machine.ready
        while ready:
            self.yielded += 1
            yield ready.popleft()
        try:
            self.machine.forget()
        except RawDataError as error:
            raise self._located(error, self.position) from None
        self.step_start = self.base + self.position

    def skip_steps(self, count: int, position: int, entries: int) -> None:
        """Go on at ``position``: so many steps before it were made, with so many memo entries, in another way."""
        self.yielded += count
        self.machine.forgotten += entries
        self.position = position
        self.step_start = self.base + position

    def read_on(self) -> bool:
        """Read on before all that was read is used up. Returns whether more was read."""
        before = self.base + self.machine.end
        if not self.at_end and self.failure is None:
            self._extend(MARGIN + 1)
        return self.base + self.machine.end > before

    def check_end(self) -> None:
        """Raise unless what has stopped is a list whose items were handed out."""
        value = self.result()
        if value is not ROOT:
            raise self.fault(f"not a trajectory: the top object is a {type(value).__name__}, expected a list")

    def result(self) -> object:
        """The value of a pickle that has stopped, once it is sure that this was all of the file."""
        machine = self.machine
        if machine.outer or len(machine.stack) != 1:
            raise self.fault(f"{len(machine.stack)} objects are left when it stops, expected one")
        if self.position < machine.end or not (self.at_end or self._read(memoryview(bytearray(1))) == 0):
            raise self.fault(f"there is more after the pickle's end at byte {self.base + self.position:,}")
        value = machine.stack[0]
        if type(value) in INERT:
            raise UnsafePickle("it is a name, a dtype or an unfinished array, not plain data", self._step())
        return value

    # ---- bytes -------------------------------------------------------------------------------------------

    def _refill(self, needed: int) -> int:
        """Have ``needed`` bytes (0: just some) from the position on. Returns where to stop running opcodes.

        At the end of the file the buffer is padded, so that an opcode cut short reads zeros, after which the
        position lies beyond the end.
        """
        window = min(_CHUNK, self._left() + 1)
        if not self.at_end and self.machine.end - self.position < max(needed, MARGIN + 1):
            self._extend(max(needed, MARGIN + 1))
        elif self.at_end and needed:
            raise self._truncated()
        end = self.machine.end if self.at_end else self.machine.end - MARGIN
        if self.position >= end:
            raise self._truncated()
        return min(end, self.position + window)

    def _extend(self, needed: int) -> None:
        """Move what is left to the front, read on, and pad at the end of the file."""
        if isinstance(self.failure, RawDataError):
            raise self.fault(self.failure.reason)  # by now at a later step
        if self.failure is not None:
            raise self.failure
        left = self.buffer[self.position : self.machine.end]
        capacity = max(needed + self.chunk, self.in_a_row * self.chunk) + MARGIN
        if len(self.buffer) < capacity:
            self.buffer = bytearray(capacity)
        size = len(left)
        self.buffer[:size] = left
        with memoryview(self.buffer) as space:
            while not self.at_end and size + self.chunk + MARGIN <= len(space):
                try:
                    count = self._read(space[size : size + self.chunk])
                except Exception as error:
                    if size < needed:
                        raise
                    self.failure = error
                    break
                size += count
                self.at_end = count == 0
        if self.at_end:
            self.buffer[size : size + MARGIN] = bytes(MARGIN)
        self.base += self.position
        self.position = 0
        self.machine.end = size
        if self.base == 0:
            self._check_start()

    def _read(self, space: memoryview) -> int:
        try:
            # Not `read`, which makes bytes first that are copied then.
            return self.stream.readinto(space)  # type: ignore[attr-defined, no-any-return]
        except MemoryError:
            raise
        except OSError as error:
            if error.errno is not None:
                raise
            raise self.fault(f"damaged or truncated compression ({error})") from error
        except Exception as error:
            raise self.fault(f"damaged or truncated compression ({error})") from error

    def _check_start(self) -> None:
        if self.machine.end == 0:
            raise self.fault("not a pickle: it is empty")
        for magic, name in _FOREIGN.items():
            if self.buffer.startswith(magic):
                raise self.fault(f"not a pickle but a {name} file")

    # ---- limits and faults -------------------------------------------------------------------------------

    def _left(self) -> int:
        """How many bytes of opcodes this step may still have."""
        limits, machine = self.limits, self.machine
        used = self.base + self.position - self.step_start
        opcodes = used - machine.payload
        if self.base + self.position > limits.max_file_bytes:
            self._exceeded(f"it expands to more than {limits.max_file_bytes:,} bytes")
        if used > limits.max_step_bytes:
            self._exceeded(f"more than {limits.max_step_bytes:,} bytes in one step")
        if opcodes > limits.max_opcodes_per_step:
            self._exceeded(f"more than {limits.max_opcodes_per_step:,} opcodes in one step")
        if len(machine.memo) > limits.max_memo_entries or len(machine.fresh) > limits.max_memo_entries:
            self._exceeded(f"more than {limits.max_memo_entries:,} memo entries")
        return min(limits.max_step_bytes - used, limits.max_opcodes_per_step - opcodes)

    def _exceeded(self, reason: str) -> None:
        raise LimitExceeded(f"{reason} (at byte {self.base + self.position:,})", self._step())

    def _step(self) -> int | None:
        return self.yielded if self.machine.drain else None

    def fault(self, reason: str) -> BrokenPickle:
        """A fault of the file as a whole."""
        return BrokenPickle(reason, self._step())

    def _truncated(self) -> BrokenPickle:
        return self.fault(f"truncated at byte {self.base + self.machine.end:,}")

    def _located(self, error: Exception, position: int) -> RawDataError:
        """The error of an opcode, with the opcode and its place."""
        opcode = self.buffer[position]
        if self.at_end and position + WIDTHS[opcode] >= self.machine.end:
            # The opcode's argument is cut short: it read the padding.
            return self._truncated()
        where = f"({NAMES[opcode]} at byte {self.base + position:,})"
        if isinstance(error, RawDataError):
            reason, kind = error.reason, type(error)
        elif isinstance(error, IndexError):
            reason, kind = "the stack is empty", BrokenPickle
        else:
            reason, kind = f"malformed: {error or type(error).__name__}", BrokenPickle
        # Protocols 2 to 5 begin with their number; in anything else an early fault is most likely no pickle.
        if kind is BrokenPickle and self.base == 0 and position < 16 and self.buffer[:1] != b"\x80":
            reason = f"not a pickle: {reason}"
        return kind(f"{reason} {where}", self._step())
