"""Observations as a column of a Polars LazyFrame: `Lake.scan_observations`.

A query decides what is computed. Conditions on the episode, the game or the agent choose episodes before anything of
them is read; the others are met by the columns they name, before an observation is made; what `head` leaves out is not
made, and where `observation` is not selected no frame is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
from polars.io.plugins import register_io_source

from .episode import Episode, rewards_since_last
from .errors import InvalidArgument
from .observations import ObservationParameters, emitted_steps
from .schema import STEPS

__all__ = ["OBSERVATION", "Emission", "scan_observations"]

OBSERVATION = "observation"
# Known of a row without reading it.
_IDENTITY = ("episode_id", "game", "agent_id")
_STEP = "step"
# Observations made at a time: four frames of 84 x 84 each are 28 KB.
_BLOCK = 1024


@dataclass(frozen=True)
class Emission:
    """Which steps are emitted: the arguments of that name of `Episode.get_processed_trajectory`."""

    downsample_frequency: int = 1
    downsample_offset: int = 0
    final_step: bool = True

    def steps(self, n_steps: int) -> npt.NDArray[np.int64]:
        """The emitted steps of an episode of ``n_steps``."""
        return emitted_steps(n_steps, self.downsample_frequency, self.downsample_offset, self.final_step)


def scan_observations(
    episodes: Sequence[Episode], emission: Emission, parameters: ObservationParameters
) -> pl.LazyFrame:
    """The emitted steps of every agent of ``episodes`` as a LazyFrame: see `Lake.scan_observations`."""
    emission.steps(1)  # refuses wrong arguments here, not in the middle of a query
    shape = _observation_shape(episodes, parameters)
    rows: dict[str, pl.DataType] = dict(pl.DataFrame(pl.from_arrow(STEPS.schema.empty_table())).schema)
    kind = pl.Float32() if parameters.scale else pl.UInt8()
    schema = pl.Schema({**rows, OBSERVATION: pl.Array(kind, shape)})
    source = _Source(episodes, emission, parameters, schema)
    return register_io_source(source.frames, schema=schema, is_pure=True, explain_name="OBSERVATIONS")


def _observation_shape(episodes: Sequence[Episode], parameters: ObservationParameters) -> tuple[int, ...]:
    """The shape that every observation of these episodes has."""
    known: dict[tuple[int, ...], Episode] = {}
    for episode in episodes:
        known.setdefault(episode.frame_shape, episode)
    shapes = {}
    for frame_shape, episode in known.items():
        try:
            shapes[parameters.shape(frame_shape)] = episode
        except InvalidArgument as error:
            raise InvalidArgument(f"episode {episode.episode_id}: {error}; choose others with where") from None
    if len(shapes) > 1:
        told = ", ".join(f"{shape} in {episode.game}" for shape, episode in shapes.items())
        raise InvalidArgument(f"a column holds observations of one shape, these are {told}: choose with where")
    return next(iter(shapes), parameters.shape((210, 160, 3)))


class _Source:
    """Makes the frames of a query."""

    def __init__(
        self, episodes: Sequence[Episode], emission: Emission, parameters: ObservationParameters, schema: pl.Schema
    ) -> None:
        self._episodes = episodes
        self._emission = emission
        self._parameters = parameters
        self._schema = schema

    def frames(
        self, with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        """What Polars asks for: these columns, of the first ``n_rows`` rows those that ``predicate`` keeps."""
        columns = self._schema.names() if with_columns is None else with_columns
        left = n_rows
        pairs = [(episode, agent) for episode in self._episodes for agent in episode.agents]
        if left is None:
            # What is cut off by number must be counted before it is chosen from.
            pairs, predicate = _chosen(pairs, predicate)
        yield self._empty(columns)
        for episode, agent in pairs:
            steps = self._emission.steps(len(episode))[:left]
            left = None if left is None else left - len(steps)
            yield from self._of_agent(episode, agent, steps, columns, predicate, batch_size or _BLOCK)
            if left == 0:
                return

    def _empty(self, columns: Sequence[str]) -> pl.DataFrame:
        return pl.DataFrame(schema={name: self._schema[name] for name in columns})

    def _of_agent(
        self,
        episode: Episode,
        agent: str,
        steps: npt.NDArray[np.int64],
        columns: Sequence[str],
        predicate: pl.Expr | None,
        block: int,
    ) -> Iterator[pl.DataFrame]:
        conditions = [] if predicate is None else predicate.meta.root_names()
        names = dict.fromkeys([*columns, *conditions, _STEP])
        rows = self._rows(episode, agent, steps, [name for name in names if name != OBSERVATION])
        if predicate is not None and OBSERVATION not in conditions:
            rows = rows.filter(predicate)
        if OBSERVATION not in names:
            yield rows.select(columns)
            return
        for start in range(0, len(rows), block):
            some = rows.slice(start, block)
            made = episode.observations_at(some[_STEP].to_numpy(), agent, self._parameters)
            values = pl.Series(OBSERVATION, np.ascontiguousarray(made), dtype=self._schema[OBSERVATION])
            some = some.with_columns(values)
            if predicate is not None and OBSERVATION in conditions:
                some = some.filter(predicate)
            yield some.select(columns)

    def _rows(self, episode: Episode, agent: str, steps: npt.NDArray[np.int64], names: Sequence[str]) -> pl.DataFrame:
        """The columns but the observation; what is stored is read only if it is asked for."""
        known = {"episode_id": episode.episode_id, "game": episode.game, "agent_id": agent}
        frame = pl.DataFrame({_STEP: pl.Series(steps, dtype=self._schema[_STEP])})
        stored = [name for name in names if name not in known and name != _STEP]
        if stored:
            table = episode.steps(agent, stored)
            frame = frame.hstack(pl.DataFrame(pl.from_arrow(table))[steps].get_columns())
            if "reward" in stored and self._emission.downsample_frequency > 1:
                episode.require(table.select(["reward"]), agent)
                sums = rewards_since_last(table["reward"].to_numpy(), steps)
                frame = frame.with_columns(pl.Series("reward", sums))
        return frame.with_columns(pl.lit(value).alias(name) for name, value in known.items()).select(names)


def _chosen(
    pairs: list[tuple[Episode, str]], predicate: pl.Expr | None
) -> tuple[list[tuple[Episode, str]], pl.Expr | None]:
    """The episodes and agents that may have rows, and the conditions that are still to be met by each row."""
    if predicate is None or not pairs:
        return pairs, predicate
    of_episode: list[pl.Expr] = []
    of_row: list[pl.Expr] = []
    for condition in _conjuncts(predicate):
        roots = condition.meta.root_names()
        (of_episode if roots and set(roots) <= set(_IDENTITY) else of_row).append(condition)
    if of_episode:
        identities = pl.DataFrame(
            [(episode.episode_id, episode.game, agent) for episode, agent in pairs], _IDENTITY, orient="row"
        ).with_row_index("at")
        pairs = [pairs[at] for at in identities.filter(*of_episode)["at"]]
    return pairs, pl.all_horizontal(of_row) if of_row else None


def _conjuncts(condition: pl.Expr) -> list[pl.Expr]:
    """The parts of ``a & b & …``."""
    inner = condition.meta.pop()
    if len(inner) == 2:
        for left, right in (inner, inner[::-1]):
            if (left & right).meta.eq(condition):
                return [*_conjuncts(left), *_conjuncts(right)]
    return [condition]
