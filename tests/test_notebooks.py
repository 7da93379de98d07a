"""The notebooks run from the first cell to the last, and their figures are those of a loop over raw trajectories."""

from __future__ import annotations

import json
import math
import shutil
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from conftest import read_raw
from metadata_folders import P0, P1, Keywords, Sitting, write_metadata

from crowdplay_ingest.pipeline import IngestOptions, IngestSummary, ingest
from crowdplay_lake import Lake

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("altair")
stats = pytest.importorskip("scipy.stats")

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
NAMES = ("first_tour", "dataset_analysis", "behaviour", "sql_to_agent")
GOOD = 0.8


def cells(name: str) -> list[dict[str, Any]]:
    return json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())["cells"]  # type: ignore[no-any-return]


def in_a_kernel(name: str, folder: Path, keep: Sequence[str] = (), **parameters: Any) -> dict[str, pl.DataFrame]:
    """Run a notebook in a kernel of its own, its parameters replaced; the frames of these names at its end."""
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4)
    at = next(i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ()))
    given = "\n".join(f"{key} = {value!r}" for key, value in parameters.items())
    notebook.cells.insert(at + 1, nbformat.v4.new_code_cell(given))
    kept = "\n".join(f"{frame}.write_parquet({str(folder / frame)!r})" for frame in keep)
    notebook.cells.append(nbformat.v4.new_code_cell(kept))
    nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    shown = [output.data for cell in notebook.cells for output in cell.get("outputs", ()) if "data" in output]
    # JupyterLab has what draws these, and fetches nothing.
    assert any("application/vnd.vegalite.v5+json" in data for data in shown)
    assert [text for data in shown if "https://" in (text := data.get("text/html", ""))] == []
    return {frame: pl.read_parquet(folder / frame) for frame in keep}


def in_this_process(name: str, **parameters: Any) -> dict[str, Any]:
    """Run a notebook's code here: what it names, at its end."""
    found: dict[str, Any] = {"display": lambda shown: None}
    for cell in cells(name):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{name}:{cell['id']}", "exec"), found)
            if "parameters" in cell["metadata"].get("tags", ()):
                found.update(parameters)
    return found


# As they are stored


def test_the_folder_holds_these() -> None:
    assert {path.stem for path in NOTEBOOKS.iterdir() if path.suffix == ".ipynb"} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_stored_without_output(name: str) -> None:
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.id for cell in code if cell.outputs or cell.execution_count is not None] == [], "clear all outputs"
    (parameters,) = [cell for cell in code if "parameters" in cell.metadata.get("tags", ())]
    assert 'os.environ.get("CROWDPLAY_LAKE", "../demo/lake")' in parameters.source
    assert notebook.cells[0].source.startswith("# ")


# A lake with everything that they count: the recorder's, and the metadata of incentive treatments.

VISITS = {  # task → of each visit the (share in order, seconds) of its episodes
    "space_invaders_insideout_timeonly": [[(0.5, 60), (0.9, 30)], [(0.1, 50)], [(0.79, 200), (0.8, 100)]],
    "space_invaders_insideout_allincentives": [[(0.95, 300), (0.85, 20)], [(1, 200), (0.2, 10)]],
    "space_invaders_insideout_bonusonly": [[(0.9, 100)]],
    "space_invaders_insideout_email": [[(0.9, 400), (0.3, 40)], [(0.9, 500)]],
}


def a_visit(task_id: str, number: int, episodes: Sequence[tuple[float, int]]) -> Sitting:
    source = "email" if task_id.endswith("email") else "mturk"
    key = "Aliens hit in order (fraction)" if source == "email" else "Correct aliens shot (fraction)"
    about = {"game": "space_invaders", "task": "insideout", "source": source, "created_on": datetime(2021, 9, 1)}
    # The second visitor from email left early.
    reached = {key: 0.9, "Score": 3_000, "Active playtime": timedelta(seconds=700 if number == 0 else 60)}
    named: dict[str, Keywords] = {
        f"{task_id}-{number}-{k}": {P0: {key: share, "Time played": timedelta(seconds=seconds)}}
        for k, (share, seconds) in enumerate(episodes)
    }
    named[f"{task_id}-{number}-unknown"] = {P0: {"Time played": timedelta(seconds=1_000)}}
    return Sitting(f"{task_id}-{number}", task_id, {"all": about, P0: reached}, named, {P0: f"{number}"})


@pytest.fixture(scope="module")
def whole(ingested: tuple[Path, IngestSummary], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("notebooks")
    shutil.copytree(ingested[0], folder / "lake")
    sittings = [a_visit(task, n, episodes) for task, visits in VISITS.items() for n, episodes in enumerate(visits)]
    ingest(write_metadata(folder / "raw", sittings), folder / "lake", IngestOptions(workers=0))
    return folder / "lake"


class Played:
    """An episode as its pickle has it, without frames."""

    def __init__(self, raw: Path, episode_id: str, about: Mapping[str, Any]) -> None:
        steps = read_raw(raw, episode_id)
        self.episode_id, self.about = episode_id, about
        self.agents = list(steps[0]["user_type"])
        first = self.agents[0]
        self.changed = np.zeros((210, 160), np.int64)
        if about["game"] == "breakout":
            frames = [step["prev_obs"][first]["image"] for step in steps]
            for before, after in pairwise(frames):
                self.changed += (before != after).any(axis=-1)
        for step in steps:
            del step["prev_obs"]
        self.steps = steps


@pytest.fixture(scope="module")
def recorded(raw: Path, lake: Lake) -> list[Played]:
    return [Played(raw, e.episode_id, e.environment.keyword_data["all"]) for e in lake.episodes()]


# What each of them says


def test_first_tour(whole: Path, recorded: list[Played], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROWDPLAY_LAKE", str(whole))
    found = in_a_kernel("first_tour", tmp_path, ["games", "actions", "seconds"], GAME="riverraid")
    steps = Counter[str]()
    for one in recorded:
        steps[one.about["game"]] += len(one.steps)
    assert dict(found["games"].select("game", "hours").rows()) == pytest.approx(
        {game: count / 60 / 3600 for game, count in steps.items()}
    )
    river = [one for one in recorded if one.about["game"] == "riverraid"]
    pressed = Counter(step["action"][P0]["game"] for one in river for step in one.steps)
    assert dict(found["actions"].select("action", "steps").rows()) == pressed
    longest = max(river, key=lambda one: len(one.steps))
    assert found["seconds"]["score"][-1] == sum(step["reward"][P0] for step in longest.steps)


@pytest.fixture(scope="module")
def analysis(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, pl.DataFrame]]:
    names = ["hours", "overview", "together", "days", "weekdays", "visitors", "visits", "quality", "significance"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CROWDPLAY_LAKE", str(whole))
        yield in_a_kernel("dataset_analysis", tmp_path_factory.mktemp("analysis"), names, GOOD=GOOD)


def is_human_ai(step: Mapping[str, Any]) -> bool:
    return len(step["user_type"]) == 2 and 2 in step["user_type"].values()


def test_hours_by_game_task_and_source(analysis: dict[str, pl.DataFrame], recorded: list[Played]) -> None:
    steps = Counter[tuple[str, str, str]]()
    for one in recorded:
        about = one.about
        for step in one.steps:
            game = "space_invaders_ai" if about["game"].endswith("_2p") and is_human_ai(step) else about["game"]
            steps[game, about["task"], about["source"]] += 1
    found = {row[:3]: row[3] for row in analysis["hours"].rows()}
    assert found == pytest.approx({group: count / 216_000 for group, count in steps.items()})
    assert ("space_invaders_ai", "competitive", "mturk") in found
    total = analysis["overview"].filter((pl.col("game") == "(all)") & (pl.col("task") == "(all)"))
    assert total["(all)"].item() == pytest.approx(sum(len(one.steps) for one in recorded) / 216_000)
    of_source = sum(len(one.steps) for one in recorded if one.about["source"] == "socialmedia")
    assert total["socialmedia"].item() == pytest.approx(of_source / 216_000)


def test_hours_of_two_people_and_of_a_person_and_an_ai(
    analysis: dict[str, pl.DataFrame], recorded: list[Played], lake: Lake
) -> None:
    expected: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for one in recorded:
        if len(one.agents) == 2:
            for step in one.steps:
                task_id = lake.episode(one.episode_id).environment.task_id
                assert task_id is not None
                expected[task_id][0] += set(step["user_type"].values()) == {1}
                expected[task_id][1] += is_human_ai(step)
    found = {task_id: list(hours) for _, task_id, *hours in analysis["together"].rows()}
    assert found.keys() == expected.keys()
    for task_id, steps in expected.items():
        assert found[task_id] == pytest.approx([count / 216_000 for count in steps])
    assert any(both > 0 and ai > 0 for both, ai in expected.values()), "nobody was replaced by an AI"


def test_hours_per_day(analysis: dict[str, pl.DataFrame], recorded: list[Played], lake: Lake) -> None:
    steps, of_day = Counter[Any](), Counter[Any]()
    for one in recorded:
        began = lake.episode(one.episode_id).keyword_data["all"]["created_on"]
        steps[began.date(), one.about["source"]] += len(one.steps)
        of_day[began.date()] += len(one.steps)
    found = {(day, source): hours for day, source, hours, _ in analysis["days"].rows()}
    assert found == pytest.approx({key: count / 216_000 for key, count in steps.items()})
    for number, _, hours, days in analysis["weekdays"].rows():
        same = [count / 216_000 for day, count in of_day.items() if day.isoweekday() == number]
        assert (hours, days) == (pytest.approx(statistics.mean(same)), len(same))


def test_unique_visitors(analysis: dict[str, pl.DataFrame], whole: Path) -> None:
    people: dict[str, set[str | None]] = defaultdict(set)
    for environment in {e.environment_id: e.environment for e in Lake(whole).episodes()}.values():
        for user in environment.users.values():
            people[environment.keyword_data["all"]["source"]].add(user.permanent_user_id)
            people["(all)"].add(user.permanent_user_id)
    found = dict(analysis["visitors"].select("source", "visitors").rows())
    assert found == {source: len(ids) for source, ids in people.items()}
    assert found["(all)"] < sum(found.values()) - found["(all)"], "nobody came in two ways"


def test_good_data_of_the_treatments_and_its_significance(analysis: dict[str, pl.DataFrame]) -> None:
    names = dict(zip(VISITS, ("No incentives", "All incentives", "Scaling bonus", "Email raffle"), strict=True))
    expected: dict[str, list[tuple[float, float]]] = {}
    for task, visits in VISITS.items():
        finished = visits[:1] if task.endswith("email") else visits
        expected[names[task]] = [
            (
                sum(s for share, s in one if share >= GOOD),
                sum(s for share, s in one if share >= GOOD) / sum(s for _, s in one),
            )
            for one in finished
        ]
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    # The recorder's own task is none of the treatments.
    for treatment, _, seconds, share in analysis["visits"].rows():
        found[treatment].append((seconds, share))
    assert {name: sorted(values) for name, values in found.items()} == {
        name: sorted(values) for name, values in expected.items()
    }
    for treatment, visits, seconds, share in analysis["quality"].rows():
        means = [statistics.mean(column) for column in zip(*expected[treatment], strict=True)]
        assert [visits, seconds, share] == [len(expected[treatment]), *map(pytest.approx, means)]

    order = ["No incentives", "Scaling bonus", "All incentives", "Email raffle"]
    pairs = [(measure, *pair) for measure in ("good_share", "good_seconds") for pair in combinations(order, 2)]
    assert analysis["significance"].select("measure", "one", "other").rows() == pairs
    for measure, one, other, p in analysis["significance"].rows():
        column = ("good_seconds", "good_share").index(measure)
        a, b = ([values[column] for values in expected[name]] for name in (one, other))
        if min(len(a), len(b)) < 2:
            assert p is None
            continue
        freedom = len(a) + len(b) - 2
        pooled = ((len(a) - 1) * statistics.variance(a) + (len(b) - 1) * statistics.variance(b)) / freedom
        t = (statistics.mean(a) - statistics.mean(b)) / math.sqrt(pooled * (1 / len(a) + 1 / len(b)))
        assert p == pytest.approx(2 * stats.t.sf(abs(t), freedom))


@pytest.fixture(scope="module")
def behaviour(whole: Path) -> dict[str, Any]:
    pytest.importorskip("sklearn")
    return in_this_process("behaviour", LAKE=str(whole))


def test_action_shares(behaviour: dict[str, Any], recorded: list[Played]) -> None:
    pressed: dict[str, Counter[int]] = defaultdict(Counter)
    for one in recorded:
        if one.about["game"] == "space_invaders":
            pressed[one.about["task"]].update(step["action"][P0]["game"] for step in one.steps)
    for task, key, steps, share in behaviour["shares"].select("group", "key", "steps", "share").rows():
        assert (steps, share) == (pressed[task][key], pytest.approx(steps / pressed[task].total()))
    assert set(behaviour["shares"]["group"]) == set(pressed)
    assert set(behaviour["shares"]["key"]) == set(range(6))


def test_players_who_are_compared(behaviour: dict[str, Any], recorded: list[Played]) -> None:
    who = {1: "human", 2: "AI"}
    steps = Counter[tuple[str, str, str]]()
    for one in recorded:
        if len(one.agents) == 2:
            steps.update((one.episode_id, a, who[step["user_type"][a]]) for step in one.steps for a in (P0, P1))
    pairs = behaviour["pairs"]
    assert {row[:3]: row[3] for row in pairs.select("episode_id", "agent_id", "who", "steps").rows()} == steps
    assert {"competitive human", "competitive AI"} <= set(pairs["group"])
    points = behaviour["alike"]
    assert len(points) == len(behaviour["people"])
    assert np.isfinite(points.select("x", "y").to_numpy()).all()


def test_latencies(behaviour: dict[str, Any], recorded: list[Played]) -> None:
    expected: dict[str, list[int]] = defaultdict(list)
    for one in recorded:
        for before, step in pairwise(one.steps):
            for agent in one.agents:
                pressed = step["action_step_iter"][agent]
                if pressed != before["action_step_iter"][agent] and step["user_type"][agent] == 1:
                    expected[one.about["source"]].append(step["step_iter"] - pressed)
    for source, keys, median, mean, late in behaviour["per_source"].rows():
        values = expected.pop(source)
        assert (keys, median) == (len(values), statistics.median(values))
        assert (mean, late) == pytest.approx((statistics.mean(values), sum(v > 60 for v in values) / len(values)))
    assert not any(expected.values())
    assert behaviour["histogram"]["share"].sum() == pytest.approx(len(behaviour["per_source"]))


def test_places(behaviour: dict[str, Any], recorded: list[Played]) -> None:
    expected: dict[str, Counter[float]] = defaultdict(Counter)
    for one in recorded:
        if one.about["game"] == "space_invaders":
            for step in one.steps[120:]:
                place = step["info"][P0]["RAM"][0x1C]
                if 35 <= place <= 117:
                    expected[one.about["task"]][min((place - 35) * 20 // 82, 19)] += 1
    found: dict[str, Counter[float]] = defaultdict(Counter)
    for task, place, steps in behaviour["places"].select("group", "place", "steps").rows():
        found[task][round(place * 20)] += steps
    assert found == expected


def test_where_on_the_screen_things_happen(behaviour: dict[str, Any], recorded: list[Played]) -> None:
    of_game = sorted((one for one in recorded if one.about["game"] == "breakout"), key=lambda one: len(one.steps))
    assert (behaviour["changed"]["breakout"] == sum(one.changed for one in of_game[-2:])).all()
    assert all(total.any() for total in behaviour["changed"].values())
    assert all(picture.shape == (210, 160, 3) for picture in behaviour["pictures"].values())


@pytest.mark.slow
def test_an_agent_from_sql_to_its_film(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("d3rlpy")
    pytest.importorskip("ale_py")
    monkeypatch.setenv("CROWDPLAY_LAKE", str(whole))
    small = {"EPISODES": 2, "STEPS": 4, "BATCH_SIZE": 4, "PLAYED_EPISODES": 1, "PLAYED_STEPS": 200}
    found = in_a_kernel("sql_to_agent", tmp_path, ["best", "table", "learning"], **small)
    known = Lake(whole).episodes("game = 'space_invaders' AND n_steps IS NOT NULL")
    scores = sorted((e.keyword_data[P0]["Score"] for e in known), reverse=True)
    assert found["best"]["score"].to_list() == scores[:2]
    assert Counter(found["table"]["who"]) == {"agent": 1, "chance": 1, "people": 2}
    assert np.isfinite(found["learning"]["loss"].to_numpy()).all()


@pytest.mark.parametrize("name", ["dataset_analysis", "behaviour"])
def test_a_lake_without_what_they_look_for(name: str, small_lake: Path) -> None:
    """Five episodes of two games, none of Space Invaders for one, none of a treatment."""
    pytest.importorskip("sklearn")
    found = in_this_process(name, LAKE=str(small_lake))
    if name == "dataset_analysis":
        assert len(found["visits"]) == 0
        assert len(found["significance"]) == 0
        assert found["hours"]["hours"].sum() == pytest.approx((40 + 30 + 40 + 20 + 25) / 216_000)
    else:
        assert len(found["people"]) == 0
        assert found["alike"] is None


def test_what_a_lake_of_another_game_says_of_the_first_tour(small_lake: Path) -> None:
    found = in_this_process("first_tour", LAKE=str(small_lake), GAME="breakout")
    assert len(found["episode"]) == 40
    assert len(found["batch"]) == 32


@pytest.mark.parametrize("name", ["dataset_analysis", "behaviour"])
def test_a_lake_without_metadata(name: str, small_raw: Path, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    (tmp_path / "raw").mkdir()
    pickles = sorted(path for path in small_raw.glob("*.pickle") if path.name != "broken.pickle")
    for path in pickles:
        shutil.copy(path, tmp_path / "raw")
    ingest(tmp_path / "raw", tmp_path / "lake", IngestOptions(workers=0))
    found = in_this_process(name, LAKE=str(tmp_path / "lake"))
    if name == "dataset_analysis":
        assert set(found["hours"]["game"]) == {"unknown"}
        assert found["hours"]["hours"].sum() == pytest.approx((40 + 30 + 40 + 20 + 25) / 216_000)
    else:
        assert set(found["changed"]) == {"unknown"}
