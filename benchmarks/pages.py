"""How soon the pages of `serve` are there, and what they weigh, in a real browser: `python -m benchmarks.pages`.

A list over 10,000 made-up episodes; films of 10,000 steps: a game as it is played, and a screen that scrolls in every
step, which changes 5,000 of its 33,600 pixels. Each page is opened in a browser that has nothing of it: as the first
one that a server is asked that has just begun, and several times again. Milliseconds are from the click to the painted
rows or frame. On a machine that does other things, `chrt -r 1 python -m benchmarks.pages` goes before them.
Needs the extras `web` and `dev`, and a Chromium.
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crowdplay_ingest.pipeline import ingest
from crowdplay_ingest.recorder import EnvironmentPlan, EpisodePlan, RecordingOptions, record
from crowdplay_lake import Lake

from .generated import made_up_metadata
from .long_episode import LongEpisode, write
from .machine import cores, processor

# How often a server is started for each page.
STARTS = 3
EPISODES = 10_000
STEPS = 10_000
MAIN = "from crowdplay_lake.cli import main; main()"


def make_lakes(folder: Path) -> tuple[Path, Path]:
    """The lake of the list, and that of the films."""
    made_up_metadata(folder / "list", EPISODES)
    played = EnvironmentPlan("breakout_mturk", (EpisodePlan(STEPS, ("skilled",)),), ("ben",))
    record(folder / "raw", [played], RecordingOptions(seed=3, compression="gz"))
    write(folder / "raw" / "scrolling.pickle.gz", LongEpisode(STEPS, agents=2))
    ingest(folder / "raw", folder / "films")
    return folder / "list", folder / "films"


@contextmanager
def served(lake: Path) -> Iterator[str]:
    """The address of a server over the lake."""
    command = [sys.executable, "-u", "-c", MAIN, "serve", str(lake), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        found = re.search(r"http://\S+/", process.stdout.readline() if process.stdout else "")
        if found is None:
            raise SystemExit("the server did not start")
        yield found[0]
        process.send_signal(signal.SIGINT)


def opened(browser: Any, address: str) -> tuple[float, int, int]:
    """Milliseconds from the click to what is wanted being painted; bytes received until then, and in the end."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    received: list[int] = []
    listening = context.new_cdp_session(page)
    listening.send("Network.enable")
    listening.on("Network.loadingFinished", lambda told: received.append(int(told["encodedDataLength"])))
    page.goto(address, wait_until="commit")
    page.wait_for_selector("body[data-drawn]", timeout=60_000)
    drawn = float(page.get_attribute("body", "data-drawn"))
    until_then = sum(received)
    page.wait_for_timeout(2_000)
    context.close()
    return drawn, until_then, sum(received)


def measure(browser: Any, name: str, lake: Path, path: str, repeats: int) -> None:
    firsts, others = [], []
    for _ in range(STARTS):
        with served(lake) as address:
            first, *again = (opened(browser, address + path) for _ in range(1 + repeats))
            firsts.append(first)
            others += again
    until_then, in_all = (f"{max(run[k] for run in others) / 1000:,.0f} kB" for k in (1, 2))
    told = (f"{statistics.median(run[0] for run in runs):,.0f} ms" for runs in (firsts, others))
    worst = max(run[0] for run in firsts + others)
    print(f"| {name} | {' | '.join(told)} | {worst:,.0f} ms | {until_then} | {in_all} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=4)
    repeats = parser.parse_args().repeats
    from playwright.sync_api import sync_playwright

    chromium = next((path for name in ("chromium", "google-chrome") if (path := shutil.which(name))), None)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        listed, films = make_lakes(Path(folder))
        browser = driver.chromium.launch(executable_path=chromium)
        print(f"{processor()}, {cores()} cores, Chromium {browser.version}\n")
        print("| page | a fresh server's first | again | slowest | bytes until it is drawn | bytes in all |")
        print("| --- | --- | --- | --- | --- | --- |")
        measure(browser, f"the list, {EPISODES:,} episodes", listed, "", repeats)
        measure(browser, "the list by score, filtered", listed, "?where=score+%3E+1000&sort=score&desc=1", repeats)
        for episode in Lake(films).episodes():
            name = f"a film of {len(episode):,} steps, {'scrolling' if episode.game == 'unknown' else episode.game}"
            path = f"episode/{episode.episode_id}"
            measure(browser, name, films, path, repeats)
            measure(browser, f"{name}, opened in its middle", films, f"{path}?step={len(episode) // 2 + 77}", repeats)
        browser.close()


if __name__ == "__main__":
    main()
