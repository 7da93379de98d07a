"""One step of a raw trajectory after the other into the rows of `steps` and `frames`. Every field is kept.

What fits a column goes there; whatever does not (another type, other keys, other agents) goes into `extra`, so that
`crowdplay_lake.trajectory` gives back what was pickled. `extra` of a row holds what is of its agent; what is of no one
agent lies under its key "step" in the row of the first agent.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from crowdplay_lake.content import content_hash
from crowdplay_lake.errors import LimitExceeded, UnsupportedTrajectory
from crowdplay_lake.games import ACTION_MEANINGS, is_frame_limit
from crowdplay_lake.keywords import is_storable
from crowdplay_lake.parts import EpisodeRows
from crowdplay_lake.pixels import KEYFRAME_INTERVAL, ScreenEncoder
from crowdplay_lake.schema import ALL_AGENTS, FRAMES, RAM_BYTES, RAM_DTYPE
from crowdplay_lake.tagged import dumps

from .machine import Limits
from .rows import AgentRows, FirstDone, Held, Rows, ScreenRows

__all__ = ["ROW_BYTES", "ConvertedEpisode", "Converter"]

_MISSING = object()
_INT32 = range(-(2**31), 2**31)
# The machine makes these types and no subclasses of them.
_INTEGERS = frozenset({int, *(np.dtype(code).type for code in "bBhHiIlLqQ")})
_FLOATS = frozenset({float, np.float16, np.float32, np.float64})
_BOOLS = frozenset({bool, np.bool_})
# Integers that a DOUBLE column holds exactly.
_EXACT = 2**53
# Of an agent, in characters: each row has it.
_LONGEST_NAME = 256
# What a row of `steps` takes at least while it waits: its RAM, and Python's numbers and lists.
ROW_BYTES = 512
# Rows that take as much are put away before there are enough of them for a piece of the usual size.
_MUCH = 32 * 2**20

_STATISTICS = ("task_callables", "episode_callables")
_BY_AGENT = ("action", "action_step_iter", "reward", "done", "user_type")
_KNOWN = {"prev_obs", "step_iter", "info", *_BY_AGENT, *_STATISTICS}


@dataclass(frozen=True)
class ConvertedEpisode:
    """The rows of one episode and what the `episodes` table says of it."""

    rows: EpisodeRows
    facts: Mapping[str, Any]  # the columns of EPISODES that come from the trajectory

    @property
    def n_steps(self) -> int:
        return int(self.facts["n_steps"])


def _as_int(value: Any) -> int | None:
    """A whole number that an INT32 column holds, else None. Bools are not numbers here."""
    if type(value) not in _INTEGERS:
        return None
    number = int(value)
    return number if number in _INT32 else None


def _variant(observation: object) -> str:
    if isinstance(observation, dict):
        return "full"
    if isinstance(observation, np.ndarray):
        return "gym" if observation.ndim == 3 and observation.shape[-1] == 3 else "rollout"
    raise UnsupportedTrajectory(f"prev_obs holds {type(observation).__name__} where a frame is expected")


class Converter:
    """The rows of an episode so far; ``first`` is its first step, which tells what it is like.

    `add` raises UnsupportedTrajectory where a step cannot be kept whole, LimitExceeded where it is too much.
    """

    def __init__(self, first: dict[str, Any], limits: Limits, keyframe_interval: int) -> None:
        observations = first.get("prev_obs")
        if not isinstance(observations, dict) or not observations:
            raise UnsupportedTrajectory("no prev_obs: a step holds the frame of each agent there")
        for agent in observations:
            is_name = isinstance(agent, str) and len(agent) <= _LONGEST_NAME and is_storable(agent)
            if not is_name or agent == ALL_AGENTS:
                raise UnsupportedTrajectory(f"{agent!r} cannot be the name of an agent")
        self.agents = list(observations)
        self.variant = _variant(observations[self.agents[0]])
        self.reward_type = self._reward_type(first)
        if len(self.agents) > limits.max_agents:
            raise LimitExceeded(f"more than {limits.max_agents} agents")
        self.limits = limits
        self.held = Held(limits.max_episode_bytes)
        self.rows = {agent: AgentRows() for agent in self.agents}
        columns = (self._action, self._action_step_iter, self._reward, self._done, self._user_type)
        # Each field's column, and the keys that it has a place for.
        self.fields = [
            (key, column, {*self.agents, "__all__"} if key == "done" else set(self.agents))
            for key, column in zip(_BY_AGENT, columns, strict=True)
        ]
        self.flushed = 0  # steps that are in pieces
        self.step_iter: list[int | None] = []
        self.done_all: list[bool | None] = []
        encoder = ScreenEncoder(self.frame(observations, self.agents[0]).shape, keyframe_interval)
        # Two players share one screen until a step shows otherwise.
        self.screens = {ALL_AGENTS if len(self.agents) > 1 else self.agents[0]: ScreenRows(encoder)}

    def begin_alike(self, first: dict[str, Any]) -> Converter:
        """A converter of no rows yet that would treat this step as this one does. Raises ValueError if none would."""
        other = Converter(first, self.limits, KEYFRAME_INTERVAL)
        if (other.agents, other.variant, other._shapes()) != (self.agents, self.variant, self._shapes()):
            raise ValueError("the step begins another episode")
        other.reward_type = self.reward_type
        return other

    def _shapes(self) -> list[tuple[int, ...]]:
        return [screen.encoder.shape for screen in self.screens.values()]

    @property
    def steps_left(self) -> int:
        """How many more steps an episode may have."""
        return self.limits.max_steps - self.flushed - len(self.step_iter)

    def _reward_type(self, first: Mapping[str, Any]) -> str:
        rewards = first.get("reward")
        reward = rewards.get(self.agents[0]) if isinstance(rewards, dict) else None
        return "float" if type(reward) in _FLOATS else "int"

    def add(self, step: dict[str, Any]) -> None:
        """The rows of the next step."""
        self._make_room()
        extra: dict[str, dict[str, Any]] = {agent: {} for agent in self.agents}
        of_step: dict[str, Any] = {key: step[key] for key in step if key not in _KNOWN}
        self._add_frames(step, extra)
        self._add_step_iter(step, of_step)
        self._add_agent_fields(step, extra, of_step)
        self._add_info(step, extra, of_step)
        for key in _STATISTICS:
            if key in step:
                self._add_statistics(key, step[key], extra, of_step)
        if of_step:
            extra[self.agents[0]]["step"] = of_step
        for agent in self.agents:
            own = extra[agent]
            text = dumps(own, tag_numpy=False) if own else None
            self.rows[agent].extra.append(text)
            self.held.add(ROW_BYTES if text is None else ROW_BYTES + len(text))

    # Frames

    def frame(self, observations: Any, agent: str) -> npt.NDArray[np.uint8]:
        observation = observations.get(agent, _MISSING) if isinstance(observations, dict) else _MISSING
        if self.variant == "full":
            observation = observation.get("image", _MISSING) if isinstance(observation, dict) else _MISSING
        if not isinstance(observation, np.ndarray):
            raise UnsupportedTrajectory(f"no frame of agent {agent!r} in prev_obs")
        return observation

    def _add_frames(self, step: Mapping[str, Any], extra: Mapping[str, dict[str, Any]]) -> None:
        observations = step.get("prev_obs")
        frames = [self.frame(observations, agent) for agent in self.agents]
        if isinstance(observations, dict) and len(observations) > len(self.agents):
            raise UnsupportedTrajectory(f"new agents appear: {sorted(set(map(str, observations)) - set(self.agents))}")
        if self.variant == "full":
            for agent in self.agents:
                inner = observations[agent]  # type: ignore[index]
                if type(inner) is not OrderedDict or next(iter(inner)) != "image":
                    # Another dict than CrowdPlay's, or another order: keep the image's place.
                    extra[agent]["prev_obs"] = type(inner)((k, None if k == "image" else v) for k, v in inner.items())
                elif len(inner) > 1:
                    extra[agent]["prev_obs"] = {k: v for k, v in inner.items() if k != "image"}
        first = frames[0]
        if ALL_AGENTS in self.screens and any(
            f is not first and not (f.dtype == first.dtype and np.array_equal(f, first)) for f in frames
        ):
            shared = self.screens[ALL_AGENTS]
            self.screens = {agent: shared.fork() for agent in self.agents}
        for frame, screen in zip(frames, self.screens.values(), strict=False):
            self.held.add(screen.add(frame))

    # Fields with a column

    def _add_step_iter(self, step: Mapping[str, Any], of_step: dict[str, Any]) -> None:
        step_iter = _as_int(step.get("step_iter"))
        if step_iter is None and "step_iter" in step:
            of_step["step_iter"] = step["step_iter"]
        self.step_iter.append(step_iter)

    def _add_agent_fields(
        self, step: Mapping[str, Any], extra: Mapping[str, dict[str, Any]], of_step: dict[str, Any]
    ) -> None:
        for key, column, known in self.fields:
            value = step.get(key, _MISSING)
            by_agent = value if isinstance(value, dict) else {}
            for agent, rows in self.rows.items():
                raw = by_agent.get(agent, _MISSING)
                kept, exact = column(raw)
                getattr(rows, key).append(kept)
                if raw is not _MISSING and not exact:
                    extra[agent][key] = raw
            if value is not _MISSING and (type(value) is not dict or not value.keys() <= known or not value):
                # Not a plain dict over the agents: kept as it is, and it wins over the columns.
                of_step[key] = value
        self._add_done_all(step.get("done"), of_step)

    def _add_done_all(self, done: object, of_step: dict[str, Any]) -> None:
        done_all = done.get("__all__", _MISSING) if isinstance(done, dict) else _MISSING
        is_bool = type(done_all) in _BOOLS
        self.done_all.append(bool(done_all) if is_bool else None)
        if done_all is not _MISSING and not is_bool:
            of_step["done"] = done

    def _action(self, raw: object) -> tuple[int | None, bool]:
        if self.variant == "full":
            if isinstance(raw, dict):
                number = _as_int(raw.get("game"))
                return number, number is not None and len(raw) == 1 and type(raw) is dict
            return _as_int(raw), False
        number = _as_int(raw)
        return number, number is not None

    @staticmethod
    def _action_step_iter(raw: object) -> tuple[int | None, bool]:
        number = _as_int(raw)
        return number, number is not None

    _user_type = _action_step_iter

    def _reward(self, raw: Any) -> tuple[float | None, bool]:
        is_float = type(raw) in _FLOATS
        if not is_float and type(raw) not in _INTEGERS:
            return None, False
        exact = is_float == (self.reward_type == "float") and (is_float or abs(int(raw)) <= _EXACT)
        try:
            return float(raw), exact
        except OverflowError:
            return None, False

    @staticmethod
    def _done(raw: object) -> tuple[bool | None, bool]:
        is_bool = type(raw) in _BOOLS
        return (bool(raw) if is_bool else None), is_bool

    # Info and statistics

    def _add_info(self, step: Mapping[str, Any], extra: Mapping[str, dict[str, Any]], of_step: dict[str, Any]) -> None:
        info = step.get("info", _MISSING)
        by_agent = info if isinstance(info, dict) else {}
        for agent in self.agents:
            self._add_agent_info(agent, by_agent.get(agent, _MISSING), extra[agent])
        is_plain = type(info) is dict and not any(type(own) is OrderedDict for own in info.values())
        if info is not _MISSING and (not is_plain or not by_agent.keys() <= set(self.agents) or not info):
            of_step["info"] = info

    def _add_agent_info(self, agent: str, info: object, extra: dict[str, Any]) -> None:
        rows = self.rows[agent]
        others = dict(info) if isinstance(info, dict) else {}
        lives = _as_int(others.get("ale.lives"))
        if lives is not None:
            del others["ale.lives"]
        rows.lives.append(lives)
        ram = _ram_bytes(others.get("RAM"))
        if ram is not None and isinstance(given := others.pop("RAM"), np.ndarray):
            extra[RAM_DTYPE] = given.dtype.str
        rows.ram += bytes(RAM_BYTES) if ram is None else ram
        rows.has_ram.append(ram is not None)
        if info is not _MISSING and not isinstance(info, dict):
            extra["info"] = info
        elif others or (info is not _MISSING and lives is None and ram is None):
            extra["info"] = others

    def _add_statistics(
        self, key: str, value: object, extra: Mapping[str, dict[str, Any]], of_step: dict[str, Any]
    ) -> None:
        if type(value) is not dict or not value or not all(isinstance(name, str) for name in value):
            of_step[key] = value
            return
        for name, by_agent in value.items():
            if type(by_agent) is dict and by_agent.keys() == self.rows.keys():
                for agent in self.agents:
                    extra[agent].setdefault(key, {})[name] = by_agent[agent]
            else:
                of_step.setdefault(key, {})[name] = by_agent

    # Rows

    def _make_room(self) -> None:
        """Put the rows away in pieces, where the next row begins one: each piece of frames begins with a keyframe."""
        rows = len(self.step_iter)
        if self.steps_left <= 0:
            raise LimitExceeded(f"more than {self.limits.max_steps:,} steps")
        is_much = rows >= FRAMES.row_group_rows or self.held.pending > _MUCH
        if rows and is_much and next(iter(self.screens.values())).encoder.at_keyframe:
            self._flush()

    def _flush(self) -> None:
        self.held.pending = 0
        for screen in self.screens.values():
            self.held.keep(screen.flush())
        for rows in self.rows.values():
            self.held.keep(rows.flush(self.flushed, self.step_iter, self.done_all))
        self.flushed += len(self.step_iter)
        self.step_iter, self.done_all = [], []

    def finish(self, episode_id: str, game: str) -> ConvertedEpisode:
        """All rows, once the last step is in."""
        self._flush()
        screen_agents = sorted(self.screens)
        steps = Rows(episode_id, [(agent, self.rows[agent].pieces) for agent in sorted(self.agents)])
        frames = [Rows(episode_id, [(agent, self.screens[agent].pieces)]) for agent in screen_agents]
        rows = EpisodeRows(steps, frames)
        first_done = [self.rows[agent].first_done for agent in self.agents]
        facts: dict[str, Any] = {
            "episode_id": episode_id,
            "agents": self.agents,
            "n_steps": self.flushed,
            "first_done_step": [None if done is None else done.step for done in first_done],
            "frame_limit_reached": [_is_frame_limit(game, done) for done in first_done],
            "screen_agents": screen_agents,
            "frame_shape": list(self.screens[screen_agents[0]].encoder.shape),
            "palettes": [self.screens[agent].encoder.palette.tobytes() for agent in screen_agents],
            "action_meanings": list(ACTION_MEANINGS[game]) if game in ACTION_MEANINGS else None,
            "reward_type": self.reward_type,
            "variant": self.variant,
        }
        facts["content_hash"] = content_hash(rows, facts)
        return ConvertedEpisode(rows, facts)


def _is_frame_limit(game: str, done: FirstDone | None) -> bool:
    if done is None or not done.everybody:
        return False
    return is_frame_limit(game, done.step, done.lives, done.played_with_none, done.ram)


def _ram_bytes(ram: object) -> bytes | None:
    """The 128 bytes of a RAM, a list or an array of whole numbers; None where it is anything else."""
    if isinstance(ram, np.ndarray) and ram.shape == (RAM_BYTES,) and ram.dtype.kind in "iu":
        ram = ram.tolist()
    if type(ram) is not list or len(ram) != RAM_BYTES or not set(map(type, ram)) <= _INTEGERS:
        return None
    try:
        return bytes(ram)
    except ValueError:
        return None
