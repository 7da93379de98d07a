"""What an export holds, the same in every format, streamed: some megabytes are in memory, however much it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ...episode import Episode
from ...errors import InvalidArgument
from ...observations import ObservationParameters, Observations
from ...schema import RAM_BYTES, RAM_COLUMNS
from ..selection import common_action_size, nothing_selected
from ..transitions import Conversion, Segment, segments

__all__ = ["NO_LIVES", "Block", "Column", "Content", "Exported", "Kind", "plan"]

Kind = Literal["processed", "raw"]
PARAMETERS = {
    "processed": ObservationParameters(stack_n=1),
    # The frames themselves.
    "raw": ObservationParameters(stack_n=1, max_n=1, warp=False),
}

# Bytes of observations that are made at a time.
BLOCK_BYTES = 4 << 20
# Steps of which the small columns are read at a time: with RAM, 16 MiB.
SLAB_STEPS = 32_768
# `lives` of a step that carried none; a lost player may have -1.
NO_LIVES = int(np.iinfo(np.int32).min)

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Column:
    """One array of an export: a value a decision."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]  # of one value
    doc: str

    def nbytes(self, rows: int) -> int:
        return rows * int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


_SMALL = (
    Column("actions", np.dtype(np.int64), (), "index into the game's action set"),
    Column("rewards", np.dtype(np.float64), (), "the reward that the decision is credited with"),
    Column("terminals", np.dtype(np.bool_), (), "the game ended for the agent after this decision"),
    Column("timeouts", np.dtype(np.bool_), (), "the episode was cut off after this decision"),
    Column("steps", np.dtype(np.int64), (), "the emulator step of the decision, counted in the lake's episode"),
    Column("user_type", np.dtype(np.int32), (), "who plays: 1 a human, 2 an AI, 0 where that is not known"),
    Column("lives", np.dtype(np.int32), (), f"lives after the step; {NO_LIVES} where the step carried none"),
)
_RAM = Column("ram", np.dtype(np.uint8), (RAM_BYTES,), "the console's RAM after the step")


@dataclass(frozen=True)
class Block:
    """Decisions of one trainer's episode that follow each other, k of them."""

    start: int  # the place of the first of them in its episode
    arrays: dict[str, npt.NDArray[Any]]  # by column; each (k, *shape)

    def __len__(self) -> int:
        return len(self.arrays["actions"])

    def __getitem__(self, column: str) -> npt.NDArray[Any]:
        return self.arrays[column]


@dataclass(frozen=True)
class Exported:
    """One trainer's episode on its way out."""

    index: int
    segment: Segment
    content: Content

    def __len__(self) -> int:
        return len(self.segment)

    @property
    def episode(self) -> Episode:
        return self.segment.episode

    def blocks(self) -> Iterator[Block]:
        """Its decisions, in order, some megabytes at a time."""
        segment, content = self.segment, self.content
        made = self._observations(segment.steps)
        start = 0
        for stop in self._slab_ends():
            small = self._small(start, stop)
            for at in range(start, stop, content.block_rows):
                end = min(at + content.block_rows, stop)
                observations = made[at:end]
                if content.kind == "processed":
                    observations = observations[..., 0]
                arrays = {name: column[at - start : end - start] for name, column in small.items()}
                block = Block(at, {"observations": observations, **arrays})
                content.require_room(sum(array.nbytes for array in block.arrays.values()))
                yield block
                content.told(end - at)
            start = stop

    def after(self) -> tuple[npt.NDArray[np.uint8], bool]:
        """(what the agent saw after its last decision, whether the lake has it; else it is the last one again)."""
        last = int(self.segment.steps[-1])
        recorded = last + 1 < len(self.episode)
        (observation,) = self._observations(np.array([last + recorded]))[:]
        return (observation[..., 0] if self.content.kind == "processed" else observation), recorded

    def _observations(self, steps: npt.NDArray[np.int64]) -> Observations:
        return self.episode.observations_at(steps, self.content.conversion.agent, self.content.parameters)

    def _slab_ends(self) -> Iterator[int]:
        steps = self.segment.steps
        edges = np.arange(steps[0] + SLAB_STEPS, steps[-1] + 1, SLAB_STEPS)
        yield from dict.fromkeys([*np.searchsorted(steps, edges).tolist(), len(steps)])

    def _small(self, start: int, stop: int) -> dict[str, npt.NDArray[Any]]:
        """All columns but the observations, of the decisions start … stop - 1."""
        segment, content = self.segment, self.content
        terminals = np.zeros(stop - start, np.bool_)
        timeouts = np.zeros_like(terminals)
        if stop == len(segment):
            (terminals if segment.terminal else timeouts)[-1] = True
        steps = segment.steps[start:stop]
        names = ("user_type", "lives", *(RAM_COLUMNS if content.has_ram else ()))
        first, last = int(steps[0]), int(steps[-1])
        rows = self.episode.steps(content.conversion.agent, names, first, last + 1)
        at = steps - first
        arrays: dict[str, npt.NDArray[Any]] = {
            "actions": segment.actions[start:stop],
            "rewards": segment.rewards[start:stop],
            "terminals": terminals,
            "timeouts": timeouts,
            "steps": steps,
            "user_type": rows["user_type"].fill_null(0).to_numpy()[at],
            "lives": rows["lives"].fill_null(NO_LIVES).to_numpy()[at],
        }
        if content.has_ram:
            ram = np.empty((len(steps), RAM_BYTES), np.uint8)
            for address, name in enumerate(RAM_COLUMNS):
                ram[:, address] = rows[name].to_numpy()[at]
            arrays["ram"] = ram
        return arrays


@dataclass
class Content:
    """What is exported: known in numbers, and streamed by `episodes` as often as a format wants to go through it."""

    source: Sequence[Episode]
    conversion: Conversion
    kind: Kind
    observation_shape: tuple[int, ...]  # of one
    lengths: npt.NDArray[np.int64]  # (episodes,) decisions of each trainer's episode
    terminals: int  # episodes that end in a terminal
    action_size: int
    action_meanings: list[str] | None  # where all episodes have the same
    progress: Progress | None = None
    # Called with the bytes of a block before it is written; raises where there is no room for them.
    require_room: Callable[[int], None] = lambda size: None
    _done: int = field(default=0, init=False)

    def __len__(self) -> int:
        """Decisions."""
        return int(self.lengths.sum())

    @property
    def transitions(self) -> int:
        """Decisions whose outcome is known: all but those that a timeout follows."""
        return len(self) - (len(self.lengths) - self.terminals)

    @property
    def parameters(self) -> ObservationParameters:
        return PARAMETERS[self.kind]

    @property
    def has_ram(self) -> bool:
        return self.kind == "raw"

    @property
    def columns(self) -> tuple[Column, ...]:
        """The arrays of an export, the observations first."""
        about = "the frame the agent saw before the step, RGB" if self.kind == "raw" else "what the agent saw, grey"
        observations = Column("observations", np.dtype(np.uint8), self.observation_shape, about)
        return (observations, *_SMALL, *((_RAM,) if self.has_ram else ()))

    @property
    def block_rows(self) -> int:
        return max(1, BLOCK_BYTES // int(np.prod(self.observation_shape)))

    @property
    def ends(self) -> npt.NDArray[np.int64]:
        """(episodes,) the index after the last decision of each, all of them in a row."""
        ends: npt.NDArray[np.int64] = np.cumsum(self.lengths)
        return ends

    def told(self, decisions: int) -> None:
        """Count what is done."""
        self._done += decisions
        if self.progress is not None:
            self.progress("exported", self._done, len(self))

    def episodes(self) -> Iterator[Exported]:
        """The trainer's episodes, in order."""
        self._done = 0
        for index, segment in enumerate(segments(self.source, self.conversion)):
            yield Exported(index, segment, self)


def plan(
    episodes: Iterable[Episode],
    conversion: Conversion,
    kind: Kind = "processed",
    action_size: int | None = None,
    progress: Progress | None = None,
) -> Content:
    """What an export of ``episodes`` holds. Reads a few columns of `steps` and no frame.

    Raises InvalidArgument for an empty selection, where games have different action sets and no ``action_size`` is
    given, where frames are of different shapes or were processed already, and, with ``kind`` "raw", where a step
    carried no RAM; UnknownAgent; NoTrajectory.
    """
    if kind not in PARAMETERS:
        raise InvalidArgument(f"observations are 'processed' or 'raw', not {kind!r}")
    source = episodes if isinstance(episodes, Sequence) else tuple(episodes)
    lengths: list[int] = []
    most = terminals = 0
    action_sets: dict[tuple[str, ...] | str, Episode] = {}
    shapes: dict[tuple[int, ...], Episode] = {}
    # Of segments nothing is kept: a dataset of all there is has 65 million steps.
    for segment in segments(source, conversion):
        episode, meanings = segment.episode, segment.episode.action_meanings
        lengths.append(len(segment))
        terminals += segment.terminal
        most = max(most, int(segment.actions.max()))
        action_sets.setdefault(tuple(meanings) if meanings else episode.game, episode)
        shapes.setdefault(_shape(episode, kind), episode)
        if kind == "raw":
            _require_ram(segment, conversion.agent)
    if not lengths:
        raise nothing_selected(conversion)
    if len(shapes) > 1:
        told = ", ".join(f"{shape} in episode {episode.episode_id}" for shape, episode in shapes.items())
        raise InvalidArgument(f"the frames of the selection are of different shapes: {told}; export them apart")
    only = next(iter(action_sets.values()))
    return Content(
        source,
        conversion,
        kind,
        next(iter(shapes)),
        np.array(lengths, np.int64),
        terminals,
        common_action_size(action_sets.values(), most + 1, action_size),
        only.action_meanings if len(action_sets) == 1 else None,
        progress,
    )


def _shape(episode: Episode, kind: Kind) -> tuple[int, ...]:
    try:
        shape = PARAMETERS[kind].shape(episode.frame_shape)
    except InvalidArgument as error:
        raise InvalidArgument(f"episode {episode.episode_id}: {error}") from error
    return shape[:-1] if kind == "processed" else shape


def _require_ram(segment: Segment, agent: str) -> None:
    first, last = int(segment.steps[0]), int(segment.steps[-1])
    column = segment.episode.steps(agent, RAM_COLUMNS[:1], first, last + 1)[RAM_COLUMNS[0]]
    if column.null_count:
        step = first + column.is_null().to_pylist().index(True)
        raise InvalidArgument(
            f"episode {segment.episode.episode_id}, step {step}: {agent!r} has no RAM, which raw observations go with; "
            "leave the episode out, or export processed ones"
        )
