"""What processors were busy with: this process and all it started, and everything else on the machine."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class ProcessorTime:
    """Seconds so far.

    Attributes:
        at: the moment.
        ours_s: of this process and those it started, by process.
        all_s: of everything on the machine.
    """

    at: float
    ours_s: Mapping[psutil.Process, float]
    all_s: float

    @classmethod
    def now(cls) -> ProcessorTime:
        """Look now."""
        ours_s = {}
        for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                ours_s[process] = times.user + times.system
        all_times = psutil.cpu_times()
        all_s = all_times.user + all_times.nice + all_times.system + all_times.irq + all_times.softirq
        return cls(time.monotonic(), ours_s, all_s)

    def since(self, before: ProcessorTime) -> dict[str, float]:
        """Share of all cores that was busy with us, and with others; processes that have ended count as others."""
        available_s = (self.at - before.at) * (os.cpu_count() or 1)
        ours_s = sum(seconds - before.ours_s.get(process, 0.0) for process, seconds in self.ours_s.items())
        others_s = max(0.0, self.all_s - before.all_s - ours_s)
        return {"cores_ours": ours_s / available_s, "cores_others": others_s / available_s}
