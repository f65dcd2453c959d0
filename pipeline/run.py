"""A whole run: manifest in, clips and their books out."""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence

import ray
from rich.console import Console

from actors.credentials import Credentials
from actors.redaction import redact
from actors.references import AllowedReferences
from actors.request import ClipRequest
from actors.row import ACTOR_START, OUTPUT, ClipRow, Failure, unpack
from actors.storage import StoreUnavailableError
from model.capabilities import Capabilities
from model.components import Contents
from pipeline.board import Attempts, StageBoard
from pipeline.costs import CostModel, load_costs, networks_in
from pipeline.extras import require_libraries
from pipeline.gpu_memory import LaneMemory, known_gpu_memory_gb
from pipeline.graph import LaneGraph
from pipeline.intake import Intake
from pipeline.lane import LaneWork
from pipeline.lane_counts import LaneCounts
from pipeline.lane_stages import lane_stages
from pipeline.ledger import Ledger
from pipeline.metrics import RunMetrics
from pipeline.patience import Patience
from pipeline.plan import plan_lane
from pipeline.pools import Cluster, GpuMemory, PlanError
from pipeline.progress import ProgressDisplay
from pipeline.run_lock import RunLock
from pipeline.run_result import RunResult
from pipeline.run_spec import RunSpec
from pipeline.settings import Settings
from pipeline.supervision import LaneWatch, StartError, StuckError

Observed = deque[tuple[ClipRequest, Mapping[str, float]]]
_MOST_OBSERVED = 100
"""The last clips of a lane, by whose seconds it is planned anew."""


class Run:
    """One run; needs a Ray connection when `plan` and `execute` are called.

    Args:
        spec: what to run.
        console: where progress goes.
        is_told_to_stop: asked again and again; the run ends soon where it says so.
        run_id: its name, that of the lock.

    Attributes:
        capabilities: what the checkpoint can be asked for; the release's until `find_work` has looked.
        references: where images and recordings may lie; nowhere until `find_work` has looked.
        result: what came out so far.
    """

    def __init__(
        self,
        spec: RunSpec,
        console: Console,
        is_told_to_stop: Callable[[], bool] = lambda: False,
        run_id: str = "",
    ):
        self.spec, self.console, self.is_told_to_stop = spec, console, is_told_to_stop
        self.ledger = Ledger(spec.output_url)
        self.capabilities = Capabilities()
        self.contents: dict[str, Contents] = {}
        self.references = AllowedReferences(())
        self.num_gpus = self.wanted_gpus = 0
        self.accelerator_type: str | None = None
        self.result = RunResult(run_id)
        self._deaths: Attempts = {}
        self._observed: defaultdict[str, Observed] = defaultdict(lambda: deque(maxlen=_MOST_OBSERVED))

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
        """What is left to do, lane by lane, see `pipeline.intake.Intake.read`.

        Raises:
            ExtraError: clips are to be signed, and a library for it is not installed.
            ValueError: nothing can be signed with the credentials named.
        """
        intake = Intake(self.spec, self.ledger, self.result)
        try:
            works = intake.read()
        finally:
            self.capabilities, self.contents = intake.capabilities, intake.contents
            self.references = intake.references
        if works:
            _require_that_clips_can_be_signed(self.spec.settings.provenance.credentials)
        return works

    def plan(self, works: Sequence[LaneWork]) -> None:
        """Choose the pools of every lane.

        Raises:
            PlanError: if they do not fit the cluster, or the memory of its GPUs.
        """
        self.wanted_gpus, self.accelerator_type = _gpus(self.spec.settings)
        self.num_gpus = self.wanted_gpus
        for work in works:
            self._plan_lane(work)

    def _plan_lane(self, work: LaneWork) -> None:
        settings = self.spec.settings
        costs = CostModel(load_costs(settings.costs), self.capabilities, work.samplers, networks_in(self.contents))
        costs = costs.observed(work.lane, self._observed[str(work.lane)])
        self.result.plans[str(work.lane)] = plan_lane(
            work.lane,
            settings,
            _cluster(self.num_gpus),
            costs.lane_seconds(work.lane, work.examples, work.counts),
            self._gpu_memory(work) if self.num_gpus else None,
            self.result.worklist.num_todo(work.lane.resolution),
            settings.execution,
        )

    def _gpu_memory(self, work: LaneWork) -> GpuMemory:
        settings = self.spec.settings
        is_compiled = settings.compute(num_gpus=1).compiler != "none"
        lane = LaneMemory(
            work, self.contents, self.capabilities, settings.precision, is_compiled, settings.packed_tokens
        )
        return GpuMemory(lane.actors_gb(), known_gpu_memory_gb(settings.gpu_memory_gb, self.accelerator_type))

    def execute(self, works: Sequence[LaneWork], lock: RunLock) -> None:
        """Make the clips of planned lanes, one lane after the other; `result` is true at any moment.

        Args:
            works: the lanes.
            lock: of the output, held; it tells others how far the run is.

        Raises:
            StartError: if the actors of a pool cannot start.
            StoreUnavailableError: if the output takes no more clips.
            StuckError: if a lane does not go on, however often it is started anew.
        """
        if not works:
            return
        counts, worklist = self.result.counts, self.result.worklist
        counts.lanes = {str(work.lane): LaneCounts(worklist.num_todo(work.lane.resolution)) for work in works}
        counts.started = time.monotonic()
        self._deaths = self.ledger.read_deaths()
        metrics = RunMetrics(redact(self.spec.output_name))
        with ProgressDisplay(self.console, counts, lock, metrics) as display:
            for work in works:
                self._run_lane(work, display, metrics)
                if self.is_told_to_stop():
                    return
        self._keep_deaths({})

    def _run_lane(self, work: LaneWork, display: ProgressDisplay, metrics: RunMetrics) -> None:
        """Start a lane, and start it anew with what is left for as long as that brings clips."""
        patience, num_fruitless = self.spec.settings.patience.patience(), 0
        if self.num_gpus != self.wanted_gpus:  # lost while another lane ran
            self._plan_anew(work, patience)
        while num_clips := self.result.worklist.num_todo(work.lane.resolution):
            board, num_before = StageBoard(self._deaths), self.result.counts.num_left
            watch = LaneWatch(
                self._graph(work), board, patience, self.is_told_to_stop, self._keep_deaths, self._has_outgrown_plan
            )
            display.begin_lane(str(work.lane), watch.graph.plan.pools, board, num_clips)
            for row in watch.rows(list(self.result.worklist.chunks(work.lane.resolution))):
                self._receive(row, str(work.lane), metrics)
            display.end_lane()
            if self.is_told_to_stop() or not self.result.worklist.num_todo(work.lane.resolution):
                return
            num_fruitless = 0 if self.result.counts.num_left < num_before else num_fruitless + 1
            reason = "clips did not come back" if watch.verdict == "goes on" else watch.verdict
            if num_fruitless >= patience.max_fruitless:
                raise StuckError(f"lane {work.lane}: {reason}; no clip in {num_fruitless} starts one after the other")
            self.console.print(f"lane {work.lane}: {reason}, starting anew with what there is", highlight=False)
            self._plan_anew(work, patience)

    def _graph(self, work: LaneWork) -> LaneGraph:
        plan = self.result.plans[str(work.lane)]
        stages = lane_stages(self.spec, work, plan.pools, self.result.versions["magihuman-ray"], self.references)
        name = re.sub(r"[^A-Za-z0-9.-]+", "-", f"{self.spec.output_name}-{work.lane}")  # Ray names a log file after it
        return LaneGraph(name, plan, stages, self.accelerator_type, self.spec.settings.max_attempts)

    def _has_outgrown_plan(self) -> bool:
        return min(self.wanted_gpus, int(ray.cluster_resources().get("GPU", 0))) > self.num_gpus

    def _plan_anew(self, work: LaneWork, patience: Patience) -> None:
        """Plan for what the cluster has now, waiting for the GPUs that a run with GPUs cannot do without."""
        if not self.num_gpus:
            return
        ends = time.monotonic() + patience.replacement_s
        while not (num_alive := int(ray.cluster_resources().get("GPU", 0))) and time.monotonic() < ends:
            if self.is_told_to_stop():
                return
            time.sleep(1.0)
        if not num_alive:
            raise StuckError(f"lane {work.lane}: the cluster has no GPU left")
        self.num_gpus = min(self.wanted_gpus, num_alive)
        try:
            self._plan_lane(work)
        except PlanError as error:
            raise StuckError(
                f"lane {work.lane}: {self.num_gpus} of {self.wanted_gpus} GPUs are left: {error}"
            ) from error

    def _receive(self, row: ClipRow, lane: str, metrics: RunMetrics) -> None:
        if row["failure"] is None:
            record = json.loads(unpack(row["payload"])["record"].numpy().tobytes())
            self.result.finish(row["id"])
            self.result.counts.lanes[lane].num_done += 1
            metrics.count(lane, row, record)
            seconds = json.loads(row["stage_seconds"])
            self._observed[lane].append((ClipRequest.model_validate_json(row["request"]), seconds))
            self.ledger.add(record)
            return
        failure = Failure.from_json(row["failure"])
        if failure.field == ACTOR_START:
            raise StartError(f"{failure.stage} cannot start: {failure.reason}")
        if failure.field == OUTPUT:
            raise StoreUnavailableError(failure.reason)
        self.result.fail(row["id"], failure)
        self.result.counts.lanes[lane].num_failed += 1
        metrics.count(lane, row, None)

    def _keep_deaths(self, deaths: Attempts) -> None:
        if deaths != self._deaths:
            self._deaths = deaths
            self.ledger.write_deaths(deaths)


def _require_that_clips_can_be_signed(credentials: Credentials | None) -> None:
    if credentials is not None:
        require_libraries("c2pa", "c2pa", "cryptography")
        credentials.signer()


def _gpus(settings: Settings) -> tuple[int, str | None]:
    """How many GPUs the run may use, and which type actors are pinned to."""
    if settings.device == "cpu" and not settings.num_gpus:
        return 0, None
    resources = ray.cluster_resources()
    num_gpus = settings.num_gpus if settings.num_gpus is not None else int(resources.get("GPU", 0))
    if settings.device == "cuda" and num_gpus == 0:
        raise PlanError("device is cuda, but the cluster has no GPU; name num_gpus where GPUs are autoscaled")
    has_h100 = "accelerator_type:H100" in resources
    return num_gpus, settings.accelerator_type or ("H100" if has_h100 else None)


def _cluster(num_gpus: int) -> Cluster:
    """What is there for so many GPUs; CPUs are not known where nodes are yet to be started."""
    resources = ray.cluster_resources()
    num_cpus = resources.get("CPU", 0.0) if num_gpus <= resources.get("GPU", 0.0) else 0.0
    num_nodes = sum(node["Alive"] and node["Resources"].get("CPU", 0) > 0 for node in ray.nodes())
    return Cluster(num_gpus, num_cpus or None, max(1, num_nodes))
