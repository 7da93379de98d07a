"""How commands speak: results on stdout as text or JSON, errors and progress on stderr."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Any

from rich.console import Console
from rich.table import Table

from ..errors import InvalidArgument, printable

__all__ = [
    "Output",
    "as_json",
    "human_bytes",
    "human_duration",
    "parse_size",
    "print_json",
    "print_rows",
    "print_table",
    "stderr",
    "stdout",
]

stdout = Console(highlight=False, soft_wrap=False)
stderr = Console(stderr=True, highlight=False, soft_wrap=True)


class Output(StrEnum):
    """What a command prints."""

    TEXT = "text"
    JSON = "json"


def _jsonable(value: Any) -> Any:
    """``value`` as JSON has it: NaN and the infinities, which it does not have, are null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return value.hex()
    return str(value)


def as_json(value: Any, indent: int | None = None) -> str:
    """``value`` as JSON text. Bytes become hex, durations seconds, NaN null."""
    return json.dumps(_jsonable(value), indent=indent, ensure_ascii=False, allow_nan=False)


def print_json(value: Any) -> None:
    """One JSON document on stdout, as `as_json` writes it."""
    print(as_json(value, indent=2))


# Narrower columns than this cannot be read.
LEAST_WIDTH = 9


def print_rows(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Rows for a person: a table, or a block of lines a row where the terminal is too narrow for so many columns."""
    if len(columns) * LEAST_WIDTH <= stdout.width:
        print_table("", columns, rows)
        return
    for number, row in enumerate(rows, 1):
        shown = [(name, value) for name, value in zip(columns, row, strict=True) if value is not None]
        print_table(f"row {number}", ["column", "value"], shown)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], totals: bool = False) -> None:
    """A table for a person; numbers to the right. ``totals``: the last row is their sum."""
    table = Table(title=title, title_justify="left", title_style="bold", show_footer=False)
    for index, column in enumerate(columns):
        is_number = bool(rows) and all(isinstance(row[index], int | float) or row[index] is None for row in rows)
        table.add_column(column, justify="right" if is_number else "left", overflow="fold")
    for number, row in enumerate(rows):
        table.add_row(*map(_cell, row), end_section=totals and number == len(rows) - 2)
    stdout.print(table)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.1f}"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    # Square brackets are mark-up to rich, and data here.
    return printable(str(value), keep="\n\t", longest=1 << 20).replace("[", "\\[")


def human_bytes(size: int) -> str:
    """1536 → '1.5 KiB'."""
    amount = float(size)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:,.0f} {unit}" if unit == "bytes" else f"{amount:,.1f} {unit}"
        amount /= 1024
    return f"{amount:,.1f} TiB"


def human_duration(seconds: float) -> str:
    """3725 → '1:02:05'."""
    return str(timedelta(seconds=round(seconds)))


_SIZES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
_SIZES |= {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}


def parse_size(text: str) -> int:
    """'128MB' → bytes; MiB and the like are powers of two."""
    # More digits than that are no size of anything.
    match = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,15})?)\s*([kmg]i?b?|b|)\s*", text.lower())
    if match is None:
        raise InvalidArgument(f"{text!r} is no size; write it as 128MB, 1GB or 64MiB")
    return int(float(match[1]) * _SIZES[match[2]])
