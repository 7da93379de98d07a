"""Plays one episode and keeps its steps the way CrowdPlay's ``EnvRunner`` does.

A step is one emulator frame. Its dict holds the frame the agents saw *before* it, and everything else *after*
it. No two steps share an object other than strings and plain numbers, because CrowdPlay copies each step
deeply; within a step the two agents share the frame, and in cooperative play the reward. A pickle shows both.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crowdplay_ingest.consoles import Console
from crowdplay_ingest.players import SKILLED, Machine, Person, Player, Replay, make_policy
from crowdplay_ingest.recording_plan import EpisodePlan
from crowdplay_ingest.recording_tasks import GAMES, Task
from crowdplay_ingest.running_statistics import Outcome, Statistic, Value

__all__ = ["Episode", "Step", "Values", "make_statistics"]

Step = dict[str, Any]
Values = dict[str, dict[str, Value]]  # statistic -> agent -> value

_OUT = -1  # the lives of an agent that is out of the game
#: For hitting the other player's ship; CrowdPlay takes it back in cooperative play.
_RIVALRY_BONUS = 200


def make_statistics(task: Task) -> dict[str, Statistic]:
    """The task's statistics from zero, for an episode or for all episodes of an environment."""
    agents = GAMES[task.game].agents
    return {name: make(agents) for name, make in task.statistics}


class Episode:
    """One episode from reset to the end. ``of_task`` are the environment's statistics, which go on counting.

    After :meth:`play`, ``of_episode`` and ``of_environment`` hold the last values of either kind.
    """

    def __init__(
        self,
        console: Console,
        task: Task,
        plan: EpisodePlan,
        of_task: Mapping[str, Statistic],
        frame_limit: int,
        seed: str,
    ) -> None:
        self._console = console
        self._task = task
        self._plan = plan
        self._of_task = of_task
        self._of_episode = make_statistics(task)
        self._frame_limit = frame_limit if plan.frame_limit is None else plan.frame_limit
        self._agents = GAMES[task.game].agents
        self._players = self._make_players(seed)
        self._keys = dict.fromkeys(self._agents, 0)
        self._pressed_at = dict.fromkeys(self._agents, -1)
        self.of_episode: Values = {}
        self.of_environment: Values = {}

    def _make_players(self, seed: str) -> list[Player]:
        if self._plan.keys is not None:
            return [Machine(Replay(self._plan.keys))]
        game = GAMES[self._task.game]
        players: list[Player] = []
        for number, kind in enumerate(self._plan.players):
            own_seed = f"{seed}/{number}"
            policy = make_policy(kind, self._task.game, self._console.keys, number, own_seed)
            players.append(Person(policy, own_seed) if number < game.people else Machine(policy))
        return players

    def play(self) -> list[Step]:
        """Plays to the game's end, the frame limit, or the person's stop, whatever comes first."""
        steps: list[Step] = []
        self._console.reset()
        screen, ram = self._console.screen(), self._console.ram()
        for step_iter in range(1, self._plan.max_steps + 1):
            if step_iter == self._plan.takeover_step:
                self._let_ai_take_over()
            self._press_keys(ram, step_iter - 1)
            rewards = self._rewards(self._console.act(self._working_keys(step_iter)), step_iter)
            lives = self._lives(step_iter)
            done = self._done(lives, step_iter)
            ram = self._console.ram()
            if step_iter not in self._plan.lost_steps:
                self._count(Outcome(self._keys, {agent: int(rewards[agent]) for agent in rewards}, ram))
                steps.append(
                    {
                        "prev_obs": {agent: OrderedDict([("image", screen)]) for agent in self._agents},
                        "action": {agent: {"game": key} for agent, key in self._keys.items()},
                        "action_step_iter": dict(self._pressed_at),
                        "reward": rewards,
                        "done": done,
                        "info": {agent: {"ale.lives": left, "RAM": ram.copy()} for agent, left in lives.items()},
                        "step_iter": step_iter,
                        "user_type": self._user_types(),
                        "task_callables": self.of_environment,
                        "episode_callables": self.of_episode,
                    }
                )
                screen = self._console.screen()
            if all(done.values()):
                break
        return steps

    def _user_types(self) -> dict[str, int]:
        return {agent: player.user_type for agent, player in zip(self._agents, self._players, strict=True)}

    def _let_ai_take_over(self) -> None:
        last = len(self._agents) - 1
        self._players[last] = Machine(SKILLED[self._task.game](last))

    def _press_keys(self, ram: Sequence[int], shown: int) -> None:
        for agent, player in zip(self._agents, self._players, strict=True):
            arrived = player.press(ram, shown)
            if arrived is not None:
                self._keys[agent], self._pressed_at[agent] = arrived

    def _is_out(self, number: int, step_iter: int) -> bool:
        return number == 0 and self._plan.out_step is not None and step_iter >= self._plan.out_step

    def _working_keys(self, step_iter: int) -> list[int]:
        return [0 if self._is_out(number, step_iter) else key for number, key in enumerate(self._keys.values())]

    def _rewards(self, rewards: NDArray[np.int32], step_iter: int) -> dict[str, np.int32 | np.int64]:
        """Per agent: the game's own as int32; in cooperative play one sum for both, int64 as in numpy 1."""
        earned = {
            agent: np.int32(0 if self._is_out(number, step_iter) else rewards[number])
            for number, agent in enumerate(self._agents)
        }
        if not self._task.shared_reward:
            return dict(earned)
        fair = (int(reward) - _RIVALRY_BONUS * (reward >= _RIVALRY_BONUS) for reward in earned.values())
        return dict.fromkeys(self._agents, np.int64(sum(fair)))

    def _lives(self, step_iter: int) -> dict[str, np.int32]:
        lives = self._console.lives()
        return {
            agent: np.int32(_OUT if self._is_out(number, step_iter) else lives[number])
            for number, agent in enumerate(self._agents)
        }

    def _done(self, lives: Mapping[str, np.int32], step_iter: int) -> dict[str, bool]:
        # CrowdPlay compares the frames played *before* the step: a limit of n ends an episode at row n + 1.
        over = self._console.game_over() or step_iter - 1 >= self._frame_limit
        done = {agent: over or int(left) < 0 for agent, left in lives.items()}
        return {**done, "__all__": over}

    def _count(self, outcome: Outcome) -> None:
        self.of_environment = {name: count(outcome) for name, count in self._of_task.items()}
        self.of_episode = {name: count(outcome) for name, count in self._of_episode.items()}
