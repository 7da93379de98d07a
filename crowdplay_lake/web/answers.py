"""Errors as HTTP answers: a status and a JSON document with one line of text."""

from __future__ import annotations

import pyarrow as pa

from ..errors import (
    CrowdPlayLakeError,
    InvalidArgument,
    NoTrajectory,
    QueryError,
    UnknownCommit,
    UnknownName,
    printable,
)
from .values import as_json

__all__ = ["message_of", "refusal", "status_of"]


def status_of(error: BaseException) -> int:
    """404 for what is not there, 400 for what cannot be asked, 503 for a lake that cannot be read, 500 for a fault."""
    if isinstance(error, UnknownName | UnknownCommit | NoTrajectory):
        return 404
    if isinstance(error, InvalidArgument | QueryError | MemoryError):
        return 400
    return 503 if isinstance(error, CrowdPlayLakeError | OSError | pa.ArrowException) else 500


def message_of(error: BaseException) -> str:
    """One line for a person."""
    if isinstance(error, MemoryError):
        return "this needs more memory than a query may have"
    if isinstance(error, CrowdPlayLakeError):
        return printable(str(error), keep="\n")
    if isinstance(error, pa.ArrowException):
        return f"a part of the lake is damaged: {printable(str(error))}; `crowdplay-lake verify` tells which"
    if isinstance(error, OSError):
        return (
            f"the lake cannot be read: {printable(str(error))}; it may have been changed meanwhile: load the page again"
        )
    return f"this failed for a reason nobody thought of ({type(error).__name__}); please report it"


def refusal(error: BaseException) -> tuple[int, bytes]:
    """The status and the document of an answer that tells the error."""
    return status_of(error), as_json({"error": message_of(error), "kind": type(error).__name__})
