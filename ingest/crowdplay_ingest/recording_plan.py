"""Plans: who plays which task, how often and how well, and how each episode ends."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from crowdplay_ingest.players import SKILLED
from crowdplay_ingest.recording_tasks import GAMES, TASKS, Game, game_named, task_named
from crowdplay_lake.errors import InvalidArgument, UnknownName
from crowdplay_lake.games import ACTION_MEANINGS

__all__ = ["EnvironmentPlan", "EpisodePlan", "check_plan", "sample_plan"]

_PLAYERS = ("sticky", "skilled")
_STEPS_PER_SECOND = 60


@dataclass(frozen=True)
class EpisodePlan:
    """One episode. Steps are counted from 1, as ``step_iter`` is.

    Attributes:
        max_steps: the person stops after this step at the latest; an episode that ends so has no terminal.
        players: "sticky" or "skilled" for each agent.
        takeover_step: the first step at which an AI plays for the last agent, whose person has gone.
        out_step: the first step at which the first agent has no life left (−1) while the other plays on: its
            ``done`` stays true and its keys do nothing. CrowdPlay's code allows it and other games do it, but
            in every mode of Space Invaders the two ships share their lives, so here this is arranged: the
            one thing in a recording that the game did not do by itself.
        lost_steps: steps that were played and not stored, so that ``step_iter`` skips them. CrowdPlay loses
            one when an AI joins in the middle of a step; the next row then still shows the older frame.
        frame_limit: overrides the limit of the recording.
        keys: what an AI pressed, a key for each step: it is played again, in place of ``players``, and the
            episode ends with the last key at the latest. For one-player games.
    """

    max_steps: int
    players: tuple[str, ...] = ("sticky",)
    takeover_step: int | None = None
    out_step: int | None = None
    lost_steps: tuple[int, ...] = ()
    frame_limit: int | None = None
    keys: tuple[int, ...] | None = None

    @classmethod
    def of_keys(cls, keys: Iterable[int]) -> EpisodePlan:
        """The episode in which an AI pressed these keys."""
        pressed = tuple(map(int, keys))
        return cls(max_steps=len(pressed), players=(), keys=pressed)


@dataclass(frozen=True)
class EnvironmentPlan:
    """One environment: its task, the episodes played in a row, and the persons at the controls.

    The same name stands for the same person everywhere, and gives the same ``permanent_user_id``. Where an AI's keys
    are played again there is nobody. ``about``: further keyword data of the environment, or other values than the
    task's, such as ``{"source": "agent"}``.
    """

    task_id: str
    episodes: tuple[EpisodePlan, ...]
    participants: tuple[str, ...]
    about: Mapping[str, str | int | float | datetime] = field(default_factory=dict)


def check_plan(plan: Sequence[EnvironmentPlan]) -> None:
    """Raises if the plan cannot be played: ``UnknownName``, or ``InvalidArgument`` with every fault."""
    for environment in plan:
        task_named(environment.task_id)
        for name in {name for episode in environment.episodes for name in episode.players}:
            if name not in _PLAYERS:
                raise UnknownName(name, _PLAYERS, where="the recorder's players")
    faults = [
        f"environment {index} ({environment.task_id}): {fault}"
        for index, environment in enumerate(plan)
        for fault in _environment_faults(environment)
    ]
    if faults:
        raise InvalidArgument("; ".join(faults))


def _environment_faults(environment: EnvironmentPlan) -> Iterator[str]:
    game = GAMES[TASKS[environment.task_id].game]
    people = 0 if all(episode.keys is not None for episode in environment.episodes) else game.people
    if environment.episodes and len(environment.participants) != people:
        yield f"{len(environment.participants)} participants for a game of {people} people"
    if not environment.episodes:
        yield "no episode"
    for number, episode in enumerate(environment.episodes):
        for fault in _episode_faults(environment.task_id, episode):
            yield f"episode {number}: {fault}"


def _episode_faults(task_id: str, episode: EpisodePlan) -> Iterator[str]:
    name = TASKS[task_id].game
    game = GAMES[name]
    if episode.keys is not None:
        yield from _keys_faults(name, game, episode)
        return
    if len(episode.players) != len(game.agents):
        yield f"{len(episode.players)} players for {len(game.agents)} agents"
    if "skilled" in episode.players and name not in SKILLED:
        yield f"nobody plays {name} well; skilled players are for {', '.join(SKILLED)}"
    if episode.max_steps < 1:
        yield f"max_steps is {episode.max_steps}; at least 1"
    if episode.frame_limit is not None and episode.frame_limit < 1:
        yield f"frame_limit is {episode.frame_limit}; at least 1"
    if episode.takeover_step is not None and (game.people < len(game.agents) or name not in SKILLED):
        yield f"takeover_step: no AI can take over a person's place in {name}"
    if episode.out_step is not None and len(game.agents) < 2:
        yield f"out_step: {name} has no second agent to play on"


def _keys_faults(name: str, game: Game, episode: EpisodePlan) -> Iterator[str]:
    keys = episode.keys or ()
    if len(game.agents) > 1:
        yield f"keys are of one player, {name} is played by {len(game.agents)}"
    if episode.players:
        yield f"keys are an AI's, there are players besides: {', '.join(episode.players)}"
    if episode.max_steps != len(keys) or not keys:
        yield f"max_steps is {episode.max_steps} with {len(keys)} keys; as many as keys, and one at least"
    actions = len(ACTION_MEANINGS[name])
    if wrong := sorted({key for key in keys if not 0 <= key < actions}):
        yield f"{name} has keys 0 to {actions - 1}, not {', '.join(map(str, wrong[:5]))}"


def sample_plan(seconds: float = 20.0, games: Iterable[str] | None = None, seed: int = 0) -> list[EnvironmentPlan]:
    """A varied plan over the eight games: thirteen tasks, every kind of episode, people who come back.

    ``seconds`` of game time (60 steps each) is about what a stopped episode lasts; one that is played to the
    end may take three times as long, if the player lasts. ``games`` keeps the tasks of these games only, and
    ``seed`` varies the lengths. Raises ``UnknownName`` and ``InvalidArgument``.
    """
    if seconds <= 0:
        raise InvalidArgument(f"seconds is {seconds}; an episode needs some time")
    wanted = None if games is None else set(games)
    for name in sorted(wanted or ()):
        game_named(name)
    steps = max(8, round(seconds * _STEPS_PER_SECOND))
    plan = [_vary(environment, seed) for environment in _everything(steps)]
    return [environment for environment in plan if wanted is None or TASKS[environment.task_id].game in wanted]


def _vary(environment: EnvironmentPlan, seed: int) -> EnvironmentPlan:
    # By task, so that a plan of some games is part of the plan of all.
    chance = random.Random(f"{seed}/{environment.task_id}")
    episodes = tuple(
        replace(episode, max_steps=round(episode.max_steps * chance.uniform(0.9, 1.1)))
        for episode in environment.episodes
    )
    return replace(environment, episodes=episodes)


def _everything(steps: int) -> list[EnvironmentPlan]:
    stopped = EpisodePlan(steps)
    to_the_end = EpisodePlan(3 * steps)
    well = EpisodePlan(steps, ("skilled",))
    time_limit = EpisodePlan(2 * steps, ("skilled",), frame_limit=steps // 2)
    both_well = EpisodePlan(steps, ("skilled", "skilled"))
    takeover = EpisodePlan(steps, ("sticky", "sticky"), takeover_step=steps // 2, lost_steps=(steps // 2,))
    one_out = EpisodePlan(2 * steps, ("sticky", "skilled"), out_step=steps // 3)
    with_ai = EpisodePlan(3 * steps, ("sticky", "skilled"))
    return [
        EnvironmentPlan("beam_rider_mturk", (stopped,), ("ada",)),
        EnvironmentPlan("breakout_mturk", (to_the_end, well, time_limit), ("ben",)),
        EnvironmentPlan("montezuma_revenge_email", (to_the_end,), ("cleo",)),
        EnvironmentPlan("qbert_socialmedia", (to_the_end, stopped), ("dan",)),
        EnvironmentPlan("riverraid_left", (to_the_end,), ("ada",)),
        EnvironmentPlan("riverraid_mturk", (stopped,), ("ben",)),
        EnvironmentPlan("space_invaders_mturk", (to_the_end, stopped), ("ada",)),
        EnvironmentPlan("space_invaders_insideout", (well,), ("eve",)),
        EnvironmentPlan("space_invaders_rowbyrow_socialmedia", (stopped,), ("dan",)),
        EnvironmentPlan("space_invaders_left", (well,), ("ben",)),
        EnvironmentPlan("space_invaders_2p_competitive_mturk", (one_out, takeover), ("ada", "ben")),
        EnvironmentPlan("space_invaders_2p_cooperative_email", (both_well,), ("eve", "cleo")),
        EnvironmentPlan("space_invaders_ai_competitive_mturk", (with_ai,), ("fay",)),
    ]
