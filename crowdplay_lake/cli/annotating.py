"""The commands about behavioural statistics: annotate, statistics."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InvalidArgument
from .app import LakeArgument, OutputOption, app
from .output import Output, human_duration, print_json, print_table, stderr, stdout
from .progress import StagesBar

if TYPE_CHECKING:
    from ..statistics import AnnotationSummary, Statistic

__all__: list[str] = []

INTERRUPTED = 130


@app.command(epilog="Example: crowdplay-lake annotate lake/ rowbyrow latency --where \"task = 'rowbyrow'\"")
def annotate(
    lake: LakeArgument,
    names: Annotated[
        list[str], typer.Argument(metavar="NAME…", help="Statistics, as `crowdplay-lake statistics` lists them.")
    ],
    where: Annotated[
        str | None,
        typer.Option(help="Only episodes of which an agent satisfies this SQL condition over episode_agents."),
    ] = None,
    key: Annotated[str | None, typer.Option(help="Store it under this key instead of its own.")] = None,
    workers: Annotated[int, typer.Option(help="Processes; 0: this one.", min=0)] = 0,
    dask: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="A Dask scheduler whose workers do the work, such as tcp://host:8786."),
    ] = None,
    lock_wait: Annotated[float, typer.Option(help="Seconds to wait while somebody else writes to the lake.")] = 60.0,
    output: OutputOption = Output.TEXT,
) -> None:
    """Compute behavioural statistics of many episodes at once, and store them as keyword data, in one commit.

    Without --where: of all episodes of the games that a statistic is defined for. Run again, it replaces the values.
    """
    from ..statistics import annotate as annotate_lake

    try:
        with StagesBar() as bar, _executor(workers, dask) as executor:
            summary = annotate_lake(
                lake, names, where, key=key, executor=executor, progress=bar.tell, lock_wait=lock_wait
            )
    except KeyboardInterrupt:
        stderr.print("interrupted: nothing was stored")
        raise typer.Exit(INTERRUPTED) from None
    if output is Output.JSON:
        print_json({**vars(summary), "lake": lake})
        return
    _print_summary(summary, lake)


def _print_summary(summary: AnnotationSummary, lake: str) -> None:
    keys = ", ".join(map(repr, summary.keys))
    lines = [
        f"{lake}: {summary.values:,} values under {keys}, of {summary.episodes:,} episodes, commit {summary.commit}",
        f"changed: {summary.changed:,}; time: {human_duration(summary.seconds)}, {summary.steps:,} rows of steps",
    ]
    if summary.without_trajectory:
        lines.append(f"left out: {summary.without_trajectory:,} episodes of which no trajectory was found yet")
    if summary.of_other_games and not summary.episodes:
        lines.append(f"left out: {summary.of_other_games:,} episodes of games that {keys} is not defined for")
    stdout.print("\n".join(lines), markup=False, soft_wrap=True)


@contextmanager
def _executor(workers: int, dask: str | None) -> Iterator[Executor | None]:
    """Who does the work; None: this process."""
    if workers and dask is not None:
        raise InvalidArgument("--workers are processes here, --dask names others; choose one")
    if dask is not None:
        from crowdplay_ingest.workers import dask_executor

        with dask_executor(dask) as executor:
            yield executor
    elif workers:
        from loky import ProcessPoolExecutor

        processes: Executor = ProcessPoolExecutor(workers)
        try:
            yield processes
        finally:
            processes.shutdown(wait=True, kill_workers=True)  # type: ignore[call-arg]
    else:
        yield None


@app.command(epilog="Example: crowdplay-lake statistics --output json")
def statistics(output: OutputOption = Output.TEXT) -> None:
    """List the behavioural statistics: CrowdPlay's, and those of other packages that are installed."""
    from ..statistics import registered

    listed = [_described(name, one) for name, one in registered().items()]
    if output is Output.JSON:
        print_json(listed)
        return
    rows = [(one["name"], one["key"], one["games"] or "every game", one["definition"]) for one in listed]
    print_table("", ["name", "stored as", "games", "what it is"], rows)


def _described(name: str, one: Statistic | Exception) -> dict[str, Any]:
    if isinstance(one, Exception):
        return {"name": name, "key": None, "games": None, "unit": None, "definition": str(one), "quirk": None}
    games = None if one.games is None else list(one.games)
    about = {"unit": one.unit, "definition": one.definition, "quirk": one.quirk}
    return {"name": name, "key": one.key or name, "games": games, **about}
