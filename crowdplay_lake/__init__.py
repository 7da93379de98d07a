"""A columnar lake over CrowdPlay's recordings of people playing Atari.

>>> from crowdplay_lake import Lake
>>> lake = Lake("lake")                                     # doctest: +SKIP
>>> lake.episodes("game = 'space_invaders' AND score > 50")  # doctest: +SKIP
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .environment import Environment
    from .episode import Episode, ProcessedTrajectory
    from .errors import CrowdPlayLakeError
    from .lake import Episodes, Lake
    from .observations import Observations
    from .query_result import QueryResult

__all__ = [
    "CrowdPlayLakeError",
    "Environment",
    "Episode",
    "Episodes",
    "Lake",
    "Observations",
    "ProcessedTrajectory",
    "QueryResult",
]

# Loaded when they are asked for: the command's help and its errors need none of them.
_HOMES = {
    "CrowdPlayLakeError": "errors",
    "Environment": "environment",
    "Episode": "episode",
    "Episodes": "lake",
    "Lake": "lake",
    "Observations": "observations",
    "ProcessedTrajectory": "episode",
    "QueryResult": "query_result",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
