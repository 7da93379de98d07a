"""Raw files and archives for tests, and how they are read back."""

from __future__ import annotations

import zipfile
from pathlib import Path

from crowdplay_ingest.sources import RawFile


def zipped(folder: Path, archive: Path, method: int = zipfile.ZIP_STORED, inside: str = "") -> Path:
    with zipfile.ZipFile(archive, "w", method) as file:
        for path in sorted(folder.iterdir()):
            file.write(path, inside + path.name)
    return archive


def put(path: Path, data: bytes = b"N.") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def read(raw: RawFile) -> tuple[bytes, str]:
    """What a worker sees of a file: its unpacked bytes, and its checksum."""
    with raw.open() as opened:
        data = opened.stream.read()
        return data, opened.sha256()


def archive_of(path: Path, *members: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in members:
            file.writestr(name, data)
    return path
