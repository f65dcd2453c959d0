"""What every actor of a run works on: a small Ray actor that they report to and the driver asks."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

_OUT_OF_REACH = (ray.exceptions.GetTimeoutError, ray.exceptions.RayActorError)
_ANSWER_S = 5.0

WORKER_DIED = "worker died"
OUT_OF_MEMORY = "out of memory"

Attempts = dict[str, dict[str, int]]
"""Clip id to stage to how often its processing has begun there without an end."""


@dataclass
class StageCounts:
    """What the board knows at a moment.

    Attributes:
        in_flight: stage to clips in it.
        passed: stage to clips that left it healthy; one counts again if its worker died before Ray had it.
        failed: stage to clips that failed in it.
        seconds: stage to seconds of all clips that left it healthy, waiting for each other included.
        start_failures: stage of which no actor could start to the reason.
        attempts: at all clips that are being processed, or whose worker died.
        died: the same without the attempts that are going on: how many workers died over each clip.
        retries: stage and reason to how often a clip's processing was begun again.
        load_seconds: stage to seconds that each of its actors took to start.
        gpu_peak_bytes: stage to the most memory that an actor's tensors ever took on its GPU.
        idle_s: seconds since anything was last reported.
    """

    in_flight: Counter[str] = field(default_factory=Counter)
    passed: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)
    start_failures: dict[str, str] = field(default_factory=dict)
    attempts: Attempts = field(default_factory=dict)
    died: Attempts = field(default_factory=dict)
    retries: Counter[tuple[str, str]] = field(default_factory=Counter)
    load_seconds: dict[str, list[float]] = field(default_factory=dict)
    gpu_peak_bytes: dict[str, int] = field(default_factory=dict)
    idle_s: float = 0.0

    def num_entered(self, stage: str) -> int:
        """Clips that have come into a stage, whatever became of them."""
        return self.in_flight[stage] + self.passed[stage] + self.failed[stage]


class _Board:
    """Runs as a Ray actor."""

    def __init__(self, earlier: Mapping[str, Mapping[str, int]]) -> None:
        self.counts = StageCounts()
        self.attempts = {(clip, stage): n for clip, stages in earlier.items() for stage, n in stages.items()}
        self.started: set[str] = set()
        self.inside: set[tuple[str, str]] = set()
        self.running: set[tuple[str, str]] = set()
        self.last_report = time.monotonic()

    def start(self, stage: str, failure: str | None, seconds: float) -> bool:
        if failure is None:
            self.last_report = time.monotonic()
            self.started.add(stage)
            self.counts.load_seconds.setdefault(stage, []).append(seconds)
        elif stage not in self.started:
            self.counts.start_failures[stage] = failure
        return stage in self.started

    def enter(self, stage: str, clip_id: str) -> int:
        self.last_report = time.monotonic()
        self.inside.add((clip_id, stage))
        self.running.discard((clip_id, stage))  # a second time: the worker died
        return self.attempts.get((clip_id, stage), 0)

    def begin(self, stage: str, clip_id: str) -> None:
        key = clip_id, stage
        if self.attempts.get(key):
            self.retry(stage, WORKER_DIED)
        self.attempts[key] = self.attempts.get(key, 0) + 1
        self.running.add(key)

    def retry(self, stage: str, reason: str) -> None:
        self.counts.retries[stage, reason] += 1

    def leave(self, stage: str, clip_id: str, is_healthy: bool, seconds: float, gpu_peak_bytes: int) -> None:
        self.last_report = time.monotonic()
        self.attempts.pop((clip_id, stage), None)
        self.inside.discard((clip_id, stage))
        self.running.discard((clip_id, stage))
        (self.counts.passed if is_healthy else self.counts.failed)[stage] += 1
        if is_healthy:
            self.counts.seconds[stage] = self.counts.seconds.get(stage, 0.0) + seconds
        self.counts.gpu_peak_bytes[stage] = max(gpu_peak_bytes, self.counts.gpu_peak_bytes.get(stage, 0))

    def snapshot(self) -> StageCounts:
        self.counts.in_flight = Counter(stage for _, stage in self.inside)
        self.counts.attempts, self.counts.died = {}, {}
        for (clip_id, stage), attempts in self.attempts.items():
            self.counts.attempts.setdefault(clip_id, {})[stage] = attempts
            if deaths := attempts - ((clip_id, stage) in self.running):
                self.counts.died.setdefault(clip_id, {})[stage] = deaths
        self.counts.idle_s = time.monotonic() - self.last_report
        return self.counts


class StageBoard:
    """The board's address, for the driver and, pickled, for actors; needs a Ray connection.

    Args:
        earlier: workers that died over clips before.
    """

    def __init__(self, earlier: Mapping[str, Mapping[str, int]] | None = None) -> None:
        # Beside the driver: a node that comes and goes is no place for what outlives actors.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        board = ray.remote(_Board).options(num_cpus=0, max_restarts=-1, scheduling_strategy=here)
        self._handle: Any = board.remote(dict(earlier or {}))

    def report_start(self, stage: str, failure: str | None, seconds: float) -> bool:
        """An actor of a stage has started in so many seconds, or could not.

        Returns:
            Whether any actor of the stage has started: then a failure is that of one machine, and not of the run.
        """
        return bool(self._ask(self._handle.start, stage, failure, seconds))

    def enter(self, stage: str, clip_id: str) -> int:
        """A clip comes into a stage.

        Returns:
            How many workers have died over it there.
        """
        return self._ask(self._handle.enter, stage, clip_id) or 0

    def begin(self, stage: str, clip_id: str) -> None:
        """Its processing begins; returns when that is written down, since this process may die of it."""
        self._ask(self._handle.begin, stage, clip_id)

    def retry(self, stage: str, reason: str) -> None:
        """A clip's processing is begun again in a worker that lives; returns at once."""
        self._handle.retry.remote(stage, reason)

    def leave(self, stage: str, clip_id: str, is_healthy: bool, seconds: float, gpu_peak_bytes: int) -> None:
        """A clip has left a stage, whose actor has taken so much of its GPU at most; returns at once."""
        self._handle.leave.remote(stage, clip_id, is_healthy, seconds, gpu_peak_bytes)

    def snapshot(self) -> StageCounts | None:
        """Ask for the counters; None if the board does not answer in time."""
        return self._ask(self._handle.snapshot)

    def _ask(self, method: Any, *arguments: Any) -> Any:
        try:
            return ray.get(method.remote(*arguments), timeout=_ANSWER_S)
        except _OUT_OF_REACH:
            return None  # clips are worth more than books of who works on them
