"""The Ray side of a lane: one block per clip, one fixed pool of actors per stage."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext

from actors.request import ClipRequest
from actors.row import ClipRow, new_row
from actors.stage import Stage
from pipeline.plan import Pool
from pipeline.progress import StageBoard
from pipeline.stage_actor import StageActor

_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("request", pa.string()),
        ("payload", pa.large_binary()),
        ("failure", pa.string()),
        ("stage_seconds", pa.string()),
        ("notes", pa.string()),
    ]
)


def run_lane(
    requests: Sequence[ClipRequest],
    pools: Sequence[Pool],
    stages: Mapping[str, tuple[type[Stage], Mapping[str, Any]]],
    board: StageBoard,
    accelerator_type: str | None = None,
) -> Iterator[ClipRow]:
    """Stream requests through the pools.

    Args:
        requests: clips of one lane.
        pools: one per stage, in order.
        stages: stage name to its class and constructor arguments.
        board: where actors report what they work on.
        accelerator_type: GPU type that actors with a GPU are pinned to.

    Yields:
        Every request's row once, finished or failed, as they come out of the last stage.
    """
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = 0  # stages turn exceptions into failures; what is left is a bug and must be loud
    context.execution_options.preserve_order = False
    context.max_consecutive_actor_init_deaths = 3
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    rows = [new_row(request.id, request.model_dump_json()) for request in requests]
    dataset = ray.data.from_arrow(pa.Table.from_pylist(rows, schema=_SCHEMA))
    dataset = dataset.repartition(target_num_rows_per_block=1, strict=True)
    for pool in pools:
        stage_class, arguments = stages[pool.stage]
        # A class of its own gives every pool its name on the dashboard.
        actor_class = type(stage_class.__name__, (StageActor,), {})
        dataset = dataset.map(
            actor_class,
            fn_constructor_kwargs={"stage_class": stage_class, "arguments": arguments, "board": board.handle},
            compute=ActorPoolStrategy(
                size=pool.size, max_concurrent_calls_per_actor=pool.concurrent_calls, enable_true_multi_threading=True
            ),
            num_cpus=pool.num_cpus,
            num_gpus=pool.num_gpus,
            **({"accelerator_type": accelerator_type} if accelerator_type and pool.num_gpus else {}),
        )
    yield from dataset.iter_rows()
