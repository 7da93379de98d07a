"""What the player is told of an episode before its film begins."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote_plus

from ..episode import Episode
from ..lake import Lake
from .curves import available
from .film import CHUNK, SEEN, SEEN_CHUNK
from .step_table import is_rollout
from .values import cell

__all__ = ["described", "first_asked", "query_of"]

STEPS_A_SECOND = 60
# A row of a roll-out is a decision: so many frames of the emulator.
STEPS_A_DECISION = 4


def described(lake: Lake, episode: Episode) -> dict[str, Any]:
    """Metadata, agents, the screen and its colours. Raises NoTrajectory where only the metadata is known."""
    shape = episode.frame_shape
    row = episode._row
    screens = row["screen_agents"]
    palettes = [list(palette) for palette in row["palettes"]]
    is_rgb = len(shape) == 3 and shape[2] == 3
    width = shape[1] if is_rgb else shape[-1]
    # The grey frames of a stack of them lie one below the other.
    height = math.prod(shape[:2] if is_rgb else shape) // width
    users = episode.environment.users
    decision = STEPS_A_DECISION if is_rollout(episode) else 1
    agents = []
    for index, agent in enumerate(episode.agents):
        first_done, at_limit = episode.first_done(agent)
        user = users.get(agent)
        agents.append(
            {
                "id": agent,
                "palette": palettes[0 if len(screens) == 1 else index],
                "first_done": first_done,
                "frame_limit": at_limit,
                "participant": user.permanent_user_id if user else None,
                "keywords": {str(key): cell(value) for key, value in episode.keyword_data.get(agent, {}).items()},
            }
        )
    return {
        "id": episode.episode_id,
        "commit": lake.commit,
        "game": episode.game,
        "task": row["task"],
        "source": row["source"],
        "created_on": cell(row["created_on"]),
        "environment_id": episode.environment_id,
        "steps": len(episode),
        "steps_a_second": STEPS_A_SECOND / decision,
        "height": int(height),
        "width": int(width),
        "channels": 3 if is_rgb else 1,
        "shared_screen": len(screens) == 1,
        "agents": agents,
        "actions": episode.action_meanings,
        "keywords": {str(key): cell(value) for key, value in episode.keyword_data.get("all", {}).items()},
        "chunk": CHUNK,
        "seen_chunk": SEEN_CHUNK,
        "seen": {"size": SEEN.warp_width, "skip": 4, "stack": 4} if is_rgb else None,
        "curves": available(episode),
    }


def first_asked(lake: Lake, episode: Episode, asked: Mapping[str, str]) -> list[str]:
    """The addresses that the player asks first: what the episode is, and the film at the step of the page's address."""
    common = {"id": episode.episode_id, "commit": str(lake.commit)}
    addresses = [f"/api/episode{query_of(common)}"]
    if episode.has_trajectory:
        agent = asked.get("agent", "")
        agent = agent if agent in episode.agents else episode.agents[0]
        chunk = _first_step(asked.get("step", ""), len(episode)) // CHUNK
        addresses.append(f"/api/film{query_of({**common, 'agent': agent, 'chunk': str(chunk)})}")
    return addresses


def _first_step(text: str, steps: int) -> int:
    """As the player reads it: beyond the episode is its last step, and what is no number is its first."""
    if not (text.isascii() and text.isdigit()):
        return 0
    return steps - 1 if len(text) > 9 else min(int(text), steps - 1)


def query_of(parameters: Mapping[str, str]) -> str:
    """As the browser's URLSearchParams writes it: only where addresses are the same does it find what it has asked."""
    pairs = (f"{quote_plus(name)}={quote_plus(value, safe='*')}" for name, value in parameters.items())
    return "?" + "&".join(pairs).replace("~", "%7E")
