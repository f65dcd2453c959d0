import subprocess
import sys
import threading
import time

import pytest

from pipeline.side_by_side import side_by_side

INTERRUPTED = """
import os, signal, time
from pipeline.side_by_side import side_by_side

def interrupted():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(600)

try:
    side_by_side([interrupted], 1)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_results_come_in_the_order_of_the_calls():
    both_run = threading.Barrier(2, timeout=10)

    def call(number):
        if number < 2:
            both_run.wait()
        time.sleep(0.02 * (4 - number))
        return number

    assert side_by_side([lambda n=n: call(n) for n in range(4)], 2) == [0, 1, 2, 3]


def test_the_first_fault_is_raised_when_all_have_ended():
    ended = []

    def fail(text, seconds):
        time.sleep(seconds)
        ended.append(text)
        raise ValueError(text)

    with pytest.raises(ValueError, match="first"):
        side_by_side([lambda: fail("first", 0.1), lambda: fail("second", 0), lambda: ended.append("third")], 2)
    assert set(ended) == {"first", "second", "third"}


def test_an_interrupt_waits_for_nothing():
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr
