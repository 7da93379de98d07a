"""An export as one .npz: flat arrays, for `numpy.load` without pickle. Needs nothing but numpy."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from .content import Content
from .records import about_content, about_episode, as_text

__all__ = ["write"]

# The same content gives the same bytes.
_EPOCH = (1980, 1, 1, 0, 0, 0)
_COPY_BYTES = 1 << 20


def write(content: Content, path: Path) -> None:
    """Write ``content`` to the file ``path``: every array as it comes, none of them ever whole in memory.

    The members of a zip follow each other, so that one pass fills the observations, and the small arrays wait on disk.
    """
    observations, *small = content.columns
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, ExitStack() as stack:
        spools = {column.name: stack.enter_context(_spool(path)) for column in small}
        records = stack.enter_context(_spool(path))
        with _array(archive, observations.name, observations.dtype, (len(content), *observations.shape)) as member:
            for exported in content.episodes():
                for block in exported.blocks():
                    member.write(_bytes(block[observations.name]))
                    for name, spool in spools.items():
                        spool.write(_bytes(block[name]))
                records.write(as_text(about_episode(exported)).encode("ascii") + b"\n")
        for column in small:
            _spooled(archive, column.name, column.dtype, (len(content), *column.shape), spools[column.name])
        _whole(archive, "episode_ends", content.ends)
        # Lines in one array of bytes: an array of texts gives each the room of the longest.
        _spooled(archive, "episodes", np.dtype(np.uint8), (records.tell(),), records)
        _whole(archive, "about", np.array(as_text(about_content(content))))


def _spool(path: Path) -> IO[bytes]:
    """A file without a name on the same disk."""
    return tempfile.TemporaryFile(dir=path.parent)


@contextmanager
def _array(archive: zipfile.ZipFile, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Iterator[IO[bytes]]:
    """A member to write the bytes of an array to, in C order."""
    info = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
    info.compress_type = zipfile.ZIP_DEFLATED
    with archive.open(info, "w", force_zip64=True) as member:
        described = np.lib.format.dtype_to_descr(dtype)
        header = {"descr": described, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(member, header)
        yield member


def _spooled(
    archive: zipfile.ZipFile, name: str, dtype: np.dtype[Any], shape: tuple[int, ...], spool: IO[bytes]
) -> None:
    spool.seek(0)
    with _array(archive, name, dtype, shape) as member:
        shutil.copyfileobj(spool, member, _COPY_BYTES)


def _whole(archive: zipfile.ZipFile, name: str, array: np.ndarray[Any, Any]) -> None:
    with _array(archive, name, array.dtype, array.shape) as member:
        member.write(_bytes(array))


def _bytes(array: np.ndarray[Any, Any]) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
