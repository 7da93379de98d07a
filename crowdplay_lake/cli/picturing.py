"""The commands that draw: show, video, plot."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .app import LakeArgument, OutputOption, app
from .output import Output, human_bytes, print_json, stderr, stdout
from .progress import StagesBar

if TYPE_CHECKING:
    pass

__all__: list[str] = []

INTERRUPTED = 130

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


@app.command(epilog="Example: crowdplay-lake video lake/ 0a1b2c3d4e5f --processed --out game.mp4")
def video(
    lake: LakeArgument,
    episode: EpisodeArgument,
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="The video to write: .mp4, .gif or .apng.", show_default=False)
    ],
    agent: AgentOption = None,
    start: Annotated[int, typer.Option(help="The first step.")] = 0,
    stop: Annotated[
        int | None, typer.Option(help="The step to end before; the episode's end by default.", show_default=False)
    ] = None,
    fps: Annotated[
        float | None, typer.Option(help="Frames a second; 60 by default, of a GIF 50.", show_default=False)
    ] = None,
    speed: Annotated[float, typer.Option(help="1: as it was played; 4: four times as fast.")] = 1.0,
    scale: Annotated[int, typer.Option(help="How wide a pixel becomes.")] = 2,
    overlay: Annotated[
        bool,
        typer.Option("--overlay/--no-overlay", help="Time, score, lives, action and player, below the picture."),
    ] = True,
    processed: Annotated[bool, typer.Option("--processed", help="The 84 x 84 image beside the screen.")] = False,
    overwrite: OverwriteOption = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Write an episode as a video, whole or not at all. Needs the extra `video`.

    GIF and APNG show the frames without loss; MP4 is H.264. Score and lives are those before each step.
    """
    from ..lake import Lake
    from ..pictures.video import VideoOptions, write_video

    options = VideoOptions(start, stop, fps, speed, scale, overlay, processed)
    try:
        with StagesBar() as bar:
            summary = write_video(Lake(lake).episode(episode), out, agent, options, overwrite, bar.tell)
    except KeyboardInterrupt:
        stderr.print("interrupted: nothing was written")
        raise typer.Exit(INTERRUPTED) from None
    if output is Output.JSON:
        told = {"file": summary.path, "frames": summary.frames, "seconds": summary.seconds}
        print_json({**told, "width": summary.width, "height": summary.height, "bytes": summary.bytes})
    else:
        size = f"{summary.width} x {summary.height} pixels, {human_bytes(summary.bytes)}"
        stdout.print(f"{out}: {summary.frames:,} frames, {summary.seconds:.1f} s, {size}", markup=False, soft_wrap=True)


class Chart(StrEnum):
    """What `plot` draws."""

    HOURS = "hours"
    SCORES = "scores"
    TIMELINE = "timeline"
    HEATMAP = "heatmap"


@app.command(epilog="Example: crowdplay-lake plot lake/ scores --where \"source = 'mturk'\" --png scores.png")
def plot(
    lake: LakeArgument,
    chart: Annotated[
        Chart,
        typer.Argument(help="Hours per task, scores per task, when it was recorded, or where screens change."),
    ],
    png: PngOption,
    where: Annotated[
        str | None, typer.Option(help="An SQL condition over episode_agents that chooses episodes; all by default.")
    ] = None,
    most_episodes: Annotated[int, typer.Option(help="Of a heat map: at most that many of a game.", min=1)] = 100,
    overwrite: OverwriteOption = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Draw a chart of a lake as PNG. Needs the extra `plot`."""
    from ..lake import Lake
    from ..pictures.charts import plot as draw

    with StagesBar() as bar:
        summary = draw(Lake(lake), chart.value, png, where, most_episodes, overwrite, bar.tell)
    if output is Output.JSON:
        told = {"file": summary.path, "chart": summary.kind, "episodes": summary.episodes}
        print_json({**told, "left_out": summary.left_out})
    else:
        left_out = f", {summary.left_out:,} left out" if summary.left_out else ""
        stdout.print(f"{png}: {chart.value} of {summary.episodes:,} episodes{left_out}", markup=False, soft_wrap=True)
