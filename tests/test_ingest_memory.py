"""Memory of an ingest: bounded, and the same for the first episode as for the fiftieth.

Each measurement is a process of its own, whose peak the system tells.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from benchmarks.long_episode import LongEpisode, write
from benchmarks.memory import peak
from crowdplay_ingest.convert import convert
from crowdplay_ingest.machine import Limits, iter_items
from crowdplay_ingest.pipeline import ingest
from crowdplay_lake import Lake
from crowdplay_lake.errors import LimitExceeded
from crowdplay_lake.layout import LakePaths
from crowdplay_lake.parts import GameWriter

MIB = 2**20


def converted(folder: Path, steps: int, episodes: int) -> int:
    """The peak of converting and writing episodes of ``steps``, from the bytes of their pickles on."""
    parts: dict[str, list[object]] = {"steps": [], "frames": []}
    with GameWriter(LakePaths(folder), "unknown") as writer:
        for number in range(episodes):
            stream = io.BufferedReader(LongEpisode(steps, seed=number), MIB)
            writer.write(convert(f"episode {number}", "unknown", iter_items(stream)).rows)
        writer.close(parts)  # type: ignore[arg-type]
    return peak()


def ingested(folder: Path, steps: int, episodes: int) -> int:
    """The peak of `ingest` over a folder of packed episodes, in one process."""
    ingest(folder / f"raw-{steps}", folder / f"lake-{steps}")
    return peak()


def in_a_process(work: Callable[[Path, int, int], int], folder: Path, steps: int, episodes: int = 1) -> int:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        return executor.submit(work, folder, steps, episodes).result()


def test_memory_hardly_grows_with_an_episode(tmp_path: Path) -> None:
    """Two players, 4,500 changed pixels a step: as Python objects 16 KB a step would stay, and 100 KB in a list."""
    few, many = (in_a_process(converted, tmp_path, steps) for steps in (5_500, 8_500))
    assert (many - few) / 3_000 < 8_000
    assert many < 600 * MIB


def test_memory_does_not_grow_with_the_number_of_episodes(tmp_path: Path) -> None:
    few, many = (in_a_process(converted, tmp_path, 100, episodes) for episodes in (5, 40))
    assert many - few < 60 * MIB


def test_rows_that_would_not_fit_are_refused() -> None:
    stream = io.BufferedReader(LongEpisode(2_000, noise=True), MIB)
    with pytest.raises(LimitExceeded, match="rows take more than 20,000,000 bytes") as caught:
        convert("id", "unknown", iter_items(stream), Limits(max_episode_bytes=20_000_000))
    assert caught.value.step is not None
    assert 150 < caught.value.step < 700


@pytest.mark.parametrize(("limits", "reason"), [(Limits(max_steps=99), "99 steps"), (Limits(max_agents=2), "2 agents")])
def test_steps_and_agents_are_limited(limits: Limits, reason: str) -> None:
    convert("id", "unknown", iter_items(io.BytesIO(LongEpisode(99, agents=2).readall())), limits)
    stream = io.BytesIO(LongEpisode(100, agents=3).readall())
    with pytest.raises(LimitExceeded, match=f"more than {reason}"):
        convert("id", "unknown", iter_items(stream), limits)


@pytest.mark.soak
def test_a_hundred_thousand_steps_of_two_players(tmp_path: Path) -> None:
    """Through the whole of ingest. The aim is 500 MiB, the limit 1.5 GiB."""
    (tmp_path / "raw-100000").mkdir()
    write(tmp_path / "raw-100000" / "long.pickle.gz", LongEpisode(100_000))
    assert in_a_process(ingested, tmp_path, 100_000) < 700 * MIB
    (episode,) = Lake(tmp_path / "lake-100000").episodes()
    assert len(episode) == 100_000


@pytest.mark.soak
def test_nothing_but_noise_stays_within_the_limit(tmp_path: Path) -> None:
    (tmp_path / "raw-20000").mkdir()
    write(tmp_path / "raw-20000" / "noise.pickle.gz", LongEpisode(20_000, noise=True))
    assert in_a_process(ingested, tmp_path, 20_000) < 1536 * MIB
