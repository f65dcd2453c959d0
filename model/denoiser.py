"""A clip on its way from noise to latents: its state, what steers it, and one forward pass over several clips.

Legend: 1 one clip; S clips; C channels; T H W video latent frames, height, width; A audio latents; L text tokens; V
video tokens. All latents are float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from model.packing import SequenceLayout, patchify, unpatchify
from model.transformer import Transformer

NoiseSource = Callable[[tuple[int, ...]], Tensor]
"""Gives standard normal noise of a shape, on the device the sampler works on."""


def seeded_noise(seed: int, device: torch.device) -> NoiseSource:
    """Noise from one generator on the CPU, so that a seed means the same on every device.

    Args:
        seed: 0 to 2**63 - 1.
        device: where the noise is moved.
    """
    return noise_from(torch.Generator().manual_seed(seed), device)


def noise_from(generator: torch.Generator, device: torch.device) -> NoiseSource:
    """Noise from a generator on the CPU."""
    return lambda shape: torch.randn(shape, generator=generator, dtype=torch.float32).to(device)


@dataclass(frozen=True)
class Latents:
    """A clip between two stages.

    Attributes:
        video_1CTHW: (1, 48, T, H, W) float32.
        audio_1AC: (1, A, 64) float32.
    """

    video_1CTHW: Tensor
    audio_1AC: Tensor


@dataclass(frozen=True)
class Conditions:
    """What steers a clip.

    Attributes:
        text_1LC: text features (1, L, C) float32, without padding.
        negative_text_1LC: features of the negative prompt; needed with guidance only.
        image_1C1HW: reference image latent (1, 48, 1, H, W) that replaces the first latent frame, or None.
        audio_is_given: the audio latents come from a recording and are never denoised.
    """

    text_1LC: Tensor
    negative_text_1LC: Tensor | None = None
    image_1C1HW: Tensor | None = None
    audio_is_given: bool = False

    def required_negative_text(self) -> Tensor:
        """Return the negative prompt's features.

        Raises:
            ValueError: if there are none.
        """
        if self.negative_text_1LC is None:
            raise ValueError("negative_text_1LC is needed for guidance, got None")
        return self.negative_text_1LC


def with_images(clips: Sequence[Latents], conditions: Sequence[Conditions]) -> list[Latents]:
    """Put the reference images where they belong, into the first latent frame of the clips that have one."""
    result = []
    for clip, condition in zip(clips, conditions, strict=True):
        if condition.image_1C1HW is not None:
            parts = [condition.image_1C1HW[:, :, :1], clip.video_1CTHW[:, :, 1:]]
            clip = replace(clip, video_1CTHW=torch.cat(parts, dim=2))
        result.append(clip)
    return result


def initial_noise(
    layout_video: tuple[int, int, int], num_audio: int, channels: tuple[int, int], noise: NoiseSource
) -> Latents:
    """Pure noise to start from; audio is drawn first, as in the release.

    Args:
        layout_video: (T, H, W) of the video latent.
        num_audio: A.
        channels: latent channels of video and audio.
        noise: where it comes from.
    """
    audio_1AC = noise((1, num_audio, channels[1]))
    return Latents(noise((1, channels[0], *layout_video)), audio_1AC)


class Denoiser:
    """The Transformer bound to the sizes and texts of some clips, so that positions are computed once for all steps."""

    def __init__(self, transformer: Transformer, texts_1LC: Sequence[Tensor], clips: Sequence[Latents]):
        pairs = zip(clips, texts_1LC, strict=True)
        self.transformer = transformer
        self.layouts = [SequenceLayout.of(clip.video_1CTHW, clip.audio_1AC, text_1LC) for clip, text_1LC in pairs]
        self.positions = transformer.positions(self.layouts)
        self.text_LC = torch.cat([text_1LC[0] for text_1LC in texts_1LC])

    def __call__(self, clips: Sequence[Latents], levels_S: Tensor) -> list[Latents]:
        """Predict the velocities of video and audio in one forward pass, shaped like the latents.

        Args:
            clips: on their way.
            levels_S: (S,) float32 noise levels from 0 to 1, one per clip; the release's network does not see them.
        """
        video_VC, audio_AC = self.transformer(
            torch.cat([patchify(clip.video_1CTHW) for clip in clips]),
            torch.cat([clip.audio_1AC[0] for clip in clips]),
            self.text_LC,
            self.positions,
            # Not moved to the device for nothing: that would make the host wait in every step.
            levels_S.to(self.text_LC) if self.transformer.config.timestep_embedding else None,
        )
        videos = video_VC.split([layout.num_video for layout in self.layouts])
        audios = audio_AC.split([layout.num_audio for layout in self.layouts])
        return [
            Latents(unpatchify(video, layout), audio.unsqueeze(0))
            for video, audio, layout in zip(videos, audios, self.layouts, strict=True)
        ]
