"""A folder on this machine, and everything below it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from .stored import Listing, StoredFile, is_wanted

__all__ = ["list_folder", "stat_file"]


def list_folder(root: Path) -> Listing:
    """Every file below ``root`` that is wanted. Links are followed, each folder is visited once.

    A folder that may not be read, a file, or a link that leads nowhere is listed as such; what vanishes meanwhile is
    not there.
    """
    listing = Listing()
    visited: set[tuple[int, int]] = set()
    # Linked folders come last, so that a folder that is really there keeps its own name.
    linked: list[Path] = []
    pending = [root.absolute()]
    while pending or linked:
        folder = (pending or linked).pop(0)
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except FileNotFoundError:
            continue
        except OSError as error:
            if folder == root.absolute():
                raise
            listing.unreadable.append((_name(folder, root), f"cannot be listed: {error.strerror or error}"))
            continue
        for below in _take(found, root, listing):
            (linked if below.is_symlink() else pending).append(Path(below.path))
    return listing


def stat_file(path: Path, name: str) -> StoredFile:
    """The file at ``path``, whatever its name says."""
    status = path.stat()
    return StoredFile(name, str(path.absolute()), status.st_size, f"mtime:{status.st_mtime_ns}")


def _take(entries: list[os.DirEntry[str]], root: Path, listing: Listing) -> Iterator[os.DirEntry[str]]:
    """Files go to the listing; the folders come out."""
    for entry in entries:
        path = Path(entry.path)
        try:
            if entry.is_dir():
                if not entry.name.startswith(".") and entry.name != "__MACOSX":
                    yield entry
            elif entry.is_symlink() and not entry.name.startswith(".") and not path.exists():
                # To a disk that is not mounted, say: a file, or a folder full of them.
                listing.unreadable.append((_name(path, root), "is a link that leads nowhere"))
            elif is_wanted(entry.name) and entry.is_file():
                listing.files.append(stat_file(path, _name(path, root)))
        except FileNotFoundError:
            continue
        except OSError as error:
            listing.unreadable.append((_name(path, root), f"cannot be read: {error.strerror or error}"))


def _name(path: Path, root: Path) -> str:
    """Relative, and as text that every table can hold: a name on disk may be any bytes."""
    name = path.relative_to(root.absolute()).as_posix()
    return os.fsencode(name).decode("utf-8", "backslashreplace")
