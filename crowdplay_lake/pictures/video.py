"""An episode as a video: MP4 (H.264), GIF or APNG, as long as the episode and with memory for some frames only.

GIF and APNG hold every frame they show without loss; so do they what is drawn beside it, but for the greys of the
processed image in a GIF, which has 256 colours for all. MP4 is H.264 in its commonest form (yuv420p): close, not equal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import InvalidArgument, MissingExtra
from ..observations import ObservationParameters
from ..target import check_target, written_whole
from .facts import Moments, agent_of, steps_per_second
from .panel import Indices, Panel

if TYPE_CHECKING:
    from ..episode import Episode

__all__ = ["VideoOptions", "VideoSummary", "shown_steps", "write_video"]

Progress = Callable[[str, int, int], None]

# Frames drawn at a time.
BLOCK = 128
FORMATS = {".mp4": "mp4", ".gif": "gif", ".apng": "apng", ".png": "apng"}
CODECS = {"mp4": "libx264", "gif": "gif", "apng": "apng"}
ENCODING = {"mp4": {"crf": "14", "preset": "veryfast"}, "gif": {}, "apng": {"pred": "none"}}
# Moving pictures that are shown in a page begin again at their end; MP4 can be shown before it is all there.
MUXING = {"mp4": {"movflags": "+faststart"}, "gif": {"loop": "0"}, "apng": {"plays": "0"}}
# A frame of a GIF lasts whole hundredths of a second, and browsers take one for a tenth.
FASTEST_GIF = 50
FASTEST = 240
LARGEST_SCALE = 16
LARGEST_SPEED = 1_000


@dataclass(frozen=True, slots=True)
class VideoOptions:
    """What a video shows. Raises InvalidArgument for what no video can be."""

    start: int = 0  # the first step
    stop: int | None = None  # the step before which it ends; None: the episode's end
    fps: float | None = None  # frames a second; None: 60, of a GIF 50
    speed: float = 1.0  # 1: as it was played, 4: four times as fast
    scale: int = 2  # each pixel as a square of that side
    overlay: bool = True  # time, score, lives, action and who plays, below the picture
    processed: bool = False  # the 84 x 84 image beside it

    def __post_init__(self) -> None:
        if self.fps is not None and not 0 < self.fps <= FASTEST:
            raise InvalidArgument(f"fps={self.fps}: frames a second are more than 0 and at most {FASTEST}")
        if not 0 < self.speed <= LARGEST_SPEED:
            raise InvalidArgument(f"speed={self.speed}: it is more than 0 and at most {LARGEST_SPEED}")
        if not 1 <= self.scale <= LARGEST_SCALE:
            raise InvalidArgument(f"scale={self.scale}: a pixel becomes 1 to {LARGEST_SCALE} pixels wide")


@dataclass(frozen=True, slots=True)
class VideoSummary:
    """What was written."""

    path: Path
    frames: int
    width: int
    height: int
    seconds: float
    bytes: int


def write_video(
    episode: Episode,
    path: str | Path,
    agent: str | None = None,
    options: VideoOptions | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> VideoSummary:
    """Write what ``agent`` (by default the first) saw as a video; the suffix of ``path`` says in which format.

    Whole or not at all, and never over a file that is there unless ``overwrite``. Frame k shows the screen before step
    ``start + k * speed * 60 / fps``, rounded down, with the score and lives that stood there and the action of that
    step. ``progress`` is called with ('frames', done, total).

    Raises InvalidArgument for another suffix, for steps beyond the episode or a target that cannot be; MissingExtra
    without PyAV; UnknownAgent; NoTrajectory.
    """
    options = options or VideoOptions()
    kind = _format_of(Path(path))
    library = require_av()
    target = check_target(path, is_folder=False, overwrite=overwrite)
    chosen = agent_of(episode, agent)
    fps = _fps(options, kind)
    steps = shown_steps(episode, options, fps)
    screen = episode.frame_log(chosen).screen
    panel = Panel(screen, options.scale, options.overlay, options.processed, kind == "gif", kind == "mp4")
    with written_whole(target) as unfinished:
        frames = _frames(episode, chosen, steps, panel)
        _encode(library, unfinished, kind, fps, panel, _told(frames, len(steps), progress))
    height, width = panel.size
    return VideoSummary(Path(path), len(steps), width, height, float(len(steps) / fps), target.stat().st_size)


def require_av() -> ModuleType:
    """PyAV. Raises MissingExtra."""
    try:
        import av
    except ImportError as error:
        raise MissingExtra("PyAV", "video") from error
    library: ModuleType = av
    return library


def _format_of(path: Path) -> str:
    if path.suffix.lower() not in FORMATS:
        raise InvalidArgument(f"{path}: a video is .mp4, .gif or .apng (.png is the same), by its suffix")
    return FORMATS[path.suffix.lower()]


def _fps(options: VideoOptions, kind: str) -> Fraction:
    fps = options.fps or (FASTEST_GIF if kind == "gif" else 60)
    if kind == "gif" and fps > FASTEST_GIF:
        raise InvalidArgument(f"fps={fps:g}: a GIF shows at most {FASTEST_GIF} frames a second; write .mp4 or .apng")
    return max(Fraction(fps).limit_denominator(1_000), Fraction(1, 1_000))


def shown_steps(episode: Episode, options: VideoOptions, fps: Fraction) -> npt.NDArray[np.int64]:
    """The step that each frame of the video shows, ascending int64; a step may come twice, or be passed over."""
    n = len(episode)
    stop = n if options.stop is None else options.stop
    if not 0 <= options.start < stop <= n:
        raise InvalidArgument(
            f"steps {options.start} to {stop}: episode {episode.episode_id} has {n:,} steps; "
            f"start is 0 to {n - 1:,}, stop comes after it and is at most {n:,}"
        )
    advance = steps_per_second(episode) * Fraction(options.speed).limit_denominator(1_000_000) / fps
    frames = math.ceil((stop - options.start) / advance)
    return options.start + np.arange(frames, dtype=np.int64) * advance.numerator // advance.denominator


def _frames(episode: Episode, agent: str, steps: npt.NDArray[np.int64], panel: Panel) -> Iterator[Indices]:
    """The video's frames, some drawn at a time."""
    source = episode.frame_log(agent)
    moments = Moments(episode, agent) if panel.overlay else None
    for first in range(0, len(steps), BLOCK):
        block = steps[first : first + BLOCK]
        unique, places = np.unique(block, return_inverse=True)
        log = source.log(int(unique[0]), int(unique[-1]))
        screens = log.decode(unique, panel.screen.pixels)
        # Refuses what a damaged part would draw.
        panel.screen.draw(screens[:1])
        processed = None
        if panel.processed:
            processed = episode.observations_at(unique, agent, ObservationParameters(stack_n=1))[:][..., 0]
        for step, place in zip(block.tolist(), places.tolist(), strict=True):
            yield panel.draw(
                screens[place],
                None if moments is None else moments[step],
                None if processed is None else processed[place],
            )


def _told(frames: Iterator[Indices], total: int, progress: Progress | None) -> Iterator[Indices]:
    for done, frame in enumerate(frames, 1):
        yield frame
        if progress is not None and (done % BLOCK == 0 or done == total):
            progress("frames", done, total)


def _encode(library: Any, file: Path, kind: str, fps: Fraction, panel: Panel, frames: Iterator[Indices]) -> None:
    height, width = panel.size
    colors = panel.colors
    has_palette = kind != "mp4" and len(colors) <= 256
    # A name with a colon in it is no address.
    with library.open(f"file:{file}", "w", format=kind, options=MUXING[kind]) as container:
        stream = container.add_stream(CODECS[kind], rate=fps, options=ENCODING[kind])
        stream.width, stream.height = width, height
        stream.pix_fmt = "pal8" if has_palette else "yuv420p" if kind == "mp4" else "rgb24"
        stream.time_base = 1 / fps
        palette = np.full((256, 4), 255, np.uint8)
        if has_palette:
            palette[: len(colors), 1:] = colors
        for number, indices in enumerate(frames):
            if has_palette:
                frame = library.VideoFrame.from_ndarray((indices.astype(np.uint8), palette), format="pal8")
            else:
                frame = library.VideoFrame.from_ndarray(np.take(colors, indices, axis=0), format="rgb24")
                if kind == "mp4":
                    frame = frame.reformat(format="yuv420p")
            frame.pts, frame.time_base = number, 1 / fps
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
