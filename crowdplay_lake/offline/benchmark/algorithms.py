"""Who learns: CrowdPlay's six algorithms with its hyper-parameters, as d3rlpy 2 has them.

What CrowdPlay left to d3rlpy 1's defaults is said here where d3rlpy 2 has others: Adam's epsilon of SAC.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ...errors import InvalidArgument, MissingExtra, UnknownAlgorithm
from ...findings import first_line

if TYPE_CHECKING:
    from d3rlpy.algos import QLearningAlgoBase

__all__ = ["ALGORITHMS", "BATCH_SIZE", "algorithm_named", "as_json", "d3rlpy_library", "make_algorithm"]

BATCH_SIZE = 256
# Steps between two copies of a network to its target.
TARGET_EVERY = 2_500

Maker = Callable[[ModuleType, Mapping[str, Any]], Any]


def d3rlpy_library() -> ModuleType:
    """d3rlpy, without the four lines about gym's successor that importing it prints. Raises MissingExtra."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            import d3rlpy
    except ImportError as error:
        raise MissingExtra("d3rlpy", "train") from error
    library: ModuleType = d3rlpy
    return library


def _bc(d3rlpy: ModuleType, common: Mapping[str, Any]) -> Any:
    return d3rlpy.algos.DiscreteBCConfig(learning_rate=3e-5, **common)


def _bcq(d3rlpy: ModuleType, common: Mapping[str, Any]) -> Any:
    return d3rlpy.algos.DiscreteBCQConfig(
        learning_rate=1e-4, action_flexibility=0.5, target_update_interval=TARGET_EVERY, **common
    )


def _cql(d3rlpy: ModuleType, common: Mapping[str, Any]) -> Any:
    quantiles = d3rlpy.models.QRQFunctionFactory(n_quantiles=32)
    return d3rlpy.algos.DiscreteCQLConfig(
        learning_rate=6.25e-5, q_func_factory=quantiles, target_update_interval=TARGET_EVERY, **common
    )


def _iqn(d3rlpy: ModuleType, common: Mapping[str, Any]) -> Any:
    quantiles = d3rlpy.models.IQNQFunctionFactory(n_quantiles=16, n_greedy_quantiles=16, embed_size=512)
    return d3rlpy.algos.DQNConfig(
        learning_rate=1e-4, q_func_factory=quantiles, target_update_interval=TARGET_EVERY, **common
    )


def _dqn(d3rlpy: ModuleType, common: Mapping[str, Any]) -> Any:
    return d3rlpy.algos.DoubleDQNConfig(learning_rate=3e-5, target_update_interval=TARGET_EVERY, **common)


def _sac(d3rlpy: ModuleType, common: Mapping[str, Any]) -> Any:
    adam = d3rlpy.optimizers.AdamFactory(eps=1e-4)
    return d3rlpy.algos.DiscreteSACConfig(
        actor_learning_rate=3e-4,
        critic_learning_rate=3e-4,
        temp_learning_rate=3e-4,
        actor_optim_factory=adam,
        critic_optim_factory=adam,
        temp_optim_factory=adam,
        target_update_interval=TARGET_EVERY,
        **common,
    )


#: CrowdPlay's name → what makes its configuration. "DQN" is double DQN, "IQN" is DQN on implicit quantiles, as there.
ALGORITHMS: Mapping[str, Maker] = {"BC": _bc, "BCQ": _bcq, "CQL": _cql, "IQN": _iqn, "DQN": _dqn, "SAC": _sac}


def algorithm_named(name: str) -> str:
    """CrowdPlay's spelling of an algorithm's name. Raises UnknownAlgorithm with the nearest."""
    if name.upper() not in ALGORITHMS:
        raise UnknownAlgorithm(name, ALGORITHMS, f"the benchmark, which has {', '.join(ALGORITHMS)}")
    return name.upper()


def make_algorithm(
    name: str, observation_shape: tuple[int, int, int], action_size: int, batch_size: int, device: str
) -> QLearningAlgoBase[Any, Any]:
    """The algorithm with new weights, drawn from torch's random numbers. ``device``: "cpu" or "cuda:0".

    Raises UnknownAlgorithm, MissingExtra, InvalidArgument for a device that is not there.
    """
    d3rlpy = d3rlpy_library()
    device = _device(device)
    common = {"batch_size": batch_size, "observation_scaler": d3rlpy.preprocessing.PixelObservationScaler()}
    algorithm = ALGORITHMS[algorithm_named(name)](d3rlpy, common).create(device=device)
    algorithm.create_impl(observation_shape, action_size)
    return algorithm


def as_json(algorithm: QLearningAlgoBase[Any, Any]) -> dict[str, Any]:
    """Its whole configuration, as d3rlpy's ``from_json`` reads it."""
    from d3rlpy.base import LearnableConfigWithShape

    network = algorithm.impl
    shaped = LearnableConfigWithShape(network.observation_shape, network.action_size, algorithm.config)
    stored: dict[str, Any] = json.loads(shaped.serialize())
    return stored


def _device(name: str) -> str:
    """The device by the name that d3rlpy knows it by. Raises InvalidArgument for one that is not there."""
    import torch

    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InvalidArgument(f"no device {name!r} here: {first_line(error)}; try 'cpu' or 'cuda:0'") from error
    if device.type not in ("cpu", "cuda"):
        raise InvalidArgument(f"d3rlpy does not train on {name!r}; try 'cpu' or 'cuda:0'")
    return f"{device.type}:{device.index or 0}"
