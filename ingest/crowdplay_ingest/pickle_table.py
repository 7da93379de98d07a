"""The table of pickle opcodes: what runs each of them, and what it is called in an error.

Each handler is called with the machine, a buffer and the position of its argument there, and returns the
position of the next opcode. Three kinds of exceptions leave the ordinary course: `NeedMore` (the argument is
not in the buffer yet; the opcode will be run again, so a handler raises it before it changes anything),
`Pause` (items are ready, or STOP) and the errors. Short arguments are always there: see `MARGIN`.
"""

from __future__ import annotations

from collections.abc import Callable

from crowdplay_lake.errors import BrokenPickle

from .pickle_state import Machine

MARGIN = 1024
"""Bytes a buffer holds beyond any opcode that is run: the longest short argument, or a run of small ints."""

Handler = Callable[[Machine, bytearray, int], int]


def _unknown(machine: Machine, buffer: bytearray, pos: int) -> int:
    raise BrokenPickle(f"byte 0x{buffer[pos - 1]:02x} is no opcode")


HANDLERS: list[Handler] = [_unknown] * 256
NAMES: list[str] = [f"byte 0x{code:02x}" for code in range(256)]
WIDTHS: list[int] = [0] * 256
"""Bytes of the argument, or of the length before it. Lines of text count as none."""


def opcode(code: bytes, name: str, width: int = 0) -> Callable[[Handler], Handler]:
    """Enter a handler in the tables."""

    def enter(handler: Handler) -> Handler:
        HANDLERS[code[0]] = handler
        NAMES[code[0]] = name
        WIDTHS[code[0]] = width
        return handler

    return enter
