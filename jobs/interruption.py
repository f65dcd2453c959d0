"""How a job ends when Ctrl-C stops it while threads of its driver are inside Ray."""

import os
import sys
from collections.abc import Callable
from typing import NoReturn

from jobs.generate import EXIT_INTERRUPTED


def end_interrupted(tell: Callable[[str], None]) -> NoReturn:
    """Say so, and end the process at once with status 130.

    To disconnect from Ray, or to take the interpreter down, under a thread that waits in Ray's own code now and then
    crashes the process. Ray ends the job, and a cluster of the job's own, when the driver is gone; two idle helpers of
    such a cluster were gone after a minute.

    Args:
        tell: prints a line.
    """
    tell("interrupted: what is saved is kept, the same command continues")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_INTERRUPTED)
