"""The same simulated lane run in three ways on the Ray cluster this process is connected to; rows as they come.

- planned: as `jobs.generate` runs a lane: pools by the plan, watched, started anew where it does not go on.
- autoscaled: Ray Data with its defaults: an actor pool per stage that grows as Ray Data sees fit; a block per clip.
- actor pools: `ray.util.ActorPool` per stage, sizes by our plan; a thread per stage hands on what comes out.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import ray
from ray.util import ActorPool

from actors.row import ClipRow, new_row
from benchmarks.simulated_lane import SimulatedLane
from pipeline.board import StageBoard
from pipeline.graph import LaneGraph
from pipeline.patience import Patience
from pipeline.plan import GPU_STAGES
from pipeline.pools import Pool
from pipeline.supervision import LaneWatch
from pipeline.valid_row import ValidRow
from pipeline.worklist import Worklist

_POLL_S = 0.01


def planned(lane: SimulatedLane) -> Iterator[ClipRow]:
    """Our own way."""
    worklist = Worklist()
    for line, request in enumerate(lane.requests):
        worklist.add(ValidRow.of(line, request))
    graph = LaneGraph(f"simulated-{lane.resolution}", lane.plan(), lane.stages)
    watch = LaneWatch(graph, StageBoard(), Patience(), lambda: False, lambda deaths: None)
    return watch.rows(list(worklist.chunks(lane.resolution)))


def autoscaled(lane: SimulatedLane) -> Iterator[ClipRow]:
    """Ray Data's way: any stage may have up to all GPUs, and its actors and blocks are Ray Data's business."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    dataset = ray.data.from_items(cast(list[Any], _rows(lane)), override_num_blocks=lane.num_clips)
    for stage, (stage_class, arguments) in lane.stages.items():
        dataset = dataset.map(
            stage_class,
            fn_constructor_kwargs=arguments,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=max(1, lane.num_gpus)),
            num_gpus=1 if lane.num_gpus and stage in GPU_STAGES else 0,
        )
    return cast(Iterator[ClipRow], dataset.iter_rows())


def actor_pools(lane: SimulatedLane) -> Iterator[ClipRow]:
    """A thread for each stage's pool; between two of them wait up to twice as many clips as there are actors."""
    source: queue.Queue[ClipRow | None] = queue.Queue()
    for row in [*_rows(lane), None]:
        source.put(row)
    for pool in lane.plan().pools:
        target: queue.Queue[ClipRow | None] = queue.Queue(2 * pool.size)
        stage = threading.Thread(target=_hand_on, args=(_pool_of(lane, pool), source, target), daemon=True)
        stage.start()
        source = target
    while (row := source.get()) is not None:
        yield row


def _pool_of(lane: SimulatedLane, pool: Pool) -> ActorPool:
    stage_class, arguments = lane.stages[pool.stage]
    actor_class = ray.remote(num_cpus=pool.num_cpus, num_gpus=pool.num_gpus)(stage_class)
    return ActorPool([actor_class.remote(**arguments) for _ in range(pool.size)])


def _hand_on(pool: ActorPool, source: queue.Queue[ClipRow | None], target: queue.Queue[ClipRow | None]) -> None:
    is_open = True
    while is_open or pool.has_next():
        while is_open and pool.has_free():
            try:
                row = source.get(block=not pool.has_next())
            except queue.Empty:
                break
            is_open = row is not None
            if row is not None:
                pool.submit(lambda actor, value: actor.__call__.remote(value), row)
        if pool.has_next():
            try:
                target.put(pool.get_next_unordered(timeout=_POLL_S))
            except TimeoutError:
                continue
    target.put(None)


def _rows(lane: SimulatedLane) -> list[ClipRow]:
    return [new_row(request.id, request.model_dump_json(exclude_unset=True)) for request in lane.requests]


WAYS: dict[str, Callable[[SimulatedLane], Iterator[ClipRow]]] = {
    "planned": planned,
    "autoscaled": autoscaled,
    "actor pools": actor_pools,
}
