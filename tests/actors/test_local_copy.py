import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import s3fs

import actors.local_copy
from actors.local_copy import local_copy
from actors.storage import StorageError, join, write_atomically
from tests.s3 import put, s3_client, split

ROOT = Path(__file__).parents[2]
COPY_CODE = """
import logging, sys
import actors.local_copy
from actors.local_copy import local_copy
actors.local_copy.PIECE_BYTES = 2**20
logging.basicConfig(stream=sys.stdout, level=logging.WARNING, format="%(message)s")
logging.getLogger("actors.local_copy").setLevel(logging.INFO)
print("ready at", local_copy(sys.argv[1], sys.argv[2]))
"""


def start_copy(url: str, cache: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", COPY_CODE, url, str(cache)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def fill_checkpoint(base: str) -> dict[str, bytes]:
    files = {
        "model_index.json": b"{}",
        "distill/model.safetensors.index.json": b"{1}",
        "distill/deep/shard-1": b"x" * 1000,
        "540p_sr/shard-1": b"y" * 500,
        "distill2/other": b"z",
    }
    for name, data in files.items():
        write_atomically(join(base, name), data)
    return files


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_local_folder_is_used_as_it_is(tmp_path):
    fill_checkpoint(str(tmp_path / "model"))
    cache = tmp_path / "cache"
    for url in (str(tmp_path / "model"), f"file://{tmp_path}/model/"):
        assert local_copy(url, cache, ["distill"]) == tmp_path / "model"
    assert not cache.exists()
    with pytest.raises(StorageError, match=f"cannot read {tmp_path}/model: not found .*1080p_sr"):
        local_copy(str(tmp_path / "model"), cache, ["distill", "1080p_sr"])


def test_a_remote_folder_is_copied_with_the_parts_asked_for(s3_bucket, tmp_path):
    url = join(s3_bucket, "magihuman")
    files = fill_checkpoint(url)
    copy = local_copy(url, tmp_path, ["distill", "model_index.json"])
    assert copy.name == "magihuman"
    needed = {name: data for name, data in files.items() if name.startswith(("distill/", "model_index"))}
    assert files_below(copy) == needed
    assert local_copy(url + "/", str(tmp_path), None) == copy
    assert files_below(copy) == files
    with pytest.raises(StorageError, match=f"cannot read {url}: not found .*1080p_sr"):
        local_copy(url, tmp_path, ["distill", "1080p_sr"])


def test_one_remote_file_is_copied_too(s3_bucket, tmp_path):
    write_atomically(join(s3_bucket, "vae/checkpoint.ckpt"), b"weights")
    copy = local_copy(join(s3_bucket, "vae/checkpoint.ckpt"), tmp_path)
    assert copy.name == "checkpoint.ckpt"
    assert copy.read_bytes() == b"weights"


def test_only_what_changed_is_fetched_again(s3_bucket, tmp_path):
    url = join(s3_bucket, "m")
    fill_checkpoint(url)
    copy = local_copy(url, tmp_path)
    before = {name: (copy / name).stat().st_ino for name in files_below(copy)}
    put(join(url, "540p_sr/shard-1"), b"Y" * 500)
    (copy / "distill/deep/shard-1").write_bytes(b"cut")
    s3_client().delete_object(Bucket=split(url)[0], Key="m/distill2/other")
    assert local_copy(url, tmp_path) == copy
    after = {name: (copy / name).stat().st_ino for name in files_below(copy)}
    assert {name for name in after if after[name] != before[name]} == {"540p_sr/shard-1", "distill/deep/shard-1"}
    assert set(before) - set(after) == {"distill2/other"}
    assert (copy / "540p_sr/shard-1").read_bytes() == b"Y" * 500
    assert (copy / "distill/deep/shard-1").read_bytes() == b"x" * 1000


def test_two_processes_of_a_node_share_one_download(s3_bucket, tmp_path):
    url = join(s3_bucket, "m")
    data = {f"shard-{number}": os.urandom(300_000) for number in range(8)}
    for name, content in data.items():
        write_atomically(join(url, name), content)
    racers = [start_copy(url, tmp_path / "cache") for _ in range(2)]
    lines = [line for racer in racers for line in racer.communicate()[0].splitlines()]
    assert [racer.returncode for racer in racers] == [0, 0]
    fetched = sorted(line.split()[1].rpartition("/")[2] for line in lines if line.startswith("fetching"))
    assert fetched == sorted(data)
    ready = [Path(line.removeprefix("ready at ")) for line in lines if line.startswith("ready at ")]
    assert len(ready) == 2
    assert ready[0] == ready[1]
    assert files_below(ready[0]) == data


@pytest.mark.slow
def test_a_killed_download_goes_on_where_it_stopped(s3_bucket, tmp_path):
    url = join(s3_bucket, "m")
    data = {"a-small": os.urandom(100_000), "b-large": os.urandom(90_000_000), "c-last": os.urandom(1000)}
    for name, content in data.items():
        write_atomically(join(url, name), content)
    child = start_copy(url, tmp_path)
    started: list[Path] = []
    while not started and child.poll() is None:
        time.sleep(0.002)
        started = [path for path in tmp_path.glob("*/m/b-large*") if path.stat().st_size]
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    folder = started[0].parent
    small, partial = sorted(folder.iterdir())
    assert small.name == "a-small"
    assert partial.suffix == ".partial"
    assert partial.stat().st_size < len(data["b-large"])
    inode = small.stat().st_ino
    with partial.open("r+b") as file:  # a mark in what was fetched, which stays if it is not fetched again
        file.write(b"mark")
    copy = files_below(local_copy(url, tmp_path))
    assert copy == data | {"b-large": b"mark" + data["b-large"][4:]}
    assert (folder / "a-small").stat().st_ino == inode


def test_what_was_fetched_of_another_version_is_not_continued(s3_bucket, tmp_path):
    url = join(s3_bucket, "m")
    write_atomically(join(url, "a"), b"x" * 1000)
    folder = local_copy(url, tmp_path)
    (folder / "a").unlink()
    (folder / "a.01234567.partial").write_bytes(b"y" * 500)
    (folder / "a.b.01234567.partial").write_bytes(b"of another file, which may go on with it")
    assert (local_copy(url, tmp_path) / "a").read_bytes() == b"x" * 1000
    assert {path.name for path in folder.iterdir()} == {"a", "a.b.01234567.partial"}


def test_a_piece_that_comes_incomplete_is_not_built_upon(s3_bucket, tmp_path, monkeypatch):
    url, data = join(s3_bucket, "m"), os.urandom(5000)
    write_atomically(join(url, "a"), data)
    monkeypatch.setattr(actors.local_copy, "PIECE_BYTES", 1000)
    whole = s3fs.S3FileSystem._cat_file

    async def short(self, path, version_id=None, start=None, end=None, **options):
        piece = await whole(self, path, version_id, start, end, **options)
        return piece[:-1] if start == 3000 else piece

    monkeypatch.setattr(s3fs.S3FileSystem, "_cat_file", short)
    s3fs.S3FileSystem.clear_instance_cache()  # made anew, it takes the patched method
    with pytest.raises(StorageError, match=r"a came incomplete: 999 of 1000 bytes from 3000 on"):
        local_copy(url, tmp_path)
    monkeypatch.undo()
    s3fs.S3FileSystem.clear_instance_cache()
    assert files_below(local_copy(url, tmp_path)) == {"a": data}
