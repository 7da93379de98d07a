"""The command `crowdplay-lake`, as a shell calls it."""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from crowdplay_ingest.pipeline import IngestSummary
from crowdplay_lake import Lake
from crowdplay_lake.cli import exporting, main
from crowdplay_lake.cli.app import whole_app
from crowdplay_lake.errors import InvalidArgument
from crowdplay_lake.schema import TABLES

APP = whole_app()
COMMANDS = [
    *("record", "ingest", "info", "schema", "sql", "export", "annotate", "statistics"),
    *("verify", "log", "compact", "vacuum", "remove"),
    *("train", "rollout", "serve"),
    *("show", "video", "plot"),
]
# Commands that have commands.
GROUPS = {"cache": ["list", "remove"]}
MAIN = "from crowdplay_lake.cli import main; main()"


def shell(*arguments: str | Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, as the installed script runs it."""
    command = [sys.executable, "-c", MAIN, *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
    return subprocess.run(command, input=stdin, capture_output=True, text=True, env=environment, check=False)


def invoke(*arguments: str | Path) -> Any:
    """The command in this process: for what needs no process of its own."""
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(APP, list(map(str, arguments)))


def run(*arguments: str | Path) -> str:
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return str(result.stdout)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few raw episodes, recorded by the command. Not to be changed."""
    pytest.importorskip("ale_py")
    folder = tmp_path_factory.mktemp("recorded") / "raw"
    text = run("record", folder, "--seconds", "1", "--games", "breakout, qbert", "--compression", "none")
    assert text.startswith("recorded 5 episodes, ")
    return folder


# Help


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_ends_with_an_example(command: str) -> None:
    *_, last = run(command, "--help").strip().splitlines()
    assert last.strip().startswith(f"Example: crowdplay-lake {command} ")


def test_the_commands_are_those() -> None:
    text = run("--help")
    assert text.strip().splitlines()[-1].strip().startswith("Example: crowdplay-lake ")
    assert sorted(command.callback.__name__ for command in APP.registered_commands if command.callback) == sorted(
        COMMANDS
    )
    assert {group.name for group in APP.registered_groups} == set(GROUPS)
    for command in (*COMMANDS, *GROUPS):
        assert command in text


@pytest.mark.parametrize("group", GROUPS)
def test_every_help_of_a_group_ends_with_an_example(group: str) -> None:
    for command in ([group], *([group, name] for name in GROUPS[group])):
        *_, last = run(*command, "--help").strip().splitlines()
        assert last.strip().startswith(f"Example: crowdplay-lake {group} ")


def test_schema_shows_what_can_be_asked(ingested: tuple[Path, Any]) -> None:
    path = ingested[0]
    text = run("schema", path, "episode_agents")
    assert "keyword 'Score' of the agent on its episode" in text
    assert "environments:" not in text
    tables = {table["table"]: table["columns"] for table in json.loads(run("schema", path, "--output", "json"))}
    assert {"steps", "episode_agents", "environment_agents", "episode_steps", "keyword_data"} <= set(tables)
    assert len(tables["steps"]) == 141
    # 128 columns that say the same are one line for a person.
    assert run("schema", path, "steps").count("ram_") == 3
    wrong = invoke("schema", path, "episode_agent")
    assert wrong.exit_code != 0
    assert "did you mean 'episode_agents'?" in str(wrong.exception)


def test_without_a_command_there_is_help() -> None:
    result = shell()
    assert result.returncode != 0
    assert "Usage" in result.stdout + result.stderr


def test_the_version() -> None:
    from importlib.metadata import version

    assert run("--version").strip() == version("crowdplay-lake")


# record, ingest, info


def test_record_writes_what_ingest_reads(recorded: Path, tmp_path: Path) -> None:
    assert len(list(recorded.glob("*.pickle"))) == 5
    result = shell("ingest", recorded, tmp_path / "lake")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("ingested 5 episodes, ")
    assert "rejected: 0" in result.stdout
    again = shell("ingest", recorded, tmp_path / "lake")
    assert again.returncode == 0
    assert "ingested 0 episodes" in again.stdout
    assert "already there: 5 episodes" in again.stdout
    text = run("info", tmp_path / "lake")
    assert "breakout" in text
    for table in TABLES:
        assert table in text


def test_record_tells_as_json(tmp_path: Path) -> None:
    pytest.importorskip("ale_py")
    told = json.loads(
        run("record", tmp_path / "raw", "--seconds", "1", "--games", "beam_rider", "--no-metadata", "--output", "json")
    )
    assert told["episodes"] == 1
    assert told["files"] == [str(path) for path in (tmp_path / "raw").iterdir()]
    assert not (tmp_path / "raw" / "dataset.sqlite").exists()


def test_a_rejected_file_is_named_and_the_status_is_3(recorded: Path, tmp_path: Path) -> None:
    raw = Path(shutil.copytree(recorded, tmp_path / "raw"))
    (raw / "bad.pickle").write_bytes(pickle.dumps([{"no": "frame"}]))
    result = shell("ingest", raw, tmp_path / "lake")
    assert result.returncode == 3
    assert "ingested 5 episodes" in result.stdout
    assert "rejected: 1" in result.stdout
    assert "bad.pickle at step 0: no prev_obs" in result.stdout
    told = invoke("ingest", raw, tmp_path / "lake", "--output", "json")
    assert told.exit_code == 3
    summary = json.loads(told.stdout)
    assert (summary["episodes"], summary["unchanged"]) == (0, 5)
    (rejected,) = summary["rejected"]
    assert (rejected["name"], rejected["step"]) == ("bad.pickle", 0)


def test_ingest_tells_as_json(recorded: Path, tmp_path: Path) -> None:
    told = json.loads(run("ingest", recorded, tmp_path / "lake", "--output", "json"))
    assert told["episodes"] == 5
    assert told["steps"] == sum(map(len, Lake(tmp_path / "lake").episodes()))
    assert told["rejected"] == []
    assert set(IngestSummary.__dataclass_fields__) <= set(told)


def test_ingest_takes_metadata_from_elsewhere(recorded: Path, tmp_path: Path) -> None:
    raw = Path(shutil.copytree(recorded, tmp_path / "raw"))
    (raw / "dataset.sqlite").rename(tmp_path / "elsewhere.sqlite")
    assert "without metadata: 5 episodes" in run("ingest", raw, tmp_path / "without")
    text = run("ingest", raw, tmp_path / "with", "--metadata", tmp_path / "elsewhere.sqlite")
    assert "without metadata" not in text


def test_info_as_json_counts_what_is_there(lake: Lake) -> None:
    told = json.loads(run("info", lake.path, "--output", "json"))
    assert told["commit"] == lake.commit
    assert sum(game["episodes"] for game in told["games"]) == len(lake.episodes())
    assert sum(game["steps"] for game in told["games"]) == sum(map(len, lake.episodes()))
    rows = {table["table"]: table["rows"] for table in told["tables"]}
    assert rows == {name: lake.scan(name).select(pl.len()).collect().item() for name in TABLES}


def test_info_counts_every_byte_of_the_lake_once(lake: Lake) -> None:
    files = [path for path in Path(lake.path).rglob("*") if path.is_file()]
    told = json.loads(run("info", lake.path, "--bytes", "--output", "json"))
    assert told["bytes"] == sum(path.stat().st_size for path in files)
    assert told["bytes"] == sum(row["compressed"] for row in told["columns"])
    assert told["steps"] == sum(map(len, lake.episodes()))
    of_column = {(row["table"], row["column"]): row for row in told["columns"]}
    assert {column for table, column in of_column if table == "frames"} == {
        *("(footers)", "episode_id", "agent_id", "step", "keyframe", "gaps", "colors")
    }
    assert of_column["frames", "gaps"]["uncompressed"] > 0
    assert of_column["all", "(transaction logs)"]["compressed"] == sum(
        path.stat().st_size for path in files if "_delta_log" in path.parts
    )
    text = run("info", lake.path, "--bytes")
    assert "ram_00 to ram_7f" in text
    assert "ram_01" not in text


# sql


QUERY = "SELECT game, count(*) AS episodes, max(score) AS best FROM episode_agents GROUP BY game ORDER BY game"


@pytest.fixture(scope="module")
def expected(lake: Lake) -> list[tuple[Any, ...]]:
    return lake.sql(QUERY).fetchall()


def test_sql_as_text(lake: Lake, expected: list[tuple[Any, ...]]) -> None:
    text = run("sql", lake.path, QUERY)
    for game, *_ in expected:
        assert game in text
    assert f"{len(expected)} rows" in text


def test_sql_as_json(lake: Lake, expected: list[tuple[Any, ...]]) -> None:
    assert [tuple(row.values()) for row in json.loads(run("sql", lake.path, QUERY, "--output", "json"))] == expected


def test_sql_as_csv(lake: Lake, expected: list[tuple[Any, ...]]) -> None:
    header, *rows = csv.reader(io.StringIO(run("sql", lake.path, QUERY, "--output", "csv")))
    assert header == ["game", "episodes", "best"]
    assert rows == [[str(value) for value in row] for row in expected]


def test_sql_as_parquet_through_a_pipe(lake: Lake, expected: list[tuple[Any, ...]]) -> None:
    command = [sys.executable, "-c", MAIN, "sql", str(lake.path), QUERY, "--output", "parquet"]
    piped = subprocess.run(command, capture_output=True, check=True).stdout
    assert pl.read_parquet(piped).rows() == expected


VALUES = """SELECT TIMESTAMP '2021-01-02 03:04:05' AS t, 'x'::BLOB AS b, [1, 2] AS l, {'a': 1} AS s, NULL AS n,
            '[bold]ü[/bold]' AS m, 'NaN'::DOUBLE AS nan, INTERVAL 1 DAY AS i, DATE '2021-01-02' AS d, true AS y"""


def test_odd_values_as_text_and_valid_json(lake: Lake) -> None:
    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is no JSON")

    assert "[bold]ü[/bold]" in run("sql", lake.path, VALUES)
    (row,) = json.loads(run("sql", lake.path, VALUES, "--output", "json"), parse_constant=refuse)
    assert (row["t"], row["l"], row["s"], row["n"], row["m"]) == (
        "2021-01-02T03:04:05", [1, 2], {"a": 1}, None, "[bold]ü[/bold]",
    )  # fmt: skip


def test_every_row_of_a_wide_table_as_every_output(lake: Lake) -> None:
    for table in (*TABLES, "episode_agents"):
        if table in ("steps", "frames"):
            continue
        rows = len(lake.sql(f"FROM {table}"))
        assert len(json.loads(run("sql", lake.path, f"FROM {table}", "--output", "json"))) == rows
        assert f"{rows} rows" in run("sql", lake.path, f"FROM {table}")


def test_sql_from_stdin_and_of_an_earlier_commit(lake: Lake) -> None:
    result = shell(
        "sql", lake.path, "-", "--output", "csv", "--commit", "0", stdin="SELECT count(*) AS n FROM episodes"
    )
    assert (result.returncode, result.stdout) == (0, "n\n0\n"), result.stderr


def test_a_reader_that_stops_early_is_no_error(lake: Lake) -> None:
    """As in `crowdplay-lake sql … | head -1`."""
    query = "SELECT * FROM range(500000)"
    command = [sys.executable, "-c", MAIN, "sql", str(lake.path), query, "--output", "csv"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()


# Errors


def errors(lake: Path, folder: Path) -> dict[str, tuple[Sequence[str | Path], str]]:
    """Arguments, and what the one line says."""
    (folder / "empty").mkdir(exist_ok=True)
    (folder / "notes.txt").write_text("hello")
    query = "SELECT 1"
    return {
        "no lake": (["info", folder / "empty"], "no lake here"),
        "no path": (["info", folder / "nothing"], "no lake here"),
        "no raw folder": (["ingest", folder / "emptyy", folder / "new"], "did you mean"),
        "an empty folder": (["ingest", folder / "empty", folder / "new"], "no raw episodes"),
        "not an episode": (["ingest", folder / "notes.txt", folder / "new"], "not a raw episode"),
        "a lake that is a file": (["sql", folder / "notes.txt", query], "no lake here"),
        "no such metadata": (["ingest", lake.parent, folder / "new", "--metadata", folder / "x.sqlite"], "x.sqlite"),
        "an unknown column": (["sql", lake, "SELECT scoer FROM episode_agents"], "did you mean 'score'"),
        "an unknown table": (["sql", lake, "FROM episods"], "did you mean 'episodes'"),
        "a syntax error": (["sql", lake, "SELEC 1"], "syntax error"),
        "a statement that writes": (["sql", lake, "DROP VIEW episodes"], "read-only"),
        "a file elsewhere": (["sql", lake, "FROM read_text('/etc/passwd')"], "reads the lake's tables only"),
        "no such commit": (["sql", lake, query, "--commit", "99"], "no commit 99"),
        "an unknown game": (["record", folder / "raw", "--games", "breakuot"], "did you mean 'breakout'"),
    }


ERRORS = [
    "no lake", "no path", "no raw folder", "an empty folder", "not an episode", "a lake that is a file",
    "no such metadata", "an unknown column", "an unknown table", "a syntax error", "a statement that writes",
    "a file elsewhere", "no such commit", "an unknown game",
]  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_an_error_is_one_line_on_stderr_and_status_1(
    lake: Lake, tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, message = errors(lake.path, tmp_path)[case]
    monkeypatch.setattr(sys, "argv", ["crowdplay-lake", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    told = capsys.readouterr()
    assert told.out == ""
    (line,) = told.err.strip().splitlines()
    assert line.startswith("crowdplay-lake: error: ")
    assert message in line


def test_the_cases_are_all_of_them(lake: Lake, tmp_path: Path) -> None:
    assert list(errors(lake.path, tmp_path)) == ERRORS


def test_verbose_shows_the_traceback(lake: Lake) -> None:
    result = shell("--verbose", "sql", lake.path, "SELEC 1")
    assert result.returncode == 1
    assert "Traceback (most recent call last)" in result.stderr
    assert "syntax error" in result.stderr
    without = shell("sql", lake.path, "SELEC 1")
    assert (without.returncode, without.stdout, len(without.stderr.splitlines())) == (1, "", 1)
    assert "syntax error" in without.stderr


@pytest.mark.parametrize(
    "arguments",
    [["nothing"], ["sql"], ["sql", "lake", "SELECT 1", "--output", "xml"], ["record", "raw", "--protocol", "2"]],
    ids=" ".join,
)
def test_a_wrong_call_is_told_without_a_traceback(arguments: list[str]) -> None:
    result = shell(*arguments)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "Usage" in result.stderr


# export


def test_export_without_the_extra_names_it(lake: Lake, tmp_path: Path) -> None:
    block = f"import sys; sys.modules['d3rlpy'] = None; {MAIN}"
    command = [sys.executable, "-c", block, "export", str(lake.path), str(tmp_path / "x.h5")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    (line,) = result.stderr.strip().splitlines()
    assert "pip install 'crowdplay-lake[d3rlpy]'" in line


@pytest.mark.slow
def test_export_writes_what_d3rlpy_reads(lake: Lake, tmp_path: Path) -> None:
    d3rlpy = pytest.importorskip("d3rlpy")
    where = "game = 'breakout'"
    file = tmp_path / "breakout.h5"
    result = shell("export", lake.path, file, "--where", where, "--to", "d3rlpy", "--output", "json")
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["episodes"] == len(lake.episodes(where))
    with file.open("rb") as stream:
        loaded = d3rlpy.dataset.ReplayBuffer.load(stream, d3rlpy.dataset.InfiniteBuffer())
    assert len(loaded.episodes) == told["episodes"]
    assert loaded.transition_count == told["transitions"]
    assert loaded.episodes[0].observations.shape[1:] == (1, 84, 84)
    assert [p.name for p in tmp_path.iterdir()] == ["breakout.h5"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--where", "game = 'pong'"], "no episodes in the selection"),
        (["--where", "gaem = 'pong'"], "did you mean 'game'"),
        (["--agent", "game_0>player_9"], "game_0>player_0"),
        (["--rewards", "all"], "'following' or 'crowdplay'"),
        (["--controlled-by", "dog"], "'human'"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_an_export_that_cannot_be(lake: Lake, tmp_path: Path, options: list[str], message: str) -> None:
    pytest.importorskip("d3rlpy")
    result = shell("export", lake.path, tmp_path / "x.h5", *options)
    assert result.returncode == 1
    *_, line = result.stderr.strip().splitlines()
    assert line.startswith("crowdplay-lake: error: ")
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_is_there_is_replaced_only_when_told(lake: Lake, tmp_path: Path) -> None:
    file = tmp_path / "x.npz"
    options = ("--where", "game = 'breakout'", "--to", "npz", "--output", "json")
    file.write_bytes(b"mine")
    refused = invoke("export", lake.path, file, *options)
    assert isinstance(refused.exception, InvalidArgument)
    assert "is there already" in str(refused.exception)
    assert file.read_bytes() == b"mine"
    told = json.loads(run("export", lake.path, file, *options, "--overwrite", "--observations", "raw"))
    episodes = lake.episodes("game = 'breakout'")
    # Every step.
    assert (told["episodes"], told["decisions"]) == (len(episodes), sum(map(len, episodes)))
    assert told["bytes"] == file.stat().st_size
    assert told["reading"] == f"numpy.load('{file}')"
    assert np.load(file)["ram"].shape == (told["decisions"], 128)
    text = run("export", lake.path, tmp_path / "y.npz", *options[:-2])
    assert "episodes" in text
    assert text.splitlines()[-1] == f"read it with numpy.load('{tmp_path}/y.npz')"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--observations", "raw"], "d3rlpy takes processed observations"),
        (["--to", "npz"], "an action means different things"),
    ],
    ids=["raw for d3rlpy", "mixed games"],
)
def test_an_export_that_has_no_meaning(lake: Lake, tmp_path: Path, options: list[str], message: str) -> None:
    result = invoke("export", lake.path, tmp_path / "x", *options)
    assert message in str(result.exception)
    assert list(tmp_path.iterdir()) == []


def test_a_format_that_is_none_is_told_with_those_there_are(lake: Lake, tmp_path: Path) -> None:
    result = invoke("export", lake.path, tmp_path / "x", "--to", "numpy")
    assert result.exit_code == 2
    for name in exporting.To:
        assert name.value in result.output


def test_the_formats_are_those_of_the_library() -> None:
    from crowdplay_lake.offline.exports import FORMATS

    assert list(map(str, exporting.To)) == list(FORMATS)


def test_an_interrupted_export_leaves_nothing(lake: Lake, tmp_path: Path) -> None:
    command = [sys.executable, "-c", MAIN, "export", str(lake.path), str(tmp_path / "x.npz"), "--to", "npz"]
    process = subprocess.Popen(
        [*command, "--observations", "raw", "--action-size", "18"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (tmp_path / ".x.npz.unfinished").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, told = process.communicate()
    assert (process.returncode, out) == (130, "")
    assert told.splitlines()[0] == "interrupted: nothing was written"
    assert list(tmp_path.iterdir()) == []


def test_lists_and_bytes_in_csv(lake: Lake) -> None:
    result = shell("sql", lake.path, "SELECT agents, palettes FROM episodes LIMIT 1", "--output", "csv")
    assert result.returncode == 0
    header, row = result.stdout.splitlines()
    assert header == "agents,palettes"
    assert row.startswith('"[""game_0>player_0""')


def test_a_reader_that_has_seen_enough_is_no_error(lake: Lake) -> None:
    command = [sys.executable, "-c", MAIN, "sql", str(lake.path), "SELECT * FROM steps", "--output", "csv"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    process.wait()


def test_an_interrupted_ingest_says_how_to_go_on(raw: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", MAIN, "ingest", str(raw), str(tmp_path / "lake")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("lake/steps/game=*/*.parquet")):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate()
    assert process.returncode == 130
    assert "run it again" in told
    assert Lake(tmp_path / "lake").commit == 0
    assert not list(tmp_path.glob("lake/steps/game=*/*.parquet"))
