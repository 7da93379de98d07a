"""The server of the pages: what it answers, what it refuses, and what it lets nobody do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from web_server import Web, serving_lake

from crowdplay_lake import Lake

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")


@pytest.fixture(scope="module")
def web(ingested: tuple[Path, object]) -> Iterator[Web]:
    """The server over the lake of all games; queries may take 2 s and give 50 rows."""
    with serving_lake(ingested[0], "--time-limit", "2", "--row-limit", "50", "--query-memory", "2GiB") as running:
        yield running
        assert not any("Traceback" in line for line in running.told)


def listed(web: Web, **asked: object) -> dict[str, object]:
    answer = web.get(f"/api/episodes?{urlencode(asked)}")
    assert answer.status == 200, answer.text
    return answer.json  # type: ignore[no-any-return]


def ids(page: dict[str, object]) -> list[str]:
    return [row["episode_id"] for row in page["episodes"]]  # type: ignore[attr-defined]


# The list


def test_the_list_is_the_lakes_episodes(web: Web, lake: Lake) -> None:
    page = listed(web)
    assert page["total"] == len(lake.episodes())
    assert page["commit"] == lake.commit
    assert ids(page) == lake.episodes().ids[:50]


@pytest.mark.parametrize(
    ("asked", "where"),
    [
        ({"game": "breakout"}, "game = 'breakout'"),
        ({"task": "plain", "source": "mturk"}, "task = 'plain' AND source = 'mturk'"),
        ({"min_score": "5"}, "score >= 5"),
        ({"min_steps": "300"}, "n_steps >= 300"),
        ({"film": "1"}, "n_steps IS NOT NULL"),
        ({"where": "score > 10 -- a comment"}, "score > 10"),
        ({"where": "score > 10 OR score = 0", "game": "qbert"}, "(score > 10 OR score = 0) AND game = 'qbert'"),
        ({"game": "no'such"}, "false"),
    ],
    ids=str,
)
def test_a_filter_lists_what_its_condition_finds(web: Web, lake: Lake, asked: dict[str, str], where: str) -> None:
    found = lake.episodes(where).ids
    page = listed(web, **asked)
    assert page["total"] == len(found)
    assert ids(page) == found[:50]


def test_sorted_pages_follow_each_other(web: Web, lake: Lake) -> None:
    best = dict(lake.sql("SELECT episode_id, max(score) FROM episode_agents GROUP BY 1").fetchall())
    found = ids(listed(web, sort="score", desc="1"))
    scores = [-1.0 if best[name] is None else best[name] for name in found]
    assert scores == sorted(scores, reverse=True)
    assert listed(web, page="2")["episodes"] == []
    assert listed(web, page="2")["total"] == len(best)


def test_a_row_tells_each_agent_in_order(web: Web, lake: Lake) -> None:
    for row in listed(web, game="space_invaders_2p", columns="time_played,user_id")["episodes"]:  # type: ignore[attr-defined]
        episode = lake.episode(row["episode_id"])
        assert row["agents"] == sorted(episode.agents)
        assert row["score"] == [episode.keyword_data[agent]["Score"] for agent in row["agents"]]
        played = [episode.keyword_data[agent]["Time played"].total_seconds() for agent in row["agents"]]
        assert row["time_played"] == played


BAD_LISTS = [
    ({"where": "scoer > 1"}, "did you mean 'score'"),
    ({"where": "1=1) UNION SELECT 1, 2 WHERE (1=1"}, "same number of"),
    ({"where": "1=1); DROP VIEW episodes; SELECT (1"}, "one statement at a time"),
    ({"where": "episode_id IN (SELECT content FROM read_text('/etc/passwd'))"}, "reads the lake's tables only"),
    ({"where": "(SELECT count(*) FROM range(100000000000) a, range(1000000) b) > 0"}, "it may take 2 s"),
    ({"where": "x" * 21_000}, "too long"),
    ({"sort": "scoer"}, "did you mean 'score'"),
    ({"sort": "score; --"}, "no column"),
    ({"columns": 'score,"x"'}, "no column"),
    ({"page": "-1"}, "page is a whole number"),
    ({"page": "9" * 40}, "page is a whole number"),
    ({"min_score": "NaN"}, "min_score is a number"),
    ({"min_steps": "1 OR 1=1"}, "min_steps is a number"),
    ({"commit": "999"}, "has no commit 999"),
    ({"commit": "-1"}, "commit is a whole number"),
]


@pytest.mark.parametrize(("asked", "message"), BAD_LISTS, ids=lambda value: str(value)[:40])
def test_a_hostile_list_is_one_line(web: Web, asked: dict[str, str], message: str) -> None:
    answer = web.get(f"/api/episodes?{urlencode(asked)}")
    assert 400 <= answer.status < 500 or answer.status == 503
    assert message in answer.json["error"]
    assert "root:" not in answer.text
    assert listed(web)["total"]


def test_a_condition_that_leaves_its_brackets_lists_episodes_only(web: Web, lake: Lake) -> None:
    page = listed(web, where="1=1) UNION SELECT 'no episode' WHERE (1=1")
    assert (page["total"], ids(page)) == (len(lake.episodes()), lake.episodes().ids[:50])


def test_an_earlier_commit_is_listed_as_it_was(web: Web) -> None:
    assert listed(web, commit="0")["total"] == 0


def test_a_commit_that_is_made_meanwhile_is_seen(small_lake: Path, tmp_path: Path) -> None:
    import shutil

    from crowdplay_lake.annotations import KeywordRow, write_keyword_data

    path = Path(shutil.copytree(small_lake, tmp_path / "lake"))
    lake = Lake(path)
    first = lake.episodes()[0]
    with serving_lake(path) as web:
        before = listed(web)
        assert before["commit"] == lake.commit
        write_keyword_data(path, [KeywordRow("keyword_data", first.episode_id, first.agents[0], "liked", 7)])
        time.sleep(1.1)
        after = listed(web, where="liked = 7")
        assert (after["commit"], ids(after)) == (lake.commit + 1, [first.episode_id])
        # A page that was opened before goes on at its commit.
        assert listed(web, commit=str(lake.commit))["commit"] == lake.commit
        assert web.get(f"/api/episodes?commit={lake.commit}&where=liked%3D7").status == 404
