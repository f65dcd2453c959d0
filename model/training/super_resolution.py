"""Latent super-resolution, trained for exactly what `model.sampling` does with it.

The sampler starts at its highest noise level s_0 (nearly 1) from a start y that is no pure noise: the resized base
latent, to which noise was added. Its solver, told velocities v, takes x - s v as the clean latent at level s, and moves
on the straight line from x to there. So the path that ends on the large latent z, from y, is

    x_s = z + (s / s_0) (y - z),  0 <= s <= s_0,  with the velocity v = (y - z) / s_0 everywhere on it:

then x_s - s v = z, and x_{s_0} = y. It is the path of flow matching with the start in the place of the noise. What
the network learns is the mean of v over all clips that pass x_s, whose flow carries starts to large latents. Only the
levels that the sampler visits are trained, each equally often. The sound that helps is mixed with noise once, as the
sampler does, and is the same at all levels; its own velocity is not used and has no loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from model.denoiser import Latents, noise_from
from model.sampling import SuperResolutionSampling, prepare_super_resolution
from model.schedule import flow_sigmas
from model.training.clips import ConditionShares, TrainingClip, draw_clips, stratified_levels
from model.training.optimiser import OptimiserConfig, require_decay
from model.training.replicas import Replicas
from model.training.task import Sample
from model.training.velocity import Examples, VelocityTask
from model.transformer import Transformer


@dataclass(frozen=True)
class SuperResolutionConfig:
    """How the super-resolution model is trained.

    Attributes:
        optimiser: rates.
        sampling: what it is trained for.
        shares: how often the text is dropped and the first large latent frame given; that of audio has no meaning here.
        average_decay: of the moving average that is exported.
    """

    optimiser: OptimiserConfig
    sampling: SuperResolutionSampling = field(default_factory=SuperResolutionSampling)
    shares: ConditionShares = field(default_factory=lambda: ConditionShares(audio=0))
    average_decay: float = 0.995

    def __post_init__(self) -> None:
        require_decay(self.average_decay)
        if self.shares.audio:
            raise ValueError(f"shares.audio must be 0 for super-resolution, got {self.shares.audio!r}")


class SuperResolutionTask(VelocityTask):
    """Training of the super-resolution model on samples that have `video_large` besides.

    Args:
        transformer: what is trained, with float32 weights and `position_style` "sr", on its device.
        negative_text_LC: features of the negative prompt (L, C), which stand for a dropped text.
        config: how.
        replicas: the workers of the run.

    Raises:
        ValueError: if the Transformer's positions are not those of super-resolution.
    """

    def __init__(
        self, transformer: Transformer, negative_text_LC: Tensor, config: SuperResolutionConfig, replicas: Replicas
    ):
        if transformer.config.position_style != "sr":
            raise ValueError(f"position_style must be 'sr', got {transformer.config.position_style!r}")
        super().__init__(transformer, negative_text_LC, config.optimiser, config.average_decay, 0.0, replicas)
        self.config = config
        self._sigmas, _ = flow_sigmas(config.sampling.num_steps, config.sampling.shift)

    def examples(self, batch: Sequence[Sample], generator: torch.Generator) -> Examples:
        """Points on the paths from prepared starts to the large latents, at levels of the sampler."""
        clips = draw_clips(batch, self.config.shares, self.negative_text_1LC, generator, video="video_large")
        num_steps = self.config.sampling.num_steps
        steps = (stratified_levels(len(clips), 1.0, generator) * num_steps).long().clamp(max=num_steps - 1)
        noise = noise_from(generator, self.transformer.device)
        starts = []
        for clip, sample in zip(clips, batch, strict=True):
            large = clip.clean.video_1CTHW
            base = Latents(sample["video"].unsqueeze(0).to(large), clip.clean.audio_1AC)
            starts.append(prepare_super_resolution(base, (large.shape[3], large.shape[4]), self.config.sampling, noise))
        return self.path_examples(clips, starts, self._sigmas[steps].to(self.transformer.device))

    def path_examples(self, clips: Sequence[TrainingClip], starts: Sequence[Latents], levels_S: Tensor) -> Examples:
        """Points at the given levels of the paths from starts to clips, and the velocities there."""
        noisy, targets, conditions = [], [], []
        for clip, start, level in zip(clips, starts, levels_S, strict=True):
            large, image = clip.clean.video_1CTHW, clip.conditions.image_1C1HW
            video = torch.lerp(large, start.video_1CTHW, level / self._sigmas[0])
            if image is not None:
                video = torch.cat([image, video[:, :, 1:]], dim=2)
            noisy.append(Latents(video, start.audio_1AC))
            velocity = (start.video_1CTHW - large) / self._sigmas[0]
            targets.append(Latents(velocity, torch.zeros_like(start.audio_1AC)))
            conditions.append(replace(clip.conditions, audio_is_given=True))
        return Examples(noisy, targets, levels_S, conditions)
