"""What is told of an export and of each of its episodes, as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from ...tagged import dumps
from .content import Content, Exported

__all__ = ["about_content", "about_episode", "as_text"]


def about_content(content: Content) -> dict[str, Any]:
    """What the whole export is and how it was made: plain JSON."""
    conversion, snapshot = content.conversion, content.source[0].snapshot
    return {
        "made_by": f"crowdplay-lake {version('crowdplay-lake')}",
        "lake": str(snapshot.paths.root),
        "commit": snapshot.number,
        **asdict(conversion),
        "observations": content.kind,
        "observation_shape": list(content.observation_shape),
        "observation_parameters": asdict(content.parameters),
        "action_size": content.action_size,
        "action_meanings": content.action_meanings,
        "episodes": len(content.lengths),
        "decisions": len(content),
        "columns": {column.name: column.doc for column in content.columns},
    }


def about_episode(exported: Exported) -> dict[str, Any]:
    """The metadata of an episode: all plain but ``keyword_data``, whose values are Python's, as in the lake."""
    episode, segment, agent = exported.episode, exported.segment, exported.content.conversion.agent
    row = episode.row
    user = episode.environment.users.get(agent)
    done, at_frame_limit = episode.first_done(agent)
    return {
        "episode_id": episode.episode_id,
        "agent_id": agent,
        "environment_id": episode.environment_id,
        "game": episode.game,
        "task": row["task"],
        "task_id": row["task_id"],
        "source": row["source"],
        "created_on": None if row["created_on"] is None else row["created_on"].isoformat(),
        "user_id": user and user.user_id,
        "permanent_user_id": user and user.permanent_user_id,
        "agents": episode.agents,
        "action_meanings": episode.action_meanings,
        "n_steps": len(episode),
        "first_done_step": done,
        "frame_limit_reached": at_frame_limit,
        "decisions": len(segment),
        "first_step": int(segment.steps[0]),
        "last_step": int(segment.steps[-1]),
        "end": "terminal" if segment.terminal else "timeout",
        "lake": str(episode.snapshot.paths.root),
        "commit": episode.snapshot.number,
        "content_hash": row["content_hash"],
        "keyword_data": {"episode": episode.keyword_data, "environment": episode.environment.keyword_data},
    }


def as_text(record: Mapping[str, Any]) -> str:
    """A record as ASCII JSON in one line; `crowdplay_lake.tagged.loads` gives durations, dates and the like back."""
    return dumps(dict(record), tag_numpy=False)
