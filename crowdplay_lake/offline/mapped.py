"""Observations in a file that is mapped into memory: made once, read by every run of a training, never all in memory.

A map is a folder::

    observations.raw    uint8 (n, 1, height, width), the selection's observations one after the other
    map.json            what they are of, and how many of them are written and safe
    .map.lock           held by who makes or removes it

It is of one commit of a lake and of one choice of steps. What is done is kept when its maker is stopped, and who makes
the same map goes on from there. Nobody reads it before it is whole.
"""

from __future__ import annotations

import errno
import hashlib
import json
import mmap
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from ..cache_folder import CACHE_VARIABLE, cache_root
from ..errors import CannotWrite, InvalidArgument
from ..observations import ObservationParameters
from ..storage import make_folder, naming, write_file
from .selection import Selection
from .stream import stream

__all__ = [
    "AUTO",
    "DATA",
    "LOCK",
    "MANIFEST",
    "MapDescription",
    "clear",
    "describe",
    "map_folder",
    "map_observations",
    "maps_folder",
    "read_manifest",
]

AUTO = "auto"
FORMAT = 1
DATA, MANIFEST, LOCK = "observations.raw", "map.json", ".map.lock"
# And what `write_file` may leave when it is killed.
OWN = frozenset({DATA, MANIFEST, LOCK, f".{MANIFEST}.tmp"})
# Seconds between two looks at whether the folder of a lock that is waited for is still there.
WAIT = 1.0
# How often what is written is made safe, in seconds: more than that is not lost when its maker is killed.
SAFE_EVERY = 5.0

# Linux's MADV_POPULATE_READ, since 5.14; Python has no name for it. In pieces, for it cannot be interrupted.
_POPULATE_READ = 22
_PIECE = 1 << 28
# Memory that must be available for it, of the size of the map.
_ROOM = 1.5

Tell = Callable[[int], None]


@dataclass(frozen=True)
class MapDescription:
    """What a map is of. Maps of the same are the same, byte for byte."""

    shape: tuple[int, ...]  # (n, 1, height, width)
    lakes: tuple[tuple[str, int], ...]  # (the name of a commit, unlike that of any other in any lake; its number)
    conversion: Mapping[str, Any]
    parameters: Mapping[str, Any]
    steps: str  # a digest of the episodes and of which steps of them
    format: int = FORMAT
    paths: tuple[str, ...] = field(default=(), compare=False)  # where the lakes lay

    @property
    def bytes(self) -> int:
        """Of the observations."""
        return int(np.prod(self.shape))

    @property
    def key(self) -> str:
        """Names the map: of everything that makes a difference."""
        return hashlib.sha256(json.dumps(self._facts(), sort_keys=True).encode()).hexdigest()[:20]

    def _facts(self) -> dict[str, Any]:
        facts = asdict(self)
        del facts["paths"]
        return facts

    def differences(self, manifest: Mapping[str, Any]) -> list[str]:
        """How the map of ``manifest`` is another one, a line each; none where it is this one."""
        told = []
        for name, mine in json.loads(json.dumps(self._facts())).items():
            theirs = manifest.get(name)
            if isinstance(mine, dict) and isinstance(theirs, dict):
                known = {**theirs, **mine}
                told += [
                    f"{each} is {theirs.get(each)!r}, not {mine.get(each)!r}"
                    for each in known
                    if theirs.get(each) != mine.get(each)
                ]
            elif name == "lakes" and mine != theirs:
                told.append(f"it is of commit {_numbers(theirs)}, not {_numbers(mine)}, or of another lake")
            elif name == "steps" and mine != theirs:
                told.append("it is of other episodes or steps")
            elif mine != theirs:
                told.append(f"{name} is {theirs!r}, not {mine!r}")
        return told


def _numbers(lakes: Any) -> str:
    return ", ".join(str(number) for _, number in lakes) if isinstance(lakes, list | tuple) else repr(lakes)


def describe(selection: Selection, parameters: ObservationParameters) -> MapDescription:
    """What the map of a selection would be. ``parameters`` of one screen an observation."""
    lakes: dict[str, tuple[int, str]] = {}
    digest = hashlib.sha256()
    for segment in selection.segments:
        snapshot = segment.episode.snapshot
        lakes[snapshot.row] = snapshot.number, str(snapshot.paths.root)
        digest.update(f"{segment.episode.episode_id}\0{len(segment)}\0".encode())
        digest.update(segment.steps.astype("<i8").tobytes())
    conversion = asdict(selection.conversion)
    # The rewards are not in the map.
    del conversion["rewards"]
    return MapDescription(
        shape=(len(selection), 1, parameters.warp_height, parameters.warp_width),
        lakes=tuple((row, number) for row, (number, _) in sorted(lakes.items())),
        conversion=conversion,
        parameters={name: getattr(parameters, name) for name in ("max_n", "warp_width", "warp_height")},
        steps=digest.hexdigest(),
        paths=tuple(path for _, (_, path) in sorted(lakes.items())),
    )


def maps_folder() -> Path:
    """Where maps lie that are asked for as "auto"."""
    return cache_root() / "observations"


def map_folder(where: str | os.PathLike[str], description: MapDescription) -> Path:
    """The folder of a map. ``where``: that folder, or "auto", one of `maps_folder`."""
    if where == AUTO:
        return maps_folder() / description.key
    return Path(where).expanduser().absolute()


def map_observations(
    selection: Selection,
    parameters: ObservationParameters,
    where: str | os.PathLike[str] = AUTO,
    executor: Executor | None = None,
    tell: Tell | None = None,
) -> npt.NDArray[np.uint8]:
    """The observations of a selection, uint8 (n, 1, height, width), read-only, mapped from a file.

    ``where``: the map's folder, or "auto": one of its own in the cache folder ($CROWDPLAY_LAKE_CACHE). It is made if
    need be, or finished where somebody was stopped while making it. ``executor``: who makes the observations.
    ``tell``: hears how many observations are done.

    Raises InvalidArgument where another map, or anything else, lies there; CannotWrite where the disk has too little
    room, before anything is written.
    """
    description = describe(selection, parameters)
    folder = map_folder(where, description)
    if folder.exists() and not folder.is_dir():
        raise InvalidArgument(f"{folder}: is a file; a memory map is a folder, name one that is not there yet")
    if not _is_whole(folder, description):
        _require_room(folder, description)
        with _writing(folder, description):
            # Somebody else may have made it while this one waited.
            if not _is_whole(folder, description):
                _make(folder, description, partial(stream, selection, parameters, executor), tell)
    return _mapped(folder / DATA, description.shape)


def _mapped(path: Path, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    mapped = np.memmap(path, np.uint8, "r", shape=shape)
    mapping: Any = mapped.base
    if isinstance(mapping, mmap.mmap):
        _populate(mapping)
    # A plain array over it, which d3rlpy indexes faster; it still knows its file, by which it is sent to workers.
    return np.asarray(mapped)


def _populate(mapping: mmap.mmap) -> None:
    """Have the system bring all pages now, where it has room for them: one by one, each would be a fault of its own.

    A second for 7 GB that are in its cache. They stay the system's, which may drop them.
    """
    found = re.search(r"MemAvailable:\s+(\d+) kB", _text("/proc/meminfo"))
    if found is None or 1024 * int(found[1]) < _ROOM * len(mapping):
        return
    with suppress(OSError, ValueError):
        for start in range(0, len(mapping), _PIECE):
            mapping.madvise(_POPULATE_READ, start, min(_PIECE, len(mapping) - start))


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What lies in a folder; None where it is no map. Raises InvalidArgument where it cannot be read."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"{folder / MANIFEST}: cannot be read ({error}); remove the folder") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("done"), int):
        raise InvalidArgument(f"{folder / MANIFEST}: is no description of a memory map; remove the folder")
    return manifest


def _is_whole(folder: Path, description: MapDescription) -> bool:
    """Whether the map is there, to its end. Raises InvalidArgument where another one is."""
    manifest = read_manifest(folder)
    if manifest is None:
        if folder.is_dir() and (held := sorted({path.name for path in folder.iterdir()} - OWN)):
            raise InvalidArgument(f"{folder}: holds {held[0]!r} and is no memory map; name a folder of its own for one")
        return False
    if differences := description.differences(manifest):
        raise InvalidArgument(
            f"{folder}: holds another memory map: {'; '.join(differences)}; name another folder, or remove that one:"
            f" crowdplay-lake cache remove --all --folder '{folder}'"
        )
    size = (folder / DATA).stat().st_size if (folder / DATA).is_file() else -1
    return bool(manifest["done"] == description.shape[0] and size == description.bytes)


def _require_room(folder: Path, description: MapDescription) -> None:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    # Of a file with holes, what it has on the disk, where the system tells.
    status = (folder / DATA).stat() if (folder / DATA).is_file() else None
    taken = 0 if status is None else 512 * getattr(status, "st_blocks", status.st_size // 512)
    need, free = description.bytes - taken, shutil.disk_usage(there).free
    if need > free:
        raise _too_little_room(folder, need, f"{free:,} bytes ({free / 1e9:.2f} GB)")


def _too_little_room(folder: Path, need: int, free: str) -> CannotWrite:
    return CannotWrite(
        f"{folder}: the observations take {need:,} bytes ({need / 1e9:.2f} GB), and that disk has {free} left; free"
        f" some, name a folder on another disk (for 'auto' in the variable {CACHE_VARIABLE}), or train without a map:"
        " to_lazy_dataset"
    )


@contextmanager
def _writing(folder: Path, description: MapDescription) -> Iterator[None]:
    """Alone with the map: who comes second waits. Where an error leaves nothing done, nothing is left."""
    try:
        with _locked(folder):
            try:
                yield
            except BaseException:
                if _done(folder) == 0:
                    clear(folder)
                raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _too_little_room(folder, description.bytes, "too little") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            why = f"may not be written to ({os.strerror(error.errno)})"
            do = f"name a folder that may (for 'auto' in the variable {CACHE_VARIABLE})"
            raise CannotWrite(f"{error.filename or folder}: {why}; {do}") from error
        raise


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / LOCK)
    while True:
        # Whoever had it may have removed the folder.
        make_folder(folder)
        with suppress(Timeout, FileNotFoundError):
            lock.acquire(timeout=WAIT)
            break
    try:
        yield
    finally:
        lock.release()


def _done(folder: Path) -> int:
    manifest = read_manifest(folder)
    return 0 if manifest is None else int(manifest["done"])


def clear(folder: Path) -> None:
    """Remove the files of a map, and the folder where nothing else lies in it."""
    # The lock last: who finds none makes one, and begins to write.
    for name in sorted(OWN, key=lambda name: (name == LOCK, name)):
        (folder / name).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def _make(
    folder: Path,
    description: MapDescription,
    observations: Callable[[int], Iterator[npt.NDArray[np.uint8]]],
    tell: Tell | None,
) -> None:
    """Write what is missing. Never through a mapping: a full disk would end the process there."""
    n, size = description.shape[0], description.bytes // description.shape[0]
    path = folder / DATA
    path.touch()
    done = min(_done(folder), path.stat().st_size // size)
    with naming(path), path.open("r+b") as data:
        _write_manifest(folder, description, done)
        _allocate(data.fileno(), description.bytes)
        data.seek(done * size)
        safe_at = time.monotonic()
        for images in observations(done):
            data.write(np.ascontiguousarray(images).data)
            done += len(images)
            if tell is not None:
                tell(done)
            if time.monotonic() - safe_at > SAFE_EVERY or done == n:
                data.flush()
                os.fsync(data.fileno())
                _write_manifest(folder, description, done)
                safe_at = time.monotonic()


def _allocate(file: int, size: int) -> None:
    """Take the room now, where the file system can: later it may be gone."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file, 0, size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
                raise


def _write_manifest(folder: Path, description: MapDescription, done: int) -> None:
    manifest = {**asdict(description), "done": done, "written_on": datetime.now(UTC).isoformat(timespec="seconds")}
    write_file(folder / MANIFEST, json.dumps(manifest, indent=2).encode())
