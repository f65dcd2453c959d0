"""Measuring what clips cost on a machine: they pass the stages in this process, one by one, and a table comes out."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch

from actors.fingerprint import LaneFingerprint
from actors.request import ClipRequest, DialogueLine, StructuredPrompt
from actors.row import Failure, new_row
from model.components import Contents
from pipeline.costs import CostModel, CostTable, Figure, networks_in
from pipeline.forecast import Model
from pipeline.lane import Lane, LaneWork
from pipeline.lane_stages import lane_stages
from pipeline.pools import Pool
from pipeline.run_spec import RunSpec

LEAST_S = 0.001
"""Stages time themselves in milliseconds."""

_DESCRIPTION = (
    "A woman of about thirty with dark hair tied back stands at a wide window of a quiet office, in the afternoon. "
    "She wears a grey jacket over a white shirt; soft daylight falls on her face from the left, and far behind her a "
    "street goes by out of focus. Medium close-up at eye level, locked camera, shallow depth of field. She looks into "
    "the lens, draws a breath, and speaks calmly and clearly with small movements of head and hands. Take {number}."
)
"""About as long as the release's own prompts; numbered, since equal prompts are encoded once."""


class BenchmarkError(RuntimeError):
    """A clip failed, so nothing is measured; the message is one line."""


@dataclass(frozen=True)
class Benchmark:
    """Clips of a checkpoint, made on this machine.

    Attributes:
        spec: checkpoint, settings, and the output that clips are written to.
        model: the checkpoint.
        num_clips: that are measured in each lane, after one that is not: it compiles and fills caches.
        clip_seconds: length of each.
        tell: gets a line for every figure.
    """

    spec: RunSpec
    model: Model
    num_clips: int
    clip_seconds: float
    tell: Callable[[str], None]

    @property
    def uses_gpu(self) -> bool:
        """Whether stages run on a GPU."""
        return torch.cuda.is_available() and self.spec.settings.device != "cpu"

    @property
    def device(self) -> str:
        """Name of the GPU, or "cpu"."""
        return torch.cuda.get_device_name() if self.uses_gpu else "cpu"

    def requests(self, resolution: str) -> list[ClipRequest]:
        """One clip to warm up, then those that count."""
        capabilities = self.model.capabilities
        return [
            ClipRequest.model_validate(
                {
                    "id": f"benchmark-{resolution}-{number}",
                    "language": "en",
                    "prompt": StructuredPrompt(
                        description=_DESCRIPTION.format(number=number),
                        dialogue=(DialogueLine(speaker="Woman", line="Thank you for coming, let us begin."),),
                    ),
                    "resolution": resolution,
                    "aspect": capabilities.aspects(resolution)[0],
                    "seconds": self.clip_seconds,
                }
            )
            for number in range(self.num_clips + 1)
        ]

    def measure(self, resolutions: Sequence[str]) -> CostTable:
        """Measure lane after lane.

        Raises:
            BenchmarkError: if a clip fails.
            CheckpointError: if the checkpoint lacks a component.
            SettingsError: if the settings do not go with the checkpoint's samplers.
            StorageError: if the checkpoint cannot be read.
        """
        figures = [figure for resolution in resolutions for figure in self._measure_lane(resolution)]
        return CostTable(device=self.device, figures=tuple(figures))

    def _measure_lane(self, resolution: str) -> list[Figure]:
        settings, requests = self.spec.settings, self.requests(resolution)
        lane, samplers = Lane(settings.mode, resolution), settings.sampling.samplers(self.model.capabilities.samplers)
        contents: dict[str, Contents] = self.model.contents_for(lane, reads_images=False)
        work = LaneWork(lane, tuple(requests[:1]), (1,), LaneFingerprint("benchmark"), tuple(contents), samplers)
        share = float(self.uses_gpu)
        pools = [Pool(stage, 1, 1, share if stage != "writing" else 0) for stage in lane.stages]
        stages = lane_stages(self.spec, work, pools, "benchmark")
        costs = CostModel(CostTable(device=self.device, figures=()), networks=networks_in(contents), samplers=samplers)
        rows = [new_row(request.id, request.model_dump_json()) for request in requests]
        figures = []
        for name in lane.stages:
            stage_class, arguments = stages[name]
            stage = stage_class(**arguments)
            rows = [stage(row) for row in rows]
            for row in rows:
                if row["failure"] is not None:
                    raise BenchmarkError(f"lane {lane}: {name}: {Failure.from_json(row['failure'])}")
            seconds = median(json.loads(row["stage_seconds"])[name] for row in rows[1:])
            figure = {
                "stage": name,
                "resolution": resolution,
                "seconds": max(seconds, LEAST_S),
                "clip_seconds": self.clip_seconds,
                "passes": costs.passes(lane, name),
                "source": f"measured, {self.num_clips} clips",
            }
            figures.append(Figure.model_validate(figure))
            self.tell(f"{lane} {name}: {seconds:.3f} s")
            del stage
            gc.collect()
            if self.uses_gpu:
                torch.cuda.empty_cache()
        return figures
