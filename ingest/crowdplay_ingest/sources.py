"""Where raw episodes come from: a folder, a zip archive, a single file; on this machine, on object storage or on HTTP.

A source is listed once; it gives `RawFile`s, which any process on any machine that reaches the place can open, and the
metadata files. To read another kind of source, write a function that lists it (`source_folder`, `source_zip` and
`source_remote` are such) and name it in `open_source`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from crowdplay_lake.errors import InvalidArgument, UnknownPath
from crowdplay_lake.remote_faults import shown

from .raw_files import MetadataFile, OpenRawFile, RawFile
from .source_folder import list_folder, stat_file
from .source_remote import RangedFile, checked_uri, list_remote, stat_remote
from .source_zip import list_zip
from .stored import (
    METADATA_NAME,
    SUFFIXES,
    UNFINISHED,
    Listing,
    StoredFile,
    is_archive,
    local_path,
    split_name,
)

__all__ = [
    "METADATA_NAME",
    "MetadataFile",
    "OpenRawFile",
    "RawFile",
    "Source",
    "open_metadata",
    "open_source",
    "place_of",
    "split_name",
    "unknown_path",
]


class Source:
    """The raw episodes and the metadata of a listing."""

    def __init__(self, listing: Listing) -> None:
        self._files = {file.name: file for file in listing.files}
        self._episodes, self.duplicates = _choose(listing.files)
        """``duplicates``: (the file that is taken, another of that episode which lies elsewhere)."""
        self.unreadable: Sequence[tuple[str, str]] = tuple(listing.unreadable)
        """Folders and files that could not be looked at, each with the reason."""

    def episodes(self) -> list[RawFile]:
        """Every episode once, ordered by id."""
        return self._episodes

    def metadata(self) -> list[MetadataFile]:
        """The metadata files, in the order in which they apply."""
        return [
            MetadataFile(self._files[name], _kept_back(name, self._files.get))
            for name in sorted(self._files, key=_parts)
            if _parts(name)[-1] == METADATA_NAME
        ]

    @property
    def archives(self) -> list[str]:
        """Zip archives inside the source: they are not looked into."""
        return sorted(name for name in self._files if is_archive(name))


def open_source(raw: str | os.PathLike[str]) -> Source:
    """The source at ``raw``, listed: a path, or an address that begins with s3://, http:// or https://.

    Raises UnknownPath for what is not there (a path names the nearest that are), InvalidArgument for what is no source,
    MissingExtra, OSError.
    """
    path = _path(raw)
    return _remote_source(checked_uri(str(raw))) if path is None else _local_source(path)


def open_metadata(location: str | os.PathLike[str]) -> MetadataFile:
    """A dataset.sqlite of any name, by its path or address. Raises UnknownPath, InvalidArgument, OSError."""
    path = _path(location)
    if path is not None:
        if not path.exists():
            raise unknown_path(path)
        if not path.is_file():
            raise InvalidArgument(f"{path}: {'a folder; name the file in it' if path.is_dir() else 'no plain file'}")
        return MetadataFile(stat_file(path, path.name), _kept_back(path.name, _beside(path)))
    uri = checked_uri(str(location))
    stored = _existing(uri)
    if stored is None:
        raise InvalidArgument(f"{shown(uri)}: a folder; name the file in it")
    return MetadataFile(stored)


def place_of(raw: str) -> str:
    """Where a source lies, as `rejected` says it: without what an address may hold of secrets."""
    path = local_path(raw)
    return shown(raw).rstrip("/") if path is None else str(path.absolute())


def unknown_path(path: Path) -> UnknownPath:
    """The error for a path that is not there: names what is, where it stops being right."""
    parent = next(p for p in (path.absolute(), *path.absolute().parents) if p.is_dir())
    # Compared by name: whole paths are all alike.
    name = path.absolute().relative_to(parent).parts[0]
    return UnknownPath(name, [entry.name for entry in parent.iterdir()], str(parent))


def _path(location: str | os.PathLike[str]) -> Path | None:
    """The path of something on this machine, None for an address."""
    if isinstance(location, Path) and location.parts and location.parts[0] in ("s3:", "http:", "https:"):
        raise InvalidArgument(f"{location.parts[0]}//… as a Path: it drops a slash of an address; give that as text")
    return local_path(str(location))


def _local_source(path: Path) -> Source:
    if path.is_dir():
        return Source(list_folder(path))
    if not path.exists():
        raise unknown_path(path)
    if not path.is_file():
        raise InvalidArgument(f"{path}: neither a file nor a folder")
    file = stat_file(path, path.name)
    if is_archive(path.name):
        with io.FileIO(path) as bytes_of:
            return _zip_source(file, bytes_of)
    if split_name(path.name) is None:
        raise _no_source(str(path))
    beside = [_beside(path)(METADATA_NAME + suffix) for suffix in ("", *UNFINISHED)]
    return Source(Listing([file, *(found for found in beside if found is not None)]))


def _beside(path: Path) -> Callable[[str], StoredFile | None]:
    """Looks for a file of a given name beside ``path``."""

    def look(name: str) -> StoredFile | None:
        beside = path.with_name(name)
        return stat_file(beside, name) if beside.is_file() else None

    return look


def _remote_source(uri: str) -> Source:
    name = shown(uri).rpartition("/")[2]
    is_file = is_archive(name) or split_name(name) is not None
    # A server on HTTP has no folders, only pages: what ends like a file is one.
    if uri.endswith("/") or (uri.startswith("http") and not is_file):
        return Source(_listed(uri))
    file = _existing(uri)
    if file is None:
        return Source(_listed(uri))
    if is_archive(name):
        with RangedFile(uri, 0, file.size) as bytes_of:
            return _zip_source(file, bytes_of)
    if not is_file:
        raise _no_source(shown(uri))
    return Source(Listing([file, *_metadata_beside(uri)]))


def _existing(uri: str) -> StoredFile | None:
    """The remote file, or None for a folder."""
    try:
        return stat_remote(uri)
    except FileNotFoundError as error:
        raise UnknownPath(error.filename) from None


def _listed(uri: str) -> Listing:
    try:
        return list_remote(uri)
    except FileNotFoundError as error:
        raise UnknownPath(error.filename) from None


def _metadata_beside(uri: str) -> list[StoredFile]:
    if "?" in uri:
        return []  # signed for this one file
    try:
        found = stat_remote(f"{uri.rpartition('/')[0]}/{METADATA_NAME}")
    except (FileNotFoundError, PermissionError):
        return []
    return [] if found is None else [found]


def _zip_source(archive: StoredFile, bytes_of: io.RawIOBase) -> Source:
    source = Source(list_zip(archive, bytes_of))
    if source.archives and not source.episodes():
        names = ", ".join(source.archives[:3])
        raise InvalidArgument(f"{shown(archive.location)}: an archive of archives ({names}); unpack it, and name those")
    return source


def _no_source(what: str) -> InvalidArgument:
    return InvalidArgument(f"{what}: not a raw episode; those end in {', '.join(SUFFIXES)}, an archive of them in .zip")


def _kept_back(name: str, look: Callable[[str], StoredFile | None]) -> str | None:
    """The name of the file beside a database that holds back some of it, if there is one with anything in it."""
    beside = [look(name + suffix) for suffix in UNFINISHED]
    return next((found.name for found in beside if found is not None and found.size), None)


def _parts(name: str) -> list[str]:
    return name.split("/")


def _choose(files: Iterable[StoredFile]) -> tuple[list[RawFile], list[tuple[str, str]]]:
    """(each episode once, what else there is of it in other folders).

    Taken is the form that CrowdPlay prefers, and of several the first by path.
    """
    forms: dict[str, list[RawFile]] = {}
    for file in files:
        split = split_name(_parts(file.name)[-1])
        if split is not None:
            packed = SUFFIXES[split[1]]
            raw = RawFile(split[0], file.name, file.location, packed, file.size, file.stamp, file.member)
            forms.setdefault(raw.episode_id, []).append(raw)
    order = list(SUFFIXES.values())
    chosen: list[RawFile] = []
    duplicates: list[tuple[str, str]] = []
    for _, found in sorted(forms.items()):
        found.sort(key=lambda raw: (order.index(raw.compression), _parts(raw.name)))
        kept = found[0]
        chosen.append(kept)
        # Of each other folder, the form that would be taken there.
        elsewhere = {tuple(_parts(other.name)[:-1]): other for other in reversed(found)}
        del elsewhere[tuple(_parts(kept.name)[:-1])]
        duplicates += [(kept.name, other.name) for other in elsewhere.values() if not _is_same(kept, other)]
    return chosen, sorted(duplicates)


def _is_same(one: RawFile, other: RawFile) -> bool:
    """Whether two files are known to be equal without being read: of dates that says nothing."""
    return one.stamp.startswith(("crc:", "etag:")) and (one.size, one.stamp) == (other.size, other.stamp)
