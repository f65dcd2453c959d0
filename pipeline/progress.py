"""Live progress of a run: a table or, without a terminal, plain lines."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import asdict
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline.board import StageBoard, StageCounts
from pipeline.durations import format_duration
from pipeline.metrics import RunMetrics
from pipeline.pools import Pool
from pipeline.run_counts import RunCounts
from pipeline.run_lock import RunLock

REFRESH_S = 0.5
PLAIN_LINE_EVERY_S = 10.0


class ProgressDisplay:
    """Context manager that shows a run's progress until it ends.

    Args:
        console: where to; a terminal gets a live table, anything else a plain line every ten seconds.
        counts: updated by the caller.
        lock: of the output; gets the counts to pass on to others.
        metrics: get them, too, and what the lane's board knows.
    """

    def __init__(
        self, console: Console, counts: RunCounts, lock: RunLock | None = None, metrics: RunMetrics | None = None
    ):
        self.console, self.counts, self.lock, self.metrics = console, counts, lock, metrics
        self.lane, self.pools, self.num_clips = "", tuple[Pool, ...](), 0
        self.board: StageBoard | None = None
        self._finished, self._looking = threading.Event(), threading.RLock()
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def begin_lane(self, lane: str, pools: Sequence[Pool], board: StageBoard, num_clips: int) -> None:
        """Say which lane runs now, with how many clips, and who knows what is in flight."""
        self.end_lane()
        with self._looking:
            self.lane, self.pools, self.board, self.num_clips = lane, tuple(pools), board, num_clips
            if self.metrics is not None:
                self.metrics.begin_lane(lane, pools)
                self.metrics.watch_run(self.counts)
        if self._live is None:
            sizes = ", ".join(f"{pool.stage} x{pool.size}{_memory_each(pool)}" for pool in pools)
            self.console.print(f"lane {lane}: {sizes}", highlight=False, soft_wrap=True)

    def end_lane(self) -> None:
        """Tell the metrics what has happened since the last look."""
        with self._looking:
            if self.metrics is not None and self.board is not None:
                self._look()
                self.metrics.end_lane(self.lane, self.pools)
            self.board = None

    def __enter__(self) -> ProgressDisplay:
        if self._live is not None:
            self._live.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._finished.set()
        self._thread.join()
        self.end_lane()
        if self._live is not None:
            self._live.stop()

    def _run(self) -> None:
        interval = PLAIN_LINE_EVERY_S if self._live is None else REFRESH_S
        if self.lock is not None:
            self.lock.progress = self._facts(StageCounts())
        while not self._finished.wait(interval):
            stages = self._look()
            if self.lock is not None:
                self.lock.progress = self._facts(stages)
            if self._live is None:
                self.console.print(plain_line(self.counts, stages), highlight=False, soft_wrap=True)
            else:
                self._live.update(live_table(self.lane, self.pools, self.counts, stages), refresh=True)

    def _look(self) -> StageCounts:
        with self._looking:
            counts = self.board.snapshot() if self.board is not None else None
            if self.metrics is not None:
                self.metrics.watch_run(self.counts)
                if counts is not None:
                    stages = [pool.stage for pool in self.pools]
                    self.metrics.watch_lane(self.lane, stages, self.num_clips, counts)
        return counts or StageCounts()

    def _facts(self, stages: StageCounts) -> dict[str, Any]:
        counts = self.counts
        totals = {name: getattr(counts, name) for name in ("num_rows", "num_skipped", "num_done", "num_failed")}
        return {
            **totals,
            "clips_per_minute": round(counts.clips_per_minute, 3),
            "lane": self.lane,
            "lanes": {lane: asdict(of_lane) for lane, of_lane in list(counts.lanes.items())},
            "in_flight": {stage: number for stage, number in stages.in_flight.items() if number > 0},
            "failures": [asdict(kind) for kind in counts.failures.most_frequent()],
        }


def _memory_each(pool: Pool) -> str:
    return "" if pool.gpu_memory_gb is None else f" ({pool.gpu_memory_gb:g} GB of GPU memory each)"


def plain_line(counts: RunCounts, stages: StageCounts) -> str:
    """One line for logs."""
    flying = ", ".join(f"{stage} {number}" for stage, number in stages.in_flight.items() if number > 0)
    return (
        f"{counts.num_done + counts.num_skipped}/{counts.num_rows} done, {counts.num_failed} failed, "
        f"in flight: {flying or 'none'}, {counts.clips_per_minute:.1f} clips/min, {counts.time_left()} left"
    )


def live_table(lane: str, pools: Sequence[Pool], counts: RunCounts, stages: StageCounts) -> RenderableType:
    """A bar, the totals, and a row per stage."""
    done = counts.num_done + counts.num_skipped
    bar = ProgressBar(total=counts.num_rows, completed=done + counts.num_failed, width=48)
    totals = Text.assemble(
        (f"{done}", "bold green"),
        f" of {counts.num_rows} done, ",
        (f"{counts.num_failed} failed", "bold red" if counts.num_failed else ""),
        f", {counts.clips_per_minute:.1f} clips/min, {format_duration(counts.elapsed_s)} so far, ",
        f"{counts.time_left()} left",
    )
    table = Table(title=f"lane {lane}", title_justify="left", box=None, pad_edge=False)
    table.add_column("stage")
    knows_memory = any(pool.gpu_memory_gb is not None for pool in pools)
    for name in ("actors", "in flight", "passed", "failed", *(["GPU memory each"] if knows_memory else [])):
        table.add_column(name, justify="right")
    for pool in pools:
        numbers = (pool.size, stages.in_flight[pool.stage], stages.passed[pool.stage], stages.failed[pool.stage])
        memory = "" if pool.gpu_memory_gb is None else f"{pool.gpu_memory_gb:g} GB"
        table.add_row(pool.stage, *(str(number) for number in numbers), *([memory] if knows_memory else []))
    return Group(bar, totals, table)
