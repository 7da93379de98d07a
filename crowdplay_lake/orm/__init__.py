"""CrowdPlay's dataset API over a lake (extra `orm`): code written for CrowdPlay runs with its import line changed.

::

    from crowdplay_lake.orm import EpisodeModel, get_engine_and_session      # was: crowdplay_datasets.dataset

    _, session = get_engine_and_session("crowdplay_atari-v0")
    episodes = session.query(EpisodeModel).all()

The dataset is a lake: by its name in the lake home (``$CROWDPLAY_LAKE_HOME``, or the folder `crowdplay-lake` where the
user's data lies), or by its path. What differs, and why, is in docs/crowdplay.md.
"""

from __future__ import annotations

import itertools
from os import PathLike
from typing import TYPE_CHECKING, Any

from ..errors import InvalidArgument, MissingExtra, UnknownEpisode

try:
    from sqlalchemy import Engine
    from sqlalchemy.orm import sessionmaker
except ImportError as error:
    raise MissingExtra("sqlalchemy", "orm") from error

from ..lake import Lake
from .home import find_lake, known_lakes
from .models import (
    EnvironmentKeywordDataModel,
    EnvironmentModel,
    EpisodeKeywordDataModel,
    EpisodeModel,
    UserModel,
    lakes_read,
)
from .session import LakeSession, Source, lake_engine

if TYPE_CHECKING:
    from upath import UPath

__all__ = [
    "EnvironmentKeywordDataModel",
    "EnvironmentModel",
    "EpisodeKeywordDataModel",
    "EpisodeModel",
    "UserModel",
    "get_engine_and_session",
    "get_trajectory_by_id",
]


def get_engine_and_session(dataset_id: str | PathLike[str] | UPath, create: bool = False) -> tuple[Engine, LakeSession]:
    """An SQLAlchemy engine and session over a lake: by its name in the lake home, or its path.

    The session reads the lake's last commit as of now, and that of its own last commit. Raises UnknownDataset with
    the known names and where they were looked for, InvalidLake for a path without a lake.
    """
    if create:
        raise InvalidArgument("a dataset is made by 'crowdplay-lake ingest RAW LAKE', not by a session")
    source = Source(find_lake(dataset_id))
    engine = lake_engine(source)
    return engine, sessionmaker(bind=engine, class_=LakeSession, expire_on_commit=False, source=source)()


def get_trajectory_by_id(id: str) -> list[dict[str, Any]]:
    """The raw trajectory of an episode: of the lakes that sessions were opened on, the last one first, then of those
    in the lake home. Raises UnknownEpisode with the nearest ids, NoTrajectory without a pickle.
    """
    lakes = lakes_read()
    seen = {str(lake.path) for lake in lakes}
    for lake in itertools.chain(lakes, (Lake(path) for path in known_lakes() if str(path) not in seen)):
        if lake.has_episode(id):
            return lake.episode(id).get_raw_trajectory()
    known = [episode_id for lake in lakes for episode_id in lake.episodes().ids]
    raise UnknownEpisode(id, known, "the lakes of this process and the lake home")
