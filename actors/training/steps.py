"""The steps of a run: which clips and which random numbers each has, from its number alone.

A run that was killed and goes on from a saved state takes the same steps as one that never stopped.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from actors.training.clip_store import ClipStore
from model.training.task import TrainingTask


def batch_indices(num_clips: int, batch_size: int, step: int, seed: int) -> list[int]:
    """Numbers of a step's clips: pass after pass over all clips, each pass in an order of its own.

    Args:
        num_clips: to choose from.
        batch_size: clips per step.
        step: from 0.
        seed: of the orders.
    """
    first = step * batch_size
    chosen: list[int] = []
    for position in range(first, first + batch_size):
        number, place = divmod(position, num_clips)
        if not chosen or place == 0:
            order = np.random.default_rng([seed, number]).permutation(num_clips)
        chosen.append(int(order[place]))
    return chosen


def step_generator(seed: int, step: int, worker: int) -> torch.Generator:
    """Source of the random numbers of one worker in one step."""
    words = np.random.SeedSequence([seed, step, worker]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)


def take_steps(
    task: TrainingTask, clips: ClipStore, batch_size: int, seed: int, worker: int, first: int, last: int
) -> Iterator[tuple[int, dict[str, float]]]:
    """Take the steps `first` to `last` - 1.

    Args:
        task: what is trained.
        clips: this worker's.
        batch_size: clips per step of this worker.
        seed: of the run.
        worker: number of this worker.
        first: number of the first step to take.
        last: number of the first step not to take.

    Yields:
        The step's number and what it reported.
    """
    for step in range(first, last):
        batch = clips.samples(batch_indices(len(clips), batch_size, step, seed))
        yield step, task.step(batch, step, step_generator(seed, step, worker))
