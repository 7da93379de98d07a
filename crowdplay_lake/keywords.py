"""Keyword values in typed columns: so that SQL compares numbers as numbers, and nothing is lost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from .tagged import dumps, loads, type_name

__all__ = ["is_storable", "keyword_columns", "keyword_value"]


def keyword_columns(value: object) -> dict[str, Any]:
    """The columns value_type … value_json of a keyword value.

    Numbers and bools, and the seconds of a duration, go to ``value_double``; text to ``value_text``; dates to
    ``value_timestamp``, as UTC; everything to ``value_json``, from which `keyword_value` gives it back.
    """
    plain = value.item() if isinstance(value, np.generic) else value
    columns: dict[str, Any] = {
        "value_type": type_name(value),
        "value_double": None,
        "value_text": None,
        "value_timestamp": None,
        "value_json": dumps(value),
    }
    if isinstance(plain, bool | int | float):
        columns["value_double"] = _as_double(plain)
    elif isinstance(plain, timedelta):
        columns["value_double"] = plain.total_seconds()
    elif isinstance(plain, str) and is_storable(plain):
        columns["value_text"] = plain
    elif isinstance(plain, datetime):
        columns["value_timestamp"] = plain if plain.tzinfo else plain.replace(tzinfo=UTC)
    return columns


def is_storable(text: str) -> bool:
    """Whether a text column takes it: not where it holds half of a surrogate pair, as a pickle's text may."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _as_double(number: float) -> float:
    try:
        return float(number)
    except OverflowError:
        # Beyond a double; value_json has it exactly.
        return math.inf if number > 0 else -math.inf


def keyword_value(row: Mapping[str, Any]) -> Any:
    """The Python value of a row's ``value_json``; numpy scalars come back as Python numbers."""
    return loads(row["value_json"])
