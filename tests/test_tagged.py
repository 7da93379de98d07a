"""Plain data as tagged JSON and back, and keyword values in typed columns."""

from __future__ import annotations

import json
import math
from collections import OrderedDict, defaultdict
from datetime import UTC, date, datetime, timedelta, timezone
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_round_trip import VALUES, difference

from crowdplay_lake.errors import LimitExceeded, UnsupportedTrajectory
from crowdplay_lake.keywords import keyword_columns, keyword_value
from crowdplay_lake.tagged import dumps, loads, type_name

TAGS = ["$float", "$bytes", "$bytearray", "$tuple", "$set", "$frozenset", "$dict", "$ordered", "$timedelta"]
TAGS += ["$datetime", "$date", "$complex", "$ndarray", "$numpy", "$", "$unheard-of"]
DTYPES = [
    "?",
    "i1",
    "u1",
    "<i2",
    ">i2",
    "<i4",
    "<u8",
    "<f2",
    "<f4",
    ">f8",
    "<c8",
    "<c16",
    "S3",
    "<U2",
    "<M8[ns]",
    "<m8[s]",
]


def arrays() -> st.SearchStrategy[np.ndarray]:
    def made(dtype: str, shape: tuple[int, ...], data: bytes) -> np.ndarray:
        kind = np.dtype(dtype)
        if kind.kind == "b":
            return np.resize(np.frombuffer(data, np.uint8) % 2 == 0, shape)
        if kind.kind == "U":
            return np.resize(np.array(["", "a", "ü🎮"[: len(data) % 3]], dtype), shape)
        return np.resize(np.frombuffer(data * kind.itemsize, dtype), shape)

    shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
    return st.builds(made, st.sampled_from(DTYPES), shapes, st.binary(min_size=1, max_size=8))


def hashables() -> st.SearchStrategy[Any]:
    scalars = (
        st.none()
        | st.booleans()
        | st.integers(-(2**80), 2**80)
        | st.floats(allow_nan=False)
        | st.text(max_size=5)
        | st.sampled_from(TAGS)
        | st.binary(max_size=4)
        | st.timedeltas()
        | st.datetimes()
        | st.dates()
    )
    return st.recursive(scalars, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=4)


def plain_data() -> st.SearchStrategy[Any]:
    leaves = hashables() | st.floats() | st.complex_numbers() | st.binary(max_size=4).map(bytearray) | arrays()
    keys = hashables() | st.sampled_from(TAGS)

    def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        dicts = st.dictionaries(keys, inner, max_size=3)
        one_tag = st.dictionaries(st.sampled_from(TAGS), inner, min_size=1, max_size=1)
        items = st.lists(inner, max_size=3)
        sets = st.sets(hashables(), max_size=3)
        return dicts | one_tag | dicts.map(OrderedDict) | items | items.map(tuple) | sets | sets.map(frozenset)

    return st.recursive(leaves, nested, max_leaves=8)


@given(plain_data())
@settings(max_examples=300, deadline=None)
def test_plain_data_comes_back(value: Any) -> None:
    text = dumps(value)
    assert difference(value, loads(text)) is None
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("tag_numpy", [True, False])
def test_odd_values_come_back(value: Any, tag_numpy: bool) -> None:
    assert difference(value, loads(dumps(value, tag_numpy))) is None


@pytest.mark.parametrize("tag", TAGS)
def test_what_looks_like_a_tag_is_no_tag(tag: str) -> None:
    for value in ({tag: "nan"}, {tag: [1]}, {tag: []}, {tag: None}, {tag: {}}, {"a": {tag: 1}}, [{tag: 1, "b": 2}]):
        assert difference(value, loads(dumps(value))) is None


def test_what_json_has_is_written_as_json() -> None:
    value = {"a": [1, 2.5, "ü", True, None, {"b": []}]}
    assert json.loads(dumps(value)) == value


def test_sets_are_written_in_one_order() -> None:
    names = [f"name{i}" for i in range(20)]
    assert len({dumps(set(order)) for order in (names, names[::-1], names[7:] + names[:7])}) == 1
    assert dumps({"b", "a"}) == '{"$set":["a","b"]}'


def test_numpy_scalars_are_tagged_where_asked() -> None:
    assert dumps(np.int16(3)) == '{"$numpy":["<i2",3]}'
    assert dumps({"x": np.int16(3)}, tag_numpy=False) == '{"x":3}'


@pytest.mark.parametrize(
    "value",
    [
        object(),
        print,
        int,
        Fraction(1, 2),
        range(3),
        defaultdict(int),
        json.JSONDecodeError("", "", 0),
        slice(1),
        memoryview(b""),
        np.dtype("i4"),
        np.ma.masked_array([1, 2], [True, False]),
        np.array([None]),
        np.array([(1, 2)], [("a", "i4"), ("b", "i4")]),
        np.zeros(2, [("a", "i4")])[0],
        np.void(b"abc"),
        np.longdouble("0.1"),
        np.datetime64("2021-09-15T00:00:00.000000001"),
        np.datetime64("NaT"),
        np.timedelta64(1, "ns"),
        10**5_000,
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_not_plain_data_is_refused(value: Any) -> None:
    for nested in (value, [value], {"a": (value,)}):
        with pytest.raises(UnsupportedTrajectory):
            dumps(nested)
        with pytest.raises(UnsupportedTrajectory):
            dumps(nested, tag_numpy=False)


def holding(value: Any, levels: int) -> list[Any]:
    for _ in range(levels):
        value = [value]
    return value


def test_deep_data_is_refused_and_less_deep_data_comes_back() -> None:
    fine = holding(1, 90)
    assert loads(dumps(fine)) == fine
    for levels in (200, 100_000):
        with pytest.raises(LimitExceeded, match="levels"):
            dumps(holding(1, levels))


def test_data_that_holds_itself_is_refused() -> None:
    endless: list[Any] = [1]
    endless.append(endless)
    with pytest.raises(LimitExceeded):
        dumps(endless)
    loop: dict[str, Any] = {}
    loop["a"] = {"b": loop}
    with pytest.raises(LimitExceeded):
        dumps(loop)


@pytest.mark.parametrize(
    "value",
    [
        [[1] * 3_000] * 2_000,
        ["x" * 100_000] * 1_000,
        [{"x" * 100_000: 1}] * 1_000,
        [b"x" * 100_000] * 1_000,
        [np.zeros(100_000, np.uint8)] * 1_000,
    ],
    ids=["numbers", "text", "keys", "bytes", "arrays"],
)
def test_much_from_few_shared_objects_is_refused(value: list[Any]) -> None:
    """Six million items, a hundred million letters: from some KB of a pickle."""
    with pytest.raises(LimitExceeded):
        dumps(value)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (None, "none"),
        (True, "bool"),
        (1, "int"),
        (1.5, "float"),
        ("a", "str"),
        (timedelta(1), "timedelta"),
        (datetime(2021, 1, 1), "datetime"),
        ([1], "list"),
        ({}, "dict"),
        (np.int64(1), "numpy.int64"),
        (np.bool_(True), "numpy.bool"),
        (np.zeros(1), "ndarray"),
    ],
)
def test_type_names(value: Any, name: str) -> None:
    assert type_name(value) == name


PLUS_TWO = timezone(timedelta(hours=2))


@pytest.mark.parametrize(
    ("value", "double", "text", "timestamp"),
    [
        (5, 5.0, None, None),
        (2.5, 2.5, None, None),
        (True, 1.0, None, None),
        (math.inf, math.inf, None, None),
        (2**60, float(2**60), None, None),
        (10**400, math.inf, None, None),
        (-(10**400), -math.inf, None, None),
        (np.int32(7), 7.0, None, None),
        (np.float32(0.5), 0.5, None, None),
        (np.bool_(False), 0.0, None, None),
        (timedelta(minutes=2, milliseconds=500), 120.5, None, None),
        (timedelta(seconds=-1), -1.0, None, None),
        ("500", None, "500", None),
        ("", None, "", None),
        (np.str_("a"), None, "a", None),
        (datetime(2021, 9, 15, 12), None, None, datetime(2021, 9, 15, 12, tzinfo=UTC)),
        (datetime(2021, 9, 15, 12, tzinfo=PLUS_TWO), None, None, datetime(2021, 9, 15, 10, tzinfo=UTC)),
        (date(2021, 9, 15), None, None, None),
        (None, None, None, None),
        ([1, 2], None, None, None),
        ({"a": 1}, None, None, None),
        (np.array(3.0), None, None, None),
        (b"500", None, None, None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_keyword_values_lie_in_the_column_of_their_type(
    value: Any, double: float | None, text: str | None, timestamp: datetime | None
) -> None:
    columns = keyword_columns(value)
    assert columns["value_type"] == type_name(value)
    assert (columns["value_double"], columns["value_text"], columns["value_timestamp"]) == (double, text, timestamp)
    assert difference(value, keyword_value(columns)) is None


def test_nan_is_a_number_too() -> None:
    assert math.isnan(keyword_columns(math.nan)["value_double"])


@given(plain_data())
@settings(max_examples=50, deadline=None)
def test_any_keyword_value_comes_back(value: Any) -> None:
    assert difference(value, keyword_value(keyword_columns(value))) is None
