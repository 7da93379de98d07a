"""The commands that draw: show, video, plot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .app import LakeArgument, OutputOption, app
from .output import Output, print_json, stdout

if TYPE_CHECKING:
    pass

__all__: list[str] = []

EpisodeArgument = Annotated[str, typer.Argument(metavar="EPISODE", help="The id of an episode.", show_default=False)]
AgentOption = Annotated[
    str | None, typer.Option(help="Whose screen and actions; by default the first agent's.", show_default=False)
]
PngOption = Annotated[Path, typer.Option("--png", metavar="FILE", help="The picture to write.", show_default=False)]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there already.")]


@app.command(epilog="Example: crowdplay-lake show lake/ 0a1b2c3d4e5f --step 600 --png step.png")
def show(
    lake: LakeArgument,
    episode: EpisodeArgument,
    png: PngOption,
    step: Annotated[int, typer.Option(help="Which step, from 0.")] = 0,
    agent: AgentOption = None,
    raw: Annotated[bool, typer.Option("--raw", help="Only the frame, pixel by pixel.")] = False,
    overwrite: OverwriteOption = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Draw a step of an episode: its frame, the four images of its observation, and what was done.

    Score and lives are those before the step, as they stand on the screen.
    """
    from ..lake import Lake
    from ..pictures.drawing import png_of
    from ..pictures.step import raw_frame, step_picture
    from ..target import check_target, written_whole

    target = check_target(png, is_folder=False, overwrite=overwrite)
    chosen = Lake(lake).episode(episode)
    pixels = (raw_frame if raw else step_picture)(chosen, step, agent)
    with written_whole(target) as unfinished:
        unfinished.write_bytes(png_of(pixels))
    height, width = pixels.shape[:2]
    if output is Output.JSON:
        print_json({"file": str(png), "episode": episode, "step": step, "width": width, "height": height})
    else:
        told = f"{png}: step {step:,} of {len(chosen):,}, {chosen.game}, {width} x {height} pixels"
        stdout.print(told, markup=False, soft_wrap=True)
