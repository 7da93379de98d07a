"""Raw files are decompressed as they are read, in bounded memory, and damage is told as such."""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import pickle
import random
import re
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from benchmarks.memory import peak
from crowdplay_ingest.compression import open_decompressed
from crowdplay_ingest.machine import Limits, iter_items
from crowdplay_lake.errors import BrokenPickle, LimitExceeded, RawDataError

PACK: dict[str, Callable[[bytes], bytes]] = {"none": bytes, "gzip": gzip.compress, "bz2": bz2.compress}
STEPS = [{"step": number, "noise": random.Random(number).randbytes(20_000)} for number in range(150)]


def items(packed: bytes, compression: str, limits: Limits | None = None, most: int = 10**6) -> list[object]:
    """The items, and after them the error that ended them, if one did."""
    found: list[object] = []
    with open_decompressed(io.BytesIO(packed), compression) as stream:
        try:
            for item in itertools.islice(iter_items(stream, limits or Limits()), most):
                found += [item]
        except RawDataError as error:
            found.append(error)
    return found


@pytest.mark.parametrize("compression", PACK)
def test_steps_come_back(compression: str) -> None:
    assert items(PACK[compression](pickle.dumps(STEPS, 4)), compression) == STEPS


@pytest.mark.parametrize("compression", ["gzip", "bz2"])
def test_several_streams_are_one_file(compression: str) -> None:
    pack, data = PACK[compression], pickle.dumps(STEPS, 4)
    packed = b"".join(pack(data[at : at + 700_001]) for at in range(0, len(data), 700_001))
    assert items(pack(b"") + packed + pack(b""), compression) == STEPS


@pytest.mark.parametrize("compression", ["gzip", "bz2"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.9, 0.9999])
def test_a_truncated_file_is_told_after_the_steps_before(compression: str, share: float) -> None:
    packed = PACK[compression](pickle.dumps(STEPS, 4))
    *read, error = items(packed[: int(len(packed) * share)], compression)
    assert read == STEPS[: len(read)]
    assert isinstance(error, BrokenPickle)
    assert re.search(r"truncated|empty", error.reason)
    assert error.step == len(read)
    # bz2 comes in blocks of 900 KB, and one that is not whole tells nothing.
    assert len(read) >= 150 * share - 50


@pytest.mark.parametrize("compression", ["gzip", "bz2"])
def test_a_damaged_file_is_told(compression: str) -> None:
    packed = bytearray(PACK[compression](pickle.dumps(STEPS, 4)))
    packed[len(packed) // 2] ^= 0xFF
    assert isinstance(items(bytes(packed), compression)[-1], RawDataError)


BOMBS: dict[str, tuple[bytes, bytes]] = {
    "zeros": (b"", b"\0"),
    "zeros after a pickle": (pickle.dumps(STEPS[:2], 4), b"\0"),
    "None": (b"\x80\x04](", b"N"),
    "lists": (b"\x80\x04](", b"]"),
    "lists in a step": (b"\x80\x04](}(", b"]"),
    "memo": (b"\x80\x04](}(", b"]\x94"),
    "a frame": (b"\x80\x04](}B\xff\xff\xff\x7f", b"\0"),
    "a line": (b"\x80\x02](V", b"a"),
    "an integer": (b"\x80\x02](\x8b\xff\xff\xff\x7f", b"a"),
}


def bomb(name: str, compression: str) -> bytes:
    """Of what would be gigabytes 30 MB are packed: nobody should read as much."""
    begin, without_end = BOMBS[name]
    return PACK[compression](begin + without_end * (30_000_000 // len(without_end)))


@pytest.mark.parametrize("compression", ["gzip", "bz2"])
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_at_once(compression: str, name: str) -> None:
    packed = bomb(name, compression)
    start = time.process_time()
    assert isinstance(items(packed, compression)[-1], RawDataError)
    assert time.process_time() - start < 5


def growth(packed: bytes, compression: str) -> int:
    """Bytes that this process has grown by at most, to refuse a file."""
    before = peak()
    items(packed, compression)
    return peak() - before


def test_bombs_are_refused_in_little_memory() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        for name in BOMBS:
            assert executor.submit(growth, bomb(name, "gzip"), "gzip").result() < 700_000_000, name


def test_the_whole_of_a_file_is_limited() -> None:
    packed = bz2.compress(b"\x80\x04](" + b"}" * 20_000_000)
    error = items(packed, "bz2", Limits(max_file_bytes=100_000))[-1]
    assert isinstance(error, LimitExceeded)
    assert "it expands to more than 100,000 bytes" in error.reason
