"""Plain Python data as JSON with type tags, and back, losslessly.

What JSON has is written as JSON. Everything else is an object with one key that begins with ``$``:

=================  ==========================================================
``$float``         "nan", "inf", "-inf"
``$bytes``         base64; ``$bytearray`` likewise
``$tuple``         the items; ``$set``, ``$frozenset`` likewise
``$dict``          [key, value] pairs, where a key is no text or begins with $
``$ordered``       [key, value] pairs of an OrderedDict
``$timedelta``     [days, seconds, microseconds]
``$datetime``      ISO 8601; ``$date`` likewise
``$complex``       [real, imaginary]
``$ndarray``       [dtype, shape, base64 of the C-contiguous bytes]
``$numpy``         [dtype, value] of a numpy scalar; comes back as a Python number
=================  ==========================================================
"""

from __future__ import annotations

import base64
import json
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np

from .errors import LimitExceeded, UnsupportedTrajectory

__all__ = ["dumps", "loads", "type_name"]

# A value larger or deeper than this is no metadata; shared references can make a small pickle endless to walk.
MAX_NODES = 1_200_000  # an array of 16 MiB is one
MAX_DEPTH = 100
BYTES_A_NODE = 16
# Python itself refuses to write a number of more than 4,300 digits.
MAX_INT_BITS = 14_000
_CONSTANTS = {True: "true", False: "false", None: "null"}
_LONG = frozenset({str, bytes, bytearray})
# Of numpy scalars those that have an equal in Python: not dates (of nanoseconds), not long doubles, not records.
_SCALARS = frozenset("?bBhHiIlLqQefdFDSU")


def dumps(value: object, tag_numpy: bool = True) -> str:
    """``value`` as tagged JSON. ``tag_numpy=False`` writes numpy scalars as the Python ones they equal.

    Raises UnsupportedTrajectory for anything but plain data, LimitExceeded for endless data.
    """
    return _Encoder(tag_numpy).encode(value, 0)


def loads(text: str) -> Any:
    """The value that `dumps` wrote."""
    return _decode(json.loads(text))


def type_name(value: object) -> str:
    """The name that `value_type` gives a value: ``int``, ``timedelta``, ``none``, ``numpy.int64``, ``ndarray``, …"""
    if value is None:
        return "none"
    if isinstance(value, np.generic):
        return f"numpy.{value.dtype.name}"
    return type(value).__name__


def _base64(data: bytes | bytearray) -> str:
    return f'"{base64.b64encode(data).decode("ascii")}"'


# In ASCII: a pickle's text may hold half of a surrogate pair, which no UTF-8 column takes as it is.
_text: Callable[[str], str] = json.encoder.encode_basestring_ascii


class _Encoder:
    """Writes the JSON at once, with no objects in between: a step's extra is most of what ingest does in Python."""

    def __init__(self, tag_numpy: bool) -> None:
        self._tag_numpy = tag_numpy
        self._nodes = 0

    def encode(self, value: Any, depth: int) -> str:
        kind = type(value)
        self._nodes += 1 + len(value) // BYTES_A_NODE if kind in _LONG else 1
        if self._nodes > MAX_NODES:
            raise LimitExceeded(f"a value of more than {MAX_NODES:,} items, or as much text")
        if kind is int:
            if value.bit_length() > MAX_INT_BITS:
                raise UnsupportedTrajectory(f"a number of {value.bit_length():,} bits is not plain data")
            return repr(value)
        if kind is str:
            return _text(value)
        if kind is bool or value is None:
            return _CONSTANTS[value]
        if depth > MAX_DEPTH:
            raise LimitExceeded(f"a value of more than {MAX_DEPTH} levels")
        encode = self._BY_TYPE.get(kind)
        if encode is not None:
            return encode(self, value, depth)
        if isinstance(value, np.generic):
            return self._numpy_scalar(value, depth)
        raise UnsupportedTrajectory(f"a value of type {kind.__name__} is not plain data")

    def _spend(self, nodes: int) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise LimitExceeded(f"a value of more than {MAX_NODES:,} items, or as much text")

    def _float(self, value: float, depth: int) -> str:
        del depth
        return repr(value) if math.isfinite(value) else f'{{"$float":"{value!r}"}}'

    def _list(self, value: Any, depth: int) -> str:
        return f"[{','.join([self.encode(item, depth + 1) for item in value])}]"

    def _dict(self, value: Mapping[Any, Any], depth: int) -> str:
        size = 0
        # All keys before the first item: an item that is encoded and dropped would be encoded again, at each level.
        for key in value:
            if type(key) is not str or key.startswith("$"):
                return f'{{"$dict":{self._pairs(value, depth)}}}'
            size += len(key)
        self._spend(size // BYTES_A_NODE)
        items = [f"{_text(key)}:{self.encode(item, depth + 1)}" for key, item in value.items()]
        return f"{{{','.join(items)}}}"

    def _pairs(self, value: Mapping[Any, Any], depth: int) -> str:
        pairs = [f"[{self.encode(key, depth + 1)},{self.encode(item, depth + 1)}]" for key, item in value.items()]
        return f"[{','.join(pairs)}]"

    def _set(self, tag: str, value: Any, depth: int) -> str:
        return f'{{"{tag}":[{",".join(sorted([self.encode(item, depth + 1) for item in value]))}]}}'

    def _timedelta(self, value: timedelta, depth: int) -> str:
        del depth
        return f'{{"$timedelta":[{value.days},{value.seconds},{value.microseconds}]}}'

    def _numpy_scalar(self, value: np.generic, depth: int) -> str:
        if value.dtype.char not in _SCALARS:
            raise UnsupportedTrajectory(f"a numpy {value.dtype.name} is not plain data")
        plain = self.encode(value.item(), depth + 1)
        return f'{{"$numpy":["{value.dtype.str}",{plain}]}}' if self._tag_numpy else plain

    def _ndarray(self, value: np.ndarray[Any, Any], depth: int) -> str:
        del depth
        if value.dtype.hasobject or value.dtype.kind == "V":
            raise UnsupportedTrajectory("an array of Python objects or records is not plain data")
        self._spend(value.nbytes // BYTES_A_NODE)
        shape = ",".join(map(str, value.shape))
        return f'{{"$ndarray":["{value.dtype.str}",[{shape}],{_base64(np.ascontiguousarray(value).tobytes())}]}}'

    def _complex(self, value: complex, depth: int) -> str:
        return f'{{"$complex":[{self.encode(value.real, depth)},{self.encode(value.imag, depth)}]}}'

    _BY_TYPE: Mapping[type, Callable[[_Encoder, Any, int], str]] = {
        float: _float,
        dict: _dict,
        list: _list,
        tuple: lambda self, value, depth: f'{{"$tuple":{self._list(value, depth)}}}',
        set: lambda self, value, depth: self._set("$set", value, depth),
        frozenset: lambda self, value, depth: self._set("$frozenset", value, depth),
        OrderedDict: lambda self, value, depth: f'{{"$ordered":{self._pairs(value, depth)}}}',
        bytes: lambda self, value, depth: f'{{"$bytes":{_base64(value)}}}',
        bytearray: lambda self, value, depth: f'{{"$bytearray":{_base64(value)}}}',
        timedelta: _timedelta,
        datetime: lambda self, value, depth: (
            f'{{"$datetime":["{value.isoformat()}",{value.fold}]}}'
            if value.fold
            else f'{{"$datetime":"{value.isoformat()}"}}'
        ),
        date: lambda self, value, depth: f'{{"$date":"{value.isoformat()}"}}',
        complex: _complex,
        np.ndarray: _ndarray,
    }


def _array(parts: list[Any]) -> np.ndarray[Any, Any]:
    dtype, shape, data = parts
    return np.frombuffer(base64.b64decode(data), dtype=np.dtype(dtype)).reshape(shape).copy()


_UNTAG: Mapping[str, Callable[[Any], Any]] = {
    "$float": float,
    "$bytes": base64.b64decode,
    "$bytearray": lambda data: bytearray(base64.b64decode(data)),
    "$tuple": lambda items: tuple(_decode(items)),
    "$set": lambda items: set(_decode(items)),
    "$frozenset": lambda items: frozenset(_decode(items)),
    "$dict": lambda pairs: {_decode(key): _decode(item) for key, item in pairs},
    "$ordered": lambda pairs: OrderedDict((_decode(key), _decode(item)) for key, item in pairs),
    "$timedelta": lambda parts: timedelta(*parts),
    "$datetime": lambda content: (
        datetime.fromisoformat(content)
        if isinstance(content, str)
        else datetime.fromisoformat(content[0]).replace(fold=content[1])
    ),
    "$date": date.fromisoformat,
    "$complex": lambda parts: complex(*_decode(parts)),
    "$ndarray": _array,
    "$numpy": lambda parts: _decode(parts[1]),
}


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if isinstance(value, dict):
        if len(value) == 1:
            ((tag, content),) = value.items()
            if tag in _UNTAG:
                return _UNTAG[tag](content)
        return {key: _decode(item) for key, item in value.items()}
    return value
