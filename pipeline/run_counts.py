"""Where a run stands, in numbers."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from pipeline.durations import format_duration
from pipeline.failure_kinds import FailureKinds
from pipeline.lane_counts import LaneCounts


@dataclass
class RunCounts:
    """Where a run stands.

    Attributes:
        num_rows: rows of the manifest.
        num_skipped: done by an earlier run.
        num_done: finished by this run.
        num_failed: dead letters of this run.
        started: `time.monotonic()` when the first clip could start.
        lanes: name to counts of the lanes that have something to make, in the order they are run.
        failures: the dead letters by kind.
    """

    num_rows: int = 0
    num_skipped: int = 0
    num_done: int = 0
    num_failed: int = 0
    started: float = field(default_factory=time.monotonic)
    lanes: dict[str, LaneCounts] = field(default_factory=dict)
    failures: FailureKinds = field(default_factory=FailureKinds)

    @property
    def num_left(self) -> int:
        """Rows still to come."""
        return self.num_rows - self.num_skipped - self.num_done - self.num_failed

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    @property
    def clips_per_minute(self) -> float:
        """Finished clips per minute so far."""
        return 60 * self.num_done / max(self.elapsed_s, 1e-6)

    def time_left(self) -> str:
        """Time left at the present rate, in words."""
        if self.num_left == 0:
            return "0 s"
        if self.num_done == 0:
            return "unknown yet"
        return format_duration(self.num_left * self.elapsed_s / self.num_done)
