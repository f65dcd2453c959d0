"""Calls that run side by side on the driver, and can be interrupted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

Result = TypeVar("Result")


def side_by_side(calls: Sequence[Callable[[], Result]], most: int) -> list[Result]:
    """Run calls in threads and give their results in order.

    Ctrl-C is raised at once: neither a call nor the end of the process waits for the threads, as those of
    `concurrent.futures` would make them. A training in the main thread would take Ctrl-C for itself.

    Args:
        calls: what to run.
        most: at a time.

    Raises:
        Exception: the first fault in the order of the calls, when all have ended.
    """
    results: dict[int, Result] = {}
    faults: dict[int, BaseException] = {}
    waiting, lock = iter(enumerate(calls)), threading.Lock()

    def work() -> None:
        while True:
            with lock:
                number, call = next(waiting, (None, None))
            if number is None or call is None:
                return
            try:
                results[number] = call()
            except BaseException as error:
                faults[number] = error

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(most, len(calls)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise faults[min(faults)]
    return [results[number] for number in range(len(calls))]
