"""The ways that `make bench` compares give the same data. Their speed is no matter here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.jobs import JOBS, Questions, fingerprint
from benchmarks.peers import PEERS, REFERENCE, Peer, Source, missing
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
