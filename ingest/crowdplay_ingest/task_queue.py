"""The tasks of an ingest that are still to be done; those whose worker died, or that were cancelled, come again."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence

from crowdplay_lake.errors import WorkersLost

from .tasks import Task

__all__ = ["TaskQueue"]

# A file whose worker died twice while it was alone is the cause.
ATTEMPTS = 2
# Deaths in a row, none of the tasks done, after which it is not the files.
HOPELESS = 8


class TaskQueue:
    """Tasks to be done: those that a worker died of come last, one at a time."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._waiting = deque(tasks)
        self._next_number = len(tasks)
        self._suspects: deque[Task] = deque()
        self._alone: Task | None = None
        self._lost: Counter[str] = Counter()
        self._cancelled: Counter[int] = Counter()
        self.deaths = 0  # since a task was done

    def __bool__(self) -> bool:
        return bool(self._waiting or self._suspects)

    def count_death(self) -> None:
        """Workers died. Raises WorkersLost where that happens again and again, with nothing done in between."""
        self.deaths += 1
        if self.deaths > HOPELESS:
            raise WorkersLost(
                f"workers died {self.deaths} times in a row, whatever they worked on; is the machine out of memory?"
                " Try fewer with --workers"
            )

    def next(self, at_once: int, running: int) -> Iterator[Task]:
        """The tasks to hand over now."""
        if self._waiting:
            for _ in range(min(at_once - running, len(self._waiting))):
                yield self._waiting.popleft()
        elif self._suspects and not running:
            self._alone = self._suspects.popleft()
            yield self._alone

    def cancelled(self, task: Task) -> None:
        """Do a task again that somebody called off. Raises WorkersLost where that happens again and again."""
        self._cancelled[task.number] += 1
        if self._cancelled[task.number] > HOPELESS:
            raise WorkersLost(
                f"whoever does the work has cancelled one task {HOPELESS} times; what was done is in the lake"
            )
        if task is self._alone:
            self._suspects.appendleft(task)
        else:
            self._waiting.append(task)

    def lost(self, task: Task) -> Iterator[Task]:
        """Do a task again whose worker died; yields it instead if it is one file, and the cause."""
        if task is not self._alone:
            self._suspects.append(task)
        elif len(task.files) > 1:
            parts = [Task(number, (file,), task.number) for number, file in enumerate(task.files, self._next_number)]
            self._next_number += len(parts)
            self._suspects.extendleft(reversed(parts))
        else:
            name = task.files[0][1].name
            self._lost[name] += 1
            if self._lost[name] < ATTEMPTS:
                self._suspects.appendleft(task)
            else:
                yield task
