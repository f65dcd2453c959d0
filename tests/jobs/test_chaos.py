"""A short form of `python -m jobs.chaos`; the long one runs by `make soak`."""

import os
import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.ray


@pytest.mark.timeout(600)
def test_a_run_that_is_broken_again_and_again_makes_the_same_clips(tmp_path):
    command = [
        sys.executable,
        "-m",
        "jobs.chaos",
        "--rows",
        "40",
        "--kills",
        "8",
        "--logs",
        str(tmp_path),
        "--seed",
        "1",
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=580, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "clips 38, dead letters 2" in done.stdout
    assert re.search(r"^blows 8: ", done.stdout, re.MULTILINE)
    failed = int(re.search(r"failed on purpose (\d+)", done.stdout)[1])
    assert failed > 10


def test_no_kills_are_refused(tmp_path):
    command = [sys.executable, "-m", "jobs.chaos", "--kills", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith("argument --kills: must be at least 1, got 0\n")
