"""What was pickled comes back from the lake, key for key and value for value, or is refused: never changed."""

from __future__ import annotations

import bz2
import gzip
import io
import math
import pickle
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import read_raw
from hypothesis import given, settings
from hypothesis import strategies as st

from crowdplay_ingest.convert import convert
from crowdplay_ingest.machine import iter_items
from crowdplay_ingest.pipeline import IngestSummary, ingest
from crowdplay_lake import Lake
from crowdplay_lake.trajectory import AgentSteps, raw_steps

FIRST, SECOND = "game_0>player_0", "game_0>player_1"
BOTH = (FIRST, SECOND)
Step = dict[str, Any]
Trajectory = list[Any]


def difference(expected: Any, result: Any, where: str = "") -> str | None:
    """Where two values differ, by type or value; a numpy scalar is expected as the Python one."""
    if isinstance(expected, np.generic):
        expected = expected.item()
    if type(expected) is not type(result):
        return f"{where}: {type(expected).__name__} {expected!r:.80} became {type(result).__name__} {result!r:.80}"
    if isinstance(expected, dict):
        if list(map(repr, expected)) != list(map(repr, result)) and (
            isinstance(expected, OrderedDict) or sorted(map(repr, expected)) != sorted(map(repr, result))
        ):
            return f"{where}: keys {list(expected)} became {list(result)}"
        pairs: Iterable[tuple[Any, Any, Any]] = ((key, expected[key], result[key]) for key in expected)
    elif isinstance(expected, list | tuple):
        if len(expected) != len(result):
            return f"{where}: {len(expected)} items became {len(result)}"
        if set(map(type, expected)) == set(map(type, result)) == {int} and expected == result:
            return None  # RAM, mostly
        pairs = ((i, a, b) for i, (a, b) in enumerate(zip(expected, result, strict=True)))
    elif isinstance(expected, np.ndarray):
        same = expected.dtype == result.dtype and expected.shape == result.shape
        same = same and np.ascontiguousarray(expected).tobytes() == np.ascontiguousarray(result).tobytes()
        return None if same else f"{where}: another array: {expected.dtype} {expected.shape} {result.dtype}"
    elif isinstance(expected, float):
        same = expected == result and math.copysign(1, expected) == math.copysign(1, result)
        return None if same or (math.isnan(expected) and math.isnan(result)) else f"{where}: {expected} became {result}"
    elif isinstance(expected, complex):
        parts = ((expected.real, result.real), (expected.imag, result.imag))
        return next((found for a, b in parts if (found := difference(a, b, where))), None)
    elif isinstance(expected, datetime):
        same = expected == result and expected.fold == result.fold
        return None if same else f"{where}: {expected!r} became {result!r}"
    else:
        return None if expected == result else f"{where}: {expected!r:.80} became {result!r:.80}"
    return next((found for key, a, b in pairs if (found := difference(a, b, f"{where}[{key!r}]"))), None)


def unshared(trajectory: Trajectory) -> Trajectory:
    """The steps without an object in common, as CrowdPlay copies each one before it goes on."""
    return [pickle.loads(pickle.dumps(made, 5)) for made in trajectory]


OPENERS: Mapping[str, Callable[..., Any]] = {".pickle": open, ".pickle.gz": gzip.open, ".pickle.bz2": bz2.open}


def store(folder: Path, episode_id: str, trajectory: object, protocol: int = 3, suffix: str = ".pickle") -> None:
    folder.mkdir(exist_ok=True, parents=True)
    with OPENERS[suffix](folder / f"{episode_id}{suffix}", "wb") as file:
        pickle.dump(trajectory, file, protocol)


def brought_in(folder: Path, trajectories: Mapping[str, object]) -> tuple[Lake, IngestSummary]:
    for episode_id, trajectory in trajectories.items():
        store(folder / "raw", episode_id, trajectory)
    summary = ingest(folder / "raw", folder / "lake")
    return Lake(folder / "lake"), summary


# Recorded games


def test_every_recorded_episode_comes_back(raw: Path, lake: Lake) -> None:
    for episode in lake.episodes():
        original = read_raw(raw, episode.episode_id)
        n = 0
        for n, (expected, result) in enumerate(zip(original, episode.iter_raw_trajectory(), strict=True), 1):
            assert difference(expected, result, f"{episode.episode_id}[{n - 1}]") is None
        assert n == len(episode)


@pytest.fixture(scope="module")
def excerpts(raw: Path, lake: Lake) -> list[Trajectory]:
    """The last 40 steps of a one-player and of a two-player game."""
    by_players = {len(episode.agents): episode for episode in sorted(lake.episodes(), key=len, reverse=True)}
    return [read_raw(raw, episode.episode_id)[-40:] for episode in by_players.values()]


def test_every_protocol_and_compression_comes_back(excerpts: list[Trajectory], tmp_path: Path) -> None:
    expected = {}
    for protocol in range(6):
        for suffix in OPENERS if protocol > 2 else (".pickle.gz",):
            for number, trajectory in enumerate(excerpts):
                episode_id = f"{number}-protocol{protocol}{suffix.replace('.', '-')}"
                store(tmp_path / "raw", episode_id, trajectory, protocol, suffix)
                expected[episode_id] = trajectory
    assert ingest(tmp_path / "raw", tmp_path / "lake").rejected == ()
    lake = Lake(tmp_path / "lake")
    assert lake.episodes().ids == sorted(expected)
    for episode_id, trajectory in expected.items():
        assert difference(trajectory, lake.episode(episode_id).get_raw_trajectory(), episode_id) is None


# Odd trajectories


def frame(number: int, shape: tuple[int, ...] = (6, 5, 3)) -> np.ndarray:
    """A frame of few colours, another one for each number."""
    return np.random.default_rng(number).choice(np.array([0, 40, 200], np.uint8), shape)


def step(number: int, agents: Sequence[str] = (FIRST,), **changes: Any) -> Step:
    """A step as CrowdPlay writes it. ``changes`` replace keys; a value of ``...`` leaves the key out."""
    shown = frame(number)
    made: Step = {
        "prev_obs": {agent: OrderedDict(image=shown.copy()) for agent in agents},
        "action": {agent: {"game": (number + i) % 6} for i, agent in enumerate(agents)},
        "action_step_iter": {agent: number - 1 - i for i, agent in enumerate(agents)},
        "reward": {agent: np.int32(number * 5 + i) for i, agent in enumerate(agents)},
        "done": {**dict.fromkeys(agents, False), "__all__": False},
        "info": {
            agent: {"ale.lives": np.int32(3 + i), "RAM": [(number + address + i) % 256 for address in range(128)]}
            for i, agent in enumerate(agents)
        },
        "step_iter": number + 1,
        "user_type": dict.fromkeys(agents, 1),
        "task_callables": {"Score": {agent: np.int64(number * i) for i, agent in enumerate(agents)}},
        "episode_callables": {"Time played": {agent: timedelta(seconds=number) for agent in agents}},
    }
    made.update(changes)
    return {key: value for key, value in made.items() if value is not ...}


def changed(agents: Sequence[str] = (FIRST,), n: int = 3, **changes: Any) -> Trajectory:
    """Steps of which all but the first are changed."""
    return [step(0, agents)] + [step(i, agents, **changes) for i in range(1, n)]


def all_changed(agents: Sequence[str] = (FIRST,), n: int = 3, **changes: Any) -> Trajectory:
    return [step(i, agents, **changes) for i in range(n)]


def each(key: str, values: Iterable[Any], wrap: bool = True) -> Trajectory:
    """A plain step, then one for each value of the key, of the agent where ``wrap``."""
    return [step(0)] + [step(i, **{key: {FIRST: value} if wrap else value}) for i, value in enumerate(values, 1)]


def with_info(*infos: Any) -> Trajectory:
    return each("info", infos)


def with_screens(agents: Sequence[str], n: int, own: Callable[[int, int], int]) -> Trajectory:
    """``own(step, index of the agent)`` tells the number of the frame that an agent sees."""
    return [
        step(i, agents, prev_obs={agent: OrderedDict(image=frame(own(i, k))) for k, agent in enumerate(agents)})
        for i in range(n)
    ]


BIG = 2**70
VALUES: list[Any] = [
    *(math.nan, math.inf, -math.inf, -0.0, 0.0, 5e-324, 0.1, 1e308, 1, True, False, None, BIG, -BIG, 2**53 + 1),
    *("", "text", "nul \0 in it", "line\nend", "äöü 🎮", "x" * 70_000, "$dict", '"quoted"\\'),
    *(
        (),
        (1,),
        (1, (2, [3])),
        [],
        [[]],
        {1, 2},
        set(),
        frozenset({"a"}),
        {"a", (1, 2)},
        b"",
        b"\0\xff",
        bytearray(b"ab"),
    ),
    *(
        {},
        {"$float": "nan"},
        {"$tuple": [1]},
        {"$x": 1, "y": 2},
        {1: 2},
        {None: 1, True: 2, 2.5: 3, (1, 2): 4, b"k": 5},
    ),
    *({"a": {"b": {"c": [{"d": (None,)}]}}}, OrderedDict(b=1, a=2), OrderedDict(), {"o": OrderedDict(z=1)}),
    *(
        timedelta(days=-1, microseconds=5),
        timedelta.max,
        datetime(2021, 9, 15, 1, 2, 3, 4),
        datetime(2021, 10, 31, 2, fold=1),
    ),
    *(datetime.min, datetime.max, date(2021, 2, 3)),
    *(np.arange(6, dtype=np.int16).reshape(2, 3), np.array(3.5), np.zeros((0, 4), np.float32), np.array([True, False])),
    *(np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.array(["a", "bcd"]), np.array([b"x", b"yz"]), np.array([""])),
    *(np.array([np.nan, -0.0, np.inf], np.float16), np.arange(3, dtype=np.uint64) + 2**63),
    *(np.int8(-3), np.uint64(2**64 - 1), np.float16(0.1), np.float32(0.1), np.float64(0.1), np.bool_(True)),
    *(np.str_("text"), np.bytes_(b"bytes")),
]
BY_AGENT_KEYS = ("action", "action_step_iter", "reward", "done", "user_type", "info", "task_callables")
OPTIONAL_KEYS = (*BY_AGENT_KEYS, "step_iter", "episode_callables")
NUMBERS = [
    1,
    1.0,
    True,
    -0.0,
    0,
    np.float32(0.1),
    np.float16(2),
    np.int64(-1),
    np.bool_(False),
    None,
    "5",
    2**31,
    -(2**31),
]
REWARDS = [*NUMBERS, math.nan, math.inf, 2**53, 2**53 + 1, -(2**60), BIG, [1], np.array(2), np.uint64(2**64 - 1), 0.5]

KEPT: dict[str, Trajectory] = {
    "one step": [step(0)],
    "three agents": all_changed(("b", "c", "a")),
    "agents in unsorted order": with_screens(("z", "m", "a"), 4, lambda i, k: i),
    "odd agent names": all_changed(
        ("a/b", "", " ", "ünï", "x' OR 1=1 --", "g=1%2F", "line\nend", "step", "image", "🎮")
    ),
    "an agent of the name __all__": all_changed(("__all__", "a")),
    "gym": [
        {
            "prev_obs": {"agent_0": frame(i)},
            "action": {"agent_0": i},
            "reward": {"agent_0": i / 3},
            "done": {"agent_0": False},
        }
        for i in range(4)
    ],
    "gym with all other keys": [{**step(i, ("agent_0",)), "prev_obs": {"agent_0": frame(i)}} for i in range(3)],
    "gym with dicts as actions": [
        {"prev_obs": {"agent_0": frame(i)}, "action": {"agent_0": action}}
        for i, action in enumerate([{"game": 1}, {}, 2])
    ],
    "gym of two agents": [
        {"prev_obs": {agent: frame(i + k) for k, agent in enumerate(BOTH)}, "action": dict.fromkeys(BOTH, i)}
        for i in range(3)
    ],
    "roll-out": [
        {
            "prev_obs": {FIRST: frame(i, (1, 84, 84))},
            "action": {FIRST: np.int64(i)},
            "reward": {FIRST: float(i)},
            "done": {FIRST: i == 2},
            "info": {FIRST: {"RAM": np.arange(128, dtype=np.uint8)}},
        }
        for i in range(3)
    ],
    "roll-out of two agents": [
        {"prev_obs": {agent: frame(i + k, (1, 8, 8)) for k, agent in enumerate(BOTH)}, "reward": dict.fromkeys(BOTH, i)}
        for i in range(3)
    ],
    "nothing but frames": [{"prev_obs": {FIRST: OrderedDict(image=frame(i))}} for i in range(3)],
    **{
        f"frames of shape {shape}": [{"prev_obs": {FIRST: OrderedDict(image=frame(i, shape))}} for i in range(3)]
        for shape in ((7, 5), (7, 5, 1), (7, 5, 4), (4, 6, 6), (1, 1, 3), (2, 3, 4, 3))
    },
    **{f"{key} missing": all_changed(BOTH, **{key: ...}) for key in OPTIONAL_KEYS},
    **{f"{key} missing later": changed(BOTH, **{key: ...}) for key in OPTIONAL_KEYS},
    **{f"{key} empty": changed(BOTH, **{key: {}}) for key in OPTIONAL_KEYS},
    **{f"{key} None": changed(BOTH, **{key: None}) for key in OPTIONAL_KEYS},
    **{f"{key} no dict": changed(BOTH, **{key: [1, 2]}) for key in OPTIONAL_KEYS},
    **{f"{key} 0": changed(BOTH, **{key: 0}) for key in OPTIONAL_KEYS},
    **{f"{key} None for the agent": changed(BOTH, **{key: {FIRST: None, SECOND: None}}) for key in BY_AGENT_KEYS},
    **{f"{key} of one of two agents": changed(BOTH, **{key: {SECOND: 1}}) for key in BY_AGENT_KEYS},
    **{f"{key} of a stranger": changed(BOTH, **{key: {FIRST: 1, "all": 2}}) for key in BY_AGENT_KEYS},
    **{f"{key} with odd keys": changed(BOTH, **{key: {FIRST: 1, 7: 2, None: 3}}) for key in BY_AGENT_KEYS},
    **{f"{key} an OrderedDict": changed(**{key: OrderedDict([(FIRST, 1)])}) for key in BY_AGENT_KEYS},
    "numbers as actions": each("action", [*NUMBERS, 2**40, [1], np.array(3)]),
    "numbers under game": each("action", [{"game": number} for number in [*NUMBERS, 2**40, np.array(3)]]),
    "odd dicts as actions": each("action", [{}, {"game": 1, "other": 2}, {"other": 1}, {1: 2}, {"game": {"game": 1}}]),
    "an action in an OrderedDict": each("action", [OrderedDict(game=1)]),
    "odd action_step_iter": each("action_step_iter", [*NUMBERS, -1, 2**40]),
    "odd user_type": each("user_type", [*NUMBERS, 2, 3]),
    "odd step_iter": each("step_iter", [*NUMBERS, -5, 2**40, BIG, {}, {"x": 1}], wrap=False),
    "step_iter beyond int32 at first": [step(0, step_iter=2**31), step(1, step_iter=2**63), step(2, step_iter=5)],
    "rewards that begin with an int": each("reward", REWARDS),
    "rewards that begin with a float": [step(0, reward={FIRST: 0.0}), *each("reward", REWARDS)[1:]],
    "rewards that begin with a bool": [step(0, reward={FIRST: True}), *each("reward", REWARDS)[1:]],
    "rewards of different types by agent": [step(i, BOTH, reward={FIRST: i, SECOND: i / 2}) for i in range(3)],
    "odd done": each("done", [*NUMBERS, {}]),
    "odd __all__": each("done", [{FIRST: True, "__all__": number} for number in NUMBERS], wrap=False),
    "nothing but __all__": each("done", [{"__all__": True}, {"__all__": None}, {"__all__": 1}], wrap=False),
    "done without __all__": changed(done={FIRST: True}),
    "infos that are no dict": with_info(None, [], [1], 0, "text", {}, OrderedDict()),
    "an OrderedDict as info": with_info(OrderedDict([("b", 1), ("RAM", [0] * 128), ("ale.lives", 2)])),
    "odd keys in info": with_info(
        {1: 2}, {"$x": 1}, {"$float": "nan"}, {None: 0}, {(1, 2): 3, "RAM": [1] * 128}, {"": 1}
    ),
    "info of a stranger": each(
        "info", [{FIRST: {"ale.lives": 1}, "all": {"x": 1}}, {"x": 1}, {SECOND: {}}], wrap=False
    ),
    "odd lives": with_info(*({"ale.lives": number} for number in [*NUMBERS, BIG, -1])),
    "odd RAM": with_info(
        *(
            {"RAM": ram, "ale.lives": 1}
            for ram in ([0] * 127, [0] * 129, [], None, (0,) * 128, [0.0] * 128, [True] * 128)
        ),
        *({"RAM": ram} for ram in ([256] + [0] * 127, [-1] + [0] * 127, [BIG] * 128, [None] * 128, b"\0" * 128)),
        *({"RAM": ram} for ram in (np.arange(128, dtype=np.uint8), np.arange(128), [np.uint8(7)] * 128)),
        *({"RAM": np.arange(128).astype(kind), "ale.lives": 2} for kind in (">i2", "<u4", "f8", "bool")),
        *({"RAM": ram} for ram in (np.arange(129), np.arange(128) * 3, np.arange(128)[None], np.arange(256)[::2])),
    ),
    "RAM in one step only": [
        step(0, info={FIRST: {}}),
        step(1),
        step(2, info={FIRST: {"ale.lives": 1}}),
        step(3, info=...),
    ],
    "any value in info": with_info(*({"x": value, "RAM": [1] * 128} for value in VALUES)),
    "any value as info": with_info(*VALUES),
    "any value as a statistic": each("task_callables", [{"x": {FIRST: v}} for v in VALUES], wrap=False),
    "any value in place of a statistic": each("task_callables", [{"x": v} for v in VALUES], wrap=False),
    "any value as statistics": each("episode_callables", VALUES, wrap=False),
    "any value as a further key": each("further", VALUES, wrap=False),
    "any value beside the image": [step(0)]
    + [step(i, prev_obs={FIRST: OrderedDict(image=frame(i), x=value)}) for i, value in enumerate(VALUES, 1)],
    "statistics that are 0 at first": [
        step(0, BOTH, task_callables={"a": 0, "b": 0}, episode_callables=0),
        step(1, BOTH, task_callables={"a": dict.fromkeys(BOTH, 1), "b": 0}),
        step(2, BOTH, task_callables={"b": dict.fromkeys(BOTH, 1), "a": {FIRST: 1}}),
    ],
    "odd names of statistics": each(
        "task_callables",
        [{1: {FIRST: 1}}, {"": {FIRST: 1}}, {"$x": {FIRST: 2}, "y": 0}, {("a",): 0, "b": {FIRST: 1}}],
        wrap=False,
    ),
    "a statistic of a stranger": changed(task_callables={"x": {FIRST: 1, "all": 2}, "y": {"all": 3}, "z": {}}),
    "a statistic in an OrderedDict": changed(BOTH, task_callables={"x": OrderedDict.fromkeys(reversed(BOTH), 1)}),
    "statistics in an OrderedDict": changed(task_callables=OrderedDict(b={FIRST: 1}, a={FIRST: 2})),
    "further keys": changed(BOTH, step={"step": 1}, extra=[1], **{"$dict": 2, "RAM": 3, "": 4, "prev_obs ": 5}),
    "further keys that are no text": [{**step(i), 7: 1, None: 2, (1, 2): 3} for i in range(2)],
    "an image that comes last": [step(i, prev_obs={FIRST: OrderedDict(x=i, image=frame(i))}) for i in range(3)],
    "an image in a plain dict": [step(i, prev_obs={FIRST: {"image": frame(i)}}) for i in range(3)],
    "odd keys beside the image": [
        step(i, prev_obs={FIRST: OrderedDict([("image", frame(i)), (1, 2), ("$x", 3)])}) for i in range(3)
    ],
    "different screens": with_screens(BOTH, 5, lambda i, k: i + 10 * k),
    "different screens from a step on": with_screens(BOTH, 6, lambda i, k: i + 10 * k * (i >= 3)),
    "different screens for one step": with_screens(BOTH, 6, lambda i, k: i + 10 * k * (i == 3)),
    "different screens from a keyframe on": with_screens(BOTH, 260, lambda i, k: i % 7 + 10 * k * (i >= 256)),
    "different screens, unsorted, over row groups": with_screens(("b", "a"), 2_100, lambda i, k: i % 9 + 3 * k),
    "different screens of three": with_screens(("b", "c", "a"), 6, lambda i, k: i + 10 * k * (i >= 3)),
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lake, IngestSummary, list[str]]:
    """All of KEPT in one lake, under numbers as ids."""
    folder = tmp_path_factory.mktemp("kept")
    lake, summary = brought_in(folder, {str(i): unshared(trajectory) for i, trajectory in enumerate(KEPT.values())})
    return lake, summary, list(KEPT)


@pytest.mark.parametrize("case", KEPT)
def test_odd_trajectories_come_back(case: str, kept: tuple[Lake, IngestSummary, list[str]]) -> None:
    lake, summary, cases = kept
    episode_id = str(cases.index(case))
    assert [str(r) for r in summary.rejected if r.name.split(".")[0] == episode_id] == []
    result = lake.episode(episode_id).get_raw_trajectory()
    # Protocol 3 has no `fold` of a date.
    assert difference(pickle.loads(pickle.dumps(KEPT[case], 3)), result) is None


def shared_frame() -> Trajectory:
    steps = [step(0), step(1)]
    steps[1]["prev_obs"][FIRST]["image"] = steps[0]["prev_obs"][FIRST]["image"]
    return steps


def other_dtype_of(agent: str) -> Trajectory:
    steps = all_changed(BOTH)
    shown = steps[1]["prev_obs"][agent]
    shown["image"] = shown["image"].astype(np.int32)
    return steps


def rainbow() -> Trajectory:
    image = np.arange(300 * 3).astype(np.uint8).reshape(20, 15, 3)
    image[..., 2] = np.arange(300).reshape(20, 15) // 256
    image[..., 1] = np.arange(300).reshape(20, 15) % 256
    return [step(0, prev_obs={FIRST: OrderedDict(image=image)})]


REFUSED: dict[str, tuple[object, str]] = {
    "nothing": ([], "empty"),
    "a dict": ({"a": 1}, "expected a list"),
    "numbers": ([1, 2], "a step is a dict"),
    "tuples": ([(step(0),)], "tuple"),
    "a step that is none": ([step(0), None], "a step is a dict"),
    "no prev_obs": ([{"action": {FIRST: 1}}], "prev_obs"),
    "no prev_obs later": (changed(prev_obs=...), "no frame of agent"),
    "prev_obs an array": ([{"prev_obs": frame(0)}], "prev_obs"),
    "prev_obs empty": ([{"prev_obs": {}}], "prev_obs"),
    "no array": ([{"prev_obs": {FIRST: [[0]]}}], "frame is expected"),
    "no image": ([{"prev_obs": {FIRST: {"picture": frame(0)}}}], "no frame of agent"),
    "an agent that is no text": ([{"prev_obs": {1: frame(0)}}], "name of an agent"),
    "an agent of the name all": ([{"prev_obs": {"all": frame(0)}}], "name of an agent"),
    "an agent goes": ([step(0, BOTH), step(1)], "player_1"),
    "an agent comes": ([step(0), step(1, BOTH)], "player_1"),
    "another shape": (
        [step(0), step(1, prev_obs={FIRST: OrderedDict(image=frame(1, (5, 6, 3)))})],
        "episode began with",
    ),
    "another dtype": (other_dtype_of(FIRST), "int32"),
    "another dtype of the second agent": (other_dtype_of(SECOND), "int32"),
    "nested otherwise later": ([step(0), step(1, prev_obs={FIRST: frame(1)})], "no frame of agent"),
    "300 colours": (rainbow(), "256 colours"),
    "a large frame": ([{"prev_obs": {FIRST: np.zeros((300, 300, 3), np.uint8)}}], "65,536 pixels"),
    "a shared frame": (shared_frame(), "shares an object with an earlier step"),
    "objects": (with_info({"x": np.array([None, {}], object)}), "not plain"),
    "a complex number": (with_info({"x": 1j}), "complex"),
    "a structured array": (with_info({"x": np.zeros(2, [("a", "i4")])}), "not plain"),
    "a date array": (with_info({"x": np.zeros(2, "M8[ns]")}), "not plain"),
    "a range": (with_info({"x": range(3)}), "range"),
}


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lake, IngestSummary, list[str]]:
    folder = tmp_path_factory.mktemp("refused")
    trajectories = {str(i): trajectory for i, (trajectory, _) in enumerate(REFUSED.values())}
    lake, summary = brought_in(folder, {**trajectories, "fine": all_changed(BOTH)})
    return lake, summary, list(REFUSED)


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_kept_is_refused_with_the_reason(
    case: str, refused: tuple[Lake, IngestSummary, list[str]]
) -> None:
    _, summary, cases = refused
    reasons = {rejection.name: rejection.reason for rejection in summary.rejected}
    assert REFUSED[case][1] in reasons.get(f"{cases.index(case)}.pickle", "it was taken")


def test_a_refusal_does_not_stop_the_others(refused: tuple[Lake, IngestSummary, list[str]]) -> None:
    lake, summary, _ = refused
    assert difference(all_changed(BOTH), lake.episode("fine").get_raw_trajectory()) is None
    assert summary.episodes == 1


def bad_text() -> str:
    # A lone surrogate: Python has it in file names, pickle writes it, UTF-8 has no bytes for it.
    return "bad " + chr(0xD800)


EXTREME: dict[str, Trajectory] = {
    "an int reward beyond any float": changed(reward={FIRST: 10**400}),
    "a reward of many digits": changed(reward={FIRST: 10**5000}),
    "many digits in info": with_info({"x": 10**2400}),
    "a lone surrogate in info": with_info({"x": bad_text()}),
    "a lone surrogate as a key": with_info({bad_text(): 1}),
    "a lone surrogate as an agent": all_changed((bad_text(),)),
    "a lone surrogate in an array": with_info({"x": np.array([bad_text()])}),
    "an agent with a NUL": all_changed(("a\0b", "a")),
    "deep nesting": with_info({"x": eval("[" * 60 + "]" * 60)}),
    "deeper nesting": with_info({"x": eval("[" * 98 + "]" * 98)}),
    "a long double": with_info({"x": np.longdouble("0.1")}),
    "a date scalar": with_info({"x": np.datetime64("2021-09-15T00:00:00.000000001")}),
    "a constant in every step": with_info(*[{"size": (210, 160)}] * 3),
    "a frozenset twice": each("further", [frozenset(), frozenset()], wrap=False),
    "a masked array": with_info({"x": np.ma.masked_array([1, 2], [True, False])}),
}


@pytest.mark.parametrize("case", EXTREME)
def test_extremes_come_back_or_are_refused_and_stop_nothing(case: str, tmp_path: Path) -> None:
    fine = all_changed(BOTH)
    lake, summary = brought_in(tmp_path, {"a-fine": fine, "extreme": EXTREME[case], "fine": fine})
    for episode_id in ("a-fine", "fine"):
        assert difference(fine, lake.episode(episode_id).get_raw_trajectory()) is None
    if summary.rejected:
        assert [rejection.name for rejection in summary.rejected] == ["extreme.pickle"]
        assert lake.episodes().ids == ["a-fine", "fine"]
    else:
        assert difference(EXTREME[case], lake.episode("extreme").get_raw_trajectory()) is None


# Anything at all


def plain_values() -> st.SearchStrategy[Any]:
    numbers = st.integers(-(2**80), 2**80) | st.floats() | st.booleans()
    scalars = (
        numbers
        | st.none()
        | st.text(max_size=5)
        | st.binary(min_size=2, max_size=5)
        | st.timedeltas()
        | st.datetimes()
        | st.integers(-128, 127).map(np.int8)
        | st.floats(width=32).map(np.float32)
        | st.lists(st.integers(0, 2**16 - 1), max_size=3).map(lambda items: np.array(items, np.uint16))
    )
    keys = (
        st.text(max_size=4)
        | st.sampled_from(["$dict", "$float", "RAM", "ale.lives", "game", FIRST])
        | st.integers(-2, 2)
    )
    return st.recursive(
        scalars,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.lists(inner, min_size=1, max_size=3).map(tuple)
            | st.dictionaries(keys, inner, max_size=3)
            | st.dictionaries(keys, inner, max_size=3).map(OrderedDict)
        ),
        max_leaves=5,
    )


@st.composite
def odd_steps(draw: st.DrawFn) -> tuple[Trajectory, int]:
    agents = draw(st.permutations(["a", "b", "c"]))[: draw(st.integers(1, 3))]
    values = plain_values()
    by_agent = st.dictionaries(st.sampled_from([*agents, "__all__", "all"]), values, max_size=3)
    trajectory = []
    for number in range(draw(st.integers(1, 3))):
        changes: dict[str, Any] = {}
        for key in draw(st.sets(st.sampled_from([*OPTIONAL_KEYS, "further", "$further"]), max_size=4)):
            odd = by_agent | values | st.just(...)
            if key.endswith("callables"):
                odd |= st.dictionaries(st.text(max_size=2), by_agent, max_size=2)
            changes[key] = draw(odd, label=key)
        trajectory.append(step(number, agents, **changes))
    return trajectory, draw(st.integers(2, 5), label="protocol")


def through_tables(pickled: bytes) -> Trajectory:
    """Through the machine and the tables; only the frames go past them."""
    converted = convert("id", "unknown", iter_items(io.BytesIO(pickled)))
    agents, n = converted.facts["agents"], converted.n_steps
    steps_of_all = pa.concat_tables(converted.rows.steps)
    rows = {agent: steps_of_all.slice(sorted(agents).index(agent) * n, n) for agent in agents}
    frames = ({agent: made["prev_obs"][agent]["image"] for agent in agents} for made in pickle.loads(pickled))
    steps = {agent: AgentSteps.of(table) for agent, table in rows.items()}
    return list(raw_steps(steps, frames, converted.facts["variant"], converted.facts["reward_type"]))


@given(odd=odd_steps())
@settings(max_examples=80, deadline=None)
def test_any_plain_steps_come_back(odd: tuple[Trajectory, int]) -> None:
    trajectory, protocol = odd
    pickled = pickle.dumps(unshared(trajectory), protocol)
    assert difference(pickle.loads(pickled), through_tables(pickled)) is None


# Names


def metadata(folder: Path, games: Mapping[str, str]) -> None:
    """A dataset.sqlite that tells each episode's game."""
    with sqlite3.connect(folder / "dataset.sqlite") as database:
        database.executescript(
            "CREATE TABLE environments (environment_id, task_id);"
            "CREATE TABLE environmentkeyworddata (environment_id, agent_id, key, value);"
            "CREATE TABLE episodes (episode_id, environment_id);"
            "CREATE TABLE episodekeyworddata (episode_id, agent_id, key, value);"
            "CREATE TABLE users (user_id, permanent_user_id, task_id, environment_id, agent_id);"
        )
        for episode_id, game in games.items():
            environment = f"environment of {episode_id}"
            database.execute("INSERT INTO environments VALUES (?, 'task')", [environment])
            database.execute("INSERT INTO episodes VALUES (?, ?)", [episode_id, environment])
            value = pickle.dumps(game, 4)
            database.execute("INSERT INTO environmentkeyworddata VALUES (?, 'all', 'game', ?)", [environment, value])
    database.close()


GAMES = [
    "breakout",
    "007",
    "a/b",
    "..",
    "a=b%2F c",
    "ünï 🎮",
    "x' OR 1=1 --",
    "None",
    "game",
    "a b.",
    "back\\slash",
    "a:b*?",
]


def test_games_of_any_name_and_episodes_that_move_to_them(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    games = {f"episode{i}": game for i, game in enumerate(GAMES)}
    trajectory = with_screens(("b", "a"), 5, lambda i, k: i + 10 * k)
    for episode_id in games:
        store(raw, episode_id, trajectory)
    ingest(raw, tmp_path / "lake")
    before = Lake(tmp_path / "lake")
    assert {episode.game for episode in before.episodes()} == {"unknown"}
    metadata(raw, games)
    assert ingest(raw, tmp_path / "lake").rejected == ()
    after = Lake(tmp_path / "lake")
    assert {episode.episode_id: episode.game for episode in after.episodes()} == games
    for lake in (before, after):
        for episode in lake.episodes():
            assert difference(trajectory, episode.get_raw_trajectory()) is None
    counted = after.sql("SELECT game, count(*) FROM steps GROUP BY game").fetchall()
    assert dict(counted) == dict.fromkeys(GAMES, 10)


@pytest.mark.parametrize(
    "episode_id", ["a b", "ä🎮", "x.y", "x.pickle", "%2F", "'", "-", "007", "x=y", "[a]", "unknown"]
)
def test_episodes_of_any_name(episode_id: str, tmp_path: Path) -> None:
    trajectory = all_changed()
    lake, summary = brought_in(tmp_path, {episode_id: trajectory})
    assert summary.rejected == ()
    assert lake.episodes().ids == [episode_id]
    assert difference(trajectory, lake.episode(episode_id).get_raw_trajectory()) is None


def test_a_refused_episode_that_was_mended_is_no_longer_rejected(tmp_path: Path) -> None:
    for episode_id in ("plain", "with.dot"):
        _, summary = brought_in(tmp_path, {episode_id: []})
        assert [rejection.name for rejection in summary.rejected] == [f"{episode_id}.pickle"]
        lake, summary = brought_in(tmp_path, {episode_id: all_changed()})
        assert summary.rejected == ()
        assert lake.sql("SELECT name FROM rejected").fetchall() == []
