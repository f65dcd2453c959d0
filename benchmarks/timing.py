"""How a measurement is taken: warmed up, several times, the median counts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Timing:
    """Seconds of several runs.

    Attributes:
        seconds: the median.
        spread: the slowest over the fastest.
        peak_gb: of GPU memory held at once, weights included; None on a CPU.
    """

    seconds: float
    spread: float
    peak_gb: float | None


def measure(run: Callable[[], Any], device: torch.device, num_repeats: int, num_warmups: int = 1) -> Timing:
    """Run something again and again, each time until the device is done with it."""
    is_gpu = device.type == "cuda"
    for _ in range(num_warmups):
        run()
    if is_gpu:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    taken = []
    for _ in range(num_repeats):
        started = time.perf_counter()
        run()
        if is_gpu:
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - started)
    peak_gb = torch.cuda.max_memory_allocated(device) / 1e9 if is_gpu else None
    return Timing(statistics.median(taken), max(taken) / min(taken), peak_gb)
