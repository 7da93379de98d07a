"""The checksums of a lake: for every commit the SHA-256 of each file it wrote, parts and logs alike.

They lie in `checksums/commit-000000000012.sha256`, in the format of `sha256sum`, by paths relative to the lake:

    cd lake && sha256sum --check --quiet checksums/*.sha256

A part's sum is taken from the bytes as they are written, not from what the disk gives back. The last line of a list is
a comment with the sum of the lines above it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping

from .errors import InvalidLake
from .layout import LakePaths, Part
from .storage import AnyPath, files_below, make_folder, write_file

__all__ = [
    "LAST_CHECKPOINT",
    "LOG",
    "file_sha256",
    "logs_between",
    "read_checksums",
    "read_list",
    "recorded_commits",
    "write_checksums",
    "write_list",
]

LOG = "_delta_log"
# Delta's note of its newest checkpoint. It is written anew each time and proves itself: see `verify`.
LAST_CHECKPOINT = "_last_checkpoint"
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

    Checkpoints are among them.
    """
    found = []
    for table, version in after.items():
        first = before.get(table, -1) + 1
        if first > version:
            continue
        for name, _ in files_below(paths.table(table) / LOG):
            number, _, kind = name.partition(".")
            # A checkpoint of the version before may have come with the commit that followed it.
            is_log = number.isdigit() and kind in ("json", "checkpoint.parquet")
            if is_log and first - (kind != "json") <= int(number) <= version:
                found.append(f"{table}/{LOG}/{name}")
    return found


def write_checksums(paths: LakePaths, number: int, parts: Iterable[Part], files: Iterable[str]) -> None:
    """Record what commit ``number`` wrote: its parts, with the sums they have, and other ``files``, read for it."""
    sums = {
        f"{part.table}/{part.path}": part.sha256 or file_sha256(paths.part(part.table, part.path)) for part in parts
    }
    sums |= {file: file_sha256(paths.root / file) for file in files}
    make_folder(paths.checksums)
    write_list(paths.checksum_file(number), sums)


def write_list(file: AnyPath, sums: Mapping[str, str]) -> None:
    """Write a list of checksums: path relative to the lake → sum."""
    lines = "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)).encode()
    write_file(file, lines + _seal(lines))


def _seal(lines: bytes) -> bytes:
    return f"# {hashlib.sha256(lines).hexdigest()}\n".encode()


def read_list(file: AnyPath) -> dict[str, str]:
    """The sums of one list. Raises InvalidLake for a list that is not as it was written."""
    content = file.read_bytes()
    end = content.rfind(b"\n", 0, -1) + 1
    lines = content[:end]
    found = [_LINE.fullmatch(line) for line in lines.decode(errors="replace").splitlines()]
    sums = {match[2]: match[1] for match in found if match is not None}
    if content[end:] != _seal(lines) or len(sums) != len(found):
        raise InvalidLake(f"{file}: the list of checksums is damaged; restore the file")
    return sums


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
        sums |= read_list(paths.checksum_file(number))
    return sums
