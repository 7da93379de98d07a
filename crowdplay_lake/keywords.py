"""Keyword values in typed columns: so that SQL compares numbers as numbers, and nothing is lost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .schema import Table
from .tagged import dumps, loads, type_name

__all__ = ["is_storable", "keyword_columns", "keyword_value", "put_keyword_rows"]


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


def put_keyword_rows(
    table: Table, known: pa.Table, rows: Iterable[Mapping[str, Any]], commit: int, annotates: bool
) -> tuple[pa.Table, int]:
    """``known``, rows of a keyword table, with ``rows`` put in by owner, agent and key: (the rows, how many changed).

    The latest change wins. A value of `dataset.sqlite` (``annotates=False``) takes the place of an annotation only
    where it is another one than when that was written: so an ingest of the same metadata undoes nothing. Rows that
    stay as they are keep the commit that wrote them.
    """
    owner, agent, key = table.sort
    new = {(row[owner], row[agent], row[key]): row for row in rows}
    touched = pc.is_in(known[owner], value_set=pa.array({identity[0] for identity in new}, pa.string()))
    before = {(row[owner], row[agent], row[key]): row for row in known.filter(touched).to_pylist()}
    changed = {}
    for identity, row in new.items():
        # In value_double NaN would differ from itself; value_json tells every two values apart.
        value, told = row["value_json"], None
        if (old := before.get(identity)) is not None:
            told = old["value_json"] if old["replaced_json"] is None else old["replaced_json"]
            if value == (old["value_json"] if annotates else told):
                continue
        replaced = told if annotates and value != told else None
        changed[identity] = {**row, "commit": commit, "replaced_json": replaced}
    if not changed:
        return known, 0
    names = table.schema.names
    merged = {**before, **changed}.values()
    put = pa.Table.from_pylist([{name: row.get(name) for name in names} for row in merged], table.schema)
    return pa.concat_tables([known.filter(pc.invert(touched)).select(names), put]), len(changed)
