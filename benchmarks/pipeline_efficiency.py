"""`python -m benchmarks.pipeline_efficiency`: how busy the pipeline keeps its slowest stage, beside other uses of Ray.

Real planner, graph, watch and actors, with stages that sleep (see `benchmarks.simulated_lane`) on logical GPUs of this
machine; beside it the same stages with Ray Data's autoscaling and with actor pools (see `benchmarks.ways_to_run`).
Every run is a process and a Ray cluster of its own.

Clips per second of steady state (see `benchmarks.steady_state`) are held against the bound: actors of the plan's
slowest pool over their seconds per clip. How long the whole took beyond all clips at the bound is told apart: starting,
filling, running dry. How much of the time that pool's actors were at work is measured, too, where there is such a pool.

A way that has sent all clips through the first stages before steady state ends (`fed_s` before `ends_s`) may have given
those stages' GPUs to others by then, which no run can do whose clips are more than its memory takes.

This machine's processors limit how fast clips may come. The scale makes clips so slow that they can follow; how busy
they were in steady state, with this and with what else ran, is told with every figure.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ray

from benchmarks.machine import describe_machine
from benchmarks.processor_time import ProcessorTime
from benchmarks.simulated_lane import RESOLUTIONS, SimulatedLane, computed
from benchmarks.steady_state import SteadyState
from benchmarks.ways_to_run import WAYS
from jobs.connection import disconnect

NUM_CLIPS = 400
CLIPS_PER_GPU = 8
"""Two clips wait for every actor at most, so a quarter of these is what can be under way at once."""
BOUND_PER_S = {"540p": 4.0, "1080p": 2.5}
"""Clips that two cores can move easily, of the payloads each resolution has."""

_COLUMNS = (
    "resolution",
    "num_gpus",
    "way",
    "clips_per_s",
    "of_bound",
    "busy",
    "first_s",
    "begins_s",
    "ends_s",
    "fed_s",
    "whole_s",
    "beyond_s",
    "cores_ours",
    "cores_others",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pipeline_efficiency",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 32], help="logical GPUs (default: 8 32)")
    parser.add_argument("--resolution", nargs="+", choices=RESOLUTIONS, default=RESOLUTIONS)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument(
        "--scale",
        type=float,
        help="simulated seconds for a second of a GPU (default: bounds of 4 clips a second, 2.5 of 1080p)",
    )
    parser.add_argument("--clips", type=int, help=f"of each run (default: {NUM_CLIPS}, or {CLIPS_PER_GPU} per GPU)")
    parser.add_argument("--output", type=Path, help="JSON file for the results; those of other lanes in it stay")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # run of a process of its own
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(_measure_alone(**json.loads(options.one))))
        return 0
    try:
        lanes = [_lane(name, num, options.clips, options.scale) for num in options.gpus for name in options.resolution]
    except ValueError as error:
        parser.error(str(error))
    print(" ".join(f"{name:>12}" for name in _COLUMNS))
    for lane in lanes:
        results = []
        for way in options.ways:
            results.append(_apart(way, lane))
            print(" ".join(f"{_shown(results[-1][name])!s:>12}" for name in _COLUMNS), flush=True)
        if options.output:
            _keep(options.output, lane, results)
    return 0


def _keep(output: Path, lane: SimulatedLane, results: list[dict[str, Any]]) -> None:
    """Put a lane's results in the place of older ones; those of other lanes stay if the machine is the same."""
    machine = describe_machine() | {"ray": ray.__version__}
    found = json.loads(output.read_text()) if output.exists() else {"machine": machine, "results": []}
    if found["machine"] != machine:
        found["results"] = []
    others = [
        row for row in found["results"] if (row["resolution"], row["num_gpus"]) != (lane.resolution, lane.num_gpus)
    ]
    date = datetime.now(UTC).isoformat(timespec="seconds")
    rows = [*others, *({**row, "date": date} for row in results)]
    rows.sort(key=lambda row: (row["num_gpus"], RESOLUTIONS.index(row["resolution"])))
    output.write_text(json.dumps({"machine": machine, "results": rows}, indent=1) + "\n")


def _lane(resolution: str, num_gpus: int, num_clips: int | None, scale: float | None) -> SimulatedLane:
    if num_clips is None:
        num_clips = max(NUM_CLIPS, CLIPS_PER_GPU * num_gpus)
    if scale is not None:
        return SimulatedLane(resolution, num_gpus, num_clips, scale)
    unscaled = SimulatedLane(resolution, num_gpus, num_clips, 1.0)
    return replace(unscaled, scale=round(unscaled.bound_per_s / BOUND_PER_S[resolution], 3))


def _shown(value: Any) -> Any:
    return f"{value:.3g}" if isinstance(value, float) else "" if value is None else value


def _apart(way: str, lane: SimulatedLane) -> dict[str, Any]:
    one = json.dumps({"way": way, **asdict(lane)})
    command = [sys.executable, "-m", "benchmarks.pipeline_efficiency", "--one", one]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{way}, {lane}: status {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def _measure_alone(way: str, **lane: Any) -> dict[str, Any]:
    simulated = SimulatedLane(**lane)
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    ray.init(
        address="local",
        num_cpus=simulated.num_cpus,
        num_gpus=simulated.num_gpus,
        include_dashboard=False,
        logging_level=logging.WARNING,
        log_to_driver=False,
    )
    try:
        return measure(way, simulated)
    finally:
        disconnect()


def measure(way: str, lane: SimulatedLane) -> dict[str, Any]:
    """Run a lane one way on the cluster that this process is connected to, and say how it went.

    Raises:
        RuntimeError: if a clip fails or is lost.
    """
    times: list[float] = []
    intervals: list[tuple[float, float]] = []
    moments: dict[int, ProcessorTime] = {}
    bottleneck, has_planned_sizes, fed_s = lane.bottleneck, way != "autoscaled", 0.0
    steady = SteadyState(range(lane.num_clips))
    started, started_at = time.monotonic(), time.time()
    for row in WAYS[way](lane):
        times.append(time.monotonic() - started)
        if row["failure"] is not None:
            raise RuntimeError(f"{way}: {row['id']}: {row['failure']}")
        if len(times) - 1 in (steady.first, steady.last):
            moments[len(times) - 1] = ProcessorTime.now()
        notes = json.loads(row["notes"])
        intervals += computed(notes, bottleneck.stage)
        fed_s = max(fed_s, *(ended - started_at for _, ended in computed(notes, lane.lane.stages[0])))
    if len(times) != lane.num_clips:
        raise RuntimeError(f"{way}: {len(times)} of {lane.num_clips} clips came back")
    steady, bound = SteadyState(times), lane.bound_per_s
    busy_s = steady.busy_s([(begun - started_at, ended - started_at) for begun, ended in intervals])
    figures = {
        "clips_per_s": steady.clips_per_s,
        "bound_per_s": bound,
        "of_bound": steady.clips_per_s / bound,
        "halves_per_s": steady.halves_per_s,
        "busy": busy_s / (steady.ends - steady.begins) / bottleneck.size if has_planned_sizes else None,
        "first_s": times[0],
        "begins_s": steady.begins,
        "ends_s": steady.ends,
        "fed_s": fed_s,
        "whole_s": times[-1],
        "beyond_s": times[-1] - len(times) / bound,
        **moments[steady.last].since(moments[steady.first]),
    }
    rounded = {
        name: [round(each, 3) for each in value] if isinstance(value, tuple) else value and round(value, 3)
        for name, value in figures.items()
    }
    pools = {pool.stage: pool.size for pool in lane.plan().pools} if has_planned_sizes else None
    return {"way": way, **asdict(lane), "pools": pools, "bottleneck": bottleneck.stage, **rounded}


if __name__ == "__main__":
    sys.exit(main())
