"""Datasets in other tools' formats, written as a stream: d3rlpy, Minari, NumPy, HDF5, Hugging Face.

What every one of them holds is in `content`; a module a format says how it lies there (docs/exports.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ...episode import Episode
from ...errors import InvalidArgument, UnknownFormat
from ...storage import AnyPath, as_path, files_below
from ...target import check_target, require_room, written_whole
from ..d3rlpy import library as d3rlpy_library
from ..transitions import Conversion
from . import d3rlpy, hdf5, huggingface, minari, npz
from .content import Content, Kind, Progress, plan

__all__ = ["FORMATS", "ExportSummary", "Format", "export", "written_whole"]


@dataclass(frozen=True)
class Format:
    """A way to write an export. ``write`` gets the content, where to write, and where that is going to lie."""

    write: Callable[[Content, Path, Path], None]
    # What a reader types.
    reading: Callable[[Path], str]
    is_folder: bool = False
    # Files by which a folder is known as an export of this format.
    marks: tuple[str, ...] = ()
    # Raises what must be said before any work: a missing extra, a name that will not do.
    check: Callable[[AnyPath], object] = lambda path: None
    # Whether it holds raw observations, too.
    takes_raw: bool = True


FORMATS: dict[str, Format] = {
    "d3rlpy": Format(
        lambda content, path, _: d3rlpy.write(content, path),
        lambda path: f"crowdplay_lake.offline.d3rlpy.load({str(path)!r})",
        check=lambda _: d3rlpy_library(),
        takes_raw=False,
    ),
    "minari": Format(
        minari.write,
        minari.reading,
        is_folder=True,
        marks=(f"{minari.DATA}/metadata.json",),
        check=minari.check,
    ),
    "npz": Format(lambda content, path, _: npz.write(content, path), lambda path: f"numpy.load({str(path)!r})"),
    "hdf5": Format(
        lambda content, path, _: hdf5.write(content, path),
        lambda path: f"h5py.File({str(path)!r})",
        check=lambda _: hdf5.library(),
    ),
    "huggingface": Format(
        lambda content, path, _: huggingface.write(content, path),
        lambda path: f"datasets.load_dataset({str(path)!r}, split='train')",
        is_folder=True,
        marks=(huggingface.CARD, f"{huggingface.STEPS}/train-00000.parquet"),
        check=lambda _: huggingface.library(),
    ),
}


@dataclass(frozen=True)
class ExportSummary:
    """What was written."""

    path: Path
    episodes: int  # of the trainer: an episode of the lake may be several, or none
    decisions: int
    transitions: int  # decisions whose outcome is known: all but those that a timeout follows
    bytes: int
    reading: str  # how it is read


def export(
    episodes: Iterable[Episode],
    target: Path | str,
    to: str,
    conversion: Conversion | None = None,
    observations: Kind = "processed",
    *,
    action_size: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ExportSummary:
    """Write ``episodes`` to ``target`` as ``to``, one of `FORMATS`: whole or not at all.

    ``observations``: "processed" is one 84 x 84 image a decision, uint8, which the trainer stacks; "raw" the RGB frame
    and the RAM. Episodes, rewards and decisions are those of `Conversion`; with raw observations and
    ``downsample_frequency=1`` that is every step. What is packed is packed without loss. ``progress`` is called with
    ("exported", decisions done, all of them).

    Memory does not grow with the export: the episodes are gone through twice, once for their numbers.

    >>> export(lake.episodes("game = 'breakout'"), "breakout.npz", "npz")                        # doctest: +SKIP
    ExportSummary(path=PosixPath('/data/breakout.npz'), episodes=12, decisions=8214, …)

    Raises UnknownFormat; InvalidArgument for a target that will not do, an empty selection, mixed action sets, and what
    the format cannot hold; UnknownAgent; NoTrajectory; MissingExtra; CannotWrite where the disk is full.
    """
    if to not in FORMATS:
        raise UnknownFormat(to, FORMATS)
    form = FORMATS[to]
    if observations == "raw" and not form.takes_raw:
        raise InvalidArgument(f"{to} takes processed observations; choose another format for raw ones")
    form.check(as_path(target))
    path = check_target(target, form.is_folder, overwrite, form.marks)
    content = plan(episodes, conversion or Conversion(), observations, action_size, progress)
    content.require_room = partial(require_room, path)
    with written_whole(path) as unfinished:
        form.write(content, unfinished, path)
    size = sum(size for _, size in files_below(path)) if form.is_folder else path.stat().st_size
    return ExportSummary(path, len(content.lengths), len(content), content.transitions, size, form.reading(path))
