"""The commands about agents: train, rollout. The emulator they play on is the recorder's."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InvalidArgument
from .app import LakeArgument, OutputOption, app
from .output import Output, print_json, print_rows, stderr, stdout
from .progress import StagesBar

if TYPE_CHECKING:
    import polars as pl

    from ..offline.benchmark.playing import Console, Played
    from ..offline.benchmark.training import Plan, RunOptions

__all__: list[str] = []

INTERRUPTED = 130


class Split(StrEnum):
    """What is held out together."""

    PARTICIPANT = "participant"
    EPISODE = "episode"


def _console(game: str) -> Console:
    from crowdplay_ingest.consoles import OnePlayerConsole

    return OnePlayerConsole(game)


@app.command(
    epilog="Example: crowdplay-lake train lake/ runs/ --task space_invaders_left --algorithm BC,CQL --device cuda:0"
)
def train(
    lake: LakeArgument,
    runs: Annotated[Path, typer.Argument(metavar="RUNS", help="Folder for the runs; made if missing.")],
    task: Annotated[str, typer.Option(help="Tasks, comma-separated, such as space_invaders_left,qbert_mturk.")],
    algorithm: Annotated[str, typer.Option(help="Of BC, BCQ, CQL, IQN, DQN, SAC, comma-separated.")] = "BC",
    seed: Annotated[str, typer.Option(help="Seeds, comma-separated: a run each.")] = "123",
    conversion: Annotated[
        str,
        typer.Option(
            metavar="downsample|downsample_with_augment|every_step",
            help="Decisions every 4 steps, the same from all four beginnings, or at every step.",
        ),
    ] = "downsample",
    steps: Annotated[int, typer.Option(help="Of training; few by default, CrowdPlay trains 1000000.", min=1)] = 10_000,
    eval_every: Annotated[int, typer.Option(help="Play the game, and keep a checkpoint, so often.", min=1)] = 2_500,
    eval_episodes: Annotated[int, typer.Option(help="So many episodes of it each time.", min=1)] = 10,
    max_steps: Annotated[int, typer.Option(help="Emulator steps after which such an episode is cut off.")] = 30_000,
    epsilon: Annotated[float, typer.Option(help="Share of decisions there that are made by lot.")] = 0.01,
    split: Annotated[Split, typer.Option(help="What is held out together.")] = Split.PARTICIPANT,
    test_share: Annotated[float, typer.Option(help="Of the episodes, held out of training; 0: none.")] = 0.1,
    min_score: Annotated[float, typer.Option(help="Learn from episodes with this Score at least.")] = 50.0,
    min_adherence: Annotated[float, typer.Option(help="… that kept to their task this well at least, 0 to 1.")] = 0.8,
    where: Annotated[str | None, typer.Option(help="… and satisfy this SQL condition over episode_agents.")] = None,
    batch_size: Annotated[int, typer.Option(help="Decisions a step learns from.", min=1)] = 256,
    device: Annotated[str, typer.Option(help="cpu, or a GPU such as cuda:0.")] = "cpu",
    keep: Annotated[int, typer.Option(help="Checkpoints that stay: the last ones, and the best.", min=1)] = 3,
    memory_map: Annotated[
        str | None,
        typer.Option(metavar="FOLDER|auto", help="Keep observations in files there, which runs share; else in memory."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with runs that were begun in RUNS.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be trained on, and stop.")] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Train agents on people's episodes of CrowdPlay's tasks, and measure them on the real game. Extra `train`.

    Each task x algorithm x seed is a run with a folder of its own in RUNS; results.parquet and results.png there are
    over all of them. The defaults are a short try: minutes to an hour of a CPU core.
    """
    from ..offline.benchmark.playing import PlayOptions
    from ..offline.benchmark.tasks import Filter
    from ..offline.benchmark.training import RunOptions, Schedule

    play = PlayOptions(episodes=eval_episodes, epsilon=epsilon, max_steps=max_steps)
    chosen = Filter(min_score, min_adherence, where)
    options = [
        RunOptions(one, name, number, conversion, split.value, test_share, chosen, batch_size, play)
        for one in _listed("--task", task)
        for name in _listed("--algorithm", algorithm)
        for number in _seeds(seed)
    ]
    schedule = Schedule(steps, eval_every, device, keep, memory_map)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            plans = _plans(lake, runs, options, resume)
            table = None if dry_run else _train(plans, runs, schedule, resume)
    except KeyboardInterrupt:
        stderr.print("interrupted: --resume goes on from the last checkpoint of each run")
        raise typer.Exit(INTERRUPTED) from None
    if table is None:
        _print_plans(plans, output)
    else:
        _print_results(table, {one.name for one in options}, runs, output)


def _listed(option: str, text: str) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise InvalidArgument(f"{option} names nothing")
    return names


def _seeds(text: str) -> list[int]:
    try:
        return [int(one) for one in _listed("--seed", text)]
    except ValueError as error:
        raise InvalidArgument(f"--seed {text!r}: whole numbers, comma-separated") from error


def _plans(lake: str, runs: Path, options: Iterable[RunOptions], resume: bool) -> list[Plan]:
    """Every run's: what is wrong with one shows before anything is trained."""
    from ..lake import Lake
    from ..offline.benchmark.training import plan_run

    opened = None if resume else Lake(lake)
    return [plan_run(opened or lake, one, runs if resume else None) for one in options]


def _train(plans: Iterable[Plan], runs: Path, schedule: Any, resume: bool) -> pl.DataFrame:
    from ..offline.benchmark.results import PLOT, collect, plot
    from ..offline.benchmark.training import check_run, train

    plans = list(plans)
    for plan in plans:
        check_run(plan, runs, resume)
    for plan in plans:
        with StagesBar() as bar:
            folder = train(plan, runs, _console, schedule, resume, bar.tell)
        stderr.print(f"trained {folder}", markup=False)
        table = collect(runs)
        plot(table, runs / PLOT)
    return table


def _print_plans(plans: Iterable[Plan], output: Output) -> None:
    rows = [
        {
            "run": plan.options.name,
            "train_episodes": len(plan.train),
            "test_episodes": len(plan.test),
            "train_steps": sum(map(len, plan.train)),
            "test_steps": sum(map(len, plan.test)),
            **{f"human_{name}": value for name, value in asdict(plan.shown.human).items()},
            "commit": plan.lake.commit,
        }
        for plan in plans
    ]
    if output is Output.JSON:
        print_json(rows)
    else:
        print_rows(list(rows[0]), [list(row.values()) for row in rows])


# What a person is shown of the results.
_SHOWN = ("run", "step", "episodes", "score_mean", "score_std", "adherence", "human_mean", "human_best", "random_mean")


def _print_results(table: pl.DataFrame, names: set[str], runs: Path, output: Output) -> None:
    from ..offline.benchmark.results import PLOT, RESULTS

    own = table.filter(table["run"].is_in(list(names)))
    if output is Output.JSON:
        print_json({"results": runs / RESULTS, "plot": runs / PLOT, "rows": own.to_dicts()})
        return
    last = own.group_by("run", maintain_order=True).last().select(_SHOWN)
    print_rows(list(_SHOWN), last.rows())
    stdout.print(f"{runs / RESULTS}: {len(table):,} rows; {runs / PLOT}", markup=False)


@app.command(epilog="Example: crowdplay-lake rollout runs/space_invaders_left_BC_123 lake/ --episodes 20")
def rollout(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run that `train` has made.")],
    lake: LakeArgument,
    episodes: Annotated[int, typer.Option(help="So many episodes.", min=1)] = 10,
    seed: Annotated[int, typer.Option(help="Of how they begin; the run's own evaluations have 0.")] = 1,
    step: Annotated[int | None, typer.Option(help="The checkpoint of this training step; the last one.")] = None,
    max_steps: Annotated[
        int | None, typer.Option(help="Emulator steps after which an episode is cut off; as in the run.", min=1)
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, or a GPU such as cuda:0.")] = "cpu",
    raw: Annotated[Path | None, typer.Option(help="Keep the raw episodes in this folder.")] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Let a trained agent play, and record it into a lake: people and agents are asked about in the same SQL.

    Its episodes have user_type 2 and source 'agent', the task of the run, and CrowdPlay's statistics; the environment's
    keyword data says which run, checkpoint and seed. An episode takes 100 KB of memory a step while it is recorded.
    """
    from crowdplay_ingest.rollouts import ingest_rollouts

    from ..offline.benchmark.playing import PlayOptions
    from ..offline.benchmark.training import roll_out, run_config

    config = run_config(run)
    play = replace(PlayOptions(**config["play"]), episodes=episodes, seed=seed)
    if max_steps is not None:
        play = replace(play, max_steps=max_steps)
    try:
        with contextlib.redirect_stdout(sys.stderr), StagesBar() as bar:
            at, played = roll_out(run, _console, play, step, device, bar.tell)
            done = 0

            def tell(episode_id: str, steps: int) -> None:
                nonlocal done
                del episode_id, steps
                done += 1
                bar.tell("recording", done, episodes)

            about = _about(config, run, at, play)
            keys = [one.keys.tolist() for one in played]
            summary = ingest_rollouts(lake, config["task"], keys, about, raw, tell)
    except KeyboardInterrupt:
        stderr.print("interrupted: nothing was recorded")
        raise typer.Exit(INTERRUPTED) from None
    _print_rollout(played, summary, lake, at, output)


def _about(config: dict[str, Any], run: Path, step: int, play: Any) -> dict[str, str | int | float | datetime]:
    from ..offline.benchmark.tasks import AGENT_SOURCE

    return {
        "source": AGENT_SOURCE,
        "created_on": datetime.now(UTC).replace(tzinfo=None, microsecond=0),
        "run": run.absolute().name,
        "algorithm": config["algorithm"],
        "conversion": config["conversion"],
        "seed": config["seed"],
        "checkpoint": step,
        "played_seed": play.seed,
    }


def _print_rollout(played: list[Played], summary: Any, lake: str, step: int, output: Output) -> None:
    scores = [one.score for one in played]
    told = {
        "lake": lake,
        "commit": summary.commit,
        "checkpoint": step,
        "episodes": len(played),
        "steps": sum(map(len, played)),
        "already_there": summary.unchanged,
        "scores": scores,
    }
    if output is Output.JSON:
        print_json(told)
        return
    stdout.print(
        f"{lake}: {len(played):,} episodes of checkpoint {step}, {told['steps']:,} steps, mean score "
        f"{sum(scores) / len(scores):,.1f}, commit {summary.commit}"
        + (f"; {summary.unchanged:,} of them were there already" if summary.unchanged else ""),
        markup=False,
        soft_wrap=True,
    )
