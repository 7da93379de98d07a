"""From tables back to the raw trajectory: the step dicts, equal to what was pickled.

numpy scalars come back as the Python ones they equal; two agents that share a screen share the frame's array.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from .schema import RAM_COLUMNS, RAM_DTYPE
from .tagged import loads

__all__ = ["AgentSteps", "raw_steps"]

_BY_AGENT = ("action", "action_step_iter", "reward", "done", "user_type")
_STATISTICS = ("task_callables", "episode_callables")


@dataclass(frozen=True)
class AgentSteps:
    """An agent's rows of `steps` as Python values, and what they say of more than a column can."""

    columns: Mapping[str, Sequence[Any]]
    ram: np.ndarray[Any, np.dtype[np.uint8]]  # (n, 128)
    has_ram: np.ndarray[Any, np.dtype[np.bool_]]  # (n,)

    @classmethod
    def of(cls, rows: pa.Table) -> AgentSteps:
        """From the agent's rows of `steps`, in the order of the steps."""
        names = ("step_iter", *_BY_AGENT, "done_all", "lives", "extra")
        ram = [rows[name].fill_null(0).to_numpy() for name in RAM_COLUMNS]
        return cls(
            {name: rows[name].to_pylist() for name in names},
            np.stack(ram, axis=1).astype(np.uint8),
            rows[RAM_COLUMNS[0]].is_valid().to_numpy(),
        )


def raw_steps(
    steps: Mapping[str, AgentSteps],
    frames: Iterator[Mapping[str, np.ndarray[Any, Any]]],
    variant: str,
    reward_type: str,
) -> Iterator[dict[str, Any]]:
    """The step dicts of a trajectory, one by one.

    ``steps``: by agent, in the trajectory's order of agents. ``frames``: for each step, each agent's frame.
    """
    for index, shown in enumerate(frames):
        yield _step(steps, shown, index, variant, reward_type)


def _step(
    steps: Mapping[str, AgentSteps],
    frames: Mapping[str, np.ndarray[Any, Any]],
    index: int,
    variant: str,
    reward_type: str,
) -> dict[str, Any]:
    extras = {agent: _extra(rows, index) for agent, rows in steps.items()}
    of_step: dict[str, Any] = next(iter(extras.values())).pop("step", {})
    step: dict[str, Any] = {"prev_obs": _observations(frames, extras, variant)}
    first = next(iter(steps.values()))
    for key in _BY_AGENT:
        by_agent: dict[str, Any] = {}
        for agent, rows in steps.items():
            if key in extras[agent]:
                by_agent[agent] = extras[agent][key]
            elif (value := rows.columns[key][index]) is not None:
                by_agent[agent] = _from_column(key, value, variant, reward_type)
        if key == "done" and (done_all := first.columns["done_all"][index]) is not None:
            by_agent["__all__"] = done_all
        if by_agent:
            step[key] = by_agent
    if info := _info(steps, extras, index):
        step["info"] = info
    if (step_iter := first.columns["step_iter"][index]) is not None:
        step["step_iter"] = step_iter
    for key in _STATISTICS:
        if statistics := _statistics(key, extras):
            step[key] = statistics
    for key, value in of_step.items():
        if key in _STATISTICS and type(value) is dict:
            step[key] = {**value, **step.get(key, {})}
        else:
            step[key] = value
    return step


def _extra(rows: AgentSteps, index: int) -> dict[str, Any]:
    text = rows.columns["extra"][index]
    extra: dict[str, Any] = {} if text is None else loads(text)
    return extra


def _from_column(key: str, value: Any, variant: str, reward_type: str) -> Any:
    if key == "action":
        return {"game": value} if variant == "full" else value
    if key == "reward":
        return int(value) if reward_type == "int" else value
    return value


def _observations(
    frames: Mapping[str, np.ndarray[Any, Any]], extras: Mapping[str, Mapping[str, Any]], variant: str
) -> dict[str, Any]:
    if variant != "full":
        return dict(frames)
    return {agent: _with_image(frame, extras[agent].get("prev_obs", {})) for agent, frame in frames.items()}


def _with_image(frame: np.ndarray[Any, Any], others: dict[str, Any]) -> dict[str, Any]:
    if "image" in others:
        # Another dict than CrowdPlay's, or another order: the image's place is told.
        return type(others)((key, frame if key == "image" else value) for key, value in others.items())
    return OrderedDict({"image": frame, **others})


def _info(steps: Mapping[str, AgentSteps], extras: Mapping[str, Mapping[str, Any]], index: int) -> dict[str, Any]:
    info: dict[str, Any] = {}
    for agent, rows in steps.items():
        own: Any = extras[agent].get("info")
        lives = rows.columns["lives"][index]
        if lives is not None or rows.has_ram[index]:
            own = dict(own or {})
            if lives is not None:
                own["ale.lives"] = lives
            if rows.has_ram[index]:
                dtype = extras[agent].get(RAM_DTYPE)
                own["RAM"] = rows.ram[index].astype(dtype) if dtype else rows.ram[index].tolist()
        elif "info" not in extras[agent]:
            continue
        info[agent] = own
    return info


def _statistics(key: str, extras: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    statistics: dict[str, Any] = {}
    for agent, extra in extras.items():
        for name, value in extra.get(key, {}).items():
            statistics.setdefault(name, {})[agent] = value
    return statistics
