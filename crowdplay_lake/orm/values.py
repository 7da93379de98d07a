"""Keyword values in ORM queries: numbers compare as numbers, durations, dates and texts as what they are.

CrowdPlay stores pickles and compares their bytes: of 8,352 scores of 500 and more its filter finds 415.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
from sqlalchemy import ColumnElement, Double, Text, and_, false, func, not_, or_
from sqlalchemy import DateTime as Timestamp
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import ClauseElement
from sqlalchemy.types import UserDefinedType

from ..errors import InvalidArgument
from ..query import identifier
from ..tagged import dumps, loads

__all__ = ["KeywordValue", "value_as_struct"]

# The fields of a value, in the order in which values are sorted.
_FIELDS = ("value_double", "value_timestamp", "value_text", "value_type", "value_json")

_Operator = Callable[[Any, Any], Any]
_ORDERED: Mapping[_Operator, _Operator] = {
    operators.lt: operator.lt,
    operators.le: operator.le,
    operators.gt: operator.gt,
    operators.ge: operator.ge,
}
# Of text only: `value.startswith("a")`, `value.like("a%")`.
_OF_TEXT = {
    operators.like_op,
    operators.ilike_op,
    operators.not_like_op,
    operators.not_ilike_op,
    operators.startswith_op,
    operators.endswith_op,
    operators.contains_op,
    operators.istartswith_op,
    operators.iendswith_op,
    operators.icontains_op,
}


def value_as_struct() -> str:
    """SQL that puts the columns of a keyword value into one, which `KeywordValue` is mapped to."""
    return f"struct_pack({', '.join(f'{name} := {identifier(name)}' for name in _FIELDS)})"


class KeywordValue(UserDefinedType[Any]):
    """A keyword value as one column: any plain Python data, compared by type.

    A comparison is true only of values of the same kind: ``value >= 500`` of numbers (ints, floats, bools; NaN only
    for ``!=``), ``value >= timedelta(minutes=1)`` of durations, and so on for dates and text. Lists, dicts and the like
    are equal or not. ``!=`` is true wherever ``==`` is not.
    """

    cache_ok = True

    def get_col_spec(self, **options: Any) -> str:
        """The type in SQL."""
        del options
        return "STRUCT"

    def result_processor(self, dialect: Any, coltype: Any) -> Callable[[Any], Any]:
        """Decodes what a query returns."""
        del dialect, coltype
        return lambda struct: None if struct is None else loads(struct["value_json"])

    def compare_values(self, x: Any, y: Any) -> bool:
        """Whether an attribute was set to what it was already; arrays among them."""
        return dumps(x) == dumps(y)

    class Comparator(UserDefinedType.Comparator[Any]):
        """The operators of a value in a query."""

        def operate(self, op: Any, *other: Any, **options: Any) -> Any:
            """The SQL for an operator."""
            if not other:
                return super().operate(op, *other, **options)
            return _comparison(self.expr, op, other, options)

    comparator_factory = Comparator


def _comparison(value: ColumnElement[Any], op: Any, other: tuple[Any, ...], options: Mapping[str, Any]) -> Any:
    if op in (operators.eq, operators.is_):
        return _compared(value, operator.eq, other[0])
    if op in (operators.ne, operators.is_not):
        return not_(func.coalesce(_compared(value, operator.eq, other[0]), false()))
    if op in (operators.in_op, operators.not_in_op) and isinstance(other[0], Iterable):
        found = or_(false(), *(func.coalesce(_compared(value, operator.eq, one), false()) for one in other[0]))
        return found if op is operators.in_op else not_(found)
    if op is operators.between_op:
        return and_(_compared(value, operator.ge, other[0]), _compared(value, operator.le, other[1]))
    if op in _OF_TEXT:
        return op(_field(value, "value_text"), *other, **options)
    if op in _ORDERED:
        return _compared(value, _ORDERED[op], other[0])
    raise InvalidArgument(
        f"{getattr(op, '__name__', op)} is not for keyword values in a query; compare them, or compute with what comes"
        " back, or with the typed columns in lake.sql"
    )


def _field(value: ColumnElement[Any], name: str) -> ColumnElement[Any]:
    types = {"value_double": Double, "value_timestamp": Timestamp}
    return func.struct_extract(value, name, type_=types.get(name, Text)())


def _is(value: ColumnElement[Any], kind: str) -> ColumnElement[bool]:
    return _field(value, "value_type") == kind


def _compared(value: ColumnElement[Any], op: _Operator, other: Any) -> ColumnElement[bool]:
    """``value op other``, where ``value`` is of the kind of ``other``."""
    if hasattr(other, "__clause_element__"):
        other = other.__clause_element__()
    if isinstance(other, ClauseElement):
        return _compared_in_query(value, op, other)
    plain = other.item() if isinstance(other, np.generic) else other
    if isinstance(plain, int | float):
        return _number(value, op, plain)
    if isinstance(plain, timedelta):
        return and_(_is(value, "timedelta"), op(_field(value, "value_double"), plain.total_seconds()))
    if isinstance(plain, datetime):
        moment = plain.astimezone(UTC).replace(tzinfo=None) if plain.tzinfo else plain
        return and_(_is(value, "datetime"), op(_field(value, "value_timestamp"), moment))
    if isinstance(plain, str):
        return and_(_is(value, "str"), op(_field(value, "value_text"), plain))
    if op is not operator.eq and not isinstance(plain, date):
        raise InvalidArgument(f"values of type {type(plain).__name__} are equal or not; only == and != compare them")
    # Dates are written so that they sort as text.
    kind = "none" if plain is None else type(plain).__name__
    return and_(_is(value, kind), op(_field(value, "value_json"), dumps(plain)))


def _number(value: ColumnElement[Any], op: _Operator, number: float) -> ColumnElement[bool]:
    try:
        threshold = float(number)
    except OverflowError:
        threshold = math.inf if number > 0 else -math.inf
    if math.isnan(threshold):
        return false()
    double = _field(value, "value_double")
    # The database takes NaN for the largest number; nothing compares with it.
    return and_(_field(value, "value_type") != "timedelta", not_(func.isnan(double)), op(double, threshold))


def _compared_in_query(value: ColumnElement[Any], op: _Operator, other: Any) -> ColumnElement[bool]:
    """Against something the database computes: another value, kind by kind, or a number."""
    if not isinstance(getattr(other, "type", None), KeywordValue):
        return and_(_field(value, "value_type") != "timedelta", op(_field(value, "value_double"), other))
    durations = [_is(one, "timedelta") for one in (value, other)]
    pairs = {name: op(_field(value, name), _field(other, name)) for name in _FIELDS[:3]}
    same = durations[0] == durations[1]
    return or_(and_(same, pairs["value_double"]), pairs["value_timestamp"], pairs["value_text"])
