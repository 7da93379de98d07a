"""Where datasets lie by name: the lake home."""

from __future__ import annotations

import os
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from platformdirs import user_data_path

from ..errors import InvalidLake, UnknownDataset
from ..layout import LakePaths
from ..storage import AnyPath, as_path

if TYPE_CHECKING:
    from upath import UPath

__all__ = ["HOME_VARIABLE", "find_lake", "known_lakes", "lake_home"]

HOME_VARIABLE = "CROWDPLAY_LAKE_HOME"


def lake_home() -> Path:
    """The folder whose lakes are found by name: $CROWDPLAY_LAKE_HOME, or else the user's data folder."""
    explicit = os.environ.get(HOME_VARIABLE)
    return Path(explicit).expanduser() if explicit else user_data_path("crowdplay-lake", appauthor=False)


def known_lakes() -> Iterator[Path]:
    """The lakes in the lake home, by name."""
    home = lake_home()
    if home.is_dir():
        yield from (folder for folder in sorted(home.iterdir()) if _is_lake(folder))


def find_lake(dataset: str | PathLike[str] | UPath) -> AnyPath:
    """The lake that is meant by a name, a path or an address.

    A name is looked for in the lake home, then in the current folder. Raises UnknownDataset with the names that there
    are, and where they were looked for; InvalidLake for a path without a lake.
    """
    path = as_path(dataset)
    is_name = isinstance(dataset, str) and isinstance(path, Path) and path.name == dataset
    if not is_name:
        # Whatever is wrong with it is told by who opens it.
        return path
    for folder in (lake_home(), Path.cwd()):
        if _is_lake(folder / path.name):
            return folder / path.name
    raise UnknownDataset(str(dataset), [lake.name for lake in known_lakes()], lake_home(), Path.cwd(), HOME_VARIABLE)


def _is_lake(folder: Path) -> bool:
    try:
        return LakePaths(folder).commits.is_dir()
    except (OSError, InvalidLake):
        return False
