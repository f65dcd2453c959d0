"""What a guarded file promises, on every kind of store."""

import fcntl
import os
import time
import uuid
from dataclasses import replace

import pytest
import s3fs

from actors import guarded_file as guarded_file_module
from actors.guarded_file import guarded_file
from actors.storage import join, list_names, read_bytes, write_atomically
from pipeline.chaos.s3_server import ceph_server, has_ceph
from tests.s3 import s3_client, split


@pytest.fixture(scope="module")
def ceph_bucket(s3_endpoint):
    """A bucket of another make, which compares hashes without their quotation marks."""
    if not has_ceph():
        if os.environ.get("CI"):
            pytest.fail("on Debian: apt-get install radosgw ceph-mon ceph-osd")
        pytest.skip("on Debian: apt-get install radosgw ceph-mon ceph-osd")
    with ceph_server() as endpoint, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", endpoint)
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("ceph-bucket")
        patch.undo()
        s3fs.S3FileSystem.clear_instance_cache()
        yield endpoint, "s3://ceph-bucket"


@pytest.fixture(params=["local", "s3", pytest.param("ceph", marks=pytest.mark.slow), "memory"])
def folder(request, tmp_path, monkeypatch):
    monkeypatch.setattr(guarded_file_module, "_SETTLE_S", 0.05)
    if request.param == "local":
        yield str(tmp_path / "out")
    elif request.param == "memory":
        yield f"memory://{uuid.uuid4().hex}/out"
    elif request.param == "s3":
        yield join(request.getfixturevalue("s3_bucket"), "out")
    else:
        endpoint, bucket = request.getfixturevalue("ceph_bucket")
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        s3fs.S3FileSystem.clear_instance_cache()
        yield join(bucket, uuid.uuid4().hex)
        s3fs.S3FileSystem.clear_instance_cache()


def test_it_is_written_only_as_it_was_last_seen(folder):
    url = join(folder, "a")
    file, other = guarded_file(url), guarded_file(url)
    assert file.read() is None
    first = file.write(b"1", None)
    assert first.data == file.read().data == read_bytes(url) == b"1"
    assert first.version == file.read().version
    assert other.write(b"2", None) is None
    second = other.write(b"2", other.read())
    assert second.data == b"2"
    assert file.write(b"3", first) is None
    assert file.write(b"2", first).version == second.version  # its own, whose answer it never got
    assert read_bytes(url) == b"2"
    assert list_names(folder) == ["a"]


def test_it_is_removed_only_as_it_was_last_seen(folder):
    url = join(folder, "a")
    file = guarded_file(url)
    first = file.write(b"1", None)
    second = file.write(b"2", first)
    file.remove(first)
    assert read_bytes(url) == b"2"
    file.remove(second)
    assert file.read() is None
    file.remove(second)
    assert file.write(b"3", second) is None
    assert list_names(folder) == []


def test_its_age_grows(folder):
    write_atomically(join(folder, "a"), b"1")
    file = guarded_file(join(folder, "a"))
    began = time.monotonic()
    assert file.read().age_s < 5.0
    time.sleep(2.1)
    # S3 knows whole seconds only.
    assert 1.0 <= file.read().age_s <= time.monotonic() - began + 5.0


def test_a_local_file_that_changes_before_it_is_locked_is_not_written(tmp_path, monkeypatch):
    url = str(tmp_path / "a")
    file, other = guarded_file(url), guarded_file(url)
    first = file.write(b"1", None)

    def late(*arguments):
        monkeypatch.undo()
        assert other.write(b"2", first).data == b"2"
        return fcntl.flock(*arguments)

    monkeypatch.setattr(guarded_file_module.fcntl, "flock", late)
    assert file.write(b"3", first) is None
    assert read_bytes(url) == b"2"


def test_a_disk_without_locks_will_do(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(guarded_file_module.errno.EOPNOTSUPP, "no locks here")

    monkeypatch.setattr(guarded_file_module.fcntl, "flock", refuse)
    file = guarded_file(str(tmp_path / "a"))
    first = file.write(b"1", None)
    second = file.write(b"2", first)
    assert file.write(b"3", first) is None
    file.remove(first)
    assert file.read().data == b"2"
    file.remove(second)
    assert file.read() is None


def test_versions_of_s3_are_etags(s3_bucket):
    url = join(s3_bucket, "a")
    seen = guarded_file(url).write(b"1", None)
    bucket, key = split(url)
    assert s3_client().head_object(Bucket=bucket, Key=key)["ETag"] == seen.version
    assert guarded_file(url).write(b"2", replace(seen, version='"0123"')) is None
