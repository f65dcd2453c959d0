"""`python -m pipeline.row_helper NUMBER`: validates rows for `pipeline.row_checks`, which starts it.

NUMBER is the file descriptor of a pipe whose other end the driver has; with that end this process ends, too.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from multiprocessing.connection import Connection

from pipeline.row_checks import check


def main() -> None:
    """Check batches until nobody asks any more."""
    with Connection(int(sys.argv[1])) as driver, suppress(EOFError, OSError):
        while True:
            driver.send(check(*driver.recv()))


if __name__ == "__main__":
    main()
