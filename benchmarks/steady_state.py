"""Start, steady state and end of a run, from the moments at which its clips were finished.

Steady state is the middle half: a quarter of the clips is finished before it begins, and a quarter after it ends. That
must be more clips than are under way at once, so that no pool is still filling or already running dry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MIN_CLIPS = 8
"""Fewer cannot be cut into quarters and halves of something."""


@dataclass(frozen=True)
class SteadyState:
    """The middle half of a run.

    Attributes:
        times: seconds from the run's start until each clip was finished, in order.
    """

    times: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.times) < MIN_CLIPS:
            raise ValueError(f"times must be of at least {MIN_CLIPS} clips, got {len(self.times)}")

    @property
    def first(self) -> int:
        """Clip with which it begins."""
        return len(self.times) // 4 - 1

    @property
    def last(self) -> int:
        """Clip with which it ends."""
        return len(self.times) - 1 - len(self.times) // 4

    @property
    def begins(self) -> float:
        """When it begins."""
        return self.times[self.first]

    @property
    def ends(self) -> float:
        """When it ends."""
        return self.times[self.last]

    @property
    def clips_per_s(self) -> float:
        """Clips finished in it, over its seconds."""
        return (self.last - self.first) / (self.ends - self.begins)

    @property
    def halves_per_s(self) -> tuple[float, float]:
        """The same of its first and its second half: alike, unless the run was still getting faster."""
        middle = (self.first + self.last) // 2
        first = (middle - self.first) / (self.times[middle] - self.begins)
        return first, (self.last - middle) / (self.ends - self.times[middle])

    def busy_s(self, computed: Sequence[tuple[float, float]]) -> float:
        """How much of some intervals lies in it."""
        return sum(max(0.0, min(ended, self.ends) - max(begun, self.begins)) for begun, ended in computed)
