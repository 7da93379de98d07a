"""The command export: what trainers and other tools read."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .app import LakeArgument, OutputOption, app
from .output import Output, human_bytes, print_json, stderr, stdout
from .progress import StagesBar

__all__ = ["Observed", "To"]

INTERRUPTED = 130


class To(StrEnum):
    """What `export` writes for."""

    D3RLPY = "d3rlpy"
    MINARI = "minari"
    NPZ = "npz"
    HDF5 = "hdf5"
    HUGGINGFACE = "huggingface"


class Observed(StrEnum):
    """What a decision's observation is."""

    PROCESSED = "processed"
    RAW = "raw"


@app.command(epilog="Example: crowdplay-lake export lake/ --where \"game = 'breakout'\" --to d3rlpy breakout.h5")
def export(
    lake: LakeArgument,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The file to write; for minari and huggingface the folder.")
    ],
    to: Annotated[To, typer.Option("--to", help="What it is for.")] = To.D3RLPY,
    where: Annotated[
        str | None, typer.Option(help="An SQL condition over episode_agents that chooses episodes; all by default.")
    ] = None,
    agent: Annotated[str, typer.Option(help="Whose trajectories, in each chosen episode.")] = "game_0>player_0",
    observations: Annotated[
        Observed, typer.Option(help="One 84 x 84 image a decision, or the RGB frame and the RAM (not for d3rlpy).")
    ] = Observed.PROCESSED,
    downsample_frequency: Annotated[
        int | None, typer.Option(help="Every how many steps a decision is; 4, of raw observations 1.", min=1)
    ] = None,
    rewards: Annotated[
        str, typer.Option(metavar="following|crowdplay", help="Which rewards a decision gets.")
    ] = "following",
    controlled_by: Annotated[
        str | None, typer.Option(metavar="human|ai", help="Only the steps that they play; all by default.")
    ] = None,
    action_size: Annotated[
        int | None, typer.Option(help="Actions there are, to mix games with different ones.", min=1)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an export that is there already.")] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Write a dataset for a trainer or another tool, whole or not at all, and say how it is read.

    All formats hold the same episodes, without loss, with their metadata; docs/exports.md tells how they lie there. A
    folder for minari is named as its dataset, such as ~/.minari/datasets/crowdplay/breakout-v0.
    """
    from ..lake import Lake
    from ..offline.exports import export as write
    from ..offline.transitions import Conversion

    if downsample_frequency is None:
        downsample_frequency = 1 if observations is Observed.RAW else 4
    conversion = Conversion(
        agent,
        downsample_frequency,
        rewards=rewards,  # type: ignore[arg-type]
        controlled_by=controlled_by,  # type: ignore[arg-type]
    )
    try:
        with StagesBar() as bar:
            summary = write(
                Lake(lake).episodes(where),
                file,
                to.value,
                conversion,
                observations.value,
                action_size=action_size,
                overwrite=overwrite,
                progress=bar.tell,
            )
    except KeyboardInterrupt:
        stderr.print("interrupted: nothing was written")
        raise typer.Exit(INTERRUPTED) from None
    if output is Output.JSON:
        print_json({("file" if key == "path" else key): value for key, value in vars(summary).items()})
    else:
        counts = f"{summary.episodes:,} episodes, {summary.decisions:,} decisions"
        stdout.print(f"{file}: {counts}, {human_bytes(summary.bytes)}", markup=False, soft_wrap=True)
        stdout.print(f"read it with {summary.reading}", markup=False, soft_wrap=True)
