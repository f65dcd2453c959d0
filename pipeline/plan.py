"""How many actors of each pool, and what each may use; plain values in, plain values out, no cluster needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.lane import Lane
from pipeline.settings import Settings

GPU_STAGES = ("conditioning", "base_generation", "super_resolution", "decoding")

CONCURRENT_CALLS = 2
"""Calls per actor at once: the second one's transfers overlap the first one's computing (measured with simulated stages
on Ray 2.60: 98.5 % of the bottleneck's bound, against 55 % with one task in flight)."""

_SECONDS_PER_CLIP = {
    "256p": {"conditioning": 0.1, "base_generation": 1.6, "decoding": 0.4},
    "540p": {"conditioning": 0.1, "base_generation": 1.6, "super_resolution": 5.1, "decoding": 1.3},
    "1080p": {"conditioning": 0.1, "base_generation": 1.6, "super_resolution": 31.0, "decoding": 5.8},
}
"""Published seconds on one H100 for a clip of five seconds, distilled; conditioning is an estimate."""


class PlanError(ValueError):
    """The pools asked for do not fit what the cluster has."""


@dataclass(frozen=True)
class Pool:
    """A fixed pool of actors.

    Attributes:
        stage: name of the stage.
        size: actors.
        num_cpus: logical CPUs of each.
        num_gpus: GPUs of each, possibly a fraction.
    """

    stage: str
    size: int
    num_cpus: float
    num_gpus: float


def plan_pools(lane: Lane, settings: Settings, num_gpus: int) -> tuple[Pool, ...]:
    """Choose pools for one lane.

    With a GPU for every GPU stage or more, each actor has one to itself, and further GPUs go one by one to the stage
    that is the bottleneck. With fewer, each stage has as many actors as there are GPUs, with an equal fraction of one
    each; which share a GPU is Ray's choice, and whether their models fit it is not checked. Without any, there is one
    actor per stage on the CPU. Sizes and resources named in the settings are kept.

    Args:
        lane: which stages there are.
        settings: with the pools' pinned values.
        num_gpus: GPUs the lane may use.

    Raises:
        PlanError: if pinned pools need more GPUs than there are.
    """
    stages = [stage for stage in lane.stages if stage in GPU_STAGES]
    pinned = {stage: getattr(settings.pools, stage) for stage in lane.stages}
    if num_gpus == 0:
        sizes, share = dict.fromkeys(stages, 1), 0.0
    elif num_gpus < len(stages):
        sizes, share = dict.fromkeys(stages, num_gpus), 1 / len(stages)
    else:
        fixed = {stage: pool.size for stage, pool in pinned.items() if pool.size is not None and stage in stages}
        sizes, share = _spread(_SECONDS_PER_CLIP[lane.resolution], fixed, num_gpus), 1.0
    writers = -(-max(sizes.values()) // 8)  # writing is network time: one writer keeps up with several GPUs
    pools = []
    for stage in lane.stages:
        pool = pinned[stage]
        gpus = share if stage in stages else 0.0
        pools.append(
            Pool(
                stage,
                pool.size if pool.size is not None else sizes.get(stage, writers),
                pool.num_cpus if pool.num_cpus is not None else (1.0 if num_gpus else 0.5),
                pool.num_gpus if pool.num_gpus is not None else gpus,
            )
        )
    _check_fit(pools, num_gpus)
    return tuple(pools)


def _spread(seconds: Mapping[str, float], fixed: Mapping[str, int], num_gpus: int) -> dict[str, int]:
    """Give whole GPUs to stages so that the slowest stage is as fast as possible."""
    sizes = {stage: fixed.get(stage, 1) for stage in seconds}
    free = [stage for stage in seconds if stage not in fixed]
    while free and sum(sizes.values()) < num_gpus:
        bottleneck = max(free, key=lambda stage: seconds[stage] / sizes[stage])
        sizes[bottleneck] += 1
    return sizes


def _check_fit(pools: list[Pool], num_gpus: int) -> None:
    needed = sum(pool.size * pool.num_gpus for pool in pools)
    if needed > num_gpus + 1e-6:
        shares = ", ".join(f"{pool.stage} {pool.size} x {pool.num_gpus:g}" for pool in pools if pool.num_gpus)
        raise PlanError(f"pools need {needed:g} GPUs ({shares}), the run may use {num_gpus}: lower size or num_gpus")
