"""Progress of an ingest: a bar on a terminal; elsewhere a line now and then, as text or as JSON, on stderr."""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from crowdplay_ingest.pipeline import Progress, Rejection

from .output import as_json, human_bytes, human_duration, stderr
from .progress import LogFormat

__all__ = ["ingest_progress"]

# Seconds between two lines of progress where nothing else happens.
LINE_EVERY = 30.0


class _Told(Progress, AbstractContextManager["_Told"]):
    """Adds up what it is told."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.planned_episodes = self.planned_bytes = 0
        self.episodes = self.steps = self.bytes = self.rejections = 0

    def planned(self, episodes: int, total_bytes: int) -> None:
        self.began = time.monotonic()
        self.planned_episodes, self.planned_bytes = episodes, total_bytes

    def advanced(self, steps: int, read_bytes: int) -> None:
        self.steps += steps
        self.bytes += read_bytes

    def finished(self, episode_id: str) -> None:
        self.episodes += 1

    def rejected(self, rejection: Rejection) -> None:
        self.rejections += 1

    @property
    def seconds(self) -> float:
        return max(time.monotonic() - self.began, 1e-3)

    @property
    def steps_per_second(self) -> float:
        return self.steps / self.seconds

    @property
    def seconds_left(self) -> float | None:
        """By the bytes that are left; None before anything is done."""
        if not self.bytes:
            return None
        return self.seconds * max(self.planned_bytes - self.bytes, 0) / self.bytes

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class _Bar(_Told):
    """For a terminal: episodes, steps, steps per second and the time left, by bytes read."""

    def __init__(self) -> None:
        super().__init__()
        self._bar = RichProgress(
            TextColumn("ingest"),
            BarColumn(),
            TextColumn("{task.fields[episodes]:,}/{task.fields[planned]:,} episodes"),
            TextColumn("{task.fields[steps]:,} steps"),
            TextColumn("{task.fields[rate]:,.0f} steps/s"),
            TimeRemainingColumn(),
            console=stderr,
            transient=True,
        )
        self._task = self._bar.add_task("ingest", total=None, episodes=0, planned=0, steps=0, rate=0.0)

    def planned(self, episodes: int, total_bytes: int) -> None:
        super().planned(episodes, total_bytes)
        self._bar.update(self._task, total=total_bytes, planned=episodes)

    def advanced(self, steps: int, read_bytes: int) -> None:
        super().advanced(steps, read_bytes)
        self._bar.update(self._task, completed=self.bytes, steps=self.steps, rate=self.steps_per_second)

    def finished(self, episode_id: str) -> None:
        super().finished(episode_id)
        self._bar.update(self._task, episodes=self.episodes + self.rejections)

    def rejected(self, rejection: Rejection) -> None:
        super().rejected(rejection)
        self._bar.console.print(f"rejected {rejection}", style="yellow", markup=False)

    def __enter__(self) -> _Bar:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()


class _Lines(_Told):
    """For a log: one line per commit and rejection, and one now and then in between."""

    def __init__(self, as_text: bool) -> None:
        super().__init__()
        self._as_text = as_text
        self._last = time.monotonic()

    def _say(self, event: str, text: str, **facts: Any) -> None:
        self._last = time.monotonic()
        now = datetime.now(UTC)
        as_line = f"{now:%Y-%m-%d %H:%M:%S} {text}"
        line = as_line if self._as_text else as_json({"time": now, "event": event, **facts})
        print(line, file=sys.stderr, flush=True)

    def _state(self) -> dict[str, Any]:
        return {
            "episodes": self.episodes,
            "steps": self.steps,
            "bytes": self.bytes,
            "planned_episodes": self.planned_episodes,
            "planned_bytes": self.planned_bytes,
            "rejected": self.rejections,
            "seconds": round(self.seconds, 3),
            "steps_per_second": round(self.steps_per_second, 1),
            "seconds_left": self.seconds_left,
        }

    def _state_text(self) -> str:
        left = self.seconds_left
        share = f"{self.bytes / self.planned_bytes:.1%}" if self.planned_bytes else "100%"
        return (
            f"{share}, {self.episodes:,} of {self.planned_episodes:,} episodes, {self.steps:,} steps, "
            f"{self.steps_per_second:,.0f} steps/s"
            + (f", {human_duration(left)} left" if left is not None else "")
            + (f", {self.rejections:,} rejected" if self.rejections else "")
        )

    def planned(self, episodes: int, total_bytes: int) -> None:
        super().planned(episodes, total_bytes)
        text = f"{episodes:,} episodes to ingest, {human_bytes(total_bytes)}"
        self._say("planned", text, episodes=episodes, bytes=total_bytes)

    def advanced(self, steps: int, read_bytes: int) -> None:
        super().advanced(steps, read_bytes)
        if time.monotonic() - self._last >= LINE_EVERY:
            self._say("progress", self._state_text(), **self._state())

    def rejected(self, rejection: Rejection) -> None:
        super().rejected(rejection)
        self._say("rejected", f"rejected {rejection}", **vars(rejection))

    def committed(self, commit: int, episodes: int, steps: int) -> None:
        self._say("committed", f"commit {commit}: {self._state_text()}", commit=commit, **self._state())

    def __enter__(self) -> _Lines:
        return self


def ingest_progress(log_format: LogFormat) -> _Told:
    """What tells the progress of an ingest: with `AUTO` a bar on a terminal, lines of text elsewhere."""
    if log_format is LogFormat.AUTO and stderr.is_terminal:
        return _Bar()
    return _Lines(as_text=log_format is not LogFormat.JSON)
