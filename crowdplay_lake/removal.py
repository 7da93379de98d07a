"""What was removed on purpose stays out: a mark in `rejected` that says so without saying who it was.

A mark is a hash of an id: whoever has the raw file can tell that it is the one that was removed, the lake alone can't.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container
from typing import Literal, TypeAlias

__all__ = ["REMOVED", "Kind", "is_removed", "removal_mark"]

REMOVED = "removed on request; it is not ingested again"

Kind: TypeAlias = Literal["episode", "environment", "participant"]


def removal_mark(kind: Kind, identity: str) -> str:
    """The name in `rejected` under which something removed is remembered."""
    return f"removed {kind} {hashlib.sha256(f'{kind} {identity}'.encode()).hexdigest()}"


def is_removed(kind: Kind, identity: str, rejected: Container[str]) -> bool:
    """Whether an episode, environment or participant was removed; ``rejected``: the names in the table."""
    return removal_mark(kind, identity) in rejected
