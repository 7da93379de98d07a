"""What came out: a row for each evaluation of each run, in a Parquet table and a plot over all runs of a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from ...errors import InvalidArgument, MissingExtra

__all__ = ["PLOT", "RESULTS", "append", "collect", "plot", "read", "require_plotting", "write_whole"]

RESULTS = "results.parquet"
PLOT = "results.png"

#: Column → type. A score is that of the game itself, of a whole episode.
SCHEMA: Mapping[str, pl.DataType | type[pl.DataType]] = {
    "run": pl.String,
    "task": pl.String,
    "algorithm": pl.String,
    "seed": pl.Int64,
    "conversion": pl.String,
    "split": pl.String,
    "step": pl.Int64,  # of training
    "episodes": pl.Int64,  # played by the agent after it
    "epsilon": pl.Float64,  # share of its decisions by lot
    "score_mean": pl.Float64,
    "score_median": pl.Float64,
    "score_std": pl.Float64,
    "score_best": pl.Float64,
    "scores": pl.List(pl.Int64),
    "adherence": pl.Float64,  # mean, of the agent; null for a task without
    "cut_off": pl.Int64,  # of these episodes
    "human_episodes": pl.Int64,
    "human_mean": pl.Float64,
    "human_median": pl.Float64,
    "human_best": pl.Float64,
    "human_adherence": pl.Float64,
    "random_mean": pl.Float64,
    "random_std": pl.Float64,
    "random_adherence": pl.Float64,
    "train_loss": pl.Float64,  # mean since the evaluation before
    "losses": pl.String,  # all that the algorithm tells, as JSON
    "test_agreement": pl.Float64,  # share of held-out decisions that the agent would have made, too
    "train_episodes": pl.Int64,
    "test_episodes": pl.Int64,
    "train_decisions": pl.Int64,
    "seconds": pl.Float64,  # of training and evaluation so far
    "device": pl.String,
    "lake": pl.String,
    "commit": pl.Int64,
    "versions": pl.String,  # JSON
}


def write_whole(file: Path, write: Callable[[Path], object]) -> None:
    """``write`` a file under another name, and give it its own when it is whole."""
    unfinished = file.with_name(f".{file.name}.{os.getpid()}.unfinished")
    try:
        write(unfinished)
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


def read(run: Path) -> pl.DataFrame:
    """The results of a run's folder, or of all runs in a folder; empty where there are none yet."""
    file = run / RESULTS
    return pl.read_parquet(file) if file.is_file() else pl.DataFrame(schema=SCHEMA)


def append(run: Path, row: Mapping[str, Any], upto: int) -> None:
    """Add a row to a run's results; what they have beyond the training step ``upto`` is of an attempt that was lost."""
    kept = read(run).filter(pl.col("step") <= upto)
    table = pl.concat([kept, pl.DataFrame([dict(row)], schema=SCHEMA, orient="row")])
    write_whole(run / RESULTS, table.write_parquet)


def collect(folder: Path) -> pl.DataFrame:
    """The results of all runs in ``folder``, by task, algorithm, seed and step; written there, too."""
    tables = [read(file.parent) for file in sorted(folder.glob(f"*/{RESULTS}"))]
    table = pl.concat([pl.DataFrame(schema=SCHEMA), *tables]).sort("task", "algorithm", "conversion", "seed", "step")
    write_whole(folder / RESULTS, table.write_parquet)
    return table


def require_plotting() -> None:
    """Raises MissingExtra before hours of training, not after."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingExtra("matplotlib", "train") from error


def plot(table: pl.DataFrame, file: Path) -> None:
    """Scores over training steps as a picture: a panel a task, a line an algorithm, people and chance beside them.

    A line is the mean over seeds, the band around it what their means span. Raises InvalidArgument for no results.
    """
    require_plotting()
    if table.is_empty():
        raise InvalidArgument("no results yet: nothing to draw")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tasks = table["task"].unique().sort().to_list()
    columns = min(3, len(tasks))
    rows = -(-len(tasks) // columns)
    figure = Figure(figsize=(5.0 * columns, 3.6 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for number, task in enumerate(tasks, 1):
        _panel(figure.add_subplot(rows, columns, number), task, table.filter(pl.col("task") == task))
    write_whole(file, lambda unfinished: figure.savefig(unfinished, format="png", dpi=120))


def _panel(axes: Any, task: str, table: pl.DataFrame) -> None:
    for (algorithm, conversion), own in table.group_by("algorithm", "conversion", maintain_order=True):
        means = own.group_by("step").agg(
            pl.col("score_mean").mean().alias("mean"),
            pl.col("score_mean").min().alias("low"),
            pl.col("score_mean").max().alias("high"),
        )
        means = means.sort("step")
        label = str(algorithm) if conversion == "downsample" else f"{algorithm}, {conversion}"
        (line,) = axes.plot(means["step"], means["mean"], marker="o", markersize=3, label=label)
        axes.fill_between(means["step"], means["low"], means["high"], color=line.get_color(), alpha=0.2, linewidth=0)
    for name, style in (("human", "--"), ("random", ":")):
        axes.axhline(table[f"{name}_mean"].mean(), color="grey", linestyle=style, linewidth=1, label=f"{name}, mean")
    axes.set_title(task, fontsize="medium")
    axes.set_xlabel("training steps")
    axes.set_ylabel("score")
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.legend(fontsize="x-small")
