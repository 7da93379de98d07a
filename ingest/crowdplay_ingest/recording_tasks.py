"""CrowdPlay's games and tasks, as tables.

Facts of CrowdPlay's source: game, task and source of a task id are those of ``task_definitions`` in
``dump_db``; the statistics that a task keeps, with their names and order, are those of ``environments``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from crowdplay_ingest import running_statistics as running
from crowdplay_lake.errors import UnknownName

__all__ = ["GAMES", "TASKS", "Game", "Statistics", "Task", "game_named", "task_named"]

_FIRST, _SECOND = "game_0>player_0", "game_0>player_1"


@dataclass(frozen=True)
class Game:
    """A game: its cartridge, its agents, and how many of them are people (the first ones)."""

    rom: str
    agents: tuple[str, ...] = (_FIRST,)
    people: int = 1


GAMES: dict[str, Game] = {
    "beam_rider": Game("beam_rider"),
    "breakout": Game("breakout"),
    "montezuma_revenge": Game("montezuma_revenge"),
    "qbert": Game("qbert"),
    "riverraid": Game("riverraid"),
    "space_invaders": Game("space_invaders"),
    "space_invaders_2p": Game("space_invaders", (_FIRST, _SECOND), people=2),
    "space_invaders_ai": Game("space_invaders", (_FIRST, _SECOND), people=1),
}

StatisticMaker = Callable[[Sequence[str]], running.Statistic]
Statistics = tuple[tuple[str, StatisticMaker], ...]  # (name, maker), in the order they are stored


@dataclass(frozen=True)
class Task:
    """One of CrowdPlay's task ids: the values filed under ``all``, and the statistics people saw."""

    game: str
    task: str
    source: str
    statistics: Statistics

    @property
    def shared_reward(self) -> bool:
        """Whether both agents get the sum of the rewards (CrowdPlay's ``sicoop``)."""
        return self.task == "cooperative"


def _share(position: Callable[[Sequence[int], int], float], low: float, high: float) -> StatisticMaker:
    return partial(running.PositionShare, position=position, low=low, high=high)


def _correct(order: running.Order) -> Statistics:
    return (
        ("Correct aliens shot (total)", partial(running.AliensInOrder, order=order, share=False)),
        ("Correct aliens shot (fraction)", partial(running.AliensInOrder, order=order, share=True)),
    )


def _hits(order: running.Order) -> Statistics:
    return (
        ("Aliens hit in order", partial(running.AliensInOrder, order=order, share=False)),
        ("Aliens hit in order (fraction)", partial(running.AliensInOrder, order=order, share=True)),
    )


_LEFT_HALF = _share(running.space_invaders_position, 0, 0.5)
_RIGHT_HALF = _share(running.space_invaders_position, 0.5, 1)
_LEFT_BANK = _share(running.riverraid_position, -1000, 5)
_RIGHT_BANK = _share(running.riverraid_position, -5, 1000)

#: The words of the table below.
_STATISTICS: dict[str, Statistics] = {
    "score": (("Score", running.Score),),
    "time": (("Time played", running.TimePlayed),),
    "active": (("Active playtime", running.ActiveTime),),
    "Active": (("Active Playtime", running.ActiveTime),),  # CrowdPlay spells it with a capital P in places
    "patient": (("Active playtime", partial(running.ActiveTime, reward_timeout=10 * 60 * 60)),),
    "left": (("Time spent on left side of screen (fraction)", _LEFT_HALF),),
    "right": (("Time spent on right side of screen (fraction)", _RIGHT_HALF),),
    "river-left": (("Time spent on left side of screen (fraction)", _LEFT_BANK),),
    "river-right": (("Time spent on right side of screen (fraction)", _RIGHT_BANK),),
    "bank-left": (("Time spent on left side (fraction)", _LEFT_BANK),),
    "bank-right": (("Time spent on right side (fraction)", _RIGHT_BANK),),
    "watch": (
        ("Aliens shot", running.AliensShot),
        ("Accuracy", running.Accuracy),
        ("Time spent on left side of screen (fraction)", _LEFT_HALF),
        ("Time spent on right side of screen (fraction)", _RIGHT_HALF),
    ),
    "in-out": _correct(running.by_columns_inside_out),
    "out-in": _correct(running.by_columns_outside_in),
    "by-row": _correct(running.by_rows),
    "in-out-hits": _hits(running.by_columns_inside_out),
    "by-row-hits": _hits(running.by_rows),
}

# By game: task id, task, source, and the statistics after the score, which every task has. In
# montezuma_revenge_email CrowdPlay measures River Raid's position in another game's memory; so do we.
_TASK_TABLE = """
beam_rider:
  beam_rider_mturk                           plain                 mturk        time active
breakout:
  breakout_mturk                             plain                 mturk        time active
montezuma_revenge:
  montezuma_revenge_email                    plain                 email        active bank-right time
  montezuma_revenge_mturk                    plain                 mturk        patient time
  montezuma_revenge_socialmedia              plain                 socialmedia  time
qbert:
  qbert_mturk                                plain                 mturk        active time
  qbert_socialmedia                          plain                 socialmedia  time
riverraid:
  riverraid_email                            plain                 email        active time
  riverraid_left                             left                  mturk        river-left time active
  riverraid_left_email                       left                  email        active bank-left time
  riverraid_left_socialmedia                 left                  socialmedia  bank-left time
  riverraid_mturk                            plain                 mturk        time active
  riverraid_right                            right                 mturk        river-right time active
  riverraid_right_email                      right                 email        active bank-right time
  riverraid_right_socialmedia                right                 socialmedia  bank-right time
  riverraid_socialmedia                      plain                 socialmedia  time
space_invaders_2p:
  space_invaders_2p_competitive_email        competitive           email        time
  space_invaders_2p_competitive_mturk        competitive           mturk        Active time
  space_invaders_2p_cooperative_email        cooperative           email        time
  space_invaders_2p_cooperative_mturk        cooperative           mturk        Active time
  spaceinvaders_cooperative_socialmedia      cooperative           socialmedia  time
space_invaders_ai:
  space_invaders_ai_competitive_email        competitive           email        time
  space_invaders_ai_competitive_mturk        competitive           mturk        Active time
  space_invaders_ai_competitive_socialmedia  competitive           socialmedia  time
  space_invaders_ai_cooperative_email        cooperative           email        time
  space_invaders_ai_cooperative_mturk        cooperative           mturk        Active time
  space_invaders_ai_cooperative_socialmedia  cooperative           socialmedia  time
space_invaders:
  space_invaders_email                       plain                 email        active time watch
  space_invaders_insideout                   insideout             mturk        in-out time active
  space_invaders_insideout_activetime        insideout_incentives  mturk        in-out time active
  space_invaders_insideout_allincentives     insideout_incentives  mturk        in-out time active
  space_invaders_insideout_bonusonly         insideout_incentives  mturk        in-out time active
  space_invaders_insideout_email             insideout             email        active in-out-hits time watch
  space_invaders_insideout_socialmedia       insideout             socialmedia  in-out-hits time watch
  space_invaders_insideout_stricter          insideout             mturk        in-out time active
  space_invaders_insideout_taskrequirement   insideout_incentives  mturk        in-out time active
  space_invaders_insideout_timeonly          insideout_incentives  mturk        in-out time active
  space_invaders_left                        left                  mturk        left time active
  space_invaders_left_stricter               left                  mturk        left time active
  space_invaders_mturk                       plain                 mturk        Active time
  space_invaders_outsidein                   outsidein             mturk        out-in time active
  space_invaders_outsidein_stricter          outsidein             mturk        out-in time active
  space_invaders_right                       right                 mturk        right time active
  space_invaders_right_stricter              right                 mturk        right time active
  space_invaders_rowbyrow                    rowbyrow              mturk        by-row time active
  space_invaders_rowbyrow_socialmedia        rowbyrow              socialmedia  by-row-hits time watch
  space_invaders_rowbyrow_stricter           rowbyrow              mturk        by-row time active
  space_invaders_socialmedia                 plain                 socialmedia  time watch
"""


def _read_tasks(table: str) -> dict[str, Task]:
    tasks = {}
    game = ""
    for line in table.strip().splitlines():
        if line.endswith(":"):
            game = line.removesuffix(":")
            continue
        task_id, task, source, *words = line.split()
        statistics = tuple(statistic for word in ("score", *words) for statistic in _STATISTICS[word])
        tasks[task_id] = Task(game, task, source, statistics)
    return tasks


TASKS: dict[str, Task] = _read_tasks(_TASK_TABLE)


def task_named(task_id: str) -> Task:
    """The task of this id. Raises :class:`~crowdplay_lake.errors.UnknownName`."""
    if task_id not in TASKS:
        raise UnknownName(task_id, TASKS, where="CrowdPlay's tasks")
    return TASKS[task_id]


def game_named(name: str) -> Game:
    """The game of this name. Raises :class:`~crowdplay_lake.errors.UnknownName`."""
    if name not in GAMES:
        raise UnknownName(name, GAMES, where="CrowdPlay's games")
    return GAMES[name]
