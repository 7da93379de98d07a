"""Sources: every place that raw episodes can lie in gives the same lake, and what is odd about a place is told."""

from __future__ import annotations

import bz2
import os
import pickle
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from raw_files import put, read, zipped
from serving import Served, serving

from crowdplay_ingest.pipeline import IngestOptions, ingest
from crowdplay_ingest.recorder import EnvironmentPlan, EpisodePlan, RecordingOptions, record
from crowdplay_ingest.sources import open_metadata, open_source
from crowdplay_lake import Lake
from crowdplay_lake.errors import InvalidArgument, UnknownPath

pytest.importorskip("ale_py")

PLAN = [EnvironmentPlan("breakout_mturk", (EpisodePlan(30), EpisodePlan(40)), ("ben",))]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw folder of two episodes. Not to be changed."""
    folder = tmp_path_factory.mktemp("small")
    record(folder, PLAN, RecordingOptions(seed=3, compression="bz2"))
    return folder


@pytest.fixture(scope="module")
def expected(small: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """The content of the lake of ``small``."""
    lake = tmp_path_factory.mktemp("expected") / "lake"
    ingest(small, lake)
    return content(lake)


def content(lake: Path) -> dict[str, tuple[str, str]]:
    rows = Lake(lake).sql("SELECT episode_id, content_hash, game, source_sha256 FROM episodes").fetchall()
    return {row[0]: row[1:] for row in rows}


def upload(bucket: str, folder: Path, prefix: str = "") -> str:
    import boto3

    client = boto3.client("s3")
    for path in folder.rglob("*"):
        if path.is_file():
            client.upload_file(str(path), bucket, prefix + path.relative_to(folder).as_posix())
    return f"s3://{bucket}/{prefix}"


# Every place


@dataclass
class Places:
    """Where a test may put things."""

    folder: Path
    request: pytest.FixtureRequest
    stack: ExitStack

    def bucket(self) -> str:
        return str(self.request.getfixturevalue("bucket"))

    def serve(self, root: Path, **how: bool) -> Served:
        pytest.importorskip("aiohttp")
        return self.stack.enter_context(serving(root, **how))


@pytest.fixture
def places(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Places]:
    with ExitStack() as stack:
        yield Places(tmp_path, request, stack)


def as_zip(small: Path, places: Places, method: int = zipfile.ZIP_STORED) -> Path:
    (places.folder / "at").mkdir()
    return zipped(small, places.folder / "at" / "raw.zip", method, "crowdplay_atari-v0/")


FORMS: dict[str, Callable[[Path, Places], object]] = {
    "folder": lambda small, places: small,
    "file address": lambda small, places: small.as_uri(),
    "zip": as_zip,
    "zip, deflated": lambda small, places: as_zip(small, places, zipfile.ZIP_DEFLATED),
    "s3 folder": lambda small, places: upload(places.bucket(), small, "a/raw/"),
    "s3 folder, no slash": lambda small, places: upload(places.bucket(), small, "raw/").rstrip("/"),
    "s3 bucket": lambda small, places: upload(places.bucket(), small),
    "s3 zip": lambda small, places: upload(places.bucket(), as_zip(small, places).parent) + "raw.zip",
    "http folder": lambda small, places: places.serve(small.parent).url + f"/{small.name}",
    "http folder, no ranges": lambda small, places: places.serve(small, ranges=False).url,
    "http zip": lambda small, places: places.serve(as_zip(small, places).parent).url + "/raw.zip",
    "http zip, signed": lambda small, places: places.serve(as_zip(small, places).parent).url + "/raw.zip?key=S3CRET",
}


@pytest.mark.parametrize("form", FORMS)
def test_every_place_gives_the_same_lake(
    small: Path, expected: dict[str, tuple[str, str]], places: Places, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = FORMS[form](small, places)
    temporary = places.folder / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.chdir(temporary)
    lake = places.folder / "lake"
    summary = ingest(raw, lake)  # type: ignore[arg-type]
    assert (summary.episodes, summary.without_metadata, summary.rejected) == (2, 0, ())
    assert content(lake) == expected
    again = ingest(raw, lake)  # type: ignore[arg-type]
    assert (again.unchanged, again.commit, again.changed_files) == (2, summary.commit, ())
    # Read in place: nothing was unpacked anywhere, and no address with its key is kept.
    assert list(temporary.iterdir()) == []
    assert not any(b"S3CRET" in path.read_bytes() for path in lake.rglob("*") if path.is_file())


def test_the_same_files_in_another_place_are_the_same_episodes(small: Path, tmp_path: Path) -> None:
    first = ingest(small, tmp_path / "lake")
    again = ingest(zipped(small, tmp_path / "raw.zip"), tmp_path / "lake")
    # The stamps of the archive are kept, so that nothing is read the next time.
    assert (again.unchanged, again.changed_files, again.commit) == (2, (), first.commit + 1)


SINGLE: dict[str, Callable[[Path, Places], str]] = {
    "path": lambda small, places: str(one(small)),
    "s3": lambda small, places: upload(places.bucket(), small) + one(small).name,
    "http": lambda small, places: f"{places.serve(small).url}/{one(small).name}",
    "http, no ranges": lambda small, places: f"{places.serve(small, ranges=False).url}/{one(small).name}",
}


def one(small: Path) -> Path:
    return min(small.glob("*.pickle.bz2"))


@pytest.mark.parametrize("form", SINGLE)
def test_a_single_file_with_its_metadata_beside_it(small: Path, places: Places, form: str) -> None:
    source = open_source(SINGLE[form](small, places))
    (raw,) = source.episodes()
    assert (raw.name, raw.compression, raw.size) == (one(small).name, "bz2", one(small).stat().st_size)
    assert [file.name for file in source.metadata()] == ["dataset.sqlite"]
    assert read(raw)[0] == bz2.decompress(one(small).read_bytes())
    assert ingest(SINGLE[form](small, places), places.folder / "lake").without_metadata == 0


@pytest.mark.parametrize("form", ["path", "s3", "http"])
def test_metadata_elsewhere(small: Path, places: Places, form: str) -> None:
    raw = places.folder / "raw"
    shutil.copytree(small, raw, ignore=shutil.ignore_patterns("*.sqlite"))
    (places.folder / "other").mkdir()
    other = Path(shutil.copy(small / "dataset.sqlite", places.folder / "other" / "its.db"))
    where = {
        "path": lambda: other,
        "s3": lambda: upload(places.bucket(), other.parent) + "its.db",
        "http": lambda: places.serve(other.parent).url + "/its.db",
    }[form]()
    summary = ingest(raw, places.folder / "lake", IngestOptions(metadata=where))  # type: ignore[arg-type]
    assert (summary.without_metadata, summary.rejected) == (0, ())


def test_a_long_file_comes_in_pieces_and_from_a_server_without_ranges_too(places: Places) -> None:
    data = os.urandom(9 << 20)
    put(places.folder / "raw" / "e.pickle", data)
    for how in ({}, {"ranges": False}):
        served = places.serve(places.folder / "raw", **how)
        (raw,) = open_source(served.url).episodes()
        assert read(raw)[0] == data
        assert len([r for r in served.requests if r.startswith("GET /e.pickle")]) >= 3


# Workers


@pytest.mark.parametrize("form", ["folder", "zip", "s3 folder", "s3 zip", "http zip"])
def test_workers_open_a_file_from_what_it_says_of_itself(small: Path, places: Places, form: str) -> None:
    source = open_source(FORMS[form](small, places))  # type: ignore[arg-type]
    raws = source.episodes()
    assert sorted(raws) == raws
    assert pickle.loads(pickle.dumps(raws)) == raws
    here = [read(raw) for raw in raws]
    assert [data for data, _ in here] == [bz2.decompress((small / Path(r.name).name).read_bytes()) for r in raws]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(read, raws * 4)) == here * 4
    # Forked from a process that has read already, as executors do by default.
    with ProcessPoolExecutor(2) as processes:
        assert list(processes.map(read, raws)) == here


def test_a_member_of_a_remote_archive_is_read_alone(places: Places) -> None:
    (places.folder / "at").mkdir()
    with zipfile.ZipFile(places.folder / "at" / "raw.zip", "w") as file:
        for number in range(200):
            file.writestr(f"e{number:03}.pickle", os.urandom(200_000))
    served = places.serve(places.folder / "at")
    raws = open_source(served.url + "/raw.zip").episodes()
    assert served.sent < 200_000  # of 40 MB
    listed, asked = served.sent, len(served.requests)
    read(raws[70])
    assert served.sent - listed < 201_000
    assert len(served.requests) == asked + 1
    read(raws[-1])
    assert served.sent - listed < 440_000


# What is chosen


def names(source: Path | str) -> list[str]:
    return [raw.name for raw in open_source(source).episodes()]


def test_of_several_forms_one_is_taken_and_other_places_are_named(tmp_path: Path) -> None:
    for name in ("a/x.pickle.bz2", "a/x.pickle.gz", "b/x.pickle", "b/x.pickle.bz2", "c/x.pickle", "a/y.pickle"):
        put(tmp_path / "raw" / name, name.encode())
    source = open_source(tmp_path / "raw")
    assert [raw.name for raw in source.episodes()] == ["b/x.pickle", "a/y.pickle"]
    assert source.duplicates == [("b/x.pickle", "a/x.pickle.gz"), ("b/x.pickle", "c/x.pickle")]


def test_equal_copies_in_an_archive_are_no_duplicates(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "raw.zip", "w") as file:
        for name, data in (("a/x.pickle", b"1"), ("b/x.pickle", b"1"), ("c/x.pickle", b"2"), ("c/x.pickle.gz", b"2")):
            file.writestr(name, data)
    source = open_source(tmp_path / "raw.zip")
    assert [raw.name for raw in source.episodes()] == ["a/x.pickle"]
    assert source.duplicates == [("a/x.pickle", "c/x.pickle")]


ODD_NAMES = [
    "a b",
    "50%",
    "a#b",
    "a?b",
    "ü",
    "日本",
    "a\nb",
    "a&b",
    "a+b",
    "a'b",
    'a"b',
    "a\\b",
    "%41",
    "a;b=c",
    "-",
]


@pytest.mark.parametrize("form", ["folder", "zip", "s3", "http"])
def test_odd_names(places: Places, form: str) -> None:
    raw = places.folder / "raw"
    # The S3 server of the tests takes no key with a new line.
    odd = [name for name in ODD_NAMES if form != "s3" or "\n" not in name]
    for name in odd:
        put(raw / "x y" / f"{name}.pickle", name.encode())
    where = {
        "folder": lambda: raw,
        "zip": lambda: zipped(raw / "x y", places.folder / "raw.zip", inside="x y/"),
        "s3": lambda: upload(places.bucket(), raw),
        "http": lambda: places.serve(raw).url,
    }[form]()
    found = {r.episode_id: (r.name, read(r)[0].decode()) for r in open_source(where).episodes()}  # type: ignore[arg-type]
    if form == "zip":
        odd = [name if name != "a\\b" else "b" for name in odd]
        assert found.pop("b") == ("x y/a/b.pickle", "a\\b")
        odd.remove("b")
    assert found == {name: (f"x y/{name}.pickle", name) for name in odd}


def test_a_name_of_any_bytes(small: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    shutil.copy(one(small), os.fsencode(raw) + b"/\xff\xfe.pickle.bz2")
    assert names(raw) == ["\\xff\\xfe.pickle.bz2"]
    assert ingest(raw, tmp_path / "lake").episodes == 1


def test_what_is_in_a_folder_but_no_episode(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    put(raw / "good.pickle")
    for name in (".hidden.pickle", ".git/x.pickle", "__MACOSX/._y.pickle", "._good.pickle", "notes.txt", ".pickle"):
        put(raw / name)
    put(raw / "folder.pickle" / "inside.pickle")
    (raw / "empty").mkdir()
    (raw / "gone.pickle").symlink_to(tmp_path / "nothing")
    (raw / "self.pickle").symlink_to(raw / "self.pickle")
    (raw / "loop").symlink_to(raw)
    put(tmp_path / "elsewhere" / "linked.pickle")
    (tmp_path / "elsewhere" / "back").symlink_to(raw)
    (raw / "linked").symlink_to(tmp_path / "elsewhere")
    (raw / "again").symlink_to(raw / "folder.pickle")
    os.mkfifo(raw / "pipe.pickle")
    assert names(raw) == ["good.pickle", "folder.pickle/inside.pickle", "linked/linked.pickle"]
    assert open_source(raw).duplicates == []


def test_a_file_that_vanishes_is_rejected_and_tried_again(small: Path, tmp_path: Path) -> None:
    raw = Path(shutil.copytree(small, tmp_path / "raw"))
    (first, *_) = open_source(raw).episodes()
    Path(first.location).unlink()
    with pytest.raises(FileNotFoundError), first.open():
        pass
    path = Path(first.location)
    path.symlink_to(tmp_path)  # a folder by the time it is listed
    assert ingest(raw, tmp_path / "lake").episodes == 1
    path.unlink()
    shutil.copy(small / path.name, path)
    assert ingest(raw, tmp_path / "lake").episodes == 1


def test_folders_and_files_that_may_not_be_read_are_named(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = Path(shutil.copytree(small, tmp_path / "raw"))
    put(raw / "closed" / "x.pickle")
    put(raw / "closed" / "in" / "dataset.sqlite")
    refused = {"closed/x.pickle", "closed/in/dataset.sqlite"}
    assert {r.name for r in ingest(raw, tmp_path / "lake").rejected} == refused
    listed = os.scandir

    def scandir(folder: Path) -> Iterator[os.DirEntry[str]]:
        # Root, as which tests may run, is let in everywhere.
        if Path(folder).name == "closed":
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", scandir)
        source = open_source(raw)
        assert len(source.episodes()) == 2
        assert source.unreadable == (("closed", "cannot be listed: Permission denied"),)
        summary = ingest(raw, tmp_path / "lake")
        assert str(summary.rejected[0]) == "closed: cannot be listed: Permission denied"
        # What was found wrong below it before, nobody can tell now: it stays.
        assert {r.name for r in summary.rejected} == {"closed", *refused}
        with pytest.raises(PermissionError):
            open_source(raw / "closed")
    assert {r.name for r in ingest(raw, tmp_path / "lake", IngestOptions(metadata_only=True)).rejected} <= refused
    assert set(Lake(tmp_path / "lake").scan("rejected").collect()["name"]) == refused


# Wrong places


@pytest.mark.parametrize("kind", ["a folder", "a pipe"])
def test_metadata_that_is_no_file(small: Path, tmp_path: Path, kind: str) -> None:
    place = tmp_path / "metadata"
    os.mkfifo(place) if kind == "a pipe" else place.mkdir()
    with pytest.raises(InvalidArgument, match="no plain file" if kind == "a pipe" else "a folder; name the file in it"):
        ingest(small, tmp_path / "lake", IngestOptions(metadata=place))
    assert not (tmp_path / "lake").exists()


def test_an_address_that_became_a_path(tmp_path: Path) -> None:
    for use in (open_source, open_metadata):
        with pytest.raises(InvalidArgument, match="give that as text"):
            use(Path("s3://bucket/raw"))


@pytest.mark.parametrize("where", ["nothing", "nothing.zip", "raw.zip/x"])
def test_a_wrong_path_names_the_nearest(tmp_path: Path, where: str) -> None:
    put(tmp_path / "raw.zip")
    for opener in (open_source, open_metadata):
        with pytest.raises((UnknownPath, InvalidArgument), match=r"raw|nothing"):
            opener(tmp_path / where)
