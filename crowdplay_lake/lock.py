"""The writer's lock: one writer at a time, told by name to whoever waits, and healed when its holder is gone.

On disk it is the operating system's own, which ends with its process. On object storage it is a lease: a small object
per holder in turn (`.lock/000000000007.json`), which only one can create, and which its holder renews as long as it
lives. One that is not renewed for `PATIENCE` seconds has no holder any more, and the next in turn is free to take. No
two clocks are compared: who waits sees for itself whether the lease changes.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import LakeBusy
from .storage import AnyPath, files_below, remove, sync

if TYPE_CHECKING:
    from upath import UPath

__all__ = ["LOCK_NAMES", "Hold", "locked"]

LOCK_NAMES = frozenset({".lock", ".lock-holder"})

BEAT = 5.0  # seconds between two renewals of a lease
PATIENCE = 20.0  # seconds without a renewal after which its holder counts as gone


@dataclass
class Hold:
    """The lock, held."""

    unclean: bool  # a holder did not end well: it may have left something half-done, which is to be put right
    is_lost: Callable[[], bool]  # whether somebody else has taken the lock meanwhile
    lease: _Lease | None = None

    def check(self) -> None:
        """Raise LakeBusy if somebody else has taken the lock meanwhile: this process was asleep or cut off."""
        if self.lease is not None and self.lease.is_lost():
            raise LakeBusy(
                f"{self.lease.folder.parent}: this process did not renew its lock in time, and somebody else took it;"
                " nothing was changed, run it again"
            )


@contextmanager
def locked(root: AnyPath, wait: float) -> Iterator[Hold]:
    """Hold the lock of the lake at ``root``. Raises LakeBusy after ``wait`` seconds, naming who holds it."""
    holding = _file_lock(root, wait) if isinstance(root, Path) else _lease(root, wait)
    with holding as hold:
        yield hold


def _me() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}


def _told(holder: dict[str, Any]) -> str:
    try:
        since = datetime.fromtimestamp(holder["since"]).strftime("%H:%M:%S")
        return f"process {holder['pid']} on {holder['host']} (since {since})"
    except (KeyError, TypeError, ValueError, OSError):
        return "another process"


def _busy(root: AnyPath, holder: dict[str, Any], silent: float | None = None) -> LakeBusy:
    """``silent``: seconds in which a holder of a lease gave no sign of life, too few to tell that it is gone."""
    sign = "" if silent is None else f" (no sign of life in the {silent:.1f} seconds that this waited)"
    longer = "" if silent is None else f"; if it is dead, that shows to who waits {2 * BEAT:g} seconds or more"
    return LakeBusy(f"{root}: {_told(holder)} is writing to it{sign}; wait for it to end, then run this again{longer}")


# On disk


@contextmanager
def _file_lock(root: Path, wait: float) -> Iterator[Hold]:
    import filelock

    lock = filelock.FileLock(root / ".lock")
    holder = root / ".lock-holder"
    try:
        lock.acquire(timeout=wait)
    except filelock.Timeout as error:
        raise _busy(root, _read(holder)) from error
    try:
        ours = (root / ".lock").stat().st_ino

        def is_lost() -> bool:
            with suppress(FileNotFoundError):
                return (root / ".lock").stat().st_ino != ours
            return True

        hold = Hold(holder.exists(), is_lost)
        try:
            holder.write_text(json.dumps(_me()))
            # After a power cut, too, the next one is to know of this one.
            sync([holder, root])
            yield hold
        finally:
            # Left where it is, it tells the next one to put right what is half-done.
            if not hold.unclean and not is_lost():
                holder.unlink(missing_ok=True)
    finally:
        lock.release()


def _read(path: AnyPath) -> dict[str, Any]:
    try:
        read = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


# On object storage


@contextmanager
def _lease(root: UPath, wait: float) -> Iterator[Hold]:
    folder = root / ".lock"
    lease, unclean = _take(folder, wait)
    hold = Hold(unclean, lease.is_lost, lease)
    stop = threading.Event()
    renewing = threading.Thread(target=lease.keep, args=(stop,), name="crowdplay-lake lease", daemon=True)
    renewing.start()
    try:
        yield hold
    finally:
        stop.set()
        renewing.join()
        lease.release(hold.unclean)


def _turns(folder: UPath) -> list[int]:
    return sorted(int(name[:-5]) for name, _ in files_below(folder) if name[:-5].isdigit() and name.endswith(".json"))


def _take(folder: UPath, wait: float) -> tuple[_Lease, bool]:
    """The next turn, once the last one is let go of or has no holder: (the lease, whether the holder ended badly)."""
    began = changed = time.monotonic()
    seen: dict[str, Any] | None = None
    is_alive = False
    while True:
        turns = _turns(folder)
        last = _read(folder / _name(turns[-1])) if turns else {"released": True}
        now = time.monotonic()
        if last != seen:
            is_alive = seen is not None
            seen, changed = last, now
        gone = now - changed > PATIENCE
        if last.get("released") or gone:
            lease = _Lease(folder, (turns[-1] if turns else 0) + 1)
            if lease.create():
                return lease, gone or bool(last.get("unclean"))
            continue
        # Who waits long enough to have seen a renewal, and has not, waits until it is clear that the holder is gone.
        if now - began > wait and (is_alive or wait < 2 * BEAT):
            raise _busy(folder.parent, last, None if is_alive else now - changed)
        time.sleep(min(BEAT / 5, 0.5))


def _name(turn: int) -> str:
    return f"{turn:012d}.json"


class _Lease:
    def __init__(self, folder: UPath, turn: int) -> None:
        self.folder = folder
        self.turn = turn
        self._content = {**_me(), "token": uuid.uuid4().hex, "beat": 0, "released": False}

    @property
    def _path(self) -> UPath:
        return self.folder / _name(self.turn)

    def create(self) -> bool:
        """Whether this turn is ours: nobody else created it, and nobody has gone on to a later one."""
        try:
            self._path.fs.pipe_file(self._path.path, self._packed(), mode="create")
        except FileExistsError:
            return False
        turns = _turns(self.folder)
        if turns[-1] != self.turn:
            remove(self._path)
            return False
        for turn in turns[:-1]:
            remove(self.folder / _name(turn))
        return True

    def _packed(self) -> bytes:
        return json.dumps(self._content).encode()

    def _write(self, **changes: Any) -> None:
        self._content |= changes
        self._path.fs.pipe_file(self._path.path, self._packed())

    def keep(self, stop: threading.Event) -> None:
        """Renew the lease until told to stop, or until it is another's."""
        while not stop.wait(BEAT):
            try:
                if self.is_lost():
                    return
                self._write(beat=self._content["beat"] + 1)
            except Exception:
                # The network is away, which libraries tell in many ways: the next beat tries again, and a commit
                # checks whose turn it is.
                continue

    def is_lost(self) -> bool:
        turns = _turns(self.folder)
        return not turns or turns[-1] != self.turn

    def release(self, unclean: bool) -> None:
        # Without a network it ends by itself.
        with suppress(Exception):
            if not self.is_lost():
                self._write(released=True, unclean=unclean)
