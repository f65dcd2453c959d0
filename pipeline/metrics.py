"""What Prometheus scrapes of a run, see docs/operations.md; all of it comes from the driver.

Workers end as soon as a lane does, and what they counted in their last seconds would be lost with them. The driver has
every clip's row, and asks the board for the rest. Ray sets `ray_` before each name and `_total` behind a counter's.
"""

from __future__ import annotations

import json
from collections import Counter as Tally
from collections.abc import Mapping, Sequence
from typing import Any

from ray.util.metrics import Counter, Gauge, Histogram

from actors.row import ClipRow
from pipeline.board import StageCounts
from pipeline.pools import Pool
from pipeline.run_counts import RunCounts

_STAGE_BUCKETS_S = [0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0]
_LOAD_BUCKETS_S = [1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0, 1280.0]

_LANE = ("run", "lane")
_STAGE = ("run", "lane", "stage")
_CLIP = ("run", "lane", "resolution", "language")


class RunMetrics:
    """Metrics of one run; needs a Ray connection.

    Args:
        run: tells the run from others; a name that few runs have, since each makes time series of its own.
    """

    def __init__(self, run: str):
        self._run = run
        self._clips = Counter("magihuman_clips", "Clips done and failed.", (*_CLIP, "status"))
        self._video_s = Counter("magihuman_video_seconds", "Length of the clips done.", _CLIP)
        self._bytes = Counter("magihuman_written_bytes", "Size of the MP4s written.", _LANE)
        self._busy_s = Counter("magihuman_busy_seconds", "Seconds that stages worked on clips.", _STAGE)
        self._stage_s = Histogram(
            "magihuman_stage_seconds", "Seconds that a stage worked on a clip.", _STAGE_BUCKETS_S, _STAGE
        )
        self._load_s = Histogram(
            "magihuman_model_load_seconds", "Seconds until an actor could take clips.", _LOAD_BUCKETS_S, _STAGE
        )
        self._retries = Counter("magihuman_retries", "Clips begun again in a stage.", (*_STAGE, "reason"))
        self._in_flight = Gauge("magihuman_clips_in_flight", "Clips that actors have.", _STAGE)
        self._waiting = Gauge("magihuman_clips_waiting", "Clips that have left the stage before.", _STAGE)
        self._actors = Gauge("magihuman_actors", "Actors planned.", _STAGE)
        self._gpu_peak = Gauge(
            "magihuman_gpu_memory_peak_bytes", "Most memory that an actor's tensors took on its GPU.", _STAGE
        )
        self._rows = Gauge("magihuman_rows", "Rows of the manifest.", ("run", "state"))
        self._retries_told: Tally[tuple[str, str]] = Tally()
        self._loads_told: Tally[str] = Tally()

    def count(self, lane: str, row: ClipRow, record: Mapping[str, Any] | None) -> None:
        """A clip's row has come out of a lane.

        Args:
            lane: "mode/resolution".
            row: of the clip.
            record: of a clip that is done, as it stands in its marker; None: it has failed.
        """
        clip = {**self._lane(lane), "resolution": lane.rpartition("/")[2]}
        clip["language"] = str(json.loads(row["request"])["language"])
        self._clips.inc(1, {**clip, "status": "failed" if record is None else "done"})
        if record is not None:
            _add(self._video_s, record["mp4"]["video_s"], clip)
            _add(self._bytes, record["mp4"]["num_bytes"], self._lane(lane))
        for stage, seconds in json.loads(row["stage_seconds"]).items():
            tags = {**self._lane(lane), "stage": stage}
            self._stage_s.observe(seconds, tags)
            _add(self._busy_s, seconds, tags)

    def begin_lane(self, lane: str, pools: Sequence[Pool]) -> None:
        """A lane starts, with a new board."""
        self._retries_told.clear()
        self._loads_told.clear()
        for pool in pools:
            self._actors.set(pool.size, {**self._lane(lane), "stage": pool.stage})

    def watch_lane(self, lane: str, stages: Sequence[str], num_clips: int, counts: StageCounts) -> None:
        """Tell where a lane stands.

        Args:
            lane: that runs.
            stages: of it, in order.
            num_clips: that it was started with.
            counts: of its board.
        """
        num_left_before = num_clips
        for stage in stages:
            tags = {**self._lane(lane), "stage": stage}
            self._in_flight.set(counts.in_flight[stage], tags)
            # Less than none where workers died: their clips come once more.
            self._waiting.set(max(0, num_left_before - counts.num_entered(stage)), tags)
            num_left_before = counts.passed[stage]
            if stage in counts.gpu_peak_bytes:
                self._gpu_peak.set(counts.gpu_peak_bytes[stage], tags)
        for stage, load_seconds in counts.load_seconds.items():
            for seconds in load_seconds[self._loads_told[stage] :]:
                self._load_s.observe(seconds, {**self._lane(lane), "stage": stage})
            self._loads_told[stage] = len(load_seconds)
        for (stage, reason), number in counts.retries.items():
            tags = {**self._lane(lane), "stage": stage, "reason": reason}
            _add(self._retries, number - self._retries_told[stage, reason], tags)
            self._retries_told[stage, reason] = number

    def end_lane(self, lane: str, pools: Sequence[Pool]) -> None:
        """A lane has ended, with its actors."""
        for pool in pools:
            for gauge in (self._actors, self._in_flight, self._waiting):
                gauge.set(0, {**self._lane(lane), "stage": pool.stage})

    def watch_run(self, counts: RunCounts) -> None:
        """Tell how many rows there are, and what has become of them."""
        states = {
            "all": counts.num_rows,
            "skipped": counts.num_skipped,
            "done": counts.num_done,
            "failed": counts.num_failed,
            "left": counts.num_left,
        }
        for state, number in states.items():
            self._rows.set(number, {"run": self._run, "state": state})

    def _lane(self, lane: str) -> dict[str, str]:
        return {"run": self._run, "lane": lane}


def _add(counter: Counter, value: float, tags: Mapping[str, str]) -> None:
    if value > 0:  # Ray's counters take nothing else
        counter.inc(value, dict(tags))
