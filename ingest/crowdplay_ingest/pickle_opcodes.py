"""The opcodes that build and keep: containers, stack and memo, names and what is made of them.

Together with `pickle_values` they fill the table of `pickle_table`.
"""

from __future__ import annotations

import struct
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
    latin1_bytes,
    make_set,
)
from .pickle_table import HANDLERS, MARGIN, NAMES, WIDTHS, opcode
from .pickle_values import decode_utf8

__all__ = ["BINGET", "HANDLERS", "LONG_BINPUT", "LONG_INDEX", "MARGIN", "NAMES", "WIDTHS"]

BINGET, LONG_BINPUT = b"hr"
_MEMOIZE, _SETITEM, _REDUCE_CODE = b"\x94sR"
# Opcodes of small values, and the bytes of their arguments: BININT1, BININT2, NONE, NEWTRUE, NEWFALSE.
_SMALL = {ord("K"): 1, ord("M"): 2, ord("N"): 0, 0x88: 0, 0x89: 0}
_CONSTANT = {ord("N"): None, 0x88: True, 0x89: False}
LONG_INDEX = struct.Struct("<I").unpack_from


def _refused(code: bytes, name: str, what: str) -> None:
    @opcode(code, name)
    def refuse(machine: Machine, buffer: bytearray, pos: int) -> int:
        raise UnsafePickle(f"it asks for {what}, which is not plain data")


# ---- containers ------------------------------------------------------------------------------------------


@opcode(b"(", "MARK")
def _mark(machine: Machine, buffer: bytearray, pos: int) -> int:
    outer = machine.outer
    outer.append(machine.stack)
    machine.stack = []
    if len(outer) > machine.limits.max_depth:
        raise LimitExceeded(f"nested more than {machine.limits.max_depth} deep")
    return pos


@opcode(b"]", "EMPTY_LIST")
def _empty_list(machine: Machine, buffer: bytearray, pos: int) -> int:
    # The first object of a trajectory is the list of steps.
    is_root = machine.drain and not machine.stack and not machine.outer
    machine.stack.append(ROOT if is_root else [])
    return pos


@opcode(b"l", "LIST")
def _list(machine: Machine, buffer: bytearray, pos: int) -> int:
    items = machine.pop_mark()
    _empty_list(machine, buffer, pos)
    if items:
        machine.fill_list(items, pos)
    return pos


@opcode(b"}", "EMPTY_DICT")
def _empty_dict(machine: Machine, buffer: bytearray, pos: int) -> int:
    stack = machine.stack
    if len(stack) == 1 and type(stack[0]) is dict and machine.drain:
        outer = machine.outer
        if len(outer) == 1 and len(outer[0]) == 1 and outer[0][0] is ROOT:
            # The next step begins: a dict cannot be this dict's key, so this one is whole.
            machine.ready.append(stack[0])
            machine.split = True
            stack[0] = {}
            raise Pause(pos)
    made: dict[Any, Any] = {}
    stack.append(made)
    pos = _put(machine, buffer, pos, made)
    if buffer[pos] != BINGET or buffer[pos + 2] not in _SMALL:
        return pos
    # Most dicts of a step are {agent: a small value}: that entry too.
    key = machine.memo.get(buffer[pos + 1])
    width = _SMALL[buffer[pos + 2]]
    end = pos + 3 + width
    if type(key) is not str or buffer[end] != _SETITEM or end >= machine.end:
        return pos
    made[key] = _CONSTANT[buffer[pos + 2]] if width == 0 else int.from_bytes(buffer[pos + 3 : end], "little")
    return end + 1


def _put(machine: Machine, buffer: bytearray, pos: int, value: Any) -> int:
    """What picklers write after most objects, at once: remember it. Returns the position of the next opcode."""
    code = buffer[pos]
    if code == LONG_BINPUT:
        index = LONG_INDEX(buffer, pos + 1)[0]
        pos += 5
    elif code == _MEMOIZE:
        index = machine.forgotten + len(machine.fresh)
        pos += 1
    else:
        return pos
    machine.memo[index] = value
    machine.fresh.append(index)
    return pos


@opcode(b"d", "DICT")
def _dict(machine: Machine, buffer: bytearray, pos: int) -> int:
    items = machine.pop_mark()
    machine.stack.append({})
    machine.fill_dict(items)
    return pos


@opcode(b"\x8f", "EMPTY_SET")
def _empty_set(machine: Machine, buffer: bytearray, pos: int) -> int:
    machine.charge(256)
    machine.stack.append(set())
    return pos


@opcode(b"\x91", "FROZENSET")
def _frozenset(machine: Machine, buffer: bytearray, pos: int) -> int:
    items = machine.pop_mark()
    machine.stack.append(make_set(frozenset, items, machine.charge))
    return pos


@opcode(b"\x90", "ADDITEMS")
def _additems(machine: Machine, buffer: bytearray, pos: int) -> int:
    items = machine.pop_mark()
    target = machine.stack[-1]
    if type(target) is not set:
        raise UnsafePickle(f"members are added to a {type(target).__name__}")
    machine.check_open(target)
    target |= make_set(set, items, machine.charge)
    return pos


@opcode(b"a", "APPEND")
def _append(machine: Machine, buffer: bytearray, pos: int) -> int:
    machine.fill_list([machine.stack.pop()], pos)
    return pos


@opcode(b"e", "APPENDS")
def _appends(machine: Machine, buffer: bytearray, pos: int) -> int:
    machine.fill_list(machine.pop_mark(is_appends=True), pos)
    return pos


@opcode(b"s", "SETITEM")
def _setitem(machine: Machine, buffer: bytearray, pos: int) -> int:
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


@opcode(b"u", "SETITEMS")
def _setitems(machine: Machine, buffer: bytearray, pos: int) -> int:
    machine.fill_dict(machine.pop_mark())
    return pos


@opcode(b"t", "TUPLE")
def _tuple(machine: Machine, buffer: bytearray, pos: int) -> int:
    items = machine.pop_mark()
    machine.stack.append(make_tuple(items))
    return pos


def _joined(code: bytes, name: str, size: int) -> None:
    @opcode(code, name)
    def join(machine: Machine, buffer: bytearray, pos: int) -> int:
        pos = _put(machine, buffer, pos, machine.join(size))
        if buffer[pos] == _REDUCE_CODE:
            return _reduce(machine, buffer, pos + 1)
        return pos


_joined(b"\x85", "TUPLE1", 1)
_joined(b"\x86", "TUPLE2", 2)
_joined(b"\x87", "TUPLE3", 3)


# ---- stack and memo --------------------------------------------------------------------------------------


@opcode(b"0", "POP")
def _pop(machine: Machine, buffer: bytearray, pos: int) -> int:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.pop_mark()
    return pos


@opcode(b"1", "POP_MARK")
def _pop_mark(machine: Machine, buffer: bytearray, pos: int) -> int:
    machine.pop_mark()
    return pos


@opcode(b"2", "DUP")
def _dup(machine: Machine, buffer: bytearray, pos: int) -> int:
    value = machine.stack[-1]
    machine.stack.append(machine.fetch(value, -1) if type(value) in CAREFUL else value)
    return pos


@opcode(b"\x94", "MEMOIZE")
def _memoize(machine: Machine, buffer: bytearray, pos: int) -> int:
    fresh = machine.fresh
    index = machine.forgotten + len(fresh)
    machine.memo[index] = machine.stack[-1]
    fresh.append(index)
    return pos


@opcode(b"q", "BINPUT", 1)
def _binput(machine: Machine, buffer: bytearray, pos: int) -> int:
    index = buffer[pos]
    machine.memo[index] = machine.stack[-1]
    machine.fresh.append(index)
    return pos + 1


@opcode(b"r", "LONG_BINPUT", 4)
def _long_binput(machine: Machine, buffer: bytearray, pos: int) -> int:
    index = LONG_INDEX(buffer, pos)[0]
    machine.memo[index] = machine.stack[-1]
    machine.fresh.append(index)
    return pos + 4


@opcode(b"p", "PUT")
def _put_text(machine: Machine, buffer: bytearray, pos: int) -> int:
    line, end = machine.take_line(buffer, pos, 20)
    machine.remember(int(line))
    return end


@opcode(b"h", "BINGET", 1)
def _binget(machine: Machine, buffer: bytearray, pos: int) -> int:
    value = machine.memo.get(buffer[pos], MISSING)
    if type(value) in CAREFUL:
        value = machine.fetch(value, buffer[pos])
    machine.stack.append(value)
    return pos + 1


@opcode(b"j", "LONG_BINGET", 4)
def _long_binget(machine: Machine, buffer: bytearray, pos: int) -> int:
    machine.recall(LONG_INDEX(buffer, pos)[0])
    return pos + 4


@opcode(b"g", "GET")
def _get(machine: Machine, buffer: bytearray, pos: int) -> int:
    line, end = machine.take_line(buffer, pos, 20)
    machine.recall(int(line))
    return end


# ---- names and constructions -----------------------------------------------------------------------------


@opcode(b"c", "GLOBAL")
def _global(machine: Machine, buffer: bytearray, pos: int) -> int:
    module, middle = machine.take_line(buffer, pos, 1000)
    name, end = machine.take_line(buffer, middle, 1000)
    machine.stack.append(find_symbol(decode_utf8(module), decode_utf8(name)))
    return end


@opcode(b"\x93", "STACK_GLOBAL")
def _stack_global(machine: Machine, buffer: bytearray, pos: int) -> int:
    name = machine.stack.pop()
    module = machine.stack.pop()
    machine.stack.append(find_symbol(module, name))
    return pos


@opcode(b"R", "REDUCE")
def _reduce(machine: Machine, buffer: bytearray, pos: int) -> int:
    stack = machine.stack
    args = stack.pop()
    symbol = stack[-1]
    construct = CONSTRUCTIONS.get(symbol) if type(symbol) is Symbol else None
    if construct is None or not isinstance(args, tuple):
        what = symbol if type(symbol) is Symbol else f"a {type(symbol).__name__}"
        raise UnsafePickle(f"it asks to call {what} with a {type(args).__name__}")
    stack[-1] = construct(args, machine.charge)
    if construct is latin1_bytes:
        machine.spent.append(args[0])
    return _put(machine, buffer, pos, stack[-1])


@opcode(b"b", "BUILD")
def _build(machine: Machine, buffer: bytearray, pos: int) -> int:
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


@opcode(b"\x80", "PROTO", 1)
def _proto(machine: Machine, buffer: bytearray, pos: int) -> int:
    if buffer[pos] > 5:
        raise BrokenPickle(f"pickle protocol {buffer[pos]} is not known")
    return pos + 1


@opcode(b"\x95", "FRAME", 8)
def _frame(machine: Machine, buffer: bytearray, pos: int) -> int:
    # Its length is a hint for readers that fetch a frame at once; ours reads as it goes.
    return pos + 8


@opcode(b".", "STOP")
def _stop(machine: Machine, buffer: bytearray, pos: int) -> int:
    raise Pause(pos, stopped=True)
