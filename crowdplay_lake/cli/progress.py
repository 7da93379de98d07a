"""Progress: how it is told, and a bar for each kind of work."""

from __future__ import annotations

from enum import StrEnum
from types import TracebackType

from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from .output import stderr

__all__ = ["LogFormat", "StagesBar"]


class LogFormat(StrEnum):
    """How progress is told."""

    AUTO = "auto"
    TEXT = "text"
    JSON = "json"


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
            disable=not stderr.is_terminal,
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
