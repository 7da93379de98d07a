"""The commands. Each is a thin wrapper over a function of the library, and says so in its first line."""

from __future__ import annotations

import io
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InvalidArgument
from .app import LakeArgument, OutputOption, app
from .output import Output, as_json, human_bytes, human_duration, print_json, print_rows, print_table, stderr, stdout

if TYPE_CHECKING:
    import polars as pl

    from ..lake import Lake
    from ..query_result import QueryResult

__all__: list[str] = []

STEPS_PER_HOUR = 60 * 60 * 60


class QueryOutput(StrEnum):
    """What `sql` prints."""

    TEXT = "text"
    JSON = "json"
    CSV = "csv"
    PARQUET = "parquet"


class Compression(StrEnum):
    """How the recorder packs an episode."""

    BZ2 = "bz2"
    GZ = "gz"
    NONE = "none"


@app.command(epilog="Example: crowdplay-lake record raw/ --seconds 20 --games space_invaders,breakout")
def record(
    raw: Annotated[Path, typer.Argument(metavar="RAW", help="Folder for the recording; made if missing.")],
    seconds: Annotated[float, typer.Option(help="About how long an episode lasts, in game time.", min=1)] = 20.0,
    games: Annotated[str | None, typer.Option(help="Comma-separated games; all eight by default.")] = None,
    seed: Annotated[int, typer.Option(help="Another seed adds other episodes to the folder.")] = 0,
    protocol: Annotated[int, typer.Option(help="Pickle protocol: 3, 4 or 5.", min=3, max=5)] = 3,
    compression: Annotated[Compression, typer.Option(help="How episodes are packed.")] = Compression.BZ2,
    frame_limit: Annotated[int, typer.Option(help="Frames after which a game is cut off.", min=1)] = 100_000,
    metadata: Annotated[bool, typer.Option("--metadata/--no-metadata", help="Write dataset.sqlite.")] = True,
    output: OutputOption = Output.TEXT,
) -> None:
    """Play real Atari games and write raw episodes as CrowdPlay does. Needs the extra `record`."""
    from crowdplay_ingest.recorder import RecordingOptions, sample_plan
    from crowdplay_ingest.recorder import record as record_episodes

    chosen = None if games is None else [game.strip() for game in games.split(",") if game.strip()]
    if chosen == []:
        raise InvalidArgument("--games names no game")
    options = RecordingOptions(seed, protocol, compression.value, frame_limit, metadata)
    plan = sample_plan(seconds, chosen, seed)
    total = sum(len(environment.episodes) for environment in plan)
    with stderr.status(f"recording {total} episodes") as status:
        done = 0

        def tell(episode_id: str, steps: int) -> None:
            nonlocal done
            done += 1
            status.update(f"recorded {done} of {total} episodes, the last {episode_id} with {steps:,} steps")

        summary = record_episodes(raw, plan, options, tell)
    for reason in summary.skipped:
        stderr.print(f"skipped: {reason}", style="yellow", markup=False)
    if output is Output.JSON:
        print_json({**vars(summary), "raw": raw})
    else:
        stdout.print(
            f"recorded {summary.episodes} episodes, {summary.steps:,} steps, into {raw} in {summary.seconds:.1f} s",
            markup=False,
        )


@app.command(epilog="Example: crowdplay-lake info lake/ --output json")
def info(
    lake: LakeArgument,
    by_column: Annotated[bool, typer.Option("--bytes", help="Show where the bytes are, column by column.")] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show what a lake holds: games, hours, tables and bytes."""
    from ..lake import Lake
    from ..schema import TABLES

    opened = Lake(lake)
    if by_column:
        _tell_bytes(opened, output)
        return
    games = opened.sql(
        f"""SELECT game, count(*) AS episodes, coalesce(sum(n_steps), 0)::BIGINT AS steps,
                   coalesce(sum(n_steps), 0) / {STEPS_PER_HOUR}.0 AS hours, count(DISTINCT task_id) AS tasks
            FROM episodes GROUP BY game ORDER BY game"""
    )
    tables = []
    for name in TABLES:
        parts = opened.snapshot.parts(name)
        tables.append((name, sum(part.rows for part in parts), len(parts), sum(part.size for part in parts)))
    if output is Output.JSON:
        print_json(
            {
                "lake": lake,
                "commit": opened.commit,
                "time": opened.snapshot.time,
                "operation": opened.snapshot.operation,
                "games": [dict(zip(games.columns, row, strict=True)) for row in games],
                "tables": [dict(zip(("table", "rows", "parts", "bytes"), row, strict=True)) for row in tables],
            }
        )
        return
    _print_info(opened, games, tables)


def _tell_bytes(opened: Lake, output: Output) -> None:
    from ..byte_counts import count_bytes
    from ..schema import RAM_COLUMNS

    counts = count_bytes(opened.snapshot)
    rows = counts.rows()
    if output is Output.JSON:
        told = {"lake": opened.path, "commit": opened.commit, "steps": counts.steps, "bytes": counts.total}
        print_json({**told, "columns": rows})
        return
    ram = [row for row in rows if row["column"] in RAM_COLUMNS]
    kept = [row for row in rows if row not in ram]
    if ram:
        sums = {key: sum(row[key] for row in ram) for key in ram[0] if key not in ("table", "column")}
        kept.append({**ram[0], **sums, "column": f"{RAM_COLUMNS[0]} to {RAM_COLUMNS[-1]}"})
    kept.sort(key=lambda row: -row["compressed"])
    whole = ("all", "", counts.total, None, counts.total / max(counts.steps, 1), 1.0)
    title = f"bytes: {counts.steps:,} steps in commit {opened.commit}"
    print_table(title, list(kept[0]), [*(tuple(row.values()) for row in kept), whole], totals=True)


def _print_info(opened: Lake, games: QueryResult, tables: list[tuple[str, int, int, int]]) -> None:
    when = f"{opened.snapshot.time:%Y-%m-%d %H:%M:%S} UTC"
    stdout.print(f"{opened.path}: commit {opened.commit}, {opened.snapshot.operation}, {when}", markup=False)
    rows = [(*row[:3], human_duration(row[3] * 3600), row[4]) for row in games]
    hours = sum(row[3] for row in games)
    total = ("all", sum(r[1] for r in games), sum(r[2] for r in games), human_duration(hours * 3600), None)
    print_table("games", ["game", "episodes", "steps", "time", "tasks"], [*rows, total], totals=True)
    sizes = [(name, rows, parts, human_bytes(size)) for name, rows, parts, size in tables]
    print_table("tables", ["table", "rows", "parts", "size"], sizes)


@app.command(epilog="Example: crowdplay-lake schema lake/ episode_agents")
def schema(
    lake: LakeArgument,
    table: Annotated[str | None, typer.Argument(metavar="TABLE", help="One table or view; all by default.")] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show what can be asked: every table and view, its columns, and what they mean."""
    from ..lake import Lake
    from ..schema import RAM_COLUMNS

    rows = Lake(lake).schema(table).fetchall()
    names = dict.fromkeys(row[0] for row in rows)
    columns = {name: [row[1:4] for row in rows if row[0] == name and row[1]] for name in names}
    meanings = {row[0]: row[3] for row in rows if not row[1]}
    if output is Output.JSON:
        keys = ("column", "type", "meaning")
        print_json(
            [
                {"table": name, "meaning": meanings[name], "columns": [dict(zip(keys, c, strict=True)) for c in own]}
                for name, own in columns.items()
            ]
        )
        return
    for name, own in columns.items():
        shown = [row for row in own if row[0] not in RAM_COLUMNS[1:]]
        print_table(f"{name}: {meanings[name]}", ["column", "type", "meaning"], shown)


@app.command(epilog="Example: crowdplay-lake sql lake/ 'SELECT game, count(*) AS n FROM episodes GROUP BY game'")
def sql(
    lake: LakeArgument,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="One statement that reads; '-' takes it from stdin.")],
    output: Annotated[QueryOutput, typer.Option("--output", help="What to print.")] = QueryOutput.TEXT,
    commit: Annotated[int | None, typer.Option(help="Ask an earlier commit of the lake.")] = None,
) -> None:
    """Ask a lake in SQL. Tables: episodes, steps, keyword_data, …; the wide view is episode_agents."""
    from ..lake import Lake

    result = Lake(lake, commit).sql(sys.stdin.read() if query == "-" else query)
    _PRINTERS[output](result)


def _print_text(result: QueryResult) -> None:
    print_rows(result.columns, result.fetchall())
    stdout.print(f"{len(result):,} row{'' if len(result) == 1 else 's'}", style="dim")


def _flat(frame: pl.DataFrame) -> pl.DataFrame:
    """What CSV can hold: lists as JSON text, bytes as hex."""
    import polars as pl

    def in_json(value: Any) -> str:
        return as_json(value.to_list() if isinstance(value, pl.Series) else value)

    lists = [pl.col(name).map_elements(in_json, pl.String) for name, kind in frame.schema.items() if kind.is_nested()]
    binary = [pl.col(name).bin.encode("hex") for name, kind in frame.schema.items() if kind == pl.Binary]
    return frame.with_columns(*lists, *binary)


def _print_parquet(result: QueryResult) -> None:
    if sys.stdout.isatty():
        raise InvalidArgument("Parquet is no text: redirect it, as in --output parquet > rows.parquet")
    packed = io.BytesIO()
    result.pl().write_parquet(packed)
    sys.stdout.buffer.write(packed.getbuffer())


_PRINTERS: dict[QueryOutput, Any] = {
    QueryOutput.TEXT: _print_text,
    QueryOutput.JSON: lambda result: print_json([dict(zip(result.columns, row, strict=True)) for row in result]),
    # Through Python's own stdout: where its reader is gone, that is told apart from a fault.
    QueryOutput.CSV: lambda result: sys.stdout.write(_flat(result.pl()).write_csv()),
    QueryOutput.PARQUET: _print_parquet,
}
