"""Training one algorithm on one task, with evaluations on the real game on the way; to be stopped and gone on with."""

from __future__ import annotations

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...episode import Episode
from ...errors import InvalidArgument
from ...lake import Lake
from ..split import SplitBy, split
from .algorithms import BATCH_SIZE, algorithm_named, as_json, d3rlpy_library, make_algorithm
from .data import OBSERVATION_SHAPE, Dataset, Tell, conversion_named, make_dataset
from .measures import Measured, measure
from .playing import MakeConsole, Played, PlayOptions, Policy, play_episodes, random_policy
from .results import append, read, require_plotting
from .runs import RunFolder, differences, restore_random_state
from .tasks import Demonstrations, Filter, demonstrations, task_named

if TYPE_CHECKING:
    from d3rlpy.algos import QLearningAlgoBase

__all__ = ["Plan", "RunOptions", "Schedule", "check_run", "plan_run", "roll_out", "run_config", "train"]

#: Held-out decisions that an agent is compared on, at most.
MOST_TEST_DECISIONS = 10_000
# Decisions that a network answers at once while they are compared.
_BATCH = 256
# Steps of training between two tellings of it.
_TELL_EVERY = 10


@dataclass(frozen=True)
class RunOptions:
    """What a run is: with these and the same lake it can be gone on with, with others it is another run."""

    task: str
    algorithm: str = "BC"
    seed: int = 123
    conversion: str = "downsample"
    split: SplitBy = "participant"
    test_share: float = 0.1
    chosen: Filter = field(default_factory=Filter)
    batch_size: int = BATCH_SIZE
    play: PlayOptions = field(default_factory=PlayOptions)

    def __post_init__(self) -> None:
        task_named(self.task)
        object.__setattr__(self, "algorithm", algorithm_named(self.algorithm))
        conversion_named(self.conversion)
        if self.batch_size < 1:
            raise InvalidArgument(f"batch_size is {self.batch_size}; at least 1")

    @property
    def name(self) -> str:
        """Of the run's folder."""
        conversion = "" if self.conversion == "downsample" else f"_{self.conversion}"
        return f"{self.task}_{self.algorithm}{conversion}_{self.seed}"


@dataclass(frozen=True)
class Schedule:
    """How long to train, and where. May differ when a run is gone on with."""

    steps: int = 10_000  # CrowdPlay: 1,000,000
    eval_every: int = 2_500  # CrowdPlay: 1,000
    device: str = "cpu"
    keep: int = 3  # checkpoints: the last ones, and the best
    memory_map: str | None = None  # a folder for observations, or "auto"; None: in memory

    def __post_init__(self) -> None:
        for name in ("steps", "eval_every", "keep"):
            if getattr(self, name) < 1:
                raise InvalidArgument(f"{name} is {getattr(self, name)}; at least 1")


@dataclass(frozen=True)
class Plan:
    """What a run would be trained on, of one snapshot of a lake."""

    lake: Lake
    options: RunOptions
    shown: Demonstrations
    train: Sequence[Episode]
    test: Sequence[Episode]

    @property
    def fingerprint(self) -> str:
        """Of the episodes of both halves and their content."""
        digest = hashlib.sha256()
        for half in (self.train, self.test):
            for episode in half:
                digest.update(f"{episode.episode_id} {episode.row['content_hash']}\n".encode())
            digest.update(b"\n")
        return digest.hexdigest()


def plan_run(path: str | PathLike[str] | Lake, options: RunOptions, runs: Path | None = None) -> Plan:
    """Find the demonstrations in a lake and split them; reads no steps.

    ``runs``: where the run is that is to be gone on with; then the lake is opened at the commit that the run began
    with, whatever came in since. Raises InvalidArgument where there is nothing to learn from or to split; UnknownPath.
    """
    if isinstance(path, Lake):
        lake = path
    else:
        lake = Lake(path, None if runs is None else RunFolder(runs / options.name).config()["commit"])
    shown = demonstrations(lake, task_named(options.task), options.chosen)
    train, test = split(shown.episodes, options.split, options.test_share, options.seed)
    return Plan(lake, options, shown, train, test)


def train(
    plan: Plan,
    runs: Path,
    make_console: MakeConsole,
    schedule: Schedule | None = None,
    resume: bool = False,
    tell: Tell | None = None,
) -> Path:
    """Train what ``plan`` says, in a folder of its own in ``runs``, which it returns.

    After every ``eval_every`` steps, and the last one: an evaluation on the real game (``make_console``, such as
    `crowdplay_ingest.consoles.OnePlayerConsole`), a checkpoint, a row of results. ``resume``: go on from the last
    checkpoint; the outcome is that of a run that was never stopped, on the same machine. Sets the global random numbers
    of numpy and torch. Nothing is left behind where it cannot begin.

    Raises InvalidArgument: the run's folder is there and not to be resumed, or is another run's; UnknownPath: there is
    nothing to resume; MissingExtra.
    """
    schedule = schedule or Schedule()
    folder = check_run(plan, runs, resume)
    console = make_console(plan.shown.task.game)
    run = _Run(plan, folder, make_console, schedule, tell)
    if run.data.action_size != console.keys:
        raise InvalidArgument(
            f"the episodes have {run.data.action_size} actions, the game {plan.shown.task.game} has {console.keys}:"
            " were they recorded of another game?"
        )
    if not resume:
        folder.begin({**_config(plan), "algorithm_config": as_json(run.algorithm)})
    with folder.alone():
        run.run()
    return folder.path


def check_run(plan: Plan, runs: Path, resume: bool = False) -> RunFolder:
    """The folder that `train` would train in. Raises what it raises for one that it cannot train in."""
    folder = RunFolder(runs / plan.options.name)
    require_plotting()
    if resume:
        if found := differences(_identity(_config(plan)), _identity(folder.config())):
            raise InvalidArgument(f"{folder.path} is another run: {'; '.join(found)}")
    elif folder.exists:
        raise InvalidArgument(
            f"{folder.path} is there already: go on with it (--resume), or choose another seed or folder"
        )
    return folder


def _config(plan: Plan) -> dict[str, Any]:
    return {
        **asdict(plan.options),
        "lake": str(plan.lake.path),
        "commit": plan.lake.commit,
        "episodes": plan.fingerprint,
        "versions": _versions(),
    }


def _identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same for it to be the same run: the lake may have moved, and grown elsewhere."""
    beside = ("lake", "commit", "versions", "algorithm_config")
    return {name: value for name, value in config.items() if name not in beside}


def _versions() -> dict[str, str]:
    found = {}
    for package in ("crowdplay-lake", "d3rlpy", "torch", "numpy", "ale-py"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "none"
    return found


class _Run:
    """A run while it is trained."""

    def __init__(
        self, plan: Plan, folder: RunFolder, make_console: MakeConsole, schedule: Schedule, tell: Tell | None
    ) -> None:
        self._plan = plan
        self._options = options = plan.options
        self._folder = folder
        self._make_console = make_console
        self._schedule = schedule
        self._tell = tell
        self._decisions = conversion_named(options.conversion)
        where = schedule.memory_map
        self.data: Dataset = make_dataset(plan.train, self._decisions, None, where, tell)
        # The same decisions as in play, without copies.
        held_out = conversion_named("every_step" if self._decisions.every == 1 else "downsample")
        self._test = make_dataset(plan.test, held_out, self.data.action_size, where, tell) if plan.test else None
        d3rlpy_library().seed(options.seed)
        self.algorithm = make_algorithm(
            options.algorithm, OBSERVATION_SHAPE, self.data.action_size, options.batch_size, schedule.device
        )
        self._random: Measured | None = None
        self._seconds = 0.0

    def run(self) -> None:
        """From the last checkpoint, or the beginning, to the last step."""
        step = self._go_on()
        while step < self._schedule.steps:
            every = self._schedule.eval_every
            stop = min(self._schedule.steps, (step // every + 1) * every)
            began = time.monotonic()
            losses = self._train(step, stop)
            step = stop
            measured = self._evaluate()
            agreement = self._agreement()
            self._seconds += time.monotonic() - began
            row = self._row(step, measured, losses, agreement)
            # The checkpoint brings its row along: whoever goes on from it does not play again.
            self._folder.save(step, self.algorithm, {"seconds": self._seconds, "row": json.dumps(row)})
            append(self._folder.path, row, upto=step - 1)
            scores = read(self._folder.path).sort("score_mean", "step", descending=[True, False])
            self._folder.prune(self._schedule.keep, int(scores["step"][0]))

    def _go_on(self) -> int:
        """Load the last checkpoint, if any; returns its step."""
        if not self._folder.checkpoints():
            return 0
        step, file = self._folder.checkpoint()
        state = self._folder.load(file, self.algorithm)
        restore_random_state(state["random"])
        self._seconds = float(state["seconds"])
        append(self._folder.path, json.loads(state["row"]), upto=step - 1)
        return step

    def _train(self, step: int, stop: int) -> dict[str, float]:
        """The mean of every loss over the steps."""
        sums: defaultdict[str, float] = defaultdict(float)
        for done in range(step + 1, stop + 1):
            batch = self.data.buffer.sample_transition_batch(self._options.batch_size)
            for name, value in self.algorithm.update(batch).items():
                sums[name] += value
            if self._tell is not None and (done % _TELL_EVERY == 0 or done == stop):
                self._tell("training", done, self._schedule.steps)
        return {name: total / (stop - step) for name, total in sums.items()}

    def _evaluate(self) -> Measured:
        policy = _greedy(self.algorithm)
        return measure(self._play(policy), self._plan.shown.task)

    def _play(self, policy: Policy) -> list[Played]:
        game = self._plan.shown.task.game
        return play_episodes(self._make_console, game, policy, self._decisions.every, self._options.play, self._tell)

    @property
    def _chance(self) -> Measured:
        """What keys by lot come to, in as many episodes that begin the same way."""
        if self._random is None:
            policy = random_policy(self.data.action_size, self._options.play.seed)
            self._random = measure(self._play(policy), self._plan.shown.task)
        return self._random

    def _agreement(self) -> float | None:
        """The share of held-out decisions that the agent would have made; None where none is held out."""
        if self._test is None:
            return None
        buffer = self._test.buffer
        count = buffer.transition_count
        if not count:
            return None
        chosen = np.unique(np.linspace(0, count - 1, min(count, MOST_TEST_DECISIONS)).astype(np.int64)).tolist()
        same = 0
        for start in range(0, len(chosen), _BATCH):
            picked = [buffer.transition_picker(*buffer.buffer[index]) for index in chosen[start : start + _BATCH]]
            actions = np.array([int(transition.action[0]) for transition in picked])
            same += int((self.algorithm.predict(np.stack([one.observation for one in picked])) == actions).sum())
        return same / len(chosen)

    def _row(
        self, step: int, measured: Measured, losses: Mapping[str, float], agreement: float | None
    ) -> dict[str, Any]:
        options, human, chance = self._options, self._plan.shown.human, self._chance
        return {
            "run": options.name,
            "task": options.task,
            "algorithm": options.algorithm,
            "seed": options.seed,
            "conversion": options.conversion,
            "split": options.split,
            "step": step,
            "episodes": measured.episodes,
            "epsilon": options.play.epsilon,
            "score_mean": measured.mean,
            "score_median": measured.median,
            "score_std": measured.std,
            "score_best": measured.best,
            "scores": list(measured.scores),
            "adherence": measured.adherence,
            "cut_off": measured.cut_off,
            "human_episodes": human.episodes,
            "human_mean": human.mean,
            "human_median": human.median,
            "human_best": human.best,
            "human_adherence": human.adherence,
            "random_mean": chance.mean,
            "random_std": chance.std,
            "random_adherence": chance.adherence,
            "train_loss": losses.get("loss", losses.get("critic_loss")),
            "losses": json.dumps(losses),
            "test_agreement": agreement,
            "train_episodes": self.data.episodes,
            "test_episodes": self._test.episodes if self._test is not None else 0,
            "train_decisions": self.data.decisions,
            "seconds": self._seconds,
            "device": self._schedule.device,
            "lake": str(self._plan.lake.path),
            "commit": self._plan.lake.commit,
            "versions": json.dumps(_versions()),
        }


def _greedy(algorithm: QLearningAlgoBase[Any, Any]) -> Policy:
    def choose(seen: npt.NDArray[np.uint8], numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.integer]:
        del numbers
        keys: npt.NDArray[np.integer] = algorithm.predict(seen)
        return keys

    return choose


def run_config(run: Path) -> dict[str, Any]:
    """What was written of a run when it began. Raises UnknownPath, InvalidArgument."""
    return RunFolder(run).config()


def roll_out(
    run: Path,
    make_console: MakeConsole,
    options: PlayOptions | None = None,
    step: int | None = None,
    device: str = "cpu",
    tell: Tell | None = None,
) -> tuple[int, list[Played]]:
    """Let the agent of a run play: (the step of its checkpoint, what was played).

    ``options``: as in the run's evaluations, by default. ``step``: the checkpoint's; the last one by default. Raises
    UnknownPath, InvalidArgument with the checkpoints that there are, MissingExtra.
    """
    folder = RunFolder(run)
    config = folder.config()
    at, file = folder.checkpoint(step)
    game = task_named(config["task"]).game
    actions = make_console(game).keys
    algorithm = make_algorithm(config["algorithm"], OBSERVATION_SHAPE, actions, config["batch_size"], device)
    folder.load(file, algorithm)
    hold = conversion_named(config["conversion"]).every
    options = options or PlayOptions(**config["play"])
    return at, play_episodes(make_console, game, _greedy(algorithm), hold, options, tell)
