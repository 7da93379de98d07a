"""The memory maps in a folder: which there are, and how they go."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..errors import InvalidArgument, LakeBusy, UnknownMap, UnknownPath
from .mapped import DATA, LOCK, MANIFEST, clear, maps_folder, read_manifest

__all__ = ["CachedMap", "list_maps", "remove_maps"]


@dataclass(frozen=True)
class CachedMap:
    """A memory map in a folder."""

    name: str
    folder: Path
    observations: int
    done: int  # of them; fewer where its maker was stopped
    bytes: int  # on disk
    lakes: tuple[str, ...]
    commits: tuple[int, ...]
    agent: str | None
    written_on: str | None

    @property
    def is_whole(self) -> bool:
        return self.done == self.observations


def list_maps(folder: str | os.PathLike[str] | None = None) -> list[CachedMap]:
    """The maps in ``folder``, or ``folder`` itself if it is one; by default those in the cache folder.

    One whose description is damaged has no lakes and no observations. Raises UnknownPath where ``folder`` is none.
    """
    root = maps_folder() if folder is None else Path(folder).expanduser().absolute()
    if not root.is_dir():
        if folder is not None:
            raise UnknownPath(str(folder))
        return []
    candidates = [root] if _is_map(root) else sorted(path for path in root.iterdir() if path.is_dir())
    return [_described(path) for path in candidates if _is_map(path)]


def _is_map(folder: Path) -> bool:
    return (folder / MANIFEST).is_file() or (folder / DATA).is_file()


def _described(folder: Path) -> CachedMap:
    try:
        manifest: dict[str, Any] = read_manifest(folder) or {}
    except InvalidArgument:
        manifest = {}
    data = folder / DATA
    conversion = manifest.get("conversion") or {}
    return CachedMap(
        name=folder.name,
        folder=folder,
        observations=(manifest.get("shape") or [0])[0],
        done=manifest.get("done", 0),
        bytes=data.stat().st_size if data.is_file() else 0,
        lakes=tuple(manifest.get("paths") or ()),
        commits=tuple(number for _, number in manifest.get("lakes") or ()),
        agent=conversion.get("agent"),
        written_on=manifest.get("written_on"),
    )


def remove_maps(names: Iterable[str] | None = None, folder: str | os.PathLike[str] | None = None) -> list[CachedMap]:
    """Remove the maps of these names, or all of them, from ``folder`` (see `list_maps`). Returns what was removed.

    A process that has one mapped goes on reading it; the room on the disk comes back when that ends. Raises UnknownMap
    before anything is removed, LakeBusy for one that is being made.
    """
    known = {each.name: each for each in list_maps(folder)}
    chosen = list(known if names is None else dict.fromkeys(names))
    for name in chosen:
        if name not in known:
            raise UnknownMap(name, known, str(maps_folder() if folder is None else folder))
    for name in chosen:
        try:
            with FileLock(known[name].folder / LOCK, timeout=0):
                clear(known[name].folder)
        except Timeout as error:
            raise LakeBusy(f"{known[name].folder}: is being made by another process; end that first") from error
    return [known[name] for name in chosen]
