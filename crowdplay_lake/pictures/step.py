"""One step of an episode as a picture: the frame, the observation that is made of it, and what was done."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from ..errors import InvalidArgument
from .drawing import BACKGROUND, FAINT, GAP, TEXT, enlarged, font, rgb_of
from .facts import Moment, Moments, agent_of, clock

if TYPE_CHECKING:
    from ..episode import Episode

__all__ = ["raw_frame", "step_picture"]

Bytes = npt.NDArray[np.uint8]

SCALE = 2
# Height and width of a processed image, and about what a frame has that is shown alone.
PROCESSED = 84
ALONE = 400
FONT_SIZE = 14
LINE = 20
PLAYED_BY = {"human": "a human", "AI": "an AI", "": "nobody known"}


def raw_frame(episode: Episode, step: int, agent: str | None = None) -> Bytes:
    """The frame the agent saw before ``step``, as it is in the lake: RGB, uint8 (210, 160, 3).

    Raises InvalidArgument for a step beyond the episode, UnknownAgent, NoTrajectory.
    """
    chosen = agent_of(episode, agent)
    _check(episode, step)
    return rgb_of(episode.frames(chosen, step, step + 1)[0])


def step_picture(episode: Episode, step: int, agent: str | None = None) -> Bytes:
    """The frame of ``step``, beside it the images its observation stacks, and the facts: RGB, uint8 (h, w, 3).

    Score and lives are those that stand on the screen, before the step; the action is what the agent then did. Of an AI
    roll-out, whose frames are processed already, and of frames below 84 x 84 the frame alone. Raises as `raw_frame`.
    """
    chosen = agent_of(episode, agent)
    frame = raw_frame(episode, step, chosen)
    moment = Moments(episode, chosen)[step]
    lines = _facts(episode, chosen, moment)
    if not episode.frame_log(chosen).screen.is_rgb or min(frame.shape[:2]) < PROCESSED:
        return _laid_out(enlarged(frame, max(1, ALONE // max(frame.shape[:2]))), [], [], lines)
    observations = episode.observations(chosen)
    stack = observations[step]  # (84, 84, 4), oldest first
    images = [enlarged(rgb_of(stack[..., index]), SCALE) for index in range(stack.shape[-1])]
    shown = [step - 4 * back for back in range(len(images) - 1, -1, -1)]
    return _laid_out(enlarged(frame, SCALE), images, [f"step {at}" if at >= 0 else "before" for at in shown], lines)


def _check(episode: Episode, step: int) -> None:
    if not 0 <= step < len(episode):
        raise InvalidArgument(f"no step {step} in episode {episode.episode_id}: it has steps 0 to {len(episode) - 1:,}")


def _facts(episode: Episode, agent: str, moment: Moment) -> list[tuple[str, str]]:
    told = [
        ("episode", episode.episode_id),
        ("game, task", f"{episode.game}, {episode.environment.task_id or 'unknown'}"),
        ("agent", f"{agent}, played by {PLAYED_BY[moment.player]}"),
        ("step", f"{moment.step:,} of {len(episode):,}, at {clock(moment.seconds)}"),
        ("score so far", f"{moment.score:,}"),
        ("lives left", "" if moment.lives is None else str(moment.lives)),
        ("action", moment.action_name),
        ("its reward", "" if moment.reward is None else f"{moment.reward:,}"),
    ]
    return [(name, value) for name, value in told if value]


def _laid_out(frame: Bytes, images: list[Bytes], captions: list[str], facts: list[tuple[str, str]]) -> Bytes:
    """The frame on the left; on the right the images in a row, and the facts below them."""
    beside = max(sum(image.shape[1] + GAP for image in images), 560)
    below = (images[0].shape[0] + LINE if images else 0) + GAP
    height = max(frame.shape[0], below + LINE * len(facts)) + 2 * GAP
    whole = Image.new("RGB", (frame.shape[1] + 2 * GAP + beside, height), BACKGROUND)
    draw = ImageDraw.Draw(whole)
    whole.paste(Image.fromarray(frame), (GAP, GAP))
    x = left = frame.shape[1] + 2 * GAP
    for image, caption in zip(images, captions, strict=True):
        whole.paste(Image.fromarray(image), (x, GAP))
        draw.text((x, GAP + image.shape[0] + 3), caption, fill=FAINT, font=font(FONT_SIZE - 2))
        x += image.shape[1] + GAP
    y = GAP + below
    for name, value in facts:
        draw.text((left, y), name, fill=FAINT, font=font(FONT_SIZE))
        draw.text((left + 110, y), value, fill=TEXT, font=font(FONT_SIZE))
        y += LINE
    return np.asarray(whole)
