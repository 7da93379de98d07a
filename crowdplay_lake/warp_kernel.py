"""What is compiled of observations: the way from change log to grey, warped screens.

Imported where it is used, because numba takes a while to load.

`Processor` draws no frame. max-then-grey of two frames is one look-up, `grey_of_max[now, before]`. Between two emitted
screens only pixels that changed can differ, and averaging is linear: what a pixel differs by is added to the one to
four output pixels it feeds, in whole numbers. Rounded, such a total is what OpenCV's float32 sums round to, but where
it is so close to a half that their errors could matter (`Warp.doubtful`): there, and only there, the floats are summed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

# One instruction. numba's own sets and dictionaries count with it too.
from numba.cpython.unsafe.numbers import trailing_zeros

from .compiled import compiled, inlined

if TYPE_CHECKING:
    from .pixels import ChangeLog
    from .warp import Warp

__all__ = ["Processor"]

# Pixels that are looked at together, as a power of two: a block of them that saw no change is passed over.
BLOCK_BITS = np.uint64(6)
BLOCK = 1 << 6
ONE, TWO, THREE, EIGHT = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(8)
BYTE = np.uint64(255)


@compiled
def _replay_keyframe(colors, first, grey_of, screen, grey, dirty):  # type: ignore[no-untyped-def]
    """A whole screen, at ``first`` in ``colors``: only the blocks of it that differ are touched."""
    for block in range(len(dirty)):
        begin = block * BLOCK
        stop = min(begin + BLOCK, len(screen))
        different = np.uint8(0)
        for p in range(begin, stop):
            different |= colors[first + p] ^ screen[p]
        if different:
            dirty[block] = 1
            for p in range(begin, stop):
                screen[p] = colors[first + p]
                grey[p] = grey_of[colors[first + p]]


@compiled
def _replay_changes(gaps, first, stop, colors, shift, grey_of, screen, grey, dirty):  # type: ignore[no-untyped-def]
    """The changes first … stop - 1, of a step whose screen is not asked for; whether they lie on the screen."""
    # Unsigned: what cannot be negative is indexed without a question.
    p = np.uint64(0)
    n_pixels = np.uint64(len(screen))
    for i in range(first, stop):
        p += np.uint64(gaps[i])
        if p >= n_pixels:
            return False
        color = colors[i + shift]
        screen[p] = color
        grey[p] = grey_of[color]
        dirty[p >> BLOCK_BITS] = 1
    return True


@compiled
def _show_keyframe(colors, first, grey_of_max, screen, grey, dirty, changed):  # type: ignore[no-untyped-def]
    """A whole screen that is asked for; returns how many pixels it changed, and which ones in ``changed``."""
    n = 0
    for p in range(len(screen)):
        color = colors[first + p]
        if color != screen[p]:
            grey[p] = grey_of_max[color, screen[p]]
            screen[p] = color
            dirty[p // BLOCK] = 1
            changed[n] = p
            n += 1
    return n


@compiled
def _show_changes(gaps, first, stop, colors, shift, grey_of_max, screen, grey, dirty, changed):  # type: ignore[no-untyped-def]
    """The changes of a step whose screen is asked for; as `_show_keyframe`, -1 where they leave the screen."""
    p = np.uint64(0)
    n_pixels = np.uint64(len(screen))
    for i in range(first, stop):
        p += np.uint64(gaps[i])
        if p >= n_pixels:
            return -1
        color = colors[i + shift]
        grey[p] = grey_of_max[color, screen[p]]
        screen[p] = color
        dirty[p >> BLOCK_BITS] = 1
        changed[i - first] = p
    return stop - first


@inlined
def _add_line(line, start, stop, y, fed, parts, totals, spans):  # type: ignore[no-untyped-def]
    """What changed of a line of the screen goes into the one or two output rows it feeds; ``line`` is zero again."""
    row = fed[y]
    part, next_part = parts[y, 0], parts[y, 1]
    spans[row, 0] = min(spans[row, 0], start)
    spans[row, 1] = max(spans[row, 1], stop)
    for word in range(start, stop):
        totals[row, word] += part * line[word]
    if next_part:
        row += ONE
        spans[row, 0] = min(spans[row, 0], start)
        spans[row, 1] = max(spans[row, 1], stop)
        for word in range(start, stop):
            totals[row, word] += next_part * line[word]
    for word in range(start, stop):
        line[word] = 0


@compiled
def _add_differences(  # type: ignore[no-untyped-def]
    grey, shown, dirty, width, column_fed, column_parts, row_fed, row_parts, line, totals, spans
):
    """Add what ``grey`` differs from ``shown`` to ``totals``, and which span of each output row that touches."""
    words = grey.view(np.uint64)
    shown_words = shown.view(np.uint64)
    dirty_words = dirty.view(np.uint64)
    y = np.uint64(0)
    line_begin = line_end = start = stop = np.uint64(0)
    for eight_blocks in range(np.uint64(len(dirty_words))):
        flags = dirty_words[eight_blocks]
        if not flags:
            continue
        dirty_words[eight_blocks] = 0
        while flags:
            block = eight_blocks * EIGHT + (trailing_zeros(flags) >> THREE)
            flags &= flags - ONE
            for w in range(block * EIGHT, block * EIGHT + EIGHT):
                now = words[w]
                before = shown_words[w]
                different = now ^ before
                if not different:
                    continue
                shown_words[w] = now
                while different:
                    bits = trailing_zeros(different) & np.uint64(56)
                    different &= ~(BYTE << bits)
                    difference = ((now >> bits) & BYTE) - ((before >> bits) & BYTE)
                    p = w * EIGHT + (bits >> THREE)
                    if p >= line_end:
                        if line_end:
                            _add_line(line, start, stop, y, row_fed, row_parts, totals, spans)
                        y = p // width
                        line_begin = y * width
                        line_end = line_begin + width
                        start = column_fed[p - line_begin]
                    x = p - line_begin
                    word = column_fed[x]
                    line[word] += column_parts[x, 0] * difference
                    line[word + ONE] += column_parts[x, 1] * difference
                    stop = word + TWO
    if line_end:
        _add_line(line, start, stop, y, row_fed, row_parts, totals, spans)


@compiled
def _as_summed(grey, height, width, y, x, row_weights, row, column_weights, column):  # type: ignore[no-untyped-def]
    """One output pixel as OpenCV sums it; ``y``, ``x`` are the first source pixel."""
    total = np.float32(0.0)
    for i in range(row_weights.shape[1]):
        line = min(y + i, height - 1) * width
        average = np.float32(grey[line + x]) * column_weights[column, 0]
        for j in range(1, column_weights.shape[1]):
            average += np.float32(grey[line + min(x + j, width - 1)]) * column_weights[column, j]
        if i == 0:
            total = average * row_weights[row, 0]
        else:
            total += average * row_weights[row, i]
    return np.uint8(min(np.rint(total), np.float32(255.0)))


@compiled
def _round(totals, spans, whole, doubtful, grey, height, width, columns, rows, out, image):  # type: ignore[no-untyped-def]
    """Totals to bytes, where ``spans`` says. Those too near a half for a proof are summed as OpenCV sums them."""
    share = np.float32(1.0 / whole)
    n_out = np.uint64(out.shape[2])
    per_word = np.uint64(8 // totals.itemsize)
    for row in range(len(spans)):
        start, stop = spans[row, 0] * per_word, min(spans[row, 1] * per_word, n_out)
        if start >= stop:
            continue
        spans[row, 0] = n_out
        spans[row, 1] = 0
        farthest = np.int32(0)
        for d in range(start, stop):
            total = np.int32(totals[row, d])
            rounded = np.int32(np.rint(np.float32(total) * share))
            out[image, row, d] = np.uint8(rounded)
            farthest = max(farthest, np.int32(abs(total - np.int32(whole * rounded))))
        if 2 * farthest < doubtful:
            continue
        for d in range(start, stop):
            if 2 * abs(np.int32(totals[row, d]) - whole * np.int32(out[image, row, d])) >= doubtful:
                out[image, row, d] = _as_summed(
                    grey, height, width, rows[0][row], columns[0][d], rows[1], row, columns[1], d
                )


@compiled
def _process(  # type: ignore[no-untyped-def]
    keyframe, gap_ends, gaps, color_ends, colors, needed, grey_of_max, size, columns, rows, whole, doubtful, state, out
):
    """Process further rows; returns whether they are sound. What is kept between calls is in ``state``."""
    screen, grey, shown, dirty, lanes, line, spans, changed, counts = state
    height, width = size
    n_pixels = height * width
    grey_of = np.empty(len(grey_of_max), np.uint8)
    for color in range(len(grey_of_max)):
        grey_of[color] = grey_of_max[color, color]
    # Several totals a word: see `_packed`. A source pixel feeds two words at most, the second perhaps by nothing.
    totals = lanes.view(np.uint64)
    rows_before, emitted, n_changed = counts
    for row in range(len(keyframe)):
        is_first = rows_before + row == 0
        for i in range(n_changed):
            p = changed[i]
            grey[p] = grey_of[screen[p]]
            dirty[p >> BLOCK_BITS] = 1
        n_changed = 0
        first, stop = gap_ends[row], gap_ends[row + 1]
        shift = color_ends[row] - first
        if color_ends[row + 1] - color_ends[row] != (n_pixels if keyframe[row] else stop - first):
            return False
        if needed[row] and not is_first:
            if keyframe[row]:
                n_changed = _show_keyframe(colors, color_ends[row], grey_of_max, screen, grey, dirty, changed)
            else:
                n_changed = _show_changes(gaps, first, stop, colors, shift, grey_of_max, screen, grey, dirty, changed)
            if n_changed < 0:
                return False
        elif keyframe[row]:
            if is_first:
                # Every pixel differs: its grey is still to be looked up.
                for p in range(n_pixels):
                    screen[p] = ~colors[color_ends[0] + p]
            _replay_keyframe(colors, color_ends[row], grey_of, screen, grey, dirty)
        elif not _replay_changes(gaps, first, stop, colors, shift, grey_of, screen, grey, dirty):
            return False
        if needed[row]:
            if emitted > 0:
                out[emitted] = out[emitted - 1]
            _add_differences(
                grey, shown, dirty, np.uint64(width), columns[2], columns[3], rows[2], rows[3], line, totals, spans
            )
            _round(lanes, spans, whole, doubtful, grey, height, width, columns, rows, out, emitted)
            emitted += 1
    counts[0] = rows_before + len(keyframe)
    counts[1] = emitted
    counts[2] = n_changed
    return True


class Processor:
    """Writes the processed screens of a log to ``out``, in the order of their rows, which may come in pieces.

    ``grey_of_max``: uint8 (colours, colours), the grey value of a pixel that has the first colour now and had the
    second one a step ago. ``out``: uint8 (screens, *warp.target).
    """

    def __init__(self, grey_of_max: npt.NDArray[np.uint8], warp: Warp, out: npt.NDArray[np.uint8]) -> None:
        height, width = warp.source
        n_pixels = height * width
        n_blocks = (n_pixels + 8 * BLOCK - 1) // (8 * BLOCK) * 8
        lanes = np.zeros((warp.target[0], 8 // warp.lane.itemsize * warp.words), warp.lane)
        spans = np.zeros((warp.target[0], 2), np.uint64)
        spans[:, 1] = warp.words
        self._state = (
            np.zeros(n_pixels, np.uint8),  # the screen
            # Its grey, and that of the screen processed last; to the end of the last block: compared by eight pixels.
            np.zeros(n_blocks * BLOCK, np.uint8),
            np.zeros(n_blocks * BLOCK, np.uint8),
            np.zeros(n_blocks, np.uint8),  # blocks that may differ
            lanes,
            np.zeros(warp.words, np.uint64),  # what a line of the screen adds to the totals
            spans,
            # Pixels that changed in the row emitted last: from the next row on their "before" is their "now".
            np.empty(n_pixels, np.uint64),
            np.zeros(3, np.int64),  # rows, emitted ones, pixels in the array before
        )
        self._grey_of_max = grey_of_max
        self._warp = warp
        self._out = out

    def __call__(self, log: ChangeLog, needed: npt.NDArray[np.bool_]) -> bool:
        """Process the next rows; each ``needed`` one, bool (rows of the log,), is the next of ``out``.

        The first row of all is a keyframe; where it is needed, it must be the first of the episode: what lies before it
        counts as black. Returns whether the log is sound: a damaged one draws nothing beyond the screen.
        """
        warp = self._warp
        # Colours are indices into `grey_of_max`.
        if len(log.colors) and int(log.colors.max()) >= len(self._grey_of_max):
            return False
        sound: bool = _process(
            log.keyframe,
            log.gap_ends,
            log.gaps,
            log.color_ends,
            log.colors,
            needed,
            self._grey_of_max,
            warp.source,
            (warp.columns.first, warp.columns.weights, *warp.packed),
            (warp.rows.first, warp.rows.weights, warp.rows.fed, warp.rows.parts),
            np.int32(warp.whole),
            np.int32(warp.doubtful),
            self._state,
            self._out,
        )
        return sound
