"""The status job: what it prints, how it ends, and that it needs neither a cluster nor a model."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from actors.storage import join
from jobs.status import main
from pipeline.run_lock import RunLock, read_lock
from tests.run_files import PROGRESS, TOTALS, write_lock, write_marker, write_run
from tests.s3 import in_front_of

ROOT = Path(__file__).parents[2]
NO_FAILURES = {**TOTALS, "num_dead_lettered": 0, "failures": []}


def test_it_costs_a_handful_of_requests_however_many_clips_there_are(s3_endpoint, s3_bucket, capsys):
    output = join(s3_bucket, "out")
    write_run(output, "complete", totals=NO_FAILURES)
    for number in range(30):
        write_marker(output, f"c{number}")
    with in_front_of(s3_endpoint) as store:
        assert main(["--output", output]) == 0
        assert sum(store.counts.values()) <= 4, store.counts


def test_it_loads_neither_ray_nor_torch():
    code = "import sys, jobs.status; print({'ray', 'torch', 'transformers', 'diffusers'} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert ended.stdout == "set()\n"


@pytest.mark.parametrize(
    ("state", "totals", "status"),
    [("complete", NO_FAILURES, 0), ("complete", TOTALS, 3), ("interrupted", TOTALS, 75), ("running", TOTALS, 75)],
)
def test_the_exit_status_tells_how_the_run_ended(tmp_path, capsys, state, totals, status):
    write_run(str(tmp_path), state, totals=totals)
    assert main(["--output", str(tmp_path)]) == status
    assert capsys.readouterr().out.startswith(f"{tmp_path}: {'killed' if state == 'running' else state}\n")


def test_piped_it_is_plain_and_json_is_json(tmp_path, capsys):
    write_lock(str(tmp_path))
    assert main(["--output", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert not any(line.endswith(" " * 40) for line in text.splitlines())
    assert main(["--output", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["state"], told["run_id"], told["time_left_s"]) == ("running", "r1", 210.0)
    assert told["progress"]["failures"] == PROGRESS["failures"]
    assert told["progress"]["lanes"] == PROGRESS["lanes"]
    assert told["lock"]["host"] == "gpu-7"


def test_watching_ends_with_the_run(s3_bucket, capsys):
    output = join(s3_bucket, "out")

    def run():
        with RunLock(output, heartbeat_s=0.2, stale_s=20.0) as lock:
            lock.progress = PROGRESS
            started.set()
            time.sleep(2.5)
            write_run(output, "complete", run_id=lock.run_id)

    started = threading.Event()
    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(20)
    while not read_lock(output).progress:
        time.sleep(0.1)
    assert main(["--output", output, "--watch", "1", "--json"]) == 3
    thread.join()
    first, *_, last = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (first["state"], first["progress"]["num_done"]) == ("running", 6)
    assert last["state"] == "complete"
    assert first["at"] < last["at"]
    assert main(["--output", output, "--watch", "1"]) == 3
    (line,) = capsys.readouterr().out.splitlines()
    assert "complete: 10 of 20 done" in line


def test_write_books_a_killed_run(s3_bucket, capsys):
    output = join(s3_bucket, "out")
    write_run(output, "running")
    write_marker(output, "a")
    assert main(["--output", output, "--write"]) == 75
    printed = capsys.readouterr()
    assert printed.err == "results.parquet: 1 clips\n"
    assert "ended before its time: killed" in printed.out
    assert printed.out.count("256p") >= 1
    write_lock(output)
    assert main(["--output", output, "--write"]) == 2
    assert capsys.readouterr().err.startswith(f"error: output {output} is in use by run r1")


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("/nowhere/out", "error: output /nowhere/out holds no run: neither"),
        ("", "error: output must be a path or a URL, got ''"),
        ("odd://x/out", "error: cannot read odd://x/out/run.lock: Protocol not known: odd"),
        ("ftp://me:word@127.0.0.1:1/out", "error: cannot read ftp://***@127.0.0.1:1/out/run.lock: "),
    ],
)
def test_an_output_that_cannot_be_read_is_one_line_and_status_2(capsys, output, message):
    assert main(["--output", output]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(message)
    assert errors.count("\n") == 1
    assert "word" not in errors


def test_a_bucket_that_is_not_there_is_told(s3_endpoint, capsys):
    assert main(["--output", "s3://no-such-bucket/out"]) == 2
    assert capsys.readouterr().err.startswith("error: cannot read s3://no-such-bucket/out/run.lock: not found")


@pytest.mark.parametrize("wrong", [["--watch", "0"], ["--watch", "x"], ["--watch", "nan"], ["--watch", "5", "--write"]])
def test_wrong_usage_ends_with_status_2(capsys, wrong):
    with pytest.raises(SystemExit) as caught:
        main(["--output", "x", *wrong])
    assert caught.value.code == 2
