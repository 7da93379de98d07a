"""How often each pixel of a game's screen changes, from the change logs: no frame is drawn for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..errors import InvalidArgument, InvalidLake
from ..pixels import DAMAGED, ChangeLog
from .drawing import flat_shape
from .facts import steps_per_second

if TYPE_CHECKING:
    from ..episode import Episode

__all__ = ["Heat", "changes_of", "heat_of"]

# A row group's worth of steps at a time.
BLOCK = 2_048


@dataclass(frozen=True)
class Heat:
    """Of a game."""

    game: str
    rate: npt.NDArray[np.float64]  # (height, width), changes per second
    seconds: float
    episodes: int
    of: int  # episodes there are of it


def heat_of(
    episodes: Sequence[Episode], most: int, progress: Callable[[str, int, int], None] | None = None
) -> list[Heat]:
    """By game and size of its screen, of ``most`` episodes of each, evenly chosen; of each the first agent's screen."""
    groups: dict[tuple[str, tuple[int, int]], list[Episode]] = {}
    for episode in episodes:
        try:
            shape = flat_shape(episode.frame_log(episode.agents[0]).screen)
        except InvalidArgument:
            # Frames that are no single picture, of a roll-out of another kind: there is no place on them.
            continue
        groups.setdefault((episode.game, shape), []).append(episode)
    chosen = {
        key: [own[at] for at in np.unique(np.linspace(0, len(own) - 1, min(most, len(own))).round().astype(int))]
        for key, own in groups.items()
    }
    total, done = sum(map(len, chosen.values())), 0
    heats = []
    for (game, shape), own in sorted(chosen.items()):
        counts, seconds = np.zeros(shape, np.int64), 0.0
        for episode in own:
            counts += changes_of(episode).reshape(shape)
            seconds += len(episode) / steps_per_second(episode)
            done += 1
            if progress is not None:
                progress("episodes", done, total)
        heats.append(Heat(game, counts / seconds, seconds, len(own), len(groups[game, shape])))
    return heats


def changes_of(episode: Episode, agent: str | None = None) -> npt.NDArray[np.int64]:
    """How often each pixel differs from the frame before, int64 (pixels,)."""
    source = episode.frame_log(agent or episode.agents[0])
    pixels = source.screen.pixels
    counts = np.zeros(pixels, np.int64)
    for first in range(0, len(episode), BLOCK):
        # With the frame before, which a keyframe is compared with.
        start, stop = max(0, first - 1), min(len(episode), first + BLOCK)
        log = source.log(start, stop - 1).within(start, stop - 1, pixels)
        positions = _positions(log)
        if len(positions) and int(positions.max()) >= pixels:
            raise InvalidLake(DAMAGED)
        counts += np.bincount(positions, minlength=pixels)
        keyframes = np.flatnonzero(log.keyframe)[1:] + start
        if len(keyframes):
            screens = log.decode(np.stack([keyframes - 1, keyframes], axis=1).reshape(-1), pixels)
            counts += (screens[0::2] != screens[1::2]).sum(axis=0)
    return counts


def _positions(log: ChangeLog) -> npt.NDArray[np.int64]:
    """The pixel of each change in the log: gaps count from the change before, in each row anew."""
    ends = np.cumsum(log.gaps, dtype=np.int64)
    starts = log.gap_ends[:-1]
    before = np.concatenate([[0], ends])[starts]
    positions: npt.NDArray[np.int64] = ends - np.repeat(before, np.diff(log.gap_ends))
    return positions
