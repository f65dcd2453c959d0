"""Regression that brings a student near to what it shall give: consistency along the base model's guided sampling.

At a noise level s the base goes one small guided step down, to s'. Wherever the student says that sampling from there
ends, it shall say at s too; at the last level the step itself ends there. Method: Song et al. 2023, with guidance in
the step as Luo et al. 2023 have it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from model.denoiser import Denoiser, Latents, NoiseSource, with_images
from model.schedule import flow_sigmas
from model.training.clips import TrainingClip, noise_like, on_path, stratified_levels
from model.training.scores import ScoreGuidance, clean_from, guided_velocities
from model.training.velocity import Examples
from model.transformer import Transformer


@torch.no_grad()
def consistency_examples(
    student: Transformer,
    real: Transformer,
    clips: Sequence[TrainingClip],
    guidance: ScoreGuidance,
    sigmas: Tensor,
    generator: torch.Generator,
    noise: NoiseSource,
) -> Examples:
    """What the student shall learn from in one step.

    Args:
        student: says where sampling ends; its gradient is not followed here.
        real: the base model, which takes the small step.
        clips: from the data set.
        guidance: of that step.
        sigmas: falling noise levels, the last 0, on the networks' device.
        generator: draws levels.
        noise: for the clips.
    """
    conditions, num_levels = [clip.conditions for clip in clips], len(sigmas) - 1
    steps = (stratified_levels(len(clips), 1.0, generator) * num_levels).long().clamp(max=num_levels - 1)
    levels_S, next_levels_S = sigmas[steps], sigmas[steps + 1]
    noises = noise_like([clip.clean for clip in clips], noise)
    noisy = [on_path(c.clean, n, level, c.conditions) for c, n, level in zip(clips, noises, levels_S, strict=True)]
    velocities = guided_velocities(real, noisy, levels_S, conditions, guidance)
    moved = zip(noisy, velocities, levels_S - next_levels_S, conditions, strict=True)
    nearer = with_images(
        [
            Latents(clean.video_1CTHW, at.audio_1AC if condition.audio_is_given else clean.audio_1AC)
            for at, velocity, step, condition in moved
            for clean in [clean_from(at, velocity, step)]
        ],
        conditions,
    )
    said = Denoiser(student, [condition.text_1LC for condition in conditions], nearer)(nearer, next_levels_S)
    ends = [clean_from(*values) for values in zip(nearer, said, next_levels_S, strict=True)]
    targets = [
        Latents((at.video_1CTHW - end.video_1CTHW) / level, (at.audio_1AC - end.audio_1AC) / level)
        for at, end, level in zip(noisy, ends, levels_S, strict=True)
    ]
    return Examples(noisy, targets, levels_S, conditions)


def fine_sigmas(num_steps: int, num_substeps: int, shift: float) -> Tensor:
    """Noise levels of a sampler with small steps between those of one with `num_steps`, which are among them."""
    return flow_sigmas(num_steps * num_substeps, shift)[0]
