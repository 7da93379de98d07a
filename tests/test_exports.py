"""Exports to other tools: each read back by the tool itself, and compared to the byte; targets, memory, full disks."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from crowdplay_lake import Episode, Lake
from crowdplay_lake.annotations import write_keyword_data
from crowdplay_lake.errors import CannotWrite, InvalidArgument, InvalidLake, UnknownAgent, UnknownFormat
from crowdplay_lake.offline.exports import FORMATS, content, export, written_whole
from crowdplay_lake.offline.exports.minari import episode_metadata
from crowdplay_lake.offline.transitions import Conversion, Segment, segments
from crowdplay_lake.tagged import loads

h5py = pytest.importorskip("h5py")
minari = pytest.importorskip("minari")

FIRST, SECOND = "game_0>player_0", "game_0>player_1"
LARGEST = 18
NAMES = {"minari": "people-v0", "npz": "people.npz", "hdf5": "people.h5", "huggingface": "people"}
COLUMNS = ("observations", "actions", "rewards", "terminals", "timeouts", "steps", "user_type", "lives")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written and read here is on this machine."""

    def refuse(*where: Any) -> None:
        raise AssertionError(f"somebody calls {where[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Hugging Face's library, with a home of its own."""
    patch = pytest.MonkeyPatch()
    patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf")))
    patch.setenv("HF_HUB_OFFLINE", "1")
    yield pytest.importorskip("datasets")
    patch.undo()


# What the tools read


@dataclass
class Read:
    """An export as its tool has it: flat arrays, and metadata."""

    arrays: dict[str, np.ndarray[Any, Any]]
    ends: list[int]
    episodes: list[dict[str, Any]]
    about: dict[str, Any]


def read_npz(path: Path) -> Read:
    with np.load(path, allow_pickle=False) as file:
        others = {"episode_ends", "episodes", "about"}
        assert others < set(file.files)
        return Read(
            {name: file[name] for name in file.files if name not in others},
            file["episode_ends"].tolist(),
            [loads(line) for line in bytes(file["episodes"]).decode().splitlines()],
            json.loads(str(file["about"])),
        )


def read_hdf5(path: Path) -> Read:
    with h5py.File(path) as file:
        others = {"episode_ends", "episodes", "about"}
        assert others < set(file)
        return Read(
            {name: file[name][:] for name in file if name not in others},
            file["episode_ends"][:].tolist(),
            [loads(text.decode()) for text in file["episodes"]],
            json.loads(file["about"][()]),
        )


def read_minari(path: Path) -> Read:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(path.parent))
        dataset = minari.load_dataset(path.name)
    found = list(dataset.iterate_episodes())
    metadata = list(dataset.storage.get_episode_metadata(dataset.episode_indices))
    assert [int(one["total_steps"]) for one in metadata] == [len(episode) for episode in found]
    assert dataset.total_steps == sum(map(len, found))
    for episode in found:
        # One more than decisions: of the end, and of the beginning.
        assert len(episode.observations) == len(episode) + 1
        assert {len(values) for values in episode.infos.values()} == {len(episode) + 1}
        assert dataset.observation_space.contains(episode.observations[0])
        assert all(map(dataset.action_space.contains, episode.actions))
    names = {"actions": "actions", "rewards": "rewards", "terminals": "terminations", "timeouts": "truncations"}
    arrays = {ours: np.concatenate([getattr(e, theirs) for e in found]) for ours, theirs in names.items()}
    arrays["observations"] = np.concatenate([episode.observations[:-1] for episode in found])
    for name in found[0].infos:
        arrays[name] = np.concatenate([episode.infos[name][1:] for episode in found])
    ends = np.cumsum([len(episode) for episode in found]).tolist()
    records = list(map(episode_metadata, metadata))
    return Read(arrays, ends, records, dataset.storage.metadata["crowdplay_lake"])


OF_A_ROW = {
    "observations": "observation",
    "actions": "action",
    "rewards": "reward",
    "terminals": "terminal",
    "timeouts": "timeout",
    "steps": "step",
}


def read_huggingface(path: Path, cache: Path | None = None) -> Read:
    import datasets

    cache = path.parent / "cache" if cache is None else cache
    steps = datasets.load_dataset(str(path), split="train", cache_dir=str(cache))
    episodes = datasets.load_dataset(str(path), "episodes", split="train", cache_dir=str(cache))
    frame = steps.with_format("numpy")[:]
    assert frame["episode"].tolist() == sorted(frame["episode"].tolist())
    names = [name for name in steps.column_names if name not in ("episode", "episode_id")]
    plural = {theirs: ours for ours, theirs in OF_A_ROW.items()}
    counts = np.bincount(frame["episode"], minlength=len(episodes))
    ids = [episodes[int(index)]["episode_id"] for index in frame["episode"]]
    assert list(frame["episode_id"]) == ids
    card = (path / "README.md").read_text()
    about = json.loads(card.split("```json")[1].split("```")[0])
    records = [loads(text) for text in episodes["metadata"]]
    for row, record in zip(episodes, records, strict=True):
        assert all(row[name] == record[name] for name in row if name not in ("metadata", "episode"))
    arrays = {plural.get(name, name): np.asarray(frame[name]) for name in names}
    # Its numpy format makes float32 of every number.
    assert steps.features["reward"] == datasets.Value("float64")
    arrays["rewards"] = np.array(steps["reward"][:])
    return Read(arrays, np.cumsum(counts).tolist(), records, about)


READERS: dict[str, Callable[[Path], Read]] = {
    "minari": read_minari,
    "npz": read_npz,
    "hdf5": read_hdf5,
    "huggingface": read_huggingface,
}


# What they should read, from the lake's other doors


def expected_arrays(found: Sequence[Segment], agent: str, kind: str) -> dict[str, np.ndarray[Any, Any]]:
    pieces: dict[str, list[Any]] = {name: [] for name in (*COLUMNS, *(["ram"] if kind == "raw" else []))}
    for segment in found:
        episode, steps = segment.episode, segment.steps
        if kind == "raw":
            pieces["observations"].append(episode.frames(agent)[steps])
            raw = list(episode.iter_raw_trajectory(frames=False))
            pieces["ram"].append(np.array([raw[step]["info"][agent]["RAM"] for step in steps], np.uint8))
        else:
            processed = episode.get_processed_trajectory(agent, framestack_axis_first=True, stack_n=1)
            pieces["observations"].append(processed.observations[steps, 0])
        last = np.arange(len(steps)) == len(steps) - 1
        pieces["actions"].append(segment.actions)
        pieces["rewards"].append(segment.rewards)
        pieces["terminals"].append(last & segment.terminal)
        pieces["timeouts"].append(last & (not segment.terminal))
        pieces["steps"].append(steps)
        rows = episode.steps(agent, ("user_type", "lives")).to_pylist()
        pieces["user_type"].append([rows[step]["user_type"] or 0 for step in steps])
        lives = [rows[step]["lives"] for step in steps]
        pieces["lives"].append([content.NO_LIVES if value is None else value for value in lives])
    return {name: np.concatenate(of_episodes) for name, of_episodes in pieces.items()}


def check(read: Read, lake: Lake, found: Sequence[Segment], agent: str, kind: str) -> None:
    hashes = dict(lake.sql("SELECT episode_id, content_hash FROM episodes").fetchall())
    expected = expected_arrays(found, agent, kind)
    assert set(read.arrays) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(read.arrays[name], array, err_msg=name)
    assert read.arrays["observations"].dtype == np.uint8
    assert read.arrays["rewards"].dtype == np.float64
    assert read.ends == np.cumsum([len(segment) for segment in found]).tolist()
    assert len(read.episodes) == len(found)
    for record, segment in zip(read.episodes, found, strict=True):
        episode = segment.episode
        assert record["episode_id"] == episode.episode_id
        assert record["environment_id"] == episode.environment_id
        assert (record["agent_id"], record["game"]) == (agent, episode.game)
        assert record["keyword_data"]["episode"] == episode.keyword_data
        assert record["keyword_data"]["environment"] == episode.environment.keyword_data
        assert record["permanent_user_id"] == (
            user.permanent_user_id if (user := episode.environment.users.get(agent)) else None
        )
        assert record["action_meanings"] == episode.action_meanings
        assert record["end"] == ("terminal" if segment.terminal else "timeout")
        assert (record["first_step"], record["last_step"]) == (segment.steps[0], segment.steps[-1])
        assert (record["lake"], record["commit"]) == (str(lake.path), lake.commit)
        assert record["content_hash"] == hashes[episode.episode_id]
    assert (read.about["lake"], read.about["commit"]) == (str(lake.path), lake.commit)
    assert (read.about["observations"], read.about["agent"]) == (kind, agent)
    assert (read.about["episodes"], read.about["decisions"]) == (len(found), sum(map(len, found)))


def done(lake: Lake, conversion: Conversion, episodes: Sequence[Episode]) -> list[Segment]:
    return list(segments(episodes, conversion))


@pytest.mark.parametrize("to", READERS)
@pytest.mark.usefixtures("datasets")
def test_all_games_come_back_to_the_byte(lake: Lake, tmp_path: Path, to: str) -> None:
    found = done(lake, Conversion(), lake.episodes())
    # A game over, and one that was cut off.
    assert {segment.terminal for segment in found} == {True, False}
    summary = export(lake.episodes(), tmp_path / NAMES[to], to, action_size=LARGEST)
    assert (summary.episodes, summary.decisions) == (len(found), sum(map(len, found)))
    assert [path.name for path in tmp_path.iterdir()] == [NAMES[to]]
    files = [file for file in [summary.path, *summary.path.rglob("*")] if file.is_file()]
    assert summary.bytes == sum(file.stat().st_size for file in files)
    # Packed: an image alone has 7,056 bytes.
    assert summary.bytes < summary.decisions * 7_056 / 2
    check(READERS[to](summary.path), lake, found, FIRST, "processed")


@pytest.mark.parametrize("to", READERS)
@pytest.mark.usefixtures("datasets")
def test_raw_frames_and_ram_of_every_step(lake: Lake, tmp_path: Path, to: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In many small blocks and slabs, as of long episodes."""
    monkeypatch.setattr(content, "BLOCK_BYTES", 7 * 210 * 160 * 3)
    monkeypatch.setattr(content, "SLAB_STEPS", 60)
    episodes = lake.episodes("game = 'breakout'")[:2]
    conversion = Conversion(downsample_frequency=1)
    export(episodes, tmp_path / NAMES[to], to, conversion, "raw")
    found = done(lake, conversion, episodes)
    assert [len(segment) for segment in found] == [len(episode) for episode in episodes]
    check(READERS[to](tmp_path / NAMES[to]), lake, found, FIRST, "raw")


@pytest.mark.parametrize("to", READERS)
@pytest.mark.parametrize("kind", ["human", "ai"])
@pytest.mark.usefixtures("datasets")
def test_the_second_player_split_where_control_changes_hands(lake: Lake, tmp_path: Path, to: str, kind: Any) -> None:
    episodes = [e for e in lake.episodes() if SECOND in e.agents]
    if not episodes:
        pytest.skip("needs two-player episodes: multi-agent-ale-py")
    conversion = Conversion(SECOND, 3, rewards="crowdplay", controlled_by=kind)
    found = done(lake, conversion, episodes)
    if kind == "human":
        assert any(segment.steps[-1] + 1 < len(segment.episode) for segment in found)
    export(episodes, tmp_path / NAMES[to], to, conversion)
    read = READERS[to](tmp_path / NAMES[to])
    check(read, lake, found, SECOND, "processed")
    assert set(read.arrays["user_type"]) == {{"human": 1, "ai": 2}[kind]}
    assert (read.about["rewards"], read.about["controlled_by"]) == ("crowdplay", kind)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    frequency=st.integers(1, 60),
    offset=st.integers(0, 59),
    block_images=st.integers(1, 50),
    slab_steps=st.integers(1, 50),
    kind=st.sampled_from(["processed", "raw"]),
)
def test_whatever_the_blocks_they_are_the_same(
    small_lake: Path,
    monkeypatch: pytest.MonkeyPatch,
    frequency: int,
    offset: int,
    block_images: int,
    slab_steps: int,
    kind: Any,
) -> None:
    episodes = Lake(small_lake).episodes("game = 'breakout'")[:1]
    conversion = Conversion(downsample_frequency=frequency, downsample_offset=offset % frequency)
    monkeypatch.setattr(content, "SLAB_STEPS", slab_steps)
    planned = content.plan(episodes, conversion, kind)
    monkeypatch.setattr(content, "BLOCK_BYTES", block_images * int(np.prod(planned.observation_shape)))
    (exported,) = planned.episodes()
    blocks = list(exported.blocks())
    assert [block.start for block in blocks] == np.cumsum([0, *map(len, blocks[:-1])]).tolist()
    assert max(map(len, blocks)) <= block_images
    for name, array in expected_arrays([exported.segment], FIRST, kind).items():
        np.testing.assert_array_equal(np.concatenate([block[name] for block in blocks]), array)
        assert {block[name].dtype for block in blocks} == {
            column.dtype for column in planned.columns if column.name == name
        }


# What is particular to a format


@pytest.mark.slow
def test_d3rlpys_file_is_that_of_its_own_dataset(lake: Lake, tmp_path: Path) -> None:
    d3rlpy = pytest.importorskip("d3rlpy")
    from crowdplay_lake.offline.d3rlpy import dump, load, to_mdp_dataset

    assert set(FORMATS) == {"d3rlpy", *READERS}
    made = to_mdp_dataset(lake.episodes(), downsample_frequency=8, action_size=LARGEST)
    dump(made, tmp_path / "made.h5")
    conversion = Conversion(downsample_frequency=8)
    summary = export(lake.episodes(), tmp_path / "exported.h5", "d3rlpy", conversion, action_size=LARGEST)
    assert (summary.episodes, summary.transitions) == (len(made.episodes), made.transition_count)
    one, other = load(tmp_path / "made.h5"), load(summary.path)
    assert other.dataset_info.action_size == LARGEST
    assert other.sample_transition_batch(2).observations.shape == (2, 4, 84, 84)
    for mine, theirs in zip(one.episodes, other.episodes, strict=True):
        for name in ("observations", "actions", "rewards"):
            np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name))
            assert getattr(mine, name).dtype == getattr(theirs, name).dtype
        assert mine.terminated == theirs.terminated
    with summary.path.open("rb") as stream:
        alone = d3rlpy.dataset.ReplayBuffer.load(stream, d3rlpy.dataset.InfiniteBuffer())
    assert alone.transition_count == made.transition_count
    with h5py.File(summary.path) as file:
        records = [loads(text.decode()) for text in file["episodes"]]
        assert json.loads(file["about"][()])["commit"] == lake.commit
    episodes = list(lake.episodes())
    assert [one["episode_id"] for one in records] == [episode.episode_id for episode in episodes]
    assert [one["keyword_data"]["episode"] for one in records] == [episode.keyword_data for episode in episodes]


def test_minari_finds_it_by_its_name_and_loses_nothing(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    (tmp_path / "crowdplay").mkdir()
    episodes = lake.episodes("game = 'breakout'")
    summary = export(episodes, tmp_path / "crowdplay" / "breakout-v3", "minari")
    assert summary.reading == "minari.load_dataset('crowdplay/breakout-v3')"
    (listed,) = minari.list_local_datasets(compatible_minari_version=True)
    assert listed == "crowdplay/breakout-v3"
    dataset = minari.load_dataset(listed)
    assert dataset.spec.dataset_id == listed
    assert dataset.storage.jpeg_encoding is False
    assert dataset.action_space.n == 4
    assert dataset.observation_space.shape == (84, 84)
    assert dataset.env_spec is None
    only = dataset.filter_episodes(lambda episode: bool(episode.terminations[-1]))
    assert len(only) == sum(segment.terminal for segment in segments(episodes, Conversion()))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "elsewhere"))
    assert export(episodes, tmp_path / "b-v0", "minari").reading == f"minari.MinariDataset('{tmp_path}/b-v0/data')"
    assert len(minari.MinariDataset(tmp_path / "b-v0" / "data")) == len(dataset)


def test_the_last_observation_of_minari_is_the_next_one_where_there_is_one(lake: Lake, tmp_path: Path) -> None:
    episodes = [e for e in lake.episodes() if SECOND in e.agents]
    if not episodes:
        pytest.skip("needs two-player episodes: multi-agent-ale-py")
    kinds = set()
    for controlled_by in ("human", None):
        conversion = Conversion(SECOND, controlled_by=controlled_by)  # type: ignore[arg-type]
        path = export(episodes, tmp_path / f"{controlled_by}-v0", "minari", conversion).path
        dataset = minari.MinariDataset(path / "data")
        told = list(dataset.storage.get_episode_metadata(dataset.episode_indices))
        for made, metadata, segment in zip(dataset, told, segments(episodes, conversion), strict=True):
            every = segment.episode.observations(SECOND, stack_n=1)
            after = int(segment.steps[-1]) + 1
            recorded = after < len(segment.episode)
            np.testing.assert_array_equal(made.observations[-1], every[after if recorded else after - 1][..., 0])
            assert metadata["final_observation"] == ("recorded" if recorded else "repeated")
            assert made.infos["steps"][0] == segment.steps[0] - 1
            kinds.add(recorded)
    assert kinds == {True, False}


def test_a_datasets_name_is_one_that_minari_takes(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"ends in a version.*my_breakout-v0"):
        export(lake.episodes(), tmp_path / "my breakout", "minari")
    assert list(tmp_path.iterdir()) == []


def test_metadata_longer_than_an_attribute(small_lake: Path, tmp_path: Path) -> None:
    lake = Lake(shutil.copytree(small_lake, tmp_path / "lake"))
    episode = lake.episodes("game = 'breakout'")[0]
    values = list(range(30_000))
    told = {"Latencies": values, "Name": "Zoë ☃"}
    write_keyword_data(lake.path, [("keyword_data", episode.episode_id, FIRST, *item) for item in told.items()])
    episodes = Lake(lake.path).episodes("game = 'breakout'")
    for to in ("minari", "npz", "hdf5"):
        path = export(episodes, tmp_path / NAMES[to], to).path
        if to != "minari":
            records = READERS[to](path).episodes
        else:
            storage = minari.MinariDataset(path / "data").storage
            records = list(map(episode_metadata, storage.get_episode_metadata(range(storage.total_episodes))))
        (record,) = (one for one in records if one["episode_id"] == episode.episode_id)
        assert record["keyword_data"]["episode"][FIRST]["Latencies"] == values
        assert record["keyword_data"]["episode"][FIRST]["Name"] == "Zoë ☃"


def test_hugging_face_has_the_features_right(lake: Lake, tmp_path: Path, datasets: Any) -> None:
    episodes = lake.episodes("game = 'breakout'")
    path = export(episodes, tmp_path / "hf", "huggingface", Conversion(downsample_frequency=1), "raw").path
    streamed = datasets.load_dataset(str(path), split="train", streaming=True)
    features = streamed.features
    assert features["observation"] == datasets.Image(mode="RGB")
    assert features["action"] == datasets.ClassLabel(names=["NOOP", "FIRE", "RIGHT", "LEFT"])
    assert features["ram"] == datasets.List(datasets.Value("uint8"), length=128)
    assert features["terminal"] == datasets.Value("bool")
    first = next(iter(streamed))
    np.testing.assert_array_equal(np.asarray(first["observation"]), episodes[0].frames(stop=1)[0])
    assert first["ram"] == episodes[0].ram()[0].tolist()
    assert datasets.get_dataset_config_names(str(path)) == ["steps", "episodes"]
    # Parquet that anybody reads.
    import polars as pl

    table = pl.read_parquet(path / "steps" / "*.parquet")
    assert table["step"].to_list() == [step for episode in episodes for step in range(len(episode))]


def test_many_shards_are_one_dataset(
    lake: Lake, tmp_path: Path, datasets: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crowdplay_lake.offline.exports import huggingface

    monkeypatch.setattr(huggingface, "SHARD_BYTES", 20_000)
    monkeypatch.setattr(huggingface, "ROW_GROUP_ROWS", 30)
    episodes = lake.episodes("game = 'breakout'")
    path = export(episodes, tmp_path / "hf", "huggingface").path
    assert len(list(path.glob("steps/*.parquet"))) > 1
    check(read_huggingface(path), lake, list(segments(episodes, Conversion())), FIRST, "processed")


def test_parts_of_an_hdf5_file_are_read_alone(lake: Lake, tmp_path: Path) -> None:
    episodes = lake.episodes("game = 'breakout'")
    with h5py.File(export(episodes, tmp_path / "x.h5", "hdf5").path) as file:
        assert file["observations"].compression == "gzip"
        assert file["observations"].chunks[1:] == (84, 84)
        at = int(file["episode_ends"][0]) + 3
        every = episodes[1].observations(stack_n=1, downsample_frequency=4)
        np.testing.assert_array_equal(file["observations"][at], every[3][..., 0])
        assert file["actions"].attrs["meaning"] == "index into the game's action set"


def test_the_same_content_gives_the_same_npz(lake: Lake, tmp_path: Path) -> None:
    episodes = lake.episodes("game = 'breakout'")
    one, other = (export(episodes, tmp_path / name, "npz").path.read_bytes() for name in ("1.npz", "2.npz"))
    assert one == other


# What cannot be


def cases(lake: Lake, folder: Path) -> dict[str, tuple[dict[str, Any], type[Exception], str]]:
    breakout = lake.episodes("game = 'breakout'")
    (folder / "there.npz").write_bytes(b"mine")
    (folder / "there-v0").mkdir()
    (folder / "there-v0" / "thesis.tex").write_text("mine")
    return {
        "a file that is there": ({"target": "there.npz"}, InvalidArgument, "is there already"),
        "a folder for a file": ({"target": "there-v0"}, InvalidArgument, "is a folder; name a file"),
        "a file for a folder": ({"target": "there.npz", "to": "huggingface"}, InvalidArgument, "is a file"),
        "no folder": ({"target": "none/x.npz"}, InvalidArgument, "no such folder"),
        "a folder that is there": ({"target": "there-v0", "to": "minari"}, InvalidArgument, "is there already"),
        "somebody's folder": (
            {"target": "there-v0", "to": "minari", "overwrite": True},
            InvalidArgument,
            "no such export",
        ),
        "a format": ({"to": "hdf"}, UnknownFormat, "did you mean 'hdf5'"),
        "observations": ({"observations": "rgb"}, InvalidArgument, "'processed' or 'raw'"),
        "no episode": ({"episodes": lake.episodes("game = 'pong'")}, InvalidArgument, "no episodes in the selection"),
        "nobody": ({"conversion": Conversion(controlled_by="ai")}, InvalidArgument, "played by 'ai'"),
        "an agent": ({"conversion": Conversion("player_0")}, UnknownAgent, "game_0>player_0"),
        "mixed games": ({"episodes": lake.episodes()}, InvalidArgument, "an action means different things"),
        "few actions": ({"episodes": breakout, "action_size": 2}, InvalidArgument, "action_size 2 is too small"),
    }


CASES = [
    *("a file that is there", "a folder for a file", "a file for a folder", "no folder", "a folder that is there"),
    *("somebody's folder", "a format", "observations", "no episode", "nobody", "an agent", "mixed games"),
    "few actions",
]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("datasets")
def test_what_cannot_be_is_told_and_nothing_is_touched(lake: Lake, tmp_path: Path, case: str) -> None:
    found = cases(lake, tmp_path)
    assert list(found) == CASES
    arguments, kind, message = found[case]
    target = arguments.pop("target", "new.npz")
    with pytest.raises(kind, match=message):
        export(
            **{"episodes": lake.episodes("game = 'breakout'"), "target": tmp_path / target, "to": "npz", **arguments}
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there-v0", "there.npz"]
    assert (tmp_path / "there.npz").read_bytes() == b"mine"
    assert (tmp_path / "there-v0" / "thesis.tex").read_text() == "mine"


def test_an_address_is_no_target(lake: Lake) -> None:
    pytest.importorskip("s3fs")
    with pytest.raises(InvalidArgument, match="written to a disk"):
        export(lake.episodes(), "s3://bucket/x.npz", "npz")


def test_steps_without_ram_are_refused_by_raw_observations(lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    import pickle

    rng = np.random.default_rng(0)
    steps = [
        {
            "prev_obs": {"agent_0": rng.integers(0, 2, (210, 160, 3), np.uint8)},
            "action": {"agent_0": 0},
            "reward": {"agent_0": 1.5},
            "done": {"agent_0": False, "__all__": False},
        }
        for _ in range(9)
    ]
    (tmp_path / "raw" / f"{'a' * 32}.pickle").write_bytes(pickle.dumps(steps))
    from crowdplay_ingest.pipeline import IngestOptions, ingest

    ingest(tmp_path / "raw", tmp_path / "lake", IngestOptions(workers=0))
    episodes = Lake(tmp_path / "lake").episodes()
    with pytest.raises(InvalidArgument, match=r"a{32}, step 0: 'agent_0' has no RAM"):
        export(episodes, tmp_path / "x.npz", "npz", Conversion("agent_0"), "raw")
    read = read_npz(export(episodes, tmp_path / "x.npz", "npz", Conversion("agent_0", 4)).path)
    assert read.arrays["rewards"].tolist() == [6.0, 6.0, 1.5]
    assert read.arrays["lives"].tolist() == [content.NO_LIVES] * 3
    assert read.arrays["user_type"].tolist() == [0] * 3
    assert read.episodes[0]["keyword_data"]["environment"]["all"] == {"game": "unknown", "task": "unknown"}


# Whole or not at all


@pytest.mark.parametrize("to", READERS)
@pytest.mark.usefixtures("datasets")
def test_an_export_is_replaced_when_it_is_whole_only(
    small_lake: Path, tmp_path: Path, to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out" / NAMES[to]
    target.parent.mkdir()
    # What one that was killed left.
    killed = target.with_name(f".{target.name}.unfinished")
    (killed.mkdir if FORMATS[to].is_folder else killed.touch)()
    lake = Lake(shutil.copytree(small_lake, tmp_path / "lake"))
    export(lake.episodes("game = 'breakout'")[:1], target, to)
    before = {path: path.read_bytes() for path in [target, *target.rglob("*")] if path.is_file()}

    def interrupt(what: str, done: int, total: int) -> None:
        if done > 15:
            raise KeyboardInterrupt

    episodes = lake.episodes("game = 'breakout'")
    with pytest.raises(KeyboardInterrupt):
        export(episodes, target, to, overwrite=True, progress=interrupt)
    # Elsewhere: a part that was opened can be read for as long as it is, gone or not.
    damaged = Lake(shutil.copytree(lake.path, tmp_path / "damaged"))
    (lost,) = damaged.path.rglob(str(episodes[2].row["frames_part"]).rpartition("/")[2])
    lost.unlink()
    with pytest.raises(InvalidLake):
        export(damaged.episodes("game = 'breakout'"), target, to, overwrite=True)
    assert before == {path: path.read_bytes() for path in [target, *target.rglob("*")] if path.is_file()}
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    export(Lake(lake.path).episodes("game = 'breakout'"), target, to, overwrite=True)
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    assert len(READERS[to](target).episodes) == len(episodes)


def test_a_folder_that_was_being_replaced_is_there_again(small_lake: Path, tmp_path: Path) -> None:
    episodes = Lake(small_lake).episodes("game = 'breakout'")
    path = export(episodes, tmp_path / "x-v0", "minari").path
    # Killed when the old one had lost its name, and the new one had none yet.
    path.rename(tmp_path / ".x-v0.replaced")
    with pytest.raises(InvalidArgument, match="is there already"):
        export(episodes, path, "minari")
    assert len(minari.MinariDataset(path / "data")) == len(episodes)
    export(episodes[:1], path, "minari", overwrite=True)
    assert [file.name for file in tmp_path.iterdir()] == ["x-v0"]
    assert len(minari.MinariDataset(path / "data")) == 1


def test_progress_goes_to_the_end(lake: Lake, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    episodes = lake.episodes("game = 'breakout'")
    summary = export(episodes, tmp_path / "x.npz", "npz", progress=lambda *what: told.append(what))
    assert told[-1] == ("exported", summary.decisions, summary.decisions)
    assert [done for _, done, _ in told] == sorted({done for _, done, _ in told})


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MiB, in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "none", folder], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("a small disk can be mounted by root only")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("to", READERS)
@pytest.mark.usefixtures("datasets")
def test_a_disk_that_fills_up(
    small_lake: Path, disk: Path, tmp_path: Path, to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the export is under way, somebody else fills it."""
    monkeypatch.setattr(content, "BLOCK_BYTES", 10 * 210 * 160 * 3)
    told: list[int] = []

    def fill(what: str, done: int, total: int) -> None:
        told.append(done)
        if done > 30:
            (disk / "theirs").write_bytes(bytes(shutil.disk_usage(disk).free - (1 << 20)))

    episodes = Lake(small_lake).episodes("game = 'breakout'")
    with pytest.raises(CannotWrite, match=r"no space is left on that disk.*Nothing was left behind"):
        export(episodes, disk / NAMES[to], to, Conversion(downsample_frequency=1), "raw", progress=fill)
    assert 30 < told[-1] < 60
    assert [path.name for path in disk.iterdir()] == ["theirs"]


@pytest.mark.slow
def test_too_small_a_disk_is_told_before_the_work_where_that_is_known(lake: Lake, disk: Path) -> None:
    pytest.importorskip("d3rlpy")
    done: list[int] = []
    with pytest.raises(CannotWrite, match=r"for 1\d MB more, 8 MB are free"):
        export(
            lake.episodes(), disk / "x.h5", "d3rlpy", action_size=LARGEST, progress=lambda _, n, total: done.append(n)
        )
    assert done == []
    assert list(disk.iterdir()) == []


def test_a_disk_that_is_full_to_the_last_byte(disk: Path) -> None:
    with pytest.raises(CannotWrite, match="no space is left on that disk"), written_whole(disk / "x") as unfinished:
        unfinished.write_bytes(bytes(9 << 20))
    assert list(disk.iterdir()) == []


# Memory

GROWTH = """
import sys, threading, time
from pathlib import Path
from crowdplay_lake import Lake
from crowdplay_lake.offline.exports import export
from crowdplay_lake.offline.transitions import Conversion

def anonymous():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024

lake, folder, *formats = sys.argv[1:]
every = sorted(Lake(lake).episodes("game = 'space_invaders'"), key=len)
names = {"minari": "x-v0", "npz": "x.npz", "hdf5": "x.h5", "huggingface": "x"}
peak, over = 0, False

def watch():
    global peak
    while not over:
        peak = max(peak, anonymous())
        time.sleep(0.002)

for to in formats:
    conversion = Conversion(downsample_frequency=1)
    # What is loaded, compiled and allocated once.
    export(every[:1], Path(folder) / names[to], to, conversion, "raw")
    before, peak, over = anonymous(), 0, False
    thread = threading.Thread(target=watch)
    thread.start()
    made = export(every, Path(folder) / names[to], to, conversion, "raw", overwrite=True)
    over = True
    thread.join()
    print(to, made.decisions * 210 * 160 * 3, peak - before)
"""


def test_memory_does_not_grow_with_the_export(lake: Lake, tmp_path: Path) -> None:
    if not Path("/proc/self/status").is_file():
        pytest.skip("memory is told by /proc")
    command = [sys.executable, "-c", GROWTH, str(lake.path), str(tmp_path), *READERS]
    ran = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}, check=False
    )
    assert ran.returncode == 0, ran.stderr
    told = [line.split() for line in ran.stdout.splitlines()]
    assert [to for to, *_ in told] == list(READERS)
    for to, exported, grown in told:
        assert int(exported) > 200 << 20
        assert int(grown) < 100 << 20, f"{to}: {int(grown) >> 20} MiB more for {int(exported) >> 20} MiB"


# The page


@pytest.mark.usefixtures("datasets")
def test_the_examples_of_the_page_run(lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from crowdplay_lake.cli import exporting

    (tmp_path / "lake").symlink_to(lake.path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("MINARI_DATASETS_PATH", raising=False)
    page = (Path(__file__).parent.parent / "docs" / "exports.md").read_text()
    (commands,) = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    for line in commands.splitlines():
        program, *arguments = shlex.split(line)
        assert program == "crowdplay-lake"
        ran = CliRunner().invoke(exporting.app, [os.path.expanduser(argument) for argument in arguments])
        assert ran.exit_code == 0, ran.output
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 5
    # One program, as a reader would type it: later blocks stand on earlier ones.
    exec(compile("\n".join(blocks), "docs/exports.md", "exec"), {})
