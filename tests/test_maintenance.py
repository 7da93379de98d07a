"""`compact`, `vacuum` and `remove`: what must stay stays to the last bit, what must go goes for good."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_commit import content
from typer.testing import CliRunner

from crowdplay_ingest.pipeline import IngestOptions, ingest
from crowdplay_ingest.verify_raw import RawSample, verify_raw
from crowdplay_lake import Lake
from crowdplay_lake.byte_counts import count_bytes
from crowdplay_lake.cli import maintenance
from crowdplay_lake.cli.output import parse_size
from crowdplay_lake.commit import Change, writing
from crowdplay_lake.compact import compact
from crowdplay_lake.errors import InvalidArgument, InvalidLake, UnknownEpisode, UnknownParticipant
from crowdplay_lake.layout import LakePaths, write_parts
from crowdplay_lake.parts import EpisodeRows, GameWriter
from crowdplay_lake.removal import removal_mark
from crowdplay_lake.remove import planned_removal, remove
from crowdplay_lake.schema import STEPS, TABLES
from crowdplay_lake.snapshot import delta_table, history
from crowdplay_lake.vacuum import vacuum
from crowdplay_lake.verify import verify

NOW = timedelta(0)


@pytest.fixture(scope="module")
def interleaved(small_raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake made in two ingests, so that the ids in its parts interleave. Not to be changed."""
    folder = tmp_path_factory.mktemp("interleaved")
    files = sorted(small_raw.glob("*.pickle"))
    for half in (files[::2], files):
        (folder / "raw").mkdir(exist_ok=True)
        shutil.copy(small_raw / "dataset.sqlite", folder / "raw")
        for file in half:
            shutil.copy2(file, folder / "raw")
        ingest(folder / "raw", folder / "lake")
    return folder / "lake"


@pytest.fixture
def copied(small_lake: Path, tmp_path: Path) -> Path:
    """A copy of the small lake, to be changed."""
    return Path(shutil.copytree(small_lake, tmp_path / "lake"))


def proven(path: Path) -> None:
    report = verify(path)
    assert [str(finding) for finding in report.findings] == []


def everything(path: Path) -> dict[str, str]:
    """Every file and what is in it."""
    return {
        str(p.relative_to(path)): hashlib.sha256(p.read_bytes()).hexdigest() for p in path.rglob("*") if p.is_file()
    }


def pairs(path: Path) -> int:
    return len(Lake(path).snapshot.parts("frames"))


# compact


@pytest.mark.parametrize("which", ["small_lake", "interleaved"])
def test_compact_merges_the_parts_of_a_game(which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    path = Path(shutil.copytree(request.getfixturevalue(which), tmp_path / "lake"))
    before, expected = Lake(path), content(path)
    hashes = before.sql("SELECT episode_id, content_hash FROM episodes ORDER BY 1").fetchall()
    summary = compact(path)
    assert (summary.parts_before > summary.parts_after, summary.commits) == (True, 1)
    assert content(path) == expected
    lake = Lake(path)
    assert lake.sql("SELECT episode_id, content_hash FROM episodes ORDER BY 1").fetchall() == hashes
    assert (lake.snapshot.operation, lake.snapshot.counts["episodes"]) == ("compact", 5)
    for name in ("steps", "frames"):
        assert sorted(part.partition or "" for part in lake.snapshot.parts(name)) == ["breakout", "space_invaders_2p"]
        for file in lake.snapshot.files(name):
            rows = pl.read_parquet(str(file), hive_partitioning=False).select(TABLES[name].sort)
            assert rows.equals(rows.sort(TABLES[name].sort))
    # Row groups of steps are filled; there are few steps here.
    assert [pq.ParquetFile(str(file)).num_row_groups for file in lake.snapshot.files("steps")] == [1, 1]
    proven(path)
    # A reader from before keeps what it sees.
    assert before.sql("SELECT count(*) FROM steps").fetchall() == lake.sql("SELECT count(*) FROM steps").fetchall()
    assert len(before.episodes()[0].get_raw_trajectory()) == len(before.episodes()[0])


@pytest.mark.parametrize("target", [1, 30_000, 60_000, 100_000, 10**9])
def test_a_second_compact_changes_nothing(copied: Path, target: int) -> None:
    made = pairs(copied)
    compact(copied, target)
    before = everything(copied)
    summary = compact(copied, target)
    assert (summary.commits, summary.parts_before, summary.bytes_before) == (
        0,
        summary.parts_after,
        summary.bytes_after,
    )
    assert everything(copied) == before
    if target == 1:
        # Nothing is merged: each pair is written anew by itself.
        assert (pairs(copied), Lake(copied).commit) == (made, 6 + made)
    proven(copied)


def test_what_ingest_wrote_is_compressed_harder(copied: Path) -> None:
    def bytes_of_frames() -> int:
        columns = count_bytes(Lake(copied).snapshot).columns
        return sum(column.compressed for column in columns if column.column in ("gaps", "colors"))

    def packed() -> list[bool]:
        return [part.is_packed for name in ("steps", "frames") for part in Lake(copied).snapshot.parts(name)]

    before, made = bytes_of_frames(), packed()
    assert not any(made)
    compact(copied, 1)
    assert packed() == [True] * len(made)
    assert bytes_of_frames() < before


def test_parts_that_are_big_enough_are_left_alone(copied: Path) -> None:
    compact(copied, 1)
    sizes = sorted(part.size for part in Lake(copied).snapshot.parts("steps") if part.partition == "breakout")
    before = {part.path for part in Lake(copied).snapshot.parts("steps")}
    compact(copied, 2 * sizes[-1])
    after = {part.path for part in Lake(copied).snapshot.parts("steps")}
    # The largest is half of the target: the other three of its game become one.
    assert len(after & before) == 2
    assert len(after) == 3


def test_small_tables_of_many_parts_are_merged(copied: Path) -> None:
    expected = content(copied)
    with writing(copied) as writer:
        users = writer.snapshot.read("users")
        parts = [p for i in range(len(users)) for p in write_parts(writer.paths, TABLES["users"], users.slice(i, 1))]
        writer.commit("odd", {"users": Change(parts, writer.snapshot.parts("users"))}, {})
    compact(copied)
    assert len(Lake(copied).snapshot.parts("users")) == 1
    assert content(copied) == expected
    proven(copied)


def test_row_groups_of_steps_are_filled(tmp_path: Path) -> None:
    def rows(count: int) -> pa.Table:
        schema = STEPS.stored_schema
        return pa.table([pa.nulls(count, field.type) for field in schema], schema=schema)

    parts: dict[str, list[Any]] = {"steps": [], "frames": []}
    with GameWriter(LakePaths(tmp_path), "pong") as writer:
        first = [writer.write(EpisodeRows([rows(40_000)], []))["steps_first_row"] for _ in range(4)]
        writer.close(parts)
    assert first == [0, 40_000, 80_000, 120_000]
    metadata = pq.ParquetFile(tmp_path / "steps" / parts["steps"][0].path).metadata
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [65_536, 65_536, 28_928]


def test_ingest_goes_on_after_compact(small_raw: Path, small_lake: Path, interleaved: Path, tmp_path: Path) -> None:
    first = Path(shutil.copytree(small_raw, tmp_path / "raw"))
    later = [path for path in sorted(first.glob("*.pickle")) if path.stem != "broken"][1]
    later.rename(tmp_path / later.name)
    ingest(first, tmp_path / "lake", IngestOptions(task_seconds=0))
    compact(tmp_path / "lake")
    vacuum(tmp_path / "lake", NOW)
    (tmp_path / later.name).rename(later)
    assert ingest(first, tmp_path / "lake").episodes == 1
    expected, got = content(small_lake), content(tmp_path / "lake")
    for tables in (expected, got):
        del tables["rejected"]
    assert got == expected
    proven(tmp_path / "lake")


def test_a_target_that_cannot_be(copied: Path) -> None:
    with pytest.raises(InvalidArgument, match="above 0"):
        compact(copied, 0)


# vacuum


def test_vacuum_keeps_what_kept_commits_need(copied: Path) -> None:
    # So that the moment at which vacuum looks lies between two commits.
    time.sleep(2)
    compact(copied)
    expected = {n: content_of(copied, n) for n in (6, 7)}
    commits = history(copied)
    # Commit 5 ended when 6 was made: 0 to 5 go.
    summary = vacuum(copied, datetime.now(UTC) - commits[6].time - timedelta(microseconds=1))
    assert summary.commits == (0, 1, 2, 3, 4, 5)
    assert summary.files > 5
    assert summary.bytes > 0
    assert [commit.number for commit in history(copied)] == [6, 7, 8]
    assert {n: content_of(copied, n) for n in expected} == expected
    last = Lake(copied).snapshot
    assert (last.operation, last.counts) == ("vacuum", {"commits": 6, "files": summary.files, "bytes": summary.bytes})
    assert last.versions == commits[7].versions
    with pytest.raises(InvalidLake, match="has no commit 3; it has 6 to 8; earlier ones were vacuumed"):
        Lake(copied, commit=3)
    proven(copied)
    assert verify(copied).notes == []
    sha256sum(copied)
    with pytest.raises(InvalidLake, match=r"has no commit 99; it has 6 to 8$"):
        Lake(copied, commit=99)


def content_of(path: Path, number: int) -> Any:
    lake = Lake(path, commit=number)
    tables = [lake.scan(name).collect().sort(table.sort) for name, table in TABLES.items()]
    return [table.hash_rows(seed=1).to_list() for table in tables]


def sha256sum(path: Path) -> None:
    lists = sorted(f"checksums/{file.name}" for file in (path / "checksums").iterdir())
    subprocess.run(["sha256sum", "--check", "--quiet", "--strict", *lists], cwd=path, check=True)


def test_vacuum_leaves_the_last_commit_and_nothing_else(copied: Path) -> None:
    expected = content(copied)
    compact(copied)
    vacuum(copied, NOW)
    assert content(copied) == expected
    # The one before has the same content as that of the vacuum itself: both can be cited.
    assert [commit.number for commit in history(copied)] == [7, 8]
    assert [path.name for path in sorted((copied / "checksums").iterdir())] == [
        "commit-000000000007.sha256",
        "commit-000000000008.sha256",
    ]
    named = {str(file) for name in TABLES for file in Lake(copied).snapshot.files(name)}
    assert {str(path) for path in copied.rglob("*.parquet") if path.name.startswith(("part-", "packed-"))} == named
    before = everything(copied)
    assert vacuum(copied, NOW).files == 0
    assert everything(copied) == before
    for name in TABLES:
        rows = pl.scan_delta(str(copied / name)).select(pl.len()).collect().item()
        assert rows == Lake(copied).scan(name).select(pl.len()).collect().item()


def test_a_dry_run_says_the_same_and_changes_nothing(copied: Path) -> None:
    compact(copied)
    before = everything(copied)
    said = vacuum(copied, NOW, dry_run=True)
    assert everything(copied) == before
    done = vacuum(copied, NOW)
    assert (said.commits, said.files, said.bytes) == (done.commits, done.files, done.bytes)


def test_young_commits_stay(copied: Path) -> None:
    before = everything(copied)
    summary = vacuum(copied)
    assert (summary.commits, summary.files) == ((), 0)
    assert everything(copied) == before
    with pytest.raises(InvalidArgument, match="0 or longer"):
        vacuum(copied, timedelta(days=-1))


def test_vacuum_removes_what_crashes_left_and_nothing_of_others(copied: Path) -> None:
    left = [
        "steps/game=breakout/part-x.parquet",
        "users/_delta_log/_commit_1.json.tmp",
        "checksums/.commit-9.sha256.tmp",
    ]
    mine = ["notes.txt", "users/notes.txt", "my/part-1.parquet"]
    for name in left + mine:
        (copied / name).parent.mkdir(exist_ok=True)
        (copied / name).write_text("x")
    assert vacuum(copied).files == len(left)
    assert [(copied / name).exists() for name in left + mine] == [False] * 3 + [True] * 3
    proven(copied)


def test_old_logs_go_where_a_checkpoint_stands_for_them(copied: Path) -> None:
    for table in ("episodes", "commits"):
        delta_table(copied / table).create_checkpoint()
    compact(copied)
    expected = {n: content_of(copied, n) for n in (6, 7)}
    commits = history(copied)
    vacuum(copied, datetime.now(UTC) - commits[6].time - timedelta(microseconds=1))
    assert {n: content_of(copied, n) for n in (6, 7)} == expected
    for table in ("episodes", "commits"):
        names = sorted(path.name for path in (copied / table / "_delta_log").glob("*.json"))
        checkpoint = next((copied / table / "_delta_log").glob("*.checkpoint.parquet")).name.partition(".")[0]
        assert names[0] == f"{checkpoint}.json"
    proven(copied)
    sha256sum(copied)


def test_a_lake_with_a_commit_that_cannot_be_opened_is_left_alone(copied: Path) -> None:
    sorted(copied.glob("steps/_delta_log/*.json"))[0].write_text("{")
    before = everything(copied)
    with pytest.raises(InvalidLake, match="nothing was removed"):
        vacuum(copied, timedelta(days=7), dry_run=True)
    assert everything(copied) == before


# remove


def ids_of(path: Path, where: str) -> list[str]:
    return [
        row[0] for row in Lake(path).sql(f"SELECT DISTINCT episode_id FROM episode_agents WHERE {where}").fetchall()
    ]


def test_remove_takes_an_episode_out(copied: Path) -> None:
    before = content(copied)
    victim, *others = ids_of(copied, "game = 'breakout'")
    planned = planned_removal(copied, [victim])
    assert planned.episodes == (victim,)
    done = remove(copied, [victim])
    assert done.commit == Lake(copied).commit == 7
    assert (done.steps, done.environments) == (planned.steps, planned.environments)
    after = content(copied)
    assert after["raw"] == [pair for pair in before["raw"] if pair[0] != victim]
    for name in ("episodes", "keyword_data"):
        assert after[name] == [row for row in before[name] if row["episode_id"] != victim]
    assert after["steps"] == before["steps"] - planned.steps
    assert removal_mark("episode", victim) in Lake(copied).scan("rejected").collect()["name"].to_list()
    proven(copied)
    assert set(ids_of(copied, "game = 'breakout'")) == set(others)


def test_remove_takes_a_participant_out(copied: Path) -> None:
    """Ben played twice alone and once with Ada."""
    lake = Lake(copied)
    (ben,) = lake.sql("SELECT permanent_user_id FROM users GROUP BY 1 HAVING count(*) > 1").fetchall()[0]
    gone = set(
        ids_of(copied, f"environment_id IN (SELECT environment_id FROM users WHERE permanent_user_id = '{ben}')")
    )
    environments = {e.environment_id for e in lake.episodes() if e.episode_id in gone}
    assert (len(gone), len(environments)) == (3, 2)
    remove(copied, participants=[ben])
    after = Lake(copied)
    assert set(after.episodes().ids) == set(lake.episodes().ids) - gone
    for table in ("environments", "users", "environment_keyword_data", "episodes"):
        assert not set(after.scan(table).collect()["environment_id"]) & environments
    assert after.sql("SELECT count(*) FROM users").fetchall() == [(2,)]
    assert after.sql("SELECT DISTINCT game FROM steps").fetchall() == [("breakout",)]
    proven(copied)


def test_what_was_removed_is_gone_for_good_after_vacuum(copied: Path, small_raw: Path) -> None:
    lake = Lake(copied)
    (ben,) = lake.sql("SELECT permanent_user_id FROM users GROUP BY 1 HAVING count(*) > 1").fetchall()[0]
    gone = planned_removal(copied, participants=[ben])
    secrets = {*gone.episodes, *gone.environments, *gone.users, ben}
    assert secrets <= set(texts_in(copied))
    remove(copied, participants=[ben])
    assert secrets & set(texts_in(copied))
    vacuum(copied, NOW)
    assert not secrets & set(texts_in(copied))
    for file in copied.rglob("*"):
        if file.is_file():
            assert not [secret for secret in secrets if secret.encode() in file.read_bytes()], file
    proven(copied)
    # What is not there any more counts as known.
    assert verify_raw(copied, small_raw, RawSample(all=True)) == (2, [])


def texts_in(path: Path) -> Iterator[str]:
    """Every text in every Parquet file, and every word of every other."""
    for file in path.rglob("*"):
        if file.suffix == ".parquet":
            rows = pl.read_parquet(file, hive_partitioning=False)
            for name, kind in rows.schema.items():
                if kind == pl.String:
                    yield from rows[name].drop_nulls().unique().to_list()
        elif file.is_file():
            yield from file.read_text(errors="replace").replace('\\"', '"').split('"')


def test_unknown_names_are_told_with_the_nearest(copied: Path) -> None:
    known = Lake(copied).episodes().ids[0]
    before = everything(copied)
    with pytest.raises(UnknownEpisode, match=f"did you mean '{known}'"):
        remove(copied, [known[:-1]])
    with pytest.raises(UnknownParticipant, match="no participant 'nobody'"):
        remove(copied, participants=["nobody"])
    with pytest.raises(InvalidArgument, match="at least one"):
        remove(copied)
    assert everything(copied) == before


def test_all_episodes_can_go(copied: Path) -> None:
    remove(copied, Lake(copied).episodes().ids)
    lake = Lake(copied)
    assert [len(lake.scan(name).collect()) for name in TABLES if name != "rejected"] == [0] * 7
    vacuum(copied, NOW)
    proven(copied)


# Killed

WORK = {
    "compact": "from crowdplay_lake.compact import compact; compact(path, 60_000)",
    "vacuum": "from crowdplay_lake.vacuum import vacuum; from datetime import timedelta; vacuum(path, timedelta(0))",
    "remove": "from crowdplay_lake.remove import remove; remove(path, sys.argv[2:])",
}
# Kills itself when a function is called for the n-th time, before or after it did its work.
SCRIPT = """
import os, signal, sys
from crowdplay_lake import checksums, commit, layout, storage, vacuum
path, module, name, count, after = sys.argv[1].split(",")
owner = module and eval(module)
real, calls = getattr(owner, name, None), 0
def killing(*arguments, **options):
    global calls
    calls += 1
    if calls == int(count) and after == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    result = real(*arguments, **options)
    if calls == int(count):
        os.kill(os.getpid(), signal.SIGKILL)
    return result
if module:
    setattr(owner, name, killing)
"""


def killed(path: Path, work: str, arguments: list[str], point: str = ",,,") -> int:
    script = SCRIPT + WORK[work]
    ran = subprocess.run(
        [sys.executable, "-c", script, f"{path},{point}", *arguments], check=False, capture_output=True
    )
    assert ran.returncode in (0, -signal.SIGKILL), ran.stderr
    return ran.returncode


POINTS = [
    ("compact", "layout.PartWriter,close,2,1"),
    ("compact", "commit.Writer,_append_row,1,0"),
    ("compact", "commit.Writer,_append_row,1,1"),
    ("vacuum", "commit.Writer,_append_row,1,1"),
    ("vacuum", "vacuum,write_list,1,1"),
    ("vacuum", "vacuum,remove,4,1"),
    ("vacuum", "vacuum,remove,20,1"),
    ("remove", "commit.Writer,_commit_table,4,1"),
    ("remove", "commit,_record_checksums,1,0"),
]


def hashes(path: Path) -> dict[str, str]:
    """The content hash of each episode: `verify` proves that it is that of the rows."""
    rows = Lake(path).snapshot.read("episodes").to_pylist()
    return {row["episode_id"]: row["content_hash"] for row in rows}


@pytest.mark.parametrize(("work", "point"), POINTS)
def test_killed_at_a_point_the_lake_is_whole_and_the_next_run_goes_on(copied: Path, work: str, point: str) -> None:
    victim = ids_of(copied, "game = 'breakout'")[0]
    before = hashes(copied)
    if work == "vacuum":
        compact(copied)
    assert killed(copied, work, [victim] if work == "remove" else [], point) == -signal.SIGKILL
    goes_on(copied, work, victim, before)


def goes_on(path: Path, work: str, victim: str, before: dict[str, str]) -> None:
    """The lake is whole; once more, and it is done."""
    proven(path)
    without = {episode_id: content for episode_id, content in before.items() if episode_id != victim}
    assert hashes(path) in ([before, without] if work == "remove" else [before])
    if work != "remove" or victim in hashes(path):
        assert killed(path, work, [victim] if work == "remove" else []) == 0
    proven(path)
    assert hashes(path) == (without if work == "remove" else before)
    if work == "vacuum":
        assert vacuum(path, NOW).files == 0
        assert verify(path).notes == []
        sha256sum(path)
    if work == "compact":
        assert compact(path, 60_000).commits == 0


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(30))
def test_killed_at_any_moment(copied: Path, seed: int) -> None:
    chance = random.Random(seed)
    work = chance.choice(sorted(WORK))
    victim = ids_of(copied, "game = 'breakout'")[0]
    before = hashes(copied)
    if work == "vacuum":
        compact(copied)
    arguments = [victim] if work == "remove" else []
    process = subprocess.Popen([sys.executable, "-c", SCRIPT + WORK[work], f"{copied},,,,", *arguments])
    while process.poll() is None and (copied / ".lock-holder").exists() is False:
        time.sleep(0.001)
    time.sleep(chance.uniform(0, 0.5))
    process.kill()
    process.wait()
    goes_on(copied, work, victim, before)


# On object storage


def test_verify_compact_and_vacuum_on_object_storage(bucket: str, small_lake: Path) -> None:
    import fsspec

    lake = f"s3://{bucket}/lake"
    fs = fsspec.filesystem("s3")
    for file in small_lake.rglob("*"):
        if file.is_file() and not file.name.startswith(".lock"):
            fs.put_file(str(file), f"{lake}/{file.relative_to(small_lake)}")
    expected = Lake(small_lake).sql("FROM episodes SELECT episode_id, content_hash ORDER BY 1").fetchall()
    assert verify(lake).proven
    assert compact(lake).commits == 1
    assert vacuum(lake, NOW).files > 0
    report = verify(lake)
    assert ([str(finding) for finding in report.findings], report.notes) == ([], [])
    opened = Lake(lake)
    assert [(e.episode_id, e._row["content_hash"]) for e in opened.episodes()] == expected
    assert remove(lake, [expected[0][0]]).commit == opened.commit + 1
    name = fs.glob(f"{lake}/frames/game=breakout/*.parquet")[0]
    data = bytearray(fs.cat_file(name))
    data[50] ^= 1
    fs.pipe_file(name, bytes(data))
    (finding,) = verify(lake).findings
    assert finding.file is not None
    assert name.endswith(finding.file)


# The commands


def invoke(*arguments: str | Path) -> Any:
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(maintenance.app, list(map(str, arguments)))


def test_the_commands(copied: Path) -> None:
    text = invoke("compact", copied, "--target-size", "1GiB").stdout
    assert "became" in text
    assert "in 1 commits" in text
    assert "nothing to do" in invoke("compact", copied).stdout
    told = json.loads(invoke("vacuum", copied, "--older-than", "0d", "--dry-run", "--output", "json").stdout)
    assert (told["commits"], told["dry_run"]) == ([0, 1, 2, 3, 4, 5, 6], True)
    assert f"removed 7 commits, {told['files']} files" in invoke("vacuum", copied, "--older-than", "0d").stdout
    (episode_id,) = ids_of(copied, "game = 'space_invaders_2p'")
    refused = invoke("remove", copied, "--episode", episode_id)
    assert isinstance(refused.exception, InvalidArgument)
    assert "add --yes" in str(refused.exception)
    assert episode_id in refused.stderr
    done = json.loads(invoke("remove", copied, "--episode", episode_id, "--yes", "--output", "json").stdout)
    assert (done["episodes"], done["commit"]) == ([episode_id], 9)
    assert "remove" in invoke("log", copied).stdout


@pytest.mark.parametrize(
    ("text", "size"), [("128MB", 128 * 10**6), ("1GiB", 1 << 30), ("1.5 kb", 1500), ("77", 77), ("3B", 3)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


def test_spans() -> None:
    assert maintenance.parse_span("7d") == timedelta(days=7)
    assert maintenance.parse_span("1.5h") == timedelta(minutes=90)
    for parse, text in (
        (maintenance.parse_span, "7"),
        (maintenance.parse_span, "soon"),
        (parse_size, "big"),
    ):
        with pytest.raises(InvalidArgument, match="write it as"):
            parse(text)
