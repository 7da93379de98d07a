"""The command that looks after what training leaves on the disk: cache."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InvalidArgument
from .app import OutputOption, app
from .output import Output, human_bytes, print_json, print_rows, stdout

if TYPE_CHECKING:
    from ..offline.map_cache import CachedMap

__all__: list[str] = []

FolderOption = Annotated[
    Path | None,
    typer.Option(help="A map, or a folder of maps; by default $CROWDPLAY_LAKE_CACHE or the user's cache folder."),
]

cache = typer.Typer(
    help="List or remove the memory maps of observations that trainings were fed from.",
    epilog="Example: crowdplay-lake cache remove --all",
    invoke_without_command=True,
)
app.add_typer(cache, name="cache")


@cache.callback()
def cache_command(context: typer.Context) -> None:
    """List or remove the memory maps of observations that trainings were fed from."""
    if context.invoked_subcommand is None:
        list_(None, Output.TEXT)


@cache.command(name="list", epilog="Example: crowdplay-lake cache list")
def list_(folder: FolderOption = None, output: OutputOption = Output.TEXT) -> None:
    """List the maps: their names, sizes, and which commit of which lake they are of."""
    from ..offline.map_cache import list_maps

    maps = list_maps(folder)
    if output is Output.JSON:
        print_json([_as_dict(each) for each in maps])
        return
    rows = [
        (
            each.name,
            each.observations,
            "whole" if each.is_whole else f"{each.done:,} done",
            human_bytes(each.bytes),
            ", ".join(each.lakes),
            ", ".join(map(str, each.commits)),
            each.agent,
        )
        for each in maps
    ]
    if rows:
        print_rows(["map", "observations", "state", "size", "lake", "commit", "agent"], rows)
    _print_total("", maps)


@cache.command(epilog="Example: crowdplay-lake cache remove --all")
def remove(
    maps: Annotated[list[str] | None, typer.Argument(metavar="[MAP]...", help="Names, as `list` shows them.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    folder: FolderOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Remove maps. A training that runs from one goes on; the next makes it again."""
    from ..offline.map_cache import remove_maps

    if everything == bool(maps):
        raise InvalidArgument("name maps to remove, or say --all; `crowdplay-lake cache list` shows them")
    removed = remove_maps(None if everything else maps, folder)
    if output is Output.JSON:
        print_json([_as_dict(each) for each in removed])
    else:
        _print_total("removed ", removed)


def _as_dict(each: CachedMap) -> dict[str, object]:
    return {**vars(each), "is_whole": each.is_whole}


def _print_total(done: str, maps: list[CachedMap]) -> None:
    size = human_bytes(sum(each.bytes for each in maps))
    stdout.print(f"{done}{len(maps):,} map{'' if len(maps) == 1 else 's'}, {size}", markup=False)
