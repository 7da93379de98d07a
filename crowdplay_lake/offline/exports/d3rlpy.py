"""An export as a file of d3rlpy's: an array an episode and kind, written by d3rlpy. Needs the extra `d3rlpy`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np

from ..d3rlpy import N_FRAMES, library, remember
from .content import Content
from .hdf5 import add_records

if TYPE_CHECKING:
    from d3rlpy.dataset import Episode

__all__ = ["write"]

ARRAYS = ("observations", "actions", "rewards")


def write(content: Content, path: Path) -> None:
    """Write ``content`` to the file ``path``: the dataset of `to_mdp_dataset`, an episode at a time.

    The metadata lies beside, as in the format hdf5; d3rlpy passes over it.
    """
    import h5py

    library()
    from d3rlpy.dataset.io import dump

    # It is stored as it is: how much that will be is known.
    content.require_room(sum(column.nbytes(len(content)) for column in content.columns if column.name in ARRAYS))
    with path.open("w+b") as stream:
        dump(_Episodes(content), stream)
    with h5py.File(path, "r+") as file:
        remember(file, N_FRAMES, content.action_size)
        add_records(file, content)


class _Episodes(Sequence["Episode"]):
    """The episodes as d3rlpy's writer asks for them: how many, what the first one has, and all of them in order."""

    def __init__(self, content: Content) -> None:
        self._content = content

    def __len__(self) -> int:
        return len(self._content.lengths)

    @overload
    def __getitem__(self, index: int) -> Episode: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Episode]: ...
    def __getitem__(self, index: int | slice) -> Episode | Sequence[Episode]:
        if index != 0:
            raise IndexError(f"episode {index}: they come in order")
        return next(iter(self))

    def __iter__(self) -> Iterator[Episode]:
        from d3rlpy.dataset import Episode

        for exported in self._content.episodes():
            blocks = [[block[name][:, None] for name in ARRAYS] for block in exported.blocks()]
            observations, actions, rewards = map(np.concatenate, zip(*blocks, strict=True))
            yield Episode(observations, actions, rewards.astype(np.float32), exported.segment.terminal)
