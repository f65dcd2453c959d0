"""What comes out of a run; true at any moment."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version

from actors.row import Failure
from pipeline.dead_letters import DeadLetters
from pipeline.manifest import ManifestRow
from pipeline.pools import LanePlan
from pipeline.run_counts import RunCounts
from pipeline.valid_row import ValidRow
from pipeline.worklist import Status, Worklist

_REPORTED_PACKAGES = ("magihuman-ray", "ray", "torch", "diffusers", "transformers", "av")


@dataclass
class RunResult:
    """What came out so far.

    Attributes:
        run_id: its name, which the lock of the output has too.
        counts: totals of this run.
        worklist: the manifest's valid rows and where they stand.
        dead_letters: its rows that failed.
        committed_ids: clips in the output that are done, this run's and earlier ones'.
        plans: lane to how it is run.
        versions: package to version.
        started_at: when the run started (UTC).
    """

    run_id: str = ""
    counts: RunCounts = field(default_factory=RunCounts)
    worklist: Worklist = field(default_factory=Worklist)
    dead_letters: DeadLetters = field(default_factory=DeadLetters)
    committed_ids: set[str] = field(default_factory=set)
    plans: dict[str, LanePlan] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=lambda: {name: version(name) for name in _REPORTED_PACKAGES})
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def is_complete(self) -> bool:
        """Whether every row of the manifest is a clip or a dead letter."""
        return self.counts.num_left == 0

    def refuse(self, row: ManifestRow, failure: Failure | None = None) -> None:
        """Take a row that becomes no clip, for this reason or its own; no actor has seen it."""
        reason = failure or row.failure
        if reason is None:
            raise ValueError(f"row in line {row.line} has no failure")
        if row.request is not None:
            self.worklist.add(ValidRow.of(row.line, row.request), Status.FAILED)
        self._dead_letter(row, reason)

    def finish(self, clip_id: str) -> None:
        """A clip is done."""
        self.worklist.mark(clip_id, Status.DONE)
        self.committed_ids.add(clip_id)
        self.counts.num_done += 1

    def fail(self, clip_id: str, failure: Failure) -> None:
        """A clip has failed in a stage."""
        line, request = self.worklist.row(clip_id)
        self.worklist.mark(clip_id, Status.FAILED)
        self._dead_letter(ManifestRow(line, json.loads(request)), failure)

    def _dead_letter(self, row: ManifestRow, failure: Failure) -> None:
        self.dead_letters.add(row.dead_letter(failure))
        self.counts.failures.add(failure)
        self.counts.num_failed += 1
