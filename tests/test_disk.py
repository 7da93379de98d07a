"""Disks that are full or may not be written to: one clear line, the lake as at its last commit, and then it goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crowdplay_ingest.pipeline import IngestOptions, ingest
from crowdplay_lake import Lake
from crowdplay_lake.errors import CannotWrite
from crowdplay_lake.storage import cannot_write
from crowdplay_lake.verify import verify

pytest.importorskip("ale_py")
HERE = IngestOptions(workers=0)


def hashes(lake: Path) -> dict[str, str]:
    return dict(Lake(lake).sql("SELECT episode_id, content_hash FROM episodes WHERE n_steps IS NOT NULL").fetchall())


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB, in memory; `grow` makes it larger."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("a small disk can be mounted by root only")
    yield folder
    subprocess.run(["umount", folder], check=True)


def grow(disk: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)


def command(*arguments: str | Path, prefix: tuple[str, ...] = (), **environment: str) -> Any:
    line = [*prefix, sys.executable, "-m", "crowdplay_lake", *map(str, arguments)]
    line[len(prefix) + 1 : len(prefix) + 3] = ["-c", "from crowdplay_lake.cli import main; main()"]
    return subprocess.run(line, capture_output=True, text=True, check=False, env={**os.environ, **environment})


def test_a_disk_that_fills_up_at_every_size(disk: Path, small_raw: Path, small_lake: Path) -> None:
    """Wherever it is that there is no more room: nothing is lost, nothing is left, and with room it goes on."""
    lake = disk / "lake"
    said: list[str] = []
    for size in range(50, 1_500, 90):
        grow(disk, f"{size}k")
        try:
            ingest(small_raw, lake, IngestOptions(workers=0, task_seconds=0))
            break
        except CannotWrite as error:
            said.append(str(error))
        if (lake / "checksums").exists():
            report = verify(lake)
            assert report.findings == []
            assert all("no checksums yet" in note or "_delta_log" in note for note in report.notes), report.notes
            assert hashes(lake).items() <= hashes(small_lake).items()
    assert len(said) > 2
    assert all("no space is left on that disk; free some, then run this again" in line for line in said)
    assert not any("\n" in line for line in said)
    assert hashes(lake) == hashes(small_lake)
    report = verify(lake)
    assert (report.findings, report.notes) == ([], [])


def test_the_command_says_it_in_a_line(disk: Path, small_raw: Path, small_lake: Path) -> None:
    lake = disk / "lake"
    grow(disk, "120k")
    ran = command("ingest", small_raw, lake, "--workers", "2")
    assert ran.returncode == 1
    (said,) = (line for line in ran.stderr.splitlines() if "error" in line)
    assert said.startswith(f"crowdplay-lake: error: {lake}")
    assert "no space is left" in said
    assert "Traceback" not in ran.stderr
    grow(disk, "20m")
    assert command("ingest", small_raw, lake, "--workers", "2").returncode == 3
    assert hashes(lake) == hashes(small_lake)


def test_where_temporary_files_lie(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(disk))
    (disk / "full").write_bytes(bytes(60 << 10))
    error = OSError(28, "No space left on device", str(disk / "part.parquet"))
    told = cannot_write(tmp_path / "lake", error)
    assert "TMPDIR" in str(told)
    assert str(disk) in str(told)


@pytest.fixture
def nobody() -> tuple[str, ...]:
    """How a command is run as somebody who may do nothing."""
    prefix = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("only root can become somebody else")
    return prefix


def opened(folder: Path) -> None:
    """Let anybody read it, and what leads to it."""
    for above in (folder, *folder.parents):
        if os.stat(above).st_uid == os.geteuid() and above != Path("/"):
            above.chmod(above.stat().st_mode | 0o055)


def test_a_lake_that_may_not_be_written_to(
    small_raw: Path, small_lake: Path, tmp_path: Path, nobody: tuple[str, ...]
) -> None:
    lake = Path(shutil.copytree(small_lake, tmp_path / "lake"))
    raw = Path(shutil.copytree(small_raw, tmp_path / "raw"))
    secret = min(raw.glob("?" * 32 + ".pickle"))
    secret.chmod(0)
    opened(lake)
    opened(raw)
    ran = command("ingest", raw, lake, prefix=nobody, HOME=str(tmp_path))
    assert ran.returncode == 1
    assert f"crowdplay-lake: error: {lake}" in ran.stderr
    assert "may not be written to (Permission denied)" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert verify(lake).proven
    # A raw file that may not be read is rejected, the others go in.
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", 65534, 65534)
    ran = command("ingest", raw, tmp_path / "theirs" / "lake", "--workers", "0", prefix=nobody, HOME=str(tmp_path))
    assert ran.returncode == 3, ran.stderr
    assert f"{secret.name}: cannot be read: Permission denied" in ran.stdout
    assert len(hashes(tmp_path / "theirs" / "lake")) == len(hashes(small_lake)) - 1
