"""Draws what a lake holds: for each game a raw frame, and beside it the four stacked images a network sees there.

python examples/demo_picture.py LAKE PICTURE.png
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from crowdplay_lake import CrowdPlayLakeError, Episode, Lake

Pixels = npt.NDArray[np.uint8]

ENLARGED = 2  # a stacked image is 84 pixels high, the frame 210
GAP = 8
TITLE = 18
COLUMNS = 2
BACKGROUND = 24


class Shown(NamedTuple):
    """One panel of the picture."""

    title: str
    pixels: Pixels  # (height, width, 3)


def longest_of_each_game(lake: Lake) -> list[Episode]:
    """The longest episode of each game: there is something to see in the middle of it."""
    query = """
        SELECT arg_max(episode_id, n_steps) FROM episodes WHERE variant = 'full' GROUP BY game ORDER BY game
    """
    return [lake.episode(row[0]) for row in lake.sql(query).fetchall()]


def side_by_side(images: Sequence[Pixels]) -> Pixels:
    """Images (h, w, 3) in a row, centred, with gaps."""
    height = max(image.shape[0] for image in images)
    width = sum(image.shape[1] for image in images) + GAP * (len(images) - 1)
    row = np.full((height, width, 3), BACKGROUND, np.uint8)
    x = 0
    for image in images:
        y = (height - image.shape[0]) // 2
        row[y : y + image.shape[0], x : x + image.shape[1]] = image
        x += image.shape[1] + GAP
    return row


def show(episode: Episode) -> Shown:
    """The frame in the middle of the episode, and the observation of that step."""
    agent = episode.agents[0]
    step = len(episode) // 2
    frame = episode.frames(agent, step, step + 1)[0]
    stack = episode.observations(agent)[step]  # (84, 84, 4), oldest first
    enlarged = stack.repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1)
    images = [np.repeat(enlarged[..., i, None], 3, axis=2) for i in range(stack.shape[-1])]
    return Shown(f"{episode.game}, step {step:,} of {len(episode):,}", side_by_side([frame, *images]))


def picture(panels: Sequence[Shown]) -> Image.Image:
    """All panels, two in a row, each under its title."""
    width = max(panel.pixels.shape[1] for panel in panels) + 4 * GAP
    height = max(panel.pixels.shape[0] for panel in panels) + TITLE + GAP
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    whole = Image.new("RGB", (columns * width + GAP, rows * height + GAP), (BACKGROUND,) * 3)
    draw = ImageDraw.Draw(whole)
    for number, panel in enumerate(panels):
        x = GAP + number % columns * width
        y = GAP + number // columns * height
        draw.text((x, y), panel.title, fill=(255, 255, 255))
        whole.paste(Image.fromarray(panel.pixels), (x, y + TITLE))
    return whole


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="A raw frame and its four stacked 84 x 84 images, for each game.")
    parser.add_argument("lake", type=Path, metavar="LAKE")
    parser.add_argument("picture", type=Path, metavar="PICTURE", help="a .png to write")
    options = parser.parse_args(arguments)
    try:
        panels = [show(episode) for episode in longest_of_each_game(Lake(options.lake))]
    except CrowdPlayLakeError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    if not panels:
        print(f"{parser.prog}: {options.lake} has no episode with raw frames", file=sys.stderr)
        return 1
    options.picture.parent.mkdir(parents=True, exist_ok=True)
    picture(panels).save(options.picture)
    print(f"{options.picture}: on the left the frame as it was played, beside it the four images of its observation")
    for panel in panels:
        print(f"  {panel.title}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
