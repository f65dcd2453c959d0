"""What two scores say about a student's clips: the gradient of distribution matching.

Legend: 1 one clip; S clips. A score here is a Transformer that predicts velocities; at noise level t it takes x - t v
for the clean latent. Method: Yin et al. 2023 (DMD), Yin et al. 2024 (DMD-2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from model.denoiser import Conditions, Denoiser, Latents
from model.sampling import guide
from model.training.clips import mean_where_made
from model.transformer import Transformer

SMALLEST_ERROR = 1e-4
"""Of the real score, that a gradient is divided by: a clip it has nothing to say about does not blow up."""


@dataclass(frozen=True)
class ScoreGuidance:
    """Classifier-free guidance of the real score, which the student has built in afterwards; 1 is none.

    Attributes:
        video: scale for video above `late_level`.
        late_video: scale for video from there on.
        late_level: noise level.
        audio: scale for audio.
    """

    video: float = 5.0
    late_video: float = 2.0
    late_level: float = 0.5
    audio: float = 5.0

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) >= 0:
                raise ValueError(f"{field.name} must be at least 0, got {getattr(self, field.name)!r}")

    @property
    def is_none(self) -> bool:
        """Whether no scale changes anything."""
        return self.video == self.late_video == self.audio == 1


@torch.no_grad()
def guided_velocities(
    transformer: Transformer,
    noisy: Sequence[Latents],
    levels_S: Tensor,
    conditions: Sequence[Conditions],
    guidance: ScoreGuidance,
) -> list[Latents]:
    """Velocities with guidance by the negative prompt; both prompts share one forward pass.

    Raises:
        ValueError: if a clip has no negative text and there is guidance.
    """
    texts = [condition.text_1LC for condition in conditions]
    if guidance.is_none:
        return Denoiser(transformer, texts, noisy)(noisy, levels_S)
    texts += [condition.required_negative_text() for condition in conditions]
    twice = [*noisy, *noisy]
    velocities = Denoiser(transformer, texts, twice)(twice, levels_S.repeat(2))
    guided = []
    pairs = zip(velocities[: len(noisy)], velocities[len(noisy) :], levels_S.tolist(), strict=True)
    for positive, negative, level in pairs:
        scale = guidance.video if level > guidance.late_level else guidance.late_video
        video_1CTHW = guide(negative.video_1CTHW, positive.video_1CTHW, scale)
        guided.append(Latents(video_1CTHW, guide(negative.audio_1AC, positive.audio_1AC, guidance.audio)))
    return guided


def clean_from(noisy: Latents, velocity: Latents, level: Tensor) -> Latents:
    """The clean latents that a velocity points to."""
    return Latents(noisy.video_1CTHW - level * velocity.video_1CTHW, noisy.audio_1AC - level * velocity.audio_1AC)


@torch.no_grad()
def matching_gradient(clean: Latents, real: Latents, fake: Latents, conditions: Conditions) -> Latents:
    """Which way the student's clip shall not go: from what the real score takes it for to what the fake score does.

    Args:
        clean: the student's clip.
        real: what the real score takes it for when it is noised.
        fake: what the fake score takes the same noised clip for.
        conditions: which parts are given; the gradient means nothing there.

    Returns:
        fake - real, for video and audio each over the mean distance of the clip from `real`, which makes gradients at
        all noise levels alike.
    """
    distance = Latents((clean.video_1CTHW - real.video_1CTHW).abs(), (clean.audio_1AC - real.audio_1AC).abs())
    video, audio = (mean.clamp(min=SMALLEST_ERROR) for mean in mean_where_made(distance, conditions))
    return Latents((fake.video_1CTHW - real.video_1CTHW) / video, (fake.audio_1AC - real.audio_1AC) / audio)
