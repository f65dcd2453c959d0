"""How many actors of each pool, and what each may use; plain values in, plain values out, no cluster needed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pipeline.gpu_shares import Demand, share_gpus
from pipeline.lane import Lane
from pipeline.pools import (
    CONCURRENT_CALLS,
    PACKING_CALLS,
    ROUNDING,
    Cluster,
    Execution,
    GpuMemory,
    LanePlan,
    MemoryPlanError,
    PlanError,
    Pool,
    clips_per_second,
    fullest_gpu,
    needed_gb,
)
from pipeline.settings import Settings

GPU_STAGES = ("conditioning", "base_generation", "super_resolution", "decoding")

SPARE_CPUS = 1.0
"""Left free on every node: actors of uneven parts do not fill a node to the last hundredth."""

_CPU_STEPS = 100
"""CPUs of an actor are planned in hundredths. They only decide about places; none has 0, which would tell Ray that
any number of them may be put on one node."""

_WRITER_LOAD = 0.5
"""Share of the time in which a writer may be busy, since how long a store takes varies."""


def plan_lane(
    lane: Lane,
    settings: Settings,
    cluster: Cluster,
    seconds: Mapping[str, float],
    memory: GpuMemory | None = None,
    num_clips: int | None = None,
    execution: Execution = "auto",
) -> LanePlan:
    """Choose pools, and where that is left open, how the lane is run: phased if only so it fits the GPUs' memory.

    Args:
        lane: see `plan_pools`, as for all others.
        settings: of the run.
        cluster: what the lane may use.
        seconds: per clip, by stage.
        memory: what actors need of a GPU's memory.
        num_clips: of the lane.
        execution: what the user wants.

    Raises:
        PlanError: as `plan_pools`; where neither way fits, what streaming lacks.
    """

    def plan(is_phased: bool) -> LanePlan:
        return LanePlan(plan_pools(lane, settings, cluster, seconds, memory, num_clips, is_phased), is_phased)

    if execution == "phased":
        return plan(is_phased=True)
    try:
        return plan(is_phased=False)
    except MemoryPlanError as lacking:
        try:
            phased = plan(is_phased=True)
        except PlanError:
            raise lacking from None
        if execution == "streaming":
            raise MemoryPlanError(f"{lacking}; execution: phased would fit") from None
        return phased


def plan_pools(
    lane: Lane,
    settings: Settings,
    cluster: Cluster,
    seconds: Mapping[str, float],
    memory: GpuMemory | None = None,
    num_clips: int | None = None,
    is_phased: bool = False,
) -> tuple[Pool, ...]:
    """Choose pools for one lane.

    GPUs are shared out as `pipeline.gpu_shares` says, in phases each stage has all of them. Without any there is one
    actor per stage on the CPU. Sizes and resources named in the settings are kept.

    Args:
        lane: which stages there are.
        settings: with the pools' pinned values.
        cluster: what the lane may use.
        seconds: that a clip keeps an actor of each stage busy.
        memory: what actors need of a GPU's memory; by default nothing is known of it, and so nothing checked.
        num_clips: of the lane, None where that is not known: no stage gets more actors.
        is_phased: stage after stage.

    Raises:
        MemoryPlanError: if actors do not fit a GPU's memory.
        PlanError: if pools need more GPUs or CPUs than there are.
    """
    actors_gb, gpu_gb = (memory.actors_gb, memory.gpu_gb) if memory else ({}, None)
    pinned = {stage: getattr(settings.pools, stage) for stage in lane.stages}
    demands = [
        Demand(stage, seconds[stage], _rounded(actors_gb.get(stage)), pinned[stage].size, pinned[stage].num_gpus)
        for stage in lane.stages
        if stage in GPU_STAGES and cluster.num_gpus and pinned[stage].num_gpus != 0
    ]
    if is_phased:
        on_gpus = [pool for demand in demands for pool in share_gpus([demand], cluster.num_gpus, gpu_gb, num_clips)]
    else:
        on_gpus = list(share_gpus(demands, cluster.num_gpus, gpu_gb, num_clips)) if demands else []
    chosen = {pool.stage: pool for pool in on_gpus}
    rate = clips_per_second(on_gpus, seconds, is_phased) if on_gpus else 0.0
    pools = []
    for stage in lane.stages:
        load = _WRITER_LOAD if stage == "writing" else 1.0
        enough = max(1, math.ceil(seconds[stage] * rate / load - ROUNDING))  # as many as keep up with the GPUs
        size, share = pinned[stage].size or min(enough, num_clips or enough), pinned[stage].num_gpus or 0.0
        pool = chosen.get(stage) or Pool(stage, size, 0, share)
        calls = PACKING_CALLS if stage == "base_generation" and settings.packed_tokens else CONCURRENT_CALLS
        pools.append(replace(pool, concurrent_calls=calls))
    phases = [[pool] for pool in pools] if is_phased else [pools]
    for phase in phases:
        _check_fit(phase, cluster.num_gpus)
        if gpu_gb is not None:
            _check_memory(phase, gpu_gb, settings)
    cpus = {stage: pool.num_cpus for stage, pool in pinned.items()}
    return tuple(pool for phase in phases for pool in _with_cpus(phase, cpus, cluster))


def _rounded(memory_gb: float | None) -> float | None:
    return None if memory_gb is None else round(memory_gb, 1)


def _with_cpus(pools: Sequence[Pool], pinned: Mapping[str, float | None], cluster: Cluster) -> list[Pool]:
    """Give every actor CPUs, so few that all of them find a place however they are spread."""
    usual = 1.0 if cluster.num_gpus else 0.5
    if cluster.num_cpus is not None:
        fixed = sum(pool.size * (pinned[pool.stage] or 0.0) for pool in pools)
        num_free = sum(pool.size for pool in pools if pinned[pool.stage] is None)
        spare = SPARE_CPUS * cluster.num_nodes
        left = cluster.num_cpus - spare - fixed
        if left + ROUNDING < num_free / _CPU_STEPS:
            needed = fixed + num_free / _CPU_STEPS
            most = max(pools, key=lambda pool: pool.size * (pinned[pool.stage] or 1 / _CPU_STEPS))
            raise PlanError(
                f"pools need {needed:g} CPUs (most of them {most.stage}, {most.size} x "
                f"{pinned[most.stage] or 1 / _CPU_STEPS:g}) and {spare:g} stays free, the cluster has "
                f"{cluster.num_cpus:g}: {math.ceil(needed + spare)} CPUs would do, or a lower "
                f"pools.{most.stage}.num_cpus or size"
            )
        if num_free:
            usual = min(usual, math.floor(_CPU_STEPS * left / num_free + ROUNDING) / _CPU_STEPS)
    chosen = {stage: usual if cpus is None else cpus for stage, cpus in pinned.items()}
    return [replace(pool, num_cpus=chosen[pool.stage]) for pool in pools]


def _remedies(settings: Settings) -> str:
    compiling = ["compiler: auto"] if settings.compiler == "none" else []
    narrower = ["precision: fp8"] if settings.precision != "fp8" else []
    return f"{', '.join([*compiling, *narrower, 'shorter clips'])} and lower resolutions need less"


def _check_memory(pools: Sequence[Pool], gpu_gb: float, settings: Settings) -> None:
    remedies = _remedies(settings)
    for pool in pools:
        if pool.num_gpus and (pool.gpu_memory_gb or 0) > gpu_gb:
            needs = f"pool {pool.stage} needs {pool.gpu_memory_gb:g} GB of GPU memory, a GPU has {gpu_gb:g}"
            raise MemoryPlanError(f"{needs}: {remedies}, gpu_memory_gb names another size of GPU")
    together = fullest_gpu(pools)
    if needed_gb(together) > gpu_gb + ROUNDING:
        names = ", ".join(f"{actor.stage} {actor.gpu_memory_gb:g}" for actor in together)
        num_stages = sum(pool.num_gpus > 0 for pool in pools)
        raise MemoryPlanError(
            f"pools that share a GPU need {needed_gb(together):g} GB of its memory ({names}), a GPU has {gpu_gb:g}: "
            f"{num_stages} GPUs give each pool its own, pools.<stage>.num_gpus keeps some apart; {remedies}"
        )


def _check_fit(pools: Sequence[Pool], num_gpus: int) -> None:
    needed = sum(pool.size * pool.num_gpus for pool in pools)
    if needed > num_gpus + ROUNDING:
        shares = ", ".join(f"{pool.stage} {pool.size} x {pool.num_gpus:g}" for pool in pools if pool.num_gpus)
        raise PlanError(f"pools need {needed:g} GPUs ({shares}), the run may use {num_gpus}: lower size or num_gpus")
