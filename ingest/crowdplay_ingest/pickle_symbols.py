"""What a pickle may construct: a table from inert symbols to plain values.

A pickle names what it wants called (GLOBAL) and with what (REDUCE, BUILD). Here a name is never looked up: it
is one of the `SYMBOLS` below, which are mere labels, or it is refused. What a label with its arguments
amounts to is decided by the functions of `CONSTRUCTIONS`. They check everything before numpy sees it, because
numpy's own unpickling functions trust their input (a state with a wrong size crashes the process).
"""

from __future__ import annotations

import datetime
import math
import re
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from crowdplay_lake.errors import BrokenPickle, UnsafePickle

Charge = Callable[[int], None]
"""Books bytes of memory that a construction takes beyond the bytes of the pickle; may raise LimitExceeded."""

Construction = Callable[[tuple[Any, ...], Charge], Any]


@dataclass(frozen=True, eq=False, slots=True)
class Symbol:
    """The name of something a pickle may refer to. Compared by identity, never resolved."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class PendingArray:
    """What `_reconstruct` leaves until BUILD tells the array. The memo may hold it, so it keeps the array."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: np.ndarray[Any, Any] | None = None


class DType:
    """An element type: named by REDUCE, usable once BUILD has told its byte order."""

    __slots__ = ("_dtype", "_number_size", "_numbers", "code")

    def __init__(self, code: str) -> None:
        self.code = code
        self._dtype: np.dtype[Any] | None = None
        self._numbers: dict[bytes, np.generic] = {}  # scalars made lately: rewards and scores repeat
        self._number_size = -1  # of an element, if it is a number and the state is known

    def build(self, state: object) -> None:
        """Take the state that numpy's dtype pickles: (version, byte order, 3 x None, sizes and flags)."""
        if self._dtype is not None:
            raise BrokenPickle("a dtype gets a second state")
        if not isinstance(state, tuple) or len(state) != 8 or state[0] != 3:
            raise BrokenPickle("the state of a dtype is not one that numpy writes")
        order, subdtype, names, fields, size, alignment, flags = state[1:]
        if (subdtype, names, fields) != (None, None, None):
            raise UnsafePickle("a structured dtype is not plain data")
        if not isinstance(order, str) or order not in ("<", ">", "|", "="):
            raise BrokenPickle("a dtype has an unknown byte order")
        dtype = np.dtype(order + self.code)
        if self.code[0] in "SU":
            expected = (dtype.itemsize, 1, 0) if self.code[0] == "S" else (dtype.itemsize, 4, 8)
        else:
            expected = (-1, -1, 0)
        if (size, alignment, flags) != expected:
            raise BrokenPickle(f"the sizes or flags of dtype {self.code} are wrong")
        self._dtype = dtype
        if dtype.kind in "iuf":
            self._number_size = dtype.itemsize

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy dtype, once it is whole."""
        if self._dtype is None:
            raise BrokenPickle("a dtype is used before it has its state")
        return self._dtype

    def scalar(self, data: bytes) -> np.generic:
        """The numpy scalar with these bytes."""
        if len(data) == self._number_size:  # the usual case, without ceremony: numbers may have any bytes
            number = self._numbers.get(data)
            if number is None:
                if len(self._numbers) == _NUMBERS_KEPT:
                    self._numbers.clear()
                number = self._numbers[data] = np.frombuffer(data, self._dtype)[0]
            return number
        if self.dtype.itemsize == 0 and data == b"":
            return np.zeros(1, self.dtype)[0]  # type: ignore[no-any-return]
        value: np.generic = _array(data, self, (1,), "C")[0]
        return value


class ArgumentTuple(tuple[Any, ...]):
    """A tuple that holds something inert: good as an argument, never as a value."""

    __slots__ = ()


INERT = frozenset({Symbol, PendingArray, DType, ArgumentTuple})
"""Types that only ever stand between opcodes: they are no plain data."""

# Numbers up to 64 bits, and text of a stated length. No objects, no structures, nothing platform-dependent.
_CODE = re.compile(r"b1|[iu][1248]|f[248]|[SU](?:0|[1-9]\d{0,7})")
_MAX_DIMENSIONS = 32
_NUMBERS_KEPT = 512
_MAX_DIMENSION = 2**31
_MAX_CODE_POINT = 0x10FFFF


def build_array(state: object, charge: Charge) -> np.ndarray[Any, Any]:
    """The array of a state (1, shape, dtype, Fortran order?, bytes): a read-only view of the bytes.

    The other byte order is turned into the native one, as numpy does here (but not in _frombuffer).
    """
    if not isinstance(state, tuple) or len(state) != 5 or state[0] != 1:
        raise BrokenPickle("the state of an array is not one that numpy writes")
    _, shape, dtype, fortran, data = state
    if type(data) is not bytes:
        raise UnsafePickle(f"the content of an array is a {type(data).__name__}, expected bytes")
    if fortran not in (False, True):
        raise BrokenPickle("an array's order flag is not a bool")
    array = _array(data, dtype, shape, "F" if fortran else "C")
    if not array.dtype.isnative:
        charge(len(data))
        array = array.astype(array.dtype.newbyteorder("="))
        array.flags.writeable = False
    return array


def _array(data: bytes | bytearray, dtype: object, shape: object, order: Literal["C", "F"]) -> np.ndarray[Any, Any]:
    if type(dtype) is not DType:
        raise BrokenPickle(f"an array's dtype is a {type(dtype).__name__}")
    if type(shape) is not tuple or len(shape) > _MAX_DIMENSIONS:
        raise BrokenPickle("an array's shape is not a tuple of at most 32 sizes")
    for size in shape:
        if type(size) is not int or not 0 <= size <= _MAX_DIMENSION:
            raise BrokenPickle("an array's shape holds something that is not a size")
    real = dtype.dtype
    if real.itemsize == 0 or math.prod(shape) * real.itemsize != len(data):
        raise BrokenPickle(f"an array's shape {shape} of {real} does not fit its {len(data)} bytes")
    if real.kind == "b" and data.translate(None, b"\0\1"):
        raise BrokenPickle("an array of bool holds bytes other than 0 and 1")
    if real.kind == "U" and data:
        points = np.frombuffer(data, real.byteorder + "u4")
        if int(points.max()) > _MAX_CODE_POINT:
            raise BrokenPickle("an array of text holds something that is not a character")
    # ndarray() refuses an empty buffer for an empty array.
    array = np.ndarray(shape, real, data, order=order) if data else np.empty(shape, real, order)
    array.flags.writeable = False
    return array


def _reconstruct(args: tuple[Any, ...], charge: Charge) -> PendingArray:
    if len(args) != 3 or args[0] is not NDARRAY or args[1] != (0,) or args[2] not in (b"b", "b"):
        raise UnsafePickle("numpy's _reconstruct is asked for something that is not an array")
    charge(256)
    return PendingArray()


def _scalar(args: tuple[Any, ...], charge: Charge) -> np.generic:
    if len(args) != 2 or type(args[0]) is not DType or type(args[1]) is not bytes:
        raise UnsafePickle("a numpy scalar is not made of a plain dtype and bytes")
    if len(args[1]) > 64:
        charge(5 * len(args[1]))
    return args[0].scalar(args[1])


def _frombuffer(args: tuple[Any, ...], charge: Charge) -> np.ndarray[Any, Any]:
    if len(args) not in (4, 5) or type(args[0]) not in (bytes, bytearray):
        raise UnsafePickle("numpy's _frombuffer is not given bytes, a dtype, a shape and an order")
    data, dtype, shape, order, *rest = args
    charge(256)
    axes = rest[0] if rest else None
    if order == "K" and axes is not None:
        array = _array(data, dtype, shape, "C")
        if type(axes) is not tuple or sorted(axes) != list(range(array.ndim)):
            raise BrokenPickle("the axes of an array are not a permutation")
        return array.transpose(axes)
    if order not in ("C", "F"):
        raise BrokenPickle("an array's order is neither C nor F")
    return _array(data, dtype, shape, order)


def _dtype(args: tuple[Any, ...], charge: Charge) -> DType:
    if len(args) != 3 or type(args[0]) is not str or args[1] not in (False, 0) or args[2] not in (True, 1):
        raise UnsafePickle("a dtype is not described by a plain type code")
    if not _CODE.fullmatch(args[0]):
        raise UnsafePickle(f"arrays of dtype {args[0][:20]!r} are not plain numbers or text")
    charge(256)
    return DType(args[0])


def _ordered_dict(args: tuple[Any, ...], charge: Charge) -> OrderedDict[Any, Any]:
    if args:
        raise UnsafePickle("an OrderedDict is made with arguments")
    charge(256)
    return OrderedDict()


def _timedelta(args: tuple[Any, ...], charge: Charge) -> datetime.timedelta:
    if len(args) != 3 or not (type(args[0]) is int and type(args[1]) is int and type(args[2]) is int):
        raise BrokenPickle("a timedelta is not made of days, seconds and microseconds")
    return datetime.timedelta(*args)


def _date_bytes(args: tuple[Any, ...], size: int, kind: str) -> bytes:
    """The packed fields of a date or datetime. With a time zone comes a second argument: not plain data."""
    if len(args) != 1 or type(args[0]) not in (bytes, str):
        raise UnsafePickle(f"a {kind} is not made of its {size} packed bytes alone")
    packed: bytes = args[0].encode("latin-1") if type(args[0]) is str else args[0]
    if len(packed) != size:
        raise BrokenPickle(f"a {kind} has {len(packed)} bytes, expected {size}")
    return packed


def _datetime(args: tuple[Any, ...], charge: Charge) -> datetime.datetime:
    b = _date_bytes(args, 10, "datetime")
    # The fields are unpacked here since datetime itself takes packed ones unchecked.
    year, microsecond = int.from_bytes(b[:2], "big"), int.from_bytes(b[7:], "big")
    return datetime.datetime(year, b[2] & 0x7F, b[3], b[4], b[5], b[6], microsecond, fold=b[2] >> 7)


def _date(args: tuple[Any, ...], charge: Charge) -> datetime.date:
    b = _date_bytes(args, 4, "date")
    return datetime.date(int.from_bytes(b[:2], "big"), b[2], b[3])


def latin1_bytes(args: tuple[Any, ...], charge: Charge) -> bytes:
    """How protocols 0 to 2 write bytes: as text that names the same numbers."""
    if len(args) != 2 or type(args[0]) is not str or args[1] not in ("latin1", "latin-1"):
        raise UnsafePickle("_codecs.encode is asked for something other than latin1")
    charge(len(args[0]))
    return args[0].encode("latin-1")


def _bytes(args: tuple[Any, ...], charge: Charge) -> bytes:
    if args:
        raise UnsafePickle("bytes are made with arguments")
    return b""


def _bytearray(args: tuple[Any, ...], charge: Charge) -> bytearray:
    if not args:
        return bytearray()
    if len(args) == 2 and type(args[0]) is str and args[1] in ("latin1", "latin-1"):
        charge(2 * len(args[0]))
        return bytearray(args[0], "latin-1")
    if len(args) != 1 or type(args[0]) is not bytes:
        raise UnsafePickle("a bytearray is not made of bytes")
    charge(len(args[0]))
    return bytearray(args[0])


SAFE_KEYS = frozenset({str, bytes, bool, float, type(None)})
"""Types whose hashes nobody can make collide (text and bytes are salted; only a few floats share a hash)."""

_ODD_KEYS = frozenset({int, datetime.timedelta, datetime.datetime, datetime.date})
_ODD_KEY_PRICE = 16 * 1024  # With 64 MiB a step, 4,096 of them: a quarter of a second if all collide.
_MAX_SAFE_INT = 2**61 - 2


def check_key(key: object, charge: Charge) -> None:
    """Refuse what may not be a dict's key or a set's member.

    Hashing a tuple walks it, shared parts each time, so only flat tuples are taken; and whoever writes a file
    can choose big numbers or tuples that all hash alike, which makes a dict quadratic: they are few a step.
    """
    kind = type(key)
    if kind in SAFE_KEYS or (kind is int and -_MAX_SAFE_INT <= key <= _MAX_SAFE_INT):  # type: ignore[operator]
        return
    members = key if kind in (tuple, frozenset) else (key,)
    if len(members) > 64:  # type: ignore[arg-type]
        raise UnsafePickle(f"a {kind.__name__} of more than 64 members is used as a key")
    for member in members:  # type: ignore[attr-defined]
        inner = type(member)
        if inner not in SAFE_KEYS and inner not in _ODD_KEYS and not issubclass(inner, np.generic):
            raise UnsafePickle(f"a {inner.__name__} is used as a key or inside one")
    charge(_ODD_KEY_PRICE)


def make_set(kind: type[set[Any]] | type[frozenset[Any]], members: object, charge: Charge) -> set[Any] | frozenset[Any]:
    """A set or frozenset of these members, each fit to be one."""
    if type(members) is not list:
        raise UnsafePickle(f"a {kind.__name__} is not made of a list")
    charge(256 + 64 * len(members))
    for member in members:
        check_key(member, charge)
    return kind(members)


def _set_of(kind: type[set[Any]] | type[frozenset[Any]]) -> Construction:
    def construct(args: tuple[Any, ...], charge: Charge) -> set[Any] | frozenset[Any]:
        if len(args) > 1:
            raise UnsafePickle(f"a {kind.__name__} is made with {len(args)} arguments")
        return make_set(kind, args[0] if args else [], charge)

    return construct


NDARRAY = Symbol("numpy", "ndarray")

CONSTRUCTIONS: dict[Symbol, Construction] = {
    Symbol("numpy", "dtype"): _dtype,
    Symbol("collections", "OrderedDict"): _ordered_dict,
    Symbol("datetime", "timedelta"): _timedelta,
    Symbol("datetime", "datetime"): _datetime,
    Symbol("datetime", "date"): _date,
    Symbol("_codecs", "encode"): latin1_bytes,
}
"""What a symbol makes of its arguments (REDUCE). Another kind of data is a function and a line here."""

# numpy 2 renamed its core package; pickles of both ages are about.
for _core in ("numpy.core", "numpy._core"):
    CONSTRUCTIONS[Symbol(f"{_core}.multiarray", "_reconstruct")] = _reconstruct
    CONSTRUCTIONS[Symbol(f"{_core}.multiarray", "scalar")] = _scalar
    CONSTRUCTIONS[Symbol(f"{_core}.numeric", "_frombuffer")] = _frombuffer
# Protocols 0 to 2 write Python 2's name of builtins.
for _builtins in ("builtins", "__builtin__"):
    CONSTRUCTIONS[Symbol(_builtins, "bytes")] = _bytes
    CONSTRUCTIONS[Symbol(_builtins, "bytearray")] = _bytearray
    CONSTRUCTIONS[Symbol(_builtins, "set")] = _set_of(set)
    CONSTRUCTIONS[Symbol(_builtins, "frozenset")] = _set_of(frozenset)

SYMBOLS = {(symbol.module, symbol.name): symbol for symbol in (NDARRAY, *CONSTRUCTIONS)}


def find_symbol(module: object, name: object) -> Symbol:
    """The symbol of this name; UnsafePickle if there is none."""
    if type(module) is not str or type(name) is not str:
        raise BrokenPickle("a global is not named by text")
    symbol = SYMBOLS.get((module, name))
    if symbol is None:
        # Quoted: the file's author chose these characters, and they end up on terminals.
        raise UnsafePickle(f"it asks for {f'{module}.{name}'[:200]!r}, which is not plain data")
    return symbol


def retained_size(value: object) -> int:
    """About how many bytes it costs to remember ``value`` under a memo index."""
    return 128 + sys.getsizeof(value)
