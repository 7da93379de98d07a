"""Lakes in processes that were forked after a lake was opened: what works there, and what says why it does not."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from metadata_folders import P0, Sitting, write_metadata

from crowdplay_ingest.pipeline import IngestOptions, ingest
from crowdplay_lake import Lake, forked
from crowdplay_lake.annotations import KeywordRow, write_keyword_data
from crowdplay_lake.compact import compact
from crowdplay_lake.errors import CrowdPlayLakeError, InvalidArgument, InvalidLake, UnknownEpisode

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    about = {"all": {"game": "breakout"}}
    write_metadata(tmp_path / "raw", [Sitting("v", "t", about, {"e1": {P0: {"Score": 1}}})])
    ingest(tmp_path / "raw", tmp_path / "lake", IngestOptions(workers=0))
    return tmp_path / "lake"


def in_a_fork(work: Callable[[], Any]) -> Any:
    """What ``work`` returns in a process that is forked off this one, or the error that it raises."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()

    def run() -> None:
        try:
            there.send(work())
        except BaseException as error:
            there.send((type(error), str(error)))

    process = context.Process(target=run)
    process.start()
    assert here.poll(60)
    answer = here.recv()
    process.join(10)
    assert process.exitcode == 0
    return answer


def test_a_forked_process_reads_and_writes_keyword_data(path: Path) -> None:
    before = Lake(path)

    def work() -> tuple[int, Any, list[Any]]:
        values = {"a": [1, (2, 3)], "b": None, "c": float("inf"), "d": "Ä"}
        rows = [KeywordRow("keyword_data", "e1", "all", key, value) for key, value in values.items()]
        after = write_keyword_data(path, rows, operation="mine")
        lake = Lake(path)
        return after.number, lake.episode("e1").keyword_data, lake.sql("SELECT score FROM episode_agents").fetchall()

    number, data, rows = in_a_fork(work)
    assert number == before.commit + 1
    assert data == {P0: {"Score": 1}, "all": {"a": [1, (2, 3)], "b": None, "c": float("inf"), "d": "Ä"}}
    assert rows == [(1,)]
    lake = Lake(path)
    assert lake.snapshot.operation == "mine"
    assert lake.episode("e1").keyword_data == data
    # An earlier commit can be opened there, too.
    assert in_a_fork(lambda: "all" in Lake(path, before.commit).episode("e1").keyword_data) is False


def test_errors_are_the_same(path: Path, tmp_path: Path) -> None:
    row = KeywordRow("keyword_data", "e9", "all", "k", 1)
    kind, told = in_a_fork(lambda: write_keyword_data(path, [row]))
    assert kind is UnknownEpisode
    assert "did you mean 'e1'" in told
    kind, told = in_a_fork(lambda: write_keyword_data(path, [row._replace(value=print)]))
    assert kind is InvalidArgument
    assert in_a_fork(lambda: Lake(tmp_path / "none"))[0] is InvalidLake


def test_what_cannot_be_done_there_says_so(path: Path) -> None:
    kind, told = in_a_fork(lambda: compact(path))
    assert kind is CrowdPlayLakeError
    assert "get_context('spawn')" in told


def test_a_helper_that_dies_is_told_and_the_next_question_has_another(path: Path) -> None:
    def work() -> tuple[str, int]:
        first = Lake(path).commit
        helper = forked._helper
        assert helper is not None
        helper[1].kill()
        helper[1].wait()
        try:
            Lake(path)
        except CrowdPlayLakeError as error:
            return str(error), Lake(path).commit - first
        return "", -1

    told, difference = in_a_fork(work)
    assert "ended" in told
    assert difference == 0


def test_the_helper_ends_with_its_process(path: Path) -> None:
    def work() -> int:
        Lake(path)
        assert forked._helper is not None
        return forked._helper[1].pid

    pid = in_a_fork(work)
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        time.sleep(0.1)
    raise AssertionError(f"process {pid} is still there")
