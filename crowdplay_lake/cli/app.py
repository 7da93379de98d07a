"""The command's frame: its sub-commands, its exit status, and how errors are told."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Annotated

import typer

from ..errors import CrowdPlayLakeError, printable
from .output import Output, stderr

__all__ = ["LakeArgument", "OutputOption", "app", "main", "whole_app"]

# Exit status: 0 all well, 1 an error, 3 ingested but with something rejected.
FAILED = 1

# Where the commands are.
MODULES = ("annotating", "caching", "commands", "exporting", "ingesting", "maintenance", "picturing", "training")

# Some messages have several lines.
NEWLINE = "\n"

app = typer.Typer(
    name="crowdplay-lake",
    help="A columnar lake over CrowdPlay's recordings of people playing Atari.",
    epilog="Example: crowdplay-lake ingest crowdplay_atari-v0/ lake/ && crowdplay-lake info lake/",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# Text, not a path: s3://bucket/lake is a lake, too.
LakeArgument = Annotated[
    str, typer.Argument(metavar="LAKE", help="The lake's folder, or s3://bucket/lake.", show_default=False)
]
OutputOption = Annotated[Output, typer.Option("--output", help="What to print.")]

_verbose = False


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(version("crowdplay-lake"))
        raise typer.Exit


@app.callback()
def common(
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """A columnar lake over CrowdPlay's recordings of people playing Atari."""
    global _verbose
    del version
    _verbose = verbose


def whole_app() -> typer.Typer:
    """`app` with all its commands: each module of them puts its own in."""
    for module in (
        "annotating",
        "caching",
        "commands",
        "exporting",
        "ingesting",
        "maintenance",
        "picturing",
        "serving",
        "training",
    ):
        import_module(f".{module}", __package__)
    return app


def main() -> None:
    """Run the command: errors in one line on stderr and exit status 1; the traceback only with --verbose."""
    try:
        whole_app()()
    except BrokenPipeError:
        # Whoever reads this has seen enough, as `head` has. Nothing more may be written, at exit neither.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
    except (CrowdPlayLakeError, OSError) as error:
        if _verbose:
            raise
        stderr.print(f"crowdplay-lake: error: {printable(str(error), keep=NEWLINE)}", style="red", markup=False)
        sys.exit(FAILED)
