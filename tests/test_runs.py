"""Steps that are taken by the run are those that the machine makes, and end where and as it would end.

The machine with `iter_items` is the reference: every test compares what comes of the same bytes on both ways.
"""

from __future__ import annotations

import gzip
import io
import itertools
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import crowdplay_ingest.machine as machine_module
from crowdplay_ingest.convert import convert
from crowdplay_ingest.machine import Limits, iter_items
from crowdplay_ingest.step_runs import Run, iter_runs
from crowdplay_lake.errors import RawDataError

PROTOCOLS = (2, 3, 4, 5)
SHAPE = (8, 16, 3)
Step = dict[str, Any]


def one_by_one(items: Iterable[Any]) -> Iterator[Any]:
    """Each step of each run, as the machine makes it."""
    for item in items:
        yield from (item.step(i) for i in range(len(item))) if isinstance(item, Run) else [item]


def outcome(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except RawDataError as error:
        return type(error), error.reason, error.step


def steps_of(items: Iterable[Any]) -> list[Any]:
    """The steps, comparable, and how it ended."""
    found: list[Any] = []
    # Pickled anew: equal in types, order and identity of what is shared.
    end = outcome(lambda: found.extend(pickle.dumps(step, 5) for step in items))
    return [*found, end]


def converted(items: Iterable[Any], limits: Limits) -> Any:
    def run() -> Any:
        episode = convert("id", "breakout", items, limits, keyframe_interval=5)
        # As text: NaN equals NaN, but 1 not 1.0.
        return episode.facts, repr([table.to_pydict() for table in episode.rows.steps])

    return outcome(run)


def assert_same(data: bytes, limits: Limits | None = None) -> None:
    limits = limits or Limits()
    slow = converted(iter_items(io.BytesIO(data), limits), limits)
    assert converted(iter_runs(io.BytesIO(data), limits), limits) == slow
    assert steps_of(one_by_one(iter_runs(io.BytesIO(data), limits))) == steps_of(iter_items(io.BytesIO(data), limits))


def share_in_runs(data: bytes) -> float:
    """How many of the steps come in runs."""
    sizes = [(len(item), 1) if isinstance(item, Run) else (0, 1) for item in iter_runs(io.BytesIO(data))]
    return sum(size for size, _ in sizes) / sum(size or one for size, one in sizes)


# ---- recordings ------------------------------------------------------------------------------------------


def test_a_recording_comes_in_runs_and_is_the_same(raw: Path) -> None:
    for path in sorted(raw.glob("*.pickle.gz")):
        data = gzip.decompress(path.read_bytes())
        slow = convert("id", "breakout", iter_items(io.BytesIO(data)))
        quick = convert("id", "breakout", iter_runs(io.BytesIO(data)))
        assert quick.facts == slow.facts
        assert share_in_runs(data) > 0.9, path.name


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_every_step_of_a_run_is_the_machine_s(raw: Path, protocol: int) -> None:
    path = min(raw.glob("*.pickle.gz"), key=lambda path: path.stat().st_size)
    data = pickle.dumps(pickle.loads(gzip.decompress(path.read_bytes()))[:60], protocol)
    assert share_in_runs(data) > 0.9
    pairs = itertools.zip_longest(one_by_one(iter_runs(io.BytesIO(data))), iter_items(io.BytesIO(data)))
    assert all(pickle.dumps(quick) == pickle.dumps(slow) for quick, slow in pairs)


# ---- made-up steps ---------------------------------------------------------------------------------------


def frame(seed: int) -> np.ndarray[Any, Any]:
    colors = np.arange(3 * 40, dtype=np.uint8).reshape(40, 3)
    return colors[np.random.default_rng(seed // 3).integers(0, 40, SHAPE[:2])]


DTYPE_I4, DTYPE_I8 = np.dtype("<i4"), np.dtype("<i8")
NUMBERS = (
    st.integers(0, 300)
    | st.integers(-(2**33), 2**33)
    | st.sampled_from([0, 1, 255, 256, 65535, 65536, 2**31 - 1, 2**31, -(2**31), 2**63, 86_399, 86_400])
)
FLOATS = st.floats(allow_nan=True) | st.sampled_from([0.0, -0.0, 1e16, 1e-7, 1000.5])
SCALARS = st.one_of(
    st.integers(-(2**31), 2**31 - 1).map(np.int32),
    st.integers(-(2**63), 2**63 - 1).map(np.int64),
    st.integers(-1000, 1000).map(np.int64),
    FLOATS.map(np.float64),
    st.floats(width=32).map(np.float32),
    st.integers(0, 255).map(np.uint8),
    st.booleans().map(np.bool_),
)
TIMES = st.builds(timedelta, st.integers(-3, 3), st.integers(0, 90_000), st.integers(0, 2_000_000))
PLAIN = (
    NUMBERS | FLOATS | SCALARS | TIMES | st.booleans() | st.none() | st.sampled_from(["text", "7 %d 1000", b"\x01\x02"])
)
KINDS = (NUMBERS, FLOATS, SCALARS, TIMES, PLAIN, st.integers(0, 9))


@st.composite
def layouts(draw: st.DrawFn) -> dict[str, Any]:
    """What the steps of a while have in common: the strategies of their values."""
    return {
        "agents": draw(st.sampled_from([["a"], ["a", "b"]])),
        "reward": draw(st.sampled_from(KINDS)),
        "lives": draw(st.sampled_from(KINDS)),
        "statistic": draw(st.sampled_from(KINDS)),
        "further": draw(
            st.sampled_from(
                ["none", "shared", "list", "keys", "set", "bytes", "pair", "array", "ordered", "again", "frame"]
            )
        ),
        "ram": draw(st.sampled_from([128, 128, 128, 127, 200])),
        "order": draw(st.booleans()),
    }


@st.composite
def steps_like(draw: st.DrawFn, layout: dict[str, Any], number: int) -> Step:
    agents = layout["agents"]
    image = frame(number)
    own: list[Any] = [draw(layout["reward"]), draw(layout["statistic"])]
    further = {
        "none": lambda: None,
        "shared": lambda: [own, {"x": own}],
        "list": lambda: [number, own[1], [number + 1] * 3, (number, 2.5)],
        "keys": lambda: {number: own[0], number + 1: "y"},
        "set": lambda: {number, 1000},
        "bytes": lambda: b"%08d" % number,
        "pair": lambda: ({"p": own[0]}, own[0]),
        "array": lambda: np.arange(number, number + 4),
        "ordered": lambda: OrderedDict(a=number, b=own[1]),
        "again": lambda: agents[0],
        "frame": lambda: image,
    }[layout["further"]]()
    step = {
        "prev_obs": {agent: OrderedDict(image=image) for agent in agents},
        "action": {agent: {"game": draw(st.integers(0, 17))} for agent in agents},
        "action_step_iter": {agent: draw(st.integers(-1, 70_000)) for agent in agents},
        "reward": dict.fromkeys(agents, own[0]),
        "done": {**dict.fromkeys(agents, draw(st.integers(0, 9)) == 0), "__all__": False},
        "info": {
            agent: {"ale.lives": draw(layout["lives"]), "RAM": [(number * 7 + i) % 256 for i in range(layout["ram"])]}
            for agent in agents
        },
        "step_iter": number + 250,
        "user_type": dict.fromkeys(agents, 1),
        "episode_callables": {
            "Score": dict.fromkeys(agents, own[1]),
            "Time": {agent: draw(TIMES) for agent in agents},
        },
    }
    if further is not None:
        step["further"] = further
    return dict(reversed(step.items())) if layout["order"] else step


@st.composite
def trajectories(draw: st.DrawFn) -> bytes:
    """A pickled trajectory of stretches, each of its layout, of which the players are the same."""
    kinds = draw(st.lists(layouts(), min_size=1, max_size=2))
    for kind in kinds:
        kind["agents"] = kinds[0]["agents"]
    steps = []
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(kinds))
        steps += [draw(steps_like(kind, len(steps) + i)) for i in range(draw(st.integers(1, 7)))]
    protocol = draw(st.sampled_from(PROTOCOLS))
    if draw(st.integers(0, 3)) == 0:
        out = io.BytesIO()
        pickle._Pickler(out, protocol).dump(steps)  # type: ignore[attr-defined]
        return out.getvalue()
    return pickle.dumps(steps, protocol)


QUICK = settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@pytest.fixture(params=["one buffer", "little at a time"])
def _chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param != "one buffer":
        monkeypatch.setattr(machine_module, "_CHUNK", 700)
        monkeypatch.setattr(machine_module, "_IN_A_ROW", 3)


either_way = settings(QUICK, suppress_health_check=[*QUICK.suppress_health_check, HealthCheck.function_scoped_fixture])


@pytest.mark.usefixtures("_chunks")
@either_way
@given(data=trajectories())
def test_made_up_steps_are_the_same(data: bytes) -> None:
    assert_same(data)


CHANGES = st.tuples(
    st.sampled_from(["flip", "cut", "insert", "copy", "end"]), st.integers(0), st.binary(min_size=1, max_size=9)
)


@pytest.mark.usefixtures("_chunks")
@either_way
@given(data=trajectories(), changes=st.lists(CHANGES, min_size=1, max_size=3))
def test_damage_is_the_same(data: bytes, changes: list[tuple[str, int, bytes]]) -> None:
    for kind, place, new in changes:
        at = place % (len(data) + 1)
        data = {
            "flip": data[:at] + new + data[at + len(new) :],
            "cut": data[:at] + data[at + len(new) :],
            "insert": data[:at] + new + data[at:],
            "copy": data[:at] + data[at // 2 : at // 2 + 30] + data[at:],
            "end": data[:at],
        }[kind]
    assert_same(data)


def alike(count: int, protocol: int = 3, **changes: Callable[[int], Any]) -> list[Step]:
    """Steps of one shape, all of whose numbers differ."""
    return [
        {
            "prev_obs": {"a": {"image": frame(i)}},
            "action": {"a": {"game": i % 7}},
            "reward": {"a": np.int32(i * 31 - 200)},
            "done": {"a": False, "__all__": False},
            "info": {"a": {"ale.lives": i % 3, "RAM": [(i * j) % 256 for j in range(128)]}},
            "step_iter": 3 * i + 200,
            "episode_callables": {"Score": {"a": np.int64(i)}, "Time": {"a": timedelta(seconds=i / 60)}},
            **{name: change(i) for name, change in changes.items()},
        }
        for i in range(count)
    ]


@QUICK
@given(
    name=st.sampled_from(
        [
            "max_step_bytes",
            "max_opcodes_per_step",
            "max_memo_entries",
            "max_file_bytes",
            "max_steps",
            "max_episode_bytes",
        ]
    ),
    part=st.floats(0, 1.1),
    count=st.integers(2, 30),
)
def test_limits_are_the_same(name: str, part: float, count: int) -> None:
    data = pickle.dumps(alike(count, further=lambda i: ["x" * (60 * i)]), 3)
    tops = {
        "max_step_bytes": 4_000,
        "max_opcodes_per_step": 1_500,
        "max_memo_entries": 120,
        "max_file_bytes": len(data),
        "max_steps": count,
        "max_episode_bytes": 1_200 * count,
    }
    assert_same(data, Limits(**{name: int(part * tops[name])}))
    data = pickle.dumps(alike(count), 3)
    assert_same(data, Limits(**{name: int(part * tops[name])}))


def test_one_colour_too_many_is_refused_at_the_same_step() -> None:
    steps = alike(20)
    for number, step in enumerate(steps):
        image = step["prev_obs"]["a"]["image"].copy()
        image.reshape(-1, 3)[:40] = [(number, 250, i) for i in range(40)]
        step["prev_obs"]["a"]["image"] = image
    data = pickle.dumps(steps, 3)
    assert share_in_runs(data) > 0.7
    _, reason, step = converted(iter_runs(io.BytesIO(data)), Limits())
    assert "colours" in reason
    assert 3 < step < 10
    assert_same(data)


class Time:
    """A timedelta whose parts carry over, as no pickler writes it."""

    def __init__(self, *parts: int) -> None:
        self.parts = parts

    def __reduce__(self) -> tuple[type, tuple[int, ...]]:
        return timedelta, self.parts


@pytest.mark.parametrize("odd", [Time(0, 86_400, 0), Time(0, -1, 0), Time(0, 0, 1_000_000), Time(0, 0, -1)])
def test_times_that_carry_over_are_the_same(odd: Time) -> None:
    data = pickle.dumps(alike(12, further=lambda i: odd if i == 8 else timedelta(i, i, i)), 3)
    assert share_in_runs(data) > 0.5
    assert_same(data)


@pytest.mark.parametrize("odd", [np.float64("nan"), np.float64("-inf"), np.float64(-0.0), np.float64(1e300)])
def test_odd_floats_are_the_same(odd: np.float64) -> None:
    values = [np.float64(i / 7) if i != 8 else odd for i in range(12)]
    data = pickle.dumps(alike(12, further=lambda i: values[i], reward=lambda i: {"a": values[i]}), 3)
    assert share_in_runs(data) > 0.5
    assert_same(data)


@pytest.mark.parametrize("odd", [2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**53 + 1])
@pytest.mark.parametrize("key", ["action_step_iter", "reward", "user_type", "further"])
def test_large_numbers_are_the_same(key: str, odd: int) -> None:
    data = pickle.dumps(alike(12, **{key: lambda i: {"a": np.int64(i if i != 8 else odd)}}), 3)
    assert share_in_runs(data) > 0.5
    assert_same(data)


# ---- the memo --------------------------------------------------------------------------------------------


def handmade(bodies: Iterable[bytes]) -> bytes:
    """A list of steps whose opcodes are these; memo entry 2 is "k", 3 is "v"."""
    first = b"\x80\x03]q\x00(}q\x01(X\x01\x00\x00\x00kq\x02X\x01\x00\x00\x00vq\x03u"
    return first + b"".join(bodies) + b"e."


def body(entry: int, value: bytes) -> bytes:
    """{"k": value}, of one memo entry."""
    return b"}r%b(h\x02%bu" % (struct.pack("<I", entry), value)


def test_an_entry_that_is_stored_over_is_seen() -> None:
    same = [body(4 + i, b"K%c" % i) for i in range(6)]
    # Another text becomes the entry that the key is fetched from.
    other = [b"}r%b(X\x01\x00\x00\x00wq\x02K\x01u" % struct.pack("<I", 10)]
    after = [body(11 + i, b"K%c" % i) for i in range(6)]
    data = handmade([*same, *other, *after])
    steps = list(one_by_one(iter_runs(io.BytesIO(data))))
    assert [list(step) for step in steps] == [["k"]] * 7 + [["w"]] * 7
    assert steps == list(iter_items(io.BytesIO(data)))
    assert share_in_runs(handmade(same)) > 0.5


def test_a_key_that_is_stored_over_is_another_in_the_rows() -> None:
    data = pickle.dumps(alike(20, further=lambda i: "www" if i == 8 else i), 3)
    key = data.index(b"Score") + len(b"Scoreq")
    text = data.index(b"www") + len(b"www")
    assert data[text : text + 1] == b"r"
    data = data[:text] + b"q" + data[key : key + 1] + data[text + 5 :]
    assert share_in_runs(data) > 0.5
    assert_same(data)
    assert converted(iter_runs(io.BytesIO(data)), Limits())[1].count('{"www":') == 11


def test_an_entry_that_steps_store_over_is_gone() -> None:
    early = b"}r\x09\0\0\0(h\x02X\x01\0\0\0zr\x1e\0\0\0u"
    late = b"}r\x2f\0\0\0(h\x02h\x1eu"
    before, after = ([body(i, b"K\x01") for i in range(*part)] for part in ((4, 9), (11, 47)))
    data = handmade([*before, early, *after, late, body(48, b"K\x01")])
    assert_same(data)
    assert "shares an object" in steps_of(one_by_one(iter_runs(io.BytesIO(data))))[-1][1]


class Pairs:
    """A dict whose keys are not all different, as no pickler writes it."""

    def __init__(self, *pairs: tuple[int, int]) -> None:
        self.pairs = pairs

    def __reduce__(self) -> tuple[Any, ...]:
        return OrderedDict, (), None, None, iter(self.pairs)


def test_keys_that_are_equal_are_the_same() -> None:
    further = lambda i: Pairs((i, 1), (9, 2), (70, 3))  # noqa: E731
    assert_same(pickle.dumps(alike(20, further=further), 3))


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param(body(900, b"K\x01"), id="an entry out of turn"),
        pytest.param(b"}r\x09\0\0\0(h\x02K\x05q\x02u", id="a number in place of the key"),
        pytest.param(b"}r\x09\0\0\0(h\x02h\x00u", id="the list in itself"),
        pytest.param(b"}r\x09\0\0\0(h\x02h\x07u", id="a step before"),
        pytest.param(b"}r\x09\0\0\0(h\x02j\x09\0\0\0u", id="itself"),
        pytest.param(b"}r\x09\0\0\0(h\x02j\x63\0\0\0u", id="an entry to come"),
        pytest.param(b"}\x94(h\x02K\x05u", id="as another protocol"),
        pytest.param(b"}r\x09\0\0\0(h\x02K\x050u", id="a value taken away"),
        pytest.param(b"}r\x09\0\0\0(h\x02K\x05ue(", id="a batch ends"),
        pytest.param(b"}r\x09\0\0\0(h\x02cos\nsystem\nu", id="a name"),
    ],
)
def test_odd_memo_entries_are_the_same(odd: bytes) -> None:
    before = [body(4 + i, b"K%c" % i) for i in range(5)]
    for first in (9, 10):
        assert_same(handmade([*before, odd, *(body(first + i, b"K%c" % i) for i in range(6))]))
        assert_same(handmade([*before, odd, odd, odd, *(body(first + i, b"K%c" % i) for i in range(6))]))


def test_steps_that_leave_an_entry_are_left_to_the_machine() -> None:
    data = pickle.dumps(alike(10, further=lambda i: f"a new text {i}" if i < 9 else "x"), 3)
    assert share_in_runs(data) == 0
    assert_same(data)


def test_what_is_never_alike_costs_little() -> None:
    bodies = [body(4 + i, b"X\x02\x00\x00\x00%02x" % i) for i in range(200)]
    data = handmade(bodies)
    assert share_in_runs(data) == 0
    assert_same(data)
