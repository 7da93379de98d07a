"""What is compiled: the change log's coder, and the way from change log to grey, warped screens.

Imported where it is used, because numba takes a while to load.

`process` draws no frame. max-then-grey of two frames is one look-up, `grey_of_max[now, before]`. Between two emitted
screens only pixels that changed can differ, so the grey image and the row-averaged buffer are kept, and only what a
change touched is computed again: the touched span of each row, then the touched span of each output row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .compiled import compiled

if TYPE_CHECKING:
    from .pixels import ChangeLog
    from .warp import Warp

__all__ = ["decode", "encode", "encode_many", "process"]


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


@compiled
def _average_rows(grey, averaged, dirty, first, weights, touched_by, out_dirty, row_outputs):  # type: ignore[no-untyped-def]
    """Row averages where ``dirty`` says, and which outputs (row, span) that touches."""
    taps = weights.shape[1]
    width = len(touched_by)
    for y in range(grey.shape[0]):
        if dirty[y, 0] >= dirty[y, 1]:
            continue
        start = touched_by[dirty[y, 0], 0]
        stop = touched_by[dirty[y, 1] - 1, 1]
        line = grey[y]
        if taps == 3:
            # 160 to 84, the usual case, without the inner loop.
            for d in range(start, stop):
                x = first[d]
                total = line[x] * weights[d, 0]
                total += line[x + 1] * weights[d, 1]
                total += line[x + 2] * weights[d, 2]
                averaged[y, d] = total
        else:
            for d in range(start, stop):
                x = first[d]
                total = line[x] * weights[d, 0]
                for j in range(1, taps):
                    total += line[x + j] * weights[d, j]
                averaged[y, d] = total
        dirty[y, 0] = width
        dirty[y, 1] = 0
        for row in range(row_outputs[y, 0], row_outputs[y, 1]):
            out_dirty[row, 0] = min(out_dirty[row, 0], start)
            out_dirty[row, 1] = max(out_dirty[row, 1], stop)


@compiled
def _average_columns(averaged, out_dirty, first, weights, sums, out):  # type: ignore[no-untyped-def]
    taps = weights.shape[1]
    last = averaged.shape[0] - 1
    for row in range(out.shape[0]):
        start = out_dirty[row, 0]
        stop = out_dirty[row, 1]
        if start >= stop:
            continue
        for d in range(start, stop):
            sums[d] = averaged[first[row], d] * weights[row, 0]
        for j in range(1, taps):
            source = min(first[row] + j, last)
            weight = weights[row, j]
            for d in range(start, stop):
                sums[d] += averaged[source, d] * weight
        for d in range(start, stop):
            out[row, d] = np.uint8(min(np.rint(sums[d]), np.float32(255.0)))
        out_dirty[row, 0] = out.shape[1]
        out_dirty[row, 1] = 0


@compiled
def _process(  # type: ignore[no-untyped-def]
    keyframe,
    gap_ends,
    gaps,
    color_ends,
    colors,
    needed,
    grey_of_max,
    height,
    width,
    column_first,
    column_weights,
    column_outputs,
    row_first,
    row_weights,
    row_outputs,
    out,
):
    n_pixels = height * width
    screen = np.zeros(n_pixels, np.uint8)
    # Wider than the screen by the taps beyond its edge, whose weights are zero; float32, as they are summed.
    stride = width + column_weights.shape[1]
    grey = np.zeros((height, stride), np.float32)
    grey_of = np.empty(len(grey_of_max), np.float32)
    for color in range(len(grey_of_max)):
        grey_of[color] = grey_of_max[color, color]
    averaged = np.zeros((height, out.shape[2]), np.float32)
    sums = np.zeros(out.shape[2], np.float32)
    # (start, stop) of what is to be computed again in each row: everything, to begin with.
    dirty = np.empty((height, 2), np.int64)
    dirty[:, 0] = 0
    dirty[:, 1] = width
    out_dirty = np.empty((out.shape[1], 2), np.int64)
    out_dirty[:, 0] = out.shape[2]
    out_dirty[:, 1] = 0
    # Pixels that changed in the row emitted last: from the next row on their "before" is their "now".
    unsettled = np.empty((n_pixels, 3), np.int32)
    n_unsettled = 0
    emitted = 0
    for row in range(len(keyframe)):
        for i in range(n_unsettled):
            p = unsettled[i, 0]
            y = unsettled[i, 1]
            x = unsettled[i, 2]
            grey[y, x] = grey_of[screen[p]]
            dirty[y, 0] = min(dirty[y, 0], x)
            dirty[y, 1] = max(dirty[y, 1], x + 1)
        n_unsettled = 0
        keep = needed[row] and row > 0
        if keyframe[row]:
            start = color_ends[row]
            if color_ends[row + 1] - start != n_pixels:
                return False
            if row == 0:
                # Everything is dirty already.
                screen[:] = colors[start : start + n_pixels]
                for y in range(height):
                    for x in range(width):
                        grey[y, x] = grey_of[screen[y * width + x]]
            y = 0
            row_end = width
            for p in range(n_pixels if row > 0 else 0):
                color = colors[start + p]
                if p == row_end:
                    y += 1
                    row_end += width
                if color != screen[p]:
                    x = p - row_end + width
                    dirty[y, 0] = min(dirty[y, 0], x)
                    dirty[y, 1] = max(dirty[y, 1], x + 1)
                    if keep:
                        grey[y, x] = grey_of_max[color, screen[p]]
                        unsettled[n_unsettled, 0] = p
                        unsettled[n_unsettled, 1] = y
                        unsettled[n_unsettled, 2] = x
                        n_unsettled += 1
                    else:
                        grey[y, x] = grey_of[color]
                    screen[p] = color
        else:
            shift = color_ends[row] - gap_ends[row]
            if color_ends[row + 1] - gap_ends[row + 1] != shift:
                return False
            # Positions ascend: a line of the screen is marked dirty where its changes begin and where they end.
            p = 0
            x = 0
            y = 0
            row_end = 0
            for i in range(gap_ends[row], gap_ends[row + 1]):
                p += gaps[i]
                if p >= row_end:
                    if p >= n_pixels:
                        return False
                    if row_end > 0:
                        dirty[y, 1] = max(dirty[y, 1], x + 1)
                    y = p // width
                    row_end = (y + 1) * width
                    x = p - row_end + width
                    dirty[y, 0] = min(dirty[y, 0], x)
                color = colors[i + shift]
                x = p - row_end + width
                if keep:
                    grey[y, x] = grey_of_max[color, screen[p]]
                    unsettled[n_unsettled, 0] = p
                    unsettled[n_unsettled, 1] = y
                    unsettled[n_unsettled, 2] = x
                    n_unsettled += 1
                else:
                    grey[y, x] = grey_of[color]
                screen[p] = color
            if row_end > 0:
                dirty[y, 1] = max(dirty[y, 1], x + 1)
        if needed[row]:
            if emitted > 0:
                out[emitted] = out[emitted - 1]
            _average_rows(grey, averaged, dirty, column_first, column_weights, column_outputs, out_dirty, row_outputs)
            _average_columns(averaged, out_dirty, row_first, row_weights, sums, out[emitted])
            emitted += 1
    return True


def process(
    log: ChangeLog,
    needed: npt.NDArray[np.bool_],
    grey_of_max: npt.NDArray[np.uint8],
    warp: Warp,
    out: npt.NDArray[np.uint8],
) -> bool:
    """Write the processed screen of each ``needed`` row of ``log`` to ``out``.

    ``needed``: bool (rows of the log,). ``grey_of_max``: uint8 (colours, colours), the grey value of a pixel that has
    the first colour now and had the second one a step ago. ``out``: uint8 (needed.sum(), *warp.target). Where row 0 of
    the log is needed, it must be the first of the episode: what lies before it counts as black. Returns whether the
    log is sound: a damaged one draws nothing beyond the screen.
    """
    height, width = warp.source
    # Colours are indices into `grey_of_max`.
    if len(log.colors) and int(log.colors.max()) >= len(grey_of_max):
        return False
    sound: bool = _process(
        log.keyframe,
        log.gap_ends,
        log.gaps,
        log.color_ends,
        log.colors,
        needed,
        grey_of_max,
        height,
        width,
        warp.columns.first,
        warp.columns.weights,
        warp.columns.touched_by,
        warp.rows.first,
        warp.rows.weights,
        warp.rows.touched_by,
        out,
    )
    return sound
