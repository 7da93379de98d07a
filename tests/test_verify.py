"""`verify`: a lake as it was written is proven; whatever else happened to it is found, and named."""

from __future__ import annotations

import json
import pickle
import random
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from conftest import read_raw
from typer.testing import CliRunner

from crowdplay_ingest.sources import RawFile
from crowdplay_ingest.verify_raw import RawSample, verify_raw
from crowdplay_lake import Lake
from crowdplay_lake.cli import maintenance
from crowdplay_lake.commit import Change, Writer, writing
from crowdplay_lake.errors import InvalidLake
from crowdplay_lake.findings import VerifyReport
from crowdplay_lake.layout import PartWriter
from crowdplay_lake.schema import TABLES
from crowdplay_lake.snapshot import delta_table
from crowdplay_lake.verify import verify


@pytest.fixture
def copied(small_lake: Path, tmp_path: Path) -> Path:
    """A copy of the small lake, to be changed."""
    return Path(shutil.copytree(small_lake, tmp_path / "lake"))


@pytest.fixture(scope="module")
def checkpointed(small_lake: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake in which Delta made checkpoints, as it does every 100 commits. Not to be changed."""
    path = Path(shutil.copytree(small_lake, tmp_path_factory.mktemp("many") / "lake"))
    for _ in range(2):
        with writing(path) as writer:
            for table in ("rejected", "commits"):
                delta_table(path / table).create_checkpoint()
            change(writer, "rejected", lambda rows: rows)
    return path


def change(writer: Writer, table: str, changed: Callable[[pa.Table], pa.Table]) -> None:
    """Commit the table's rows as ``changed`` makes them, with right checksums, as a faulty writer might."""
    from crowdplay_lake.layout import write_parts

    rows = changed(writer.snapshot.read(table))
    writer.commit(
        "odd", {table: Change(write_parts(writer.paths, TABLES[table], rows), writer.snapshot.parts(table))}, {}
    )


def problems(report: VerifyReport) -> str:
    return "\n".join(map(str, report.findings))


def is_named(report: VerifyReport, file: str) -> bool:
    return any(finding.file == file for finding in report.findings)


# As it was written


def test_a_lake_as_it_was_written_is_proven(small_lake: Path) -> None:
    lake, report = Lake(small_lake), verify(small_lake)
    assert problems(report) == ""
    assert report.notes == []
    assert report.proven
    assert (report.commit, report.commits) == (lake.commit, lake.commit + 1)
    assert report.episodes == len(lake.episodes())
    assert report.steps == sum(map(len, lake.episodes()))
    assert report.bytes == sum(p.stat().st_size for p in small_lake.rglob("*") if is_recorded(p))


@pytest.mark.soak
def test_every_recorded_episode_is_equal_to_its_file(lake: Lake, raw: Path) -> None:
    assert verify(lake.path).proven
    assert verify_raw(lake.path, raw, RawSample(all=True)) == (len(lake.episodes()), [])


def is_recorded(path: Path) -> bool:
    return path.is_file() and path.parent.name != "checksums" and not path.name.startswith(".lock")


def test_small_lakes_are_proven(small_lake: Path, small_raw: Path, checkpointed: Path) -> None:
    for path in (small_lake, checkpointed):
        report = verify(path)
        assert (problems(report), report.notes) == ("", [])
    assert verify_raw(small_lake, small_raw, RawSample(all=True)) == (len(list(small_raw.glob("*.pickle"))) - 1, [])


def test_sha256sum_agrees(small_lake: Path, checkpointed: Path) -> None:
    for path in (small_lake, checkpointed):
        lists = sorted(f"checksums/{file.name}" for file in (path / "checksums").iterdir())
        subprocess.run(["sha256sum", "--check", "--quiet", "--strict", *lists], cwd=path, check=True)


def test_progress_is_told(small_lake: Path) -> None:
    told: dict[str, list[tuple[int, int]]] = {}
    report = verify(small_lake, lambda what, done, total: told.setdefault(what, []).append((done, total)))
    assert set(told) == {"files", "commits", "steps"}
    assert told["steps"][-1] == (report.steps, report.steps)
    assert told["files"][-1] == (report.bytes, report.bytes)


def test_no_lake_is_told_as_everywhere(tmp_path: Path) -> None:
    with pytest.raises(InvalidLake, match="no lake here"):
        verify(tmp_path / "nothing")


# Damage


def flip(file: Path, offset: int, mask: int = 0xFF) -> None:
    content = bytearray(file.read_bytes())
    content[offset] ^= mask
    file.write_bytes(content)


KINDS = {
    "a part of steps": "steps/game=*/*.parquet",
    "a part of frames": "frames/game=*/*.parquet",
    "a part of episodes": "episodes/game=*/*.parquet",
    "a part of users": "users/*.parquet",
    "the newest commit row": "commits/commit-*06-*.parquet",
    "the oldest commit row": "commits/commit-*00-*.parquet",
    "the newest log of commits": "commits/_delta_log/*6.json",
    "a table's first log": "steps/_delta_log/*0.json",
    "a table's log": "episodes/_delta_log/*2.json",
    "the oldest list of checksums": "checksums/*0.sha256",
    "the newest list of checksums": "checksums/*6.sha256",
}


@pytest.mark.parametrize("where", ["first", "middle", "last"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_byte_is_found_and_its_file_named(copied: Path, kind: str, where: str) -> None:
    file = sorted(copied.glob(KINDS[kind]))[0]
    size = file.stat().st_size
    flip(file, {"first": 0, "middle": size // 2, "last": size - 1}[where], 1)
    report = verify(copied)
    assert [finding.file for finding in report.findings] == [file.relative_to(copied).as_posix()]


@pytest.mark.parametrize("name", ["_last_checkpoint", "*1.checkpoint.parquet", "*2.checkpoint.parquet"])
def test_a_flipped_byte_around_checkpoints(checkpointed: Path, tmp_path: Path, name: str) -> None:
    path = Path(shutil.copytree(checkpointed, tmp_path / "lake"))
    (file,) = path.glob(f"rejected/_delta_log/{name}")
    original = file.read_bytes()
    offsets = range(len(original)) if name == "_last_checkpoint" else (0, len(original) // 2, len(original) - 1)
    for offset in offsets:
        flip(file, offset, 1)
        report = verify(path) if offset in (0, len(original) - 1) else light(path)
        assert is_named(report, file.relative_to(path).as_posix()), (offset, file.read_bytes())
        file.write_bytes(original)


def light(path: Path) -> VerifyReport:
    """Only the files: for damage in many places."""
    from crowdplay_lake.findings import silent
    from crowdplay_lake.layout import LakePaths
    from crowdplay_lake.storage import files_below
    from crowdplay_lake.verify import _Verification

    verification = _Verification(LakePaths(path), silent)
    verification._read_lists()
    verification.files = dict(files_below(path))
    verification._check_sums()
    verification._check_last_checkpoints()
    return verification.report


def test_a_flipped_byte_anywhere(copied: Path) -> None:
    """In every file of the lake, at an offset and by a bit of chance."""
    chance = random.Random(1)
    for file in sorted(path for path in copied.rglob("*") if path.is_file() and not path.name.startswith(".lock")):
        original = file.read_bytes()
        flip(file, chance.randrange(len(original)), 1 << chance.randrange(8))
        report = verify(copied) if chance.random() < 0.3 else light(copied)
        assert is_named(report, file.relative_to(copied).as_posix())
        file.write_bytes(original)
    assert verify(copied).proven


@pytest.mark.parametrize("damage", ["gone", "shorter", "empty"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_gone_or_cut_is_found(copied: Path, kind: str, damage: str) -> None:
    file = sorted(copied.glob(KINDS[kind]))[0]
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1] if damage == "shorter" else b"")
    report = verify(copied)
    if (kind, damage) == ("the newest list of checksums", "gone"):
        # So it looks after a crash, too: the next writer takes the sums anew.
        assert (report.proven, len(report.notes)) == (True, 1)
        assert "has no checksums yet" in report.notes[0]
    else:
        assert [finding.file for finding in report.findings] == [file.relative_to(copied).as_posix()]


def test_a_broken_lake_is_told_without_a_traceback(copied: Path) -> None:
    """Whatever is in the files: nothing but findings."""
    chance = random.Random(2)
    files = [path for path in copied.rglob("*") if path.is_file()]
    for _ in range(10):
        for file in chance.sample(files, 6):
            file.write_bytes(chance.randbytes(chance.randrange(200)))
        assert not verify(copied).proven


def test_a_newest_commit_without_checksums_may_say_anything(copied: Path) -> None:
    """After a crash between a commit and its checksums, its logs are opened unproven."""
    chance = random.Random(3)
    sorted((copied / "checksums").iterdir())[-1].unlink()
    logs = [sorted((copied / t / "_delta_log").glob("*.json"))[-1] for t in ("commits", "rejected", "episodes")]
    for _ in range(24):
        file = chance.choice(logs)
        original = file.read_bytes()
        flip(file, chance.randrange(len(original)), chance.randrange(1, 256))
        report = verify(copied)
        assert all("\n" not in str(finding) for finding in report.findings)
        file.write_bytes(original)
    assert verify(copied).proven


def test_files_that_no_commit_names_are_noted(copied: Path) -> None:
    for name in ("steps/game=breakout/part-0.parquet", "users/_delta_log/_commit_1.json.tmp", "checksums/.x.tmp"):
        (copied / name).parent.mkdir(exist_ok=True)
        (copied / name).write_bytes(b"half a part")
    (copied / "raw").mkdir()
    (copied / "raw" / "x.pickle").write_bytes(b"mine")
    report = verify(copied)
    assert report.proven
    assert len(report.notes) == 4
    assert [note for note in report.notes if "no commit names it" not in note] == [
        "raw/x.pickle: is no file of a lake; nothing here reads or removes it"
    ]


# Wrong rows, with right checksums


def set_column(rows: pa.Table, name: str, at: int, value: Any) -> pa.Table:
    values = rows[name].to_pylist()
    values[at] = value
    return rows.set_column(
        rows.schema.get_field_index(name), rows.schema.field(name), pa.array(values, rows.schema.field(name).type)
    )


SMALL = {
    "a wrong content hash": ("episodes", lambda t: set_column(t, "content_hash", 0, "0" * 64), "another content hash"),
    "no such part": ("episodes", lambda t: set_column(t, "steps_part", 0, "x.parquet"), "is not in this commit"),
    "a place that is wrong": ("episodes", lambda t: set_column(t, "frames_first_row", 0, 7), "begins at row 7"),
    "too many steps": ("episodes", lambda t: set_column(t, "n_steps", 0, 41), "its episodes"),
    "no palette": ("episodes", lambda t: set_column(t, "palettes", 0, []), "its row is incomplete"),
    "another palette": ("episodes", lambda t: set_column(t, "palettes", 0, [b"abc"]), "that the palette has not"),
    "another end": ("episodes", lambda t: set_column(t, "first_done_step", 0, [3]), "first done at"),
    "an episode twice": ("episodes", lambda t: pa.concat_tables([t, t.slice(0, 1)]), "more than one row"),
    "an episode that is not there": ("episodes", lambda t: t.slice(1), "rows of an episode that there is not"),
    "rows of nothing": ("episodes", lambda t: t.slice(1), "its episodes 0"),
    "a keyword twice": ("keyword_data", lambda t: pa.concat_tables([t, t.slice(0, 1)]), "more than one row"),
    "another game": ("keyword_data", lambda t: set_column(t, "game", 0, "pong"), "is filed under 'pong'"),
}  # fmt: skip


@pytest.mark.parametrize("case", SMALL)
def test_a_wrong_row_of_a_small_table_is_found(copied: Path, case: str) -> None:
    table, changed, message = SMALL[case]
    with writing(copied) as writer:
        change(writer, table, changed)
    assert message in problems(verify(copied))


def set_change(rows: pa.Table, at: int, gaps: bytes, colors: bytes) -> pa.Table:
    return set_column(set_column(rows, "gaps", at, gaps), "colors", at, colors)


ROWS: dict[str, tuple[str, Callable[[pa.Table], pa.Table], str]] = {
    "a step twice": ("steps", lambda t: set_column(t, "step", 10, 19), "do not follow each other"),
    "another agent": ("steps", lambda t: set_column(t, "agent_id", 10, "agent_9"), "have another agent_id"),
    "another episode": ("steps", lambda t: set_column(t, "episode_id", 10, "x"), "have another episode_id"),
    "another reward": ("steps", lambda t: set_column(t, "reward", 10, 99.0), "another content hash"),
    "another byte of RAM": ("steps", lambda t: set_column(t, "ram_7f", 10, 256), "another content hash"),
    "no step": ("frames", lambda t: set_column(t, "step", 10, None), "do not follow each other"),
    "no keyframe": ("frames", lambda t: set_column(t, "keyframe", 0, False), "does not begin with a keyframe"),
    "half a change": ("frames", lambda t: set_column(t, "gaps", 10, b"\1\0\1"), "neither a keyframe nor a change"),
    "a change beyond": ("frames", lambda t: set_change(t, 10, b"\xff\xff\xff\xff", b"\0\0"), "beyond its screen"),
    "another pixel": ("frames", lambda t: set_change(t, 10, b"\1\0", b"\0"), "another content hash"),
}  # fmt: skip


@pytest.mark.parametrize("case", ROWS)
def test_a_wrong_row_of_an_episode_is_found(copied: Path, case: str) -> None:
    table, changed, message = ROWS[case]
    with writing(copied) as writer:
        row = next(row for row in writer.snapshot.read("episodes").to_pylist() if row["n_steps"])
        (part,) = [part for part in writer.snapshot.parts(table) if part.path == row[f"{table}_part"]]
        rows = pq.ParquetFile(writer.paths.part(table, part.path)).read()
        with PartWriter(writer.paths, TABLES[table], part.partition) as parts:
            parts.write(changed(rows))
            new = parts.close()
        old = part.path

        def renamed(episodes: pa.Table) -> pa.Table:
            column = pc.if_else(pc.equal(episodes[f"{table}_part"], old), new.path, episodes[f"{table}_part"])
            return episodes.set_column(episodes.schema.get_field_index(f"{table}_part"), f"{table}_part", column)

        episodes = writer.replacement("episodes", renamed(writer.snapshot.read("episodes")))
        writer.commit("odd", {table: Change([new], [part]), "episodes": episodes}, {})
    report = verify(copied)
    assert message in problems(report)
    assert {finding.episode_id for finding in report.findings} == {row["episode_id"]}
    step = next(f.step for f in report.findings if message in str(f))
    assert step in (None, 0, 10)


# Against the raw files


def test_what_the_lake_has_not_is_found(small_raw: Path, small_lake: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(small_raw, tmp_path / "raw"))
    file = sorted(folder.glob("*.pickle"))[0]
    shutil.copy(file, folder / "another.pickle")
    _, (finding,) = verify_raw(small_lake, folder)
    assert (finding.file, finding.episode_id) == ("another.pickle", "another")
    assert "neither in the lake nor in `rejected`" in finding.problem
    # One that was refused is known by more than its name: here, where the raw files were copied to, by its checksum.
    (folder / "another.pickle").unlink()
    assert verify_raw(small_lake, folder)[1] == []
    (folder / "broken.pickle").write_bytes(b"not a trickle")
    _, (finding,) = verify_raw(small_lake, folder)
    assert (finding.file, finding.problem) == ("broken.pickle", "has changed since it was rejected: ingest it")


def test_what_differs_is_found_with_its_step(small_raw: Path, small_lake: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(small_raw, tmp_path / "raw"))
    ids = [e.episode_id for e in Lake(small_lake).episodes("n_steps IS NOT NULL")]
    first, second, third, fourth, _ = ids
    for episode_id, changed in {
        first: lambda steps: steps[7]["info"]["game_0>player_0"].update({"ale.lives": 99}),
        second: lambda steps: steps.pop(),
        third: lambda steps: steps[9]["prev_obs"]["game_0>player_0"]["image"].__setitem__((3, 4, 0), 255),
    }.items():
        trajectory = read_raw(folder, episode_id)
        changed(trajectory)
        (folder / f"{episode_id}.pickle").write_bytes(pickle.dumps(trajectory, 4))
    (folder / f"{fourth}.pickle").write_bytes(pickle.dumps(read_raw(folder, fourth), 5))
    compared, findings = verify_raw(small_lake, folder, RawSample(all=True))
    assert compared == 5
    by_episode = {finding.episode_id: finding for finding in findings}
    assert by_episode[first].step == 7
    assert "['info']['game_0>player_0']['ale.lives'] 99 became" in by_episode[first].problem
    assert by_episode[second].problem == "the lake has more steps"
    assert by_episode[second].step == len(Lake(small_lake).episode(second)) - 1
    assert by_episode[third].step == 9
    assert "is another array" in by_episode[third].problem
    assert (by_episode[fourth].step, len(findings)) == (None, 4)
    assert "bytes are not those that were ingested" in by_episode[fourth].problem


def test_a_sample_has_one_of_each_game_and_is_the_same_again() -> None:
    rows = {f"e{number:02}": {"game": "abcdefgh"[number * number % 8]} for number in range(40)}
    files = [RawFile(name, f"{name}.pickle", Path(name), "none", 1, 1) for name in rows]
    games = {row["game"] for row in rows.values()}
    one = RawSample(count=1).chosen(files, rows)
    assert {rows[file.episode_id]["game"] for file in one} == games
    assert len(one) == len(games)
    many = RawSample(count=12)
    assert many.chosen(files, rows) == many.chosen(files, rows)
    assert len(many.chosen(files, rows)) == 12
    assert replace(many, seed=1).chosen(files, rows) != many.chosen(files, rows)
    assert RawSample(all=True).chosen(files, rows) == files


# The command


def invoke(*arguments: str | Path) -> Any:
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(maintenance.app, list(map(str, arguments)))


def test_the_command_verify(small_lake: Path, small_raw: Path, copied: Path) -> None:
    result = invoke("verify", small_lake, small_raw, "--all")
    assert result.exit_code == 0, result.output
    assert "proven; " in result.stdout
    assert "5 episodes compared" in result.stdout
    part = sorted(copied.glob("frames/game=*/*.parquet"))[0]
    flip(part, 100)
    result = invoke("verify", copied, small_raw)
    assert result.exit_code == 1
    assert f"{part.relative_to(copied)}: is not as it was written" in result.stdout
    told = json.loads(invoke("verify", copied, "--output", "json").stdout)
    assert (told["proven"], [finding["file"] for finding in told["findings"]]) == (
        False,
        [str(part.relative_to(copied))],
    )


def test_the_command_log(small_lake: Path) -> None:
    text = invoke("log", small_lake).stdout
    assert text.index("ingest") < text.index("create")
    told = json.loads(invoke("log", small_lake, "-n", "2", "--output", "json").stdout)
    assert [commit["number"] for commit in told] == [6, 5]
    assert told[0]["operation"] == "ingest"
    assert told[-1]["counts"]["episodes"] == 1
