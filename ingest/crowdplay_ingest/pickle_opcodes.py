"""The opcodes of pickle protocols 0 to 5, as operations on a stack of plain data.

Each handler is called with the machine, a buffer and the position of its argument there, and returns the
position of the next opcode. Three kinds of exceptions leave the ordinary course: `NeedMore` (the argument is
not in the buffer yet; the opcode will be run again, so a handler raises it before it changes anything),
`Pause` (items are ready, or STOP) and the errors. Short arguments are always there: see `MARGIN`.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable
from typing import Any

from crowdplay_lake.errors import BrokenPickle, LimitExceeded, UnsafePickle

from .pickle_state import (
    CAREFUL,
    MISSING,
    NO_VALUES,
    ROOT,
    Machine,
    Pause,
    make_tuple,
)
from .pickle_symbols import (
    CONSTRUCTIONS,
    DType,
    PendingArray,
    Symbol,
    build_array,
    find_symbol,
    make_set,
)

MARGIN = 1024
"""Bytes a buffer holds beyond any opcode that is run: the longest short argument, or a run of small ints."""

_RUN = 256  # small ints taken at once; a RAM is 128
_BININT1 = ord("K")
_APPENDS = ord("e")
_UINT4 = struct.Struct("<I").unpack_from


Handler = Callable[[Machine, bytes, int], int]


def _unknown(machine: Machine, buffer: bytes, pos: int) -> int:
    raise BrokenPickle(f"byte 0x{buffer[pos - 1]:02x} is no opcode")


HANDLERS: list[Handler] = [_unknown] * 256
NAMES: list[str] = [f"byte 0x{code:02x}" for code in range(256)]
WIDTHS: list[int] = [0] * 256
"""Bytes of the argument, or of the length before it. Lines of text count as none."""


def _opcode(code: bytes, name: str, width: int = 0) -> Callable[[Handler], Handler]:
    """Enter a handler in the tables."""

    def enter(handler: Handler) -> Handler:
        HANDLERS[code[0]] = handler
        NAMES[code[0]] = name
        WIDTHS[code[0]] = width
        return handler

    return enter


def _constant(code: bytes, name: str, value: Any) -> None:
    @_opcode(code, name)
    def push(machine: Machine, buffer: bytes, pos: int) -> int:
        machine.stack.append(value)
        return pos


def _number(code: bytes, name: str, layout: str) -> None:
    unpack, size = struct.Struct(layout).unpack_from, struct.calcsize(layout)

    @_opcode(code, name, size)
    def push(machine: Machine, buffer: bytes, pos: int) -> int:
        machine.stack.append(unpack(buffer, pos)[0])
        return pos + size


def _sized(code: bytes, name: str, width: int, decode: Callable[[bytes], Any] | None) -> None:
    """Strings with a length in front; a negative length (of the old signed ones) reads as a huge one."""

    @_opcode(code, name, width)
    def push(machine: Machine, buffer: bytes, pos: int) -> int:
        start = pos + width
        size = int.from_bytes(buffer[pos:start], "little")
        data = machine.take(buffer, start, size)
        machine.stack.append(decode(data) if decode else data)
        return start + size


def _text(code: bytes, name: str, decode: Callable[[Machine, bytes], Any], is_number: bool) -> None:
    """Values written as a line of text (protocol 0)."""

    @_opcode(code, name)
    def push(machine: Machine, buffer: bytes, pos: int) -> int:
        # Reading a number in decimal takes quadratic time; each byte is 2.4 digits.
        limit = 3 * machine.limits.max_int_bytes if is_number else machine.limits.max_item_bytes
        line, end = machine.take_line(buffer, pos, limit)
        if not is_number:
            machine.payload += len(line)
        machine.stack.append(decode(machine, line))
        return end


def _refused(code: bytes, name: str, what: str) -> None:
    @_opcode(code, name)
    def refuse(machine: Machine, buffer: bytes, pos: int) -> int:
        raise UnsafePickle(f"it asks for {what}, which is not plain data")


# ---- values ----------------------------------------------------------------------------------------------


def _decode_utf8(data: bytes) -> str:
    # As CPython writes it: a lone surrogate is a legal str.
    return str(data, "utf-8", "surrogatepass")


def _decode_ascii(data: bytes) -> str:
    """A Python 2 str, read as CPython reads it by default."""
    return str(data, "ascii")


def _decode_int_line(machine: Machine, line: bytes) -> int | bool:
    if line in (b"00", b"01"):
        return line == b"01"
    return _decode_long_line(machine, line)


def _decode_long_line(machine: Machine, line: bytes) -> int:
    value = int(line.removesuffix(b"L"), 0)
    if value.bit_length() > 8 * machine.limits.max_int_bytes:
        raise LimitExceeded(f"an integer of more than {machine.limits.max_int_bytes:,} bytes")
    return value


def _decode_unicode_line(machine: Machine, line: bytes) -> str:
    machine.charge(len(line))
    return str(line, "raw-unicode-escape")


def _decode_string_line(machine: Machine, line: bytes) -> str:
    machine.charge(len(line))
    if len(line) < 2 or line[0] != line[-1] or line[:1] not in (b"'", b'"'):
        raise BrokenPickle("a string is not quoted")
    return str(codecs.escape_decode(line[1:-1])[0], "ascii")


_constant(b"N", "NONE", None)
_constant(b"\x88", "NEWTRUE", True)
_constant(b"\x89", "NEWFALSE", False)
_constant(b")", "EMPTY_TUPLE", ())
_number(b"J", "BININT", "<i")
_number(b"M", "BININT2", "<H")
_number(b"G", "BINFLOAT", ">d")
_sized(b"U", "SHORT_BINSTRING", 1, _decode_ascii)
_sized(b"T", "BINSTRING", 4, _decode_ascii)
_sized(b"C", "SHORT_BINBYTES", 1, None)
_sized(b"B", "BINBYTES", 4, None)
_sized(b"\x8e", "BINBYTES8", 8, None)
_sized(b"\x96", "BYTEARRAY8", 8, bytearray)
_sized(b"\x8c", "SHORT_BINUNICODE", 1, _decode_utf8)
_sized(b"X", "BINUNICODE", 4, _decode_utf8)
_sized(b"\x8d", "BINUNICODE8", 8, _decode_utf8)
_text(b"I", "INT", _decode_int_line, is_number=True)
_text(b"L", "LONG", _decode_long_line, is_number=True)
_text(b"F", "FLOAT", lambda machine, line: float(line), is_number=True)
_text(b"V", "UNICODE", _decode_unicode_line, is_number=False)
_text(b"S", "STRING", _decode_string_line, is_number=False)


@_opcode(b"K", "BININT1", 1)
def _binint1(machine: Machine, buffer: bytes, pos: int) -> int:
    if buffer[pos + 1] != _BININT1:
        machine.stack.append(buffer[pos])
        return pos + 1
    # A run of them, as in a RAM: every other byte is the opcode, the others are the values.
    codes = buffer[pos + 1 : pos + 2 * _RUN : 2]
    count = 1 + len(codes) - len(codes.lstrip(b"K"))
    end = pos + 2 * count - 1
    values = buffer[pos:end:2]
    if buffer[end] == _APPENDS and not machine.stack and machine.outer:
        target = machine.outer[-1][-1]
        if type(target) is list:
            # Nothing but this run is appended to a list: no need to look at the items one by one.
            machine.pop_mark()
            machine.check_open(target)
            target.extend(values)
            return end + 1
    machine.stack.extend(values)
    return end


def _push_int(machine: Machine, buffer: bytes, start: int, size: int) -> int:
    if size < 0:
        raise BrokenPickle("an integer of negative length")
    if size > machine.limits.max_int_bytes:
        raise LimitExceeded(f"an integer of {size:,} bytes, more than {machine.limits.max_int_bytes:,}")
    machine.stack.append(int.from_bytes(machine.take(buffer, start, size), "little", signed=True))
    return start + size


@_opcode(b"\x8a", "LONG1", 1)
def _long1(machine: Machine, buffer: bytes, pos: int) -> int:
    return _push_int(machine, buffer, pos + 1, buffer[pos])


@_opcode(b"\x8b", "LONG4", 4)
def _long4(machine: Machine, buffer: bytes, pos: int) -> int:
    return _push_int(machine, buffer, pos + 4, int.from_bytes(buffer[pos : pos + 4], "little", signed=True))


# ---- containers ------------------------------------------------------------------------------------------


@_opcode(b"(", "MARK")
def _mark(machine: Machine, buffer: bytes, pos: int) -> int:
    outer = machine.outer
    outer.append(machine.stack)
    machine.stack = []
    if len(outer) > machine.limits.max_depth:
        raise LimitExceeded(f"nested more than {machine.limits.max_depth} deep")
    return pos


@_opcode(b"]", "EMPTY_LIST")
def _empty_list(machine: Machine, buffer: bytes, pos: int) -> int:
    # The first object of a trajectory is the list of steps.
    is_root = machine.drain and not machine.stack and not machine.outer
    machine.stack.append(ROOT if is_root else [])
    return pos


@_opcode(b"l", "LIST")
def _list(machine: Machine, buffer: bytes, pos: int) -> int:
    items = machine.pop_mark()
    _empty_list(machine, buffer, pos)
    if items:
        machine.fill_list(items, pos)
    return pos


@_opcode(b"}", "EMPTY_DICT")
def _empty_dict(machine: Machine, buffer: bytes, pos: int) -> int:
    stack = machine.stack
    if len(stack) == 1 and type(stack[0]) is dict and machine.drain:
        outer = machine.outer
        if len(outer) == 1 and len(outer[0]) == 1 and outer[0][0] is ROOT:
            # The next step begins: a dict cannot be this dict's key, so this one is whole.
            machine.ready.append(stack[0])
            machine.split = True
            stack[0] = {}
            raise Pause(pos)
    stack.append({})
    return pos


@_opcode(b"d", "DICT")
def _dict(machine: Machine, buffer: bytes, pos: int) -> int:
    items = machine.pop_mark()
    machine.stack.append({})
    machine.fill_dict(items)
    return pos


@_opcode(b"\x8f", "EMPTY_SET")
def _empty_set(machine: Machine, buffer: bytes, pos: int) -> int:
    machine.charge(256)
    machine.stack.append(set())
    return pos


@_opcode(b"\x91", "FROZENSET")
def _frozenset(machine: Machine, buffer: bytes, pos: int) -> int:
    items = machine.pop_mark()
    machine.stack.append(make_set(frozenset, items, machine.charge))
    return pos


@_opcode(b"\x90", "ADDITEMS")
def _additems(machine: Machine, buffer: bytes, pos: int) -> int:
    items = machine.pop_mark()
    target = machine.stack[-1]
    if type(target) is not set:
        raise UnsafePickle(f"members are added to a {type(target).__name__}")
    machine.check_open(target)
    target |= make_set(set, items, machine.charge)
    return pos


@_opcode(b"a", "APPEND")
def _append(machine: Machine, buffer: bytes, pos: int) -> int:
    machine.fill_list([machine.stack.pop()], pos)
    return pos


@_opcode(b"e", "APPENDS")
def _appends(machine: Machine, buffer: bytes, pos: int) -> int:
    machine.fill_list(machine.pop_mark(is_appends=True), pos)
    return pos


@_opcode(b"s", "SETITEM")
def _setitem(machine: Machine, buffer: bytes, pos: int) -> int:
    stack = machine.stack
    value = stack.pop()
    key = stack.pop()
    target = stack[-1]
    # The common case of fill_dict, without its lists.
    if type(target) is dict and type(key) is str and type(value) not in NO_VALUES and not machine.sealed:
        target[key] = value
    else:
        machine.fill_dict([key, value])
    return pos


@_opcode(b"u", "SETITEMS")
def _setitems(machine: Machine, buffer: bytes, pos: int) -> int:
    machine.fill_dict(machine.pop_mark())
    return pos


@_opcode(b"t", "TUPLE")
def _tuple(machine: Machine, buffer: bytes, pos: int) -> int:
    items = machine.pop_mark()
    machine.stack.append(make_tuple(items))
    return pos


def _joined(code: bytes, name: str, size: int) -> None:
    @_opcode(code, name)
    def join(machine: Machine, buffer: bytes, pos: int) -> int:
        machine.join(size)
        return pos


_joined(b"\x85", "TUPLE1", 1)
_joined(b"\x86", "TUPLE2", 2)
_joined(b"\x87", "TUPLE3", 3)


# ---- stack and memo --------------------------------------------------------------------------------------


@_opcode(b"0", "POP")
def _pop(machine: Machine, buffer: bytes, pos: int) -> int:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.pop_mark()
    return pos


@_opcode(b"1", "POP_MARK")
def _pop_mark(machine: Machine, buffer: bytes, pos: int) -> int:
    machine.pop_mark()
    return pos


@_opcode(b"2", "DUP")
def _dup(machine: Machine, buffer: bytes, pos: int) -> int:
    value = machine.stack[-1]
    machine.stack.append(machine.fetch(value, -1) if type(value) in CAREFUL else value)
    return pos


@_opcode(b"\x94", "MEMOIZE")
def _memoize(machine: Machine, buffer: bytes, pos: int) -> int:
    fresh = machine.fresh
    index = machine.forgotten + len(fresh)
    machine.memo[index] = machine.stack[-1]
    fresh.append(index)
    return pos


@_opcode(b"q", "BINPUT", 1)
def _binput(machine: Machine, buffer: bytes, pos: int) -> int:
    index = buffer[pos]
    machine.memo[index] = machine.stack[-1]
    machine.fresh.append(index)
    return pos + 1


@_opcode(b"r", "LONG_BINPUT", 4)
def _long_binput(machine: Machine, buffer: bytes, pos: int) -> int:
    index = _UINT4(buffer, pos)[0]
    machine.memo[index] = machine.stack[-1]
    machine.fresh.append(index)
    return pos + 4


@_opcode(b"p", "PUT")
def _put(machine: Machine, buffer: bytes, pos: int) -> int:
    line, end = machine.take_line(buffer, pos, 20)
    machine.remember(int(line))
    return end


@_opcode(b"h", "BINGET", 1)
def _binget(machine: Machine, buffer: bytes, pos: int) -> int:
    value = machine.memo.get(buffer[pos], MISSING)
    if type(value) in CAREFUL:
        value = machine.fetch(value, buffer[pos])
    machine.stack.append(value)
    return pos + 1


@_opcode(b"j", "LONG_BINGET", 4)
def _long_binget(machine: Machine, buffer: bytes, pos: int) -> int:
    machine.recall(_UINT4(buffer, pos)[0])
    return pos + 4


@_opcode(b"g", "GET")
def _get(machine: Machine, buffer: bytes, pos: int) -> int:
    line, end = machine.take_line(buffer, pos, 20)
    machine.recall(int(line))
    return end


# ---- names and constructions -----------------------------------------------------------------------------


@_opcode(b"c", "GLOBAL")
def _global(machine: Machine, buffer: bytes, pos: int) -> int:
    module, middle = machine.take_line(buffer, pos, 1000)
    name, end = machine.take_line(buffer, middle, 1000)
    machine.stack.append(find_symbol(_decode_utf8(module), _decode_utf8(name)))
    return end


@_opcode(b"\x93", "STACK_GLOBAL")
def _stack_global(machine: Machine, buffer: bytes, pos: int) -> int:
    name = machine.stack.pop()
    module = machine.stack.pop()
    machine.stack.append(find_symbol(module, name))
    return pos


@_opcode(b"R", "REDUCE")
def _reduce(machine: Machine, buffer: bytes, pos: int) -> int:
    stack = machine.stack
    args = stack.pop()
    symbol = stack[-1]
    construct = CONSTRUCTIONS.get(symbol) if type(symbol) is Symbol else None
    if construct is None or not isinstance(args, tuple):
        what = symbol if type(symbol) is Symbol else f"a {type(symbol).__name__}"
        raise UnsafePickle(f"it asks to call {what} with a {type(args).__name__}")
    stack[-1] = construct(args, machine.charge)
    return pos


@_opcode(b"b", "BUILD")
def _build(machine: Machine, buffer: bytes, pos: int) -> int:
    stack = machine.stack
    state = stack.pop()
    target = stack[-1]
    if type(target) is PendingArray:
        if target.value is not None:
            raise UnsafePickle("an array gets a second state")
        stack[-1] = target.value = build_array(state, machine.charge)
    elif type(target) is DType:
        target.build(state)
    else:
        what = str(target) if type(target) is Symbol else f"a {type(target).__name__}"
        raise UnsafePickle(f"it asks to set the attributes of {what}")
    return pos


_refused(b"i", "INST", "an instance of a class")
_refused(b"o", "OBJ", "an instance of a class")
_refused(b"\x81", "NEWOBJ", "an instance of a class")
_refused(b"\x92", "NEWOBJ_EX", "an instance of a class")
_refused(b"P", "PERSID", "a persistent object")
_refused(b"Q", "BINPERSID", "a persistent object")
_refused(b"\x82", "EXT1", "a registered extension")
_refused(b"\x83", "EXT2", "a registered extension")
_refused(b"\x84", "EXT4", "a registered extension")
_refused(b"\x97", "NEXT_BUFFER", "a buffer that is not in the file")
_refused(b"\x98", "READONLY_BUFFER", "a buffer that is not in the file")


# ---- frame of the pickle ---------------------------------------------------------------------------------


@_opcode(b"\x80", "PROTO", 1)
def _proto(machine: Machine, buffer: bytes, pos: int) -> int:
    if buffer[pos] > 5:
        raise BrokenPickle(f"pickle protocol {buffer[pos]} is not known")
    return pos + 1


@_opcode(b"\x95", "FRAME", 8)
def _frame(machine: Machine, buffer: bytes, pos: int) -> int:
    # Its length is a hint for readers that fetch a frame at once; ours reads as it goes.
    return pos + 8


@_opcode(b".", "STOP")
def _stop(machine: Machine, buffer: bytes, pos: int) -> int:
    raise Pause(pos, stopped=True)
