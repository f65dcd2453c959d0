"""A short form of `python -m jobs.chaos`; the long one is run by `make soak`.

Each kind of blow alone has a test that is faster, see the table in `docs/operations.md`.
"""

import os
import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.ray


@pytest.mark.timeout(900)
def test_a_run_that_is_broken_again_and_again_makes_the_same_clips(tmp_path):
    command = [
        sys.executable,
        "-m",
        "jobs.chaos",
        "--rows",
        "8",
        "--kills",
        "3",
        "--logs",
        str(tmp_path),
        "--seed",
        "1",
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=880, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    printed = done.stdout
    assert "clips 7, dead letters 1" in printed
    assert re.search(r"^blows 3: ", printed, re.MULTILINE)
    failed = int(re.search(r"failed on purpose (\d+)", printed)[1])
    assert failed > 3, "a tenth of the calls"


def test_no_kills_are_refused(tmp_path):
    command = [sys.executable, "-m", "jobs.chaos", "--kills", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: argument --kills: must be at least 1, got 0; see python -m jobs.chaos --help\n"
