"""A forecast for people, as tables of at most 100 columns, and for machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.costs import CostTable
from pipeline.durations import format_duration
from pipeline.estimate import LaneEstimate
from pipeline.forecast import ManifestSummary

_SAME_AS_H100 = "H200"
"""989 TFLOP/s dense bf16, as an H100 has: stages bound by their products take as long on both."""

_MUCH_FASTER = 0.9
"""Times as long, at which another way of running a lane is worth a word."""


@dataclass(frozen=True)
class Forecast:
    """All that is said.

    Attributes:
        manifest_url: where the rows are.
        summary: what they ask for.
        lanes: planned and estimated.
        table: the figures behind it.
        gpu: type of the GPUs.
        gpu_gb: memory of one, if known.
        num_gpus: that the run may use.
        price: of a GPU-hour, if told.
        precision: setting of the run.
        default_seconds: length taken for clips whose recording decides.
    """

    manifest_url: str
    summary: ManifestSummary
    lanes: Sequence[LaneEstimate]
    table: CostTable
    gpu: str
    gpu_gb: float | None
    num_gpus: int
    price: float | None
    precision: str
    default_seconds: float

    @property
    def num_clips(self) -> int:
        """Of all lanes."""
        return sum(lane.num_clips for lane in self.lanes)

    @property
    def wall_s(self) -> float:
        """Of all lanes, one after the other."""
        return sum(lane.wall_s for lane in self.lanes)

    @property
    def gpu_hours(self) -> float:
        """Of all lanes."""
        return sum(lane.gpu_hours for lane in self.lanes)

    def notes(self) -> list[str]:
        """What a reader has to know about the figures."""
        sources = dict.fromkeys(source for lane in self.lanes for source in lane.sources.values())
        scaled = "scaled to the clips' sizes, lengths and samplers (docs/planning.md)"
        notes = [f"s per clip: on one {self.table.device}, {scaled}"] if self.lanes else []
        if self.num_gpus and self.gpu != self.table.device:
            same = " (same matrix rate, so the same seconds)" if self.gpu == _SAME_AS_H100 else ""
            notes.append(f"no figure is of {self.gpu}: those of {self.table.device} are taken{same}")
        notes.append("not in it: starting actors, once per lane (loading weights, compiling: minutes), and failures")
        if self.precision == "fp8" and "published" in sources:
            notes.append("published figures are of bf16; what fp8 saves of the time is not known and not counted")
        for lane in self.lanes:
            if lane.phased_wall_s is not None and lane.phased_wall_s < _MUCH_FASTER * lane.wall_s:
                takes = f"would take {format_duration(lane.phased_wall_s)}, first clips come with the last stage"
                notes.append(f"lane {lane.lane}: execution=phased {takes}")
        if self.summary.num_unknown_length:
            what = f"{_count(self.summary.num_unknown_length, 'clip')} as long as the recording"
            notes.append(f"{what}: {self.default_seconds:g} s are taken, and for memory the longest possible")
        if self.summary.num_refused:
            notes.append(f"{_count(self.summary.num_refused, 'row')} would not become a clip, the first:")
            notes += [f"  line {line}: {failure}" for line, failure in self.summary.failures]
        return notes

    def as_json(self) -> dict[str, Any]:
        """The same as plain values; seconds, hours and GB as the names say."""
        return {
            "manifest": self.manifest_url,
            "num_rows": self.summary.num_rows,
            "num_refused": self.summary.num_refused,
            "num_clips": self.num_clips,
            "gpu": self.gpu,
            "gpu_memory_gb": self.gpu_gb,
            "num_gpus": self.num_gpus,
            "price_per_gpu_hour": self.price,
            "costs_device": self.table.device,
            "lanes": [self._lane_json(lane) for lane in self.lanes],
            "wall_s": round(self.wall_s, 3),
            "gpu_hours": round(self.gpu_hours, 4),
            "cost": self._cost(self.gpu_hours),
            "notes": self.notes(),
        }

    def _lane_json(self, lane: LaneEstimate) -> dict[str, Any]:
        busy = lane.utilisation
        pools = [
            {
                **asdict(pool),
                "seconds_per_clip": round(lane.seconds[pool.stage], 4),
                "source": lane.sources[pool.stage],
                "utilisation": round(busy[pool.stage], 4),
            }
            for pool in lane.plan.pools
        ]
        return {
            "lane": str(lane.lane),
            "num_clips": lane.num_clips,
            "execution": "phased" if lane.plan.is_phased else "streaming",
            "pools": pools,
            "clips_per_hour": round(lane.clips_per_hour, 2),
            "gpu_utilisation": round(lane.gpu_utilisation, 4),
            "wall_s": round(lane.wall_s, 3),
            "gpu_hours": round(lane.gpu_hours, 4),
            "cost": self._cost(lane.gpu_hours),
        }

    def _cost(self, gpu_hours: float) -> float | None:
        return None if self.price is None else round(gpu_hours * self.price, 2)

    def print(self, console: Console) -> None:
        """Print a table per lane, one of all lanes, and the notes."""
        memory = "" if self.gpu_gb is None else f" of {self.gpu_gb:g} GB"
        cluster = f"{self.num_gpus:,} x {self.gpu}{memory}" if self.num_gpus else "no GPU"
        counts = f"{_count(self.summary.num_rows, 'row')}, {_count(self.num_clips, 'clip')}"
        console.print(f"{escape(self.manifest_url)}: {counts}, {cluster}", highlight=False, soft_wrap=True)
        for lane in self.lanes:
            console.print()
            console.print(_pools_table(lane))
        if self.lanes:
            console.print()
            console.print(self._totals_table())
        console.print()
        for note in self.notes():
            console.print(escape(note), highlight=False, soft_wrap=True)

    def _totals_table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        table.add_column("lane")
        with_price = self.price is not None
        names = ["clips", "clips per hour", "GPUs busy", "time", "GPU-hours", *(["cost"] if with_price else [])]
        for name in names:
            table.add_column(name, justify="right")

        def add(name: str, num_clips: int, rate: str, busy: str, wall_s: float, gpu_hours: float, style: str) -> None:
            cells = [name, f"{num_clips:,}", rate, busy, format_duration(wall_s), _amount(gpu_hours)]
            cost = self._cost(gpu_hours)
            table.add_row(*cells, *([f"{cost:,.2f}"] if cost is not None else []), style=style)

        for lane in self.lanes:
            rate, busy = f"{lane.clips_per_hour:,.0f}", f"{lane.gpu_utilisation:.0%}" if self.num_gpus else ""
            add(str(lane.lane), lane.num_clips, rate, busy, lane.wall_s, lane.gpu_hours, "")
        if len(self.lanes) > 1:
            add("all, one after the other", self.num_clips, "", "", self.wall_s, self.gpu_hours, "bold")
        return table


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _amount(number: float) -> str:
    """Two decimals, and more where that would be nothing."""
    return f"{number:,.2f}" if number >= 0.1 or number == 0 else f"{number:.2g}"


def _pools_table(lane: LaneEstimate) -> Table:
    way = "stage after stage (phased)" if lane.plan.is_phased else "all stages at once (streaming)"
    table = Table(
        title=f"lane {lane.lane}: {_count(lane.num_clips, 'clip')}, {way}",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    table.add_column("stage")
    for name in ("s per clip", "GB each", "actors", "GPU each", "GPUs", "busy"):
        table.add_column(name, justify="right")
    table.add_column("source of s", overflow="fold")
    busy = lane.utilisation
    for pool in lane.plan.pools:
        on_gpu = pool.num_gpus > 0
        table.add_row(
            pool.stage,
            f"{lane.seconds[pool.stage]:.3g}",
            "" if pool.gpu_memory_gb is None else f"{pool.gpu_memory_gb:.1f}",
            f"{pool.size:,}",
            f"{pool.num_gpus:g}" if on_gpu else "",
            f"{pool.size * pool.num_gpus:g}" if on_gpu else "",
            f"{busy[pool.stage]:.0%}",
            escape(lane.sources[pool.stage]),
        )
    return table
