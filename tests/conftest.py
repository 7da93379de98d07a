"""What tests stand on: raw episodes of our own recorder, played once a run, and the lake made of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crowdplay_ingest.pipeline import IngestSummary, ingest
from crowdplay_ingest.recorder import RecordingOptions, record, sample_plan
from crowdplay_lake import Lake

# Some five seconds of each game are enough to show all that a recording can hold.
SECONDS = 5.0


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of raw episodes of every game and kind, with its dataset.sqlite. Not to be changed."""
    folder = tmp_path_factory.mktemp("raw")
    record(folder, sample_plan(SECONDS), RecordingOptions(seed=1))
    return folder


@pytest.fixture(scope="session")
def ingested(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, IngestSummary]:
    """The path of the lake made of ``raw``, and the summary of its ingest. Not to be changed."""
    path = tmp_path_factory.mktemp("lake") / "lake"
    return path, ingest(raw, path)


@pytest.fixture(scope="session")
def lake(ingested: tuple[Path, IngestSummary]) -> Lake:
    """The lake made of ``raw``. Not to be changed."""
    return Lake(ingested[0])


def read_raw(folder: Path, episode_id: str) -> list[dict]:  # type: ignore[type-arg]
    """The trajectory as the real unpickler reads it: of our own recordings only."""
    import bz2
    import pickle

    with bz2.open(folder / f"{episode_id}.pickle.bz2") as file:
        return pickle.load(file)  # type: ignore[no-any-return]


os.environ.setdefault("NO_COLOR", "1")
