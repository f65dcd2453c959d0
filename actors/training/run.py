"""One worker's part of a training run: makes the task, takes its steps, saves and goes on, writes what was learnt."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.distributed.device_mesh import init_device_mesh

from actors.checkpoint_source import CheckpointSource
from actors.row import unpack
from actors.small_world.shards import NEGATIVE_PROMPT_FILE
from actors.storage import join, read_bytes, write_folder
from actors.training.clip_store import ClipStore
from actors.training.recipe import Recipe, Worker
from actors.training.steps import take_steps
from model.training.replicas import Replicas


@dataclass(frozen=True)
class RunPlace:
    """Where a run's worker is and what it reads.

    Attributes:
        data_url: folder of shards, of latents or of clips as the stage needs them.
        checkpoint: what earlier stages wrote and this one adds to.
        rank: number of the worker.
        num_workers: of the run.
        device: its device.
    """

    data_url: str
    checkpoint: CheckpointSource
    rank: int
    num_workers: int
    device: torch.device


class TrainingRun:
    """A recipe on its way.

    Args:
        recipe: what is trained.
        place: where; with several workers torch's process group must be there.
    """

    def __init__(self, recipe: Recipe, place: RunPlace):
        self.recipe, self.place = recipe, place
        is_sharded = getattr(recipe, "is_sharded", False)
        needed = recipe.needed_component
        self.task = recipe.make_task(
            Worker(
                place.device,
                Replicas(place.num_workers),
                place.checkpoint.fetch(needed) if needed else None,
                unpack(read_bytes(join(place.data_url, NEGATIVE_PROMPT_FILE)))["text"] if recipe.uses_latents else None,
                init_device_mesh(place.device.type, (place.num_workers,)) if is_sharded else None,
            )
        )
        self.clips = ClipStore(place.data_url, recipe.clip_tensors, place.rank, place.num_workers, recipe.max_clips)
        self.saves_state = is_sharded or place.rank == 0
        self._state_name = f"state-{place.rank if is_sharded else 0}.pt"

    @property
    def num_steps(self) -> int:
        """Of the whole run."""
        return self.recipe.optimiser.num_steps

    def steps(self, first: int) -> Iterator[tuple[int, dict[str, float]]]:
        """Take the steps from `first` to the end; gives each step's number and what to watch, with its seconds."""
        batch_size, seed = self.recipe.batch_size // self.place.num_workers, self.recipe.seed
        started = time.perf_counter()
        for step, report in take_steps(self.task, self.clips, batch_size, seed, self.place.rank, first, self.num_steps):
            now = time.perf_counter()
            yield step, report | {"step_s": now - started}
            started = time.perf_counter()

    def save(self, folder: Path, next_step: int) -> None:
        """Write everything that the step `next_step` and later ones depend on."""
        torch.save({"next_step": next_step, "task": self.task.state_dict()}, folder / self._state_name)

    def load(self, folder: Path) -> int:
        """Go on from what `save` wrote; returns the number of the next step."""
        state = torch.load(folder / self._state_name, map_location=self.place.device, weights_only=True)
        self.task.load_state_dict(state["task"])
        return int(state["next_step"])

    def write_component(self) -> None:
        """Add what was learnt to the checkpoint; every worker must call this, the first one writes."""
        tensors = self.task.export()
        if self.place.rank:
            return
        with TemporaryDirectory() as folder:
            self.recipe.write(Path(folder), tensors)
            write_folder(self.place.checkpoint.url, Path(folder))
