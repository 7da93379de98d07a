"""The pages in a real browser: clicked through, and the pixels on the canvas compared with the decoded frames."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import numpy as np
import numpy.typing as npt
import pytest
from web_server import Web, serving_lake

from crowdplay_lake import Episode, Lake
from crowdplay_lake.web.episode_page import query_of
from crowdplay_lake.web.film import CHUNK

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: no tests in a browser")
pytest.importorskip("starlette")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = os.environ.get("CHROMIUM") or next((path for name in BROWSERS if (path := shutil.which(name))), None)

if CHROMIUM is None:
    # The whole file, in one line.
    pytest.skip(
        "no Chromium, no tests in a browser: apt-get install chromium, or set CHROMIUM", allow_module_level=True
    )

pytestmark = pytest.mark.slow

TIMEOUT = 20_000


@pytest.fixture(scope="module")
def lake(film_lake: tuple[Path, Path]) -> Lake:
    return Lake(film_lake[1])


@pytest.fixture(scope="module")
def web(film_lake: tuple[Path, Path]) -> Iterator[Web]:
    with serving_lake(film_lake[1], "--time-limit", "3", "--row-limit", "200") as running:
        yield running
        assert not any("Traceback" in line for line in running.told)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM)
        yield running
        running.close()


@pytest.fixture
def page(browser: Any, web: Web) -> Iterator[Any]:
    """A page of which nothing may fail: no error of a script, nothing the policy refuses, nothing from elsewhere."""
    context = browser.new_context(base_url=web.address, viewport={"width": 1280, "height": 900})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    opened = context.new_page()
    opened.set_default_timeout(TIMEOUT)
    faults: list[str] = []
    opened.on("pageerror", lambda error: faults.append(str(error)))
    # What is refused on purpose is told as a failed resource, too.
    opened.on(
        "console",
        lambda line: faults.append(line.text) if line.type == "error" and "status of 4" not in line.text else None,
    )
    ours = (web.address, f"http://localhost:{web.port}/")
    opened.on("request", lambda asked: None if asked.url.startswith(ours) else faults.append(asked.url))
    yield opened
    context.close()
    assert faults == []


def pixels(page: Any, selector: str) -> npt.NDArray[np.uint8]:
    """What is on a canvas, uint8 (height, width, 4)."""
    width, height, hexed = page.eval_on_selector(
        selector,
        """canvas => {
            const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            let text = "";
            for (const byte of data) text += byte.toString(16).padStart(2, "0");
            return [canvas.width, canvas.height, text];
        }""",
    )
    return np.frombuffer(bytes.fromhex(hexed), np.uint8).reshape(height, width, 4)


def open_film(page: Any, episode: Episode, **asked: object) -> None:
    page.goto(f"/episode/{episode.episode_id}?{urlencode(asked)}")
    wait_for_step(page, int(str(asked.get("step", 0))))


def wait_for_step(page: Any, step: int) -> None:
    """Until film, RAM and what the agent sees are those of ``step``."""
    for selector in ("#screen", "#ram", "#seen figure:last-child canvas"):
        page.wait_for_selector(f'{selector}[data-step="{step}"]')


def go_to(page: Any, step: int) -> None:
    page.fill("#step", str(step))
    page.press("#step", "Enter")
    wait_for_step(page, step)


def until(page: Any, condition: str) -> None:
    """Until ``condition`` holds in the page: asked from outside, since its policy lets no text become code."""
    late = time.monotonic() + TIMEOUT / 1000
    while not page.evaluate(condition):
        assert time.monotonic() < late, condition
        page.wait_for_timeout(50)


def one_player(lake: Lake) -> Episode:
    return lake.episodes("game = 'breakout'")[0]


def two_players(lake: Lake) -> Episode:
    return lake.episodes("game = 'space_invaders_2p'")[0]


@pytest.mark.parametrize("choose", [one_player, two_players], ids=["one player", "two players"])
def test_the_pixels_are_the_frames(page: Any, lake: Lake, choose: Any) -> None:
    episode = choose(lake)
    last = len(episode) - 1
    # The first, the last, keyframes and their neighbours, a chunk's edge, and some at random, forth and back.
    steps = [0, last, 255, 256, 511, 512, 1024, *random.Random(5).sample(range(last), 10), 1]
    observations = episode.observations(episode.agents[0])
    open_film(page, episode)
    for step in steps:
        go_to(page, step)
        drawn = pixels(page, "#screen")
        assert (drawn[..., 3] == 255).all()
        assert (drawn[..., :3] == episode.frames(episode.agents[0], step, step + 1)[0]).all(), step
        stack = np.stack([pixels(page, f"#seen figure:nth-of-type({k + 1}) canvas")[..., 0] for k in range(4)], axis=-1)
        assert (stack == observations[step]).all(), step


@pytest.mark.parametrize("choose", [one_player, two_players], ids=["one player", "two players"])
def test_beside_a_frame_stands_what_was_before_its_step(page: Any, lake: Lake, choose: Any) -> None:
    episode = choose(lake)
    open_film(page, episode)
    rows = {agent: episode.steps(agent).to_pylist() for agent in episode.agents}
    meanings = episode.action_meanings or []
    rewarded = [k for k, row in enumerate(rows[episode.agents[-1]]) if row["reward"]]
    for step in (0, 1, 300, 1024, rewarded[0], rewarded[0] + 1, len(episode) - 1):
        go_to(page, step)
        for agent in episode.agents:
            card = page.locator(f'[data-agent="{agent}"]')
            shown = {
                name: card.locator(f'[data-value="{name}"]').inner_text().replace(",", "")
                for name in ("action", "reward", "score", "lives")
            }
            assert shown["action"] == meanings[rows[agent][step]["action"]]
            assert float(shown["reward"]) == rows[agent][step]["reward"]
            assert float(shown["score"]) == sum(row["reward"] for row in rows[agent][:step])
            assert shown["lives"] == (str(rows[agent][step - 1]["lives"]) if step else "–")
        told = page.eval_on_selector_all(
            "#ram tbody td", "cells => cells.map(cell => [cell.textContent, cell.className])"
        )
        ram = [rows[episode.agents[0]][k] for k in (step - 2, step - 1) if k >= 0]
        for address, (text, kind) in enumerate(told):
            values = [row[f"ram_{address:02x}"] for row in ram]
            assert text == (f"{values[-1]:02x}" if values else "–")
            assert (kind == "changed") == (len(values) == 2 and values[0] != values[1])


def test_what_a_page_needs_is_asked_at_once_and_once(page: Any, lake: Lake) -> None:
    """By links in its head, which the browser follows while the script is on its way: see `first_asked`."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(urlsplit(request.url)._replace(scheme="", netloc="").geturl()))
    episode = two_players(lake)
    for path, kinds in {
        "/": ("episodes",),
        "/?where=n_steps+%3E+1&sort=game&film=&page=": ("episodes",),
        f"/episode/{episode.episode_id}": ("episode", "film"),
        f"/episode/{episode.episode_id}?step=700&agent={quote(episode.agents[1])}&curves=": ("episode", "film"),
        f"/episode/{episode.episode_id}?step={10**30}&agent=nobody&commit={lake.commit}": ("episode", "film"),
        f"/episode/{episode.episode_id}?step=-1": ("episode", "film"),
    }.items():
        asked.clear()
        page.goto(path)
        page.wait_for_selector("body[data-drawn]", state="attached")
        hinted = page.eval_on_selector_all("link[rel=preload]", "links => links.map(link => link.getAttribute('href'))")
        assert [urlsplit(address).path for address in hinted] == [f"/api/{kind}" for kind in kinds]
        for address in hinted:
            assert asked.count(address) == 1, (path, asked)
        # What is drawn first was begun by the page, not by its script.
        first = [
            address for address in asked if urlsplit(address).path in ("/api/episodes", "/api/episode", "/api/film")
        ]
        assert first[: len(hinted)] == hinted, path
        if "film" in kinds:
            step = int(page.get_attribute("#screen", "data-step"))
            assert parse_qs(urlsplit(hinted[1]).query)["chunk"] == [str(step // CHUNK)]


def test_addresses_are_written_as_a_browser_does(page: Any) -> None:
    page.goto("/sql")
    odd = {"id": "a~b*c'd(e)!", "agent": 'game_0>player 1/ü\u20ac\U0001f47e&=+%#?"<'}
    written = page.evaluate("odd => '?' + new URLSearchParams(odd).toString()", odd)
    assert query_of(odd) == written


def test_it_plays_at_sixty_frames_a_second(page: Any, lake: Lake) -> None:
    open_film(page, one_player(lake))
    clock = "[Number(document.getElementById('screen').dataset.step), performance.now()]"
    rates = []
    page.keyboard.press("Space")
    # A machine that is busy with other things draws late now and then; never early.
    while not rates or (len(rates) < 6 and rates[-1] < 55):
        before = page.evaluate(clock)
        page.wait_for_timeout(1_500)
        after = page.evaluate(clock)
        rates.append((after[0] - before[0]) / (after[1] - before[1]) * 1000)
    assert 55 < rates[-1] < 65, rates
    page.keyboard.press("Space")
    assert page.inner_text("#play").endswith("Play")
    stopped = int(page.get_attribute("#screen", "data-step"))
    page.wait_for_timeout(300)
    assert int(page.get_attribute("#screen", "data-step")) == stopped
    wait_for_step(page, stopped)
    drawn = pixels(page, "#screen")[..., :3]
    assert (drawn == one_player(lake).frames(start=stopped, stop=stopped + 1)[0]).all()
    # At sixteen times the speed it runs through a chunk's edge to the end, and stops there.
    page.select_option("#speed", "16")
    page.click("#play")
    page.wait_for_selector(f'#screen[data-step="{len(one_player(lake)) - 1}"]')
    assert page.inner_text("#play").endswith("Play")


def test_keys_and_links(page: Any, lake: Lake) -> None:
    episode = two_players(lake)
    open_film(page, episode, step=700, agent=episode.agents[1], speed=4, curves="score,ram_1c")
    assert page.input_value("#speed") == "4"
    assert page.locator("#agent option:checked").inner_text() == "player 1"
    page.wait_for_selector('[data-curve="ram_1c"]')
    for key, step in {
        "ArrowRight": 701, "Shift+ArrowRight": 761, "ArrowLeft": 760, "Shift+ArrowLeft": 700, "End": len(episode) - 1,
        "ArrowRight ": len(episode) - 1, "Home": 0,
    }.items():  # fmt: skip
        page.keyboard.press(key.strip())
        wait_for_step(page, step)
    page.keyboard.press("-")
    assert page.input_value("#speed") == "2"
    go_to(page, 42)
    page.click("#link")
    until(page, "document.getElementById('link').textContent === 'Copied'")
    link = page.evaluate("navigator.clipboard.readText()")
    for part in ("step=42", "speed=2", "curves=score%2Cram_1c", f"commit={lake.commit}", "agent="):
        assert part in link
    page.goto(link)
    wait_for_step(page, 42)
    assert "pinned" in page.inner_text("#commit")
    # Every control can be reached by Tab, and has a name.
    nameless = page.eval_on_selector_all(
        "button, input, select, textarea",
        "all => all.filter(e => !(e.ariaLabel || e.textContent.trim() || e.labels?.length)).map(e => e.outerHTML)",
    )
    assert nameless == []


def test_curves_follow_the_film_and_lead_to_it(page: Any, lake: Lake) -> None:
    episode = one_player(lake)
    open_film(page, episode)
    rewards = episode.steps(columns=["reward"])["reward"].to_numpy()
    go_to(page, 1500)
    plot = page.locator('[data-curve="score"]')
    assert float(plot.locator("output").inner_text()) == rewards[:1500].sum()
    box = plot.locator("svg").bounding_box()
    plot.locator("svg").click(position={"x": box["width"] / 2, "y": 20})
    until(page, "Math.abs(Number(document.getElementById('screen').dataset.step) - 1150) < 8")
    page.click('#ram td[data-address="99"]')
    page.wait_for_selector('[data-curve="ram_63"]')
    page.fill("#curve", "scoer")
    page.click("#add-curve button")
    told = "document.getElementById('note').textContent.includes(\"did you mean 'score'\")"
    until(page, told)
    # In a link, too; what there is of its curves is drawn.
    open_film(page, episode, curves="lives,scoer,ram_1c")
    page.wait_for_selector('[data-curve="ram_1c"]')
    until(page, told)
    assert page.locator('[data-curve="lives"]').count() == 1


def test_a_step_that_is_none_is_told(page: Any, lake: Lake) -> None:
    episode = one_player(lake)
    page.goto(f"/episode/{episode.episode_id}?step=999999")
    wait_for_step(page, len(episode) - 1)
    assert "there is no step 999999" in page.inner_text("#note")
    page.goto("/episode/nobody")
    assert "no episode 'nobody'" in page.inner_text("main")


def test_from_the_list_to_a_film(page: Any, lake: Lake) -> None:
    page.goto("/")
    page.wait_for_selector("#rows tr")
    assert page.inner_text("#count") == f"{len(lake.episodes())} episodes"
    page.select_option('[name="game"]', "space_invaders_2p")
    until(page, "document.getElementById('count').textContent === '1 episode'")
    assert "game=space_invaders_2p" in page.url
    page.click("#clear")
    until(page, "document.getElementById('count').textContent === '2 episodes'")
    page.click("#more summary")
    page.fill('[name="where"]', "n_steps > 2000")
    page.press('[name="where"]', "Control+Enter")
    until(page, "document.getElementById('count').textContent === '1 episode'")
    page.click("text=Length")
    page.wait_for_selector('th[aria-sort="ascending"] >> text=Length')
    page.go_back()
    page.go_back()
    until(page, "document.getElementById('count').textContent === '2 episodes'")
    page.go_forward()
    until(page, "document.getElementById('count').textContent === '1 episode'")
    assert page.input_value('[name="where"]') == "n_steps > 2000"
    page.click("a.film")
    wait_for_step(page, 0)
    assert page.inner_text("h1") == "breakout"
    page.goto(f"/?{urlencode({'where': 'scoer > 1'})}")
    page.wait_for_selector("#note.bad")
    assert "did you mean 'score'" in page.inner_text("#note")


def test_the_console(page: Any, lake: Lake) -> None:
    page.goto("/sql")
    page.fill("#query", "SELECT episode_id, agent_id, step, reward FROM steps WHERE reward > 0 ORDER BY ALL LIMIT 5")
    page.press("#query", "Control+Enter")
    page.wait_for_selector("#rows a")
    expected = lake.sql(page.input_value("#query")).fetchall()
    assert page.locator("#rows tr").count() == 5
    assert page.locator("#rows tr").first.locator("td").all_inner_texts()[2] == f"{expected[0][2]:,}"
    assert "query=" in page.url
    page.click("#rows a >> nth=0")
    wait_for_step(page, expected[0][2])
    page.goto("/sql?" + urlencode({"query": "SELECT game, sum(n_steps) AS n FROM episodes GROUP BY 1", "chart": "bar"}))
    page.wait_for_selector("#chart .bar >> nth=1")
    for kind in ("histogram", "bar"):
        page.select_option("#kind", kind)
        page.wait_for_selector("#chart svg")
    page.fill("#query", "SELECT x, x * x AS y FROM range(100) t(x)")
    page.click("#run")
    page.wait_for_selector("#chart path.line")
    page.fill("#query", "SELECT '<img src=x onerror=alert(1)>' AS \"<b>\"")
    page.click("#run")
    page.wait_for_selector("#rows td >> text=<img")
    page.fill("#query", "SELECT scoer FROM episode_agents")
    page.click("#run")
    page.wait_for_selector("#note.bad")
    assert "did you mean 'score'" in page.inner_text("#note")
    page.fill("#query", "SELECT count(*) FROM range(100000000000) a, range(1000000) b")
    page.click("#run")
    page.click("#stop")
    until(page, "document.getElementById('status').textContent === 'stopped'")
    page.click("#tables summary >> nth=0")
    assert page.locator("#tables details[open] li").count() > 3


def test_a_link_from_another_site_is_not_run(page: Any, web: Web) -> None:
    # To a browser, localhost and 127.0.0.1 are different sites.
    elsewhere = f"http://localhost:{web.port}/nothing"
    page.goto(elsewhere)
    page.evaluate(f"location.href = '{web.address}sql?query=SELECT+42+AS+answer'")
    page.wait_for_selector("#tables details")
    assert "another site" in page.inner_text("#note")
    assert page.locator("#rows tr").count() == 0
    page.goto(elsewhere)
    page.evaluate(f"location.href = '{web.address}?where=1%3D1'")
    page.wait_for_selector("#note button")
    assert "another site" in page.inner_text("#note")
    page.click("text=Ask it")
    page.wait_for_selector("#rows tr")


@pytest.mark.parametrize("width", [320, 390, 768])
def test_narrow_screens_do_not_scroll_sideways(page: Any, lake: Lake, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 700})
    query = urlencode({"query": "FROM episode_agents"})
    for path in ("/", f"/episode/{two_players(lake).episode_id}?step=300", f"/sql?{query}", "/episode/nobody"):
        page.goto(path)
        if "nobody" not in path:
            page.wait_for_selector("body[data-drawn]")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        sizes = page.eval_on_selector_all("#chart text", "all => all.map(one => one.getBoundingClientRect().height)")
        assert bool(sizes) == path.startswith("/sql")
        assert all(size > 9 for size in sizes), sizes


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_have_contrast(page: Any, lake: Lake, scheme: str) -> None:
    """At least 4.5 : 1 between a text and what it stands on, as WCAG 2 computes it."""
    page.emulate_media(color_scheme=scheme)
    query = urlencode({"query": "SELECT game, n_steps FROM episodes"})
    for path in ("/", f"/episode/{two_players(lake).episode_id}?step=300", f"/sql?{query}", "/episode/nobody"):
        page.goto(path)
        if "nobody" not in path:
            page.wait_for_selector("body[data-drawn]")
        faint = page.evaluate(
            """() => {
                const channels = text => text.match(/[\\d.]+/g).map(Number);
                const light = rgb => rgb.slice(0, 3).map(c => c / 255)
                    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
                    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
                const behind = element => {
                    for (; element; element = element.parentElement) {
                        const color = channels(getComputedStyle(element).backgroundColor);
                        if (color.length < 4 || color[3] > 0) return color;
                    }
                    return [255, 255, 255];
                };
                const found = [];
                for (const element of document.querySelectorAll("body *")) {
                    const own = [...element.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
                    if (!own || !element.checkVisibility()) continue;
                    if (element.disabled || element instanceof SVGElement) continue;
                    const [a, b] = [light(channels(getComputedStyle(element).color)), light(behind(element))];
                    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
                    if (ratio < 4.5) found.push([element.outerHTML.slice(0, 80), ratio]);
                }
                return found;
            }"""
        )
        assert faint == [], path
