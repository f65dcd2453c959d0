"""A whole run: manifest in, clips and their books out."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import ray
from rich.console import Console

from actors.base_generation import BaseGeneration
from actors.checkpoint_source import CheckpointSource, open_checkpoint
from actors.conditioning import Conditioning
from actors.decoding import Decoding
from actors.request import ClipRequest
from actors.row import ACTOR_START, ClipRow, Failure, unpack
from actors.stage import Stage
from actors.storage import join
from actors.super_resolution import SuperResolution
from actors.writing import Writing
from model.capabilities import Capabilities, read_capabilities
from model.checkpoint_files import CheckpointError
from model.components import Contents
from model.inspection import check_components
from model.layout import Layout, find_layout
from pipeline.gpu_memory import LaneMemory, known_gpu_memory_gb
from pipeline.graph import run_lane
from pipeline.lane import LaneWork, split_into_lanes
from pipeline.ledger import DEAD_LETTER_NAME, Ledger
from pipeline.manifest import ManifestRow, read_manifest
from pipeline.offer import find_impossible
from pipeline.plan import GpuMemory, PlanError, Pool, plan_pools
from pipeline.progress import ProgressDisplay, RunCounts, StageBoard
from pipeline.settings import Settings

_REPORTED_PACKAGES = ("magihuman-ray", "ray", "torch", "diffusers", "transformers", "av")


class StartError(RuntimeError):
    """The actors of a pool cannot start; the message is one line that says which and why."""


@dataclass(frozen=True)
class RunSpec:
    """What to run.

    Attributes:
        manifest_url: rows to turn into clips.
        output_url: folder of the results.
        checkpoint_url: the model.
        settings: everything else.
        overwrite: make a clip anew where the output holds one of the same id made from something else.
    """

    manifest_url: str
    output_url: str
    checkpoint_url: str
    settings: Settings
    overwrite: bool = False

    def __post_init__(self) -> None:
        # Actors have another working directory than the driver: a path must mean the same to both.
        for name in ("manifest_url", "output_url", "checkpoint_url"):
            url = getattr(self, name)
            if not url:
                raise ValueError(f"{name.removesuffix('_url')} must be a path or a URL, got ''")
            if "://" not in url:
                object.__setattr__(self, name, os.path.abspath(os.path.expanduser(url)))
        if self.manifest_url == join(self.output_url, DEAD_LETTER_NAME):
            raise ValueError(f"manifest {self.manifest_url} is rewritten by this run: mend a copy of it and use that")


@dataclass
class RunResult:
    """What came out.

    Attributes:
        counts: totals of this run.
        records: record of every clip in the output, by id, this run's and earlier ones'.
        manifest_ids: ids of the manifest's valid rows, in its order.
        dead_letters: rows that failed, in manifest form with their reason.
        failed_ids: their ids, where the row is valid.
        pools: lane to its pools.
        versions: package to version.
        started_at: when the run started (UTC).
    """

    counts: RunCounts
    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    manifest_ids: list[str] = field(default_factory=list)
    dead_letters: list[dict[str, Any]] = field(default_factory=list)
    failed_ids: set[str] = field(default_factory=set)
    pools: dict[str, tuple[Pool, ...]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=lambda: {name: version(name) for name in _REPORTED_PACKAGES})
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def is_complete(self) -> bool:
        """Whether every row of the manifest is a clip or a dead letter."""
        return self.counts.num_left == 0


class Run:
    """One run; needs a Ray connection when `execute` is called.

    Args:
        spec: what to run.
        console: where progress goes.

    Attributes:
        capabilities: what the checkpoint can be asked for; the release's until `find_work` has looked.

    Raises:
        ManifestError: if the manifest cannot be read.
    """

    def __init__(self, spec: RunSpec, console: Console):
        self.spec, self.console = spec, console
        self.ledger = Ledger(spec.output_url)
        self.rows: dict[str, ManifestRow] = {}
        self.capabilities = Capabilities()
        self.contents: dict[str, Contents] = {}
        self.num_gpus = 0
        self.accelerator_type: str | None = None
        manifest = read_manifest(spec.manifest_url)
        self.result = RunResult(RunCounts(num_rows=len(manifest)))
        for row in manifest:
            if row.failure is not None:
                self._dead_letter(row, row.failure)
            elif row.request is not None:
                self.rows[row.request.id] = row
        self.result.manifest_ids = list(self.rows)

    @property
    def settings(self) -> Settings:
        """Those of the spec, with the checkpoint's numbers where they name none.

        Raises:
            SettingsError: if they do not go with the checkpoint's samplers.
        """
        settings = self.spec.settings
        samplers = settings.sampling.samplers(self.capabilities.samplers)
        return settings.model_copy(update={"sampling": settings.sampling.resolved(settings.mode, samplers)})

    def find_work(self) -> list[LaneWork]:
        """Compare manifest and output; what is left to do, lane by lane.

        What this checkpoint cannot make becomes a dead letter, and so does a clip in the output that was made from
        something else, unless it may be overwritten. If anything is left, the checkpoint's components for it are looked
        through, so that a fault shows before a GPU is taken.

        Raises:
            CheckpointError: if the checkpoint lacks a component or holds one that is not sound.
            SettingsError: if the settings do not go with the checkpoint's samplers.
            StorageError: if the checkpoint or the output cannot be read.
        """
        self.result.records = self.ledger.read_records(self.ledger.committed_ids())
        if not self.rows:
            return []
        with self._naming_the_checkpoint():
            files = open_checkpoint(self.spec.checkpoint_url)
            layout = find_layout(files)
            self.capabilities = read_capabilities(files, layout)
            requests = self._possible_requests(layout)
            works = split_into_lanes(requests, files, layout, self.spec.settings, self.capabilities)
        left = [replace(work, requests=tuple(r for r in work.requests if self._is_todo(r.id, work))) for work in works]
        left = [work for work in left if work.requests]
        with self._naming_the_checkpoint():
            self.contents = check_components(
                files, tuple(dict.fromkeys(name for work in left for name in work.components))
            )
        return left

    @contextmanager
    def _naming_the_checkpoint(self) -> Iterator[None]:
        try:
            yield
        except CheckpointError as error:
            raise CheckpointError(f"checkpoint {self.spec.checkpoint_url}: {error}") from error

    def _possible_requests(self, layout: Layout) -> list[ClipRequest]:
        possible = []
        for row in self.rows.values():
            if row.request is None:
                continue
            failure = find_impossible(row.request, self.capabilities, layout)
            if failure is None:
                possible.append(row.request)
            else:
                self._dead_letter(row, failure)
        return possible

    def _is_todo(self, clip_id: str, work: LaneWork) -> bool:
        row, record = self.rows[clip_id], self.result.records.get(clip_id)
        if record is None or row.request is None:
            return True
        fingerprint = work.fingerprint.of_clip(row.request)
        if record["fingerprint"] == fingerprint:
            self.result.counts.num_skipped += 1
            return False
        if self.spec.overwrite:
            return True
        reason = (
            "the output holds a clip of this id made from another request, checkpoint or settings (fingerprint "
            f"{record['fingerprint'][:8]}, now {fingerprint[:8]}): give the row another id, write to another output, "
            "or pass --overwrite"
        )
        self._dead_letter(row, Failure("manifest", "id", clip_id, reason))
        return False

    def plan(self, works: Sequence[LaneWork]) -> None:
        """Choose the pools of every lane.

        Raises:
            PlanError: if they do not fit the cluster, or the memory of its GPUs.
        """
        self.num_gpus, self.accelerator_type = _gpus(self.spec.settings)
        for work in works:
            memory = self._gpu_memory(work) if self.num_gpus else None
            self.result.pools[str(work.lane)] = plan_pools(work.lane, self.spec.settings, self.num_gpus, memory)

    def _gpu_memory(self, work: LaneWork) -> GpuMemory:
        settings = self.spec.settings
        is_compiled = settings.compute(num_gpus=1).compiler != "none"
        lane = LaneMemory(
            work, self.contents, self.capabilities, settings.precision, is_compiled, settings.packed_tokens
        )
        return GpuMemory(lane.actors_gb(), known_gpu_memory_gb(settings.gpu_memory_gb, self.accelerator_type))

    def execute(self, works: Sequence[LaneWork]) -> None:
        """Make the clips of planned lanes, one lane after the other; `result` is true at any moment.

        Raises:
            StartError: if the actors of a pool cannot start.
        """
        if not works:
            return
        self.result.counts.started = time.monotonic()
        with ProgressDisplay(self.console, self.result.counts) as display:
            for work in works:
                pools, board = self.result.pools[str(work.lane)], StageBoard()
                display.begin_lane(str(work.lane), pools, board)
                for row in run_lane(work.requests, pools, self._stages(work, pools), board, self.accelerator_type):
                    self._receive(row)

    def _receive(self, row: ClipRow) -> None:
        if row["failure"] is not None:
            failure = Failure.from_json(row["failure"])
            if failure.field == ACTOR_START:
                raise StartError(f"{failure.stage} cannot start: {failure.reason}")
            self._dead_letter(self.rows[row["id"]], failure)
            return
        self.result.records[row["id"]] = json.loads(unpack(row["payload"])["record"].numpy().tobytes())
        self.result.counts.num_done += 1

    def _dead_letter(self, row: ManifestRow, failure: Failure) -> None:
        self.result.dead_letters.append(row.dead_letter(failure))
        if row.request is not None:
            self.result.failed_ids.add(row.request.id)
        self.result.counts.num_failed += 1

    def _stages(self, work: LaneWork, pools: Sequence[Pool]) -> Mapping[str, tuple[type[Stage], Mapping[str, Any]]]:
        settings, lane = self.spec.settings, work.lane
        source = CheckpointSource(self.spec.checkpoint_url, settings.cache_dir)
        negative = settings.sampling.negative_prompt if lane.uses_negative_prompt(work.samplers) else None
        provenance = {
            "generator": f"magihuman-ray {self.result.versions['magihuman-ray']}",
            "model": "daVinci-MagiHuman",
            "ai_generated": True,
            "checkpoint": self.spec.checkpoint_url,
            "lane": str(lane),
        }
        stages: dict[str, tuple[type[Stage], dict[str, Any]]] = {
            "conditioning": (
                Conditioning,
                {
                    "source": source,
                    "negative_prompt": negative,
                    "reads_images": work.reads_images,
                    "reads_audio": work.reads_audio,
                },
            ),
            "base_generation": (
                BaseGeneration,
                {
                    "source": source,
                    "sampling": work.samplers.of_mode(lane.mode),
                    "packed_tokens": settings.packed_tokens,
                },
            ),
            "super_resolution": (
                SuperResolution,
                {"source": source, "resolution": lane.resolution, "sampling": work.samplers.super_resolution},
            ),
            "decoding": (
                Decoding,
                {
                    "source": source,
                    "encoding": settings.encoding.video_encoding(),
                    "resolution": lane.resolution,
                },
            ),
            "writing": (
                Writing,
                {
                    "output_url": self.spec.output_url,
                    "fingerprint": work.fingerprint,
                    "provenance": provenance,
                    "overwrites": self.spec.overwrite,
                },
            ),
        }
        for pool in pools:
            stages[pool.stage][1]["compute"] = settings.compute(pool.num_gpus)
        return stages


def _gpus(settings: Settings) -> tuple[int, str | None]:
    """How many GPUs the run may use, and which type actors are pinned to."""
    if settings.device == "cpu":
        return 0, None
    resources = ray.cluster_resources()
    num_gpus = settings.num_gpus if settings.num_gpus is not None else int(resources.get("GPU", 0))
    if settings.device == "cuda" and num_gpus == 0:
        raise PlanError("device is cuda, but the cluster has no GPU; name num_gpus where GPUs are autoscaled")
    has_h100 = "accelerator_type:H100" in resources
    return num_gpus, settings.accelerator_type or ("H100" if has_h100 else None)
