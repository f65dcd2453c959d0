"""Two runs on one output: on a disk, in an S3 store, and in a store that can do neither's tricks."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from actors import guarded_file as guarded_file_module
from actors import storage_faults
from actors.guarded_file import guarded_file
from actors.storage import join, list_names, write_atomically
from actors.storage_faults import Patience, StorageError
from pipeline import run_lock
from pipeline.run_lock import LOCK_NAME, LockedError, RunLock, read_lock
from tests.s3 import in_front_of

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["local", "s3", "memory"])
def output(request, tmp_path, monkeypatch):
    """A fresh output, which does not exist yet where there are folders."""
    monkeypatch.setattr(guarded_file_module, "_SETTLE_S", 0.3)
    if request.param == "local":
        return str(tmp_path / "out")
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}/out"
    return join(request.getfixturevalue("s3_bucket"), "out")


def wait_for(condition, limit_s=30.0):
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("did not happen in time")


def write_stale_lock(output, stale_s=1.0):
    """As a killed run leaves it; back when it is stale."""
    facts = {"run_id": "dead", "host": "gone", "pid": 7, "started_at": "then", "stale_s": stale_s}
    write_atomically(join(output, LOCK_NAME), json.dumps(facts).encode())
    wait_for(lambda: read_lock(output).is_stale)


def test_the_second_run_is_refused_and_told_of_the_first(output):
    assert read_lock(output) is None
    with RunLock(output) as lock:
        began = time.monotonic()
        with pytest.raises(LockedError) as caught, RunLock(output):
            pass
        assert time.monotonic() - began < 5.0
        message = str(caught.value)
        for fact in (output, lock.run_id, os.uname().nodename, f"process {os.getpid()}", " s ago)", "gives way 120 s"):
            assert fact in message
        assert "\n" not in message
        assert lock.lost is None
        lock.raise_if_lost()
        assert list_names(output) == [LOCK_NAME]
    assert read_lock(output) is None
    assert list_names(output) == []
    with RunLock(output):
        pass


def test_a_run_can_be_watched_from_the_store_alone(output):
    with RunLock(output, heartbeat_s=0.2, stale_s=20.0) as lock:
        in_flight = Counter({"decoding": 2})
        lock.progress = {"num_done": 3, "where": Path("/a"), 5: float("inf"), "in_flight": in_flight}
        wait_for(lambda: read_lock(output).progress)
        facts = read_lock(output)
        assert facts.progress == {"num_done": 3, "where": "/a", "5": float("inf"), "in_flight": {"decoding": 2}}
        assert (facts.run_id, facts.pid, facts.stale_s) == (lock.run_id, os.getpid(), 20.0)
        wait_for(lambda: read_lock(output).num_heartbeats > facts.num_heartbeats)
        assert read_lock(output).age_s < 10.0
        assert read_lock(output).started_at == facts.started_at <= facts.heartbeat_at


def race(output, num_runs=8):
    """All at once; the locks that were got."""
    barrier = threading.Barrier(num_runs)

    def enter(_):
        lock = RunLock(output, heartbeat_s=5.0, stale_s=60.0)
        barrier.wait()
        try:
            return lock.__enter__()
        except LockedError:
            return None

    with ThreadPoolExecutor(num_runs) as pool:
        return [lock for lock in pool.map(enter, range(num_runs)) if lock is not None]


@pytest.mark.slow
@pytest.mark.parametrize("is_stale", [False, True])
def test_one_of_eight_wins(output, is_stale):
    for number in range(3):
        place = join(output, str(number))
        if is_stale:
            write_stale_lock(place)
        winners = race(place)
        assert [lock.run_id for lock in winners] == [read_lock(place).run_id]
        for lock in winners:
            lock.__exit__(None, None, None)
        assert read_lock(place) is None


RACER = """
import sys, time
from pathlib import Path
from pipeline.run_lock import LockedError, RunLock

go, held = Path(sys.argv[1]), []
print("ready", flush=True)
for output in sys.argv[2:]:
    while not (go / output.rpartition("/")[2]).exists():
        time.sleep(0.001)
    try:
        held.append(RunLock(output, heartbeat_s=5, stale_s=60).__enter__())
        print("won", flush=True)
    except LockedError:
        print("refused", flush=True)
sys.stdin.read()
"""


def start(script, *arguments):
    """A process that runs `script`, and ends when its input does."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", script, *arguments], text=True, cwd=ROOT, **pipes)


@pytest.mark.slow
def test_one_of_eight_processes_wins(tmp_path, s3_bucket):
    outputs = [f"{tmp_path}/disk-new", f"{tmp_path}/disk-stale", f"{s3_bucket}/s3-new", f"{s3_bucket}/s3-stale"]
    for output in outputs[1::2]:
        write_stale_lock(output)
    processes = [start(RACER, str(tmp_path), *outputs) for _ in range(8)]
    try:
        assert [process.stdout.readline() for process in processes] == ["ready\n"] * 8
        for output in outputs:
            (tmp_path / output.rpartition("/")[2]).mkdir(exist_ok=True)
            answers = sorted(process.stdout.readline() for process in processes)
            assert answers == ["refused\n"] * 7 + ["won\n"], output
    finally:
        for process in processes:
            process.kill()
            process.communicate()


HOLDER = """
import sys
from pipeline.run_lock import RunLock

def tell(reason):
    print(reason, flush=True)

with RunLock(sys.argv[1], heartbeat_s=0.5, stale_s=float(sys.argv[2]), on_lost=tell):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("output", ["local", "s3"], indirect=True)
def test_a_run_killed_on_this_machine_gives_way_at_once(output):
    holder = start(HOLDER, output, "60")
    try:
        assert holder.stdout.readline() == "held\n"
        assert not read_lock(output).is_stale
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        assert read_lock(output).is_stale
        with RunLock(output) as lock:
            assert read_lock(output).run_id == lock.run_id
    finally:
        holder.kill()
        holder.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("output", ["local", "s3"], indirect=True)
def test_a_run_killed_elsewhere_is_in_the_way_until_it_is_stale(output, monkeypatch):
    monkeypatch.setattr(run_lock, "_process", lambda pid: "")  # another machine's processes are not known
    holder = start(HOLDER, output, "4")
    try:
        assert holder.stdout.readline() == "held\n"
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        with pytest.raises(LockedError, match=f"process {holder.pid}, "), RunLock(output):
            pass
        wait_for(lambda: read_lock(output).is_stale)
        with RunLock(output) as lock:
            assert read_lock(output).run_id == lock.run_id
        assert read_lock(output) is None
    finally:
        holder.kill()
        holder.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("output", ["local", "s3"], indirect=True)
def test_a_run_that_slept_too_long_learns_that_it_lost(output):
    holder = start(HOLDER, output, "2")
    try:
        assert holder.stdout.readline() == "held\n"
        os.kill(holder.pid, signal.SIGSTOP)
        wait_for(lambda: read_lock(output).is_stale)
        with RunLock(output, heartbeat_s=0.5, stale_s=60.0) as lock:
            os.kill(holder.pid, signal.SIGCONT)
            reason = holder.stdout.readline()
            assert reason.startswith(f"output {output} no longer belongs to this run: run {lock.run_id} on host ")
            holder.communicate("end\n")
            assert holder.returncode == 0
            # Neither its last heartbeat nor its end has touched what is no longer its own.
            assert read_lock(output).run_id == lock.run_id
            assert lock.lost is None
    finally:
        holder.kill()
        holder.communicate()


def test_a_lock_that_somebody_removes_is_lost(output):
    reasons = []
    with RunLock(output, heartbeat_s=0.2, stale_s=20.0, on_lost=reasons.append) as lock:
        guarded = guarded_file(join(output, LOCK_NAME))
        wait_for(lambda: (seen := guarded.read()) is None or guarded.remove(seen))
        wait_for(lambda: lock.lost)
        assert reasons == [lock.lost]
        assert lock.lost.endswith("its lock was removed")
        with pytest.raises(LockedError, match="its lock was removed"):
            lock.raise_if_lost()
    assert read_lock(output) is None


@pytest.mark.slow
def test_who_looks_and_tries_does_no_harm(output):
    with RunLock(output, heartbeat_s=0.02, stale_s=60.0) as lock:
        end = time.monotonic() + 2.0

        def bother(_):
            num_refused = 0
            while time.monotonic() < end:
                with pytest.raises(LockedError), RunLock(output):
                    pass
                num_refused += 1
            return num_refused

        with ThreadPoolExecutor(4) as pool:
            assert min(pool.map(bother, range(4))) > 0
        assert lock.lost is None
        assert read_lock(output).run_id == lock.run_id


def test_a_file_that_somebody_else_has_locked_is_not_lost(tmp_path):
    with RunLock(str(tmp_path), heartbeat_s=0.05, stale_s=60.0) as lock:
        with open(tmp_path / LOCK_NAME, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            num_heartbeats = read_lock(str(tmp_path)).num_heartbeats
            time.sleep(0.5)
        wait_for(lambda: read_lock(str(tmp_path)).num_heartbeats > num_heartbeats + 10)
        assert lock.lost is None


def test_what_clocks_of_machines_say_does_not_matter(output):
    facts = {"run_id": "odd", "heartbeat_at": "1999-01-01T00:00:00+00:00", "stale_s": 30}
    write_atomically(join(output, LOCK_NAME), json.dumps(facts).encode())
    with pytest.raises(LockedError, match="run odd on host unknown"), RunLock(output):
        pass


@pytest.mark.parametrize("content", [b"no lock at all", b"[1]", b'{"stale_s": "x"}', b'{"progress": 3}'])
def test_a_file_that_is_no_lock_is_one_of_an_unknown_run(tmp_path, content):
    output = str(tmp_path)
    write_atomically(join(output, LOCK_NAME), content)
    with pytest.raises(LockedError, match="run of unknown name on host unknown"), RunLock(output):
        pass
    os.utime(tmp_path / LOCK_NAME, (time.time() - 121, time.time() - 121))
    with RunLock(output):
        pass
    assert os.listdir(tmp_path) == []


def test_a_lock_that_was_made_and_not_filled_is_one_too(tmp_path):
    (tmp_path / LOCK_NAME).touch()
    with pytest.raises(LockedError, match="run of unknown name"), RunLock(str(tmp_path)):
        pass
    timer = threading.Timer(0.1, (tmp_path / LOCK_NAME).write_bytes, (b'{"run_id": "slow"}',))
    timer.start()
    with pytest.raises(LockedError, match="run slow on"), RunLock(str(tmp_path)):
        pass


@pytest.fixture
def store(s3_endpoint, s3_bucket, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    patience = Patience(limit_s=5.0, first_wait_s=0.05, longest_wait_s=0.2, answer_s=2.0)
    monkeypatch.setattr(storage_faults, "PATIENCE", patience)
    with in_front_of(s3_endpoint) as store:
        yield store


@pytest.mark.parametrize("is_stale", [False, True])
def test_a_lost_answer_does_not_lose_the_lock(store, s3_bucket, is_stale):
    if is_stale:
        write_stale_lock(s3_bucket)
    store.script.extend(["passed", "lost_answer"])  # of the look before, of the writing
    with RunLock(s3_bucket, heartbeat_s=0.2, stale_s=60.0) as lock:
        assert store.counts["lost_answer"] == 1
        store.script.append("lost_answer")
        wait_for(lambda: read_lock(s3_bucket).num_heartbeats > 4)
        assert store.counts["lost_answer"] == 2
        assert lock.lost is None
    assert read_lock(s3_bucket) is None


def test_a_store_that_fails_for_a_while_loses_nothing(store, s3_bucket):
    with RunLock(s3_bucket, heartbeat_s=0.2, stale_s=60.0) as lock:
        store.faults, store.fraction = ("internal_error", "lost_answer", "reset"), 1.0
        wait_for(lambda: store.counts.total() > 20)
        store.fraction = 0.3
        num_heartbeats = read_lock(s3_bucket).num_heartbeats
        wait_for(lambda: read_lock(s3_bucket).num_heartbeats > num_heartbeats + 5)
        assert lock.lost is None


def test_a_run_that_cannot_tell_of_itself_for_too_long_must_stop(store, s3_bucket):
    with RunLock(s3_bucket, heartbeat_s=0.2, stale_s=2.0) as lock:
        store.faults, store.fraction = ("internal_error",), 1.0
        wait_for(lambda: lock.lost)
        assert "its heartbeat could not be written for " in lock.lost
        assert "\n" not in lock.lost
        store.fraction = 0.0
        assert read_lock(s3_bucket).run_id == lock.run_id
    assert read_lock(s3_bucket) is None


def test_an_output_that_cannot_be_written_is_told_of(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(StorageError, match=r"^output .*/file must be a folder .*: cannot read .*/file/run\.lock"),
        RunLock(str(tmp_path / "file")),
    ):
        pass
    with (
        pytest.raises(StorageError, match=r"no-such-bucket-.*: not found"),
        RunLock(f"s3://no-such-bucket-{uuid.uuid4().hex}/a"),
    ):
        pass


def test_a_lock_must_outlive_a_missed_heartbeat(tmp_path):
    with pytest.raises(ValueError, match="stale_s must be at least twice heartbeat_s, which is 20, got 30"):
        RunLock(str(tmp_path), heartbeat_s=20.0, stale_s=30.0)
