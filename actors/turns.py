"""Turns at what the clips of an actor share, and how long each of them has waited for its own."""

from __future__ import annotations

import threading
import time
from types import TracebackType

import torch


class WaitedSeconds(threading.local):
    """Seconds that the calling thread has waited for other clips; every thread sees its own."""

    def __init__(self) -> None:
        self.total = 0.0


class Turn:
    """A lock, held inside a `with`; who waits for it has that time added to `waited`.

    On a GPU a turn ends when everything that was given to it is done. Else the clip that comes next would wait in
    the GPU's queue, where nobody can tell that from work of its own.

    Args:
        device: where the turn's work is done.
        waited: gets the seconds of waiting.
    """

    def __init__(self, device: torch.device, waited: WaitedSeconds):
        self._lock, self._device, self._waited = threading.Lock(), device, waited

    def __enter__(self) -> None:
        began = time.perf_counter()
        self._lock.acquire()
        self._waited.total += time.perf_counter() - began

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._device.type == "cuda" and error is None:
                torch.cuda.current_stream(self._device).synchronize()
        finally:
            self._lock.release()
