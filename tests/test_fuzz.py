"""Recordings that are damaged or forged at random: no crash, no hang, no memory beyond the limits, nothing is run.

Real recordings are changed a little: bits, bytes, opcodes, spliced pieces of other pickles; in any protocol, packed or
not; and the metadata likewise. It happens in processes of their own, which watch over what Python is about to do.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import read_raw

pytest.importorskip("ale_py")

HERE = Path(__file__).parent
# Cases of each kind; the long run is bounded by time.
CASES = {"trajectories": 250, "databases": 60, "values": 200}
SOAK_SECONDS = float(os.environ.get("CROWDPLAY_LAKE_FUZZ_SECONDS", "300"))


@pytest.fixture(scope="module")
def seeds(small_raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short real trajectories in every protocol, and a real dataset.sqlite. Not to be changed."""
    folder = tmp_path_factory.mktemp("seeds")
    for path in sorted(small_raw.glob("?" * 32 + ".pickle"))[:3]:
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            steps = read_raw(small_raw, path.stem)[:3]
            (folder / f"{path.stem}-{protocol}.pickle").write_bytes(pickle.dumps(steps, protocol))
    (folder / "dataset.sqlite").write_bytes((small_raw / "dataset.sqlite").read_bytes())
    return folder


def fuzz(seeds: Path, work: Path, kind: str, seed: int, cases: int, seconds: float) -> dict[str, Any]:
    """Run cases in a process of its own, which ends when one takes too long."""
    command = [sys.executable, "-X", "faulthandler", str(HERE / "fuzzing.py"), str(seeds), str(work), kind]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    command += [str(seed), str(cases), str(seconds)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=work, env=environment)
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    report: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    print(report)
    return report


@pytest.mark.parametrize("kind", CASES)
def test_what_is_damaged_at_random_is_taken_or_refused(seeds: Path, tmp_path: Path, kind: str) -> None:
    report = fuzz(seeds, tmp_path, kind, 1, CASES[kind], 60)
    assert report["cases"] == CASES[kind]
    assert report["refused"] > 0
    assert report["slowest"] < 5
    assert report["memory"] < 600 * 2**20
    # What lies beside the lake of the run, had something been executed.
    assert {path.name for path in tmp_path.iterdir()} <= {"lake", "case"}


@pytest.mark.soak
@pytest.mark.parametrize("kind", CASES)
def test_for_minutes(seeds: Path, tmp_path: Path, kind: str) -> None:
    report = fuzz(seeds, tmp_path, kind, 1_000, 10**9, SOAK_SECONDS / len(CASES))
    assert report["slowest"] < 10
    assert report["memory"] < 900 * 2**20
