"""A film on the wire: the change log itself, a chunk of steps at a time; and the screens as a trainer gets them.

All numbers are little-endian. A chunk of the log is::

    uint32 × 6     magic "CPLF", format 1, first step, steps n, changed pixels in all g, colours in all c
    uint32 × n     of each step, how many colours it has
    uint8 × n      of each step, whether it is a keyframe: a colour for every pixel, and no gaps
    uint16 × g     gaps: distance from the changed pixel before, of a step's first one its position
    uint8 × c      colours: indices into the episode's palette

The first step of a chunk is a keyframe, whatever the lake has there.

A chunk of the processed screens (max of two frames, grey, 84 x 84) is::

    uint32 × 5     magic "CPLO", format 1, first step, steps n, pixels of a screen p
    uint8 × n·p    each screen XOR the one before, so that what stands still packs well; the first as it is
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..episode import Episode
from ..errors import InvalidArgument
from ..observations import ObservationParameters

__all__ = ["CHUNK", "SEEN_CHUNK", "chunk_of_film", "chunk_of_seen"]

# Steps of a chunk, of the film and of the processed screens: 4 seconds. The lake has a keyframe as often.
CHUNK = 256
SEEN_CHUNK = 256
SEEN = ObservationParameters(stack_n=1)
_FORMAT = 1


def bounds(episode: Episode, chunk: int, size: int) -> tuple[int, int]:
    """First step of a chunk and the one after its last. Raises InvalidArgument beyond the episode."""
    first = chunk * size
    if not 0 <= first < len(episode):
        raise InvalidArgument(
            f"episode {episode.episode_id} has steps 0 to {len(episode) - 1}: {chunk} is no chunk of it"
        )
    return first, min(first + size, len(episode))


def chunk_of_film(episode: Episode, agent: str, chunk: int) -> bytes:
    """Steps ``chunk * CHUNK`` … of what ``agent`` saw. Raises UnknownAgent, NoTrajectory, InvalidArgument."""
    first, stop = bounds(episode, chunk, CHUNK)
    source = episode.frame_log(agent)
    log = source.log(first, stop - 1)
    at = slice(first - log.first_step, stop - log.first_step)
    keyframe = log.keyframe[at].copy()
    counts = np.diff(log.color_ends[at.start : at.stop + 1])
    gaps = log.gaps[log.gap_ends[at.start] : log.gap_ends[at.stop]]
    colors = log.colors[log.color_ends[at.start] : log.color_ends[at.stop]]
    if not keyframe[0]:
        drawn = log.decode([first], source.screen.pixels)[0]
        gaps = gaps[log.gap_ends[at.start + 1] - log.gap_ends[at.start] :]
        colors = np.concatenate([drawn, colors[counts[0] :]])
        counts[0], keyframe[0] = len(drawn), True
    return b"".join(
        [
            b"CPLF",
            np.array([_FORMAT, first, stop - first, len(gaps), len(colors)], "<u4").tobytes(),
            counts.astype("<u4").tobytes(),
            keyframe.astype(np.uint8).tobytes(),
            gaps.astype("<u2").tobytes(),
            colors.tobytes(),
        ]
    )


def chunk_of_seen(episode: Episode, agent: str, chunk: int) -> bytes:
    """Steps ``chunk * SEEN_CHUNK`` … as observations show them, one screen each. Raises as `chunk_of_film`."""
    first, stop = bounds(episode, chunk, SEEN_CHUNK)
    screens = np.asarray(episode.observations_at(np.arange(first, stop), agent, SEEN)).reshape(stop - first, -1)
    changes: npt.NDArray[np.uint8] = screens.copy()
    changes[1:] ^= screens[:-1]
    header = np.array([_FORMAT, first, len(screens), screens.shape[1]], "<u4")
    return b"CPLO" + header.tobytes() + changes.tobytes()
