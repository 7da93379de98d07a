"""What a look at a lake found: what is wrong, and where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from .errors import printable

__all__ = ["Finding", "Progress", "VerifyReport", "first_line", "silent"]

# Told (what is being done, how much of it is done, how much there is).
Progress: TypeAlias = Callable[[str, int, int], None]


def silent(what: str, done: int, total: int) -> None:
    """The progress that says nothing."""


def first_line(error: BaseException) -> str:
    """What an error says, without the pages that some libraries add to it."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    problem: str
    file: str | None = None  # relative to the lake; of a raw file, to the source
    table: str | None = None
    episode_id: str | None = None
    step: int | None = None
    commit: int | None = None

    def __str__(self) -> str:
        places = (
            self.file,
            None if self.commit is None else f"commit {self.commit}",
            self.table,
            None if self.episode_id is None else f"episode {self.episode_id}",
            None if self.step is None else f"step {self.step}",
        )
        return printable(f"{', '.join(place for place in places if place)}: {self.problem}")


@dataclass
class VerifyReport:
    """What was looked at, and what was found. ``notes`` are no faults: left-overs of a crash, and the like."""

    lake: str
    commit: int | None = None  # the one whose rows were read; None where the lake cannot be opened
    commits: int = 0
    files: int = 0
    bytes: int = 0
    episodes: int = 0
    steps: int = 0
    compared: int = 0  # episodes, with their raw files
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def proven(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        findings = [{name: value for name, value in vars(f).items() if value is not None} for f in self.findings]
        return {"proven": self.proven, **vars(self), "findings": findings}
