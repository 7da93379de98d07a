"""What tests stand on: raw episodes of our own recorder, played once a run, and the lake made of them."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import os
import pickle
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crowdplay_ingest.pipeline import IngestOptions, IngestSummary, ingest
from crowdplay_ingest.recorder import EnvironmentPlan, EpisodePlan, RecordingOptions, record, sample_plan
from crowdplay_lake import Lake

# pytest-xdist sets it for its workers, and a console keeps the width that it is imported with.
os.environ.pop("COLUMNS", None)

# Some five seconds of each game are enough to show all that a recording can hold but the end of a game.
SECONDS = 5.0
PLAYED_TO_THE_END = EnvironmentPlan("riverraid_right", (EpisodePlan(4_000),), ("gus",))


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of raw episodes of every game and kind, with its dataset.sqlite. Not to be changed.

    Packed with gzip: bz2 would take most of the tests' time.
    """
    folder = tmp_path_factory.mktemp("raw")
    record(folder, [*sample_plan(SECONDS), PLAYED_TO_THE_END], RecordingOptions(seed=1, compression="gz"))
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


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of a real S3 server on this machine; the environment names it and its credentials meanwhile."""
    pytest.importorskip("s3fs")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # A process of its own: while Delta waits for an answer, no Python thread of this one runs.
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _wait_for(port)
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test-key-id",
        "AWS_SECRET_ACCESS_KEY": "test-secret-key",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    yield settings["AWS_ENDPOINT_URL"]
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})
    server.terminate()
    server.wait()


def _wait_for(port: int) -> None:
    for _ in range(300):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    raise TimeoutError(f"nobody listens on port {port}")


@pytest.fixture
def bucket(s3_server: str) -> str:
    """The name of a new bucket on `s3_server`."""
    import boto3

    name = f"bucket-{uuid.uuid4().hex[:12]}"
    boto3.client("s3", endpoint_url=s3_server).create_bucket(Bucket=name)
    return name


@pytest.fixture(scope="session")
def film_lake(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Raw episodes for the player, longer than a chunk of film, and the lake of them. Not to be changed."""
    folder = tmp_path_factory.mktemp("films")
    two = EpisodePlan(1_300, ("sticky", "sticky"))
    plan = [
        EnvironmentPlan("breakout_mturk", (EpisodePlan(2_300, ("skilled",)),), ("gus",)),
        EnvironmentPlan("space_invaders_2p_competitive_mturk", (two,), ("ada", "ben")),
    ]
    record(folder / "raw", plan, RecordingOptions(seed=3, compression="gz"))
    ingest(folder / "raw", folder / "lake")
    return folder / "raw", folder / "lake"


SHORT_GAMES = [
    EnvironmentPlan("breakout_mturk", (EpisodePlan(40), EpisodePlan(30)), ("ben",)),
    EnvironmentPlan("space_invaders_2p_competitive_mturk", (EpisodePlan(40, ("sticky", "sticky")),), ("ada", "ben")),
    EnvironmentPlan("breakout_mturk", (EpisodePlan(20),), ("cleo",)),
    EnvironmentPlan("breakout_mturk", (EpisodePlan(25),), ("dan",)),
]


@pytest.fixture(scope="session")
def small_raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five short episodes of two games and four people, and a file that is refused. Not to be changed."""
    folder = tmp_path_factory.mktemp("small_raw")
    record(folder, SHORT_GAMES, RecordingOptions(seed=5, compression="none"))
    (folder / "broken.pickle").write_bytes(b"not a pickle")
    return folder


@pytest.fixture(scope="session")
def small_lake(small_raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lake of ``small_raw``, of a commit for each file. Not to be changed."""
    path = tmp_path_factory.mktemp("small_lake") / "lake"
    ingest(small_raw, path, IngestOptions(task_seconds=0, workers=0))
    return path


def read_raw(folder: Path, episode_id: str) -> list[dict[str, Any]]:
    """The trajectory as the real unpickler reads it: of our own recordings only."""
    openers = {".pickle": open, ".pickle.gz": gzip.open, ".pickle.bz2": bz2.open}
    for suffix, opener in openers.items():
        path = folder / f"{episode_id}{suffix}"
        if path.exists():
            with opener(path, "rb") as file:
                return pickle.load(file)  # type: ignore[no-any-return]
    raise FileNotFoundError(f"{episode_id} in {folder}")
