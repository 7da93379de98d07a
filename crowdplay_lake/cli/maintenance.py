"""The commands that look after a lake: verify, log, compact, vacuum, remove."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from .app import FAILED, LakeArgument, OutputOption, app
from .output import Output, human_bytes, print_json, print_table, stderr, stdout
from .progress import StagesBar

if TYPE_CHECKING:
    from ..findings import VerifyReport
    from ..snapshot import Snapshot

__all__: list[str] = []


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
        stderr.print(f"note: {note}", style="yellow", markup=False)
    looked_at = (
        f"{report.files:,} files ({human_bytes(report.bytes)}), {report.commits:,} commits,"
        f" {report.episodes:,} episodes, {report.steps:,} steps"
    )
    if raw is not None:
        looked_at += f", {report.compared:,} episodes compared with {raw}"
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
