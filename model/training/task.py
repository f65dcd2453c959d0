"""What every stage of training looks like to the loop that runs it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Sample = Mapping[str, Tensor]
"""What training knows about one clip, by name."""


class TrainingTask(ABC):
    """Networks, their optimisers and one step over a batch of clips; knows neither Ray nor storage.

    A step depends on the state, the batch and the generator alone, so that a run that was killed and resumed goes on as
    if nothing had happened.
    """

    @abstractmethod
    def step(self, batch: Sequence[Sample], index: int, generator: torch.Generator) -> dict[str, float]:
        """Take one optimisation step.

        Args:
            batch: this worker's clips.
            index: number of the step, from 0.
            generator: source of every random number, on the CPU; another one for every step and worker.

        Returns:
            What to watch, by name; `loss` is among it.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that a later step depends on."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`."""

    @abstractmethod
    def export(self) -> dict[str, Tensor]:
        """Tensors of the trained component, under the names and in the dtypes a checkpoint has them.

        Every worker must call this; the first one gets them, on the CPU, and the others nothing.
        """
