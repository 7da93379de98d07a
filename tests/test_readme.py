"""The documentation is true: README's commands and code run, and the page of tables is the schema's."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from crowdplay_lake.schema import as_markdown

ROOT = Path(__file__).parent.parent


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_the_tour_runs(tmp_path: Path) -> None:
    pytest.importorskip("d3rlpy")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for commands in _blocks("sh"):
        subprocess.run(["bash", "-euc", commands], cwd=tmp_path, env=environment, check=True, capture_output=True)
    # One program, as a reader would type it: later blocks stand on earlier ones.
    script = tmp_path / "tour.py"
    script.write_text("\n".join(_blocks("python")))
    ran = subprocess.run([sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_readme_shows_every_command() -> None:
    from crowdplay_lake.cli import commands, serving
    from crowdplay_lake.cli.app import app

    del commands, serving
    text = " ".join(path.read_text() for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
    for command in app.registered_commands:
        assert command.callback is not None
        assert f"crowdplay-lake {command.callback.__name__}" in text


def test_the_page_of_tables_is_up_to_date() -> None:
    assert (ROOT / "docs" / "tables.md").read_text() == as_markdown(), "run `make docs`"


def test_the_page_of_statistics_is_up_to_date() -> None:
    from crowdplay_lake.statistics.registry import as_markdown

    assert (ROOT / "docs" / "statistics_list.md").read_text() == as_markdown(), "run `make docs`"


def test_the_examples_of_statistics_run(small_lake: Path, tmp_path: Path) -> None:
    shutil.copytree(small_lake, tmp_path / "lake")
    page = (ROOT / "docs" / "statistics.md").read_text()
    script = tmp_path / "examples.py"
    blocks = re.findall(r"^ *```python\n(.*?)^ *```", page, re.MULTILINE | re.DOTALL)
    script.write_text("\n".join(map(textwrap.dedent, blocks)))
    ran = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
