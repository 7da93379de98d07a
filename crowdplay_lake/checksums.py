"""The checksums of a lake: for every commit the SHA-256 of each file it wrote, parts and logs alike.

They lie in `checksums/commit-000000000012.sha256`, in the format of `sha256sum`, by paths relative to the lake:

    cd lake && sha256sum --check --quiet checksums/*.sha256

A part's sum is taken from the bytes as they are written, not from what the disk gives back.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping

from .errors import InvalidLake
from .layout import LakePaths, Part
from .storage import AnyPath, files_below, make_folder

__all__ = ["LOG", "file_sha256", "logs_between", "read_checksums", "recorded_commits", "write_checksums"]

LOG = "_delta_log"
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")
_CHUNK = 1 << 22


def file_sha256(path: AnyPath) -> str:
    """SHA-256 (hex) of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def logs_between(paths: LakePaths, before: Mapping[str, int], after: Mapping[str, int]) -> list[str]:
    """The log files, relative to the lake, of table versions beyond those of ``before``, up to those of ``after``.

    Checkpoints among them, and the note of the last one, which is written anew each time.
    """
    found = []
    for table, version in after.items():
        first = before.get(table, -1) + 1
        if first > version:
            continue
        for name, _ in files_below(paths.table(table) / LOG):
            number = name.partition(".")[0]
            # A checkpoint of the version before may have come with the commit that followed it.
            is_new = number.isdigit() and first - ("checkpoint" in name) <= int(number) <= version
            if is_new or name == "_last_checkpoint":
                found.append(f"{table}/{LOG}/{name}")
    return found


def write_checksums(paths: LakePaths, number: int, parts: Iterable[Part], files: Iterable[str]) -> None:
    """Record what commit ``number`` wrote: its parts, with the sums they have, and other ``files``, read for it."""
    sums = {
        f"{part.table}/{part.path}": part.sha256 or file_sha256(paths.part(part.table, part.path)) for part in parts
    }
    sums |= {file: file_sha256(paths.root / file) for file in files}
    make_folder(paths.checksums)
    paths.checksum_file(number).write_bytes("".join(f"{sums[file]}  {file}\n" for file in sorted(sums)).encode())


def recorded_commits(paths: LakePaths) -> list[int]:
    """The commits whose files have checksums."""
    names = (name for name, _ in files_below(paths.checksums))
    return sorted(int(match[1]) for name in names if (match := re.fullmatch(r"commit-(\d+)\.sha256", name)))


def read_checksums(paths: LakePaths) -> dict[str, str]:
    """Every file of the lake that has a checksum, relative to the lake, and the sum: the last one that was recorded.

    Raises InvalidLake for a list that is not one.
    """
    sums: dict[str, str] = {}
    for number in recorded_commits(paths):
        file = paths.checksum_file(number)
        for line in file.read_bytes().decode(errors="replace").splitlines():
            match = _LINE.fullmatch(line)
            if match is None:
                raise InvalidLake(f"{file}: is damaged: {line[:80]!r} is no checksum; restore the file")
            sums[match[2]] = match[1]
    return sums
