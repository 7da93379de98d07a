"""Which episodes are trained on and which are held out: by episode, or by participant."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from ..episode import Episode
from ..errors import InvalidArgument, UnknownName

__all__ = ["SPLITS", "SplitBy", "group_names", "people_of", "split"]

SplitBy = Literal["episode", "participant"]
SPLITS: tuple[SplitBy, ...] = ("episode", "participant")


def split(
    episodes: Iterable[Episode], by: SplitBy = "participant", test_share: float = 0.1, seed: int = 0
) -> tuple[list[Episode], list[Episode]]:
    """(train, test): about ``test_share`` of the episodes are held out, at least one; 0 holds out none.

    "participant": whoever is in one half is not in the other, as any agent of an episode: the same person in both
    leaks. Who somebody is tells the permanent user id; where it is missing, the sitting (its episodes are played by the
    same people), and an episode without one is by somebody of its own. The same episodes and ``seed`` give the same
    halves, in whatever order they come.

    >>> train, test = split(lake.episodes("game = 'space_invaders'"), "participant", seed=1)   # doctest: +SKIP

    Raises InvalidArgument where there is nothing to split: a single episode, or people who all played together.
    """
    if by not in SPLITS:
        raise UnknownName(str(by), SPLITS, "ways to split")
    if not 0 <= test_share < 1:
        raise InvalidArgument(f"test_share is {test_share}; from 0 to less than 1")
    chosen = sorted(episodes, key=lambda episode: episode.episode_id)
    if test_share == 0 or not chosen:
        return chosen, []
    marks = [people_of(episode) if by == "participant" else [episode.episode_id] for episode in chosen]
    names = group_names(marks)
    groups = Counter(names)
    if len(groups) < 2:
        who = "episodes" if by == "episode" else "groups of people who never played together"
        remedy = "hold out none (test_share 0)" if by == "episode" else "split by episode"
        raise InvalidArgument(f"a split needs two {who} at least, and there is one: {remedy}")
    held_out = _held_out(groups, max(1, round(test_share * len(chosen))), seed)
    halves: tuple[list[Episode], list[Episode]] = [], []
    for episode, name in zip(chosen, names, strict=True):
        halves[name in held_out].append(episode)
    return halves


def people_of(episode: Episode) -> list[str]:
    """Who took part in an episode, as any agent: ids that are equal for the same person, and differ from all others."""
    environment = episode.environment
    known = [user.permanent_user_id for user in environment.users.values()]
    named = [f"person {permanent}" for permanent in known if permanent]
    if named and len(named) == len(known):
        return named
    where = f"sitting {environment.environment_id}" if environment.environment_id else f"episode {episode.episode_id}"
    return [*named, where]


def group_names(marks: Iterable[Sequence[str]]) -> list[str]:
    """For each item's marks the name of its group: items that share a mark are in one, also by way of others.

    A group goes by the smallest of its marks.
    """
    smaller: dict[str, str] = {}  # of each mark, one of its group that is smaller, or itself

    def name_of(mark: str) -> str:
        while (other := smaller.setdefault(mark, mark)) != mark:
            smaller[mark] = smaller[other]
            mark = other
        return mark

    told = [list(own) for own in marks]
    for own in told:
        names = sorted({name_of(mark) for mark in own})
        smaller.update(dict.fromkeys(names, names[0]))
    return [name_of(own[0]) for own in told]


def _held_out(groups: Mapping[str, int], wanted: int, seed: int) -> set[str]:
    """The groups (name → episodes) taken by lot, as long as they fit into ``wanted``; never none and never all."""
    by_lot = sorted(groups, key=lambda name: _lot(name, seed))
    taken: set[str] = set()
    left = wanted
    for name in by_lot[:-1]:
        if groups[name] <= left:
            taken.add(name)
            left -= groups[name]
    return taken or {min(by_lot, key=lambda name: groups[name])}


def _lot(name: str, seed: int) -> bytes:
    """A draw that depends on nothing else: more episodes do not shuffle those that were there."""
    return hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
