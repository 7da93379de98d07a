"""Keyword data decoded in bulk is what each value is by itself."""

from __future__ import annotations

import random
from datetime import UTC, date, timedelta, timezone
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crowdplay_lake.keywords import keyword_columns
from crowdplay_lake.owners import Columns, KeywordsByGame, KeywordsByOwner
from crowdplay_lake.schema import KEYWORD_DATA

PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**80), 2**80),
    st.floats(),
    st.text("abÄ\ud800", max_size=4),
    st.datetimes(),
    st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-5)), timezone(timedelta(seconds=61))])),
    st.dates(date(1, 1, 1)),
    st.timedeltas(),
    st.lists(st.integers(0, 3), max_size=3),
    st.dictionaries(st.text("ab", max_size=2), st.floats(allow_nan=False), max_size=2),
    st.binary(max_size=3),
)
ROWS = st.dictionaries(
    st.tuples(st.sampled_from(["e1", "e2", "e3"]), st.sampled_from(["all", "p0", "p1"]), st.sampled_from("abcd")),
    PLAIN,
    max_size=12,
)


def table_of(rows: dict[tuple[str, str, str], Any], order: random.Random | None = None) -> pa.Table:
    made = [
        {"episode_id": e, "agent_id": a, "key": k, **keyword_columns(value)} for (e, a, k), value in sorted_rows(rows)
    ]
    if order is not None:
        order.shuffle(made)
    names = ["episode_id", *KeywordsByOwner.COLUMNS]
    schema = pa.schema([KEYWORD_DATA.schema.field(name) for name in names])
    return pa.Table.from_pylist([{name: row[name] for name in names} for row in made], schema)


def sorted_rows(rows: dict[tuple[str, str, str], Any]) -> list[tuple[tuple[str, str, str], Any]]:
    return sorted(rows.items(), key=lambda row: row[0])


def nested(rows: dict[tuple[str, str, str], Any], owner: str) -> dict[str, dict[str, Any]]:
    data: dict[str, dict[str, Any]] = {}
    for (episode, agent, key), value in rows.items():
        if episode == owner:
            data.setdefault(agent, {})[key] = value
    return data


def told(data: dict[str, dict[str, Any]]) -> list[tuple[str, str, str]]:
    # repr tells types, NaN, -0.0 and time zones apart.
    return sorted((agent, key, repr(value)) for agent, values in data.items() for key, value in values.items())


@settings(deadline=None)
@given(ROWS, st.randoms(use_true_random=False), st.booleans())
def test_values_come_back_as_they_were_in_any_order_of_rows(
    rows: dict[tuple[str, str, str], Any], order: random.Random, shuffled: bool
) -> None:
    keywords = KeywordsByOwner(table_of(rows, order if shuffled else None), "episode_id")
    for owner in ("e1", "e2", "e3", "e4"):
        assert told(keywords.of(owner)) == told(nested(rows, owner))
    assert keywords.of(None) == {}


def test_what_can_be_changed_is_new_each_time() -> None:
    keywords = KeywordsByOwner(table_of({("e1", "all", "a"): [1], ("e1", "all", "b"): np.zeros(2)}), "episode_id")
    keywords.of("e1")["all"]["a"].append(2)
    keywords.of("e1")["all"]["b"][0] = 1
    assert keywords.of("e1")["all"]["a"] == [1]
    assert keywords.of("e1")["all"]["b"].tolist() == [0, 0]


def test_rows_are_mappings_over_columns() -> None:
    table = pa.table({"a": [1, 2], "b": ["x", None]})
    rows = list(Columns(table).rows())
    assert [dict(row) for row in rows] == table.to_pylist()
    assert [len(row) for row in rows] == [2, 2]


def test_keywords_of_a_game_are_read_when_one_of_its_episodes_is_asked_for_them() -> None:
    read: list[str] = []

    def keywords(game: str) -> KeywordsByOwner:
        read.append(game)
        return KeywordsByOwner(table_of({(f"of {game}", "all", "game"): game}), "episode_id")

    by_game = KeywordsByGame(["breakout", "qbert", "riverraid"], keywords)
    for _ in range(2):
        assert by_game.of("of qbert", "qbert") == {"all": {"game": "qbert"}}
    assert by_game.of("of qbert", "breakout") == {}
    assert by_game.of("of pong", "pong") == {}
    assert read == ["qbert", "breakout"]
    # Without its game an episode is looked for among all of them.
    assert by_game.of("of riverraid") == {"all": {"game": "riverraid"}}
    assert by_game.of("of pong") == {}
    assert sorted(read) == ["breakout", "qbert", "riverraid"]


@pytest.mark.parametrize("size", [1, 31, 32, 200])
def test_a_few_values_of_a_column_are_those_of_the_whole(size: int) -> None:
    table = pa.table({"a": list(range(size)), "b": [None if i % 3 else ["x", str(i)] for i in range(size)]})
    expected = table.to_pylist()
    for count in range(1, size + 1):
        rows = list(Columns(table).rows())
        assert [dict(row) for row in rows[-count:]] == expected[-count:]
