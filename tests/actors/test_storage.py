import io
import os
import stat
import threading
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3fs

from actors.storage import (
    CredentialsError,
    StorageError,
    join,
    list_names,
    list_sizes,
    local_path,
    open_binary,
    read_bytes,
    resolve,
    write_atomically,
)
from actors.storage_faults import Patience
from tests.s3 import put, s3_client, split


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place to write to: a local folder or a bucket."""
    return str(tmp_path / "out") if request.param == "local" else request.getfixturevalue("s3_bucket")


def test_written_bytes_are_read_back_whole_and_in_parts(folder):
    url = join(folder, "clips", "a b.bin")
    data = bytes(range(256)) * 20
    write_atomically(url, data)
    assert read_bytes(url) == data
    with open_binary(url) as file:
        assert file.read(10) == data[:10]
        assert file.seek(-300, io.SEEK_END) == len(data) - 300
        assert file.read() == data[-300:]
        assert file.seek(1300) == 1300
        assert file.read(4) == data[1300:1304]
    write_atomically(url, b"")
    assert read_bytes(url) == b""


def test_only_files_on_this_machine_have_a_local_path(tmp_path, s3_bucket):
    assert local_path(str(tmp_path)) == local_path(f"file://{tmp_path}") == tmp_path
    assert local_path(s3_bucket) is None


def test_names_are_those_directly_inside(folder):
    for name in ("clips/b.mp4", "clips/a.json", "clips/deeper/x", "clips/deeper/y", "clips2/z", "run.json"):
        write_atomically(join(folder, name), b"1")
    assert list_names(folder) == ["clips", "clips2", "run.json"]
    assert list_names(join(folder, "clips")) == ["a.json", "b.mp4", "deeper"]
    assert list_names(join(folder, "clips") + "/") == ["a.json", "b.mp4", "deeper"]
    assert list_names(join(folder, "clip")) == []
    assert list_names(join(folder, "nowhere/at/all")) == []
    assert list_names(join(folder, "run.json")) == []


def test_sizes_are_those_of_every_file_below(folder):
    for name, size in (("m/index.json", 3), ("m/base/shard-1", 10), ("m/base/deep/shard-2", 0), ("n", 4)):
        write_atomically(join(folder, name), b"x" * size)
    sizes = list_sizes(join(folder, "m"))
    assert {name: size for name, (size, _) in sizes.items()} == {
        "index.json": 3,
        "base/shard-1": 10,
        "base/deep/shard-2": 0,
    }
    assert list(list_sizes(join(folder, "n"))) == ["n"]
    with pytest.raises(StorageError, match=r"cannot list .*/missing: not found"):
        list_sizes(join(folder, "missing"))


def test_etag_follows_the_content(s3_bucket):
    url = join(s3_bucket, "m/a")
    write_atomically(url, b"one")
    ((size, before),) = list_sizes(join(s3_bucket, "m")).values()
    put(url, b"two")
    assert list_sizes(join(s3_bucket, "m"))["a"][0] == size
    assert before
    assert list_sizes(join(s3_bucket, "m"))["a"][1] not in (before, None)


def test_what_others_write_is_seen_at_once(s3_bucket):
    write_atomically(join(s3_bucket, "clips/a"), b"1")
    assert list_names(join(s3_bucket, "clips")) == ["a"]
    assert list_names(join(s3_bucket, "later")) == []
    put(join(s3_bucket, "clips/b"), b"22")
    put(join(s3_bucket, "later/c"), b"1")
    assert list_names(join(s3_bucket, "clips")) == ["a", "b"]
    assert list_names(join(s3_bucket, "later")) == ["c"]
    assert list_sizes(join(s3_bucket, "clips"))["b"][0] == 2


@pytest.mark.slow
def test_a_listing_of_many_pages_is_complete(s3_bucket):
    fs = s3fs.S3FileSystem()
    names = [f"{number:05d}.json" for number in range(1103)]
    fs.pipe({join(s3_bucket, "clips", name): b"{}" for name in names})
    assert list_names(join(s3_bucket, "clips")) == names
    assert len(list_sizes(s3_bucket)) == len(names)


def test_folder_markers_of_s3_consoles_are_no_files(s3_bucket):
    bucket, _ = split(s3_bucket)
    s3_client().put_object(Bucket=bucket, Key="m/", Body=b"")
    put(join(s3_bucket, "m/a"), b"1")
    assert list_names(join(s3_bucket, "m")) == ["a"]
    assert list(list_sizes(join(s3_bucket, "m"))) == ["a"]


def test_content_type_stays_with_the_object(s3_bucket, tmp_path):
    write_atomically(join(s3_bucket, "a.mp4"), b"1", content_type="video/mp4")
    bucket, _ = split(s3_bucket)
    assert s3_client().head_object(Bucket=bucket, Key="a.mp4")["ContentType"] == "video/mp4"
    write_atomically(str(tmp_path / "a.mp4"), b"1", content_type="video/mp4")
    assert (tmp_path / "a.mp4").read_bytes() == b"1"


def test_a_reader_sees_old_or_new_and_nothing_between(folder):
    url = join(folder, "run.json")
    versions = [bytes([letter]) * 400_000 for letter in b"abcdef"]
    write_atomically(url, versions[0])
    stop = threading.Event()
    seen: list[bytes] = []

    def read() -> None:
        while not stop.is_set():
            seen.append(read_bytes(url))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(5):
        for version in versions:
            write_atomically(url, version)
    stop.set()
    reader.join()
    assert seen
    assert all(content in versions for content in seen)


def test_a_failed_local_write_keeps_the_old_file_and_leaves_nothing(tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "inside").write_bytes(b"")
    with pytest.raises(StorageError, match=f"cannot write {tmp_path}/taken: "):
        write_atomically(str(tmp_path / "taken"), b"1")
    assert os.listdir(tmp_path) == ["taken"]


def test_local_files_can_be_read_by_whom_the_umask_lets(tmp_path):
    write_atomically(str(tmp_path / "a"), b"1")
    (tmp_path / "b").write_bytes(b"1")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE((tmp_path / "b").stat().st_mode)


def test_leftovers_of_a_killed_writer_are_not_listed(tmp_path):
    write_atomically(str(tmp_path / "a"), b"1")
    (tmp_path / f".{uuid.uuid4().hex}.partial").write_bytes(b"half")
    assert list_names(str(tmp_path)) == ["a"]
    assert list(list_sizes(str(tmp_path))) == ["a"]


def test_missing_files_and_buckets_are_one_line_with_the_url(folder, s3_endpoint):
    url = join(folder, "gone.bin")
    for action in (lambda: read_bytes(url), lambda: open_binary(url)):
        with pytest.raises(StorageError) as caught:
            action()
        assert str(caught.value).startswith(f"cannot read {url}: not found")
        assert "\n" not in str(caught.value)
    missing = f"s3://no-such-bucket-{uuid.uuid4().hex}"
    for wrong in (lambda: list_names(missing + "/clips"), lambda: write_atomically(missing + "/a", b"1")):
        with pytest.raises(StorageError, match=f"{missing}/.*: not found"):
            wrong()


def test_an_unknown_kind_of_url_is_named():
    with pytest.raises(StorageError, match=r"cannot read bogus://x/y: .*bogus"):
        read_bytes("bogus://x/y")


def test_a_store_out_of_reach_is_named(s3_endpoint, monkeypatch, impatience):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        with pytest.raises(StorageError, match=r"cannot read s3://bucket/key: .*127\.0\.0\.1:9"):
            read_bytes("s3://bucket/key")
    finally:
        s3fs.S3FileSystem.clear_instance_cache()


def test_a_store_that_goes_away_while_a_file_is_read_is_named(s3_bucket):
    url = join(s3_bucket, "a")
    write_atomically(url, bytes(3 * 2**20))
    with open_binary(url) as file:
        assert file.read(10) == bytes(10)
        s3_client().delete_object(Bucket=split(url)[0], Key=split(url)[1])
        file.seek(-10, io.SEEK_END)
        with pytest.raises(StorageError, match=f"^cannot read {url}: not found"):
            file.read()


@pytest.fixture
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    brief = Patience(limit_s=0.2, credentials_limit_s=0.2, first_wait_s=0.05)
    monkeypatch.setattr("actors.storage_faults.PATIENCE", brief)


@pytest.fixture
def locked_s3(s3_endpoint: str) -> Iterator[None]:
    """From here on the server checks who asks, and knows nobody."""

    def allow(num_requests: str) -> None:
        # A form, which urllib would declare, reaches the server's handler empty.
        kind = {"Content-Type": "text/plain"}
        request = urllib.request.Request(
            f"{s3_endpoint}/moto-api/reset-auth", num_requests.encode(), kind, method="POST"
        )
        urllib.request.urlopen(request).close()

    allow("0")
    yield
    allow("inf")


def test_unknown_credentials_are_one_line_with_the_url(s3_bucket, impatience, locked_s3):
    url = join(s3_bucket, "a")
    actions = {
        "read": lambda: read_bytes(url),
        "write": lambda: write_atomically(url, b"1"),
        "list": lambda: list_names(url),
    }
    for name, action in actions.items():
        with pytest.raises(CredentialsError, match=f"^cannot {name} {url}: credentials are .*InvalidAccessKeyId.*$"):
            action()


def test_join_and_its_limits():
    assert join("s3://b/out/", "clips", "a.mp4") == "s3://b/out/clips/a.mp4"
    assert join("/data", "x/y/") == "/data/x/y"
    assert join("/", "x") == "/x"
    for bad in ("", "/", "..", "a/../../b"):
        with pytest.raises(ValueError, match=r"path part .* under s3://b"):
            join("s3://b", bad)


@pytest.mark.parametrize(
    ("reference", "base", "answer"),
    [
        ("a.png", "s3://b/sets/one", "s3://b/sets/one/a.png"),
        ("../img/a.png", "s3://b/sets/one/", "s3://b/sets/img/a.png"),
        ("./a.png", "s3://b", "s3://b/a.png"),
        ("a.png", "/data/sets", "/data/sets/a.png"),
        ("../a.png", "/data/sets", "/data/a.png"),
        ("a.png", "file:///data/sets", "file:///data/sets/a.png"),
        ("/abs/a.png", "s3://b/sets", "/abs/a.png"),
        ("https://h/a.png", "/data", "https://h/a.png"),
        ("s3://c/a.png", "s3://b/sets", "s3://c/a.png"),
    ],
)
def test_references_of_a_manifest(reference, base, answer):
    assert resolve(reference, base) == answer


def test_references_are_absolute_and_stay_in_the_store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve("a.png", "sets") == str(tmp_path / "sets" / "a.png")
    assert resolve("a.png", "") == str(tmp_path / "a.png")
    for bad in ("../x", "../../x", "a/../../x"):
        with pytest.raises(ValueError, match="it leaves s3://b"):
            resolve(bad, "s3://b")
    with pytest.raises(ValueError, match="reference '' "):
        resolve("", "/data")
