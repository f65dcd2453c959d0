"""A process that validates rows for `pipeline.row_checks`, which starts it."""

from __future__ import annotations

from contextlib import suppress
from multiprocessing.connection import Connection

from pipeline.row_checks import check


def help_with(number: int) -> None:
    """Check batches until nobody asks any more.

    Args:
        number: file descriptor of a pipe whose other end the driver has; with that end this process ends, too.
    """
    with Connection(number) as driver, suppress(EOFError, OSError):
        while True:
            driver.send(check(*driver.recv()))
