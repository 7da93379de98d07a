"""What goes wrong between here and a remote source: told in our words, and never with a secret in them."""

from __future__ import annotations

import logging
import subprocess
import sys
import traceback
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from serving import Served, serving

from crowdplay_ingest import source_remote
from crowdplay_ingest.pipeline import IngestOptions, ingest
from crowdplay_ingest.sources import open_metadata, open_source
from crowdplay_lake.errors import InvalidArgument, UnknownPath

SECRET = "hunter2"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """A server of a folder of one episode, and of an archive of it."""
    pytest.importorskip("aiohttp")
    raw = tmp_path / "raw"
    (raw / "empty").mkdir(parents=True)
    (raw / "x.pickle").write_bytes(b"N.")
    with zipfile.ZipFile(raw / "x.zip", "w") as file:
        file.write(raw / "x.pickle", "x.pickle")
    with serving(raw) as server:
        yield server


@pytest.fixture
def s3(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket, for tests that change the environment: connections are made anew."""
    import s3fs

    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    yield bucket
    s3fs.S3FileSystem.clear_instance_cache()


# Addresses

REFUSED = {
    "user and password": (f"http://me:{SECRET}@example.org/x.zip", "a user or a password in it"),
    "user alone": (f"https://{SECRET}@example.org/x.zip", "a user or a password in it"),
    "keys": (f"s3://AKIA:{SECRET}@bucket/x.zip", "set AWS_ACCESS_KEY_ID"),
    "keys with a slash": (f"s3://AKIA:/{SECRET}@bucket/x.zip", "set AWS_ACCESS_KEY_ID"),
    "no port": (f"http://example.org:{SECRET}/x.zip", "names no host and port"),
    "no host": ("http:///x.zip", "names no host and port"),
    "no bucket": ("s3:///x.zip", "names no bucket"),
    "signed s3": (f"s3://bucket/x.zip?X-Amz-Signature={SECRET}", "no '\\?'"),
    "signed folder": (f"http://example.org/raw/?token={SECRET}", "no query"),
    "another scheme": (f"ftp://me:{SECRET}@example.org/x", "ftp://… is not read"),
    "another machine's file": ("file://there/x.zip", "file://… is not read"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_address_that_is_refused(case: str, tmp_path: Path) -> None:
    address, reason = REFUSED[case]
    for use in (open_source, open_metadata):
        with pytest.raises(InvalidArgument, match=reason) as caught:
            use(address)
        assert SECRET not in everything(caught.value)
        if "folder" in case:
            break
    with pytest.raises(InvalidArgument):
        ingest(address, tmp_path / "lake")
    assert not (tmp_path / "lake").exists()


def everything(error: BaseException) -> str:
    """All that a log could show of an error."""
    return "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error))


# HTTP

ANSWERS: list[tuple[str, list[int], type[Exception], str]] = [
    ("/none.zip", [], UnknownPath, r"no path 'http://.*/none\.zip'"),
    ("/none/", [], UnknownPath, "/none/"),
    ("/x.zip", [404] * 9, UnknownPath, r"x\.zip"),
    ("/x.zip", [401] * 9, PermissionError, "access denied"),
    ("/x.zip", [403] * 9, PermissionError, "access denied"),
    ("/", [403] * 9, PermissionError, "access denied"),
    ("/x.zip", [500] * 9, ConnectionError, "it answers 500"),
    ("/x.zip", [503] * 9, ConnectionError, "it answers 503"),
    ("/x.zip", [429] * 9, ConnectionError, "it answers 429"),
    ("/x.zip", [418] * 9, OSError, "status 418"),
    ("/x.zip", [200, *[503] * 9], ConnectionError, "it answers 503"),
    ("/empty/", [], InvalidArgument, "no raw episodes"),
]


@pytest.mark.parametrize(("path", "statuses", "kind", "reason"), ANSWERS)
def test_what_a_server_answers(
    served: Served,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    path: str,
    statuses: list[int],
    kind: type[Exception],
    reason: str,
) -> None:
    monkeypatch.setattr(source_remote, "PAUSE", 0.01)
    caplog.set_level(logging.INFO)
    for query in ("", f"?signature={SECRET}") if path.endswith("zip") else ("",):
        served.statuses[:] = statuses
        with pytest.raises(kind, match=reason) as caught:
            ingest(served.url + path + query, tmp_path / "lake")
        assert SECRET not in everything(caught.value)
    assert SECRET not in caplog.text


def test_a_server_that_falters_is_asked_again(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_remote, "PAUSE", 0.01)
    (raw,) = open_source(served.url + "/x.zip").episodes()
    served.statuses[:] = [503, 429]
    with raw.open() as opened:
        assert opened.stream.read() == b"N."


def test_a_transient_fault_is_not_held_against_the_file(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_remote, "PAUSE", 0.01)
    source = open_source(served.url + "/x.zip")
    monkeypatch.setattr("crowdplay_ingest.pipeline.open_source", lambda raw: source)
    served.statuses[:] = [503] * 3
    (rejection,) = ingest("", tmp_path / "lake").rejected
    assert rejection.reason == "cannot be read: the server is busy or broken (it answers 503); try again"
    assert rejection.stamp is None
    # It is no trajectory, but this time it was read.
    (rejection,) = ingest("", tmp_path / "lake").rejected
    assert "expected a list" in rejection.reason


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("aiohttp")
    for address in ("http://127.0.0.1:1/x.zip", "http://no-such-host.invalid/x.zip", "http://127.0.0.1:1/raw/"):
        with pytest.raises(ConnectionError, match="cannot be reached"):
            open_source(address)


def test_a_server_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    pytest.importorskip("aiohttp")
    monkeypatch.setattr(source_remote, "READ_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(TimeoutError, match="no answer in time"):
        open_source(f"http://127.0.0.1:{silent.getsockname()[1]}/x.zip")


HOW: list[tuple[dict[str, bool], str, str]] = [
    ({"ranges": False}, "/x.zip", "does not answer ranged requests"),
    ({"lengths": False}, "/x.zip", "does not say how long it is"),
]


@pytest.mark.parametrize(("how", "path", "reason"), HOW)
def test_a_server_that_cannot_do_it(tmp_path: Path, how: dict[str, bool], path: str, reason: str) -> None:
    pytest.importorskip("aiohttp")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        file.writestr("x.pickle", bytes(100_000))
    with serving(tmp_path, **how) as served, pytest.raises(InvalidArgument, match=reason):
        open_source(served.url + path)


def test_files_of_unknown_length_in_a_folder_are_named(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    (tmp_path / "x.pickle").write_bytes(b"N.")
    with serving(tmp_path, lengths=False) as served:
        source = open_source(served.url)
    assert source.unreadable == (("x.pickle", "the server does not say how long it is"),)


def test_pages_of_links_without_end(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    (served.root / "loop").symlink_to(served.root)
    with pytest.raises(InvalidArgument, match="go on without end"):
        open_source(served.url)


def test_a_file_that_changes_in_between(served: Served) -> None:
    (raw,) = open_source(served.url).episodes()
    (served.root / "x.pickle").write_bytes(b"")
    with raw.open() as opened, pytest.raises(OSError, match="it has changed"):
        opened.stream.read()


@pytest.mark.parametrize("tags", [True, False])
def test_a_stamp_tells_a_change(served: Served, tags: bool) -> None:
    served.tags = tags
    (before,) = open_source(served.url).episodes()
    (served.root / "x.pickle").write_bytes(b"N...")
    (after,) = open_source(served.url).episodes()
    assert before.stamp.startswith("etag:" if tags else "modified:")
    assert (before.size, before.stamp) != (after.size, after.stamp)


# Object storage


def without(name: str) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda monkeypatch: monkeypatch.delenv(name)


ENVIRONMENTS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], type[Exception], str]] = {
    "no credentials": (
        lambda m: (m.delenv("AWS_ACCESS_KEY_ID"), m.delenv("AWS_SECRET_ACCESS_KEY"), None)[2],
        PermissionError,
        "no credentials found: set AWS_ACCESS_KEY_ID",
    ),
    "half of them": (without("AWS_SECRET_ACCESS_KEY"), PermissionError, "no credentials found"),
    "no such profile": (lambda m: m.setenv("AWS_PROFILE", "nobody"), PermissionError, "no credentials found"),
    "no such server": (
        lambda m: m.setenv("AWS_ENDPOINT_URL", f"http://me:{SECRET}@127.0.0.1:1"),
        ConnectionError,
        "the storage cannot be reached: check the network, AWS_ENDPOINT_URL",
    ),
}


@pytest.mark.parametrize("case", ENVIRONMENTS)
def test_an_environment_that_does_not_do(s3: str, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    change, kind, reason = ENVIRONMENTS[case]
    change(monkeypatch)
    for address in (f"s3://{s3}/raw/", f"s3://{s3}/x.zip"):
        with pytest.raises(kind, match=reason) as caught:
            open_source(address)
        assert SECRET not in everything(caught.value)
        assert "test-secret-key" not in everything(caught.value)


@pytest.mark.parametrize("path", ["raw/", "raw", "x.zip", "x.pickle"])
def test_what_is_not_there(s3: str, path: str) -> None:
    with pytest.raises(UnknownPath, match=f"'s3://{s3}/{path}'"):
        open_source(f"s3://{s3}/{path}")
    with pytest.raises(UnknownPath, match="'s3://no-such-bucket-anywhere'"):
        open_source(f"s3://no-such-bucket-anywhere/{path}")


def test_access_denied(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bucket that lets nobody in: the server of the tests lets everybody, so its answer is made here."""
    import s3fs
    from botocore.exceptions import ClientError

    async def denied(*_: object, **__: object) -> None:
        answer = {"Error": {"Code": "AccessDenied", "Message": SECRET}, "ResponseMetadata": {"HTTPStatusCode": 403}}
        raise s3fs.errors.translate_boto_error(ClientError(answer, "HeadObject"))  # type: ignore[arg-type]

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", denied)
    with pytest.raises(PermissionError, match="access denied") as caught:
        open_source(f"s3://{s3}/x.zip")
    assert SECRET not in everything(caught.value)


def test_an_empty_bucket(s3: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="no raw episodes"):
        ingest(f"s3://{s3}", tmp_path / "lake")


def test_metadata_that_is_not_there(s3: str, served: Served, tmp_path: Path) -> None:
    raw = tmp_path / "raw" / "x.pickle"
    for address in (f"s3://{s3}/x.sqlite", f"{served.url}/x.sqlite", str(tmp_path / "x.sqlite")):
        with pytest.raises(UnknownPath, match=r"x\.sqlite"):
            ingest(raw, tmp_path / "lake", IngestOptions(metadata=address))


# Packages

MISSING = [("fsspec", "s3://b/x"), ("s3fs", "s3://b/x"), ("aiohttp", "http://h/x.zip"), ("fsspec", "http://h/x.zip")]


@pytest.mark.parametrize(("library", "address"), MISSING)
def test_a_missing_package_names_the_extra(library: str, address: str) -> None:
    code = (
        f"import sys; sys.modules[{library!r}] = None\n"
        "from crowdplay_ingest.sources import open_source\n"
        "from crowdplay_lake.errors import MissingExtra\n"
        f"try: open_source({address!r})\n"
        "except MissingExtra as error: print(error)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'crowdplay-lake[remote]'" in ran.stdout


def test_local_sources_need_no_package_of_remote_ones(served: Served) -> None:
    code = (
        "import sys\n"
        "from crowdplay_ingest.sources import open_source\n"
        "for raw in sys.argv[1:]: assert len(open_source(raw).episodes()) == 1\n"
        "print(*{name.partition('.')[0] for name in sys.modules} & {'fsspec', 's3fs', 'aiohttp', 'botocore', 'upath'})"
    )
    paths = [served.root, served.root / "x.zip", served.root / "x.pickle"]
    ran = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []
