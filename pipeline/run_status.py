"""How a run stands, from its output alone: no cluster is asked, no clip is listed or read, whatever their number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from actors.clip_files import CLIPS_FOLDER
from actors.redaction import redact
from actors.storage import list_names
from pipeline.failure_kinds import FailureKind
from pipeline.lane_counts import LaneCounts
from pipeline.ledger import COMPLETE, INTERRUPTED, RUNNING, ClipCount, Ledger
from pipeline.run_lock import LockFacts, read_lock

State = Literal["running", "silent", "killed", "interrupted", "complete", "unknown"]
"""Of a run.

running: its heartbeats come. silent: they do not, for half the time after which a run counts as dead. killed: it ended
without its books. interrupted: it ended in order, before its time. complete: every row is a clip or a dead letter.
unknown: there are clips, and nothing that says of what run.
"""

_Count = Annotated[int, Field(ge=0)]
_CLIPS = TypeAdapter(tuple[ClipCount, ...])


class NoRunError(ValueError):
    """The output holds no run; the message is one line."""


class Standing(BaseModel):
    """Where a run's rows stand.

    Attributes:
        num_rows: of the manifest.
        num_skipped: done by an earlier run.
        num_done: made by this run.
        num_failed: dead letters.
        clips_per_minute: made since the first could start.
        lane: that runs now, or "".
        lanes: counts of all that have something to make.
        in_flight: stage to clips in it.
        failures: the most frequent kinds.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    num_rows: _Count
    num_skipped: _Count
    num_done: _Count
    num_failed: _Count = Field(validation_alias=AliasChoices("num_failed", "num_dead_lettered"))
    clips_per_minute: float = Field(0.0, ge=0, allow_inf_nan=False)
    lane: str = ""
    lanes: dict[str, LaneCounts] = {}
    in_flight: dict[str, _Count] = {}
    failures: tuple[FailureKind, ...] = ()

    @property
    def num_left(self) -> int:
        """Rows that are neither clips nor dead letters."""
        return max(0, self.num_rows - self.num_skipped - self.num_done - self.num_failed)

    @property
    def time_left_s(self) -> float | None:
        """At the mean rate so far; None where nothing has been made yet."""
        if not self.num_left:
            return 0.0
        return 60 * self.num_left / self.clips_per_minute if self.clips_per_minute else None


@dataclass(frozen=True)
class RunStatus:
    """What is known of an output's last run.

    Attributes:
        output: its URL, without secrets.
        state: see `State`.
        lock: that the run holds, or has left.
        run: what `run.json` says of the same run.
        standing: of its rows, by the last heartbeat or the books; None where nothing says.
        clips: in the output, of all its runs, where the books say so.
    """

    output: str
    state: State
    lock: LockFacts | None = None
    run: Mapping[str, Any] = field(default_factory=dict)
    standing: Standing | None = None
    clips: tuple[ClipCount, ...] = ()

    @property
    def is_alive(self) -> bool:
        """Whether the run has not ended, as far as one can see."""
        return self.state in ("running", "silent")

    @property
    def has_dead_letters(self) -> bool:
        """Whether rows have failed so far."""
        return self.standing is not None and self.standing.num_failed > 0

    @property
    def elapsed_s(self) -> float | None:
        """Seconds from the run's start to now, or to its last sign of life; by its own clock."""
        lock = self.lock
        start, end = (
            (lock.started_at, lock.heartbeat_at) if lock else (self.text("started_at"), self.text("finished_at"))
        )
        try:
            seconds = (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
        except (ValueError, TypeError):
            return None
        return max(0.0, seconds + (lock.age_s if lock is not None and self.is_alive else 0.0))

    def text(self, name: str) -> str:
        """A text of `run.json`, or ""."""
        value = self.run.get(name)
        return value if isinstance(value, str) else ""

    def as_json(self) -> dict[str, Any]:
        """The same as plain values; None where nothing is known."""
        standing = self.standing
        lock: dict[str, Any] | None = None
        if self.lock is not None:
            lock = {name: getattr(self.lock, name) for name in ("host", "pid", "heartbeat_at", "stale_s")}
            lock |= {"heartbeat_age_s": round(self.lock.age_s, 1)}
        elapsed_s, left_s = self.elapsed_s, standing.time_left_s if standing else None
        return {
            "output": self.output,
            "state": self.state,
            "run_id": self.lock.run_id if self.lock else self.text("run_id") or None,
            "lock": lock,
            "started_at": self.lock.started_at if self.lock else self.text("started_at") or None,
            "finished_at": self.text("finished_at") or None,
            "elapsed_s": None if elapsed_s is None else round(elapsed_s, 1),
            "reason": self.text("reason") or None,
            "manifest": self.text("manifest") or None,
            "checkpoint": self.text("checkpoint") or None,
            "progress": standing and {**standing.model_dump(), "num_left": standing.num_left},
            "time_left_s": round(left_s, 1) if left_s is not None and self.is_alive else None,
            "clips": [asdict(count) for count in self.clips],
        }


def read_status(output_url: str) -> RunStatus:
    """Look at an output's lock and its `run.json`.

    Raises:
        NoRunError: there is nothing of a run.
        StorageError: it cannot be read.
    """
    # The lock first: a run writes its books and then removes it.
    lock = read_lock(output_url)
    ledger, output = Ledger(output_url), redact(output_url)
    run = ledger.read_run()
    if lock is not None and run.get("run_id") != lock.run_id:
        run = {}  # of an earlier one
    state = _state(lock, run)
    if state == "unknown" and CLIPS_FOLDER not in list_names(output_url):
        raise NoRunError(f"output {output} holds no run: neither run.lock nor run.json nor clips are there")
    standing = _standing(lock.progress if lock else {}) or _standing(run.get("totals"))
    return RunStatus(output, state, lock, run, standing, _clips(run.get("clips")))


def _state(lock: LockFacts | None, run: Mapping[str, Any]) -> State:
    if lock is not None:
        if lock.is_stale:
            return "killed"
        return "silent" if lock.age_s > lock.stale_s / 2 else "running"
    states: dict[Any, State] = {COMPLETE: "complete", INTERRUPTED: "interrupted", RUNNING: "killed"}
    said = run.get("state")
    return states.get(said, "unknown") if isinstance(said, str) else "unknown"


def _standing(facts: Any) -> Standing | None:
    """Read leniently: what is of another version, or damaged, says nothing."""
    try:
        return Standing.model_validate(facts)
    except ValidationError:
        return None


def _clips(counts: Any) -> tuple[ClipCount, ...]:
    try:
        return _CLIPS.validate_python(counts)
    except ValidationError:
        return ()
