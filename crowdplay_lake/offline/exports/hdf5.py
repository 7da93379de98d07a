"""An export as one HDF5 file: flat arrays under the names of D4RL. Needs the extra `hdf5`."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ...errors import MissingExtra
from .content import Column, Content
from .records import about_content, about_episode, as_text

__all__ = ["add_records", "library", "write"]

# A chunk is decompressed whole for any value of it: small enough to pick single observations, large enough to pack.
CHUNK_BYTES = 128 << 10


def library() -> ModuleType:
    """h5py. Raises MissingExtra."""
    try:
        import h5py
    except ImportError as error:
        raise MissingExtra("h5py", "hdf5") from error
    module: ModuleType = h5py
    return module


def write(content: Content, path: Path) -> None:
    """Write ``content`` to the file ``path``."""
    h5py = library()
    with h5py.File(path, "w") as file:
        arrays = {
            column.name: file.create_dataset(
                column.name,
                (len(content), *column.shape),
                column.dtype,
                chunks=(_chunk_rows(column, len(content)), *column.shape),
                compression="gzip",
            )
            for column in content.columns
        }
        for column in content.columns:
            arrays[column.name].attrs["meaning"] = column.doc
        file.create_dataset("episode_ends", data=content.ends)
        start = 0
        for exported in content.episodes():
            for block in exported.blocks():
                for name, array in arrays.items():
                    array[start : start + len(block)] = block[name]
                start += len(block)
        add_records(file, content)


def add_records(file: Any, content: Content) -> None:
    """Write the metadata of all episodes, and of the whole, to an open HDF5 file."""
    text = library().string_dtype()
    records = file.create_dataset("episodes", (len(content.lengths),), text)
    records.attrs["meaning"] = "metadata of each episode, as JSON"
    for exported in content.episodes():
        records[exported.index] = as_text(about_episode(exported))
    # As a dataset: an attribute takes 64 KB.
    file.create_dataset("about", data=as_text(about_content(content)), dtype=text)


def _chunk_rows(column: Column, rows: int) -> int:
    return int(np.clip(CHUNK_BYTES // column.nbytes(1), 1, rows))
