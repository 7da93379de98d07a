"""The rows of a query, as what one works with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from .errors import MissingExtra

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

__all__ = ["QueryResult"]


class QueryResult:
    """The rows of a query. Becomes what you work with: ``pl()``, ``arrow()``, ``df()``, ``numpy()``, ``fetchall()``.

    >>> result = lake.sql("SELECT game, count(*) AS episodes FROM episodes GROUP BY game")   # doctest: +SKIP
    >>> result.pl()                                                                          # doctest: +SKIP
    """

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    @property
    def columns(self) -> list[str]:
        """Names of the columns, in order."""
        return list(self._table.column_names)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self.fetchall())

    def fetchall(self) -> list[tuple[Any, ...]]:
        """All rows, as tuples of Python values."""
        columns = [column.to_pylist() for column in self._table.columns]
        return list(zip(*columns, strict=True)) if columns else []

    def arrow(self) -> pa.Table:
        """As an Arrow table."""
        return self._table

    def pl(self) -> pl.DataFrame:
        """As a Polars frame."""
        import polars as pl

        frame = pl.from_arrow(self._table)
        return frame if isinstance(frame, pl.DataFrame) else frame.to_frame()

    def df(self) -> pd.DataFrame:
        """As a pandas frame. Raises MissingExtra without pandas."""
        try:
            import pandas  # noqa: F401
        except ImportError as error:
            raise MissingExtra("pandas", "notebooks") from error
        frame: pd.DataFrame = self._table.to_pandas()
        return frame

    def numpy(self) -> dict[str, Any]:
        """A numpy array a column."""
        return {name: self.pl()[name].to_numpy() for name in self.columns}

    def __repr__(self) -> str:
        return repr(self.pl())

    def _repr_html_(self) -> str:
        return self.pl()._repr_html_()
