"""From change log to grey, warped screens, without drawing a frame: the fast path of `observations`.

max-then-grey of two frames is one look-up, `grey_of_max[now, before]`. Between two emitted screens only pixels that
changed can differ, so the grey image and the row-averaged buffer are kept, and only what a change touched is computed
again: the touched span of each row, then the touched span of each output row.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .compiled import compiled
from .pixels import ChangeLog
from .warp import Warp

__all__ = ["process"]


@compiled
def _average_rows(grey, averaged, dirty, first, weights, touched_by, out_dirty, row_outputs):  # type: ignore[no-untyped-def]
    """Row averages where ``dirty`` says, and which outputs (row, span) that touches."""
    taps = weights.shape[1]
    last = grey.shape[1] - 1
    for y in range(grey.shape[0]):
        if dirty[y, 0] >= dirty[y, 1]:
            continue
        start = touched_by[dirty[y, 0], 0]
        stop = touched_by[dirty[y, 1] - 1, 1]
        for d in range(start, stop):
            total = np.float32(0.0)
            for j in range(taps):
                total += np.float32(grey[y, min(first[d] + j, last)]) * weights[d, j]
            averaged[y, d] = total
        dirty[y, 0] = grey.shape[1]
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
    grey = np.zeros((height, width), np.uint8)
    flat_grey = grey.reshape(-1)
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
    unsettled = np.empty(n_pixels, np.int64)
    n_unsettled = 0
    emitted = 0
    for row in range(len(keyframe)):
        for i in range(n_unsettled):
            p = unsettled[i]
            flat_grey[p] = grey_of_max[screen[p], screen[p]]
            y = p // width
            x = p - y * width
            dirty[y, 0] = min(dirty[y, 0], x)
            dirty[y, 1] = max(dirty[y, 1], x + 1)
        n_unsettled = 0
        keep = needed[row] and row > 0
        if keyframe[row]:
            start = color_ends[row]
            y = 0
            row_end = width
            for p in range(n_pixels):
                color = colors[start + p]
                if p == row_end:
                    y += 1
                    row_end += width
                if row == 0 or color != screen[p]:
                    flat_grey[p] = grey_of_max[color, screen[p]] if keep else grey_of_max[color, color]
                    screen[p] = color
                    x = p - row_end + width
                    dirty[y, 0] = min(dirty[y, 0], x)
                    dirty[y, 1] = max(dirty[y, 1], x + 1)
                    if keep:
                        unsettled[n_unsettled] = p
                        n_unsettled += 1
        else:
            shift = color_ends[row] - gap_ends[row]
            p = 0
            y = 0
            row_end = width
            for i in range(gap_ends[row], gap_ends[row + 1]):
                p += gaps[i]
                if p >= row_end:
                    y = p // width
                    row_end = (y + 1) * width
                color = colors[i + shift]
                flat_grey[p] = grey_of_max[color, screen[p]] if keep else grey_of_max[color, color]
                screen[p] = color
                x = p - row_end + width
                dirty[y, 0] = min(dirty[y, 0], x)
                dirty[y, 1] = max(dirty[y, 1], x + 1)
                if keep:
                    unsettled[n_unsettled] = p
                    n_unsettled += 1
        if needed[row]:
            if emitted > 0:
                out[emitted] = out[emitted - 1]
            _average_rows(grey, averaged, dirty, column_first, column_weights, column_outputs, out_dirty, row_outputs)
            _average_columns(averaged, out_dirty, row_first, row_weights, sums, out[emitted])
            emitted += 1


def process(
    log: ChangeLog,
    needed: npt.NDArray[np.bool_],
    grey_of_max: npt.NDArray[np.uint8],
    warp: Warp,
    out: npt.NDArray[np.uint8],
) -> None:
    """Write the processed screen of each ``needed`` row of ``log`` to ``out``.

    ``needed``: bool (rows of the log,). ``grey_of_max``: uint8 (colours, colours), the grey value of a pixel that has
    the first colour now and had the second one a step ago. ``out``: uint8 (needed.sum(), *warp.target). Where row 0 of
    the log is needed, it must be the first of the episode: what lies before it counts as black.
    """
    height, width = warp.source
    _process(
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
