"""The base model: flow matching on clips of any sizes, with conditions given and dropped so that every mode works.

x_t = (1 - t) x + t noise, and the network predicts noise - x; one t for the video and the audio of a clip, as at
inference. Method: Lipman et al. 2023 and Liu et al. 2023; text dropped for guidance: Ho and Salimans 2022.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from model.denoiser import Latents, noise_from
from model.training.clips import ConditionShares, TrainingClip, draw_clips, noise_like, on_path, stratified_levels
from model.training.optimiser import OptimiserConfig, require_decay
from model.training.replicas import Replicas
from model.training.task import Sample
from model.training.velocity import Examples, VelocityTask
from model.transformer import Transformer


@dataclass(frozen=True)
class FlowMatchingConfig:
    """How the base model is trained.

    Attributes:
        optimiser: rates.
        shift: of the noise levels; more than 1 gives more high ones.
        audio_weight: of the audio's error beside the video's.
        shares: how often which condition is given or dropped.
        average_decay: of the moving average that is exported.
    """

    optimiser: OptimiserConfig
    shift: float = 2.0
    audio_weight: float = 1.5
    shares: ConditionShares = field(default_factory=ConditionShares)
    average_decay: float = 0.995

    def __post_init__(self) -> None:
        require_decay(self.average_decay)
        if not self.shift > 0:
            raise ValueError(f"shift must be more than 0, got {self.shift!r}")
        if not self.audio_weight >= 0:
            raise ValueError(f"audio_weight must be at least 0, got {self.audio_weight!r}")


class FlowMatchingTask(VelocityTask):
    """Training of the base model.

    Args:
        transformer: what is trained, with float32 weights (see `model.training.networks`), on its device.
        negative_text_LC: features of the negative prompt (L, C), which stand for a dropped text.
        config: how.
        replicas: the workers of the run.
    """

    def __init__(
        self, transformer: Transformer, negative_text_LC: Tensor, config: FlowMatchingConfig, replicas: Replicas
    ):
        super().__init__(
            transformer, negative_text_LC, config.optimiser, config.average_decay, config.audio_weight, replicas
        )
        self.config = config

    def examples(self, batch: Sequence[Sample], generator: torch.Generator) -> Examples:
        """Points on the paths from the batch's clips to noise."""
        clips = draw_clips(batch, self.config.shares, self.negative_text_1LC, generator)
        levels_S = stratified_levels(len(clips), self.config.shift, generator).to(self.transformer.device)
        noises = noise_like([clip.clean for clip in clips], noise_from(generator, self.transformer.device))
        return flow_examples(clips, noises, levels_S)


def flow_examples(clips: Sequence[TrainingClip], noises: Sequence[Latents], levels_S: Tensor) -> Examples:
    """Points at the given noise levels of the straight paths from clips to noises, and the velocities there."""
    triples = list(zip(clips, noises, levels_S, strict=True))
    return Examples(
        [on_path(clip.clean, noise, level, clip.conditions) for clip, noise, level in triples],
        [
            Latents(noise.video_1CTHW - clip.clean.video_1CTHW, noise.audio_1AC - clip.clean.audio_1AC)
            for clip, noise, _ in triples
        ],
        levels_S,
        [clip.conditions for clip in clips],
    )
