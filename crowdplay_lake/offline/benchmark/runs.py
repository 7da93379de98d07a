"""A run's folder: what it is (config.json), how far it came (checkpoints), what came out (results.parquet).

A checkpoint holds weights, optimizers and the state of the random numbers, so that training goes on as if it had never
stopped. It is torch's format, read with ``weights_only``: plain tensors and numbers, no code. (d3rlpy's own `.d3` is a
pickle, and reading one runs what is in it.) d3rlpy's ``algorithm.load_model`` reads its weights, too.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InvalidArgument, UnknownPath
from ...findings import first_line
from .results import write_whole

if TYPE_CHECKING:
    from d3rlpy.algos import QLearningAlgoBase

__all__ = ["RunFolder", "differences", "restore_random_state"]

CONFIG = "config.json"
_STATE = "crowdplay_lake"


def differences(mine: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """'name: mine, not other' of each value that differs."""
    names = [*mine, *(name for name in other if name not in mine)]
    return [
        f"{name}: {mine.get(name)!r}, not {other.get(name)!r}" for name in names if mine.get(name) != other.get(name)
    ]


class RunFolder:
    """The folder of one run. It is made when its configuration is written, not before."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def exists(self) -> bool:
        """Whether a run has begun here."""
        return (self.path / CONFIG).is_file()

    def config(self) -> dict[str, Any]:
        """What was written of the run. Raises UnknownPath, InvalidArgument."""
        if not self.exists:
            siblings = [folder.name for folder in self.path.parent.glob("*") if (folder / CONFIG).is_file()]
            raise UnknownPath(self.path.name, siblings, f"{self.path.parent}, as a run that `train` has begun")
        try:
            found = json.loads((self.path / CONFIG).read_text())
        except ValueError as error:
            raise InvalidArgument(f"{self.path / CONFIG} is damaged: {error}") from error
        if not isinstance(found, dict):
            raise InvalidArgument(f"{self.path / CONFIG} is damaged: it holds no configuration")
        return found

    def begin(self, config: Mapping[str, Any]) -> None:
        """Make the folder, and write what is not there to change."""
        self.path.mkdir(parents=True, exist_ok=True)
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        write_whole(self.path / CONFIG, lambda file: file.write_text(text))

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else trains this run meanwhile. Raises InvalidArgument where somebody does."""
        from filelock import FileLock, Timeout

        lock = FileLock(self.path / ".lock", blocking=False)
        try:
            with lock:
                yield
        except Timeout as error:
            raise InvalidArgument(f"{self.path}: another process is training this run") from error

    # Checkpoints

    def checkpoints(self) -> dict[int, Path]:
        """Training step → checkpoint, ascending."""
        found = {int(file.stem.removeprefix("model_")): file for file in self.path.glob("model_*.pt")}
        return dict(sorted(found.items()))

    def checkpoint(self, step: int | None = None) -> tuple[int, Path]:
        """The checkpoint of a step, or the last one. Raises InvalidArgument with those that are there."""
        known = self.checkpoints()
        if not known:
            raise InvalidArgument(f"{self.path} has no checkpoint yet")
        if step is not None and step not in known:
            there = ", ".join(map(str, known))
            raise InvalidArgument(f"{self.path} has no checkpoint of step {step}; there are those of {there}")
        step = max(known) if step is None else step
        return step, known[step]

    def save(self, step: int, algorithm: QLearningAlgoBase[Any, Any], state: Mapping[str, Any]) -> None:
        """Write a checkpoint, whole or not at all. ``state``: numbers of the training itself."""
        import torch

        stored = torch.load(_model_bytes(algorithm), weights_only=True, map_location="cpu")
        stored[_STATE] = {**state, "step": step, "grad_step": algorithm.grad_step, "random": _random_state()}
        write_whole(self.path / f"model_{step}.pt", lambda file: torch.save(stored, file))

    def load(self, file: Path, algorithm: QLearningAlgoBase[Any, Any]) -> dict[str, Any]:
        """Bring an algorithm to where a checkpoint was written, and give what was stored with it.

        The random numbers are left as they are: `restore_random_state` sets them. Raises InvalidArgument for a file
        that is damaged, or another algorithm's.
        """
        import torch

        try:
            stored = torch.load(file, weights_only=True, map_location="cpu")
            state: dict[str, Any] = stored[_STATE]
            with file.open("rb") as stream:
                algorithm.impl.load_model(stream)
        except Exception as error:
            raise InvalidArgument(f"{file} is damaged, or no checkpoint of this run: {first_line(error)}") from error
        algorithm.set_grad_step(state["grad_step"])
        return state

    def prune(self, keep: int, best: int | None) -> None:
        """Leave the last ``keep`` checkpoints, and that of step ``best``."""
        known = self.checkpoints()
        for step in list(known)[:-keep]:
            if step != best:
                known[step].unlink()


def _model_bytes(algorithm: QLearningAlgoBase[Any, Any]) -> io.BytesIO:
    stream = io.BytesIO()
    algorithm.impl.save_model(stream)
    stream.seek(0)
    return stream


def _random_state() -> dict[str, Any]:
    """Of all generators that training draws from, as plain tensors and numbers."""
    import torch

    kind, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    numpy_state = [
        str(kind),
        torch.from_numpy(np.asarray(keys).astype(np.int64)),
        int(position),
        int(has_gauss),
        float(gauss),
    ]
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"numpy": numpy_state, "torch": torch.get_rng_state(), "cuda": cuda}


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Set numpy's and torch's global generators, from which d3rlpy draws, to where they were at a checkpoint."""
    import torch

    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])
