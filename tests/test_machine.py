"""The pickle machine gives what `pickle.loads` gives, for plain data, and refuses everything else.

`pickle` writes the pickles and is the reference to compare with; the hostile ones are in `hostile`.
"""

from __future__ import annotations

import bz2
import datetime
import gc
import gzip
import io
import lzma
import os
import pickle
import subprocess
import sys
import time
import tracemalloc
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import crowdplay_ingest.machine as machine_module
from crowdplay_ingest.machine import Limits, iter_items, load
from crowdplay_lake.errors import (
    BrokenPickle,
    LimitExceeded,
    RawDataError,
    UnsafePickle,
    UnsupportedTrajectory,
)

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
SLOW_IS_FINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=150)


def python_pickler(value: object, protocol: int) -> bytes:
    """`pickle.dumps` by the pickler written in Python, which frames and memoizes a little differently."""
    out = io.BytesIO()
    pickle._Pickler(out, protocol).dump(value)  # type: ignore[attr-defined]
    return out.getvalue()


PICKLERS: list[Callable[[object, int], bytes]] = [pickle.dumps, python_pickler]


class Trickle(io.BytesIO):
    """A stream that gives at most ``most`` bytes at a time."""

    def __init__(self, data: bytes, most: int) -> None:
        super().__init__(data)
        self.most = most

    def readinto(self, buffer: Any, /) -> int:
        return super().readinto(memoryview(buffer)[: self.most])


def same(a: Any, b: Any) -> bool:
    """Equal in type, content and order, all the way down; NaN equals NaN."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a.items(), b.items(), strict=True))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, (set, frozenset)):
        return bool(a == b) and sorted(map(repr, a)) == sorted(map(repr, b))
    if isinstance(a, np.ndarray):
        layout = a.dtype == b.dtype and a.dtype.str == b.dtype.str and a.shape == b.shape
        return layout and a.flags.fnc == b.flags.fnc and a.tobytes() == b.tobytes()
    if isinstance(a, np.generic):
        return bool(a.dtype == b.dtype) and a.tobytes() == b.tobytes()
    if isinstance(a, float):
        return repr(a) == repr(b)
    if isinstance(a, datetime.datetime):
        return a == b and a.fold == b.fold
    return bool(a == b)


@pytest.fixture
def tiny_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refill at every opportunity: the buffer is never longer than it must be."""
    monkeypatch.setattr(machine_module, "_CHUNK", 7)


# ---- data of the known kinds -----------------------------------------------------------------------------

DTYPES = [
    "?",
    "i1",
    "u1",
    "<i2",
    ">i2",
    "<u4",
    ">i4",
    "<i8",
    ">u8",
    "<f2",
    ">f2",
    "<f4",
    ">f8",
    "<f8",
    "S3",
    "<U2",
    ">U3",
]


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(st.lists(st.integers(0, 3), max_size=4).map(tuple))
    count = int(np.prod(shape, dtype=int))
    if dtype.kind == "b":
        flat = np.array(draw(st.lists(st.booleans(), min_size=count, max_size=count)), dtype)
    elif dtype.kind == "U":
        words = st.text(st.characters(codec="utf-8"), max_size=3)
        flat = np.array(draw(st.lists(words, min_size=count, max_size=count)), dtype)
    else:
        size = count * dtype.itemsize
        flat = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), dtype) if size else np.empty(0, dtype)
    array = flat.reshape(shape)
    variant = draw(st.sampled_from(["C", "F", "strided", "transposed"]))
    if variant == "F":
        return np.asfortranarray(array)
    if variant == "strided" and array.ndim:
        return array[::-1]
    return array.T if variant == "transposed" else array


numpy_scalars = arrays().filter(lambda a: a.size > 0).map(lambda a: a.flat[0])
dates = st.datetimes(min_value=datetime.datetime(1, 1, 1)) | st.dates() | st.timedeltas()
folded = st.datetimes().map(lambda moment: moment.replace(fold=1))
small_keys = st.text(max_size=5) | st.integers(-(2**61), 2**61) | st.binary(max_size=3) | st.booleans() | st.none()
keys = small_keys | st.floats(allow_nan=False) | st.tuples(small_keys, small_keys) | dates | st.integers()
atoms = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**300), 2**300)
    | st.floats()
    | st.text()
    | st.text(st.characters(exclude_categories=()))
    | st.binary()
    | st.binary().map(bytearray)
    | dates
    | folded
    | arrays()
    | numpy_scalars
    | st.lists(st.integers(0, 255), max_size=600)
    | st.sets(keys, max_size=4)
    | st.frozensets(keys, max_size=4)
)


def _containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
        | st.lists(st.tuples(st.text(max_size=3), inner), max_size=4).map(OrderedDict)
        | inner.map(lambda value: [value, value])  # one object twice, through the memo
    )


values = st.recursive(atoms, _containers, max_leaves=12)


def pickled(value: object, pickler: Callable[[object, int], bytes]) -> Iterator[tuple[bytes, Any]]:
    """The value in every protocol, and what `pickle` reads.

    That is not always what was written: numpy writes some arrays transposed, and the pickler in Python takes
    an empty array for b"" where that follows.
    """
    for protocol in PROTOCOLS:
        try:
            data = pickler(value, protocol)
            expected = pickle.loads(data)
        except (TypeError, AssertionError):
            continue
        yield data, expected


@SLOW_IS_FINE
@given(value=values, pickler=st.sampled_from(PICKLERS))
@example(value=np.str_(""), pickler=pickle.dumps)
@example(value=np.bytes_(b""), pickler=pickle.dumps)
@example(value=[b"", b"", b"x", (), "", frozenset()], pickler=pickle.dumps)
def test_a_value_is_what_pickle_says(value: object, pickler: Callable[[object, int], bytes]) -> None:
    for data, expected in pickled(value, pickler):
        assert same(load(data), expected), data


@SLOW_IS_FINE
@given(
    items=st.lists(st.dictionaries(st.text(max_size=5), values, max_size=4) | values, max_size=5),
    pickler=st.sampled_from(PICKLERS),
    chunk=st.sampled_from([1, 7, 1000, 2**20]),
)
@example(items=[({}, {}), ({}, {})], pickler=pickle.dumps, chunk=1000)
@example(items=[({}, {}, {}, {})], pickler=pickle.dumps, chunk=1000)
def test_items_are_what_pickle_says(items: list[Any], pickler: Callable[[object, int], bytes], chunk: int) -> None:
    # Objects shared between items are another matter: see test_sharing_between_steps_is_refused.
    items = [pickle.loads(pickle.dumps(item)) for item in items]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine_module, "_CHUNK", chunk)
        for data, expected in pickled(items, pickler):
            try:
                read = list(iter_items(Trickle(data, chunk)))
            except UnsupportedTrajectory:
                # A tuple of two dicts looks like two steps, until it is too late.
                assert any(type(item) is tuple for item in items)
                continue
            assert same(read, expected), data


def trajectory(count: int = 3, agents: int = 2, shape: tuple[int, ...] = (21, 16, 3), seed: int = 0) -> list[Any]:
    """Steps as CrowdPlay records them, smaller."""
    random = np.random.default_rng(seed)
    names = [f"game_0>player_{agent}" for agent in range(agents)]
    steps = []
    for index in range(count):
        screen = random.integers(0, 256, shape, dtype=np.uint8)
        ram = random.integers(0, 256, 128).tolist()
        done = {**dict.fromkeys(names, index == count - 1), "__all__": index == count - 1}
        played = {name: datetime.timedelta(seconds=index / 60) for name in names}
        steps.append(
            {
                "prev_obs": {name: OrderedDict(image=screen) for name in names},
                "action": {name: {"game": int(random.integers(18))} for name in names},
                "reward": {name: np.int64(random.integers(3)) for name in names},
                "done": done,
                "info": {name: {"ale.lives": np.int32(3), "RAM": list(ram)} for name in names},
                "step_iter": index + 1,
                "user_type": dict.fromkeys(names, 1),
                "task_callables": {"Score": dict.fromkeys(names, 0), "Time played": played},
            }
        )
    return steps


@pytest.mark.parametrize("pickler", PICKLERS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("agents", [1, 2])
def test_a_trajectory(protocol: int, pickler: Callable[[object, int], bytes], agents: int) -> None:
    steps = trajectory(agents=agents)
    data = pickler(steps, protocol)
    assert same(list(iter_items(io.BytesIO(data))), pickle.loads(data))
    assert same(load(data), pickle.loads(data))


@pytest.mark.usefixtures("tiny_chunks")
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_trajectory_in_tiny_chunks(protocol: int) -> None:
    data = pickle.dumps(trajectory(), protocol)
    assert same(list(iter_items(Trickle(data, 3))), pickle.loads(data))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("opener", [bz2, gzip, lzma])
def test_compressed_files(protocol: int, opener: Any) -> None:
    steps = trajectory(count=30)
    packed = opener.compress(pickle.dumps(steps, protocol))
    with opener.open(io.BytesIO(packed)) as stream:
        assert same(list(iter_items(stream)), steps)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_batches_and_frames(protocol: int) -> None:
    # Batches hold 1,000 items, frames of protocol 4 about 64 KiB; a batch of one is written without a mark.
    for count in (0, 1, 2, 999, 1000, 1001, 2001):
        items: list[Any] = [{"step": index, "text": f"{index:050}"} for index in range(count)]
        assert same(list(iter_items(io.BytesIO(pickle.dumps(items, protocol)))), items)
    long = [{"k": "x" * 70_000, "b": b"y" * 70_000}, {"k": "é" * 70_000}, {"k": list(range(50_000))}]
    assert same(list(iter_items(io.BytesIO(pickle.dumps(long, protocol)))), long)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_big_frame_and_the_numpy_1_names(protocol: int) -> None:
    steps = trajectory(count=2, shape=(210, 160, 3))
    data = pickle.dumps(steps, protocol)
    old = data.replace(b"cnumpy._core.", b"cnumpy.core.")
    if protocol >= 4:
        old = data.replace(b"\x16numpy._core.multiarray", b"\x15numpy.core.multiarray").replace(
            b"\x13numpy._core.numeric", b"\x12numpy.core.numeric"
        )
    assert old != data
    assert same(list(iter_items(io.BytesIO(old))), steps)


def test_arrays_are_read_only() -> None:
    for protocol in PROTOCOLS:
        array = load(pickle.dumps(np.arange(6).reshape(2, 3), protocol))
        assert isinstance(array, np.ndarray)
        assert not array.flags.writeable


def test_axes_of_an_array() -> None:
    # numpy 2.3 and later write other orders of axes than C and F as a permutation of C.
    array = np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2)
    data = pickle.dumps(array, 5)
    assert same(load(data), pickle.loads(data))


def test_python_2_strings() -> None:
    data = b"(dp0\nS'a\\x41\"'\np1\nI5\nsU\x01bI01\ns."
    assert load(data) == pickle.loads(data) == {'aA"': 5, "b": True}


# ---- streaming -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_step_comes_as_soon_as_it_is_whole(protocol: int) -> None:
    steps = trajectory(count=40)
    data = pickle.dumps(steps, protocol)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine_module, "_CHUNK", 100)
        stream = Trickle(data, 100)
        for index, step in enumerate(iter_items(stream)):
            assert same(step, steps[index])
            assert stream.tell() < len(data) * (index + 1.5) / 40 + 5000


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_memory_does_not_grow(protocol: int) -> None:
    few, many = (pickle.dumps(trajectory(count, shape=(100, 100)), protocol) for count in (300, 900))
    peaks = []
    for data in (few, many):
        stream = io.BytesIO(data)
        gc.collect()
        tracemalloc.start()
        for _ in iter_items(stream):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # Protocol 2 writes the bytes of numbers as text, which is remembered.
    assert peaks[1] < peaks[0] + (500_000 if protocol == 2 else 50_000) < 6e6


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_sharing_between_steps_is_refused(protocol: int) -> None:
    screen = np.zeros((4, 4))
    steps = [{"a": 1, "obs": screen}, {"a": 2, "obs": screen}]
    if protocol == 0:
        # Written as an item and an APPEND each, with nothing in between.
        assert b"g" in pickle.dumps(steps, 0)
    read = iter_items(io.BytesIO(pickle.dumps(steps, protocol)))
    assert same(next(read), steps[0])
    with pytest.raises(UnsupportedTrajectory, match=r"step 1: it shares an object with an earlier step"):
        next(read)


def test_steps_may_share_text_names_and_dtypes() -> None:
    key, kind = "a key that is the same object", "text " * 20
    steps = [{key: kind, "x": np.float32(index), "y": np.ones(2, "f4"), "b": b"", "d": np.False_} for index in range(5)]
    for protocol in PROTOCOLS:
        assert same(list(iter_items(io.BytesIO(pickle.dumps(steps, protocol)))), steps)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("value", [{"a": 1, "b": 2}, (1, 2), None, "text", 5, np.arange(3)])
def test_not_a_trajectory(value: object, protocol: int) -> None:
    with pytest.raises(BrokenPickle, match=f"not a trajectory: the top object is a {type(value).__name__}"):
        list(iter_items(io.BytesIO(pickle.dumps(value, protocol))))


def test_a_list_of_pairs_of_dicts_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedTrajectory, match="tuples"):
        list(iter_items(io.BytesIO(pickle.dumps([({}, {}), ({}, {})], 3))))


def test_machines_share_nothing() -> None:
    steps = trajectory()
    data = pickle.dumps(steps, 4)
    pairs = zip(iter_items(io.BytesIO(data)), iter_items(io.BytesIO(data)), strict=True)
    assert all(same(a, b) and a is not b for a, b in pairs)
    with pytest.raises(BrokenPickle):
        load(b"h\x00.")


# ---- what is refused -------------------------------------------------------------------------------------


@pytest.fixture
def nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fails the test if a payload created a file or imported a module."""
    monkeypatch.chdir(tmp_path)
    modules = set(sys.modules)
    yield
    assert list(tmp_path.iterdir()) == []
    assert set(sys.modules) == modules


def test_the_canary_sings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cases = dict(hostile.CASES)
    pickle.loads(cases["os.system at protocol 4"])
    assert (tmp_path / hostile.CANARY).exists()


@pytest.mark.usefixtures("nothing_happens")
@pytest.mark.parametrize("data", [pytest.param(data, id=name) for name, data in hostile.CASES])
def test_hostile_pickles(data: bytes) -> None:
    start = time.process_time()
    with pytest.raises(RawDataError):
        load(data)
    with pytest.raises(RawDataError) as caught:
        list(iter_items(io.BytesIO(data)))
    assert caught.value.step is not None
    assert time.process_time() - start < 5


def test_the_corpus_is_of_one_piece() -> None:
    names = [name for name, _ in hostile.CASES]
    assert len(set(names)) == len(names) >= 60


def test_a_memo_index_costs_nothing() -> None:
    tracemalloc.start()
    assert load(b"Nr\x00\x00\x00\x10.") is None
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


def test_a_refusal_says_what_and_where() -> None:
    with pytest.raises(UnsafePickle, match=r"'os\.system'.*\(STACK_GLOBAL at byte 20\)"):
        load(b"\x80\x04" + hostile.text("os") + hostile.text("system") + b"\x93)R.")
    with pytest.raises(UnsafePickle, match=r"step 1: .*'os\.system'.*\(GLOBAL at byte 47\)"):
        list(iter_items(io.BytesIO(hostile.step(hostile.call("os", "system", b"N")))))


@pytest.mark.usefixtures("nothing_happens")
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_truncated_at_every_byte(protocol: int) -> None:
    data = pickle.dumps(trajectory(count=2, agents=1, shape=(2, 2)), protocol)
    for end in range(len(data)):
        for read in (load, lambda data: list(iter_items(io.BytesIO(data)))):
            with pytest.raises(BrokenPickle, match=r"truncated|empty") as caught:
                read(data[:end])
            assert caught.value.__cause__ is None or "truncated" in str(caught.value)


@pytest.mark.parametrize("opener", [bz2, gzip, lzma])
def test_damaged_compression(opener: Any) -> None:
    packed = bytearray(opener.compress(pickle.dumps(trajectory(count=200), 3)))
    broken = [bytes(packed[: len(packed) // 2]), bytes(packed[:-3]), b"not compressed at all"]
    for place in (len(packed) // 2, len(packed) - 20):
        packed[place] ^= 0x55
        broken.append(bytes(packed))
    for data in broken:
        with opener.open(io.BytesIO(data)) as stream, pytest.raises(BrokenPickle) as caught:
            list(iter_items(stream))
        assert caught.value.step is not None


@pytest.mark.parametrize("error", [EOFError("cut"), OSError("Invalid data stream"), zlib.error("-3"), lzma.LZMAError()])
def test_errors_of_the_stream(error: Exception) -> None:
    class Failing(io.BytesIO):
        def readinto(self, buffer: Any, /) -> int:
            raise error

    with pytest.raises(BrokenPickle, match="damaged or truncated compression") as caught:
        list(iter_items(Failing()))
    assert caught.value.__cause__ is error


def test_a_failing_disk_is_no_fault_of_the_file() -> None:
    class Failing(io.BytesIO):
        def readinto(self, buffer: Any, /) -> int:
            raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        list(iter_items(Failing()))


_SMALL = [pickle.dumps(trajectory(count=2, agents=1, shape=(3, 2)), protocol) for protocol in PROTOCOLS]
_VALUES = [pickle.dumps([{"a": np.arange(3), "b": {1, 2}, "c": (1.5, -(10**30))}], p) for p in PROTOCOLS]


@settings(deadline=2000, max_examples=1500, suppress_health_check=[HealthCheck.too_slow])
@given(
    data=st.sampled_from(_SMALL + _VALUES),
    changes=st.lists(
        st.tuples(
            st.sampled_from(["flip", "cut", "insert", "copy"]),
            st.integers(0),
            st.binary(min_size=1, max_size=9),
        ),
        min_size=1,
        max_size=4,
    ),
)
def test_mutated_pickles(data: bytes, changes: list[tuple[str, int, bytes]]) -> None:
    for kind, place, new in changes:
        at = place % (len(data) + 1)
        if kind == "flip":
            data = data[:at] + new + data[at + len(new) :]
        elif kind == "cut":
            data = data[:at] + data[at + len(new) :]
        elif kind == "insert":
            data = data[:at] + new + data[at:]
        else:
            data = data[:at] + data[at // 2 : at // 2 + 20] + data[at:]
    try:
        value = load(data)
    except RawDataError:
        value = None
    assert_plain(value)
    try:
        assert_plain(list(iter_items(io.BytesIO(data))))
    except RawDataError as error:
        assert error.step is not None  # noqa: PT017


OPCODES = b"()]}.0123abcdeghijlopqrstu\x85\x86\x87\x88\x89\x8f\x90\x91\x93\x94NKIV"


@settings(deadline=2000, max_examples=1500)
@given(st.lists(st.sampled_from(OPCODES), max_size=60))
def test_opcode_soup(codes: list[int]) -> None:
    data = bytes(codes) + b"."
    for read in (load, lambda data: list(iter_items(io.BytesIO(data)))):
        try:
            assert_plain(read(data))
        except RawDataError:
            continue


PLAIN = (type(None), bool, int, float, str, bytes, bytearray, list, tuple, dict, OrderedDict, set, frozenset)
PLAIN += (datetime.timedelta, datetime.datetime, datetime.date, np.ndarray)


def assert_plain(value: Any, open_ids: frozenset[int] = frozenset()) -> None:
    """Every object in ``value`` is of one of the types that may come out, and no container holds itself."""
    assert type(value) in PLAIN or isinstance(value, np.generic)
    assert id(value) not in open_ids
    if isinstance(value, (list, tuple, dict, set, frozenset)):
        open_ids |= {id(value)}
        for member in value:
            assert_plain(member, open_ids)
        if isinstance(value, dict):
            for member in value.values():
                assert_plain(member, open_ids)


# ---- limits ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "value", "reason"),
    [
        (Limits(max_item_bytes=1000), b"x" * 1001, "a string of 1,001 bytes"),
        (Limits(max_item_bytes=1000), "x" * 1001, "a string of 1,001 bytes"),
        (Limits(max_item_bytes=1000), np.zeros(1001, "u1"), "a string of 1,001 bytes"),
        (Limits(max_step_bytes=5000), [bytes([i]) * 900 for i in range(6)], "more than 5,000 bytes"),
        (Limits(max_opcodes_per_step=100), list(range(1000, 1100)), "more than 100 opcodes"),
        (Limits(max_depth=5), [[[[[[1, 2], 2], 2], 2], 2], 2], "more than 5 deep"),
        (Limits(max_memo_entries=10), [[] for _ in range(100)], "more than 10 memo entries"),
        (Limits(max_int_bytes=16), [2**200], "an integer of"),
    ],
)
def test_limits_of_one_value(limits: Limits, value: object, reason: str) -> None:
    data = pickle.dumps(value, 4)
    assert same(load(data), value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine_module, "_CHUNK", 64)
        with pytest.raises(LimitExceeded, match=reason) as caught:
            load(data, limits)
    assert "at byte" in str(caught.value)


def test_limits_are_of_a_step_not_of_the_file() -> None:
    steps = trajectory(count=100)
    limits = Limits(max_step_bytes=5000, max_opcodes_per_step=2000, max_memo_entries=300)
    for protocol in (3, 4, 5):
        assert same(list(iter_items(io.BytesIO(pickle.dumps(steps, protocol)), limits)), steps)


def test_text_that_is_remembered_is_limited() -> None:
    steps = [{"a": f"{index:01000}", "b": 1} for index in range(200)]
    data = pickle.dumps(steps, 4)
    assert list(iter_items(io.BytesIO(data))) == steps
    with pytest.raises(LimitExceeded, match="to remember") as caught:
        list(iter_items(io.BytesIO(data), Limits(max_memo_bytes=100_000)))
    assert caught.value.step is not None
    assert 50 < caught.value.step < 150


def test_integers_in_text_are_limited() -> None:
    for data in (b"I%d\n.", b"L%dL\n."):
        assert load(data % 10**2000) == 10**2000
        with pytest.raises(LimitExceeded):
            load(data % 10**2600)


def test_a_doubling_value_is_harmless_here() -> None:
    # 2^60 leaves when walked, 60 objects in memory: consumers bound their walks.
    value = load(b"K\x01" + b"2\x86" * 60 + b".")
    assert isinstance(value, tuple)
    assert value[0] is value[1]


def test_it_imports_no_unpickler() -> None:
    folder = Path(machine_module.__file__).parent
    for module in ("machine", "pickle_opcodes", "pickle_state", "pickle_symbols", "pickle_table", "pickle_values"):
        source = (folder / f"{module}.py").read_text()
        for word in (
            "import pickle",
            "import _pickle",
            "pickletools",
            "importlib",
            "eval(",
            "exec(",
            "getattr(",
        ):
            assert word not in source


LITTLE_MEMORY = """
import sys
from crowdplay_ingest.machine import Limits, iter_items
from crowdplay_ingest.workers import limit_memory
limit_memory(256 << 20)
limits = Limits(max_item_bytes=1 << 30, max_step_bytes=1 << 30)
try:
    with open(sys.argv[1], "rb") as file:
        list(iter_items(file, limits))
except BaseException as error:
    print(type(error).__name__)
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="memory is limited on Linux only")
def test_too_little_memory_is_no_fault_of_the_file(tmp_path: Path) -> None:
    # There is room for the value once, and not for a copy.
    size = 150 << 20
    with (tmp_path / "large.pickle").open("wb") as file:
        file.write(b"\x80\x04]\x94}\x94\x8c\x01x\x94\x8e" + size.to_bytes(8, "little"))
        file.seek(size, os.SEEK_CUR)
        file.write(b"sa.")
    command = [sys.executable, "-c", LITTLE_MEMORY, str(tmp_path / "large.pickle")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "MemoryError\n"
