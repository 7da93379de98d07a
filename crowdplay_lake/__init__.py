"""A columnar lake over CrowdPlay's recordings of people playing Atari.

>>> from crowdplay_lake import Lake
>>> lake = Lake("lake")                                     # doctest: +SKIP
>>> lake.episodes("game = 'space_invaders' AND score > 50")  # doctest: +SKIP
"""

from .episode import Environment, Episode, ProcessedTrajectory
from .errors import CrowdPlayLakeError
from .lake import Episodes, Lake
from .observations import Observations
from .query import QueryResult

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
