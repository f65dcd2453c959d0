"""How long the clips of a lane take with planned pools, and what that costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.lane import Lane
from pipeline.pools import LanePlan, clips_per_second, utilisation


@dataclass(frozen=True)
class LaneEstimate:
    """Expectations of one lane; what starting takes (loading, compiling) is not among them.

    Attributes:
        lane: the lane.
        num_clips: that it is to make.
        plan: its pools.
        seconds: that a clip keeps an actor of each stage busy.
        num_gpus: that are held for as long as it runs, whether pools use them or not.
        sources: stage to where its figure comes from.
        phased_wall_s: seconds it would take stage after stage, where it is not run so but could be.
    """

    lane: Lane
    num_clips: int
    plan: LanePlan
    seconds: Mapping[str, float]
    num_gpus: int
    sources: Mapping[str, str]
    phased_wall_s: float | None = None

    @property
    def clips_per_hour(self) -> float:
        """In steady state."""
        return 3600 * clips_per_second(self.plan.pools, self.seconds, self.plan.is_phased)

    @property
    def wall_s(self) -> float:
        """Seconds until the last clip is there.

        Streaming: the first passes all stages, the others follow at the bottleneck's pace. Phased: every stage ends
        when its actor with most clips does.
        """
        if self.plan.is_phased:
            return sum(-(-self.num_clips // pool.size) * self.seconds[pool.stage] for pool in self.plan.pools)
        first = sum(self.seconds[pool.stage] for pool in self.plan.pools)
        return first + 3600 * (self.num_clips - 1) / self.clips_per_hour

    @property
    def gpu_hours(self) -> float:
        """Of all GPUs of the run."""
        return self.num_gpus * self.wall_s / 3600

    @property
    def utilisation(self) -> dict[str, float]:
        """Share of the time in which each stage's actors are busy, in steady state."""
        return utilisation(self.plan.pools, self.seconds, self.plan.is_phased)

    @property
    def gpu_utilisation(self) -> float:
        """Share of the time in which the run's GPUs compute, in steady state; 0 without any."""
        busy = sum(self.seconds[pool.stage] for pool in self.plan.pools if pool.num_gpus)
        return self.clips_per_hour / 3600 * busy / self.num_gpus if self.num_gpus else 0.0
