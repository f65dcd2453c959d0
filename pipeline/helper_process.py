"""A process that does a part of another one's work, and is of no use without it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading


def begin_to_help() -> None:
    """Call this first in a process of a pool: it leaves Ctrl-C to its parent, and ends where that was killed.

    A pool's processes hold both ends of their queue, so that none of them would notice otherwise.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)
