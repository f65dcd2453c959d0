"""Who may work at the same time: many together, or one alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """Lets many threads through together, or one alone; who waits to be alone goes before new ones of the others."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._num_shared = self._num_waiting = 0
        self._is_alone = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Beside others that are here in the same way."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_alone and not self._num_waiting)
            self._num_shared += 1
        try:
            yield
        finally:
            with self._changed:
                self._num_shared -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """When all others have left; nobody else comes in meanwhile."""
        with self._changed:
            self._num_waiting += 1
            self._changed.wait_for(lambda: not self._is_alone and not self._num_shared)
            self._num_waiting -= 1
            self._is_alone = True
        try:
            yield
        finally:
            with self._changed:
                self._is_alone = False
                self._changed.notify_all()
