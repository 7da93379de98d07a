"""Ingest: what goes in, what is refused and how it is told, and what a second run does."""

from __future__ import annotations

import bz2
import contextlib
import copy
import gzip
import hashlib
import os
import pickle
import shutil
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crowdplay_ingest.pipeline import IngestOptions, IngestSummary, Progress, ingest
from crowdplay_ingest.recorder import EnvironmentPlan, EpisodePlan, RecordingOptions, record
from crowdplay_ingest.recording_metadata import put_rows
from crowdplay_lake import Lake
from crowdplay_lake.errors import InvalidArgument, InvalidLake, NoTrajectory, UnknownPath
from crowdplay_lake.schema import TABLES

pytest.importorskip("ale_py")

AGENT = "game_0>player_0"
PLAN = [
    EnvironmentPlan("breakout_mturk", (EpisodePlan(40), EpisodePlan(60, frame_limit=25)), ("ben",)),
    EnvironmentPlan("space_invaders_left", (EpisodePlan(30),), ("ada",)),
]

Trajectory = list[dict[str, Any]]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw folder of three episodes, unpacked. Not to be changed."""
    folder = tmp_path_factory.mktemp("small")
    record(folder, PLAN, RecordingOptions(seed=3, compression="none"))
    return folder


@pytest.fixture(scope="module")
def steps(small: Path) -> Trajectory:
    """One short trajectory."""
    return min((read(path) for path in small.glob("*.pickle")), key=len)


def read(path: Path) -> Trajectory:
    trajectory: Trajectory = pickle.loads(path.read_bytes())
    return trajectory


def put(path: Path, data: object, protocol: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else pickle.dumps(data, protocol))
    return path


def changed(steps: Trajectory, index: int, change: Callable[[dict[str, Any]], None]) -> Trajectory:
    steps = copy.deepcopy(steps)
    change(steps[index])
    return steps


def same(one: Any, other: Any) -> bool:
    """Whether two trajectories are equal in every key and value; a numpy scalar equals its Python number."""
    if isinstance(one, Mapping):
        return isinstance(other, Mapping) and one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    return bool(one == other)


def pickles(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.pickle"))


def hashes(lake: Path) -> dict[str, str]:
    return dict(Lake(lake).sql("SELECT episode_id, content_hash FROM episodes WHERE n_steps IS NOT NULL").fetchall())


def files(folder: Path) -> set[tuple[str, int, int]]:
    return {(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


def orphans(path: Path) -> set[Path]:
    """Files beside the tables' logs that the last commit does not know."""
    known = {part for name in TABLES for part in Lake(path).snapshot.files(name)}
    names = {path / name for name in TABLES}
    return {
        p for p in path.rglob("*") if p.is_file() and "_delta_log" not in p.parts and set(p.parents) & names
    } - known


# What goes in


def test_the_summary_counts_what_went_in(raw: Path, ingested: tuple[Path, IngestSummary]) -> None:
    path, summary = ingested
    found = sorted(raw.glob("*.pickle*"))
    assert summary.episodes == len(found)
    assert summary.steps == sum(len(e) for e in Lake(path).episodes())
    assert summary.bytes_in == sum(p.stat().st_size for p in found)
    assert summary.bytes_out == sum(part.size for name in TABLES for part in Lake(path).snapshot.parts(name))
    assert (summary.unchanged, summary.changed_files, summary.rejected) == (0, (), ())
    assert (summary.without_metadata, summary.without_trajectory) == (0, 0)
    assert summary.commit == Lake(path).commit


def test_an_episode_remembers_its_file(small: Path, tmp_path: Path) -> None:
    ingest(small, tmp_path / "lake")
    rows = Lake(tmp_path / "lake").sql("SELECT source_name, source_bytes, source_sha256 FROM episodes ORDER BY 1")
    expected = [(p.name, p.stat().st_size, hashlib.sha256(p.read_bytes()).hexdigest()) for p in pickles(small)]
    assert rows.fetchall() == expected


def test_progress_tells_every_step_and_byte(small: Path, tmp_path: Path) -> None:
    class Counting(Progress):
        episodes = total = steps = read = 0
        ended: Sequence[str] = ()

        def planned(self, episodes: int, total_bytes: int) -> None:
            self.episodes, self.total = episodes, total_bytes

        def advanced(self, steps: int, read_bytes: int) -> None:
            self.steps += steps
            self.read += read_bytes

        def finished(self, episode_id: str) -> None:
            self.ended = [*self.ended, episode_id]

    told = Counting()
    summary = ingest(small, tmp_path / "lake", progress=told)
    assert (told.episodes, told.steps) == (3, summary.steps)
    assert told.total == told.read == summary.bytes_in
    assert sorted(told.ended) == [p.name.partition(".")[0] for p in pickles(small)]


def test_again_changes_nothing(small: Path, tmp_path: Path) -> None:
    first = ingest(small, tmp_path / "lake")
    before = files(tmp_path / "lake")
    again = ingest(small, tmp_path / "lake")
    assert (again.episodes, again.steps, again.bytes_in, again.bytes_out, again.unchanged) == (0, 0, 0, 0, 3)
    assert again.commit == first.commit
    assert files(tmp_path / "lake") == before


def test_more_episodes_are_added(small: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    ingest(small, whole)
    raw = tmp_path / "raw"
    raw.mkdir()
    shutil.copy(small / "dataset.sqlite", raw)
    for number, path in enumerate(pickles(small), 1):
        shutil.copy2(path, raw)
        summary = ingest(raw, tmp_path / "lake")
        assert (summary.episodes, summary.unchanged, summary.commit) == (1, number - 1, number)
        assert summary.without_trajectory == 3 - number
    assert hashes(tmp_path / "lake") == hashes(whole)


def test_a_file_whose_bytes_changed_is_said_and_the_lake_keeps_the_old_one(small: Path, tmp_path: Path) -> None:
    raw = Path(shutil.copytree(small, tmp_path / "raw"))
    first = ingest(raw, tmp_path / "lake")
    before = hashes(tmp_path / "lake")
    put(pickles(raw)[0], read(pickles(raw)[0])[:-1])
    summary = ingest(raw, tmp_path / "lake")
    assert summary.changed_files == (pickles(raw)[0].name,)
    assert (summary.episodes, summary.commit) == (0, first.commit)
    assert hashes(tmp_path / "lake") == before


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("compression", ["none", "gz", "bz2"])
def test_every_protocol_and_compression_gives_the_same_content(
    small: Path, tmp_path: Path, protocol: int, compression: str
) -> None:
    raw = tmp_path / "raw"
    record(raw, PLAN[1:], RecordingOptions(seed=3, protocol=protocol, compression=compression))
    ingest(raw, tmp_path / "lake")
    record(tmp_path / "plain", PLAN[1:], RecordingOptions(seed=3, compression="none"))
    (path,) = pickles(tmp_path / "plain")
    (episode,) = Lake(tmp_path / "lake").episodes()
    equal = same(episode.get_raw_trajectory(), read(path))
    assert equal


def test_the_frame_limit_is_no_game_over(small: Path, tmp_path: Path) -> None:
    ingest(small, tmp_path / "lake")
    ends = {
        (len(e), *e.first_done(AGENT)) for e in Lake(tmp_path / "lake").episodes()
    }  # (steps, first done, whether that was the frame limit)
    limited = next(n for n, done, _ in ends if done is not None)
    assert ends == {(40, None, False), (30, None, False), (limited, limited - 1, True)}
    assert limited < 40


def test_game_overs_are_no_frame_limit(raw: Path, lake: Lake) -> None:
    """Every done in the recording: with lives left and everybody done it was the limit, else the game's end."""
    del raw
    kinds = set()
    for episode in lake.episodes():
        for index, agent in enumerate(episode.agents):
            step, at_limit = episode.first_done(agent)
            rows = episode.steps(agent, ("done", "lives", "done_all")).to_pylist()
            assert step == next((i for i, row in enumerate(rows) if row["done"]), None)
            if step is not None:
                out_of_lives = rows[step]["lives"] < (1 if len(episode.agents) == 1 else 0)
                assert not (at_limit and out_of_lives)
                kinds.add((at_limit, out_of_lives, rows[step]["done_all"], index))
    assert {at_limit for at_limit, *_ in kinds} == {True, False}


# Where files lie


def test_side_by_side_forms_of_an_episode_are_one(small: Path, tmp_path: Path) -> None:
    """pickle before gz before bz2, as CrowdPlay prefers them; told apart here by their lengths."""
    steps = read(pickles(small)[0])
    forms = {
        ".pickle": pickle.dumps(steps[:3]),
        ".pickle.gz": gzip.compress(pickle.dumps(steps[:4])),
        ".pickle.bz2": bz2.compress(pickle.dumps(steps[:5])),
    }
    for suffix, data in forms.items():
        put(tmp_path / "raw" / f"one{suffix}", data)
    for number, expected in enumerate((3, 4, 5)):
        assert ingest(tmp_path / "raw", tmp_path / f"lake{number}").episodes == 1
        (episode,) = Lake(tmp_path / f"lake{number}").episodes()
        assert (episode.episode_id, len(episode)) == ("one", expected)
        (tmp_path / "raw" / f"one{list(forms)[number]}").unlink()


def test_another_form_of_an_episode_that_is_in_changes_nothing(small: Path, tmp_path: Path) -> None:
    raw = Path(shutil.copytree(small, tmp_path / "raw"))
    ingest(raw, tmp_path / "lake")
    before = hashes(tmp_path / "lake")
    path = pickles(raw)[0]
    put(path.with_suffix(".pickle.bz2"), bz2.compress(path.read_bytes()))
    assert ingest(raw, tmp_path / "lake").changed_files == ()
    assert hashes(tmp_path / "lake") == before


def test_folders_in_folders(small: Path, tmp_path: Path) -> None:
    deep = tmp_path / "raw" / "a" / "b c" / "ü"
    shutil.copytree(small, deep)
    (tmp_path / "raw" / "notes.txt").write_text("not an episode")
    put(tmp_path / "raw" / ".pickle", b"a name that is only a suffix")
    summary = ingest(tmp_path / "raw", tmp_path / "lake")
    assert (summary.episodes, summary.without_metadata, summary.rejected) == (3, 0, ())
    names = [name for (name,) in Lake(tmp_path / "lake").sql("SELECT source_name FROM episodes ORDER BY 1")]
    assert names == [f"a/b c/ü/{p.name}" for p in pickles(small)]


def test_a_single_file_with_the_metadata_beside_it(small: Path, tmp_path: Path) -> None:
    path = pickles(small)[0]
    summary = ingest(path, tmp_path / "lake")
    assert (summary.episodes, summary.without_metadata, summary.without_trajectory) == (1, 0, 2)
    assert Lake(tmp_path / "lake").episode(path.stem).game != "unknown"


def test_a_folder_named_like_an_episode_is_a_folder(small: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path / "raw" / "x.pickle")
    summary = ingest(tmp_path / "raw", tmp_path / "lake")
    assert (summary.episodes, summary.rejected) == (3, ())


def test_metadata_elsewhere(small: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    shutil.copytree(small, raw, ignore=shutil.ignore_patterns("*.sqlite"))
    renamed = shutil.copy(small / "dataset.sqlite", tmp_path / "other name.db")
    ingest(raw, tmp_path / "lake", IngestOptions(metadata=Path(renamed)))
    assert {e.game for e in Lake(tmp_path / "lake").episodes()} == {"breakout", "space_invaders"}
    with pytest.raises((InvalidArgument, UnknownPath), match=r"missing\.sqlite"):
        ingest(raw, tmp_path / "lake", IngestOptions(metadata=tmp_path / "missing.sqlite"))


def test_without_metadata_game_and_task_are_unknown(small: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    shutil.copytree(small, raw, ignore=shutil.ignore_patterns("*.sqlite"))
    summary = ingest(raw, tmp_path / "lake")
    assert (summary.episodes, summary.without_metadata) == (3, 3)
    lake = Lake(tmp_path / "lake")
    for episode in lake.episodes():
        assert (episode.game, episode.environment_id, episode.environment.task_id) == ("unknown", None, None)
        assert episode.keyword_data == {AGENT: {}}
        assert episode.environment.keyword_data == {"all": {"game": "unknown", "task": "unknown"}}
        assert episode.environment.users == {}
    assert lake.sql("SELECT DISTINCT game, task, source FROM episode_agents").fetchall() == [
        ("unknown", "unknown", None)
    ]
    assert len(lake.episodes("game = 'unknown'")) == 3


# Metadata over time


def test_metadata_that_comes_later_moves_episodes_to_their_game(small: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    shutil.copytree(small, raw, ignore=shutil.ignore_patterns("*.sqlite"))
    ingest(raw, tmp_path / "lake")
    before = Lake(tmp_path / "lake")
    old = {e.episode_id: e.get_processed_trajectory() for e in before.episodes()}

    shutil.copy(small / "dataset.sqlite", raw)
    summary = ingest(raw, tmp_path / "lake")
    assert (summary.episodes, summary.unchanged, summary.without_metadata) == (0, 3, 0)
    after = Lake(tmp_path / "lake")
    ingest(small, tmp_path / "at once")
    at_once = Lake(tmp_path / "at once")
    for episode in after.episodes():
        assert episode.game in ("breakout", "space_invaders")
        for was, now in zip(old[episode.episode_id], episode.get_processed_trajectory(), strict=True):
            np.testing.assert_array_equal(was, now)
        equal = same(episode.get_raw_trajectory(), read(small / f"{episode.episode_id}.pickle"))
        assert equal
        assert episode.first_done() == at_once.episode(episode.episode_id).first_done()
        assert episode.action_meanings == at_once.episode(episode.episode_id).action_meanings
    assert hashes(tmp_path / "lake") == hashes(tmp_path / "at once")
    assert after.sql("SELECT DISTINCT game FROM steps ORDER BY 1").fetchall() == [("breakout",), ("space_invaders",)]
    # The reader of the older commit still has what it saw.
    assert {e.game for e in before.episodes()} == {"unknown"}
    assert len(before.episodes()[0].get_raw_trajectory()) == len(before.episodes()[0])


def test_rows_without_a_pickle_are_listed_and_filtered(small: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    shutil.copy(small / "dataset.sqlite", raw)
    summary = ingest(raw, tmp_path / "lake")
    assert (summary.episodes, summary.without_trajectory) == (0, 3)
    lake = Lake(tmp_path / "lake")
    assert lake.sql("SELECT count(*), count(n_steps) FROM episodes").fetchall() == [(3, 0)]
    assert len(lake.episodes()) == 3
    (episode,) = lake.episodes("game = 'space_invaders' AND score >= 0")
    assert episode.keyword_data[AGENT]["Score"] >= 0
    assert isinstance(episode.keyword_data[AGENT]["Time played"], timedelta)
    assert "no trajectory" in repr(episode)
    for use in (
        len,
        lambda e: e.get_raw_trajectory(),
        lambda e: e.get_processed_trajectory(),
        lambda e: e.observations(),
        lambda e: e.steps(),
        lambda e: e.frames(),
        lambda e: e.first_done(),
    ):
        with pytest.raises(NoTrajectory, match=episode.episode_id):
            use(episode)
    # And then the pickles come.
    for path in pickles(small):
        shutil.copy(path, raw)
    assert ingest(raw, tmp_path / "lake").episodes == 3
    assert [len(e) for e in Lake(tmp_path / "lake").episodes()] == [len(read(p)) for p in pickles(small)]


def test_new_values_win_and_old_ones_stay(small: Path, tmp_path: Path) -> None:
    raw = Path(shutil.copytree(small, tmp_path / "raw"))
    ingest(raw, tmp_path / "lake")
    episode_id = pickles(small)[0].stem
    put_rows(
        raw / "dataset.sqlite",
        {
            "episodekeyworddata": [
                (episode_id, AGENT, "Score", pickle.dumps(12345)),
                (episode_id, "all", "latencies", pickle.dumps([1, 2.5])),
            ]
        },
    )
    summary = ingest(raw, tmp_path / "lake")
    assert summary.commit == 2
    lake = Lake(tmp_path / "lake")
    data = lake.episode(episode_id).keyword_data
    assert data[AGENT]["Score"] == 12345
    assert data["all"]["latencies"] == [1, 2.5]
    assert isinstance(data[AGENT]["Time played"], timedelta)
    commits = dict(lake.sql("SELECT key, commit FROM keyword_data WHERE episode_id = ?", [episode_id]).fetchall())
    assert {key for key, number in commits.items() if number == 2} == {"Score", "latencies"}
    assert [e.episode_id for e in lake.episodes("score = 12345")] == [episode_id]


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_metadata_values_in_every_protocol(tmp_path: Path, protocol: int) -> None:
    values = {
        "int": 1000,
        "float": 0.25,
        "bool": True,
        "text": "ü",
        "none": None,
        "when": datetime(2021, 9, 15, 12, 30, 1, 5),
        "long": timedelta(days=2, seconds=3, microseconds=4),
        "dict": {"a": [1, 2]},
        "numpy": np.float64(1.5),
        "array": np.arange(3),
    }
    rows: dict[str, list[tuple[str | bytes, ...]]] = {
        "environments": [("v", "t")],
        "episodes": [("e", "v")],
        "episodekeyworddata": [("e", AGENT, key, pickle.dumps(value, protocol)) for key, value in values.items()],
    }
    (tmp_path / "raw").mkdir()
    put_rows(tmp_path / "raw" / "dataset.sqlite", rows)
    assert ingest(tmp_path / "raw", tmp_path / "lake").rejected == ()
    got = Lake(tmp_path / "lake").episode("e").keyword_data[AGENT]
    np.testing.assert_array_equal(got.pop("array"), values.pop("array"))  # type: ignore[arg-type]
    assert got == values
    assert type(got["bool"]) is bool


# Bad input


def without_frame(step: dict[str, Any]) -> None:
    step["prev_obs"] = {"somebody else": step["prev_obs"][AGENT]}


def too_colourful(step: dict[str, Any]) -> None:
    image = step["prev_obs"][AGENT]["image"].copy()
    image[0] = np.arange(160 * 3).reshape(160, 3) % 251
    image[1] = (np.arange(160 * 3).reshape(160, 3) * 7 + 3) % 256
    step["prev_obs"][AGENT]["image"] = image


class Hostile:
    """Its pickle asks for a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


@dataclass(frozen=True)
class Bad:
    name: str
    make: Callable[[Trajectory, Path], bytes]  # from a good trajectory, and the file that would show a command ran
    reason: str
    step: int | type | None = int  # exactly, or any step


BAD = [
    Bad("truncated.pickle", lambda s, _: pickle.dumps(s, 3)[:-200_000], "truncated at byte"),
    Bad("truncated_early.pickle", lambda s, _: pickle.dumps(s, 3)[:1_000], "truncated at byte", 0),
    Bad("truncated.pickle.bz2", lambda s, _: bz2.compress(pickle.dumps(s, 3))[:-100], "truncated"),
    Bad("truncated.pickle.gz", lambda s, _: gzip.compress(pickle.dumps(s, 3))[:-100], "truncated"),
    Bad("flipped.pickle.gz", lambda s, _: _flipped(gzip.compress(pickle.dumps(s, 3))), "", int),
    Bad("no_gz.pickle.gz", lambda s, _: pickle.dumps(s, 3), "damaged or truncated compression", 0),
    Bad("no_bz2.pickle.bz2", lambda s, _: gzip.compress(pickle.dumps(s, 3)), "damaged or truncated compression", 0),
    Bad("really_bz2.pickle", lambda s, _: bz2.compress(pickle.dumps(s, 3)), "not a pickle but a bz2 file", 0),
    Bad("empty.pickle", lambda *_: b"", "not a pickle: it is empty", 0),
    Bad("empty.pickle.bz2", lambda *_: b"", "", 0),
    Bad("packed_nothing.pickle.bz2", lambda *_: bz2.compress(b""), "not a pickle: it is empty", 0),
    Bad("text.pickle", lambda *_: b"episode,score\n1,2\n", "not a pickle", 0),
    Bad("dict.pickle", lambda *_: pickle.dumps({"a": 1}), "the top object is a dict, expected a list"),
    Bad("number.pickle", lambda *_: pickle.dumps(5), "the top object is a int, expected a list"),
    Bad("numbers.pickle", lambda *_: pickle.dumps([1, 2]), "a step is a dict, this is int", 0),
    Bad("empty_list.pickle", lambda *_: pickle.dumps([]), "the trajectory is empty", None),
    Bad("followed.pickle", lambda s, _: pickle.dumps(s, 3) + b"tail", "there is more after the pickle's end"),
    Bad("hostile_top.pickle", lambda _, canary: pickle.dumps(Hostile(f"touch {canary}")), "system", 0),
    Bad("hostile.pickle", lambda s, canary: pickle.dumps([*s[:2], Hostile(f"touch {canary}")]), "system"),
    Bad(
        "hostile_deep.pickle",
        lambda s, canary: pickle.dumps([s[0], {**s[1], "x": [Hostile(f"touch {canary}")]}], 0),
        "system",
        1,
    ),
    Bad("no_frame.pickle", lambda s, _: pickle.dumps(changed(s, 3, without_frame)), f"no frame of agent '{AGENT}'", 3),
    Bad("no_prev_obs.pickle", lambda s, _: pickle.dumps(changed(s, 4, lambda t: t.pop("prev_obs"))), "no frame", 4),
    Bad("none_at_all.pickle", lambda s, _: pickle.dumps(changed(s, 0, lambda t: t.pop("prev_obs"))), "no prev_obs", 0),
    Bad("colours.pickle", lambda s, _: pickle.dumps(changed(s, 2, too_colourful)), "256 colours", 2),
]


def _flipped(data: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


@dataclass(frozen=True)
class Mixed:
    raw: Path
    lake: Path
    summary: IngestSummary
    canary: Path


@pytest.fixture(scope="module")
def mixed(small: Path, steps: Trajectory, tmp_path_factory: pytest.TempPathFactory) -> Mixed:
    """Good episodes and every bad file in one folder, ingested."""
    folder = tmp_path_factory.mktemp("mixed")
    raw = Path(shutil.copytree(small, folder / "raw"))
    canary = folder / "canary"
    for bad in BAD:
        put(raw / f"bad_{bad.name}", bad.make(steps, canary))
    return Mixed(raw, folder / "lake", ingest(raw, folder / "lake"), canary)


def test_the_rest_is_ingested(small: Path, mixed: Mixed) -> None:
    assert (mixed.summary.episodes, mixed.summary.steps) == (3, sum(len(read(p)) for p in pickles(small)))
    # Of the two forms of `bad_truncated`, `bad_empty`, … one is read each.
    names = {f"bad_{bad.name}" for bad in BAD}
    chosen = {n for n in names if n.endswith(".pickle") or not {n[: n.rindex(".")], f"{n[:-4]}.gz"} & (names - {n})}
    assert {r.name for r in mixed.summary.rejected} == chosen
    assert {e.episode_id for e in Lake(mixed.lake).episodes()} == {p.stem for p in pickles(small)}


def test_nothing_that_a_file_says_has_run(mixed: Mixed) -> None:
    assert not mixed.canary.exists()


def test_nothing_half_written_stays(mixed: Mixed) -> None:
    assert orphans(mixed.lake) == set()


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_a_bad_file_is_rejected_with_name_step_and_reason(steps: Trajectory, tmp_path: Path, bad: Bad) -> None:
    path = put(tmp_path / "raw" / bad.name, bad.make(steps, tmp_path / "canary"))
    summary = ingest(path, tmp_path / "lake")
    (rejection,) = summary.rejected
    assert (rejection.name, rejection.bytes) == (bad.name, path.stat().st_size)
    assert bad.reason in rejection.reason
    assert "\n" not in rejection.reason
    assert isinstance(rejection.step, int) if bad.step is int else rejection.step == bad.step
    assert str(rejection).startswith(bad.name)
    assert rejection.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    rows = Lake(tmp_path / "lake").scan("rejected").select("name", "bytes", "sha256", "reason", "step").collect().rows()
    assert rows == [(rejection.name, rejection.bytes, rejection.sha256, rejection.reason, rejection.step)]
    assert not (tmp_path / "canary").exists()
    assert summary.episodes == 0


def test_rejections_are_asked_for_in_sql(mixed: Mixed) -> None:
    rows = Lake(mixed.lake).sql("SELECT name, reason, step FROM rejected ORDER BY name").fetchall()
    assert rows == sorted((r.name, r.reason, r.step) for r in mixed.summary.rejected)


def test_a_lake_without_rejections_can_be_asked_for_them(lake: Lake) -> None:
    assert lake.sql("SELECT name, reason, step FROM rejected").fetchall() == []


def test_what_was_rejected_is_said_again_and_not_read_again(mixed: Mixed) -> None:
    class NothingToRead(Progress):
        def planned(self, episodes: int, total_bytes: int) -> None:
            assert (episodes, total_bytes) == (0, 0)

    before = files(mixed.lake)
    again = ingest(mixed.raw, mixed.lake, progress=NothingToRead())
    assert again.rejected == mixed.summary.rejected
    assert files(mixed.lake) == before


@pytest.mark.parametrize("name", ["e1", "with.dots.in.it"])
def test_a_rejected_file_that_is_mended_goes_in_and_leaves_the_list(
    steps: Trajectory, tmp_path: Path, name: str
) -> None:
    path = put(tmp_path / "raw" / f"{name}.pickle", pickle.dumps(steps)[:-5])
    assert len(ingest(tmp_path / "raw", tmp_path / "lake").rejected) == 1
    put(path, steps)
    summary = ingest(tmp_path / "raw", tmp_path / "lake")
    assert (summary.episodes, summary.rejected) == (1, ())
    assert Lake(tmp_path / "lake").scan("rejected").collect().height == 0
    equal = same(Lake(tmp_path / "lake").episode(name).get_raw_trajectory(), steps)
    assert equal


def test_a_rejected_file_that_comes_again_in_another_form_leaves_the_list(steps: Trajectory, tmp_path: Path) -> None:
    bad = put(tmp_path / "raw" / "e1.pickle.bz2", bz2.compress(pickle.dumps(steps))[:-50])
    assert len(ingest(tmp_path / "raw", tmp_path / "lake").rejected) == 1
    put(bad.with_suffix(".gz"), gzip.compress(pickle.dumps(steps)))
    assert ingest(tmp_path / "raw", tmp_path / "lake").rejected == ()
    assert Lake(tmp_path / "lake").scan("rejected").collect().height == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read(small: Path, tmp_path: Path) -> None:
    raw = Path(shutil.copytree(small, tmp_path / "raw"))
    path = pickles(raw)[0]
    path.chmod(0)
    summary = ingest(raw, tmp_path / "lake")
    assert [r.name for r in summary.rejected] == [path.name]
    assert "cannot be read" in summary.rejected[0].reason
    assert summary.episodes == 2


def test_a_link_that_leads_nowhere_is_no_episode(small: Path, tmp_path: Path) -> None:
    raw = Path(shutil.copytree(small, tmp_path / "raw"))
    (raw / "gone.pickle").symlink_to(tmp_path / "nothing")
    (raw / "unmounted").symlink_to(tmp_path / "nothing")
    (raw / "itself").symlink_to(raw / "itself")
    (raw / ".hidden").symlink_to(tmp_path / "nothing")
    summary = ingest(raw, tmp_path / "lake")
    assert summary.episodes == 3
    assert [r.name for r in summary.rejected] == ["gone.pickle", "itself", "unmounted"]
    assert "leads nowhere" in summary.rejected[0].reason
    (tmp_path / "nothing").mkdir()
    assert [r.name for r in ingest(raw, tmp_path / "lake").rejected] == ["itself"]


def test_a_lake_behind_a_link_that_leads_nowhere(small: Path, tmp_path: Path) -> None:
    (tmp_path / "lake").symlink_to(tmp_path / "nothing")
    with pytest.raises(InvalidLake, match="a link that leads nowhere"):
        ingest(small, tmp_path / "lake")


def test_folders_deeper_than_a_path_may_be_are_named(small: Path, tmp_path: Path) -> None:
    raw = Path(shutil.copytree(small, tmp_path / "raw"))
    with contextlib.chdir(raw):
        for _ in range(45):
            os.mkdir("n" * 100)
            os.chdir("n" * 100)
    summary = ingest(raw, tmp_path / "lake")
    (rejection,) = summary.rejected
    assert (summary.episodes, rejection.reason) == (3, "cannot be listed: File name too long")


# Bad metadata


def execute(path: Path, *statements: tuple[Any, ...]) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        for statement in statements:
            database.execute(*statement)


def overwrite_middle(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[100 : len(data) // 2] = b"\xff" * (len(data) // 2 - 100)
    path.write_bytes(data)


BROKEN_SQLITE: dict[str, Callable[[Path], object]] = {
    "corrupt": overwrite_middle,
    "no database": lambda path: path.write_text("hello"),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:5000]),
    "empty": lambda path: path.write_bytes(b""),
    "lacks a table": lambda path: execute(path, ("DROP TABLE users",)),
    "lacks a column": lambda path: execute(path, ("ALTER TABLE users DROP COLUMN agent_id",)),
}


@pytest.mark.parametrize("fault", BROKEN_SQLITE)
def test_a_broken_database_is_rejected_and_the_episodes_go_in(small: Path, tmp_path: Path, fault: str) -> None:
    raw = Path(shutil.copytree(small, tmp_path / "raw"))
    BROKEN_SQLITE[fault](raw / "dataset.sqlite")
    summary = ingest(raw, tmp_path / "lake")
    (rejection,) = summary.rejected
    assert (rejection.name, rejection.step) == ("dataset.sqlite", None)
    assert "dataset.sqlite" in rejection.reason
    if fault == "lacks a table":
        assert "users" in rejection.reason
    assert (summary.episodes, summary.without_metadata) == (3, 3)
    assert {e.game for e in Lake(tmp_path / "lake").episodes()} == {"unknown"}
    # Mended, it counts.
    shutil.copy(small / "dataset.sqlite", raw)
    mended = ingest(raw, tmp_path / "lake")
    assert mended.rejected == ()
    assert "unknown" not in {e.game for e in Lake(tmp_path / "lake").episodes()}


def test_a_bad_value_is_rejected_and_the_others_stay(small: Path, tmp_path: Path) -> None:
    raw = Path(shutil.copytree(small, tmp_path / "raw"))
    episode_id = pickles(raw)[0].stem
    canary = tmp_path / "canary"
    put_rows(
        raw / "dataset.sqlite",
        {
            "episodekeyworddata": [
                (episode_id, AGENT, "Hostile", pickle.dumps(Hostile(f"touch {canary}"))),
                (episode_id, AGENT, "No pickle", b"\xff\xfe\x00"),
                (episode_id, AGENT, "Text", "12"),
                (episode_id, AGENT, "Empty", b""),
            ]
        },
    )
    summary = ingest(raw, tmp_path / "lake")
    assert {r.name for r in summary.rejected} == {
        f"dataset.sqlite/episodekeyworddata/{episode_id}/{AGENT}/{key}"
        for key in ("Hostile", "No pickle", "Text", "Empty")
    }
    reasons = {r.name.rpartition("/")[2]: r.reason for r in summary.rejected}
    assert "system" in reasons["Hostile"]
    assert not canary.exists()
    data = Lake(tmp_path / "lake").episode(episode_id).keyword_data[AGENT]
    assert {"Score", "Time played"} <= set(data)
    assert not {"Hostile", "No pickle", "Text", "Empty"} & set(data)
    assert (summary.episodes, summary.without_metadata) == (3, 0)
    # Mended, the values go in and leave the list.
    put_rows(
        raw / "dataset.sqlite",
        {
            "episodekeyworddata": [
                (episode_id, AGENT, key, pickle.dumps(7)) for key in ("Hostile", "No pickle", "Text", "Empty")
            ]
        },
    )
    assert ingest(raw, tmp_path / "lake").rejected == ()
    assert Lake(tmp_path / "lake").episode(episode_id).keyword_data[AGENT]["Hostile"] == 7


def test_rows_that_point_nowhere(small: Path, tmp_path: Path) -> None:
    """Values of episodes and environments that no table lists, and an episode of an unknown environment."""
    raw = Path(shutil.copytree(small, tmp_path / "raw"))
    put_rows(
        raw / "dataset.sqlite",
        {
            "episodes": [("lonely", "nowhere")],
            "episodekeyworddata": [("nobody", AGENT, "Score", pickle.dumps(1))],
            "environmentkeyworddata": [("nowhere else", "all", "game", pickle.dumps("breakout"))],
            "users": [("u", "p", "t", "nowhere", AGENT)],
        },
    )
    summary = ingest(raw, tmp_path / "lake")
    assert (summary.episodes, summary.rejected) == (3, ())
    lake = Lake(tmp_path / "lake")
    assert (lake.episode("lonely").game, lake.episode("lonely").environment_id) == ("unknown", "nowhere")
    assert lake.sql("SELECT agent_id FROM episode_agents WHERE episode_id = 'lonely'").fetchall() == [(AGENT,)]
    assert ingest(raw, tmp_path / "lake").commit == summary.commit


# Wrong paths


def test_a_wrong_path_names_the_nearest(small: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path / "crowdplay_raw")
    (tmp_path / "something_else").mkdir()
    with pytest.raises(UnknownPath, match="crowdplay_raw") as caught:
        ingest(tmp_path / "crowdplay_row", tmp_path / "lake")
    assert "something_else" not in str(caught.value)
    assert not (tmp_path / "lake").exists()


def test_an_empty_folder_is_a_clear_word(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    with pytest.raises(InvalidArgument, match="no raw episodes"):
        ingest(tmp_path / "raw", tmp_path / "lake")
    assert not (tmp_path / "lake").exists()


def test_a_file_that_is_no_episode(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InvalidArgument, match=r"not a raw episode; those end in \.pickle, \.pickle\.gz, \.pickle\.bz2"):
        ingest(tmp_path / "notes.txt", tmp_path / "lake")
    assert not (tmp_path / "lake").exists()


def test_a_file_with_another_date_and_the_same_bytes_has_not_changed(small: Path, tmp_path: Path) -> None:
    raw = Path(shutil.copytree(small, tmp_path / "raw"))
    first = ingest(raw, tmp_path / "lake")
    os.utime(pickles(raw)[0], ns=(1, 1))
    again = ingest(raw, tmp_path / "lake")
    assert (again.changed_files, again.unchanged) == ((), first.episodes)
    # The new date is kept, so that the file is not read again and again.
    assert ingest(raw, tmp_path / "lake").commit == again.commit == first.commit + 1


def test_an_episode_that_was_repacked_has_not_changed(small: Path, tmp_path: Path) -> None:
    raw = Path(shutil.copytree(small, tmp_path / "raw"))
    first = ingest(raw, tmp_path / "lake")
    path = pickles(raw)[0]
    pickled = path.read_bytes()
    path.unlink()
    put(raw / f"{path.name.split('.')[0]}.pickle.bz2", bz2.compress(pickled))
    again = ingest(raw, tmp_path / "lake")
    assert (again.changed_files, again.unchanged, again.commit) == ((), first.episodes, first.commit)


def test_metadata_that_says_less_takes_nothing_back(small: Path, tmp_path: Path) -> None:
    first = Path(shutil.copytree(small, tmp_path / "first"))
    ingest(first, tmp_path / "lake")
    games = "SELECT episode_id, game, task, source FROM episodes ORDER BY episode_id"
    before = Lake(tmp_path / "lake").sql(games).fetchall()
    partial = tmp_path / "partial.sqlite"
    shutil.copy2(first / "dataset.sqlite", partial)
    with closing(sqlite3.connect(partial)) as database:
        database.execute("DELETE FROM environmentkeyworddata")
        database.commit()
    ingest(first, tmp_path / "lake", IngestOptions(metadata=partial))
    assert Lake(tmp_path / "lake").sql(games).fetchall() == before
    assert "unknown" not in {game for _, game, *_ in before}


def test_a_keyword_that_is_no_number_changes_nothing_the_second_time(small: Path, tmp_path: Path) -> None:
    raw = Path(shutil.copytree(small, tmp_path / "raw"))
    with closing(sqlite3.connect(raw / "dataset.sqlite")) as database:
        database.execute("UPDATE episodekeyworddata SET value = ? WHERE key = 'Score'", [pickle.dumps(float("nan"))])
        database.commit()
    assert ingest(raw, tmp_path / "lake").commit == ingest(raw, tmp_path / "lake").commit
