"""An export as a Minari dataset, on Minari's own HDF5 storage. Needs the extra `minari`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import InvalidArgument, MissingExtra
from ...storage import AnyPath
from ...tagged import loads
from .content import NO_LIVES, Content, Exported
from .records import about_content, about_episode, as_text

__all__ = ["check", "dataset_id", "episode_metadata", "library", "reading", "write"]

DATA = "data"
_NAME = re.compile(r"[-_\w]+-v\d+")
# HDF5 takes 64 KB in an attribute.
LONGEST_ATTRIBUTE = 32_000
CHUNK_BYTES = 128 << 10
# Of a decision's row, these go into Minari's infos.
_INFOS = ("steps", "user_type", "lives", "ram")


def library() -> ModuleType:
    """minari. Raises MissingExtra."""
    try:
        import h5py
        import minari
    except ImportError as error:
        raise MissingExtra("minari", "minari") from error
    del h5py
    module: ModuleType = minari
    return module


def check(path: AnyPath) -> None:
    """Raise InvalidArgument for a folder that Minari would not load by its name, MissingExtra without Minari.

    Where Minari keeps its datasets, the folders above it are made.
    """
    library()
    if not _NAME.fullmatch(path.name):
        raise InvalidArgument(
            f"{path}: Minari finds a dataset by its folder's name, which ends in a version and has no dots or spaces: "
            f"{path.parent / (re.sub(r'[^-_0-9A-Za-z]', '_', path.name) + '-v0')}"
        )
    if isinstance(path, Path) and path.is_relative_to(_root()):
        path.parent.mkdir(parents=True, exist_ok=True)


def _root() -> Path:
    """Where Minari looks for datasets."""
    named = os.environ.get("MINARI_DATASETS_PATH")
    return Path(named).absolute() if named else Path.home() / ".minari" / "datasets"


def dataset_id(path: Path) -> str:
    """What `minari.load_dataset` takes: the path below its datasets, and of folders elsewhere the name."""
    root = _root()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def reading(path: Path) -> str:
    """How the dataset is read: by its name where Minari looks for it, else by its path."""
    if path.is_relative_to(_root()):
        return f"minari.load_dataset({dataset_id(path)!r})"
    return f"minari.MinariDataset({str(path / DATA)!r})"


def write(content: Content, path: Path, named: Path) -> None:
    """Write ``content`` to the folder ``path``, a dataset that is going to lie at ``named``.

    Minari's episodes have an observation more than decisions: what the agent saw after the last one where the lake has
    it, else the last observation again; ``final_observation`` in the metadata of an episode says which.
    """
    minari = library()
    import gymnasium
    from minari.dataset.minari_storage import MinariStorage

    (path / DATA).mkdir(parents=True)
    storage = MinariStorage.new(
        path / DATA,
        gymnasium.spaces.Box(0, 255, content.observation_shape, np.uint8),
        gymnasium.spaces.Discrete(content.action_size),
        # By default images are packed as JPEG, which loses.
        jpeg_encoding=False,
    )
    about = about_content(content)
    storage.update_metadata(
        {
            "dataset_id": dataset_id(named),
            "minari_version": minari.__version__,
            "algorithm_name": "people" if content.conversion.controlled_by == "human" else "people and AI",
            "description": "People playing Atari, recorded with CrowdPlay. "
            f"Made by {about['made_by']} from commit {about['commit']} of a lake.",
            "crowdplay_lake": about,
        }
    )
    for exported in content.episodes():
        _add(storage, path / DATA, exported)


def _add(storage: Any, folder: Path, exported: Exported) -> None:
    from minari.data_collector import EpisodeBuffer

    final, recorded = exported.after()
    _make_packed(folder, exported)
    for block in exported.blocks():
        is_last = block.start + len(block) == len(exported)
        observations = block["observations"]
        infos = {name: block[name] for name in _INFOS if name in block.arrays}
        if block.start == 0:
            infos = {name: np.concatenate([before, infos[name]]) for name, before in _before(infos)}
        buffer = EpisodeBuffer(
            id=exported.index,
            observations=np.concatenate([observations, final[None]]) if is_last else observations,
            actions=block["actions"],
            rewards=block["rewards"],
            terminations=block["terminals"],
            truncations=block["timeouts"],
            infos=infos,
        )
        storage.update_episodes([buffer])
    about = {**about_episode(exported), "final_observation": "recorded" if recorded else "repeated"}
    # Minari counts the steps of the last block only.
    storage.update_episode_metadata([{"total_steps": len(exported), **_attributes(about)}], [exported.index])


def _before(infos: dict[str, npt.NDArray[Any]]) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Of each info the one of the reset, of which nothing is known but that it is before the first decision's step."""
    nothing = {"steps": infos["steps"][0] - 1, "lives": NO_LIVES}
    for name, values in infos.items():
        yield name, np.full((1, *values.shape[1:]), nothing.get(name, 0), values.dtype)


def _make_packed(folder: Path, exported: Exported) -> None:
    """Make the episode's observations, still empty, compressed: those that Minari makes are not. It appends to them."""
    import h5py

    shape = exported.content.observation_shape
    rows = max(1, min(CHUNK_BYTES // int(np.prod(shape)), len(exported) + 1))
    with h5py.File(folder / "main_data.hdf5", "a", track_order=True) as file:
        file.create_group(f"episode_{exported.index}").create_dataset(
            "observations", (0, *shape), np.uint8, maxshape=(None, *shape), chunks=(rows, *shape), compression="gzip"
        )


def _attributes(about: dict[str, Any]) -> dict[str, Any]:
    """Metadata of an episode as attributes: what HDF5 takes as it is, and `crowdplay_lake`, all of it as JSON."""
    told = {key: value for key, value in about.items() if isinstance(value, int) or _is_text(value)}
    # Minari's own `total_steps` says it.
    del told["decisions"]
    text = as_text(about)
    pieces = [text[at : at + LONGEST_ATTRIBUTE] for at in range(0, len(text), LONGEST_ATTRIBUTE)]
    return {
        **told,
        "crowdplay_lake": pieces[0],
        **{f"crowdplay_lake_{n}": more for n, more in enumerate(pieces[1:], 1)},
    }


def _is_text(value: object) -> bool:
    """Whether HDF5 takes it as a text; with a null in it, it does not."""
    return isinstance(value, str) and "\0" not in value


def episode_metadata(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of an episode, as the lake has it, of what Minari's ``storage.get_episode_metadata`` gives."""
    pieces = [attributes["crowdplay_lake"]]
    while (name := f"crowdplay_lake_{len(pieces)}") in attributes:
        pieces.append(attributes[name])
    about: dict[str, Any] = loads("".join(pieces))
    return about
