"""The Ray side of a lane: one block per clip, one fixed pool of actors per stage."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.row import ClipRow
from actors.stage import Stage
from pipeline.board import StageBoard
from pipeline.pools import LanePlan
from pipeline.stage_actor import StageActor
from pipeline.worklist import unpack_requests


@dataclass(frozen=True)
class LaneGraph:
    """What runs for one lane.

    Attributes:
        name: of the dataset, as the dashboard shows it.
        plan: its pools, and whether they take turns.
        stages: stage name to its class and constructor arguments.
        accelerator_type: GPU type that actors with a GPU are pinned to.
        max_attempts: how often a clip's processing is begun in one stage, see `pipeline.stage_actor.StageActor`.
    """

    name: str
    plan: LanePlan
    stages: Mapping[str, tuple[type[Stage], Mapping[str, Any]]]
    accelerator_type: str | None = None
    max_attempts: int = 3


def run_lane(chunks: Sequence[bytes], graph: LaneGraph, board: StageBoard) -> Iterator[ClipRow]:
    """Send requests through the pools: streaming, or where the plan is phased, a chunk at a time from stage to stage.

    Args:
        chunks: the lane's requests, see `pipeline.worklist.Worklist.chunks`.
        graph: what they pass.
        board: where actors report what they work on.

    Yields:
        Every request's row once, finished or failed, as they come out of the last stage.
    """
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = 0  # stages turn exceptions into failures; what is left is a bug and must be loud
    context.execution_options.preserve_order = False
    context.target_max_block_size = 1  # bytes: every row is a block of its own, and goes on when it is done
    context.max_consecutive_actor_init_deaths = 3
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # In phases a stage's models are loaded once for each chunk: what is done is kept by then.
    for part in [[chunk] for chunk in chunks] if graph.plan.is_phased else [chunks]:
        yield from _run(part, graph, board)


def _run(chunks: Sequence[bytes], graph: LaneGraph, board: StageBoard) -> Iterator[ClipRow]:
    # A block per chunk: the first clips start before the last chunk is unpacked.
    dataset = ray.data.from_arrow([pa.table({"rows": pa.array([chunk], pa.large_binary())}) for chunk in chunks])
    dataset.set_name(graph.name)
    # On this process' node and without a CPU: one that Ray had leased to a node that died was still waiting after 90 s.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    dataset = dataset.map_batches(
        unpack_requests,
        batch_size=None,
        batch_format="pyarrow",
        compute=TaskPoolStrategy(size=1),
        num_cpus=0,
        scheduling_strategy=here,
    )
    for pool in graph.plan.pools:
        stage_class, arguments = graph.stages[pool.stage]
        # A class of its own gives every pool its name on the dashboard.
        actor_class = type(stage_class.__name__, (StageActor,), {})
        pinned = {"accelerator_type": graph.accelerator_type} if graph.accelerator_type and pool.num_gpus else {}
        dataset = dataset.map(
            actor_class,
            fn_constructor_kwargs={
                "stage_class": stage_class,
                "arguments": arguments,
                "board": board,
                "max_attempts": graph.max_attempts,
            },
            compute=ActorPoolStrategy(
                size=pool.size, max_concurrent_calls_per_actor=pool.concurrent_calls, enable_true_multi_threading=True
            ),
            num_cpus=pool.num_cpus,
            num_gpus=pool.num_gpus,
            **pinned,
        )
        if graph.plan.is_phased:
            dataset = dataset.materialize()
    # Without looking ahead: else a clip that is done waits here for the next one.
    for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        # Ray takes this generator for a coroutine, which a list's iterator is not.
        for row in table.to_pylist():  # noqa: UP028
            yield row
