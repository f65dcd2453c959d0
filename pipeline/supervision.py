"""Keeps a lane running: watches it, and starts it anew where it does not go on by itself.

A lane's graph runs in a process of its own. The driver stays free to look at the clock and at the cluster and to answer
signals; ending that process ends all its actors, in whatever state they are.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.row import ClipRow
from pipeline.board import Attempts, StageBoard, StageCounts
from pipeline.graph import LaneGraph, run_lane
from pipeline.patience import Patience, Sight, Verdict, is_short, judge

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
_LOST = (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError)
"""The lane's process, or rows that it has given, went with a process or a node."""
RELEASE_S = 12.0
"""How long clips in flight may come to an end once the run is told to stop.

A spot node has 30 s. With 20 s here a driver took 36 s to its end, on two busy cores and with a store that failed a
tenth of the calls.
"""


class StartError(RuntimeError):
    """The actors of a pool cannot start; the message is one line that says which and why."""


class StuckError(RuntimeError):
    """A lane does not go on, however often it is started anew; the message is one line."""


class LaneWatch:
    """One go at a lane: rows as they come, until the last, or until it has to be ended.

    Args:
        graph: what runs.
        board: new, for this go alone.
        patience: when to end it.
        is_told_to_stop: asked again and again; rows may come for `RELEASE_S` then.
        keep_deaths: told how many workers have died over which clips, whenever that changes.
        is_outgrown: asked again and again: whether the cluster has GPUs that the run may use and the plan does not.
    """

    def __init__(
        self,
        graph: LaneGraph,
        board: StageBoard,
        patience: Patience,
        is_told_to_stop: Callable[[], bool],
        keep_deaths: Callable[[Attempts], None],
        is_outgrown: Callable[[], bool] = lambda: False,
    ):
        self.graph, self.board, self.patience, self.is_outgrown = graph, board, patience, is_outgrown
        self.is_told_to_stop, self.keep_deaths = is_told_to_stop, keep_deaths
        self.verdict: Verdict = "goes on"

    def rows(self, chunks: Sequence[bytes]) -> Iterator[ClipRow]:
        """Run the graph.

        After the last row, `verdict` says whether it was ended.

        Raises:
            StartError: if no actor of a pool can start.
        """
        # Not softly: then Ray puts what needs no CPU on any node, and this one lives as long as the driver.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        process = ray.remote(_LaneProcess).options(num_cpus=0, scheduling_strategy=here).remote()
        results = process.run.options(num_returns="streaming").remote(chunks, self.graph, self.board)
        try:
            yield from self._watched(results)
        finally:
            ray.kill(process)

    def _watched(self, results: Any) -> Iterator[ClipRow]:
        now = time.monotonic()
        last_row = last_look = no_spare_since = now
        # Before there has been enough, nodes are still on their way.
        enough_since: float | None = None
        stop_at: float | None = None
        while True:
            ready, _ = ray.wait([results], timeout=_LOOK_EVERY_S)
            now = time.monotonic()
            if ready:
                try:
                    yield ray.get(next(results))
                    last_row = now
                except StopIteration:
                    return
                except _LOST as error:
                    logger.warning("the lane's process is lost: %s", " ".join(str(error).split()))
                    self.verdict = "process died"
                    return
            if self.is_told_to_stop():
                stop_at = stop_at or now + RELEASE_S
                if now > stop_at:
                    return
            if now - last_look < _LOOK_EVERY_S:
                continue
            last_look = now
            counts = self.board.snapshot()
            if counts is None:  # who does not answer has not said that nobody died
                continue
            self._check_starts(counts)
            if not is_short(self.graph.plan, ray.cluster_resources()):
                enough_since = now
            if not self.is_outgrown():
                no_spare_since = now
            short_s = 0.0 if enough_since is None else now - enough_since
            spare_s = now - no_spare_since
            self.verdict = judge(Sight(counts.idle_s, now - last_row, short_s, spare_s), self.patience)
            # A clip that hangs is as bad as one that kills.
            self.keep_deaths(counts.attempts if self.verdict == "stalled" else counts.died)
            if self.verdict != "goes on":
                return

    def _check_starts(self, counts: StageCounts) -> None:
        for stage, reason in counts.start_failures.items():
            raise StartError(f"{stage} cannot start: {reason}")


class _LaneProcess:
    """Runs as a Ray actor."""

    def run(self, chunks: Sequence[bytes], graph: LaneGraph, board: StageBoard) -> Iterator[ClipRow]:
        _keep_errors_in_logs()
        yield from run_lane(chunks, graph, board)


def _keep_errors_in_logs() -> None:
    """Turn this worker's standard error to a log file that Ray does not print at the driver.

    Ray's core writes an error there for every graph: that actors which restart have arguments in the object store. They
    are kept there, by this process. What ends a lane is raised, or is said by the death of the process.
    """
    try:
        log = Path(os.readlink("/proc/self/fd/2"))
    except OSError:  # no Linux: the line is shown
        return
    if log.name.startswith("worker-"):
        with open(log.with_name(f"lane-{log.name}"), "ab") as file:
            os.dup2(file.fileno(), 2)
