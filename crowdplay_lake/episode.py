"""An episode: its metadata, its raw and processed trajectory, its observations."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .environment import Environment, once
from .errors import InvalidArgument, NoTrajectory, UnknownAgent, UnknownColumn
from .frame_log import CachedFrameLog, FrameLog
from .layout import read_rows
from .observations import ObservationParameters, Observations, emitted_steps
from .pixels import screens_of
from .schema import ALL_AGENTS, RAM_COLUMNS, STEPS
from .trajectory import AgentSteps, raw_steps

if TYPE_CHECKING:
    from .lake import Lake
    from .pictures.video import VideoSummary
    from .snapshot import Snapshot

__all__ = ["DEFAULT_AGENT", "Episode", "ProcessedTrajectory"]

# CrowdPlay's name of the first player; single-agent Gym environments have 'agent_0'.
DEFAULT_AGENT = "game_0>player_0"

# Frames drawn at a time while a raw trajectory is read: 100 KB each.
RAW_BLOCK = 256


class ProcessedTrajectory(NamedTuple):
    """What a trainer starts from: one row per emitted step."""

    observations: npt.NDArray[Any]  # (n, 84, 84, 4) uint8 by default
    actions: npt.NDArray[np.int64]  # (n,) index into the game's action set
    rewards: npt.NDArray[np.float64]  # (n,) sum over the steps since the last emitted one, itself included
    terminals: npt.NDArray[np.int64]  # (n,) 1 where the agent is done


class Episode:
    """One episode of a lake. Holds its metadata; reads steps and frames when they are asked for."""

    def __init__(self, lake: Lake, row: Mapping[str, Any]) -> None:
        self._lake = lake
        self._row = row

    # Metadata

    @property
    def row(self) -> Mapping[str, Any]:
        """Its row of the table `episodes`."""
        return self._row

    @property
    def episode_id(self) -> str:
        return str(self._row["episode_id"])

    @property
    def snapshot(self) -> Snapshot:
        """The commit of the lake that it is read from."""
        return self._lake.snapshot

    @property
    def environment_id(self) -> str | None:
        return self._row["environment_id"]  # type: ignore[no-any-return]

    @property
    def game(self) -> str:
        return str(self._row["game"])

    @property
    def agents(self) -> list[str]:
        """The agents, in the trajectory's order; empty where the trajectory was never ingested."""
        return list(self._row["agents"] or [])

    @property
    def action_meanings(self) -> list[str] | None:
        """What each action does: 'NOOP', 'FIRE', …; None where the game is unknown."""
        return self._row["action_meanings"]  # type: ignore[no-any-return]

    @once
    def environment(self) -> Environment:
        """The sitting it belongs to."""
        return Environment(self._lake, self._row)

    @once
    def keyword_data(self) -> dict[str, dict[str, Any]]:
        """agent (or 'all') → key → Python value; durations are timedelta. Agents without data have empty dicts."""
        data = self._lake._episode_keywords.of(self.episode_id, self.game)
        return {**{agent: {} for agent in self.agents}, **data}

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Of a raw frame: (210, 160, 3). Raises NoTrajectory where only the metadata is known."""
        len(self)
        return tuple(self._row["frame_shape"])

    def first_done(self, agent: str = DEFAULT_AGENT) -> tuple[int | None, bool]:
        """(the agent's first step with done set or None, whether that was the frame limit and not the game's end)."""
        index = self._agent_index(agent)
        return self._row["first_done_step"][index], bool(self._row["frame_limit_reached"][index])

    @property
    def has_trajectory(self) -> bool:
        """Whether its pickle was ingested, or only its metadata."""
        return self._row["n_steps"] is not None

    def __len__(self) -> int:
        """Steps. Raises NoTrajectory where only the metadata is known."""
        if self._row["n_steps"] is None:
            raise NoTrajectory(
                f"episode {self.episode_id}: its metadata is in the lake, its trajectory is not; "
                "ingest the folder that holds its pickle, or select episodes with n_steps IS NOT NULL"
            )
        return int(self._row["n_steps"])

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        """The same episode with the same content, in whatever lake."""
        if not isinstance(other, Episode):
            return NotImplemented
        mine, theirs = self._row, other._row
        return bool(mine["episode_id"] == theirs["episode_id"] and mine["content_hash"] == theirs["content_hash"])

    def __hash__(self) -> int:
        return hash(self.episode_id)

    def __repr__(self) -> str:
        steps = self._row["n_steps"]
        length = "no trajectory" if steps is None else f"{steps} steps"
        return f"Episode({self.episode_id!r}, {self.game}, {length}, agents={self.agents})"

    def _repr_html_(self) -> str:
        """For a notebook: facts, a film strip, the curve of its score."""
        from .pictures.notebook import as_html

        return as_html(self)

    def video(
        self,
        path: str | PathLike[str],
        agent: str | None = None,
        start: int = 0,
        stop: int | None = None,
        fps: float | None = None,
        speed: float = 1.0,
        scale: int = 2,
        overlay: bool = True,
        processed: bool = False,
        overwrite: bool = False,
    ) -> VideoSummary:
        """Write steps start … stop - 1 as a video, .mp4, .gif or .apng by the suffix of ``path`` (extra `video`).

        ``overlay`` writes time, score, lives, action and who plays below the picture, ``processed`` shows the 84 x 84
        image beside it. ``fps``: 60 by default, of a GIF 50; ``speed`` 4 is four times as fast as it was played.

        >>> episode.video("game.mp4", processed=True)   # doctest: +SKIP

        Raises InvalidArgument, MissingExtra, UnknownAgent, NoTrajectory.
        """
        from .pictures.video import VideoOptions, write_video

        options = VideoOptions(start, stop, fps, speed, scale, overlay, processed)
        return write_video(self, Path(path), agent, options, overwrite)

    # Rows

    def _agent_index(self, agent: str) -> int:
        len(self)
        if agent not in self.agents:
            where = f"episode {self.episode_id}, which has {', '.join(self.agents)}"
            raise UnknownAgent(agent, self.agents, f"{where} (select episodes with agent_id = '…')")
        return self.agents.index(agent)

    def steps(
        self,
        agent: str = DEFAULT_AGENT,
        columns: Sequence[str] = STEPS.stored_schema.names,
        start: int = 0,
        stop: int | None = None,
    ) -> pa.Table:
        """The agent's rows of the `steps` table, in order, of steps start … stop - 1: an Arrow table of ``columns``."""
        self._agent_index(agent)
        known = STEPS.stored_schema.names
        if isinstance(columns, str):
            raise InvalidArgument(f"columns must be a list of names, such as [{columns!r}]")
        for name in columns:
            if name not in known:
                raise UnknownColumn(name, known, "steps")
        first = self._row["steps_first_row"] + sorted(self.agents).index(agent) * len(self)
        part = self._row["steps_part"]
        start, stop, _ = slice(start, stop).indices(len(self))
        end = first + max(start, stop)
        return read_rows(self._lake.snapshot.paths, STEPS.name, part, first + start, end, columns)[1]

    def ram(self, agent: str = DEFAULT_AGENT) -> npt.NDArray[np.uint8]:
        """RAM after each step, uint8 (n, 128). Raises InvalidArgument where a step carried none."""
        rows = self.steps(agent, RAM_COLUMNS)
        if rows[RAM_COLUMNS[0]].null_count:
            raise InvalidArgument(f"episode {self.episode_id}: not every step of {agent!r} carries RAM")
        return np.stack([rows[name].to_numpy() for name in RAM_COLUMNS], axis=1).astype(np.uint8)

    def frame_log(self, agent: str = DEFAULT_AGENT) -> FrameLog:
        """Where the change log of the agent's screen lies; for who makes observations in another way than these."""
        screens = self._row["screen_agents"]
        self._agent_index(agent)
        index = 0 if screens == [ALL_AGENTS] else screens.index(agent)
        first_row = self._row["frames_first_row"] + index * len(self)
        paths, part = self._lake.snapshot.paths, self._row["frames_part"]
        return FrameLog(paths, part, first_row, len(self), screens_of(self._row)[index])

    def frames(self, agent: str = DEFAULT_AGENT, start: int = 0, stop: int | None = None) -> npt.NDArray[np.uint8]:
        """The raw frames the agent saw before steps start … stop - 1, uint8 (stop - start, 210, 160, 3)."""
        start, stop, _ = slice(start, stop).indices(len(self))
        source = self.frame_log(agent)
        if stop <= start:
            return np.empty((0, *source.screen.shape), np.uint8)
        log = source.log(start, stop - 1)
        return source.screen.draw(log.decode(np.arange(start, stop), source.screen.pixels))

    # Trajectories

    def get_raw_trajectory(self) -> list[dict[str, Any]]:
        """The list of step dicts as CrowdPlay pickled it, every field of it: about 100 KB a step.

        `iter_raw_trajectory` gives the same one by one.
        """
        return list(self.iter_raw_trajectory())

    def iter_raw_trajectory(self, frames: bool = True) -> Iterator[dict[str, Any]]:
        """The step dicts, one by one; frames are drawn as they are asked for. ``frames=False``: None for each frame."""
        steps = {agent: AgentSteps.of(self.steps(agent)) for agent in self.agents}
        none: Mapping[str, Any] = dict.fromkeys(self.agents)
        drawn = self._iter_frames() if frames else itertools.repeat(none, len(self))
        return raw_steps(steps, drawn, self._row["variant"], self._row["reward_type"])

    def _iter_frames(self) -> Iterator[Mapping[str, npt.NDArray[np.uint8]]]:
        shared = self._row["screen_agents"] == [ALL_AGENTS]
        for start in range(0, len(self), RAW_BLOCK):
            stop = min(start + RAW_BLOCK, len(self))
            if shared:
                drawn = self.frames(self.agents[0], start, stop)
                yield from (dict.fromkeys(self.agents, frame) for frame in drawn)
            else:
                by_agent = [self.frames(agent, start, stop) for agent in self.agents]
                yield from (dict(zip(self.agents, shown, strict=True)) for shown in zip(*by_agent, strict=True))

    def observations(
        self,
        agent: str = DEFAULT_AGENT,
        framestack_axis_first: bool = False,
        downsample_frequency: int = 1,
        downsample_offset: int = 0,
        max_n: int = 2,
        skip_n: int = 4,
        stack_n: int = 4,
        warp: bool = True,
        scale: bool = False,
        warp_width: int = 84,
        warp_height: int = 84,
        final_step: bool = True,
    ) -> Observations:
        """The observations of `get_processed_trajectory`, computed when they are indexed. Same arguments."""
        parameters = ObservationParameters(
            framestack_axis_first, max_n, skip_n, stack_n, warp, scale, warp_width, warp_height
        )
        steps = emitted_steps(len(self), downsample_frequency, downsample_offset, final_step)
        return self.observations_at(steps, agent, parameters)

    def observations_at(
        self,
        steps: npt.ArrayLike,
        agent: str = DEFAULT_AGENT,
        parameters: ObservationParameters | None = None,
    ) -> Observations:
        """The observations of chosen ``steps`` (int, any order), lazily. Raises InvalidArgument beyond the episode."""
        chosen = np.asarray(steps)
        if chosen.ndim != 1 or (chosen.size and chosen.dtype.kind not in "iu"):
            raise InvalidArgument(f"steps are whole numbers in a row, not {chosen.dtype} {chosen.shape}")
        chosen = chosen.astype(np.int64)
        if chosen.size and not (chosen.min() >= 0 and chosen.max() < len(self)):
            raise InvalidArgument(f"episode {self.episode_id} has steps 0 to {len(self) - 1}")
        return Observations(CachedFrameLog(self.frame_log(agent)), chosen, parameters or ObservationParameters())

    def get_processed_trajectory(
        self,
        agent: str = DEFAULT_AGENT,
        framestack_axis_first: bool = False,
        downsample_frequency: int = 1,
        downsample_offset: int = 0,
        max_n: int = 2,
        skip_n: int = 4,
        stack_n: int = 4,
        warp: bool = True,
        scale: bool = False,
        warp_width: int = 84,
        warp_height: int = 84,
        final_step: bool = True,
    ) -> ProcessedTrajectory:
        """(observations, actions, rewards, terminals) of one agent, as CrowdPlay makes them, to the byte.

        Steps with ``i % downsample_frequency == downsample_offset`` are emitted, and the last one; with
        ``final_step=False`` the last one only where CrowdPlay emits it. ``max_n`` frames are maxed, ``stack_n`` such
        images ``skip_n`` steps apart are stacked, on the last axis or with ``framestack_axis_first`` the first.
        ``scale`` gives float32 in [0, 1]; ``warp=False`` the RGB frames.

        Raises UnknownAgent, NoTrajectory, InvalidArgument.
        """
        observations = self.observations(
            agent,
            framestack_axis_first,
            downsample_frequency,
            downsample_offset,
            max_n,
            skip_n,
            stack_n,
            warp,
            scale,
            warp_width,
            warp_height,
            final_step,
        )
        emitted = observations.steps
        rows = self.steps(agent, ("action", "reward", "done"))
        self.require(rows, agent)
        return ProcessedTrajectory(
            np.asarray(observations),
            rows["action"].to_numpy().astype(np.int64)[emitted],
            rewards_since_last(rows["reward"].to_numpy().astype(np.float64), emitted),
            rows["done"].to_numpy().astype(np.int64)[emitted],
        )

    def require(self, rows: pa.Table, agent: str) -> None:
        """Raise InvalidArgument, with the step, unless every row has every field: raw trajectories may lack some."""
        for name in rows.column_names:
            if rows[name].null_count:
                step = rows[name].is_null().to_pylist().index(True)
                raise InvalidArgument(f"episode {self.episode_id}, step {step}: {agent!r} has no {name}")


def rewards_since_last(rewards: npt.NDArray[np.float64], emitted: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """For each emitted step the sum of ``rewards`` after the emitted one before it, up to itself."""
    if len(emitted) == 0:
        return np.empty(0, np.float64)
    starts = np.concatenate([[0], emitted[:-1] + 1])
    return np.add.reduceat(rewards[: emitted[-1] + 1], starts)
