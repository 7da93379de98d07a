"""CrowdPlay's classes over the tables of a lake: the same names, attributes and relationships."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import Column, ForeignKey, String, Table, inspect
from sqlalchemy.orm import DeclarativeBase, Mapped, attribute_keyed_dict, object_session, relationship

from ..annotations import KeywordTable
from ..episode import DEFAULT_AGENT
from ..errors import InvalidArgument
from ..lake import Lake
from .values import KeywordValue

if TYPE_CHECKING:
    from ..episode import Episode
    from .session import LakeSession

__all__ = [
    "EnvironmentKeywordDataModel",
    "EnvironmentModel",
    "EpisodeKeywordDataModel",
    "EpisodeModel",
    "KeywordDict",
    "Owner",
    "UserModel",
    "lakes_read",
    "note_origin",
    "origin_of_session",
]

# Of each session there was, (path, commit) of the lake it read: who outlives it finds it here.
_origins: dict[int, tuple[str, int]] = {}
KeywordDict = dict[str, dict[str, Any]]  # agent (or 'all') → key → value


def note_origin(session_id: int, lake: Lake) -> None:
    """A session reads a lake."""
    _origins[session_id] = (str(lake.path), lake.commit)


def origin_of_session(session_id: int | None) -> tuple[str, int] | None:
    """(path, commit) of the lake that a session read last."""
    return None if session_id is None else _origins.get(session_id)


def lakes_read() -> list[Lake]:
    """The lakes that sessions of this process read, the last one first."""
    found: dict[str, int] = {}
    for path, commit in reversed(_origins.values()):
        found.setdefault(path, commit)
    return [opened(path, commit) for path, commit in found.items()]


@lru_cache(maxsize=4)
def opened(path: str, commit: int) -> Lake:
    """A lake, kept for the next who asks."""
    return Lake(path, commit)


class _Base(DeclarativeBase):
    pass


class Owner(_Base):
    """What keyword data is of."""

    __abstract__ = True

    # (path, commit) of the lake it is from, once its session has let go of it.
    _origin: tuple[str, int] | None = None
    _keywords: KeywordDict | None = None
    keyword_data_list: Mapped[Any]

    @property
    def keyword_data(self) -> KeywordDict:
        """agent (or 'all') → key → value. What is written into these dicts stays in Python: see `update_kwdata`."""
        if self._keywords is None:
            if (session := _session_of(self)) is not None:
                self._keywords = session.keywords_of(self)
            else:
                lake = self._lake()
                self._keywords = {} if lake is None else self._read_keywords(lake)
        return self._keywords

    def _lake(self) -> Lake | None:
        """The lake it is from, as its session has it; None for what was never in one."""
        if (session := _session_of(self)) is not None:
            return session.lake
        origin = self._origin or origin_of_session(inspect(self).session_id)
        return None if origin is None else opened(*origin)

    @abstractmethod
    def _place(self) -> tuple[KeywordTable, str]:
        """The table of its keyword data, and the id it has there."""

    @abstractmethod
    def _read_keywords(self, lake: Lake) -> KeywordDict:
        """Its keyword data, as the lake has it."""

    def __getstate__(self) -> dict[str, Any]:
        # For a pool of processes: there is no session on the other side.
        lake = self._lake()
        origin = None if lake is None else (str(lake.path), lake.commit)
        return {**self.__dict__, "_keywords": self.keyword_data, "_origin": origin}


def _session_of(instance: object) -> LakeSession | None:
    session = object_session(instance)
    # Asked of ten thousand at once: no import here to tell one session from another.
    return session if hasattr(session, "keywords_of") else None  # type: ignore[return-value]


class EpisodeModel(Owner):
    """An episode."""

    __table__ = Table(
        "crowdplay_episodes",
        _Base.metadata,
        Column("episode_id", String, primary_key=True),
        Column("environment_id", String, ForeignKey("crowdplay_environments.environment_id")),
    )
    episode_id: Mapped[str]
    environment_id: Mapped[str]
    keyword_data_list: Mapped[list[EpisodeKeywordDataModel]] = relationship(back_populates="episode")
    environment: Mapped[EnvironmentModel] = relationship(back_populates="episodes")

    def _place(self) -> tuple[KeywordTable, str]:
        return "keyword_data", self.episode_id

    def _read_keywords(self, lake: Lake) -> KeywordDict:
        return lake._episode_keywords.of(self.episode_id)

    def get_raw_trajectory(self) -> list[dict[str, Any]]:
        """The list of step dicts that was pickled: about 100 KB a step. Raises NoTrajectory without a pickle."""
        return self._episode().get_raw_trajectory()

    def get_processed_trajectory(
        self, agent: str = DEFAULT_AGENT, framestack_axis_first: bool = False, **options: Any
    ) -> tuple[list[Any], list[int], list[Any], list[int]]:
        """Lists of one agent's (observations, actions, rewards, terminals), one entry per emitted step.

        ``options``: those of `crowdplay_lake.Episode.get_processed_trajectory`. The last step is emitted, too:
        ``final_step=False`` leaves it out where CrowdPlay does.
        """
        episode = self._episode()
        found = episode.get_processed_trajectory(agent, framestack_axis_first, **options)
        rewards = found.rewards
        if episode._row["reward_type"] == "int":
            rewards = rewards.astype(int)
        return list(found.observations), found.actions.tolist(), rewards.tolist(), found.terminals.tolist()

    def update_kwdata(self, agent: str, key: str, value: Any) -> None:
        """Set a value of the episode's keyword data, here at once and in the lake when the session commits."""
        session = _session_of(self)
        if session is None:
            raise InvalidArgument(
                f"episode {self.episode_id} is in no session, and the value would be lost; get it from one:"
                " session.query(EpisodeModel).filter(EpisodeModel.episode_id == …).first()"
            )
        session.update_keyword(self, agent, key, value)

    def run_callable(self, callable: Callable[[dict[str, Any]], dict[str, Any]], key: str) -> None:
        """Call ``callable`` with each step dict in turn; store what it returns for the last, by agent."""
        result: dict[str, Any] = {}
        for step in self._episode().iter_raw_trajectory():
            result = callable(step)
        for agent, value in result.items():
            self.update_kwdata(agent, key, value)

    def _episode(self) -> Episode:
        lake = self._lake()
        if lake is None:
            raise InvalidArgument(f"episode {self.episode_id} was not loaded from a lake")
        return lake.episode(self.episode_id)

    def __repr__(self) -> str:
        return (
            f"<Episode(episode_id={self.episode_id}, environment_id={self.environment_id}, kwdata={self.keyword_data}>"
        )


class EpisodeKeywordDataModel(_Base):
    """A value of an episode's keyword data. In queries ``value`` compares as what it is (see `values`)."""

    __table__ = Table(
        "crowdplay_keyword_data",
        _Base.metadata,
        Column("episode_id", String, ForeignKey("crowdplay_episodes.episode_id"), primary_key=True),
        Column("agent_id", String, primary_key=True),
        Column("key", String, primary_key=True),
        Column("value", KeywordValue),
    )
    episode_id: Mapped[str]
    agent_id: Mapped[str]
    key: Mapped[str]
    value: Mapped[Any]
    episode: Mapped[EpisodeModel] = relationship(back_populates="keyword_data_list")


class EnvironmentModel(Owner):
    """An environment: one sitting, one or more episodes in a row."""

    __table__ = Table(
        "crowdplay_environments",
        _Base.metadata,
        Column("environment_id", String, primary_key=True),
        Column("task_id", String),
    )
    environment_id: Mapped[str]
    task_id: Mapped[str]
    keyword_data_list: Mapped[list[EnvironmentKeywordDataModel]] = relationship(back_populates="environment")
    episodes: Mapped[list[EpisodeModel]] = relationship(back_populates="environment")
    users: Mapped[dict[str, UserModel]] = relationship(
        back_populates="environment", collection_class=attribute_keyed_dict("agent_id")
    )

    def _place(self) -> tuple[KeywordTable, str]:
        return "environment_keyword_data", self.environment_id

    def _read_keywords(self, lake: Lake) -> KeywordDict:
        return lake._keywords_of_environment({"environment_id": self.environment_id})


class EnvironmentKeywordDataModel(_Base):
    """A value of an environment's keyword data. In queries ``value`` compares as what it is (see `values`)."""

    __table__ = Table(
        "crowdplay_environment_keyword_data",
        _Base.metadata,
        Column("environment_id", String, ForeignKey("crowdplay_environments.environment_id"), primary_key=True),
        Column("agent_id", String, primary_key=True),
        Column("key", String, primary_key=True),
        Column("value", KeywordValue),
    )
    environment_id: Mapped[str]
    agent_id: Mapped[str]
    key: Mapped[str]
    value: Mapped[Any]
    environment: Mapped[EnvironmentModel] = relationship(back_populates="keyword_data_list")


class UserModel(_Base):
    """A participant in an environment."""

    __table__ = Table(
        "users",
        _Base.metadata,
        Column("user_id", String, primary_key=True),
        Column("permanent_user_id", String),
        Column("task_id", String),
        Column("environment_id", String, ForeignKey("crowdplay_environments.environment_id")),
        Column("agent_id", String),
    )
    user_id: Mapped[str]
    permanent_user_id: Mapped[str]
    task_id: Mapped[str]
    environment_id: Mapped[str]
    agent_id: Mapped[str]
    environment: Mapped[EnvironmentModel] = relationship(back_populates="users")
