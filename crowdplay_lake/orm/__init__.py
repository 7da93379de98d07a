"""CrowdPlay's dataset API over a lake (extra `orm`): code written for CrowdPlay runs with its import line changed.

::

    from crowdplay_lake.orm import EpisodeModel, get_engine_and_session      # was: crowdplay_datasets.dataset

    _, session = get_engine_and_session("crowdplay_atari-v0")
    episodes = session.query(EpisodeModel).all()

The dataset is a lake: by its name in the lake home (``$CROWDPLAY_LAKE_HOME``, or the folder `crowdplay-lake` where the
user's data lies), or by its path. What differs, and why, is in docs/crowdplay.md.
"""

from __future__ import annotations

import weakref
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

# What is open in this process, the last one last: where an episode is looked for by its id alone.
_open: weakref.WeakValueDictionary[str, Source] = weakref.WeakValueDictionary()


def get_engine_and_session(dataset_id: str | PathLike[str] | UPath, create: bool = False) -> tuple[Engine, LakeSession]:
    """An SQLAlchemy engine and session over a lake: by its name in the lake home, or its path.

    The session reads the lake's last commit as of now, and that of its own last commit. Raises UnknownDataset with
    the known names and where they were looked for, InvalidLake for a path without a lake.
    """
    if create:
        raise InvalidArgument("a dataset is made by 'crowdplay-lake ingest RAW LAKE', not by a session")
    source = Source(find_lake(dataset_id))
    _open.pop(str(source.lake.path), None)
    _open[str(source.lake.path)] = source
    engine = lake_engine(source)
    return engine, sessionmaker(bind=engine, class_=LakeSession, expire_on_commit=False, source=source)()


def get_trajectory_by_id(id: str) -> list[dict[str, Any]]:
    """The raw trajectory of an episode: in the lakes that sessions are open on, then in those of the lake home.

    Raises UnknownEpisode with the nearest ids.
    """
    lakes = [source.lake for source in reversed(list(_open.values()))]
    for lake in lakes:
        if lake.has_episode(id):
            return lake.episode(id).get_raw_trajectory()
    for path in known_lakes():
        if (lake := Lake(path)).has_episode(id):
            return lake.episode(id).get_raw_trajectory()
    raise UnknownEpisode(
        id, [name for lake in lakes for name in lake.episodes().ids], "the lakes of this process and the lake home"
    )
