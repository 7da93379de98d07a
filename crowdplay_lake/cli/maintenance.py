"""The commands that look after a lake: verify, log, compact, vacuum, remove."""

from __future__ import annotations

import re
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InvalidArgument, printable
from ..remote_faults import shown
from .app import FAILED, LakeArgument, OutputOption, app
from .output import Output, human_bytes, parse_size, print_json, print_table, stderr, stdout
from .progress import StagesBar

if TYPE_CHECKING:
    from ..findings import VerifyReport
    from ..remove import Removal
    from ..snapshot import Snapshot

__all__: list[str] = []

INTERRUPTED = 130


@app.command(epilog="Example: crowdplay-lake verify lake/ crowdplay_atari-v0/")
def verify(
    lake: LakeArgument,
    raw: Annotated[
        str | None, typer.Argument(metavar="[RAW]", help="The raw episodes it was made of, to compare it with.")
    ] = None,
    decode_all: Annotated[bool, typer.Option("--all", help="Compare every raw episode, not only some.")] = False,
    sample: Annotated[
        int | None, typer.Option(help="Compare so many; by default a hundredth, five at least.", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed compares others.")] = 0,
    output: OutputOption = Output.TEXT,
) -> None:
    """Prove a lake: checksums, commits, rows, content; with RAW, that nothing of it is missing or changed.

    Exit status 1 where something is wrong; each finding is a line.
    """
    from ..verify import verify as verify_lake

    with StagesBar() as bar:
        report = verify_lake(lake, bar.tell)
        if raw is not None and report.commit is not None:
            from crowdplay_ingest.verify_raw import RawSample, verify_raw

            report.compared, findings = verify_raw(lake, raw, RawSample(decode_all, sample, seed), bar.tell)
            report.findings += findings
    if output is Output.JSON:
        print_json(report.as_dict())
    else:
        _print_report(report, raw)
    if not report.proven:
        raise typer.Exit(FAILED)


def _print_report(report: VerifyReport, raw: str | None) -> None:
    for finding in report.findings:
        stdout.print(str(finding), markup=False, soft_wrap=True)
    for note in report.notes:
        stderr.print(printable(f"note: {note}"), style="yellow", markup=False)
    looked_at = (
        f"{report.files:,} files ({human_bytes(report.bytes)}), {report.commits:,} commits,"
        f" {report.episodes:,} episodes, {report.steps:,} steps"
    )
    if raw is not None:
        looked_at += f", {report.compared:,} episodes compared with {shown(raw)}"
    verdict = "proven" if report.proven else f"NOT proven, {len(report.findings):,} findings"
    stdout.print(f"{report.lake}: {verdict}; {looked_at}", markup=False, soft_wrap=True)


@app.command(epilog="Example: crowdplay-lake log lake/ -n 10")
def log(
    lake: LakeArgument,
    number: Annotated[int | None, typer.Option("-n", "--number", help="Show only the last so many.", min=1)] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show the commits of a lake, the newest first: what made them, and what they changed."""
    from ..snapshot import history

    commits = [_as_row(commit) for commit in reversed(history(lake)[-(number or 0) :])]
    if output is Output.JSON:
        print_json(commits)
        return
    rows = [
        (
            commit["number"],
            f"{commit['time']:%Y-%m-%d %H:%M:%S}",
            commit["operation"],
            ", ".join(f"{name} {count:,}" for name, count in commit["counts"].items()),
        )
        for commit in commits
    ]
    print_table("", ["commit", "time (UTC)", "operation", "counts"], rows)


def _as_row(commit: Snapshot) -> dict[str, Any]:
    return {
        "number": commit.number,
        "time": commit.time,
        "operation": commit.operation,
        "counts": dict(commit.counts),
        "versions": dict(commit.versions),
    }


_SPANS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def parse_span(text: str) -> timedelta:
    """'7d' → a week."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhdw])\s*", text.lower())
    if match is None:
        raise InvalidArgument(f"{text!r} is no time span; write it as 7d, 12h, 30m or 0d")
    return timedelta(seconds=float(match[1]) * _SPANS[match[2]])


@app.command(epilog="Example: crowdplay-lake compact lake/ --target-size 256MB")
def compact(
    lake: LakeArgument,
    target_size: Annotated[str, typer.Option(help="About how big a part becomes.")] = "128MiB",
    output: OutputOption = Output.TEXT,
) -> None:
    """Merge the small parts that ingests leave, compressed harder. Readers go on; the old parts stay until `vacuum`.

    Stop it when you like: the next run goes on.
    """
    from ..compact import compact as compact_lake

    target = parse_size(target_size)
    try:
        with StagesBar() as bar:
            summary = compact_lake(lake, target, bar.tell)
    except KeyboardInterrupt:
        stderr.print("interrupted: what was committed is in; run it again to go on")
        raise typer.Exit(INTERRUPTED) from None
    if output is Output.JSON:
        print_json({**vars(summary), "lake": lake})
        return
    told = (
        f"{lake}: {summary.parts_before:,} parts ({human_bytes(summary.bytes_before)}) became {summary.parts_after:,}"
        f" ({human_bytes(summary.bytes_after)}) in {summary.commits:,} commits; `crowdplay-lake vacuum` removes the old"
    )
    nothing = f"{lake}: nothing to do, {summary.parts_after:,} parts ({human_bytes(summary.bytes_after)})"
    stdout.print(told if summary.commits else nothing, markup=False, soft_wrap=True)


@app.command(epilog="Example: crowdplay-lake vacuum lake/ --older-than 7d --dry-run")
def vacuum(
    lake: LakeArgument,
    older_than: Annotated[
        str, typer.Option(help="Drop commits that were superseded longer ago: 7d, 12h, 30m, 0d.")
    ] = "7d",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Remove old commits, the parts that only they need, and what crashes left: for good.

    The last commit always stays. Whoever still reads a dropped one fails at the next part.
    """
    from ..vacuum import vacuum as vacuum_lake

    span = parse_span(older_than)
    with StagesBar() as bar:
        summary = vacuum_lake(lake, span, dry_run, bar.tell)
    if output is Output.JSON:
        print_json({**vars(summary), "lake": lake})
        return
    removed = "would remove" if dry_run else "removed"
    stdout.print(
        f"{lake}: {removed} {len(summary.commits):,} commits, {summary.files:,} files, {human_bytes(summary.bytes)}",
        markup=False,
        soft_wrap=True,
    )


@app.command(epilog="Example: crowdplay-lake remove lake/ --participant 5f1c… --yes")
def remove(
    lake: LakeArgument,
    episode: Annotated[list[str] | None, typer.Option(help="An episode's id. Can be repeated.")] = None,
    participant: Annotated[
        list[str] | None, typer.Option(help="A participant's permanent user id. Can be repeated.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Take episodes, or everything a participant had a part in, out of a lake. Ingest does not bring it back.

    Earlier commits still have it: `crowdplay-lake vacuum LAKE --older-than 0d` removes it for good.
    """
    from ..remove import planned_removal
    from ..remove import remove as remove_from_lake

    plan = planned_removal(lake, episode or (), participant or ())
    if not yes:
        stderr.print(f"{lake}: about to remove {_told(plan)}", markup=False)
        for episode_id in plan.episodes:
            stderr.print(f"  episode {episode_id}", markup=False)
        if not sys.stdin.isatty():
            raise InvalidArgument("nothing was removed: nobody is here to ask; add --yes")
        typer.confirm("Remove it?", abort=True, err=True)
    with StagesBar() as bar:
        done = remove_from_lake(lake, episode or (), participant or (), bar.tell)
    if output is Output.JSON:
        print_json({**vars(done), "lake": lake})
        return
    stdout.print(f"{lake}: removed {_told(done)}, commit {done.commit}", markup=False, soft_wrap=True)
    stderr.print(
        f"earlier commits still have it: crowdplay-lake vacuum {lake} --older-than 0d; raw files are yours to delete",
        markup=False,
    )


def _told(removal: Removal) -> str:
    return (
        f"{len(removal.episodes):,} episodes with {removal.steps:,} steps, {len(removal.environments):,} environments,"
        f" {len(removal.users):,} users"
    )
