"""A statistic the way CrowdPlay has them: a callable that is fed one step after the other."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

import polars as pl

from ..errors import InvalidArgument
from ..findings import first_line
from .base import DType, Result, Statistic, Values

if TYPE_CHECKING:
    from ..episode import Episode

__all__ = ["Callback", "Stepped"]

# A step of the raw trajectory → the value so far of each agent, or of 'all'.
Callback: TypeAlias = Callable[[dict[str, Any]], Mapping[str, Any]]


class Stepped(Statistic):
    """A CrowdPlay-style callable, stepped over the raw trajectory of each episode: as slow as Python is.

    ``make``: called for each episode with the list of its agents, gives the callable: state is of one episode.
    ``dtype``: the Polars type of its values. ``frames=False`` leaves the frames out, which take most of the time:
    `prev_obs` has the agents then, and None for each frame.

    >>> Stepped(lambda agents: ScoreCallable(agents), name="score_again", dtype=pl.Int64)   # doctest: +SKIP
    """

    def __init__(
        self,
        make: Callable[[list[str]], Callback],
        name: str = "",
        key: str | None = None,
        games: Sequence[str] | None = None,
        dtype: DType = pl.Float64,
        frames: bool = True,
        definition: str = "",
    ) -> None:
        self.make = make
        self.name = name or getattr(make, "__name__", type(make).__name__)
        self.key = key
        self.games = games
        self.columns = ()
        self.dtype = dtype
        self.frames = frames
        self.definition = definition

    def values(self, steps: pl.DataFrame) -> Values:
        """Not of a frame of steps: it is given episodes, by `of_episode`."""
        raise InvalidArgument(f"{self.name}: is stepped over episodes, not computed from a frame of steps")

    def of_episode(self, episode: Episode) -> pl.DataFrame:
        """The rows of one episode: agent after agent."""
        by_agent: dict[str, tuple[list[int], list[Any]]] = {}
        for index, values in enumerate(self._stepped(episode)):
            for agent, value in values.items():
                steps, column = by_agent.setdefault(agent, ([], []))
                steps.append(index)
                # It may be what the callable goes on changing.
                column.append(copy.copy(value) if isinstance(value, list | dict) else value)
        frames = [
            pl.DataFrame(
                {
                    "episode_id": pl.repeat(episode.episode_id, len(steps), dtype=pl.String, eager=True),
                    "agent_id": pl.repeat(agent, len(steps), dtype=pl.String, eager=True),
                    "step": pl.Series(steps, dtype=pl.Int32),
                    "value": self._column(episode, column),
                }
            )
            for agent, (steps, column) in sorted(by_agent.items())
        ]
        return pl.concat(frames) if frames else pl.DataFrame()

    def _column(self, episode: Episode, values: list[Any]) -> pl.Series:
        # CrowdPlay's durations begin with a plain 0.
        if self.dtype == pl.Duration:
            values = [timedelta(0) if value == 0 else value for value in values]
        try:
            return pl.Series("value", values, dtype=self.dtype, strict=self.dtype not in (pl.Float64, pl.Float32))
        except (TypeError, pl.exceptions.PolarsError) as error:
            raise InvalidArgument(
                f"{self.name}, episode {episode.episode_id}: its values are not of its dtype {self.dtype}"
                f" ({first_line(error)}); say what they are with Stepped(…, dtype=…)"
            ) from error

    def final(self, episode: Episode) -> Iterator[Result]:
        """What is stored of an episode: the value of the last step, as the callable gave it."""
        (last,) = deque(self._stepped(episode), maxlen=1)
        for agent, value in last.items():
            yield Result(episode.episode_id, agent, value)

    def _stepped(self, episode: Episode) -> Iterator[Mapping[str, Any]]:
        callback = self.make(episode.agents)
        steps: Iterable[dict[str, Any]] = episode.iter_raw_trajectory(frames=self.frames)
        for index, step in enumerate(steps):
            try:
                values = callback(step)
            except Exception as error:
                raise InvalidArgument(
                    f"{self.name} fails on episode {episode.episode_id}, step {index}: {type(error).__name__}: {error}"
                ) from error
            if not isinstance(values, Mapping):
                raise InvalidArgument(
                    f"{self.name}: a step gives a value for each agent, {{agent: value}}, not {type(values).__name__}"
                )
            yield values


def copies_of(callback: Callback) -> Callable[[list[str]], Callback]:
    """What gives each episode a copy of a callable as it is now: the state of one does not reach the next."""
    return _Copies(copy.deepcopy(callback))


class _Copies:
    def __init__(self, pristine: Callback) -> None:
        self._pristine = pristine
        self.__name__ = getattr(pristine, "__name__", type(pristine).__name__)

    def __call__(self, agents: list[str]) -> Callback:
        del agents
        return copy.deepcopy(self._pristine)
