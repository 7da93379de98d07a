"""The power goes: what the disk was told to keep is a whole lake at every moment, and the next run goes on from it."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from test_commit import is_whole
from test_crash import equal_content, proven

from crowdplay_ingest.pipeline import IngestOptions, ingest
from crowdplay_lake import Lake
from crowdplay_lake.errors import InvalidLake

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="what is synced is told by /proc")
HERE = IngestOptions(workers=0)


@dataclass
class Disk:
    """What a disk keeps in the worst case: of files and folders what they were when they were synced, else nothing."""

    files: dict[int, bytes] = field(default_factory=dict)  # by inode
    folders: dict[Path, dict[str, int]] = field(default_factory=dict)  # names → inodes

    def keep(self, path: Path) -> None:
        if path.is_dir():
            self.folders[path] = {entry.name: entry.inode() for entry in os.scandir(path)}
        else:
            self.files[path.stat().st_ino] = path.read_bytes()

    def copy(self) -> Disk:
        return Disk(dict(self.files), {path: dict(names) for path, names in self.folders.items()})

    def lay_out(self, folder: Path, target: Path) -> Path:
        """What is left of ``folder``."""
        target.mkdir()
        for name, inode in self.folders.get(folder, {}).items():
            if folder / name in self.folders or (folder / name).is_dir():
                self.lay_out(folder / name, target / name)
            else:
                (target / name).write_bytes(self.files.get(inode, b""))
        return target


@contextmanager
def watched(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Disk]]:
    """Gives what the disk keeps, after each time that it was told to keep something."""
    states: list[Disk] = []
    lock, real = threading.Lock(), os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        with lock:
            disk.keep(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
            states.append(disk.copy())

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        yield states


def test_at_every_moment_the_disk_has_a_whole_lake(
    small_raw: Path, small_lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, lake = tmp_path / "raw", tmp_path / "lake"
    raw.mkdir()
    shutil.copy(min(small_raw.glob("?" * 32 + ".pickle")), raw)
    ingest(raw, lake, HERE)
    shutil.copytree(small_raw, raw, dirs_exist_ok=True)
    disk = Disk()
    for path in (lake, *lake.rglob("*")):
        disk.keep(path)
    with watched(disk, monkeypatch) as states:
        last = ingest(raw, lake, HERE).commit
    commits = []
    for number, state in enumerate(states):
        left = state.lay_out(lake, tmp_path / f"left-{number}")
        assert is_whole(Lake(left))
        commits.append(Lake(left).commit)
        shutil.rmtree(left)
    # What is said to be committed is so.
    assert commits == sorted(commits)
    assert (commits[0], commits[-1]) == (1, last)
    for state in states[:: len(states) // 3]:
        left = state.lay_out(lake, tmp_path / "left")
        ingest(raw, left, HERE)
        assert equal_content(left) == equal_content(small_lake)
        proven(left, raw)
        shutil.rmtree(left)


def test_a_lake_that_is_being_made_can_be_made_again(
    small_raw: Path, small_lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = tmp_path / "lake"
    with watched(Disk(), monkeypatch) as states:
        ingest(small_raw, lake, IngestOptions(metadata_only=True))
    for state in states[:: len(states) // 3]:
        left = state.lay_out(lake, tmp_path / "left")
        ingest(small_raw, left, HERE)
        assert equal_content(left) == equal_content(small_lake)
        proven(left, small_raw)
        shutil.rmtree(left)


@pytest.mark.parametrize("torn", [b"", b'{"commitInfo":{"timest'])
def test_a_log_entry_that_a_power_cut_tore_is_not_there(
    small_raw: Path, small_lake: Path, tmp_path: Path, torn: bytes
) -> None:
    """The moment between a log entry's name and its bytes, which Delta writes."""
    lake = Path(shutil.copytree(small_lake, tmp_path / "lake"))
    for table in ("users", "episodes", *(["commits"] if torn == b"" else [])):
        last = max((lake / table / "_delta_log").glob("*.json"))
        last.with_name(f"{int(last.stem) + 1:020d}.json").write_bytes(torn)
    assert is_whole(Lake(lake))
    assert ingest(small_raw, lake, IngestOptions(workers=0, retry_rejected=True, game="pong")).commits <= 1
    (another := tmp_path / "raw").mkdir()
    shutil.copy(min(small_raw.glob("?" * 32 + ".pickle")), another / "another.pickle")
    assert ingest(another, lake, HERE).episodes == 1
    proven(lake, another)


def test_a_lake_without_its_table_of_commits_is_left_alone(small_raw: Path, small_lake: Path, tmp_path: Path) -> None:
    lake = Path(shutil.copytree(small_lake, tmp_path / "lake"))
    shutil.rmtree(lake / "commits")
    before = sorted(lake.rglob("*.parquet"))
    with pytest.raises(InvalidLake, match="its table of commits is gone; restore"):
        ingest(small_raw, lake, HERE)
    assert sorted(lake.rglob("*.parquet")) == before
