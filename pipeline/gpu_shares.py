"""How a lane's stages share the GPUs: sizes and fractions, chosen so that the bottleneck is as fast as it can be.

Ray decides which GPU an actor gets, and may spread actors over nodes as it likes. So only such shares are chosen as
find a place and fit a GPU's memory whatever it decides:

- *Whole GPUs*: each actor has one to itself.
- *Heavy and light*: heavy actors have more than half a GPU each, so no two of them meet; all light actors together have
  no more than the rest of one. A GPU thus always has room for one heavy actor, and for every light one.
- *By memory*: one actor per stage with that fraction of a GPU which it needs of the memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations

from pipeline.pools import ALONE_SHARE, ROUNDING, Pool, clips_per_second, fullest_gpu, needed_gb

_STEPS = 1000
"""Fractions of a GPU are planned in thousandths."""

_LIGHT_SHARE = 0.1
"""Of a GPU, for a light actor. It decides about places, not about speed: GPUs give time to whoever computes."""

_LIGHT_LOAD = 0.5
"""Share of the time in which a light actor may be busy: beside one that always computes it gets half of the GPU's."""

_WORTH_SHARING = 1.05
"""How much faster sharing must be than whole GPUs, for what changing between processes costs. An estimate."""


@dataclass(frozen=True)
class Demand:
    """A stage that computes on GPUs.

    Attributes:
        stage: its name.
        seconds: that a clip keeps an actor busy.
        memory_gb: of a GPU that an actor needs, None where that is not known.
        size: actors, if pinned.
        share: of a GPU for each, if pinned.
    """

    stage: str
    seconds: float
    memory_gb: float | None = None
    size: int | None = None
    share: float | None = None

    def pool(self, size: int, share: float) -> Pool:
        """A pool of this stage; what is pinned is kept."""
        return Pool(self.stage, self.size or size, 0, self.share or share, self.memory_gb)


def share_gpus(
    demands: Sequence[Demand], num_gpus: int, gpu_gb: float | None, num_clips: int | None = None
) -> tuple[Pool, ...]:
    """Choose size and share of each stage's pool.

    Where memory is known, stages share GPUs if that makes the lane faster and fits; where it is not, no more stages
    share than must. If nothing fits, the pools are those that come nearest, for a message that says by how much.

    Args:
        demands: of the stages, in order.
        num_gpus: that there are, at least 1.
        gpu_gb: memory of one, None where that is not known.
        num_clips: of the lane: more actors of a stage than clips would stay idle.
    """
    seconds = {demand.stage: demand.seconds for demand in demands}
    whole = _whole(demands, num_gpus, num_clips)
    is_known = gpu_gb is not None and all(demand.memory_gb is not None for demand in demands)
    must_share = num_gpus < len(demands)
    nearest, best, best_rate = whole, None, 0.0
    for num_light in range(len(demands) if is_known or must_share else 1):
        ways = _candidates(demands, num_gpus, num_light, num_clips) if num_light else [whole]
        ways = [pools for pools in ways if sum(pool.size * pool.num_gpus for pool in pools) <= num_gpus + ROUNDING]
        if must_share and ways:
            nearest = min([*ways, *([] if nearest is whole else [nearest])], key=_most_gb)
        fitting = [pools for pools in ways if not is_known or _most_gb(pools) <= (gpu_gb or 0.0) + ROUNDING]
        fastest = max(fitting, key=lambda pools: (_rate(pools, seconds), -_num_actors(pools)), default=None)
        if fastest is not None and _rate(fastest, seconds) > _WORTH_SHARING * best_rate:
            best, best_rate = fastest, _rate(fastest, seconds)
        if best is not None and not is_known:
            break
    if best is None and is_known and must_share:
        best = _by_memory(demands, num_gpus, gpu_gb or 0.0)
    return best or nearest


def _rate(pools: Sequence[Pool], seconds: Mapping[str, float]) -> float:
    return round(clips_per_second(pools, seconds), 9)  # so that two ways of the same speed are seen to be


def _most_gb(pools: Sequence[Pool]) -> float:
    return needed_gb(fullest_gpu(pools))


def _num_actors(pools: Sequence[Pool]) -> int:
    return sum(pool.size for pool in pools)


def _whole(demands: Sequence[Demand], num_gpus: int, num_clips: int | None) -> tuple[Pool, ...]:
    """A GPU for every actor, even where that is more than there are."""
    seconds, weights = ({d.stage: d.seconds for d in demands}, {d.stage: d.share or 1.0 for d in demands})
    sizes = spread(seconds, weights, _fixed(demands), num_gpus, num_clips)
    return tuple(demand.pool(sizes[demand.stage], 1.0) for demand in demands)


def _candidates(
    demands: Sequence[Demand], num_gpus: int, num_light: int, num_clips: int | None
) -> list[tuple[Pool, ...]]:
    """Ways with so many light stages that find a place."""
    ways = []
    for light in combinations(demands, num_light):
        heavy = [demand for demand in demands if demand not in light]
        pools = _heavy_and_light(heavy, light, num_gpus, num_clips)
        if pools is not None:
            ways.append(tuple(pools[demand.stage] for demand in demands))
    return ways


def _heavy_and_light(
    heavy: Sequence[Demand], light: Sequence[Demand], num_gpus: int, num_clips: int | None
) -> dict[str, Pool] | None:
    beside_s = sum(demand.seconds for demand in light)
    seconds = {demand.stage: demand.seconds + beside_s for demand in heavy}
    sizes = spread(seconds, dict.fromkeys(seconds, 1.0), _fixed(heavy), num_gpus, num_clips)
    if sum(sizes.values()) > num_gpus:
        return None
    rate = min(sizes[stage] / seconds[stage] for stage in sizes)
    for demand in light:
        enough = max(1, math.ceil(demand.seconds * rate / _LIGHT_LOAD - 1e-9))
        sizes[demand.stage] = demand.size or min(enough, num_clips or enough)
    num_light = sum(sizes[demand.stage] for demand in light)
    share = math.floor(_STEPS * min(_LIGHT_SHARE, (1 - ALONE_SHARE) * 0.8 / num_light)) / _STEPS
    if share == 0:
        return None
    pools = {demand.stage: demand.pool(sizes[demand.stage], share) for demand in light}
    rest = round(1 - sum(pool.size * pool.num_gpus for pool in pools.values()), 3)
    pools |= {demand.stage: demand.pool(sizes[demand.stage], rest) for demand in heavy}
    fits = all(ALONE_SHARE < pools[demand.stage].num_gpus <= rest for demand in heavy)
    return pools if fits else None


def _fixed(demands: Sequence[Demand]) -> dict[str, int]:
    return {demand.stage: demand.size for demand in demands if demand.size is not None}


def spread(
    seconds: Mapping[str, float],
    weights: Mapping[str, float],
    fixed: Mapping[str, int],
    num_gpus: int,
    num_clips: int | None = None,
) -> dict[str, int]:
    """Give GPUs to stages, one by one to the slowest; with whole ones no other way is faster.

    Args:
        seconds: per clip and actor.
        weights: GPUs of an actor.
        fixed: sizes that are not to be changed.
        num_gpus: GPUs there are.
        num_clips: more actors than this are of no use.

    Returns:
        Actors of each stage, at least one, even where those are more than fit.
    """
    sizes = {stage: fixed.get(stage, 1) for stage in seconds}
    while True:
        free = [stage for stage in seconds if stage not in fixed and (num_clips is None or sizes[stage] < num_clips)]
        bottleneck = max(free, key=lambda stage: seconds[stage] / sizes[stage], default=None)
        used = sum(sizes[stage] * weights[stage] for stage in seconds)
        if bottleneck is None or used + weights[bottleneck] > num_gpus + ROUNDING:
            return sizes
        sizes[bottleneck] += 1


def _by_memory(demands: Sequence[Demand], num_gpus: int, gpu_gb: float) -> tuple[Pool, ...] | None:
    if any(demand.size is not None or demand.share is not None for demand in demands):
        return None
    steps = [math.ceil(_STEPS * (demand.memory_gb or 0.0) / gpu_gb) for demand in demands]
    if not _find_places(tuple(sorted(steps)), (_STEPS,) * num_gpus):
        return None
    return tuple(demand.pool(1, step / _STEPS) for demand, step in zip(demands, steps, strict=True))


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
