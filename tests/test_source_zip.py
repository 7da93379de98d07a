"""Zip archives as sources: read in place, and nothing that one says is believed."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from raw_files import archive_of, read, zipped

from crowdplay_ingest import source_zip
from crowdplay_ingest.pipeline import ingest
from crowdplay_ingest.recorder import EnvironmentPlan, EpisodePlan, RecordingOptions, record
from crowdplay_ingest.sources import open_source
from crowdplay_lake.errors import InvalidArgument, LimitExceeded, RawDataError

pytest.importorskip("ale_py")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw folder of one episode. Not to be changed."""
    folder = tmp_path_factory.mktemp("small")
    record(folder, [EnvironmentPlan("breakout_mturk", (EpisodePlan(20),), ("ben",))], RecordingOptions(seed=3))
    return folder


def one(small: Path) -> Path:
    return min(small.glob("*.pickle.bz2"))


def test_names_in_an_archive_are_names_only(tmp_path: Path) -> None:
    evil = [
        "../../up.pickle",
        "/etc/absolute.pickle",
        "C:\\x\\win.pickle",
        "a/./dot.pickle",
        "x/",
        "__MACOSX/._a.pickle",
    ]
    raw = archive_of(tmp_path / "raw.zip", *((name, b"N." if name != "x/" else b"") for name in evil))
    found = {r.episode_id: r.name for r in open_source(raw).episodes()}
    assert found == {
        "up": "../../up.pickle",
        "absolute": "/etc/absolute.pickle",
        "win": "C:/x/win.pickle",
        "dot": "a/./dot.pickle",
    }
    assert [read(r)[0] for r in open_source(raw).episodes()] == [b"N."] * 4


def test_a_member_without_a_name_is_none(tmp_path: Path) -> None:
    raw = tmp_path / "raw.zip"
    with zipfile.ZipFile(raw, "w") as archive:
        archive.writestr("x.pickle", b"N.")
        archive.writestr("y.pickle", b"N.")
        archive.filelist[1].filename = ""  # what the directory will say
    assert [r.episode_id for r in open_source(raw).episodes()] == ["x"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_of_two_members_of_one_name_the_last_counts(tmp_path: Path) -> None:
    raw = archive_of(tmp_path / "raw.zip", ("x.pickle", b"old"), ("y.pickle", b"y"), ("x.pickle", b"new"))
    (x, y) = open_source(raw).episodes()
    assert (read(x)[0], read(y)[0]) == (b"new", b"y")


def test_a_very_large_archive(tmp_path: Path) -> None:
    """ZIP64: members that begin beyond 4 GiB. The file has holes, so it takes no room."""
    path = tmp_path / "raw.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("first.pickle", b"1")
        assert file.fp is not None
        file.fp.seek(5 << 30)
        file.start_dir = file.fp.tell()
        with file.open(zipfile.ZipInfo("second.pickle"), "w", force_zip64=True) as member:
            member.write(b"2")
        file.writestr("third.pickle", b"3", zipfile.ZIP_DEFLATED)
    raws = open_source(path).episodes()
    assert [(r.episode_id, read(r)[0]) for r in raws] == [("first", b"1"), ("second", b"2"), ("third", b"3")]


def patched(path: Path, change: Callable[[bytearray], None]) -> Path:
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)
    return path


def replace(old: bytes, new: bytes) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        assert old in data
        data[:] = data.replace(old, new)

    return change


def set_both_headers(at_local: int, at_central: int, value: bytes) -> Callable[[bytearray], None]:
    """Into the first member's local header and the directory's, at their places of the same field."""

    def change(data: bytearray) -> None:
        central = data.index(b"PK\x01\x02")
        data[at_local : at_local + len(value)] = value
        data[central + at_central : central + at_central + len(value)] = value

    return change


def claim_size(data: bytearray) -> None:
    central = data.index(b"PK\x01\x02")
    data[central + 24 : central + 28] = (5_000_000).to_bytes(4, "little")


MEMBER = b"abcdefghij" * 300
BAD_MEMBERS: dict[str, tuple[int, Callable[[bytearray], None], str]] = {
    "encrypted": (zipfile.ZIP_STORED, set_both_headers(6, 8, b"\x01"), "encrypted in the archive"),
    "another method": (zipfile.ZIP_STORED, set_both_headers(8, 10, b"\x0e"), "method 14"),
    "damaged": (zipfile.ZIP_STORED, replace(b"abcdefghij", b"abcdefghiJ"), "checksum"),
    "damaged, deflated": (zipfile.ZIP_DEFLATED, lambda d: d.__setitem__(slice(40, 50), b"\xff" * 10), "damaged"),
    "no header": (zipfile.ZIP_STORED, replace(b"PK\x03\x04", b"PKxx"), "not where the archive's directory says"),
    "longer than it is": (zipfile.ZIP_STORED, claim_size, "truncated in the archive"),
    "longer than it is, deflated": (zipfile.ZIP_DEFLATED, claim_size, "truncated in the archive"),
    "over the next": (
        zipfile.ZIP_STORED,
        lambda d: d.__setitem__(slice(d.index(b"PK\x01\x02") + 20, d.index(b"PK\x01\x02") + 24), b"\xff\xff\0\0"),
        "reaches into another member",
    ),
}


@pytest.mark.parametrize("fault", BAD_MEMBERS)
def test_a_member_that_cannot_be_taken_is_rejected(small: Path, tmp_path: Path, fault: str) -> None:
    method, change, reason = BAD_MEMBERS[fault]
    path = patched(archive_of(tmp_path / "raw.zip", ("x.pickle", MEMBER), method=method), change)
    with zipfile.ZipFile(path, "a") as file:
        file.write(one(small), one(small).name)
    with pytest.raises(RawDataError, match=reason):
        read(open_source(path).episodes()[-1])
    summary = ingest(path, tmp_path / "lake")
    (rejection,) = summary.rejected
    assert (rejection.name, summary.episodes) == ("x.pickle", 1)
    assert rejection.stamp is not None


BAD_ARCHIVES: dict[str, Callable[[bytes], bytes]] = {
    "cut short": lambda data: data[: len(data) // 2],
    "no archive": lambda data: b"hello",
    "empty": lambda data: b"",
    "directory overwritten": lambda data: data.replace(b"PK\x01\x02", b"PKxx"),
    "directory before the beginning": lambda data: data[:-6] + b"\xf0\xff\xff\x7f" + data[-2:],
    "directory of 3 GB": lambda data: data[:-10] + b"\0\0\0\xc0" + data[-6:],
}


@pytest.mark.parametrize("fault", BAD_ARCHIVES)
def test_a_damaged_archive_is_a_clear_word(tmp_path: Path, fault: str) -> None:
    path = archive_of(tmp_path / "raw.zip", ("x.pickle", MEMBER))
    path.write_bytes(BAD_ARCHIVES[fault](path.read_bytes()))
    with pytest.raises(InvalidArgument, match=r"raw\.zip: not a whole zip archive"):
        open_source(path)


def test_a_directory_beyond_any_size_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archive_of(tmp_path / "raw.zip", *((f"{n}.pickle", b"") for n in range(100)))
    monkeypatch.setattr(source_zip, "MAX_DIRECTORY_BYTES", 1000)
    with pytest.raises(InvalidArgument, match="its directory is longer"):
        open_source(path)


def test_a_bomb_is_read_as_a_stream_and_refused_by_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archive_of(tmp_path / "raw.zip", ("x.pickle", bytes(50_000_000)), method=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    (raw,) = open_source(path).episodes()
    with raw.open() as opened:
        assert opened.stream.read(10) == bytes(10)
        assert opened.consumed < 3 << 20
    monkeypatch.setattr(source_zip, "MAX_MEMBER_BYTES", 1 << 20)
    with pytest.raises(LimitExceeded, match="unpacks to 50,000,000 bytes"), raw.open():
        pass


def test_an_archive_of_archives_is_refused_by_name(small: Path, tmp_path: Path) -> None:
    inner = zipped(small, tmp_path / "inner.zip")
    with pytest.raises(InvalidArgument, match=r"an archive of archives \(deep/inner\.zip\)"):
        open_source(archive_of(tmp_path / "outer.zip", ("deep/inner.zip", inner.read_bytes())))
    (tmp_path / "raw").mkdir()
    inner.rename(tmp_path / "raw" / "inner.zip")
    with pytest.raises(InvalidArgument, match=r"archives in it are not looked into, name one: inner\.zip"):
        ingest(tmp_path / "raw", tmp_path / "lake")


def test_metadata_is_found_by_its_name(tmp_path: Path) -> None:
    raw = archive_of(tmp_path / "raw.zip", ("b/dataset.sqlite", b"b"), ("a/dataset.sqlite", b"a"), ("x.sqlite", b"x"))
    found = open_source(raw).metadata()
    assert [(file.name, file.read(10), file.path) for file in found] == [
        ("a/dataset.sqlite", b"a", None),
        ("b/dataset.sqlite", b"b", None),
    ]
