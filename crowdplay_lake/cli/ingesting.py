"""The command `ingest`: a thin wrapper over `crowdplay_ingest.pipeline.ingest`."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InvalidArgument, UnknownLimit, printable
from .app import LakeArgument, OutputOption, app
from .output import Output, as_json, human_bytes, human_duration, parse_size, print_json, stderr, stdout
from .progress import LogFormat

if TYPE_CHECKING:
    from crowdplay_ingest.machine import Limits
    from crowdplay_ingest.pipeline import IngestSummary

__all__: list[str] = []

# Exit status: something was rejected, the rest is in.
REJECTED = 3
INTERRUPTED = 130


@app.command(epilog="Example: crowdplay-lake ingest crowdplay_atari-v0.zip lake/ --workers 8")
def ingest(
    raw: Annotated[
        str,
        typer.Argument(
            metavar="RAW",
            help="A folder of raw episodes, CrowdPlay's zip as it is, or one episode's file; on disk, s3:// or https://.",
        ),
    ],
    lake: LakeArgument,
    metadata: Annotated[
        str | None, typer.Option(help="A dataset.sqlite elsewhere; by default those in RAW, or beside a file.")
    ] = None,
    metadata_only: Annotated[
        bool, typer.Option("--metadata-only", help="Bring the metadata up to date, leave the trajectories alone.")
    ] = False,
    game: Annotated[str | None, typer.Option(help="The game of what has none in its metadata.")] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take files anew whose bytes have changed since they were ingested.")
    ] = False,
    rehash: Annotated[
        bool, typer.Option("--rehash", help="Tell changed files by checksum, which reads every file.")
    ] = False,
    retry_rejected: Annotated[
        bool, typer.Option("--retry-rejected", help="Try rejected files again though they have not changed.")
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(help="Processes; 0: this one. By default one a core, and this one for little work.", min=0),
    ] = None,
    worker_memory: Annotated[
        str | None, typer.Option(help="Memory that each of these processes may take; 1.5GiB by default.")
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="What one file may use, such as max_steps=2000000; may be repeated."),
    ] = None,
    dask: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="A Dask scheduler whose workers do the work, such as tcp://host:8786."),
    ] = None,
    lock_wait: Annotated[float, typer.Option(help="Seconds to wait while somebody else writes to the lake.")] = 10.0,
    log_format: Annotated[
        LogFormat, typer.Option(help="Progress on stderr: a bar on a terminal and lines elsewhere, or always lines.")
    ] = LogFormat.AUTO,
    report: Annotated[Path | None, typer.Option(help="Write the final report to this file, as JSON.")] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Bring raw episodes into a lake. Run it again to add what is new, or to go on after an interruption.

    Exit status 3 where something was rejected: the rest is in.
    """
    from crowdplay_ingest.pipeline import IngestOptions
    from crowdplay_ingest.pipeline import ingest as ingest_raw

    from .ingest_progress import ingest_progress

    if report is not None and not report.absolute().parent.is_dir():
        raise InvalidArgument(f"{report.parent}: no such folder to write {report.name} into")
    options = IngestOptions(
        metadata=metadata,
        metadata_only=metadata_only,
        game=game,
        replace=replace,
        rehash=rehash,
        retry_rejected=retry_rejected,
        workers=workers,
        worker_memory=None if worker_memory is None else parse_size(worker_memory),
        limits=_limits(limit or []),
        dask=dask,
        lock_wait=lock_wait,
    )
    # Told to end, it ends as if interrupted by hand: workers first.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with ingest_progress(log_format) as progress:
            summary = ingest_raw(raw, lake, options, progress)
    except KeyboardInterrupt:
        stderr.print("interrupted: what was committed is in the lake; run it again to go on from the last commit")
        raise typer.Exit(INTERRUPTED) from None
    found = {**vars(summary), "rejected": [vars(rejection) for rejection in summary.rejected], "lake": lake}
    if report is not None:
        report.write_text(as_json(found, indent=2) + "\n")
    if output is Output.JSON:
        print_json(found)
    else:
        _print_summary(summary, lake)
    if summary.rejected:
        raise typer.Exit(REJECTED)


def _limits(settings: Sequence[str]) -> Limits:
    """The limits with some of them set. Raises UnknownName with the nearest names, InvalidArgument."""
    from crowdplay_ingest.machine import Limits

    names = [field.name for field in fields(Limits)]
    chosen = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        if name not in names:
            raise UnknownLimit(name, names)
        chosen[name] = parse_size(value)
    return Limits(**chosen)


def _print_summary(summary: IngestSummary, lake: Any) -> None:
    share = f" ({summary.bytes_out / summary.bytes_in:.0%})" if summary.bytes_in else ""
    speed = f", {summary.steps / summary.seconds:,.0f} steps/s" if summary.steps else ""
    lines = [
        f"ingested {summary.episodes:,} episodes, {summary.steps:,} steps into {lake}, commit {summary.commit}",
        f"time: {human_duration(summary.seconds)}{speed}",
        f"bytes: {human_bytes(summary.bytes_in)} in, {human_bytes(summary.bytes_out)} out{share}",
    ]
    if summary.unchanged:
        lines.append(f"already there: {summary.unchanged:,} episodes")
    if summary.replaced:
        lines.append(f"replaced: {summary.replaced:,} episodes whose files had changed")
    if summary.removed:
        lines.append(f"left out: {summary.removed:,} episodes that were removed from this lake")
    if summary.taken_out:
        lines.append(
            f"taken out: {summary.taken_out:,} episodes that were in, of somebody or something that was removed;"
            " earlier commits have them until `crowdplay-lake vacuum` drops those"
        )
    if summary.without_metadata:
        lines.append(f"without metadata: {summary.without_metadata:,} episodes, under game 'unknown' or that of --game")
    if summary.without_trajectory:
        lines.append(f"metadata only: {summary.without_trajectory:,} episodes of which no trajectory was found yet")
    lines += [
        f"changed since it was ingested, the lake keeps the old one (--replace takes the new one): {name}"
        for name in summary.changed_files
    ]
    lines += [f"one episode in two places: {kept} was taken, {other} was not" for kept, other in summary.duplicates]
    lines.append(f"rejected: {len(summary.rejected):,}")
    lines += [f"  {rejection}" for rejection in summary.rejected]
    stdout.print("\n".join(map(printable, lines)), markup=False)
