"""A store that lets one down: what passes is waited for, what does not is told of in time, and nothing is half done."""

import errno
import logging
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import aiohttp
import pytest
import s3fs
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError, ParamValidationError

from actors import storage_faults
from actors.storage import join, list_names, list_sizes, open_binary, read_bytes, remove, write_atomically
from actors.storage_faults import CredentialsError, Patience, StorageError, StoreUnavailableError, diagnose, persist
from pipeline.chaos.faulty_store import PASSING_FAULTS
from tests.s3 import in_front_of, s3_client, split

FAST = Patience(limit_s=60.0, credentials_limit_s=60.0, first_wait_s=0.05, longest_wait_s=0.4, answer_s=1.0)
BRIEF = Patience(limit_s=0.25, credentials_limit_s=0.25, first_wait_s=0.05, longest_wait_s=0.1, answer_s=0.2)
BIG = os.urandom(2_500_000)


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(storage_faults, "PATIENCE", FAST)
    # Every call once: botocore's waits are long, and what it repeats would hide what we do.
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")


class Truth:
    """What the store holds, seen past its faults."""

    def __init__(self):
        self.client = s3_client()

    def read(self, url):
        bucket, key = split(url)
        return self.client.get_object(Bucket=bucket, Key=key)["Body"].read()

    def keys(self, url):
        bucket, prefix = split(url)
        found = self.client.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
        return {f"s3://{bucket}/{item['Key']}" for item in found}


@pytest.fixture
def truth(s3_bucket):
    return Truth()


@pytest.fixture
def store(s3_endpoint, truth):
    with in_front_of(s3_endpoint, hang_s=3.0) as store:
        yield store


def work(folder, number):
    """Ten operations, everything checked."""
    url, kept = join(folder, f"{number}.bin"), join(folder, f"{number}.json")
    for version in (b"one", b"other"):
        content = version + str(number).encode() * 1000
        write_atomically(url, content, content_type="video/mp4")
        assert read_bytes(url) == content
    assert url.rpartition("/")[2] in list_names(folder)
    assert list_sizes(url) == {f"{number}.bin": (len(content), list_sizes(folder)[f"{number}.bin"][1])}
    with open_binary(join(folder, "big"), block_bytes=2**19) as file:
        file.seek(400_000 * (number % 5))
        assert file.read(700_000) == BIG[file.tell() - 700_000 : file.tell()]
    write_atomically(kept, content)
    remove(url)


@pytest.mark.slow
@pytest.mark.parametrize("attempts", ["1", "3"])
def test_a_tenth_of_all_calls_may_fail(store, s3_bucket, truth, monkeypatch, attempts):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", attempts)
    folder = join(s3_bucket, "out")
    write_atomically(join(folder, "big"), BIG)
    store.fraction = 0.1
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: work(folder, number), range(30)))
    store.fraction = 0.0
    assert all(store.counts[fault] > 0 for fault in PASSING_FAULTS), store.counts
    assert truth.keys(folder) == {join(folder, "big"), *(join(folder, f"{number}.json") for number in range(30))}
    for number in range(30):
        assert truth.read(join(folder, f"{number}.json")) == b"other" + str(number).encode() * 1000


@pytest.mark.slow
def test_nobody_sees_a_part_of_a_file(store, s3_bucket, truth):
    url = join(s3_bucket, "run.json")
    versions = [bytes([letter]) * 400_000 for letter in b"abcdef"]
    write_atomically(url, versions[0])
    store.fraction = 0.3
    stop, seen = threading.Event(), []

    def watch():
        while not stop.is_set():
            seen.append(truth.read(url))

    watcher = threading.Thread(target=watch)
    watcher.start()
    for version in versions:
        write_atomically(url, version)
        assert read_bytes(url) == version
    stop.set()
    watcher.join()
    assert len(seen) > 5
    assert all(content in versions for content in seen)


@pytest.mark.slow
def test_a_large_file_goes_in_parts_and_is_whole(store, s3_bucket, truth, monkeypatch):
    monkeypatch.setattr(storage_faults, "PATIENCE", replace(FAST, answer_s=15.0))
    url, data = join(s3_bucket, "large"), bytes(101 * 2**20)
    # Begin, three parts, and an end whose answer is lost: then s3fs finds no upload to break off.
    store.script.extend([*["passed"] * 4, "lost_answer", "passed"])
    write_atomically(url, data)
    assert truth.read(url) == data
    assert store.counts["lost_answer"] == 1, store.counts


@pytest.mark.slow
@pytest.mark.parametrize("fault", [*PASSING_FAULTS, "gone"])
def test_a_store_that_is_down_is_one_line_in_time(store, s3_bucket, monkeypatch, caplog, fault):
    monkeypatch.setattr(storage_faults, "PATIENCE", BRIEF)
    url = join(s3_bucket, "a")
    write_atomically(url, BIG)
    with open_binary(url) as file:
        assert file.read(10) == BIG[:10]
        store.faults, store.fraction = (fault,), 1.0
        if fault == "gone":
            store.close()
        actions = {
            "read": (
                lambda: read_bytes(url),
                lambda: open_binary(url).read(),
                lambda: file.seek(-1, 2) and file.read(),
            ),
            "write": (lambda: write_atomically(url, b"1"),),
            "list": (lambda: list_names(s3_bucket), lambda: list_sizes(s3_bucket)),
        }
        for name, tried in actions.items():
            for action in tried:
                caplog.clear()
                began = time.monotonic()
                with pytest.raises(StoreUnavailableError) as caught:
                    action()
                assert time.monotonic() - began < 10.0
                assert str(caught.value).startswith(f"cannot {name} {url if name != 'list' else s3_bucket}: the store")
                assert "\n" not in str(caught.value)
                assert " tries in " in str(caught.value)
                assert not isinstance(caught.value, CredentialsError)
                assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1


@pytest.mark.slow
def test_credentials_that_expire_and_are_accepted_again(store, s3_bucket, truth):
    folder = join(s3_bucket, "out")
    write_atomically(join(folder, "big"), BIG)
    with open_binary(join(folder, "big")) as file:
        assert file.read(10) == BIG[:10]
        store.faults, store.fraction = ("expired_token",), 1.0
        timer = threading.Timer(1.5, setattr, (store, "fraction", 0.0))
        timer.start()
        with ThreadPoolExecutor(8) as pool:
            working = [pool.submit(work, folder, number) for number in range(8)]
            assert file.read() == BIG[10:]
            for future in working:
                future.result()
        timer.join()
    assert store.counts["expired_token"] >= 8


@pytest.mark.slow
def test_fresh_credentials_are_looked_for(store, s3_bucket, truth, tmp_path, monkeypatch):
    def write_credentials(key):
        content = f"[default]\naws_access_key_id = {key}\naws_secret_access_key = x\n"
        write_atomically(str(tmp_path / "credentials"), content.encode())

    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    write_credentials("first")
    folder = join(s3_bucket, "out")
    write_atomically(join(folder, "big"), BIG)
    store.expired_keys.add("first")
    timer = threading.Timer(1.0, write_credentials, ("second",))
    timer.start()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: work(folder, number), range(8)))
    timer.join()
    assert store.counts["expired_token"] >= 8


@pytest.mark.slow
@pytest.mark.parametrize("num_passed", range(3))
@pytest.mark.parametrize("num_expired", [1, 2])
def test_credentials_that_expire_at_any_call_of_a_reading(store, s3_bucket, num_passed, num_expired):
    url = join(s3_bucket, "big")
    write_atomically(url, BIG)
    s3fs.S3FileSystem.clear_instance_cache()  # which knows the file's size
    # Two in a row: botocore asks for the bucket's region where a HEAD is answered by 400.
    store.script.extend([*["passed"] * num_passed, *["expired_token"] * num_expired])
    with open_binary(url) as file:
        assert file.read() == BIG
    assert list_sizes(s3_bucket)
    assert store.counts["expired_token"] == num_expired


@pytest.mark.slow
def test_credentials_that_stay_expired_are_told_of(store, s3_bucket, monkeypatch):
    monkeypatch.setattr(storage_faults, "PATIENCE", replace(BRIEF, answer_s=5.0))
    url = join(s3_bucket, "a")
    write_atomically(url, b"1")
    store.faults, store.fraction = ("expired_token",), 1.0
    for action in (
        lambda: read_bytes(url),
        lambda: open_binary(url),
        lambda: write_atomically(url, b"2"),
        lambda: list_names(url),
        lambda: list_sizes(url),
        lambda: remove(url),
    ):
        began = time.monotonic()
        with pytest.raises(CredentialsError, match=rf"{url}: credentials are .* tries in .* \(ExpiredToken: .*\)$"):
            action()
        assert time.monotonic() - began < 10.0


def test_a_refusal_is_final_at_once(store, s3_bucket):
    url = join(s3_bucket, "a")
    store.faults, store.fraction = ("access_denied",), 1.0
    for num_calls, action in (
        (1, lambda: read_bytes(url)),
        (2, lambda: open_binary(url)),  # the reason is asked for
        (1, lambda: write_atomically(url, b"2")),
        (1, lambda: list_sizes(url)),
        (1, lambda: remove(url)),
    ):
        store.counts.clear()
        with pytest.raises(StorageError, match=rf"{url}: access denied \(AccessDenied: ") as caught:
            action()
        assert type(caught.value) is StorageError
        assert store.counts.total() == num_calls


def test_what_is_missing_is_final_at_once(store, s3_bucket):
    with pytest.raises(StorageError, match="not found") as caught:
        read_bytes(join(s3_bucket, "a"))
    assert type(caught.value) is StorageError
    assert store.counts.total() == 1


def test_a_store_without_room_is_told_of_at_once(store, s3_bucket):
    store.faults, store.fraction = ("quota_exceeded",), 1.0
    with pytest.raises(StoreUnavailableError, match=r"cannot write .*/a: no space left \(QuotaExceeded: "):
        write_atomically(join(s3_bucket, "a"), b"1")
    assert store.counts.total() == 1


def test_a_full_disk_keeps_the_old_file_and_leaves_nothing(tmp_path, monkeypatch):
    url = str(tmp_path / "a")
    write_atomically(url, b"old")

    def fsync(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StoreUnavailableError, match=f"^cannot write {url}: no space left .*No space left on device"):
        write_atomically(url, b"new")
    assert os.listdir(tmp_path) == ["a"]
    assert read_bytes(url) == b"old"


class Unsteady:
    """A disk that fails with `faults`, one after the other, and is well then."""

    protocol = ("file",)

    def __init__(self, *faults):
        self.faults, self.times = list(faults), []

    def act(self):
        self.times.append(time.monotonic())
        if self.faults:
            raise self.faults.pop(0)
        return "done"


def test_waits_grow_and_end():
    fs = Unsteady(*(OSError(errno.EIO, "torn off") for _ in range(5)))
    patience = Patience(first_wait_s=0.02, longest_wait_s=0.1)
    assert persist("read", "/a", fs, fs.act, patience) == "done"
    waits = [later - earlier for earlier, later in zip(fs.times, fs.times[1:], strict=False)]
    for wait, longest in zip(waits, (0.02, 0.04, 0.08, 0.1, 0.1), strict=True):
        assert longest / 2 <= wait < longest + 0.05


def test_the_limit_is_counted_from_the_first_failure():
    patience = Patience(limit_s=0.3, first_wait_s=0.01)
    fs = Unsteady(OSError(errno.EIO, "torn off"))

    def slow():
        time.sleep(0.4)
        return fs.act()

    assert persist("read", "/a", fs, slow, patience) == "done"
    fs = Unsteady(*(OSError(errno.EIO, "torn off") for _ in range(1000)))
    with pytest.raises(StoreUnavailableError, match=r"^cannot read /a: the store .* after \d+ tries in 0 s"):
        persist("read", "/a", fs, fs.act, patience)
    assert 3 < len(fs.times) < 30


def test_passwords_are_not_told():
    fs = Unsteady(OSError("https://me:word@host/a is odd"))
    with pytest.raises(StorageError, match=r"^cannot read https://\*\*\*@host/a: https://\*\*\*@host/a is odd$"):
        persist("read", "https://me:word@host/a", fs, fs.act)


def answer(code, status):
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject")


def raised_from(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (FileNotFoundError("a"), "missing"),
        (answer("NoSuchBucket", 404), "missing"),
        (PermissionError("a"), "forbidden"),
        (raised_from(PermissionError("a"), answer("AccessDenied", 403)), "forbidden"),
        (raised_from(PermissionError("a"), answer("ExpiredToken", 400)), "credentials"),
        (raised_from(PermissionError("a"), answer("InvalidAccessKeyId", 403)), "credentials"),
        (NoCredentialsError(), "credentials"),
        (answer("QuotaExceeded", 403), "full"),
        (answer("XMinioStorageFull", 507), "full"),
        (OSError(errno.EDQUOT, "a"), "full"),
        (answer("503", 503), "passing"),
        (answer("Odd", 599), "passing"),
        (answer("InternalError", 200), "passing"),
        (raised_from(FileNotFoundError("a"), answer("NoSuchUpload", 404)), "passing"),
        (answer("NotImplemented", 501), "invalid"),
        (answer("InvalidArgument", 400), "invalid"),
        (raised_from(OSError(errno.EIO, "a"), answer("OfNoUse", 400)), "invalid"),
        (OSError(errno.EIO, "a"), "passing"),
        (OSError(errno.ESTALE, "a"), "passing"),
        (OSError(errno.EROFS, "a"), "invalid"),
        (OSError("without a number"), "invalid"),
        (TimeoutError(), "passing"),
        (ConnectionResetError(), "passing"),
        (socket.gaierror(socket.EAI_AGAIN, "a"), "passing"),
        (socket.gaierror(socket.EAI_NONAME, "a"), "invalid"),
        (EndpointConnectionError(endpoint_url="a"), "passing"),
        (ParamValidationError(report="a"), "invalid"),
        (aiohttp.ClientPayloadError(), "passing"),
        (aiohttp.ClientResponseError(None, (), status=503), "passing"),
        (aiohttp.ClientResponseError(None, (), status=403), "forbidden"),
        (aiohttp.ClientResponseError(None, (), status=410), "invalid"),
        (aiohttp.InvalidURL("a"), "invalid"),
        (ValueError("a"), "invalid"),
    ],
)
def test_kinds_of_faults(error, fault):
    assert diagnose(error) == fault
