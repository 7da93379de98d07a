"""Train and test: nobody is in both, nothing is lost, and the same seed gives the same halves."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crowdplay_ingest.pipeline import ingest
from crowdplay_lake import Lake
from crowdplay_lake.errors import InvalidArgument, UnknownName
from crowdplay_lake.offline.split import SplitBy, group_names, people_of, split

MARKS = st.lists(st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=3), max_size=12)


def slow_groups(marks: list[list[str]]) -> list[set[int]]:
    """Items that share a mark, joined until nothing changes."""
    groups = [{number} for number in range(len(marks))]
    held = [set(own) for own in marks]
    changed = True
    while changed:
        changed = False
        for i in range(len(groups)):
            for j in range(i + 1, len(groups)):
                if groups[i] and groups[j] and held[i] & held[j]:
                    groups[i] |= groups[j]
                    held[i] |= held[j]
                    groups[j], held[j] = set(), set()
                    changed = True
    return sorted((group for group in groups if group), key=min)


@given(MARKS)
def test_groups_are_those_of_the_slow_definition(marks: list[list[str]]) -> None:
    names = group_names(marks)
    found: dict[str, set[int]] = {}
    for number, name in enumerate(names):
        found.setdefault(name, set()).add(number)
    assert sorted(found.values(), key=min) == slow_groups(marks)
    for name, group in found.items():
        assert name == min(mark for number in group for mark in marks[number])


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_nobody_is_in_both_halves(lake: Lake, data: st.DataObject) -> None:
    by: SplitBy = data.draw(st.sampled_from(["episode", "participant"]))
    share = data.draw(st.floats(0.01, 0.9))
    seed = data.draw(st.integers(0, 1000))
    episodes = list(lake.episodes())
    train, test = split(data.draw(st.permutations(episodes)), by, share, seed)
    assert train
    assert test
    assert sorted(e.episode_id for e in [*train, *test]) == lake.episodes().ids
    assert (train, test) == split(episodes, by, share, seed)
    if by == "participant":
        assert not {p for e in train for p in people_of(e)} & {p for e in test for p in people_of(e)}
    else:
        assert len(test) == max(1, round(share * len(episodes)))


def test_seeds_differ(lake: Lake) -> None:
    halves = {tuple(e.episode_id for e in split(lake.episodes(), "participant", 0.3, seed)[1]) for seed in range(20)}
    assert len(halves) > 3


def test_people_are_told_by_their_permanent_id(lake: Lake) -> None:
    people = {episode.episode_id: people_of(episode) for episode in lake.episodes()}
    rows = lake.sql("SELECT episode_id, permanent_user_id FROM episode_agents WHERE permanent_user_id IS NOT NULL")
    for episode_id, permanent in rows:
        assert f"person {permanent}" in people[episode_id]


def test_without_metadata_every_episode_is_by_somebody_of_its_own(small_raw: Path, tmp_path: Path) -> None:
    shutil.copytree(small_raw, tmp_path / "raw", ignore=shutil.ignore_patterns("*.sqlite"))
    ingest(tmp_path / "raw", tmp_path / "lake")
    episodes = list(Lake(tmp_path / "lake").episodes())
    assert len(episodes) == 5
    assert len({tuple(people_of(episode)) for episode in episodes}) == 5
    assert len(split(episodes, "participant", 0.4)[1]) == 2


def test_what_cannot_be_split_is_told(lake: Lake) -> None:
    one = lake.episodes()[:1]
    assert split(one, "episode", 0) == (list(one), [])
    assert split([], "participant") == ([], [])
    with pytest.raises(InvalidArgument, match="two episodes at least, and there is one: hold out none"):
        split(one, "episode")
    with pytest.raises(InvalidArgument, match="never played together at least, and there is one: split by episode"):
        split(lake.episodes("task_id = 'breakout_mturk'"))
    with pytest.raises(UnknownName, match="did you mean 'participant'"):
        split(one, "participants")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="test_share is 1"):
        split(one, "episode", 1)
