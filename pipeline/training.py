"""Training on Ray Train: workers, saved states in any object store, and going on after anything that ends a run."""

from __future__ import annotations

import json
import logging
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.fs
import ray.train
import torch
from fsspec.implementations.local import LocalFileSystem
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from actors.checkpoint_source import CheckpointSource, open_checkpoint
from actors.row import unpack
from actors.small_world.shards import NEGATIVE_PROMPT_FILE, read_shard, shard_urls
from actors.storage import join, list_names, open_filesystem, read_bytes, write_atomically
from actors.training.clip_store import require_tensors
from actors.training.recipe import BaseRecipe, Recipe, RecipeError, SuperResolutionRecipe, check_methods
from actors.training.run import RunPlace, TrainingRun
from model.checkpoint_files import CheckpointError
from model.components import read_contents
from model.inspection import check_components
from model.layout import find_layout
from pipeline.provenance import claim, component_fingerprints, read_made_from
from pipeline.side_by_side import side_by_side

DONE_NAME = "done.json"
"""In a run's folder: written last, what was watched."""

_MOST_FAILURES = 5

_ALLOCATION = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "4000000000"}
"""Large tensors come from the heap, which keeps what is freed: on a CPU, a third of the time would go into pages that
the system takes back and gives again, filled with zeros."""


@dataclass(frozen=True)
class TrainingSpec:
    """What to train, and where.

    Attributes:
        recipe: the stage.
        data_url: folder of shards.
        checkpoint: read from and added to.
        runs_url: folder under which this run has one of its own for its states, named like the stage.
        num_workers: processes; on GPUs each has one.
        uses_gpu: whether workers have a GPU each.
        threads_per_worker: CPU threads of each. On a CPU results depend on it in the last bits.
        report_every_s: seconds between two lines of progress.
    """

    recipe: Recipe
    data_url: str
    checkpoint: CheckpointSource
    runs_url: str
    num_workers: int = 1
    uses_gpu: bool = False
    threads_per_worker: int = 1
    report_every_s: float = 20.0

    @property
    def run_url(self) -> str:
        """Folder of this run."""
        return join(self.runs_url, self.recipe.stage)


def finished_run(spec: TrainingSpec) -> list[dict[str, float]] | None:
    """What was watched in this run if it has ended already, else None."""
    is_done = DONE_NAME in list_names(spec.run_url)
    return json.loads(read_bytes(join(spec.run_url, DONE_NAME))) if is_done else None


def _made_from(spec: TrainingSpec) -> dict[str, Any]:
    """What a run's result follows from: its recipe, its data, and the component that it begins with."""
    needed, is_sharded = spec.recipe.needed_component, getattr(spec.recipe, "is_sharded", False)
    return {
        "recipe": spec.recipe.model_dump(mode="json"),
        "data": read_made_from(spec.data_url),
        "checkpoint": component_fingerprints(spec.checkpoint.url, needed) if needed else {},
        # Its states are shards, one for each worker.
        "num_workers": spec.num_workers if is_sharded else None,
    }


def check_fit(spec: TrainingSpec) -> None:
    """Hold a recipe against its workers, data and checkpoint before any worker is started.

    Raises:
        RecipeError: it does not fit the workers or the data.
        ValueError: clips lack what the stage learns from.
        CheckpointError: what it needs of the checkpoint is absent or not sound.
        StorageError: data or checkpoint cannot be read.
    """
    recipe, num_workers = spec.recipe, spec.num_workers
    if recipe.batch_size % num_workers:
        raise RecipeError(f"batch_size must be a multiple of the {num_workers} workers, got {recipe.batch_size}")
    if getattr(recipe, "is_sharded", False) and num_workers == 1:
        raise RecipeError("is_sharded must be false with one worker, got True")
    check_methods(recipe)
    if recipe.max_clips is not None and recipe.max_clips < num_workers:
        raise RecipeError(f"max_clips must be at least {num_workers}, the workers, got {recipe.max_clips}")
    shards = shard_urls(spec.data_url)
    if len(shards) < num_workers:
        allowed = f"at most {len(shards)}, the shards in {spec.data_url}"
        raise RecipeError(f"num_workers must be {allowed}, got {num_workers}")
    # The last shards may lack what costs most to make; who takes the first clips alone does not meet them.
    for url in {shards[0], shards[-1 if recipe.max_clips is None else 0]}:
        require_tensors(unpack(next(read_shard(url))["tensors"]).keys(), recipe.clip_tensors, url)
    if recipe.needed_component is not None:
        check_components(open_checkpoint(spec.checkpoint.url), (recipe.needed_component,))
    if recipe.uses_latents:
        width = unpack(read_bytes(join(spec.data_url, NEGATIVE_PROMPT_FILE)))["text"].shape[1]
        name, taken = _text_channels(spec)
        if width != taken:
            raise RecipeError(f"{name} must be {width}, as the text in {spec.data_url}, got {taken}")


def _text_channels(spec: TrainingSpec) -> tuple[str, int]:
    """Width of the text features that what is trained takes, and the name of what says so."""
    if isinstance(spec.recipe, BaseRecipe | SuperResolutionRecipe):
        return "network.text_channels", spec.recipe.network.text_channels
    component = spec.recipe.needed_component
    assert component is not None
    files = open_checkpoint(spec.checkpoint.url)
    shapes = read_contents(files, find_layout(files), component).shapes
    return f"text_channels of {component} in {spec.checkpoint.url}", shapes["adapter.text_embedder.weight"][1]


def train(spec: TrainingSpec) -> list[dict[str, float]]:
    """Train one stage and add its component to the checkpoint; a run that was stopped goes on, one that ended is kept.

    Returns:
        What was watched: means over some steps each, with `step`, the number of steps done.

    Raises:
        ValueError: see `check_fit`; or the folder holds a run of another recipe, of other data or on another base.
        CheckpointError: see `check_fit`; or the run has ended, and the checkpoint lacks what it learnt.
        StorageError: data or checkpoint cannot be read.
        ray.train.TrainingFailedError: workers failed again and again.
    """
    check_fit(spec)
    claim(spec.run_url, _made_from(spec))
    history = finished_run(spec)
    if history is not None:
        _check_learnt(spec)
        return history
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    filesystem, path = open_filesystem(spec.runs_url)
    if isinstance(filesystem, LocalFileSystem):
        Path(path).mkdir(parents=True, exist_ok=True)
    trainer = TorchTrainer(
        _work,
        train_loop_config={"spec": spec},
        torch_config=TorchConfig(backend="nccl" if spec.uses_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=spec.num_workers,
            use_gpu=spec.uses_gpu,
            resources_per_worker={"CPU": 1, **({"GPU": 1} if spec.uses_gpu else {})},
        ),
        run_config=RunConfig(
            name=spec.recipe.stage,
            storage_path=path,
            storage_filesystem=pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem)),
            failure_config=FailureConfig(max_failures=_MOST_FAILURES),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            worker_runtime_env={"env_vars": _ALLOCATION},
        ),
    )
    side_by_side([trainer.fit], 1)
    history = finished_run(spec)
    assert history is not None
    return history


def _check_learnt(spec: TrainingSpec) -> None:
    """Whether the checkpoint has what an ended run learnt, which is kept nowhere else."""
    try:
        check_components(open_checkpoint(spec.checkpoint.url), spec.recipe.learnt_components)
    except CheckpointError as error:
        place = f"run {spec.run_url} has ended, but what it learnt is not in {spec.checkpoint.url}"
        raise CheckpointError(f"{place} ({error}): name the checkpoint it wrote to, or another runs folder") from error


def _work(config: dict[str, Any]) -> None:
    """Runs in every worker of Ray Train."""
    spec: TrainingSpec = config["spec"]
    torch.set_num_threads(spec.threads_per_worker)
    context = ray.train.get_context()
    rank = context.get_world_rank()
    place = RunPlace(spec.data_url, spec.checkpoint, rank, context.get_world_size(), get_device())
    run = TrainingRun(spec.recipe, place)
    first, history = 0, History(spec.recipe.stage, run.num_steps, spec.report_every_s)
    if (saved := ray.train.get_checkpoint()) is not None:
        with saved.as_directory() as folder:
            first = run.load(Path(folder))
            history.rows = json.loads((Path(folder) / "history.json").read_text())
    for step, report in run.steps(first):
        history.add(step + 1, report, is_shown=rank == 0)
        if (step + 1) % spec.recipe.save_every == 0 and step + 1 < run.num_steps:
            _save(run, step + 1, history, rank)
    run.write_component()
    if rank == 0:
        write_atomically(join(spec.run_url, DONE_NAME), json.dumps(history.rows, indent=1).encode())


def _save(run: TrainingRun, next_step: int, history: History, rank: int) -> None:
    history.close(next_step)
    metrics = history.rows[-1] if history.rows else {"step": next_step}
    with TemporaryDirectory() as name:
        folder = Path(name)
        if run.saves_state:
            run.save(folder, next_step)
        if rank == 0:
            (folder / "history.json").write_text(json.dumps(history.rows))
        has_files = run.saves_state or rank == 0
        ray.train.report(metrics, checkpoint=Checkpoint.from_directory(name) if has_files else None)


class History:
    """Means of what steps report, in rows that end when a line is told, a state is saved, or other things are reported.

    Args:
        stage: what is trained.
        num_steps: of the whole run.
        report_every_s: seconds of training between two lines.
    """

    def __init__(self, stage: str, num_steps: int, report_every_s: float):
        self.stage, self.num_steps, self.report_every_s = stage, num_steps, report_every_s
        self.rows: list[dict[str, float]] = []
        self._sums: dict[str, float] = defaultdict(float)
        self._num = 0
        self._untold_s = 0.0

    def add(self, num_done: int, report: dict[str, float], is_shown: bool) -> None:
        """Take in a step's report."""
        if self._num and self._sums.keys() != report.keys():
            self.close(num_done - 1)
        self._num += 1
        for name, value in report.items():
            self._sums[name] += value
        self._untold_s += report["step_s"]  # a saved state ends a row, too, and must not put off the next line
        if self._untold_s >= self.report_every_s or num_done == self.num_steps:
            self.close(num_done)
            self._untold_s = 0.0
            if is_shown:
                row = self.rows[-1]
                watched = ", ".join(f"{n} {v:.4g}" for n, v in row.items() if n not in ("step", "step_s"))
                left = f"{(self.num_steps - num_done) * row['step_s'] / 60:.1f} min left at this pace"
                # Not print, which Ray Train writes to its own log besides, so that every line would show twice.
                sys.stdout.write(f"{self.stage} {num_done}/{self.num_steps}: {watched}; {left}\n")

    def close(self, num_done: int) -> None:
        """End the row that is being gathered."""
        if self._num:
            means = {name: round(total / self._num, 6) for name, total in self._sums.items()}
            self.rows.append({"step": num_done, **means})
        self._sums.clear()
        self._num = 0
