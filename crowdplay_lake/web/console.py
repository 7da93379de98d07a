"""What the SQL console asks: a query's rows within limits, and what can be asked."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import InvalidArgument
from ..query import Stop
from ..schema import RAM_COLUMNS
from .values import cell, columns_of

if TYPE_CHECKING:
    from ..lake import Lake

__all__ = ["rows_of", "schema_of"]

# Text of all cells together: a row can be wide.
MOST_CHARACTERS = 8_000_000
LONGEST_QUERY = 20_000


def rows_of(lake: Lake, asked: Mapping[str, Any], stop: Stop) -> dict[str, Any]:
    """The rows of ``asked['query']``, at most ``asked['rows']``. Raises as `Lake.sql`."""
    query = asked.get("query")
    if not isinstance(query, str) or not query.strip():
        raise InvalidArgument(
            "there is no query; write one, such as: SELECT game, count(*) FROM episodes GROUP BY game"
        )
    if len(query) > LONGEST_QUERY:
        raise InvalidArgument(f"a query of {len(query):,} characters is more than the {LONGEST_QUERY:,} that are taken")
    if any("\ud800" <= character <= "\udfff" for character in query):
        raise InvalidArgument("the query holds half a character (a lone surrogate), which is no text")
    most = int(asked["rows"])
    began = time.perf_counter()
    # One more than is shown tells whether there are more.
    table = lake.sql(query, max_rows=most + 1, stop=stop).arrow()
    seconds = time.perf_counter() - began
    columns = columns_of(table)
    rows: list[list[Any]] = []
    characters = 0
    for batch in table.slice(0, most).to_batches(max_chunksize=64):
        for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            row = [cell(value) for value in values]
            characters += sum(len(value) if isinstance(value, str) else 8 for value in row)
            rows.append(row)
        if characters > MOST_CHARACTERS:
            break
    more = table.num_rows > len(rows)
    return {"columns": columns, "rows": rows, "more": more, "seconds": seconds, "commit": lake.commit}


def schema_of(lake: Lake, asked: Mapping[str, Any], stop: Stop) -> dict[str, Any]:
    """Every table and view with its columns and what they mean; of the 128 RAM bytes only the first."""
    del asked, stop
    tables: dict[str, dict[str, Any]] = {}
    for name, column, kind, meaning in lake.schema().fetchall():
        table = tables.setdefault(name, {"name": name, "meaning": "", "columns": []})
        if not column:
            table["meaning"] = meaning
        elif column not in RAM_COLUMNS[1:]:
            table["columns"].append({"name": column, "type": kind, "meaning": meaning})
    return {"tables": list(tables.values()), "commit": lake.commit}
