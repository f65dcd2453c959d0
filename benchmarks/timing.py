"""How a measurement is taken: warmed up, several times, the median counts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
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


def measure(run: Callable[[], Any], device: torch.device, num_repeats: int) -> Timing:
    """Run something again and again, each time until the device is done with it."""
    return measure_in_turn([run], device, num_repeats)[0]


def measure_in_turn(runs: Sequence[Callable[[], Any]], device: torch.device, num_repeats: int) -> list[Timing]:
    """The same for several things, one after the other each time: a machine that slows down slows all of them."""
    taken: list[list[float]] = [[] for _ in runs]
    peaks_gb: list[float | None] = [None for _ in runs]
    for repeat in range(1 + num_repeats):  # the first warms up
        for index, run in enumerate(runs):
            seconds, peaks_gb[index] = _time(run, device)
            if repeat:
                taken[index].append(seconds)
    return [
        Timing(statistics.median(seconds), max(seconds) / min(seconds), peak_gb)
        for seconds, peak_gb in zip(taken, peaks_gb, strict=True)
    ]


def _time(run: Callable[[], Any], device: torch.device) -> tuple[float, float | None]:
    """Seconds of one run, and GB of GPU memory held at once meanwhile."""
    if device.type != "cuda":
        started = time.perf_counter()
        run()
        return time.perf_counter() - started, None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    started = time.perf_counter()
    run()
    torch.cuda.synchronize(device)
    return time.perf_counter() - started, torch.cuda.max_memory_allocated(device) / 1e9
