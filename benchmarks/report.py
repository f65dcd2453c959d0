"""Figures of a run, as rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from benchmarks.timing import Timing


@dataclass
class Report:
    """What is measured, row by row.

    Attributes:
        rows: stage, way and figures.
        skipped: stage and way to the reason why it has no row.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def add(self, stage: str, way: str, timing: Timing, floor_s: float | None = None, **more: Any) -> None:
        """Take down a measurement and print it."""
        row: dict[str, Any] = {"stage": stage, "way": way, "seconds": timing.seconds}
        if floor_s is not None:
            row |= {"floor_s": floor_s, "ratio_to_floor": timing.seconds / floor_s}
        row |= {"spread": timing.spread, "peak_gb": timing.peak_gb, **more}
        row = {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in row.items()}
        self.rows.append(row)
        shown = {name: value for name, value in row.items() if value is not None and name not in ("stage", "way")}
        figures = ", ".join(f"{name} {value}" for name, value in shown.items())
        print(f"{stage:24} {way:14} {figures}", flush=True)

    def skip(self, stage: str, way: str, reason: str) -> None:
        """Take down what could not be measured, and why."""
        self.skipped[f"{stage}, {way}"] = reason
        print(f"{stage:24} {way:14} skipped: {reason}", flush=True)

    def seconds(self, stage: str, way: str) -> float | None:
        """Of a row, None where there is none."""
        return next((row["seconds"] for row in self.rows if (row["stage"], row["way"]) == (stage, way)), None)
