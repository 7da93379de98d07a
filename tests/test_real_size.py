"""The lakes that `benchmarks.real_size` repeats answer as what they repeat. Their speed is no matter here."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks.repeated import copy_id, repeat_episodes
from benchmarks.size_questions import QUESTIONS, Answer, Question
from crowdplay_lake import Lake
from crowdplay_lake.verify import verify

COPIES = 3


@pytest.fixture(scope="module")
def repeated(small_lake: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every episode of the small lake three times."""
    path = shutil.copytree(small_lake, tmp_path_factory.mktemp("repeated") / "lake")
    steps = Lake(path).sql("SELECT sum(n_steps) FROM episodes").fetchall()[0][0]
    assert repeat_episodes(path, COPIES * int(steps)) == COPIES
    return path


def test_a_repeated_lake_is_proven(repeated: Path) -> None:
    report = verify(repeated)
    assert report.findings == []
    assert report.episodes == COPIES * 5


def test_a_copy_is_its_original(repeated: Path) -> None:
    lake = Lake(repeated)
    for name in [name for name in lake.episodes().ids if not name.startswith("generated")]:
        original, copy = lake.episode(name), lake.episode(copy_id(COPIES - 1, name))
        assert copy.keyword_data == original.keyword_data
        assert copy.environment.keyword_data == original.environment.keyword_data
        assert copy.environment.users.keys() == original.environment.users.keys()
        assert copy.environment_id != original.environment_id
        for ours, theirs in zip(copy.iter_raw_trajectory(), original.iter_raw_trajectory(), strict=True):
            np.testing.assert_equal(ours, theirs)


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.name)
def test_every_answer_is_that_of_the_original_lake(question: Question, repeated: Path, small_lake: Path) -> None:
    name = Lake(small_lake).episodes().ids[0]
    found = question.ask(Lake(repeated), copy_id(COPIES - 1, name))
    expected = question.ask(Lake(small_lake), name)
    assert found.is_times(expected, COPIES)
    assert found.amounts or found.others


def test_another_answer_is_found_out() -> None:
    recorded = Answer((2, 5), ("breakout", 0.5))
    assert Answer((6, 15), ("breakout", 0.5)).is_times(recorded, COPIES)
    assert not Answer((6, 14), ("breakout", 0.5)).is_times(recorded, COPIES)
    assert not Answer((6, 15), ("breakout", 0.51)).is_times(recorded, COPIES)


def test_large_lakes_are_of_several_parts(small_lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = shutil.copytree(small_lake, tmp_path / "lake")
    before = len(Lake(path).snapshot.parts("steps"))
    monkeypatch.setattr("benchmarks.repeated.STEPS_A_PART", 300)
    repeat_episodes(path, 155 * 6)
    assert len(Lake(path).snapshot.parts("steps")) >= before + 4
    assert verify(path).findings == []
