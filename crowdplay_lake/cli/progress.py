"""Progress: a bar on a terminal, nothing where nobody watches."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from crowdplay_ingest.pipeline import Progress, Rejection

from .output import stderr

if TYPE_CHECKING:
    from crowdplay_ingest.sources import RawFile

__all__ = ["IngestBar", "StagesBar"]


class IngestBar(Progress):
    """Episodes, steps, steps per second and the time left, by bytes read."""

    def __init__(self) -> None:
        self._bar = RichProgress(
            TextColumn("ingest"),
            BarColumn(),
            TextColumn("{task.fields[episodes]}/{task.fields[planned]} episodes"),
            TextColumn("{task.fields[steps]:,} steps"),
            TextColumn("{task.fields[rate]:,.0f} steps/s"),
            TimeRemainingColumn(),
            console=stderr,
            transient=True,
        )
        self._task = self._bar.add_task("ingest", total=None, episodes=0, planned=0, steps=0, rate=0.0)
        self._began = time.monotonic()
        self._steps = 0
        self._episodes = 0

    def planned(self, episodes: int, total_bytes: int) -> None:
        self._began = time.monotonic()
        self._bar.update(self._task, total=total_bytes, planned=episodes)

    def advanced(self, steps: int, read_bytes: int) -> None:
        self._steps += steps
        elapsed = max(time.monotonic() - self._began, 1e-3)
        self._bar.update(self._task, advance=read_bytes, steps=self._steps, rate=self._steps / elapsed)

    def finished(self, raw: RawFile, rejection: Rejection | None) -> None:
        self._episodes += 1
        self._bar.update(self._task, episodes=self._episodes)
        if rejection is not None:
            self._bar.console.print(f"rejected {rejection}", style="yellow", markup=False)

    def __enter__(self) -> IngestBar:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()


class StagesBar:
    """One bar for each kind of work, as it comes."""

    def __init__(self) -> None:
        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(),
            console=stderr,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}

    def tell(self, what: str, done: int, total: int) -> None:
        """``done`` of ``total`` of something."""
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(what, total=total)
        self._bar.update(self._tasks[what], completed=done, total=total)

    def __enter__(self) -> StagesBar:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
