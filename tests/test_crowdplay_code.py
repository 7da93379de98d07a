"""What CrowdPlay documents, as its users would have written it: only the import line is another.

Its usage page, example script and notebooks, its offline scripts, up to where trainers and plots begin. Where that code
has slips of its own, docs/crowdplay.md tells what runs here.
"""

from __future__ import annotations

import pickle
import re
import shutil
import sqlite3
import statistics
import subprocess
import sys
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sqlalchemy")

from crowdplay_ingest.pipeline import IngestOptions, ingest
from crowdplay_ingest.recorder import EnvironmentPlan, EpisodePlan, RecordingOptions, record
from crowdplay_lake import Lake
from crowdplay_lake.orm import (
    EnvironmentKeywordDataModel,
    EnvironmentModel,
    EpisodeKeywordDataModel,
    EpisodeModel,
    UserModel,
    get_engine_and_session,
    get_trajectory_by_id,
)
from crowdplay_lake.orm.home import HOME_VARIABLE
from crowdplay_lake.orm.session import LakeSession

P0, P1 = "game_0>player_0", "game_0>player_1"
INSIDEOUT = "space_invaders_insideout"
TOGETHER = "space_invaders_2p_cooperative_mturk"
PLAN = [
    EnvironmentPlan(INSIDEOUT, (EpisodePlan(90), EpisodePlan(60), EpisodePlan(30)), ("ada",)),
    EnvironmentPlan(TOGETHER, (EpisodePlan(50, ("sticky", "sticky")),), ("ada", "ben")),
    EnvironmentPlan("space_invaders_socialmedia", (EpisodePlan(20),), ("cleo",)),
]
# Of the three episodes of the first, by length: a byte each, two bytes, and one that nobody should find.
SCORES = {90: 300, 60: 105, 30: 20}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake home with crowdplay_atari-v0: its metadata of two files, of pickles in protocol 4 and 5."""
    pytest.importorskip("ale_py")
    home = tmp_path_factory.mktemp("home")
    for name, plan, seed in (("first", PLAN[:1], 1), ("second", PLAN[1:], 2)):
        raw = home.parent / f"{home.name}-{name}"
        record(raw, plan, RecordingOptions(seed=seed, compression="none"))
        with closing(sqlite3.connect(raw / "dataset.sqlite")) as database, database:
            _adjust(raw, database, protocol=4 if name == "first" else 5)
        ingest(raw, home / "crowdplay_atari-v0", IngestOptions(workers=0))
    return home


def _adjust(raw: Path, database: sqlite3.Connection, protocol: int) -> None:
    """Scores that are known, and all values in one protocol."""
    rows = database.execute("SELECT rowid, episode_id, agent_id, key, value FROM episodekeyworddata").fetchall()
    for row, episode_id, _, key, value in rows:
        plain = pickle.loads(value)
        if key == "Score":
            plain = SCORES.get(len(pickle.loads((raw / f"{episode_id}.pickle").read_bytes())), 50)
        if key == "Correct aliens shot (fraction)":
            plain = 0.995
        blob = pickle.dumps(plain, protocol)
        database.execute("UPDATE episodekeyworddata SET value = ? WHERE rowid = ?", (blob, row))


@pytest.fixture
def session(home: Path, monkeypatch: pytest.MonkeyPatch) -> LakeSession:
    monkeypatch.setenv(HOME_VARIABLE, str(home))
    _, session = get_engine_and_session("crowdplay_atari-v0")
    return session


@pytest.fixture
def copied(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lake home whose lake may be changed."""
    shutil.copytree(home, tmp_path / "home")
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    return tmp_path / "home"


def lengths(episodes: list[EpisodeModel]) -> list[int]:
    return sorted((len(episode.get_raw_trajectory()) for episode in episodes), reverse=True)


# The page on using the dataset


def test_all_episodes(session: LakeSession) -> None:
    assert len(session.query(EpisodeModel).all()) == 5


def test_the_list_comprehension_over_game_task_source_and_score(session: LakeSession) -> None:
    all_episodes = session.query(EpisodeModel).all()
    found = [
        e
        for e in all_episodes
        if e.environment.keyword_data["all"]["game"] == "space_invaders"
        and e.environment.keyword_data["all"]["task"] == "insideout"
        and e.environment.keyword_data["all"]["source"] == "mturk"
        and e.keyword_data[P0]["Score"] >= 100
    ]
    assert lengths(found) == [90, 60]


@pytest.mark.parametrize(
    ("score", "expected"), [(50, [90, 60]), (105, [90, 60]), (256, [90]), (301, []), (-1, [90, 60, 30])]
)
def test_the_filter_on_task_and_score(session: LakeSession, score: int, expected: list[int]) -> None:
    task = INSIDEOUT
    filtered_episodes = (
        session.query(EpisodeModel)
        .filter(EnvironmentModel.environment_id == EpisodeModel.environment_id)
        .filter(EnvironmentModel.task_id == task)
        .filter(EpisodeKeywordDataModel.episode_id == EpisodeModel.episode_id)
        .filter(EpisodeKeywordDataModel.key == "Score")
        .filter(EpisodeKeywordDataModel.value >= score)
        .all()
    )
    assert lengths(filtered_episodes) == expected


def test_what_is_in_an_episode(session: LakeSession) -> None:
    episode = max(session.query(EpisodeModel).all(), key=lambda e: e.environment.task_id == TOGETHER)
    trajectory = episode.get_raw_trajectory()
    assert len(trajectory[7]["info"][P0]["RAM"]) == 128
    assert trajectory[7]["user_type"][P1] == 1
    assert trajectory[0]["prev_obs"][P1]["image"].shape == (210, 160, 3)
    assert len(get_trajectory_by_id(episode.episode_id)) == 50
    for options, shape in (
        ({}, (84, 84, 4)),
        ({"framestack_axis_first": True, "stack_n": 1}, (1, 84, 84)),
        ({"agent": P1}, (84, 84, 4)),
        ({"agent": P1, "framestack_axis_first": True, "stack_n": 1}, (1, 84, 84)),
    ):
        observations, actions, rewards, terminals = episode.get_processed_trajectory(**options)
        assert [len(one) for one in (observations, actions, rewards, terminals)] == [50] * 4
        assert all(isinstance(one, list) for one in (observations, actions, rewards, terminals))
        assert {o.shape for o in observations} == {shape}
        assert {type(number) for number in (*actions, *rewards, *terminals)} == {int}


def test_the_arrays_of_the_d3rlpy_script(session: LakeSession) -> None:
    episodes = (
        session.query(EpisodeModel)
        .filter(EnvironmentModel.environment_id == EpisodeModel.environment_id)
        .filter(EnvironmentModel.task_id == INSIDEOUT)
        .filter(EpisodeKeywordDataModel.episode_id == EpisodeModel.episode_id)
        .filter(EpisodeKeywordDataModel.key == "Score")
        .filter(EpisodeKeywordDataModel.value >= 50)
        .all()
    )
    obs, acts, rews, term = [], [], [], []
    for episode in episodes:
        (o, a, r, t) = episode.get_processed_trajectory(
            framestack_axis_first=True, downsample_frequency=4, downsample_offset=0, stack_n=1
        )
        obs.append(np.array(o))
        acts.append(np.array(a))
        rews.append(np.array(r))
        term.append(np.array(t))
    n = 24 + 16  # every fourth step of 90 and of 60, and the last
    assert np.concatenate(obs).shape == (n, 1, 84, 84)
    assert np.concatenate(obs).dtype == np.uint8
    assert [np.concatenate(one).shape for one in (acts, rews, term)] == [(n,)] * 3
    lake = Lake(session.lake.path)
    expected = [lake.episode(e.episode_id).get_processed_trajectory(P0, True, 4, stack_n=1) for e in episodes]
    assert (np.concatenate(obs) == np.concatenate([one.observations for one in expected])).all()


def test_the_code_on_our_own_page(copied: Path, tmp_path: Path) -> None:
    page = (Path(__file__).parent.parent / "docs" / "crowdplay.md").read_text(encoding="utf-8")
    script = tmp_path / "page.py"
    script.write_text("\n".join(re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lake = Lake(copied / "crowdplay_atari-v0")
    assert lake.snapshot.operation == "session.commit"
    assert lake.sql("SELECT DISTINCT score FROM episode_agents WHERE episode_looked_at").fetchall() == [(301,)]


# The example script and the example notebook


def test_the_example_script(session: LakeSession, capsys: pytest.CaptureFixture[str]) -> None:
    episodes = (
        session.query(EpisodeModel)
        .filter(EpisodeKeywordDataModel.key == "Score")
        .filter(EpisodeKeywordDataModel.value > 100)
        .filter(EpisodeKeywordDataModel.episode_id == EpisodeModel.episode_id)
        .filter(EnvironmentModel.environment_id == EpisodeModel.environment_id)
        .filter(EnvironmentModel.task_id == INSIDEOUT)
        .all()
    )
    episode = episodes[0]
    print(episode)
    print(episode.keyword_data)
    print(episode.environment.keyword_data)
    trajectory = episode.get_raw_trajectory()
    print(trajectory[0])
    told = capsys.readouterr().out
    assert told.startswith(f"<Episode(episode_id={episode.episode_id}, environment_id=")
    assert "'Score': 105" in told or "'Score': 300" in told


def test_the_example_notebook(session: LakeSession) -> None:
    all_episodes = session.query(EpisodeModel).all()
    all_users = session.query(UserModel).all()
    all_environments = session.query(EnvironmentModel).all()
    best = [
        f"{e.environment.task_id}, {e.keyword_data[P0]['Score']}"
        for e in all_episodes
        if e.keyword_data[P0]["Score"] >= 256
    ]
    assert best == [f"{INSIDEOUT}, 300"]
    key = "Correct aliens shot (fraction)"
    good = [e for e in all_episodes if e.environment.task_id == INSIDEOUT and e.keyword_data[P0][key] >= 0.99]
    assert lengths(good) == [90, 60, 30]
    hours = sum(
        env.keyword_data[P0]["Time played"] / timedelta(hours=1)
        for env in all_environments
        if "game" in env.keyword_data["all"] and env.keyword_data["all"]["source"] in ("mturk", "email")
    )
    assert 0 < hours < 1
    assert len({user.permanent_user_id for user in all_users}) == 3
    per_day: dict[Any, float] = {}
    for e in all_episodes:
        day = (e.keyword_data["all"]["created_on"] - timedelta(hours=4)).date()
        per_day[day] = per_day.get(day, 0) + e.keyword_data[P0]["Time played"].total_seconds() / 3600
    assert sum(per_day.values()) > 0


# The analysis notebooks


def test_the_analysis_of_the_incentives(session: LakeSession) -> None:
    all_episodes = session.query(EpisodeModel).all()
    all_environments = session.query(EnvironmentModel).all()
    incentive_users = [u for u in session.query(UserModel).all() if u.environment.task_id == INSIDEOUT]
    assert [user.agent_id for user in incentive_users] == [P0]
    for ep in (ep for ep in all_episodes if ep.environment.task_id == INSIDEOUT):
        ep.keyword_data["task_adherence_fraction"] = ep.keyword_data[P0]["Correct aliens shot (fraction)"]
    for env in (env for env in all_environments if env.task_id == INSIDEOUT):
        env.keyword_data["length_of_good_episodes"] = sum(
            ep.keyword_data[P0]["Time played"].total_seconds()
            for ep in env.episodes
            if ep.keyword_data["task_adherence_fraction"] >= 0.8
        )
        assert env.keyword_data["length_of_good_episodes"] > 0


def test_the_analysis_stores_who_played_and_finds_it_again(copied: Path) -> None:
    _, session = get_engine_and_session("crowdplay_atari-v0")
    all_episodes = session.query(EpisodeModel).all()
    before = session.lake.commit
    for ep in all_episodes:
        if ep.environment.task_id == TOGETHER and "total_frames_humanhuman" not in ep.keyword_data["all"]:
            trajectory = get_trajectory_by_id(ep.episode_id)
            together = sum(1 for step in trajectory if step["user_type"][P0] == 1 and step["user_type"][P1] == 1)
            for key, value in (("total_frames_humanhuman", together), ("total_frames_humanai", 50 - together)):
                kw_model = EpisodeKeywordDataModel(episode_id=ep.episode_id, agent_id="all", key=key, value=value)
                session.merge(kw_model)
                session.commit()
    assert session.lake.commit == before + 2
    all_episodes = session.query(EpisodeModel).all()
    env = next(e for e in session.query(EnvironmentModel).all() if e.task_id == TOGETHER)
    assert sum(ep.keyword_data["all"]["total_frames_humanhuman"] for ep in env.episodes) == 50
    stored = Lake(copied / "crowdplay_atari-v0").sql("SELECT sum(episode_total_frames_humanhuman) FROM episode_agents")
    assert stored.fetchall() == [(100,)]


BATCH = """
import multiprocessing
from crowdplay_lake.orm import EpisodeModel, get_engine_and_session, get_trajectory_by_id

_, session = get_engine_and_session("crowdplay_atari-v0")
all_episodes = session.query(EpisodeModel).all()
P1 = "game_0>player_0"

class LatencyCallable:
    def __init__(self):
        self.latencies = []
    def __call__(self, step_info):
        for agent, seen in step_info["action_step_iter"].items():
            self.latencies.append(step_info["step_iter"] - seen)
        return {"all": self.latencies}

def action_dist(episode, player):
    steps = get_trajectory_by_id(episode.episode_id)
    data = {f"action_{a}": sum(s["action"][player]["game"] == a for s in steps) / len(steps) for a in range(6)}
    return {**data, "episode_length": len(steps)}

def calc(job):
    episode, i = job
    _, local_session = get_engine_and_session("crowdplay_atari-v0")
    ep = local_session.query(EpisodeModel).filter(EpisodeModel.episode_id == episode.episode_id).first()
    if "latencies" not in ep.keyword_data["all"]:
        ep.run_callable(LatencyCallable(), "latencies")
        local_session.commit()
    if P1 in episode.keyword_data and "action_dist_data" not in episode.keyword_data[P1]:
        ep.update_kwdata(P1, "action_dist_data", action_dist(ep, P1))
        for k in range(100):
            ep.update_kwdata("all", f"value {i} {k}", k)
        local_session.commit()

if __name__ == "__main__":
    multiprocessing.set_start_method("START")
    pool = multiprocessing.Pool(12)
    pool.map(calc, [(episode, i) for i, episode in enumerate([*all_episodes, *all_episodes, *all_episodes][:12])], 1)
    pool.close()
    pool.join()
"""


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_the_batch_script_writes_from_a_pool_of_twelve_processes(copied: Path, tmp_path: Path, start: str) -> None:
    if start == "fork" and sys.platform != "linux":
        pytest.skip("processes are forked on Linux")
    (tmp_path / "batch.py").write_text(BATCH.replace("START", start))
    done = subprocess.run(
        [sys.executable, str(tmp_path / "batch.py")], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    _, session = get_engine_and_session("crowdplay_atari-v0")
    episodes = session.query(EpisodeModel).all()
    values = [key for ep in episodes for key in ep.keyword_data["all"] if key.startswith("value ")]
    assert len(values) == len(set(values)) == 1200
    latencies: list[int] = []
    for episode in episodes:
        if "all" in episode.keyword_data and "latencies" in episode.keyword_data["all"]:
            latencies += episode.keyword_data["all"]["latencies"]
        data = episode.keyword_data[P0]["action_dist_data"]
        assert sum(data[f"action_{a}"] for a in range(6)) == pytest.approx(1)
    assert len(latencies) == 90 + 60 + 30 + 20 + 2 * 50
    assert statistics.median(latencies) >= 0


# The offline scripts


def test_the_best_human_performance(session: LakeSession) -> None:
    task_episodes = (
        session.query(EpisodeModel)
        .filter(EnvironmentModel.environment_id == EpisodeModel.environment_id)
        .filter(EnvironmentModel.task_id == INSIDEOUT)
        .filter(EpisodeKeywordDataModel.episode_id == EpisodeModel.episode_id)
        .filter(EpisodeKeywordDataModel.key == "Score")
        .filter(EpisodeKeywordDataModel.value >= 50)
        .all()
    )
    episodes = [e for e in task_episodes if e.keyword_data[P0]["Correct aliens shot (fraction)"] >= 0.8]
    assert max(e.keyword_data[P0]["Score"] for e in episodes) == 300


def test_all_four_offsets_of_the_offline_script(session: LakeSession) -> None:
    ep = session.query(EpisodeModel).first()
    for offset in range(4):
        obs, *_ = ep.get_processed_trajectory(
            framestack_axis_first=True, downsample_frequency=4, downsample_offset=offset, stack_n=1
        )
        assert np.array(obs).shape[1:] == (1, 84, 84)


def test_keywords_of_environments_are_found_by_query(session: LakeSession) -> None:
    found = (
        session.query(EnvironmentModel)
        .filter(EnvironmentKeywordDataModel.environment_id == EnvironmentModel.environment_id)
        .filter(EnvironmentKeywordDataModel.key == "created_on")
        .filter(EnvironmentKeywordDataModel.value > datetime(2020, 1, 1))
        .all()
    )
    assert len(found) == 3
