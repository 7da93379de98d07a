"""Pickled episodes of any length, made as they are read: what the tests of memory and speed feed to an ingest.

One step is pickled by `pickle`, as the recorder's are (protocol 3, one screen for all agents); each further step is a
copy of its bytes with other memo indices, frame, RAM and numbers, so that 10 GB of pickle take some seconds.
"""

from __future__ import annotations

import gzip
import io
import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["LongEpisode", "write"]

SHAPE = (210, 160, 3)
BATCH = 1_000  # steps that a pickler appends at once
HEAD = 10  # steps that all look the same, at the beginning
_NUMBER = 100_000  # pickled in four bytes, as are the numbers that follow it
_STATISTICS = ("Score", "Correct aliens shot (total)", "Correct aliens shot (fraction)", "Aliens hit in order")


def landscape(rows: int, seed: int) -> npt.NDArray[np.uint8]:
    """Land and water as in a scrolling game, whose frames are windows into it. uint8 (rows, 160, 3).

    A row differs from the one above in about 5,000 of a frame's 33,600 pixels, by and large in runs of four.
    """
    random = np.random.default_rng(seed)
    steps = random.normal(size=(rows, SHAPE[1] // 4)).repeat(4, axis=1) + 0.3 * random.normal(size=(rows, SHAPE[1]))
    colors = random.integers(0, 256, (12, 3), np.uint8)
    drawn: npt.NDArray[np.uint8] = colors[np.cumsum(steps / 5.8, axis=0).astype(np.int64) % len(colors)]
    return drawn


def _step(names: list[str]) -> dict[str, Any]:
    screen = np.zeros(SHAPE, np.uint8)
    played = timedelta(0, 60_000, _NUMBER)
    statistics: dict[str, Any] = {name: dict.fromkeys(names, _NUMBER) for name in _STATISTICS}
    statistics["Time played"] = dict.fromkeys(names, played)
    return {
        "prev_obs": {name: OrderedDict(image=screen) for name in names},
        "action": {name: {"game": 1} for name in names},
        "action_step_iter": dict.fromkeys(names, _NUMBER),
        "reward": {name: np.int32(0) for name in names},
        "done": {**dict.fromkeys(names, False), "__all__": False},
        "info": {name: {"ale.lives": 3, "RAM": [1] * 128} for name in names},
        "step_iter": _NUMBER,
        "user_type": dict.fromkeys(names, 1),
        "task_callables": statistics,
        "episode_callables": {"Active playtime": dict.fromkeys(names, played)},
    }


class _Template:
    """The bytes of a step, and where in them is what differs from step to step."""

    def __init__(self, agents: int) -> None:
        # Some steps before it: memo indices are written in four bytes from 256 on.
        names = [f"game_0>player_{agent}" for agent in range(agents)]
        steps = [_step(names) for _ in range(HEAD + 2)]
        data = pickle.dumps(steps, 3)
        begins, depth = [], 0
        found: list[tuple[Any, Any, int]] = [(op, arg, at or 0) for op, arg, at in pickletools.genops(data)]
        for opcode, _, position in found:
            if opcode.name == "EMPTY_DICT" and depth == 1:
                begins.append(position)
            depth += {"MARK": 1, "SETITEMS": -1, "APPENDS": -1, "TUPLE": -1}.get(opcode.name, 0)
        begin, end = begins[HEAD:]
        self.head = data[:begin]
        own = [(op.name, arg, at - begin) for op, arg, at in found if begin <= at < end]
        self.bytes = np.frombuffer(data[begin:end], np.uint8)
        puts = [(at, arg) for name, arg, at in own if name == "LONG_BINPUT"]
        first_own = puts[0][1]
        gets = [(at, arg) for name, arg, at in own if name == "LONG_BINGET" and arg >= first_own]
        self.memo_entries = len(puts)
        self.indices = np.array([at + 1 for at, _ in puts + gets])
        self.index_values = np.array([arg for _, arg in puts + gets], np.uint32)
        numbers = [(at, arg) for name, arg, at in own if name == "BININT"]
        self.numbers = np.array([at + 1 for at, _ in numbers])
        self.number_values = np.array([arg for _, arg in numbers], np.uint32)
        (self.frame,) = (at + 5 for name, arg, at in own if name == "BINBYTES" and len(arg) == np.prod(SHAPE))
        runs = [at for name, arg, at in own if name == "BININT1" and arg == 1]
        ram = [at for at in runs if at + 2 in runs or at - 2 in runs]
        self.ram = np.array(ram).reshape(agents, 128) + 1

    def step(self, number: int, frame: npt.NDArray[np.uint8], ram: npt.NDArray[np.uint8]) -> bytes:
        made = self.bytes.copy()
        made[self.frame : self.frame + frame.size] = frame.reshape(-1)
        made[self.ram] = ram
        for places, values in (
            (self.indices, self.index_values + np.uint32(self.memo_entries * number)),
            (self.numbers, self.number_values + np.uint32(number)),
        ):
            made[places[:, None] + np.arange(4)] = values.astype("<u4").view(np.uint8).reshape(-1, 4)
        return made.tobytes()


class LongEpisode(io.RawIOBase):
    """The pickle of an episode as a stream. ``noise``: every pixel of every frame is another one."""

    def __init__(self, steps: int, agents: int = 2, noise: bool = False, seed: int = 0) -> None:
        self._parts = self._made(steps, agents, noise, seed)
        self._rest = b""

    def _made(self, steps: int, agents: int, noise: bool, seed: int) -> Iterator[bytes]:
        random = np.random.default_rng(seed)
        template = _Template(agents)
        land = landscape(4_000, seed)
        ram = random.integers(0, 256, (agents, 128), np.uint8)
        yield template.head
        for number in range(steps - HEAD):
            at = number % (len(land) - SHAPE[0])
            frame = land[random.integers(0, len(land), SHAPE[0])] if noise else land[at : at + SHAPE[0]]
            # A dozen bytes change from step to step.
            ram[:, random.integers(0, 128, 12)] += np.uint8(1)
            yield template.step(number, frame, ram)
            if number % BATCH == BATCH - 1 - HEAD:
                yield b"e("
        yield b"e."

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if not self._rest:
            self._rest = next(self._parts, b"")
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def write(path: Path, episode: LongEpisode) -> None:
    """Pack the episode as quickly as gzip can."""
    with gzip.open(path, "wb", compresslevel=1) as file, io.BufferedReader(episode, 2**20) as stream:
        while data := stream.read(2**20):
            file.write(data)
