"""A Transformer that learns to predict velocities: one network, one optimiser, one moving average.

Legend: S clips.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from model.denoiser import Conditions, Denoiser, Latents
from model.training.clips import squared_errors
from model.training.networks import checkpoint_tensors
from model.training.optimiser import MovingAverage, Optimiser, OptimiserConfig
from model.training.replicas import Replicas
from model.training.task import Sample, TrainingTask
from model.transformer import Transformer


@dataclass(frozen=True)
class Examples:
    """What a step learns from, one entry per clip.

    Attributes:
        noisy: what the network sees.
        targets: the velocities it shall predict.
        levels_S: (S,) float32 noise levels, for networks with a timestep embedding.
        conditions: what steers the clips and which parts of them are given, and so not learned.
    """

    noisy: list[Latents]
    targets: list[Latents]
    levels_S: Tensor
    conditions: list[Conditions]


class VelocityTask(TrainingTask):
    """Regression of velocities; a subclass says of which.

    Args:
        transformer: what is trained, with float32 weights, on its device.
        negative_text_LC: features of the negative prompt (L, C), which stand for a dropped text.
        optimiser: rates.
        average_decay: of the moving average that is exported.
        audio_weight: of the audio's error beside the video's.
        replicas: the workers of the run.
    """

    def __init__(
        self,
        transformer: Transformer,
        negative_text_LC: Tensor,
        optimiser: OptimiserConfig,
        average_decay: float,
        audio_weight: float,
        replicas: Replicas,
    ):
        replicas.start_alike(transformer)
        self.transformer, self.audio_weight, self.replicas = transformer, audio_weight, replicas
        self.negative_text_1LC = negative_text_LC.unsqueeze(0).to(transformer.device, torch.float32)
        self._optimiser = Optimiser([transformer], optimiser, replicas)
        self._average = MovingAverage(transformer, average_decay)

    @abstractmethod
    def examples(self, batch: Sequence[Sample], generator: torch.Generator) -> Examples:
        """Draw what a step learns from."""

    def step(self, batch: Sequence[Sample], index: int, generator: torch.Generator) -> dict[str, float]:
        """See `TrainingTask.step`; gives `loss`, its parts `video_loss` and `audio_loss`, and `gradient_norm`."""
        examples = self.examples(batch, generator)
        denoise = Denoiser(self.transformer, [clip.text_1LC for clip in examples.conditions], examples.noisy)
        predictions = denoise(examples.noisy, examples.levels_S)
        video, audio = squared_errors(predictions, examples.targets, examples.conditions)
        loss = video + self.audio_weight * audio
        norm = self._optimiser.step(loss, index)
        self._average.update(self.transformer, index)
        return {"loss": loss.item(), "video_loss": video.item(), "audio_loss": audio.item(), "gradient_norm": norm}

    def state_dict(self) -> dict[str, Any]:
        """See `TrainingTask.state_dict`."""
        return {
            "transformer": self.transformer.state_dict(),
            "average": dict(self._average.tensors),
            "optimiser": self._optimiser.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `TrainingTask.load_state_dict`."""
        self.transformer.load_state_dict(state["transformer"])
        self._average.load(state["average"])
        self._optimiser.load_state_dict(state["optimiser"])

    def export(self) -> dict[str, Tensor]:
        """The averaged weights; see `TrainingTask.export`."""
        return checkpoint_tensors(self.transformer.config, self._average.tensors, self.replicas)
