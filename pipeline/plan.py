"""How many actors of each pool, and what each may use; plain values in, plain values out, no cluster needed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from pipeline.lane import Lane
from pipeline.settings import Settings

GPU_STAGES = ("conditioning", "base_generation", "super_resolution", "decoding")

CONCURRENT_CALLS = 2
"""Calls per actor at once: the second one's transfers overlap the first one's computing (measured with simulated stages
on Ray 2.60: 98.5 % of the bottleneck's bound, against 55 % with one task in flight)."""
PACKING_CALLS = 8
"""The same where clips are denoised together: as many can wait for the next pass."""

_SECONDS_PER_CLIP = {
    "256p": {"conditioning": 0.1, "base_generation": 1.6, "decoding": 0.4},
    "540p": {"conditioning": 0.1, "base_generation": 1.6, "super_resolution": 5.1, "decoding": 1.3},
    "1080p": {"conditioning": 0.1, "base_generation": 1.6, "super_resolution": 31.0, "decoding": 5.8},
}
"""Published seconds on one H100 for a clip of five seconds, distilled; conditioning is an estimate."""


_SHARE_STEPS = 1000
"""Fractions of a GPU are planned in thousandths."""


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
class GpuMemory:
    """What is known of GPU memory, in GB of 10^9 bytes.

    Attributes:
        actors_gb: what an actor of each stage needs.
        gpu_gb: what one GPU has, or None where that is not known.
    """

    actors_gb: Mapping[str, float]
    gpu_gb: float | None = None


def plan_pools(lane: Lane, settings: Settings, num_gpus: int, memory: GpuMemory | None = None) -> tuple[Pool, ...]:
    """Choose pools for one lane.

    With a GPU for every GPU stage or more, each actor has one to itself, and further GPUs go one by one to the stage
    that is the bottleneck. With fewer they are shared, see `_shared_gpus`. Without any, there is one actor per stage on
    the CPU. Sizes and resources named in the settings are kept.

    Args:
        lane: which stages there are.
        settings: with the pools' pinned values.
        num_gpus: GPUs the lane may use.
        memory: what actors need of a GPU's memory; by default nothing is known of it, and so nothing checked.

    Raises:
        PlanError: if pinned pools need more GPUs than there are, or actors do not fit a GPU's memory.
    """
    stages = [stage for stage in lane.stages if stage in GPU_STAGES]
    pinned = {stage: getattr(settings.pools, stage) for stage in lane.stages}
    shares = dict.fromkeys(stages, 0.0)
    if num_gpus == 0:
        sizes = dict.fromkeys(stages, 1)
    elif num_gpus < len(stages):
        sizes, shares = _shared_gpus(_SECONDS_PER_CLIP[lane.resolution], num_gpus, memory)
    else:
        fixed = {stage: pool.size for stage, pool in pinned.items() if pool.size is not None and stage in stages}
        sizes, shares = _spread(_SECONDS_PER_CLIP[lane.resolution], fixed, num_gpus), dict.fromkeys(stages, 1.0)
    writers = -(-max(sizes.values()) // 8)  # writing is network time: one writer keeps up with several GPUs
    pools = []
    for stage in lane.stages:
        pool = pinned[stage]
        gpus = pool.num_gpus if pool.num_gpus is not None else shares.get(stage, 0.0)
        pools.append(
            Pool(
                stage,
                pool.size if pool.size is not None else sizes.get(stage, writers),
                pool.num_cpus if pool.num_cpus is not None else (1.0 if num_gpus else 0.5),
                gpus,
                round(memory.actors_gb[stage], 1) if memory and gpus and stage in memory.actors_gb else None,
                PACKING_CALLS if stage == "base_generation" and settings.packed_tokens else CONCURRENT_CALLS,
            )
        )
    _check_fit(pools, num_gpus)
    if memory and memory.gpu_gb is not None:
        _check_memory(pools, memory.gpu_gb, _remedies(settings))
    return tuple(pools)


def _spread(seconds: Mapping[str, float], fixed: Mapping[str, int], num_gpus: int) -> dict[str, int]:
    """Give whole GPUs to stages so that the slowest stage is as fast as possible."""
    sizes = {stage: fixed.get(stage, 1) for stage in seconds}
    free = [stage for stage in seconds if stage not in fixed]
    while free and sum(sizes.values()) < num_gpus:
        bottleneck = max(free, key=lambda stage: seconds[stage] / sizes[stage])
        sizes[bottleneck] += 1
    return sizes


def _shared_gpus(
    seconds: Mapping[str, float], num_gpus: int, memory: GpuMemory | None
) -> tuple[dict[str, int], dict[str, float]]:
    """Sizes and fractions of a GPU where stages are more than GPUs.

    Each stage has as many actors as there are GPUs, with an equal fraction of one each; which share a GPU is Ray's
    choice. Where the worst choice is known not to fit a GPU's memory, an actor's fraction is that which it needs of the
    memory, so that whichever share one do fit; there is one per stage, and more for the bottleneck, as long as all find
    a place whatever Ray chooses.

    Args:
        seconds: of each stage per clip.
        num_gpus: GPUs there are.
        memory: what is known.
    """
    equal = dict.fromkeys(seconds, num_gpus), dict.fromkeys(seconds, 1 / len(seconds))
    if memory is None or memory.gpu_gb is None or any(stage not in memory.actors_gb for stage in seconds):
        return equal
    pools = [Pool(stage, num_gpus, 0, 1 / len(seconds), memory.actors_gb[stage]) for stage in seconds]
    if _gb(_fullest_gpu(pools)) <= memory.gpu_gb:
        return equal
    steps = {stage: math.ceil(_SHARE_STEPS * memory.actors_gb[stage] / memory.gpu_gb) for stage in seconds}
    actors, rooms = list(seconds), (_SHARE_STEPS,) * num_gpus
    if not _find_places(tuple(steps.values()), rooms):
        return equal
    while True:
        bottleneck = max(seconds, key=lambda stage: seconds[stage] / actors.count(stage))
        if not _find_places(tuple(sorted(steps[stage] for stage in [*actors, bottleneck])), rooms):
            break
        actors.append(bottleneck)
    shares = {stage: step / _SHARE_STEPS for stage, step in steps.items()}
    return {stage: actors.count(stage) for stage in seconds}, shares


@cache
def _find_places(needs: tuple[int, ...], rooms: tuple[int, ...]) -> bool:
    """Whether all needs find room, in whatever order they come and wherever each is put."""
    for index, need in enumerate(needs):
        left = [
            tuple(sorted([*rooms[:place], room - need, *rooms[place + 1 :]]))
            for place, room in enumerate(rooms)
            if room >= need
        ]
        if not left or not all(_find_places((*needs[:index], *needs[index + 1 :]), rooms) for rooms in left):
            return False
    return True


def _fullest_gpu(pools: Sequence[Pool], room: float = 1.0) -> list[Pool]:
    """The actors, each as its pool, that need most memory of all that Ray could put on one GPU together."""
    if not pools:
        return []
    pool, others = pools[0], pools[1:]
    if not pool.num_gpus or pool.gpu_memory_gb is None:
        return _fullest_gpu(others, room)
    most = min(pool.size, int(room / min(pool.num_gpus, 1.0) + 1e-6))
    choices = [[pool] * n + _fullest_gpu(others, room - n * min(pool.num_gpus, 1.0)) for n in range(most + 1)]
    return max(choices, key=_gb)


def _gb(actors: Sequence[Pool]) -> float:
    return sum(actor.gpu_memory_gb or 0.0 for actor in actors)


def _remedies(settings: Settings) -> str:
    compiling = ["compiler: auto"] if settings.compiler == "none" else []
    narrower = ["precision: fp8"] if settings.precision != "fp8" else []
    return f"{', '.join([*compiling, *narrower, 'shorter clips'])} and lower resolutions need less"


def _check_memory(pools: Sequence[Pool], gpu_gb: float, remedies: str) -> None:
    for pool in pools:
        if pool.num_gpus and (pool.gpu_memory_gb or 0) > gpu_gb:
            needs = f"pool {pool.stage} needs {pool.gpu_memory_gb:g} GB of GPU memory, a GPU has {gpu_gb:g}"
            raise PlanError(f"{needs}: {remedies}, gpu_memory_gb names another size of GPU")
    together = _fullest_gpu(pools)
    if _gb(together) > gpu_gb + 1e-6:
        names = ", ".join(f"{actor.stage} {actor.gpu_memory_gb:g}" for actor in together)
        num_stages = sum(pool.num_gpus > 0 for pool in pools)
        raise PlanError(
            f"pools that share a GPU need {_gb(together):g} GB of its memory ({names}), a GPU has {gpu_gb:g}: "
            f"{num_stages} GPUs give each pool its own, pools.<stage>.num_gpus keeps some apart; {remedies}"
        )


def _check_fit(pools: list[Pool], num_gpus: int) -> None:
    needed = sum(pool.size * pool.num_gpus for pool in pools)
    if needed > num_gpus + 1e-6:
        shares = ", ".join(f"{pool.stage} {pool.size} x {pool.num_gpus:g}" for pool in pools if pool.num_gpus)
        raise PlanError(f"pools need {needed:g} GPUs ({shares}), the run may use {num_gpus}: lower size or num_gpus")
