"""What is compiled of `step_runs`: whether bytes are steps of a known shape, and what is in its holes.

Imported where it is used, because numba takes a while to load.
"""

from __future__ import annotations

from crowdplay_lake.compiled import compiled

from .step_shapes import LITERAL, LONG, NUMBER, PUT, RAW, RECALL, RUN

__all__ = ["match"]

_BINPUT, _LONG_BINPUT, _MEMOIZE, _BINGET, _LONG_BINGET = 0x71, 0x72, 0x94, 0x68, 0x6A
_BININT1, _BININT2, _BININT = 0x4B, 0x4D, 0x4A


@compiled
def _little(data, at, count):  # type: ignore[no-untyped-def]
    """The unsigned number of so many bytes; 8 of them make a signed one."""
    value = 0
    for i in range(count):
        value |= int(data[at + i]) << (8 * i)
    return value


@compiled
def match(data, position, end, most, operations, literals, entry, values, runs, longs, ends):  # type: ignore[no-untyped-def]
    """Match steps in ``data``, up to ``end``, of at most ``most`` bytes each.

    ``entry`` is the number of the next memo entry. What the holes of step i hold goes to row i of ``values`` (int64),
    ``runs`` (uint8) and ``longs`` (where it begins), where the step ends to ``ends``. Returns how many steps matched,
    at most as many as ``ends`` has room for, and whether the bytes ended before the next did.
    """
    for n in range(len(ends)):
        at = position
        puts = 0
        for k in range(len(operations)):
            kind, a, size = operations[k, 0], operations[k, 1], operations[k, 2]
            if at + size > end:
                return n, True
            if kind == LITERAL:
                for i in range(size):
                    if data[at + i] != literals[a + i]:
                        return n, False
            elif kind in (PUT, RECALL):
                code = data[at]
                if kind == PUT and code == _MEMOIZE:
                    size = 1
                else:
                    if code == (_BINPUT if kind == PUT else _BINGET):
                        size = 2
                    elif code != (_LONG_BINPUT if kind == PUT else _LONG_BINGET):
                        return n, False
                    if _little(data, at + 1, size - 1) != entry + (puts if kind == PUT else a):
                        return n, False
                if kind == PUT:
                    puts += 1
            elif kind == NUMBER:
                code = data[at]
                if code == _BININT1:
                    size = 2
                elif code == _BININT2:
                    size = 3
                elif code != _BININT:
                    return n, False
                value = _little(data, at + 1, size - 1)
                if size == 5 and value >= 1 << 31:
                    value -= 1 << 32
                if value < operations[k, 3] or value > operations[k, 4]:
                    return n, False
                values[n, a] = value
            elif kind == RAW:
                values[n, a] = _little(data, at, size)
            elif kind == RUN:
                for i in range(size // 2):
                    if data[at + 2 * i] != _BININT1:
                        return n, False
                    runs[n, a, i] = data[at + 2 * i + 1]
            elif kind == LONG:
                longs[n, a] = at
            at += size
        if at - position > most:
            return n, False
        ends[n] = at
        position = at
        entry += puts
    return len(ends), False
