"""What the player is sent: the film, the steps beside it, what the agent sees, curves."""

from __future__ import annotations

import gzip
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from conftest import read_raw
from web_server import Answer, Web, serving_lake

from crowdplay_ingest.pipeline import ingest
from crowdplay_lake import Episode, Lake
from crowdplay_lake.web import film
from crowdplay_lake.web.curves import _points
from crowdplay_lake.web.episode_page import described
from crowdplay_lake.web.film import CHUNK
from crowdplay_lake.web.step_table import StepTables

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")


@pytest.fixture(scope="module")
def lake(film_lake: tuple[Path, Path]) -> Lake:
    return Lake(film_lake[1])


@pytest.fixture(scope="module")
def raw(film_lake: tuple[Path, Path]) -> Path:
    return film_lake[0]


@pytest.fixture(scope="module")
def web(film_lake: tuple[Path, Path]) -> Iterator[Web]:
    with serving_lake(film_lake[1]) as running:
        yield running
        assert not any("Traceback" in line for line in running.told)


# The film


def unpacked(answer: Answer) -> bytes:
    """A binary answer as it was before it was packed."""
    encoding = answer.headers.get("content-encoding")
    if encoding == "gzip":
        return gzip.decompress(answer.body)
    if encoding == "zstd":
        return bytes(pa.input_stream(pa.BufferReader(answer.body), compression="zstd").read())
    assert encoding is None
    return answer.body


def fetched(web: Web, what: str, episode: Episode, chunk: int, **asked: str) -> bytes:
    path = f"/api/{what}?{urlencode({'id': episode.episode_id, 'chunk': chunk, **asked})}"
    answer = web.get(path, {"Accept-Encoding": "gzip, deflate, br, zstd"})
    assert answer.status == 200, answer.text
    assert answer.headers["content-encoding"] == "zstd"
    return unpacked(answer)


def decoded(data: bytes, palette: npt.NDArray[np.uint8], pixels: int) -> tuple[int, npt.NDArray[np.uint8]]:
    """First step and frames (n, pixels, channels) of a chunk of film, decoded as its format says."""
    assert data[:4] == b"CPLF"
    version, first, length, n_gaps, n_colors = np.frombuffer(data, "<u4", 5, 4)
    counts = np.frombuffer(data, "<u4", length, 24)
    at = 24 + 4 * int(length)
    keyframe = np.frombuffer(data, np.uint8, length, at)
    gaps = np.frombuffer(data, "<u2", n_gaps, at + int(length))
    colors = np.frombuffer(data, np.uint8, n_colors, at + int(length) + 2 * int(n_gaps))
    assert len(data) == at + length + 2 * n_gaps + n_colors
    assert version == 1
    assert keyframe[0]
    screen = np.zeros(pixels, np.uint8)
    frames, gap, color = [], 0, 0
    for count, is_keyframe in zip(counts.tolist(), keyframe.tolist(), strict=True):
        if is_keyframe:
            screen[:] = colors[color : color + count]
        else:
            screen[np.cumsum(gaps[gap : gap + count], dtype=np.int64)] = colors[color : color + count]
            gap += count
        color += count
        frames.append(palette[screen])
    return int(first), np.stack(frames)


@pytest.fixture(scope="module")
def films(lake: Lake) -> list[Episode]:
    """A long one, and one of two players."""
    found = [lake.episodes("game = 'breakout'")[0], lake.episodes("game = 'space_invaders_2p'")[0]]
    assert len(found[0]) > 2 * CHUNK
    assert len(found[1]) > CHUNK
    return found


def test_the_film_is_the_frames(web: Web, films: list[Episode]) -> None:
    for episode in films:
        about = web.get(f"/api/episode?id={episode.episode_id}").json
        assert about["steps"] == len(episode)
        assert (about["height"], about["width"], about["channels"]) == (210, 160, 3)
        for agent in about["agents"]:
            palette = np.array(agent["palette"], np.uint8).reshape(-1, 3)
            shown = 0
            for chunk in range(-(-len(episode) // about["chunk"])):
                data = fetched(web, "film", episode, chunk, agent=agent["id"])
                first, frames = decoded(data, palette, 210 * 160)
                expected = episode.frames(agent["id"], first, first + len(frames))
                assert (frames.reshape(expected.shape) == expected).all()
                assert first == shown
                shown += len(frames)
            assert shown == len(episode)


def test_a_chunk_that_begins_between_keyframes_gets_one(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(film, "CHUNK", 100)
    episode = lake.episodes("game = 'breakout'")[0]
    palette = np.frombuffer(episode._row["palettes"][0], np.uint8).reshape(-1, 3)
    for chunk in (0, 1, 2):
        first, frames = decoded(film.chunk_of_film(episode, episode.agents[0], chunk), palette, 210 * 160)
        expected = episode.frames(episode.agents[0], first, first + len(frames))
        assert first == 100 * chunk
        assert (frames.reshape(expected.shape) == expected).all()


def test_what_the_agent_sees_is_its_observation(web: Web, films: list[Episode]) -> None:
    for episode in films:
        agent = episode.agents[-1]
        screens = []
        for chunk in (0, 1):
            data = fetched(web, "seen", episode, chunk, agent=agent)
            assert data[:4] == b"CPLO"
            _, first, length, pixels = np.frombuffer(data, "<u4", 4, 4)
            assert (first, pixels) == (256 * chunk, 84 * 84)
            changes = np.frombuffer(data, np.uint8, offset=20).reshape(length, 84, 84)
            screens.append(np.bitwise_xor.accumulate(changes, axis=0))
        seen = np.concatenate(screens)
        observations = episode.observations(agent)
        for step in (12, 100, 255, 256, len(seen) - 1):
            assert (np.stack([seen[step - back] for back in (12, 8, 4, 0)], axis=-1) == observations[step]).all()


class Steps:
    """A chunk of steps, read as its format says."""

    def __init__(self, data: bytes, agents: list[str]) -> None:
        assert data[:4] == b"CPLS"
        version, self.first, n = (int(number) for number in np.frombuffer(data, "<u4", 3, 4))
        assert version == 1
        at = 16
        self.of: dict[str, dict[str, npt.NDArray[np.generic]]] = {}
        kinds = {
            "reward": ("<f8", n), "score": ("<f8", n), "action": ("<i4", n), "lives": ("<i4", n), "done": ("u1", n),
            "user_type": ("u1", n), "has_ram": ("u1", n + 1), "ram": ("u1", 128 * (n + 1)),
        }  # fmt: skip
        for agent in agents:
            self.of[agent] = {}
            for name, (kind, count) in kinds.items():
                values = np.frombuffer(data, kind, count, at)
                at += values.nbytes
                if name == "ram":
                    values = np.cumsum(values.reshape(128, n + 1), axis=1, dtype=np.uint8).T
                self.of[agent][name] = values
        assert at == len(data)


def test_beside_a_frame_stands_what_was_before_its_step(web: Web, films: list[Episode], raw: Path) -> None:
    """RAM, lives and score of the row before, as in the pickle; action, reward and done of the row itself."""
    for episode in films:
        steps = read_raw(raw, episode.episode_id)
        for chunk in range(-(-len(episode) // CHUNK)):
            told = Steps(fetched(web, "steps", episode, chunk), episode.agents)
            for agent in episode.agents:
                of = told.of[agent]
                score = sum(steps[k]["reward"][agent] for k in range(told.first))
                for i in range(len(of["reward"])):
                    step = steps[told.first + i]
                    assert of["score"][i] == score
                    assert of["action"][i] == step["action"][agent]["game"]
                    assert of["reward"][i] == step["reward"][agent]
                    assert of["done"][i] == step["done"][agent]
                    assert of["user_type"][i] == step["user_type"][agent]
                    score += step["reward"][agent]
                    if told.first + i == 0:
                        assert not of["has_ram"][:2].any()
                        assert of["lives"][0] == -1
                        continue
                    before = steps[told.first + i - 1]["info"][agent]
                    assert of["has_ram"][i + 1]
                    assert of["ram"][i + 1].tolist() == before["RAM"]
                    assert of["lives"][i] == before["ale.lives"]


# What a console hands out as RAM: its bytes as a list, as an array, or as a list of an array's numbers.
RAMS: dict[str, Callable[[int], object]] = {
    "list": lambda i: [i] * 128,
    "array": lambda i: np.full(128, i, np.uint8),
    "wide": lambda i: np.full(128, i, np.int64),
    "numbers": lambda i: [np.uint8(i)] * 128,
}


def rolled_out(steps: int, ram: Callable[[int], object]) -> list[dict[str, object]]:
    """An AI's roll-out as its script writes it: RAM from before the step; reward and done of the step before."""
    return [
        {
            "prev_obs": {"game_0>player_0": np.full((1, 84, 84), i, np.uint8)},
            "action": {"game_0>player_0": np.int64(i)},
            "reward": {"game_0>player_0": float(10 * i)},
            "done": {"game_0>player_0": False},
            "info": {"game_0>player_0": {"RAM": ram(i)}},
        }
        for i in range(steps)
    ]


@pytest.fixture(scope="module")
def roll_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake of roll-outs, each with its RAM in another form."""
    folder = tmp_path_factory.mktemp("roll_out")
    (folder / "raw").mkdir()
    for name, ram in RAMS.items():
        (folder / "raw" / f"{name}.pickle").write_bytes(pickle.dumps(rolled_out(5, ram), 4))
    ingest(folder / "raw", folder / "lake")
    return folder / "lake"


@pytest.mark.parametrize("name", RAMS)
def test_beside_a_roll_out_stands_its_own_row(roll_out: Path, name: str) -> None:
    episode = Lake(roll_out).episode(name)
    (of,) = Steps(StepTables().chunk(episode, 0), episode.agents).of.values()
    assert of["has_ram"].tolist() == [0, 1, 1, 1, 1, 1]
    assert of["ram"][1:, 7].tolist() == [0, 1, 2, 3, 4]
    assert of["score"].tolist() == [0, 10, 30, 60, 100]
    assert of["reward"][:-1].tolist() == [10, 20, 30, 40]
    assert np.isnan(of["reward"][-1])
    about = described(Lake(roll_out), episode)
    assert (about["height"], about["width"], about["channels"], about["seen"]) == (84, 84, 1, None)
    assert about["steps_a_second"] == 15
    first, frames = decoded(
        film.chunk_of_film(episode, episode.agents[0], 0), np.arange(256, dtype=np.uint8)[:, None], 84 * 84
    )
    del first
    palette = np.array(about["agents"][0]["palette"])
    assert [palette[frame[0, 0]] for frame in frames] == [0, 1, 2, 3, 4]


def test_what_a_browser_has_is_not_sent_again(web: Web, films: list[Episode]) -> None:
    path = f"/api/film?{urlencode({'id': films[0].episode_id, 'agent': films[0].agents[0], 'chunk': 0})}"
    first = web.get(path, {"Accept-Encoding": "gzip"})
    assert first.headers["content-encoding"] == "gzip"
    again = web.get(path, {"Accept-Encoding": "gzip", "If-None-Match": first.headers["etag"]})
    assert (again.status, again.body) == (304, b"")
    plain = web.get(path)
    assert plain.body == gzip.decompress(first.body)
    assert plain.headers["etag"] != first.headers["etag"]


# Curves


def values_of(curve: dict[str, list[float]], steps: int) -> list[float | None]:
    """The staircase's value at each step."""
    found: list[float | None] = [None] * steps
    for at, value in zip(curve["steps"], curve["values"], strict=True):
        found[at:] = [value] * (steps - at)
    return found


def test_curves_are_the_statistics_a_step_later(web: Web, lake: Lake, films: list[Episode]) -> None:
    for episode in films:
        names = "score,lives,reward,time_played,ram_1c"
        told = web.get(f"/api/curves?{urlencode({'id': episode.episode_id, 'names': names})}").json
        curves = {curve["name"]: curve["agents"] for curve in told["curves"]}
        assert list(curves) == names.split(",")
        for agent in episode.agents:
            rows = episode.steps(agent, ("reward", "lives", "ram_1c"))
            n = len(episode)
            expected = {
                "score": [None, *np.cumsum(rows["reward"].to_numpy())[:-1].tolist()],
                "lives": [None, *rows["lives"].to_pylist()[:-1]],
                "ram_1c": [None, *rows["ram_1c"].to_pylist()[:-1]],
                "reward": rows["reward"].to_pylist(),
                "time_played": [None, *(k // 60 for k in range(1, n))],
            }
            for name, values in expected.items():
                assert curves[name][agent]["exact"], name
                assert values_of(curves[name][agent], n) == values, name


def test_a_curve_that_changes_all_the_time_keeps_its_extremes() -> None:
    values = np.random.default_rng(0).normal(size=50_000)
    values[777], values[31_415] = 99, -99
    told = _points(values, 1, len(values))
    assert not told["exact"]
    assert len(told["steps"]) < 2_000
    at = dict(zip(told["steps"], told["values"], strict=True))
    assert (at[778], at[31_416]) == (99, -99)
    assert told["steps"] == sorted(at)


# What cannot be shown


def bad_films(lake: Lake) -> list[tuple[str, dict[str, object], int, str]]:
    known = lake.episodes("game = 'space_invaders_2p'")[0]
    name, agent = known.episode_id, known.agents[0]
    return [
        ("episode", {"id": "nobody"}, 404, "no episode 'nobody'"),
        ("episode", {"id": name[:10]}, 404, f"did you mean '{name}'"),
        ("episode", {"id": "<script>alert(1)</script>"}, 404, "no episode"),
        ("episode", {"id": "../../etc/passwd"}, 404, "no episode"),
        ("episode", {}, 400, "the address lacks id="),
        ("film", {"id": name, "agent": agent, "chunk": 999}, 400, "is no chunk of it"),
        ("film", {"id": name, "agent": agent, "chunk": -1}, 400, "chunk is a whole number"),
        ("film", {"id": name, "agent": "game_0>player_9"}, 404, "no agent"),
        ("film", {"id": name}, 400, "the address lacks agent="),
        ("film", {"id": name, "agent": agent, "commit": 999}, 404, "has no commit 999"),
        ("seen", {"id": name, "agent": agent, "chunk": "1e3"}, 400, "chunk is a whole number"),
        ("steps", {"id": name, "chunk": 999}, 400, "is no chunk of it"),
        ("curves", {"id": name, "names": "scoer"}, 404, "did you mean 'score'"),
        ("curves", {"id": name, "names": ",".join(f"ram_0{i}" for i in range(9))}, 400, "more than fit"),
        ("curves", {"id": name, "names": "episode_id"}, 404, "no statistic"),
        ("nothing", {}, 404, "no such page"),
    ]


@pytest.mark.parametrize("case", range(16))
def test_what_cannot_be_shown_is_told_in_a_line(web: Web, lake: Lake, case: int) -> None:
    cases = bad_films(lake)
    assert len(cases) == 16
    what, asked, status, message = cases[case]
    answer = web.get(f"/api/{what}?{urlencode(asked)}")
    assert answer.status == status
    assert answer.headers["content-type"] == "application/json"
    assert message in answer.json["error"]


def test_a_part_that_is_gone_or_damaged_is_told(small_lake: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(small_lake, tmp_path / "lake"))
    gone, damaged = Lake(path).episodes("game = 'breakout'")[:2]
    assert gone._row["frames_part"] != damaged._row["frames_part"]
    with serving_lake(path) as web:
        (path / "frames" / gone._row["frames_part"]).unlink()
        part = path / "frames" / damaged._row["frames_part"]
        data = bytearray(part.read_bytes())
        data[4 : len(data) // 2] = bytes(len(data) // 2 - 4)
        part.write_bytes(data)
        for episode in (gone, damaged):
            answer = web.get(f"/api/film?{urlencode({'id': episode.episode_id, 'agent': episode.agents[0]})}")
            assert answer.status == 503
            assert len(answer.json["error"].splitlines()) == 1
        assert web.get("/api/episodes").status == 200
        assert not any("Traceback" in line for line in web.told)


def test_an_episode_without_a_film_is_told(tmp_path: Path, raw: Path) -> None:
    sqlite = tmp_path / "raw" / "dataset.sqlite"
    sqlite.parent.mkdir()
    sqlite.write_bytes((raw / "dataset.sqlite").read_bytes())
    one = min(raw.glob("*.pickle.gz"), key=lambda path: path.stat().st_size)
    (sqlite.parent / one.name).write_bytes(one.read_bytes())
    ingest(sqlite.parent, tmp_path / "lake")
    without = next(episode for episode in Lake(tmp_path / "lake").episodes() if not episode.has_trajectory)
    with serving_lake(tmp_path / "lake") as web:
        answer = web.get(f"/api/episode?id={without.episode_id}")
        assert answer.status == 404
        assert "its trajectory is not" in answer.json["error"]
        assert web.get("/api/episodes").json["total"] == 2
        assert web.get("/api/episodes?film=1").json["total"] == 1
