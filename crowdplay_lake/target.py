"""Where a file or folder goes that a command leaves: whole or not at all, never over what somebody may still want."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import CannotWrite, InvalidArgument
from .storage import as_path, files_below, sync

__all__ = ["check_target", "require_room", "written_whole"]

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# HDF5 passes the system's errors on as text.
_SYSTEM_ERROR = re.compile(r"errno = (\d+)")


def check_target(target: Path | str, is_folder: bool, overwrite: bool, marks: tuple[str, ...] = ()) -> Path:
    """The path to write to, checked before any work. ``marks``: files by which a folder is known as such an export.

    Raises InvalidArgument where it is not on disk, is there already and not to be overwritten, is a folder where a file
    is written or the other way round, or lies in no folder.
    """
    path = as_path(target)
    if not isinstance(path, Path):
        raise InvalidArgument(f"{target}: it is written to a disk; write it here and copy it there")
    if _aside(path).is_dir() and not path.exists():
        # Somebody was killed between two names.
        _aside(path).rename(path)
    if path.is_dir() and not is_folder:
        raise InvalidArgument(f"{target}: is a folder; name a file in it")
    if path.exists() and is_folder and not path.is_dir():
        raise InvalidArgument(f"{target}: is a file; this format is a folder, name one")
    if not path.parent.is_dir():
        raise InvalidArgument(f"{Path(target).parent}: no such folder to write {path.name} into")
    is_empty = path.is_dir() and not any(path.iterdir())
    if path.exists() and not is_empty:
        if not overwrite:
            raise InvalidArgument(
                f"{target}: is there already; name another, or replace it with --overwrite (overwrite=True)"
            )
        if is_folder and not all((path / mark).exists() for mark in marks):
            raise InvalidArgument(f"{target}: is a folder, and no such export: it is not overwritten, name another")
    return path


# What a format holds back and writes at its end.
HELD_BACK = 2 << 20


def require_room(target: Path, size: int) -> None:
    """Raise CannotWrite where the disk has no room for ``size`` bytes more.

    HDF5 does not survive a full disk: it cannot close its file any more, and takes the process along.
    """
    free = shutil.disk_usage(target.parent).free
    if free < size + HELD_BACK:
        raise CannotWrite(
            f"{target}: no space is left on that disk for {size / 1e6:,.0f} MB more, {free / 1e6:,.0f} MB are free; "
            "free some, or write it elsewhere. Nothing was left behind"
        )


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """A path beside ``target`` to write a file or a folder at; it takes the name when all went well, else it goes.

    Raises CannotWrite where the disk is full.
    """
    unfinished = target.with_name(f".{target.name}.unfinished")
    # Of one that was killed.
    _remove(unfinished)
    try:
        yield unfinished
        written = [unfinished / name for name, _ in files_below(unfinished)] if unfinished.is_dir() else [unfinished]
        sync([*written, *{file.parent for file in written}])
        _replace(unfinished, target)
    except Exception as error:
        if _is_full(error):
            raise CannotWrite(
                f"{target}: no space is left on that disk; free some, or write it elsewhere. Nothing was left behind"
            ) from error
        raise
    finally:
        _remove(unfinished)


def _replace(unfinished: Path, target: Path) -> None:
    if target.is_dir():
        # A folder takes no other's place at once: it steps aside first.
        aside = _aside(target)
        _remove(aside)
        target.rename(aside)
        unfinished.rename(target)
        _remove(aside)
    else:
        unfinished.replace(target)
    sync([target.parent])


def _aside(target: Path) -> Path:
    """Where a folder that is replaced lies meanwhile."""
    return target.with_name(f".{target.name}.replaced")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _is_full(error: BaseException | None) -> bool:
    while error is not None:
        told = _SYSTEM_ERROR.search(str(error))
        if (int(told[1]) if told else getattr(error, "errno", None)) in _FULL:
            return True
        error = error.__cause__ or error.__context__
    return False
