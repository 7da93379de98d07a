"""Episodes as a d3rlpy dataset. Needs the extra `d3rlpy`."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable
from concurrent.futures import Executor
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..episode import DEFAULT_AGENT, Episode
from ..errors import InvalidArgument, MissingExtra
from ..observations import ObservationParameters
from .lazy import MEMORY, LazyObservations
from .mapped import map_observations
from .selection import Selection, select
from .stream import stream
from .transitions import ControlledBy, Conversion, Rewards

if TYPE_CHECKING:
    from d3rlpy.dataset import MDPDataset, ReplayBuffer

    from .lazy_dataset import LazyDataset

__all__ = ["dump", "library", "load", "remember", "to_lazy_dataset", "to_mdp_dataset"]

# Frames that d3rlpy stacks when it samples.
N_FRAMES = 4


def to_mdp_dataset(
    episodes: Iterable[Episode],
    agent: str = DEFAULT_AGENT,
    downsample_frequency: int = 4,
    rewards: Rewards = "following",
    controlled_by: ControlledBy | None = None,
    *,
    downsample_offset: int = 0,
    n_frames: int = N_FRAMES,
    action_size: int | None = None,
    max_n: int = 2,
    warp_width: int = 84,
    warp_height: int = 84,
    memory_map: str | PathLike[str] | None = None,
    progress: bool = False,
    executor: Executor | None = None,
) -> MDPDataset:
    """An `MDPDataset` of one agent's trajectories.

    Observations are uint8 (n, 1, 84, 84), every ``downsample_frequency``-th step and the last of each episode; d3rlpy
    stacks ``n_frames`` of them when it samples. Actions int64 (n, 1); rewards float32 (n, 1), credited as ``rewards``
    says (see `Conversion`). An episode ends at the agent's first done, a terminal; one that was stopped, cut at the
    frame limit, or cut where control changes hands (``controlled_by``) ends in a timeout.

    ``action_size`` is that of the game's action set; for an unknown game the largest action seen decides. Games with
    different action sets are trained on together only where it is given. ``executor``: who makes the observations, as
    in an ingest; on threads, too, each uses a core of its own. The dataset is the same.

    ``memory_map``: a folder to keep the observations in, instead of memory, or "auto" for one in the cache folder. It
    is made once and mapped by every later call for the same steps of the same commit; who was stopped while making it
    goes on. `crowdplay-lake cache` lists and removes those in the cache folder.

    >>> dataset = to_mdp_dataset(lake.episodes("game = 'space_invaders' AND score >= 50"))   # doctest: +SKIP

    Raises InvalidArgument for an empty selection or mixed action sets, or where ``memory_map`` holds another map;
    CannotWrite where its disk has too little room; UnknownAgent, NoTrajectory, MissingExtra, WorkersLost.
    """
    trainer = library(n_frames)
    conversion = Conversion(agent, downsample_frequency, downsample_offset, rewards, controlled_by)
    selection = select(episodes, conversion, action_size)
    parameters = _single(max_n, warp_width, warp_height)
    return trainer.MDPDataset(
        _observations(selection, parameters, memory_map, progress, executor),
        selection.actions[:, None],
        selection.rewards[:, None],
        selection.terminals.astype(np.float32),
        selection.timeouts.astype(np.float32),
        action_size=selection.action_size,
        **_discrete_stacks(trainer, n_frames),
    )


def to_lazy_dataset(
    episodes: Iterable[Episode],
    agent: str = DEFAULT_AGENT,
    downsample_frequency: int = 4,
    rewards: Rewards = "following",
    controlled_by: ControlledBy | None = None,
    *,
    downsample_offset: int = 0,
    n_frames: int = N_FRAMES,
    action_size: int | None = None,
    max_n: int = 2,
    warp_width: int = 84,
    warp_height: int = 84,
    shuffle_buffer: int = 0,
    prefetch: int = 1,
    seed: int | None = None,
    memory: int = MEMORY,
) -> LazyDataset:
    """The transitions of `to_mdp_dataset`, index for index, with observations that are made when they are sampled.

    For who has neither the memory nor the disk. ``shuffle_buffer``: 0 samples uniformly; else from so many transitions
    that are read in runs, in a random order: faster, and only nearly uniform. ``prefetch``: batches that a thread makes
    ahead. ``seed``, ``memory``: see `lazy_dataset.Feeding`.

    >>> with to_lazy_dataset(lake.episodes(), shuffle_buffer=5000) as dataset:       # doctest: +SKIP
    ...     algorithm.fit(dataset, n_steps=100_000)

    Raises what `to_mdp_dataset` raises.
    """
    trainer = library(n_frames)
    from .lazy_dataset import Feeding, LazyDataset

    feeding = Feeding(shuffle_buffer, prefetch, seed, memory)
    conversion = Conversion(agent, downsample_frequency, downsample_offset, rewards, controlled_by)
    selection = select(episodes, conversion, action_size)
    observations = LazyObservations(selection, _single(max_n, warp_width, warp_height), 0 if shuffle_buffer else memory)
    return LazyDataset(selection, observations, feeding, n_frames, **_discrete_stacks(trainer, n_frames))


def _single(max_n: int, warp_width: int, warp_height: int) -> ObservationParameters:
    """One screen an observation: d3rlpy stacks them."""
    return ObservationParameters(
        framestack_axis_first=True, max_n=max_n, stack_n=1, warp_width=warp_width, warp_height=warp_height
    )


def library(n_frames: int = 1) -> ModuleType:
    """The module d3rlpy.dataset. d3rlpy imports gym, which greets every program with four lines about its successor."""
    if n_frames < 1:
        raise InvalidArgument(f"n_frames must be at least 1, not {n_frames}")
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            import d3rlpy.dataset
    except ImportError as error:
        raise MissingExtra("d3rlpy", "d3rlpy") from error
    module: ModuleType = d3rlpy.dataset
    return module


def _discrete_stacks(trainer: ModuleType, n_frames: int) -> dict[str, Any]:
    """What tells a buffer that actions are discrete and how many frames it stacks when it samples."""
    from d3rlpy.constants import ActionSpace

    return {
        "action_space": ActionSpace.DISCRETE,
        "transition_picker": trainer.FrameStackTransitionPicker(n_frames) if n_frames > 1 else None,
        "trajectory_slicer": trainer.FrameStackTrajectorySlicer(n_frames) if n_frames > 1 else None,
    }


def _observations(
    selection: Selection,
    parameters: ObservationParameters,
    where: str | PathLike[str] | None,
    progress: bool,
    executor: Executor | None,
) -> npt.NDArray[np.uint8]:
    """All of them, in memory or mapped from a file."""
    from rich.progress import Progress

    with Progress(disable=not progress) as bar:
        task = bar.add_task("observations", total=len(selection))

        def tell(done: int) -> None:
            bar.update(task, completed=done)

        if where is not None:
            return map_observations(selection, parameters, where, executor, tell)
        observations = np.empty((len(selection), 1, parameters.warp_height, parameters.warp_width), np.uint8)
        done = 0
        for images in stream(selection, parameters, executor):
            observations[done : done + len(images)] = images
            done += len(images)
            tell(done)
    return observations


def dump(dataset: MDPDataset, file: Path) -> None:
    """Write the dataset to an HDF5 file, whole or not at all; `load` reads it.

    d3rlpy's own `ReplayBuffer.load` reads it too, but without the frame stacks and the number of actions.
    """
    import h5py

    unfinished = file.with_name(f".{file.name}.unfinished")
    try:
        with unfinished.open("w+b") as stream:
            dataset.dump(stream)
        with h5py.File(unfinished, "r+") as stored:
            remember(stored, _n_frames(dataset), dataset.dataset_info.action_size)
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


def remember(stored: Any, n_frames: int, action_size: int) -> None:
    """Keep in an open HDF5 file of d3rlpy's what d3rlpy does not: `load` wants it."""
    stored.attrs["n_frames"] = n_frames
    stored.attrs["action_size"] = action_size


def _n_frames(dataset: MDPDataset) -> int:
    for episode in dataset.episodes:
        if episode.transition_count:
            return int(dataset.transition_picker(episode, 0).observation.shape[0])
    return 1


def load(file: Path | str) -> ReplayBuffer:
    """The dataset of a file that `dump` wrote, with its frame stacks and number of actions."""
    trainer = library()
    import h5py

    with h5py.File(file, "r") as stored:
        n_frames, action_size = int(stored.attrs.get("n_frames", 1)), stored.attrs.get("action_size")
    with open(file, "rb") as stream:
        episodes = trainer.ReplayBuffer.load(stream, trainer.InfiniteBuffer()).episodes
    return trainer.ReplayBuffer(
        trainer.InfiniteBuffer(),
        episodes=episodes,
        action_size=None if action_size is None else int(action_size),
        # Nothing is recorded into it.
        cache_size=1,
        **_discrete_stacks(trainer, n_frames),
    )
