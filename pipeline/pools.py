"""What a plan is about: pools of actors, what a cluster offers them, and how fast they are together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

CONCURRENT_CALLS = 2
"""Calls per actor at once: the second one's transfers overlap the first one's computing (measured with simulated stages
on Ray 2.60: 98.5 % of the bottleneck's bound, against 55 % with one task in flight)."""
PACKING_CALLS = 8
"""The same where clips are denoised together: as many can wait for the next pass."""

ALONE_SHARE = 0.5
"""Two actors with more than this of a GPU each cannot meet on one."""

ROUNDING = 1e-6
"""Fractions are summed up as floats."""


Execution = Literal["auto", "streaming", "phased"]
"""`streaming`: all stages at once. `phased`: stage after stage, each with all GPUs and no other model on them."""


class PlanError(ValueError):
    """The pools asked for do not fit what the cluster has."""


class MemoryPlanError(PlanError):
    """They do not fit the memory of its GPUs."""


@dataclass(frozen=True)
class Pool:
    """A fixed pool of actors.

    Attributes:
        stage: name of the stage.
        size: actors.
        num_cpus: logical CPUs of each.
        num_gpus: GPUs of each, possibly a fraction.
        gpu_memory_gb: what each needs of its GPU's memory, in 10^9 bytes; None where that is not known.
        concurrent_calls: clips that each has at once.
    """

    stage: str
    size: int
    num_cpus: float
    num_gpus: float
    gpu_memory_gb: float | None = None
    concurrent_calls: int = CONCURRENT_CALLS


@dataclass(frozen=True)
class LanePlan:
    """How a lane is run.

    Attributes:
        pools: one per stage, in order.
        is_phased: stage after stage, see `Execution`.
    """

    pools: tuple[Pool, ...]
    is_phased: bool


@dataclass(frozen=True)
class Cluster:
    """What pools may take.

    Attributes:
        num_gpus: GPUs of the run.
        num_cpus: logical CPUs; None where they are not known, as with nodes that are yet to be started.
        num_nodes: machines that the CPUs are spread over.
    """

    num_gpus: int = 0
    num_cpus: float | None = None
    num_nodes: int = 1


@dataclass(frozen=True)
class GpuMemory:
    """What is known of GPU memory, in GB of 10^9 bytes.

    Attributes:
        actors_gb: what an actor of each stage needs.
        gpu_gb: what one GPU has, or None where that is not known.
    """

    actors_gb: Mapping[str, float]
    gpu_gb: float | None = None


def clips_per_second(pools: Sequence[Pool], seconds: Mapping[str, float], is_phased: bool = False) -> float:
    """How many clips leave the pools in steady state, by the stages' seconds per clip.

    An actor that shares its GPU loses the time which the others on it compute. Which those are is Ray's choice: the
    worst counts for actors with more than half a GPU, all smaller ones that there is room for. Within a pool, clips go
    where there is time.

    Args:
        pools: of one lane.
        seconds: that a clip keeps an actor of a stage busy.
        is_phased: stage after stage, each with the whole cluster.
    """
    if is_phased:
        return 1 / sum(seconds[pool.stage] / pool.size for pool in pools)
    light = [pool for pool in pools if 0 < pool.num_gpus <= ALONE_SHARE]
    heavy = [pool for pool in pools if pool.num_gpus > ALONE_SHARE]
    rates = [pool.size / seconds[pool.stage] for pool in pools]
    for pool in heavy:
        beside = [other for other in light if _fit_together(pool, other)]
        rates.append(pool.size / sum(seconds[each.stage] for each in (pool, *beside)))
    apart = [pool for pool in light if not any(_fit_together(pool, other) for other in heavy)]
    if apart:
        rates.append(sum(pool.size * pool.num_gpus for pool in apart) / sum(seconds[pool.stage] for pool in apart))
    return min(rates)


def _fit_together(one: Pool, other: Pool) -> bool:
    return one.num_gpus + other.num_gpus <= 1 + ROUNDING


def utilisation(pools: Sequence[Pool], seconds: Mapping[str, float], is_phased: bool = False) -> dict[str, float]:
    """Share of the time in which the actors of each stage are expected to be busy."""
    rate = clips_per_second(pools, seconds, is_phased)
    return {pool.stage: seconds[pool.stage] * rate / pool.size for pool in pools}


def fullest_gpu(pools: Sequence[Pool], room: float = 1.0) -> list[Pool]:
    """The actors, each as its pool, that need most memory of all that Ray could put on one GPU together."""
    if not pools:
        return []
    pool, others = pools[0], pools[1:]
    if not pool.num_gpus or pool.gpu_memory_gb is None:
        return fullest_gpu(others, room)
    most = min(pool.size, int(room / min(pool.num_gpus, 1.0) + ROUNDING))
    choices = [[pool] * n + fullest_gpu(others, room - n * min(pool.num_gpus, 1.0)) for n in range(most + 1)]
    return max(choices, key=needed_gb)


def needed_gb(actors: Sequence[Pool]) -> float:
    """GPU memory that actors, each given as its pool, need together."""
    return sum(actor.gpu_memory_gb or 0.0 for actor in actors)
