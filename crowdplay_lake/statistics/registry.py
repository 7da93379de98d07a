"""Which statistics there are: those of CrowdPlay, those that other packages bring, and what is passed in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import polars as pl

from ..errors import InvalidArgument, UnknownStatistic
from .actions import ActionDistribution
from .activity import ActivePlaytime
from .aliens import ORDERS, Accuracy, AliensInOrder, AliensShot, ShareInOrder
from .base import Statistic, Values
from .latency import Latency
from .players import FramesPlayedBy
from .position import LEFT, RIGHT
from .score import Score, TimePlayed
from .stepped import Stepped, copies_of

__all__ = ["BUILT_IN", "GROUP", "as_markdown", "find", "names", "registered"]

#: The group of entry points under which a package registers statistics of its own.
GROUP = "crowdplay_lake.statistics"

BUILT_IN: Mapping[str, Statistic] = {
    statistic.name: statistic
    for statistic in (
        Score(),
        TimePlayed(),
        ActivePlaytime(),
        LEFT,
        RIGHT,
        AliensShot(),
        Accuracy(),
        *(kind(order) for order in ORDERS for kind in (ShareInOrder, AliensInOrder)),
        Latency(),
        ActionDistribution(),
        *(FramesPlayedBy(who, share) for who in ("humanhuman", "humanai") for share in (False, True)),
    )
}


def _entry_points() -> dict[str, list[EntryPoint]]:
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        # CrowdPlay's own names stay what they are.
        if point.name not in BUILT_IN:
            found.setdefault(point.name, []).append(point)
    return found


def names() -> list[str]:
    """Every registered name: CrowdPlay's, then those of other packages."""
    return [*BUILT_IN, *sorted(_entry_points())]


def registered() -> dict[str, Statistic | Exception]:
    """Every registered statistic by name; of one that cannot be loaded, why."""
    found: dict[str, Statistic | Exception] = dict(BUILT_IN)
    for name in sorted(_entry_points()):
        try:
            found[name] = find(name)
        except InvalidArgument as error:
            found[name] = error
    return found


def find(statistic: str | Statistic | type | Callable[..., Any] | object) -> Statistic:
    """The statistic of that name, or the object itself as one.

    An object is a `Statistic`; or anything with a method ``values(steps)``; or a callable in CrowdPlay's way, from a
    step to ``{agent: value}``, of which each episode gets a copy. A class is made first, without arguments.

    Raises UnknownStatistic with the nearest names, InvalidArgument for what is none.
    """
    if isinstance(statistic, str):
        return _named(statistic)
    return _as_statistic(statistic, "")


def _named(name: str) -> Statistic:
    if name in BUILT_IN:
        return BUILT_IN[name]
    points = _entry_points()
    if name not in points:
        raise UnknownStatistic(name, [*BUILT_IN, *points])
    if len(points[name]) > 1:
        packages = " and ".join(sorted(point.value for point in points[name]))
        raise InvalidArgument(f"statistic {name!r} is registered twice, by {packages}; uninstall one")
    (point,) = points[name]
    try:
        loaded = point.load()
    except Exception as error:
        raise InvalidArgument(
            f"statistic {name!r} is registered as {point.value}, which cannot be loaded:"
            f" {type(error).__name__}: {error}"
        ) from error
    return _as_statistic(loaded, name)


def _as_statistic(given: Any, name: str) -> Statistic:
    if isinstance(given, type):
        try:
            given = given()
        except TypeError as error:
            raise InvalidArgument(
                f"{given.__name__} cannot be made without arguments ({error}); pass an instance, or"
                f" Stepped(lambda agents: {given.__name__}(…))"
            ) from error
    if isinstance(given, Statistic):
        # Without a name it goes by its class's, as found or as registered.
        if not given.name:
            given.name = name or type(given).__name__
        return given
    if callable(getattr(given, "values", None)):
        return _Adapted(given, name)
    if callable(given):
        made = copies_of(given)
        return Stepped(
            made,
            name=name or getattr(given, "name", ""),
            key=getattr(given, "key", None),
            games=getattr(given, "games", None),
            dtype=getattr(given, "dtype", pl.Float64),
        )
    raise InvalidArgument(
        f"{given!r} is no statistic: pass a name, an object with a method values(steps), or a callable from a step to"
        " {agent: value}"
    )


class _Adapted(Statistic):
    """An object with the method `values`, and whichever of the attributes of a `Statistic`."""

    def __init__(self, given: Any, name: str) -> None:
        self._given = given
        self.name = name or getattr(given, "name", "") or type(given).__name__
        for attribute in ("key", "games", "columns", "dtype", "unit", "definition", "quirk"):
            if hasattr(given, attribute):
                setattr(self, attribute, getattr(given, attribute))

    def values(self, steps: pl.DataFrame) -> Values:
        found: Values = self._given.values(steps)
        return found


def as_markdown() -> str:
    """CrowdPlay's statistics as a page of documentation: docs/statistics_list.md, which a test holds to this."""
    lines = [
        "# The behavioural statistics",
        "",
        "What each is, and where CrowdPlay's number is not what one would think. [statistics.md](statistics.md) says",
        "how to ask for them. Made from `crowdplay_lake/statistics/` by `make docs`; `crowdplay-lake statistics` lists",
        "those of other packages, too.",
    ]
    for name, one in BUILT_IN.items():
        games = "every game" if one.games is None else ", ".join(one.games)
        lines += ["", f"## {name}", "", one.definition, ""]
        lines += [f"- Games: {games}", f"- Unit: {one.unit}", f"- Stored as: `{one.key or name}`"]
        if one.quirk:
            lines.append(f"- Mind: {one.quirk}")
    return "\n".join(lines) + "\n"
