"""CrowdPlay's way with metadata, re-created to compare with: its tables as SQLAlchemy classes over SQLite, values
pickled, and dicts that each episode and environment makes of its own rows as it is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Column, ForeignKey, PickleType, String, create_engine
from sqlalchemy.orm import DeclarativeBase, Session, reconstructor, relationship

__all__ = ["CrowdPlayEnvironment", "CrowdPlayEpisode", "CrowdPlayEpisodeValue", "crowdplay_session"]


class _Base(DeclarativeBase):
    pass


class _WithKeywords:
    values: Any
    keyword_data: dict[str, dict[str, Any]]

    @reconstructor
    def read_keywords(self) -> None:
        # Twice over the rows, as CrowdPlay goes.
        data: dict[str, dict[str, Any]] = {row.agent_id: {} for row in self.values}
        for row in self.values:
            data[row.agent_id][row.key] = row.value
        self.keyword_data = data


class CrowdPlayEnvironment(_WithKeywords, _Base):
    __tablename__ = "environments"
    environment_id = Column(String(255), primary_key=True)
    task_id = Column(String(255), nullable=False)
    episodes = relationship("CrowdPlayEpisode", back_populates="environment")
    values = relationship("CrowdPlayEnvironmentValue", back_populates="environment")


class CrowdPlayEpisode(_WithKeywords, _Base):
    __tablename__ = "episodes"
    episode_id = Column(String(255), primary_key=True)
    environment_id = Column(String(255), ForeignKey("environments.environment_id"), nullable=False)
    environment = relationship("CrowdPlayEnvironment", back_populates="episodes")
    values = relationship("CrowdPlayEpisodeValue", back_populates="episode")


class CrowdPlayEpisodeValue(_Base):
    __tablename__ = "episodekeyworddata"
    episode_id = Column(String(255), ForeignKey("episodes.episode_id"), primary_key=True)
    agent_id = Column(String(255), primary_key=True)
    key = Column(String(255), primary_key=True)
    value = Column(PickleType, nullable=False)
    episode = relationship("CrowdPlayEpisode", back_populates="values")


class CrowdPlayEnvironmentValue(_Base):
    __tablename__ = "environmentkeyworddata"
    environment_id = Column(String(255), ForeignKey("environments.environment_id"), primary_key=True)
    agent_id = Column(String(255), primary_key=True)
    key = Column(String(255), primary_key=True)
    value = Column(PickleType, nullable=False)
    environment = relationship("CrowdPlayEnvironment", back_populates="values")


def crowdplay_session(database: Path) -> Session:
    """A session over a `dataset.sqlite`: of files that were written here, for it unpickles them."""
    return Session(create_engine(f"sqlite:///{database}"), expire_on_commit=False)
