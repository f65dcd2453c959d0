"""Clips as training sees them: what steers them, noise on the way from clean to pure, and how far predictions are off.

Legend: 1 one clip; S clips; C channels; T H W video latent frames, height, width; A audio latents; L text tokens. All
latents are float32 on the network's device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from model.denoiser import Conditions, Latents, NoiseSource
from model.schedule import shift_levels
from model.training.task import Sample


@dataclass(frozen=True)
class ConditionShares:
    """How often a clip is trained with what it may have at inference; each is drawn by itself.

    Attributes:
        dropped_text: the text gives way to the negative prompt, which guidance needs.
        image: the first latent frame is given.
        audio: the sound is given.
    """

    dropped_text: float = 0.1
    image: float = 0.25
    audio: float = 0.15

    def __post_init__(self) -> None:
        for field in fields(self):
            if not 0 <= getattr(self, field.name) <= 1:
                raise ValueError(f"{field.name} must lie between 0 and 1, got {getattr(self, field.name)!r}")


@dataclass(frozen=True)
class TrainingClip:
    """A clip of the data set.

    Attributes:
        clean: its latents.
        conditions: what it is generated from in this step; with an image that is the first frame of `clean`, with given
            audio all of the audio of `clean`.
    """

    clean: Latents
    conditions: Conditions


def draw_clips(
    batch: Sequence[Sample],
    shares: ConditionShares,
    negative_text_1LC: Tensor,
    generator: torch.Generator,
    video: str = "video",
) -> list[TrainingClip]:
    """Take clips out of a batch and draw what steers each of them.

    Args:
        batch: clips with `audio` (A, 64), `text` (L, C) and a video (48, T, H, W), of any floating-point dtype.
        shares: how often what is given.
        negative_text_1LC: features of the negative prompt (1, L, C), on the device the clips are moved to.
        generator: source of the draws; three for each clip, whatever the shares.
        video: name of the video to take.
    """
    clips = []
    for sample in batch:
        text_draw, image_draw, audio_draw = torch.rand(3, generator=generator).tolist()
        clean = Latents(*(sample[name].unsqueeze(0).to(negative_text_1LC) for name in (video, "audio")))
        is_dropped = text_draw < shares.dropped_text
        text_1LC = negative_text_1LC if is_dropped else sample["text"].unsqueeze(0).to(negative_text_1LC)
        # A clip of one latent frame that is given would have nothing left to learn.
        has_image = image_draw < shares.image and clean.video_1CTHW.shape[2] > 1
        image = clean.video_1CTHW[:, :, :1] if has_image else None
        conditions = Conditions(text_1LC, negative_text_1LC, image, audio_is_given=audio_draw < shares.audio)
        clips.append(TrainingClip(clean, conditions))
    return clips


def stratified_levels(num_clips: int, shift: float, generator: torch.Generator) -> Tensor:
    """Noise levels (S,) float32 between 0 and 1, spread over the batch: one from each of S equal parts, then shifted.

    Args:
        num_clips: S.
        shift: more than 1 gives more high levels, as `model.schedule.flow_sigmas` does.
        generator: source of the draws.
    """
    parts = torch.randperm(num_clips, generator=generator)
    return shift_levels((parts + torch.rand(num_clips, generator=generator)) / num_clips, shift)


def noise_like(clips: Sequence[Latents], noise: NoiseSource) -> list[Latents]:
    """Standard normal noise in the shapes of some clips, video before audio."""
    return [Latents(noise(tuple(clip.video_1CTHW.shape)), noise(tuple(clip.audio_1AC.shape))) for clip in clips]


def on_path(clean: Latents, noise: Latents, level: Tensor, conditions: Conditions) -> Latents:
    """The point at a noise level of the straight path from clean latents (0) to noise (1); what is given is clean."""
    video = torch.lerp(clean.video_1CTHW, noise.video_1CTHW, level)
    if conditions.image_1C1HW is not None:
        video = torch.cat([conditions.image_1C1HW, video[:, :, 1:]], dim=2)
    audio = clean.audio_1AC if conditions.audio_is_given else torch.lerp(clean.audio_1AC, noise.audio_1AC, level)
    return Latents(video, audio)


def mean_where_made(values: Latents, conditions: Conditions) -> tuple[Tensor, Tensor]:
    """Means over the numbers of a clip's video and audio that are not given; zero where all are."""
    video_1CTHW = values.video_1CTHW if conditions.image_1C1HW is None else values.video_1CTHW[:, :, 1:]
    audio_1AC = values.audio_1AC[:, :0] if conditions.audio_is_given else values.audio_1AC
    return video_1CTHW.sum() / max(1, video_1CTHW.numel()), audio_1AC.sum() / max(1, audio_1AC.numel())


def squared_errors(
    predictions: Sequence[Latents], targets: Sequence[Latents], conditions: Sequence[Conditions]
) -> tuple[Tensor, Tensor]:
    """Mean squared errors of video and audio (each a number): per clip over what is not given, then over clips."""
    means = []
    for prediction, target, condition in zip(predictions, targets, conditions, strict=True):
        video_1CTHW = (prediction.video_1CTHW - target.video_1CTHW).square()
        audio_1AC = (prediction.audio_1AC - target.audio_1AC).square()
        means.append(torch.stack(mean_where_made(Latents(video_1CTHW, audio_1AC), condition)))
    video, audio = torch.stack(means).mean(dim=0)
    return video, audio
