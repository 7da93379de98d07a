"""The content hash tells episodes apart by what they hold, and by nothing else."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crowdplay_lake import Lake
from crowdplay_lake.content import ContentHasher, content_hash
from crowdplay_lake.layout import LakePaths
from crowdplay_lake.parts import EpisodeRows
from crowdplay_lake.reading import EpisodeReader

SCHEMA = pa.schema(
    [
        pa.field("flag", pa.bool_()),
        pa.field("blob", pa.binary()),
        pa.field("text", pa.string()),
        pa.field("number", pa.int32()),
        pa.field("real", pa.float64()),
    ]
)
Row = tuple[Any, ...]
rows = st.lists(
    st.tuples(
        st.none() | st.booleans(),
        st.none() | st.binary(max_size=4),
        st.none() | st.text(max_size=3),
        st.none() | st.integers(-(2**31), 2**31 - 1),
        st.none() | st.floats(allow_nan=False) | st.just(math.nan),
    ),
    max_size=12,
)


def table(content: Sequence[Row], schema: pa.Schema = SCHEMA) -> pa.Table:
    columns = list(zip(*content, strict=True)) if content else [()] * len(schema)
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema)


def encoded(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bool):
        return bytes([value])
    return struct.pack("<d" if isinstance(value, float) else "<i", value)


def slow_hash(content: Sequence[Row]) -> str:
    """The definition, value by value."""
    told = ""
    for number, field in sorted(enumerate(SCHEMA), key=lambda entry: str(entry[1].name)):
        column = [row[number] for row in content]
        zero: Any = {"flag": False, "blob": b"", "text": "", "number": 0, "real": 0.0}[field.name]
        values = [encoded(zero if value is None else value) for value in column]
        sized = field.name in ("blob", "text")
        parts = (
            bytes(value is not None for value in column),
            b"".join(struct.pack("<i", len(value)) for value in values) if sized else b"",
            b"".join(values),
        )
        if column:
            digests = "\0".join(hashlib.sha256(part).hexdigest() for part in parts)
            told += f"{field.name}\0{len(column)}\0{digests}\0"
    return hashlib.sha256(told.encode()).hexdigest()


@st.composite
def cut(draw: st.DrawFn, content: Sequence[Row]) -> Iterator[pa.Table]:
    """The rows in tables, each of some chunks, some with an offset into longer buffers."""
    ends = sorted(draw(st.lists(st.integers(0, len(content)), max_size=5)))
    pieces = []
    for begin, end in zip([0, *ends], [*ends, len(content)], strict=True):
        whole = draw(st.booleans(), label="slice of a whole")
        pieces.append(table(content).slice(begin, end - begin) if whole else table(content[begin:end]))
    if draw(st.booleans(), label="as chunks of one table"):
        return iter([pa.concat_tables(pieces)])
    return iter(pieces)


@given(content=rows, data=st.data())
@settings(max_examples=150, deadline=None)
def test_the_hash_does_not_know_where_rows_were_cut(content: list[Row], data: st.DataObject) -> None:
    hasher = ContentHasher()
    for piece in data.draw(cut(content)):
        hasher.add(piece)
    assert hasher.hexdigest() == slow_hash(content)


@given(one=rows, other=rows)
@settings(max_examples=100, deadline=None)
def test_other_rows_have_another_hash(one: list[Row], other: list[Row]) -> None:
    def digest(content: list[Row]) -> str:
        hasher = ContentHasher()
        hasher.add(table(content))
        return hasher.hexdigest()

    assert (digest(one) == digest(other)) == (repr(one) == repr(other))


NEIGHBOURS = [
    ((None,), (b"",)),
    ((b"a", b"b"), (b"ab", b"")),
    ((b"a", None), (None, b"a")),
    ((b"", None), (None, b"")),
    ((b"a",), (b"a", b"")),
]


@pytest.mark.parametrize(("one", "other"), NEIGHBOURS)
def test_nulls_and_lengths_count(one: Row, other: Row) -> None:
    digests = set()
    for values in (one, other):
        hasher = ContentHasher()
        hasher.add(pa.table({"blob": pa.array(values, pa.binary())}))
        digests.add(hasher.hexdigest())
    assert len(digests) == 2


def test_zeros_have_signs() -> None:
    assert slow_hash([(None, None, None, None, 0.0)]) != slow_hash([(None, None, None, None, math.copysign(0, -1))])


@pytest.fixture(scope="module")
def stored(lake: Lake, ingested: tuple[Path, Any]) -> dict[str, tuple[LakePaths, Mapping[str, Any]]]:
    found = lake.sql("SELECT * FROM episodes WHERE n_steps IS NOT NULL ORDER BY episode_id").arrow().to_pylist()
    return {row["episode_id"]: (LakePaths(ingested[0]), row) for row in found}


def test_every_stored_hash_is_that_of_the_stored_rows(
    stored: Mapping[str, tuple[LakePaths, Mapping[str, Any]]],
) -> None:
    for paths, row in stored.values():
        assert content_hash(EpisodeReader(paths).read(row), row) == row["content_hash"]


def test_what_the_rows_mean_counts_too(stored: Mapping[str, tuple[LakePaths, Mapping[str, Any]]]) -> None:
    """The same change log through another palette is another game to look at."""
    paths, row = next(iter(stored.values()))
    palette = row["palettes"][0]
    changes = [{"palettes": [palette[3:6] + palette[:3] + palette[6:]]}, {"reward_type": "float"}, {"variant": "gym"}]
    hashes = {content_hash(EpisodeReader(paths).read(row), {**row, **change}) for change in changes}
    assert len(hashes | {row["content_hash"]}) == 4


def test_frames_count_and_steps_count(stored: Mapping[str, tuple[LakePaths, Mapping[str, Any]]]) -> None:
    paths, row = next(iter(stored.values()))
    whole = EpisodeReader(paths).read(row)
    assert content_hash(EpisodeRows(whole.steps, []), row) != row["content_hash"]
    assert content_hash(EpisodeRows([], whole.frames), row) != row["content_hash"]
