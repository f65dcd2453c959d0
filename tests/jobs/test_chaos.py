"""Short forms of `python -m jobs.chaos`; the long one runs by `make soak`."""

import os
import re
import subprocess
import sys

import pytest


def break_a_run(num_rows, num_kills, logs):
    command = [sys.executable, "-m", "jobs.chaos", "--rows", str(num_rows), "--kills", str(num_kills)]
    command += ["--logs", str(logs), "--seed", "1"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=580, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_run_that_loses_a_worker_makes_the_same_clips(tmp_path):
    printed = break_a_run(5, 1, tmp_path)
    assert "clips 5, dead letters 0" in printed
    assert "blows 1: 1 worker killed" in printed


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_run_that_is_broken_again_and_again_makes_the_same_clips(tmp_path):
    printed = break_a_run(40, 8, tmp_path)
    assert "clips 38, dead letters 2" in printed
    assert re.search(r"^blows 8: ", printed, re.MULTILINE)
    failed = int(re.search(r"failed on purpose (\d+)", printed)[1])
    assert failed > 10


def test_no_kills_are_refused(tmp_path):
    command = [sys.executable, "-m", "jobs.chaos", "--kills", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith("argument --kills: must be at least 1, got 0\n")
