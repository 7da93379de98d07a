"""The opcodes that push a value: constants, numbers, text and bytes, in all their spellings of protocols 0 to 5."""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable
from typing import Any

from crowdplay_lake.errors import BrokenPickle, LimitExceeded

from .pickle_state import Machine
from .pickle_table import opcode

_RUN = 256  # small ints taken at once; a RAM is 128
_BININT1 = ord("K")
_APPENDS = ord("e")


def _constant(code: bytes, name: str, value: Any) -> None:
    @opcode(code, name)
    def push(machine: Machine, buffer: bytearray, pos: int) -> int:
        machine.stack.append(value)
        return pos


def _number(code: bytes, name: str, layout: str) -> None:
    unpack, size = struct.Struct(layout).unpack_from, struct.calcsize(layout)

    @opcode(code, name, size)
    def push(machine: Machine, buffer: bytearray, pos: int) -> int:
        machine.stack.append(unpack(buffer, pos)[0])
        return pos + size


def _sized(code: bytes, name: str, width: int, decode: Callable[[bytes], Any] | None) -> None:
    """Strings with a length in front; a negative length (of the old signed ones) reads as a huge one."""

    @opcode(code, name, width)
    def push(machine: Machine, buffer: bytearray, pos: int) -> int:
        start = pos + width
        size = int.from_bytes(buffer[pos:start], "little")
        data = machine.take(buffer, start, size)
        machine.stack.append(decode(data) if decode else data)
        return start + size


def _text(code: bytes, name: str, decode: Callable[[Machine, bytes], Any], is_number: bool) -> None:
    """Values written as a line of text (protocol 0)."""

    @opcode(code, name)
    def push(machine: Machine, buffer: bytearray, pos: int) -> int:
        # Reading a number in decimal takes quadratic time; each byte is 2.4 digits.
        limit = 3 * machine.limits.max_int_bytes if is_number else machine.limits.max_item_bytes
        line, end = machine.take_line(buffer, pos, limit)
        if not is_number:
            machine.payload += len(line)
        machine.stack.append(decode(machine, line))
        return end


# ---- values ----------------------------------------------------------------------------------------------


def decode_utf8(data: bytes) -> str:
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
_sized(b"\x8c", "SHORT_BINUNICODE", 1, decode_utf8)
_sized(b"X", "BINUNICODE", 4, decode_utf8)
_sized(b"\x8d", "BINUNICODE8", 8, decode_utf8)
_text(b"I", "INT", _decode_int_line, is_number=True)
_text(b"L", "LONG", _decode_long_line, is_number=True)
_text(b"F", "FLOAT", lambda machine, line: float(line), is_number=True)
_text(b"V", "UNICODE", _decode_unicode_line, is_number=False)
_text(b"S", "STRING", _decode_string_line, is_number=False)


@opcode(b"K", "BININT1", 1)
def _binint1(machine: Machine, buffer: bytearray, pos: int) -> int:
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


def _push_int(machine: Machine, buffer: bytearray, start: int, size: int) -> int:
    if size < 0:
        raise BrokenPickle("an integer of negative length")
    if size > machine.limits.max_int_bytes:
        raise LimitExceeded(f"an integer of {size:,} bytes, more than {machine.limits.max_int_bytes:,}")
    machine.stack.append(int.from_bytes(machine.take(buffer, start, size), "little", signed=True))
    return start + size


@opcode(b"\x8a", "LONG1", 1)
def _long1(machine: Machine, buffer: bytearray, pos: int) -> int:
    return _push_int(machine, buffer, pos + 1, buffer[pos])


@opcode(b"\x8b", "LONG4", 4)
def _long4(machine: Machine, buffer: bytearray, pos: int) -> int:
    return _push_int(machine, buffer, pos + 4, int.from_bytes(buffer[pos : pos + 4], "little", signed=True))
