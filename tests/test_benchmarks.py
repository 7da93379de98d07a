"""The ways that `make bench` compares give the same data. Their speed is no matter here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from benchmarks import page_cache
from benchmarks.comparing import Comparison, check_equal
from benchmarks.jobs import JOBS, Questions, fingerprint
from benchmarks.peers import PEERS, REFERENCE, Opened, Peer, Source, missing
from crowdplay_ingest.recorder import EnvironmentPlan, EpisodePlan, RecordingOptions, record

PLAN = [
    EnvironmentPlan("breakout_mturk", (EpisodePlan(40), EpisodePlan(21)), ("ben",)),
    EnvironmentPlan("riverraid_right", (EpisodePlan(30),), ("ada",)),
]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder = tmp_path_factory.mktemp("raw")
    record(folder, PLAN, RecordingOptions(seed=3))
    return Source(folder)


@pytest.fixture(scope="module")
def expected(source: Source) -> dict[str, str]:
    with REFERENCE.open(source.folder) as opened:
        questions = Questions.of(source, windows=5)
        return {job.name: fingerprint(job.run(opened, questions)) for job in JOBS}


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_every_way_gives_what_was_pickled(peer: Peer, source: Source, expected: dict[str, str], tmp_path: Path) -> None:
    if missing(peer):
        pytest.skip(f"{peer.name} is not compared: pip install {' '.join(missing(peer))}")
    questions = Questions.of(source, windows=5)
    peer.write(source, tmp_path)
    with peer.open(tmp_path) as opened:
        for recording in source.recordings():
            np.testing.assert_array_equal(opened.frames(recording.episode_id), recording.frames)
        found = {job.name: fingerprint(job.run(opened, questions)) for job in JOBS}
    assert found == expected


class Blurred:
    """The reference with one value of one pixel changed, which no observation shows."""

    name, note = "blurred", ""
    libraries: tuple[str, ...] = ()

    def write(self, source: Source, folder: Path) -> None:
        REFERENCE.write(source, folder)

    def open(self, folder: Path) -> Opened:
        opened = REFERENCE.open(folder)
        frames = opened.frames

        def changed(episode: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
            found = frames(episode)
            found[-1, 0, 0, 2] ^= 1
            return found

        opened.frames = changed  # type: ignore[method-assign]
        return opened


def test_nothing_is_measured_of_a_way_that_loses(source: Source, tmp_path: Path) -> None:
    peer = Blurred()
    folders = {}
    for one in (REFERENCE, peer):
        folders[one.name] = tmp_path / one.name
        folders[one.name].mkdir()
        one.write(source, folders[one.name])
    measured = Comparison(source, Questions.of(source, windows=2), [peer], folders, {})
    with pytest.raises(SystemExit, match=r"blurred: episode .* has other frames"):
        check_equal(measured, Console(quiet=True))


def test_pages_of_files_are_dropped(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(1 << 20))
    before = page_cache.share_in_memory(tmp_path)
    page_cache.forget(tmp_path)
    # Not every file system lets go.
    assert page_cache.share_in_memory(tmp_path) <= before == 1
