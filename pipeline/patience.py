"""When a lane no longer goes on by itself; plain values in, a word out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pipeline.pools import ROUNDING, LanePlan

Verdict = Literal["goes on", "stalled", "cluster shrank", "cluster grew", "process died"]


@dataclass(frozen=True)
class Patience:
    """How long the driver waits before it acts.

    Attributes:
        stall_s: without any report of an actor, loading of models included.
        replacement_s: without a finished clip, while the cluster has less than the pools need: a lost node's
            replacement may come. For as long, GPUs that have come back must have stayed before they are planned with.
        max_fruitless: times in a row that a lane is started anew without a finished clip in between.
    """

    stall_s: float = 1800.0
    replacement_s: float = 300.0
    max_fruitless: int = 3


@dataclass(frozen=True)
class Sight:
    """What the driver sees of a lane at a moment.

    Attributes:
        idle_s: seconds since an actor last reported.
        barren_s: seconds since a clip last came out, or the lane was started.
        short_s: seconds for which the cluster has had less than the pools need; 0 if it has enough.
        spare_s: seconds for which it has had GPUs that the run may use and the plan does not know of.
    """

    idle_s: float
    barren_s: float
    short_s: float
    spare_s: float = 0.0


def judge(sight: Sight, patience: Patience) -> Verdict:
    """Whether a lane goes on by itself."""
    if min(sight.short_s, sight.barren_s) > patience.replacement_s:
        return "cluster shrank"
    if min(sight.idle_s, sight.barren_s) > patience.stall_s:
        return "stalled"
    if sight.spare_s > patience.replacement_s:
        return "cluster grew"
    return "goes on"


def is_short(plan: LanePlan, resources: Mapping[str, float]) -> bool:
    """Whether a cluster lacks GPUs or CPUs for a lane.

    Args:
        plan: of the lane.
        resources: of all nodes that are alive, as `ray.cluster_resources` gives them.
    """
    phases = [[pool] for pool in plan.pools] if plan.is_phased else [plan.pools]
    return any(
        sum(pool.size * pool.num_gpus for pool in phase) > resources.get("GPU", 0.0) + ROUNDING
        or sum(pool.size * pool.num_cpus for pool in phase) > resources.get("CPU", 0.0) + ROUNDING
        for phase in phases
    )
