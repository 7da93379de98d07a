"""The command export: what trainers and other tools read."""

from __future__ import annotations

import contextlib
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InvalidArgument
from .app import LakeArgument, OutputOption, app
from .output import Output, human_bytes, print_json, stderr, stdout
from .progress import StagesBar

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..lake import Episodes
    from ..offline.transitions import Conversion

__all__ = ["Observed", "To"]

INTERRUPTED = 130
IMAGE_BYTES = 84 * 84


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
        if to is To.D3RLPY:
            if observations is Observed.RAW:
                raise InvalidArgument("--to d3rlpy takes processed observations; choose another format for raw ones")
            told, how = _to_d3rlpy(file, lambda: Lake(lake).episodes(where), conversion, action_size, overwrite)
        else:
            from ..offline.exports import export as write

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
            told = {"episodes": summary.episodes, "decisions": summary.decisions, "bytes": summary.bytes}
            how = summary.reading
    except KeyboardInterrupt:
        stderr.print("interrupted: nothing was written")
        raise typer.Exit(INTERRUPTED) from None
    if output is Output.JSON:
        print_json({"file": file, **told, "reading": how})
    else:
        counts = [f"{count:,} {name}" for name, count in told.items() if name != "bytes"]
        stdout.print(f"{file}: {', '.join(counts)}, {human_bytes(told['bytes'])}", markup=False, soft_wrap=True)
        stdout.print(f"read it with {how}", markup=False, soft_wrap=True)


def _to_d3rlpy(
    file: Path, episodes: Callable[[], Episodes], conversion: Conversion, action_size: int | None, overwrite: bool
) -> tuple[dict[str, int], str]:
    """(what was written, how it is read)."""
    from ..offline.d3rlpy import dump, to_mdp_dataset
    from ..offline.exports import check_target, require_room, written_whole

    path = check_target(file, is_folder=False, overwrite=overwrite)
    # d3rlpy logs on stdout, where this command's result goes.
    with contextlib.redirect_stdout(sys.stderr):
        dataset = to_mdp_dataset(
            episodes(),
            conversion.agent,
            conversion.downsample_frequency,
            conversion.rewards,
            conversion.controlled_by,
            action_size=action_size,
            progress=stderr.is_terminal,
        )
        # It is stored as it is, an image after the other.
        require_room(path, dataset.transition_count * IMAGE_BYTES)
        with written_whole(path) as unfinished:
            dump(dataset, unfinished)
    counts = {"episodes": len(dataset.episodes), "transitions": int(dataset.transition_count)}
    return {**counts, "bytes": path.stat().st_size}, f"crowdplay_lake.offline.d3rlpy.load({str(path)!r})"
