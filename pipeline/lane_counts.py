"""Where a lane stands; apart, so that who only reads it loads nothing of Ray."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class LaneCounts:
    """Counts of a lane's clips.

    Attributes:
        num_clips: that it had to make when the run started.
        num_done: made.
        num_failed: dead letters of its stages.
    """

    num_clips: int
    num_done: int = 0
    num_failed: int = 0
