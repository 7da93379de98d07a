"""What is compiled of the change log: its coder.

Imported where it is used, because numba takes a while to load.
"""

from __future__ import annotations

import numpy as np

from .compiled import compiled

__all__ = ["decode", "encode", "encode_many"]


@compiled
def decode(keyframe, gap_ends, gaps, color_ends, colors, wanted, screens):  # type: ignore[no-untyped-def]
    """Write the screens of the ``wanted`` rows (ascending), as palette indices, to ``screens``.

    Returns whether the log is sound: a damaged one must not write beyond the screen.
    """
    if len(wanted) == 0:
        return True
    # No need to replay what lies before the last keyframe at or before the first wanted row.
    row = wanted[0]
    while not keyframe[row]:
        row -= 1
        if row < 0:
            return False
    n_pixels = screens.shape[1]
    screen = np.zeros(n_pixels, np.uint8)
    out = 0
    while out < len(wanted):
        if keyframe[row]:
            if color_ends[row + 1] - color_ends[row] != n_pixels:
                return False
            screen[:] = colors[color_ends[row] : color_ends[row + 1]]
        else:
            if color_ends[row + 1] - color_ends[row] != gap_ends[row + 1] - gap_ends[row]:
                return False
            position = 0
            shift = color_ends[row] - gap_ends[row]
            for i in range(gap_ends[row], gap_ends[row + 1]):
                position += gaps[i]
                if position >= n_pixels:
                    return False
                screen[position] = colors[i + shift]
        while out < len(wanted) and wanted[out] == row:
            screens[out] = screen
            out += 1
        row += 1
    return True


@compiled
def _find_color(key, slots, palette_keys):  # type: ignore[no-untyped-def]
    """The slot of ``key`` in an open-addressing table of 1,024: taken by it, or empty (-1)."""
    slot = (key * 2654435761 >> 12) & 1023
    while slots[slot] >= 0 and palette_keys[slots[slot]] != key:
        slot = (slot + 1) & 1023
    return slot


@compiled
def encode(frame, previous, slots, palette_keys, n_colors, screen, gaps, colors):  # type: ignore[no-untyped-def]
    """Write the changed pixels of an RGB frame; returns (their number, colours known now), -1 for too many colours.

    Eight pixels are 24 bytes are three words: most of a frame is skipped by comparing those.
    """
    n_pixels = len(screen)
    whole = 24 * (n_pixels // 8)
    words = frame[:whole].view(np.uint64)
    previous_words = previous[:whole].view(np.uint64)
    n = 0
    before = 0
    for first in range(0, n_pixels, 8):
        w = 3 * (first // 8)
        if (
            w + 2 < len(words)
            and words[w] == previous_words[w]
            and words[w + 1] == previous_words[w + 1]
            and words[w + 2] == previous_words[w + 2]
        ):
            continue
        for pixel in range(first, min(first + 8, n_pixels)):
            r, g, b = frame[3 * pixel], frame[3 * pixel + 1], frame[3 * pixel + 2]
            if r == previous[3 * pixel] and g == previous[3 * pixel + 1] and b == previous[3 * pixel + 2]:
                continue
            key = (np.int64(r) << 16) | (np.int64(g) << 8) | np.int64(b)
            slot = _find_color(key, slots, palette_keys)
            if slots[slot] < 0:
                if n_colors == 256:
                    return -1, n_colors
                slots[slot] = n_colors
                palette_keys[n_colors] = key
                n_colors += 1
            screen[pixel] = slots[slot]
            gaps[n] = pixel - before
            colors[n] = slots[slot]
            before = pixel
            n += 1
    return n, n_colors


@compiled
def encode_many(data, starts, previous, slots, palette_keys, n_colors, screen, gaps, colors, ends):  # type: ignore[no-untyped-def]
    """`encode` frames that begin at ``starts`` in ``data``; the changes of frame i end at ``ends[i]``.

    Returns the colours known now, -1 for too many.
    """
    end = 0
    for i in range(len(starts)):
        frame = data[starts[i] : starts[i] + len(previous)]
        n, n_colors = encode(frame, previous, slots, palette_keys, n_colors, screen, gaps[end:], colors[end:])
        if n < 0:
            return -1
        end += n
        ends[i] = end
        previous = frame
    return n_colors
