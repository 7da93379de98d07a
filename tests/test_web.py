"""The server of the pages: what it answers, what it refuses, and what it lets nobody do."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlencode

import psutil
import pytest
from web_server import MAIN, Web, serving_lake

from crowdplay_lake import Lake
from crowdplay_lake.annotations import KeywordRow, write_keyword_data
from crowdplay_lake.web import film

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")


@pytest.fixture(scope="module")
def web(ingested: tuple[Path, object]) -> Iterator[Web]:
    """The server over the lake of all games; queries may take 3 s and give 50 rows."""
    with serving_lake(ingested[0], "--time-limit", "3", "--row-limit", "50", "--query-memory", "2GiB") as running:
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
    ({"where": "(SELECT count(*) FROM range(100000000000) a, range(1000000) b) > 0"}, "it may take 3 s"),
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


# Pages, and who may ask


def test_pages_carry_their_policy(web: Web, lake: Lake) -> None:
    known = lake.episodes()[0].episode_id
    for path, status in {
        "/": 200, "/sql": 200, f"/episode/{known}": 200, f"/episode/{known}?step=999999": 200, "/episode/nobody": 404,
        "/nothing": 404, "/static/player.js": 200, "/static/nothing.js": 404, "/api/about": 200, "/api/nothing": 404,
    }.items():  # fmt: skip
        answer = web.get(path)
        assert answer.status == status, path
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in answer.headers
        assert "Traceback" not in answer.text


def test_nothing_inline_and_nothing_from_elsewhere() -> None:
    static = Path(film.__file__).parent / "static"
    pages = sorted((static.parent / "pages").glob("*.html"))
    assert [page.stem for page in pages] == ["episode", "error", "list", "shell", "sql"]
    for page in pages:
        text = page.read_text()
        assert re.findall(r"<script(?![^>]* src=\"/static/)|<style|style=| on[a-z]+=|https?://", text) == [], page
    for asset in [*static.glob("*.js"), *static.glob("*.css")]:
        text = asset.read_text()
        found = re.findall(r"innerHTML|insertAdjacentHTML|document\.write|eval\(|@import|https?://[^\s\"']+", text)
        assert set(found) <= {"http://www.w3.org/2000/svg"}, asset
        assert len(text.splitlines()) < 400


def test_a_strangers_name_in_the_address_is_text(web: Web) -> None:
    answer = web.get("/episode/" + quote("<img src=x onerror=alert(1)>", safe=""))
    assert answer.status == 404
    assert "&lt;img src=x" in answer.text
    assert "<img" not in answer.text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Host": "evil.example:8765"}, 421),
        ({"Host": "127.0.0.1.evil.example"}, 421),
        ({"Host": ""}, 421),
        ({"Host": "[::1"}, 421),
        ({"Host": "localhost:1234"}, 200),
        ({"Host": "[::1]:1234"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 403),
        ({"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}, 200),
    ],
    ids=str,
)
def test_strangers_may_not_ask(web: Web, headers: dict[str, str], status: int) -> None:
    assert web.get("/api/about", headers).status == status


def test_a_link_from_elsewhere_opens_a_page_that_waits(web: Web) -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert 'data-from="elsewhere"' in web.get("/sql?query=SELECT+1", headers).text
    assert 'data-from="here"' in web.get("/sql?query=SELECT+1").text


def test_a_page_begins_what_its_script_will_ask(web: Web, lake: Lake) -> None:
    hostile = web.get("/?where=%22%3E%3Cscript%3E&sort=a'b")
    assert 'href="/api/episodes?where=%22%3E%3Cscript%3E&amp;sort=a&#x27;b"' in hostile.text
    raw = b'GET /?x="><script>alert(1)</script> HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n'
    with socket.create_connection(("127.0.0.1", web.port)) as plain:
        plain.sendall(raw)
        answer = b"".join(iter(lambda: plain.recv(65_536), b""))
    assert b"<script>alert" not in answer
    # What a link of another site brings along is not run.
    elsewhere = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert "preload" not in web.get("/?where=1%3D1", elsewhere).text.replace("modulepreload", "")
    known = lake.episodes()[0].episode_id
    assert f"/api/film?id={known}&amp;commit={lake.commit}&amp;agent=" in web.get(f"/episode/{known}").text


def test_styles_and_scripts_are_not_sent_again(web: Web) -> None:
    first = web.get("/static/player.js")
    assert first.headers["cache-control"] == "no-cache"
    again = web.get("/static/player.js", {"If-None-Match": first.headers["etag"]})
    assert (again.status, again.body) == (304, b"")
    assert web.get("/api/about").headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", ["/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "//etc/passwd"])
def test_no_other_file_is_served(web: Web, path: str) -> None:
    answer = web.get(path)
    assert answer.status in (404, 421)
    assert "import" not in answer.text
    assert "root:" not in answer.text


def test_other_methods_are_refused(web: Web) -> None:
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        assert web.get("/api/about", method=method).status == 405


# The console


def test_rows_come_as_a_browser_can_read_them(web: Web) -> None:
    query = """SELECT 1 AS one, 2::BIGINT ** 60 AS double, 1152921504606846977 AS big, 'NaN'::DOUBLE AS nan,
        '-Infinity'::DOUBLE AS inf, TIMESTAMP '2021-01-02 03:04:05' AS t, DATE '2021-01-02' AS d, 'x'::BLOB AS b,
        [1, 2] AS l, {'a': 1.5} AS s, NULL AS n, '<b>ü</b>' AS m, INTERVAL 90 SECOND AS i, true AS y,
        1.5::DECIMAL(9, 2) AS c, sum(3) AS total, repeat('x', 5000) AS long"""
    told = web.sql(query).json
    row = dict(zip((column["name"] for column in told["columns"]), told["rows"][0], strict=True))
    assert (row["one"], row["big"], row["nan"], row["inf"]) == (1, "1152921504606846977", "NaN", "-Infinity")
    assert (row["t"], row["d"], row["b"], row["l"]) == ("2021-01-02T03:04:05", "2021-01-02", "0x78", "[1, 2]")
    assert (row["s"], row["n"], row["m"], row["y"]) == ('{"a": 1.5}', None, "<b>ü</b>", True)
    assert (row["c"], row["total"]) == (1.5, 3)
    assert len(row["long"]) == 2_001
    kinds = {column["name"]: column["kind"] for column in told["columns"]}
    assert (kinds["one"], kinds["t"], kinds["m"], kinds["total"]) == ("number", "time", "text", "number")


def test_more_rows_than_the_limit_are_told(web: Web) -> None:
    told = web.sql("FROM range(100000) ORDER BY 1").json
    assert (told["rows"], told["more"]) == ([[i] for i in range(50)], True)
    assert web.sql("FROM range(50)").json["more"] is False
    assert len(web.sql("FROM range(1000)", rows=7).json["rows"]) == 7
    # Nobody asks for more than the server gives.
    for rows in (10**9, -1, "all", None, True):
        assert len(web.sql("FROM range(1000)", rows=rows).json["rows"]) == 50


BAD_QUERIES = [
    ("SELECT scoer FROM episode_agents", "did you mean 'score'"),
    ("FROM episods", "did you mean 'episodes'"),
    ("SELEC 1", "syntax error"),
    ("", "there is no query"),
    (7, "there is no query"),
    (None, "there is no query"),
    ("SELECT 1; SELECT 2", "one statement at a time"),
    ("DROP VIEW episodes", "read-only"),
    ("COPY episodes TO 'x.csv'", "read-only"),
    ("ATTACH 'x.db'", "read-only"),
    ("SET memory_limit = '1TB'", "not allowed"),
    ("FROM read_text('/etc/passwd')", "reads the lake's tables only"),
    ("FROM read_blob('/proc/self/environ')", "reads the lake's tables only"),
    ("FROM glob('/etc/*')", "reads the lake's tables only"),
    ("FROM read_csv('http://localhost:1/x')", "reads the lake's tables only"),
    ("FROM sniff_csv('/etc/passwd')", "reads the lake's tables only"),
    ("SELECT 'x" + "y" * 25_000 + "'", "are taken"),
    ("SELECT \x00", "error"),
    ("SELECT '\ud800'", "error"),
]


@pytest.mark.parametrize(
    ("query", "message"), BAD_QUERIES, ids=lambda value: str(value)[:30].encode("ascii", "replace").decode()
)
def test_a_hostile_query_is_one_line(web: Web, query: object, message: str) -> None:
    answer = web.sql(query)
    assert 400 <= answer.status < 500
    assert message in answer.json["error"] or message == "error"
    assert "root:" not in answer.text
    assert web.sql("SELECT 42").json["rows"] == [[42]]


def test_only_json_is_taken(web: Web) -> None:
    body = b'{"query": "SELECT 1"}'
    for kind in ("text/plain", "application/x-www-form-urlencoded", "", "multipart/form-data"):
        assert web.get("/api/sql", {"Content-Type": kind}, "POST", body).status == 400
    for wrong in (b"", b"[]", b"{", b"\xff", b'"x"', b'{"query": "' + b"x" * 200_000 + b'"}'):
        assert web.get("/api/sql", {"Content-Type": "application/json"}, "POST", wrong).status == 400
    assert web.get("/api/sql").status == 405
    assert web.sql("SELECT 1", {"Origin": "https://evil.example"}).status == 403


# Each is stopped in another way: by an interrupt, between vectors; by the end of its process, where it listens to none.
ENDLESS = {
    "interrupted": "SELECT count(*) FROM range(100000000000) a, range(1000000) b",
    "killed": "SELECT levenshtein(repeat('a', 200000), repeat('b', 200000))",
}


@pytest.mark.parametrize("query", ENDLESS.values(), ids=ENDLESS)
def test_a_query_has_a_time_limit(web: Web, query: str) -> None:
    began = time.monotonic()
    answer = web.sql(query)
    assert answer.status == 400
    assert "it may take 3 s" in answer.json["error"]
    assert time.monotonic() - began < 10
    assert web.sql("SELECT 42").json["rows"] == [[42]]


def busy(process: int) -> float:
    """Seconds of processor time of a process and its children."""
    return sum(sum(one.cpu_times()[:2]) for one in [psutil.Process(process), *psutil.Process(process).children()])


def test_a_query_ends_when_its_page_goes(ingested: tuple[Path, object]) -> None:
    with serving_lake(ingested[0], "--time-limit", "300") as web:
        assert web.sql("SELECT 1").status == 200
        connection = http.client.HTTPConnection("127.0.0.1", web.port)
        body = json.dumps({"query": ENDLESS["interrupted"]})
        connection.request("POST", "/api/sql", body, {"Content-Type": "application/json"})
        before, late = busy(web.process.pid), time.monotonic() + 30
        while busy(web.process.pid) - before < 0.5:
            assert time.monotonic() < late, "the query never ran"
            time.sleep(0.1)
        connection.close()
        spent = 1.0
        while spent > 0.2:
            assert time.monotonic() < late, "the query goes on"
            before = busy(web.process.pid)
            time.sleep(1.0)
            spent = busy(web.process.pid) - before


# The command


def serve(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", MAIN, "serve", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_port_in_use_is_told_with_another(small_lake: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = serve(str(small_lake), "--port", str(port))
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.strip().splitlines()
    assert re.search(rf"error: port {port} of 127.0.0.1 is in use; try --port \d+", line)


def test_no_lake_is_told(tmp_path: Path) -> None:
    result = serve(str(tmp_path), "--port", "0")
    assert result.returncode == 1
    (line,) = result.stderr.strip().splitlines()
    assert "no lake here" in line


def test_a_host_that_is_not_here_is_told(small_lake: Path) -> None:
    result = serve(str(small_lake), "--port", "0", "--host", "203.0.113.7")
    assert result.returncode == 1
    assert "203.0.113.7" in result.stderr.strip().splitlines()[-1]
    assert "Traceback" not in result.stderr


def test_it_ends_with_an_interrupt_and_takes_its_process_along(small_lake: Path) -> None:
    with serving_lake(small_lake) as web:
        assert web.sql("SELECT 1").status == 200
        children = psutil.Process(web.process.pid).children()
        assert children
        web.process.send_signal(signal.SIGINT)
        assert web.process.wait(10) == 0
        assert psutil.wait_procs(children, 5)[1] == []
        assert web.told == []


def test_others_are_let_in_with_a_warning(small_lake: Path) -> None:
    with serving_lake(small_lake, "--host", "0.0.0.0") as web:
        assert web.get("/api/about").status == 200
        assert web.get("/api/about", {"Host": "evil.example"}).status == 421
        time.sleep(0.2)
        assert any("there is no password" in line for line in web.told)
