"""Behavioural statistics the slow way: one step after the other, from the raw trajectory.

Those that a recording keeps are the recorder's (`running_statistics`); what CrowdPlay computes afterwards is here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from crowdplay_ingest import running_statistics as running
from crowdplay_lake import Episode

Step = dict[str, Any]
Values = dict[str, Any]  # agent → value so far
Stepper = Callable[[Step], Values]

INVADERS = ("space_invaders", "space_invaders_2p", "space_invaders_ai")
TIMEOUTS = {"montezuma_revenge_mturk": 36_000}


def recorded(statistic: running.Statistic) -> Stepper:
    """A statistic of the recorder, fed with raw steps."""

    def step_by_step(step: Step) -> Values:
        keys = {agent: action["game"] for agent, action in step["action"].items()}
        ram = next(iter(step["info"].values()))["RAM"]
        return dict(statistic(running.Outcome(keys, step["reward"], ram)))

    return step_by_step


def in_135(alien: tuple[int, int], left: running.Aliens) -> bool:
    del left
    return alien[1] in (0, 2, 4)


ORDERS: dict[str, running.Order] = {
    "rowbyrow": running.by_rows,
    "outsidein": running.by_columns_outside_in,
    "insideout": running.by_columns_inside_out,
    "rows135": in_135,
}


class Frequencies:
    """How often each action was done."""

    def __init__(self) -> None:
        self.done: dict[str, Counter[int]] = {}

    def __call__(self, step: Step) -> Values:
        values = {}
        for agent, action in step["action"].items():
            counts = self.done.setdefault(agent, Counter())
            counts[action["game"]] += 1
            values[agent] = [counts[index] / counts.total() for index in range(18)]
        return values


class Presses:
    """The latency of a key that takes effect in this step; None in the others."""

    def __init__(self) -> None:
        self.before: Step | None = None

    def __call__(self, step: Step) -> Values:
        before, self.before = self.before, step
        values: Values = dict.fromkeys(step["action_step_iter"])
        for agent, seen in step["action_step_iter"].items():
            is_new = before is not None and seen != before["action_step_iter"][agent]
            if is_new and step["user_type"][agent] == 1:
                values[agent] = step["step_iter"] - seen
        return values


class Together:
    """Steps in which two people played, or an AI; their number or share."""

    def __init__(self, people: bool, share: bool) -> None:
        self.people, self.share = people, share
        self.counted = self.steps = 0

    def __call__(self, step: Step) -> Values:
        kinds = list(step["user_type"].values())
        self.steps += 1
        self.counted += kinds == [1, 1] if self.people else 2 in kinds
        return {"all": self.counted / self.steps if self.share else self.counted}


def steppers(episode: Episode) -> dict[str, Stepper]:
    """The statistics that are defined for an episode, by name, each at its beginning."""
    agents = episode.agents
    timeout = TIMEOUTS.get(episode.environment.task_id or "", 3_600)
    makers: dict[str, running.Statistic] = {
        "score": running.Score(agents),
        "time_played": running.TimePlayed(agents),
        "active_playtime": running.ActiveTime(agents, reward_timeout=timeout),
    }
    if episode.game in INVADERS:
        makers |= _of_invaders(agents)
    if episode.game == "riverraid":
        makers["left"] = running.PositionShare(agents, running.riverraid_position, -1000, 5)
        makers["right"] = running.PositionShare(agents, running.riverraid_position, -5, 1000)
    others: dict[str, Stepper] = {"actions": Frequencies(), "latency": Presses()}
    if len(agents) == 2:
        for who in ("humanhuman", "humanai"):
            others[f"frames_{who}"] = Together(who == "humanhuman", share=False)
            others[f"frames_{who}_share"] = Together(who == "humanhuman", share=True)
    return {name: recorded(maker) for name, maker in makers.items()} | others


def _of_invaders(agents: Sequence[str]) -> dict[str, running.Statistic]:
    side = partial(running.PositionShare, agents, running.space_invaders_position)
    made: dict[str, running.Statistic] = {
        "left": side(0, 0.5),
        "right": side(0.5, 1),
        "aliens_shot": running.AliensShot(agents),
        "accuracy": running.Accuracy(agents),
    }
    for name, order in ORDERS.items():
        made[name] = running.AliensInOrder(agents, order, share=True)
        made[f"{name}_total"] = running.AliensInOrder(agents, order, share=False)
    return made
