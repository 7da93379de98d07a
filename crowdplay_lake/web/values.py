"""Values of a query as JSON that a browser reads without loss: what a double cannot hold goes as text."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa

__all__ = ["as_json", "cell", "columns_of", "kind_of"]

# Whole numbers up to this one are all different as doubles.
EXACT = 2**53
LONGEST_TEXT = 2_000
LONGEST_BYTES = 32


def cell(value: Any) -> Any:
    """``value`` as null, a bool, a number or a text; long texts and bytes are cut, and end in '…'."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) <= EXACT else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else _odd_float(value)
    if isinstance(value, Decimal):
        return _decimal(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        more = f"… ({len(value):,} bytes)" if len(value) > LONGEST_BYTES else ""
        return f"0x{value[:LONGEST_BYTES].hex()}{more}"
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    text = value if isinstance(value, str) else json.dumps(_nested(value), ensure_ascii=False)
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}…"


def _decimal(value: Decimal) -> int | float | str:
    if not value.is_finite() or abs(value) > EXACT:
        return str(value)
    if value == int(value):
        return int(value)
    # Of so many digits each double is the nearest to one number.
    return float(value) if len(value.as_tuple().digits) <= 15 else str(value)


def _odd_float(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _nested(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _nested(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_nested(item) for item in value]
    return value if value is None or isinstance(value, bool | int | str) else cell(value)


def kind_of(dtype: pa.DataType) -> str:
    """What a chart can make of a column: 'number', 'time', or 'text' for all else."""
    t = pa.types
    if t.is_integer(dtype) or t.is_floating(dtype) or t.is_decimal(dtype) or t.is_duration(dtype):
        return "number"
    return "time" if t.is_timestamp(dtype) or t.is_date(dtype) else "text"


def columns_of(table: pa.Table) -> list[dict[str, str]]:
    """Name, type and kind of each column."""
    return [{"name": f.name, "type": str(f.type), "kind": kind_of(f.type)} for f in table.schema]


def as_json(value: Mapping[str, Any] | Sequence[Any]) -> bytes:
    """A document of plain values, on one line."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(errors="replace")
