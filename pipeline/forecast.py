"""What a manifest would take: its lanes, each planned and estimated, without a cluster or the files of a model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from actors.checkpoint_source import open_checkpoint
from actors.fingerprint import LaneFingerprint
from actors.request import ClipRequest
from actors.row import Failure
from model.capabilities import Capabilities, Samplers, read_capabilities
from model.checkpoint_files import CheckpointError, CheckpointFiles
from model.components import Contents
from model.geometry import RESOLUTIONS
from model.inspection import check_components
from model.layout import Layout, find_layout
from pipeline.costs import CostModel, CostTable, has_unknown_length, networks_in
from pipeline.estimate import LaneEstimate
from pipeline.gpu_memory import LaneMemory, known_gpu_memory_gb
from pipeline.lane import Lane, LaneWork
from pipeline.manifest import ManifestRow
from pipeline.offer import find_impossible
from pipeline.plan import plan_lane
from pipeline.pools import Cluster, Execution, GpuMemory, PlanError
from pipeline.release import release_components, release_contents
from pipeline.settings import Settings

_KEPT_FAILURES = 5


@dataclass
class ManifestSummary:
    """What a manifest asks for.

    Attributes:
        num_rows: rows of it.
        num_refused: rows that would be dead letters.
        failures: the first of them: line and reason.
        num_unknown_length: clips whose length a recording decides.
        examples: resolution to one clip of every kind and size, and how many of those there are.
    """

    num_rows: int = 0
    num_refused: int = 0
    failures: list[tuple[int, Failure]] = field(default_factory=list)
    num_unknown_length: int = 0
    examples: dict[str, dict[tuple[Any, ...], tuple[ClipRequest, int]]] = field(default_factory=dict)

    def add(self, row: ManifestRow, failure: Failure | None) -> None:
        """Take a row, or why it cannot be made."""
        self.num_rows += 1
        if row.request is None or failure is not None:
            self.num_refused += 1
            if failure is not None and len(self.failures) < _KEPT_FAILURES:
                self.failures.append((row.line, failure))
            return
        request = row.request
        self.num_unknown_length += has_unknown_length(request)
        kinds = self.examples.setdefault(request.resolution, {})
        kind = request.aspect, request.seconds, request.image is None, request.audio is None
        kinds[kind] = kinds[kind][0] if kind in kinds else request, kinds.get(kind, (request, 0))[1] + 1

    def num_clips(self, resolution: str) -> int:
        """Clips of a resolution."""
        return sum(number for _, number in self.examples.get(resolution, {}).values())


@dataclass(frozen=True)
class Model:
    """What clips are made with: a checkpoint, or the release where none is named.

    Attributes:
        capabilities: what it can be asked for.
        files: of the checkpoint.
        layout: which of them make which component.
    """

    capabilities: Capabilities = field(default_factory=Capabilities)
    files: CheckpointFiles | None = None
    layout: Layout | None = None

    @classmethod
    def at(cls, url: str | None) -> Model:
        """Look at a checkpoint; only names and small files are read.

        Raises:
            CheckpointError: if it is none.
            StorageError: if it cannot be read.
        """
        if url is None:
            return cls()
        try:
            files = open_checkpoint(url)
            layout = find_layout(files)
            return cls(read_capabilities(files, layout), files, layout)
        except CheckpointError as error:
            raise CheckpointError(f"checkpoint {url}: {error}") from error

    def find_impossible(self, request: ClipRequest) -> Failure | None:
        """Why it cannot make a clip, None if it can."""
        return None if self.layout is None else find_impossible(request, self.capabilities, self.layout)

    def contents_for(self, lane: Lane, reads_images: bool) -> dict[str, Contents]:
        """Components of a lane.

        Raises:
            CheckpointError: if one is absent or not sound.
            StorageError: if it cannot be read.
        """
        if self.files is None or self.layout is None:
            names, contents = release_components(lane.mode, lane.resolution, reads_images), release_contents()
            return {name: contents[name] for name in names}
        components = self.layout.components_for(lane.mode, lane.resolution)
        return check_components(self.files, tuple(dict.fromkeys((*components, *["wan_vae"] * reads_images))))


def summarise(rows: Iterable[ManifestRow], model: Model) -> ManifestSummary:
    """Count a manifest's clips by what they cost."""
    summary = ManifestSummary()
    for row in rows:
        failure = row.failure
        if failure is None and row.request is not None:
            failure = model.find_impossible(row.request)
        summary.add(row, failure)
    return summary


@dataclass(frozen=True)
class Forecaster:
    """Plans lanes as a run would.

    Attributes:
        settings: of the run.
        model: what clips are made with.
        table: what stages cost.
        num_gpus: that the run may use.
        gpu: type of the GPUs, as Ray names it.
    """

    settings: Settings
    model: Model
    table: CostTable
    num_gpus: int
    gpu: str

    def forecast(self, summary: ManifestSummary) -> list[LaneEstimate]:
        """Plan every lane there are clips for, small clips first.

        Raises:
            CheckpointError: if the checkpoint lacks a component.
            CostError: if there is no figure for a stage.
            PlanError: if pools do not fit; the message names the lane.
            SettingsError: if the settings do not go with the checkpoint's samplers.
            StorageError: if the checkpoint cannot be read.
        """
        return [self._lane(resolution, summary) for resolution in RESOLUTIONS if summary.num_clips(resolution)]

    def _lane(self, resolution: str, summary: ManifestSummary) -> LaneEstimate:
        lane, num_clips = Lane(self.settings.mode, resolution), summary.num_clips(resolution)
        examples, counts = zip(*summary.examples[resolution].values(), strict=True)
        samplers = self.settings.sampling.samplers(self.model.capabilities.samplers)
        contents = self.model.contents_for(lane, any(request.image is not None for request in examples))
        costs = CostModel(self.table, self.model.capabilities, samplers, networks_in(contents))
        seconds = costs.lane_seconds(lane, examples, counts)
        memory = self._memory(lane, examples, counts, contents, samplers) if self.num_gpus else None
        sources = {stage: self.table.figure(stage, resolution).source for stage in lane.stages}

        def estimate(execution: Execution) -> LaneEstimate:
            cluster = Cluster(self.num_gpus)
            plan = plan_lane(lane, self.settings, cluster, seconds, memory, num_clips, execution)
            return LaneEstimate(lane, num_clips, plan, seconds, self.num_gpus, sources)

        try:
            found = estimate(self.settings.execution)
        except PlanError as error:
            raise PlanError(f"lane {lane}: {error}") from error
        try:
            return found if found.plan.is_phased else replace(found, phased_wall_s=estimate("phased").wall_s)
        except PlanError:
            return found

    def _memory(
        self,
        lane: Lane,
        examples: tuple[ClipRequest, ...],
        counts: tuple[int, ...],
        contents: dict[str, Contents],
        samplers: Samplers,
    ) -> GpuMemory:
        settings, capabilities = self.settings, self.model.capabilities
        # Nothing is made, so nothing needs a fingerprint.
        work = LaneWork(lane, examples, counts, LaneFingerprint(""), tuple(contents), samplers)
        is_compiled = settings.compute(num_gpus=1).compiler != "none"
        memory = LaneMemory(work, contents, capabilities, settings.precision, is_compiled, settings.packed_tokens)
        return GpuMemory(memory.actors_gb(), known_gpu_memory_gb(settings.gpu_memory_gb, self.gpu))
