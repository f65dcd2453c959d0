"""Samplers: base generation with guidance, distilled generation, latent super-resolution.

Legend: 1 one clip; C channels; T H W video latent frames, height, width; A audio latents; L text tokens.
All latents are float32. Source: the public release, recorded in `tests/golden/sampling_*`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from model.packing import SequenceLayout, patchify, unpatchify
from model.schedule import flow_sigmas, unipc_stepper, zero_snr_levels
from model.transformer import Transformer

NoiseSource = Callable[[tuple[int, ...]], Tensor]
"""Gives standard normal noise of a shape, on the device the sampler works on."""


def seeded_noise(seed: int, device: torch.device) -> NoiseSource:
    """Noise from one generator on the CPU, so that a seed means the same on every device.

    Args:
        seed: 0 to 2**63 - 1.
        device: where the noise is moved.
    """
    generator = torch.Generator().manual_seed(seed)
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


@dataclass(frozen=True)
class GuidedSampling:
    """Base model, many steps, classifier-free guidance.

    Attributes:
        num_steps: denoising steps, two forward passes each.
        shift: of the flow schedule.
        video_guidance: scale for video above `late_timestep`.
        late_video_guidance: scale for video from there on.
        late_timestep: out of 1000.
        audio_guidance: scale for audio.
    """

    num_steps: int = 32
    shift: float = 5.0
    video_guidance: float = 5.0
    late_video_guidance: float = 2.0
    late_timestep: int = 500
    audio_guidance: float = 5.0


@dataclass(frozen=True)
class DistilledSampling:
    """Distilled model, few steps, one forward pass each."""

    num_steps: int = 8
    shift: float = 5.0


@dataclass(frozen=True)
class SuperResolutionSampling:
    """Latent super-resolution; video is refined, audio only helps.

    Attributes:
        num_steps: denoising steps.
        shift: of the flow schedule.
        noise_index: entry of the zero-terminal-SNR table that says how much of the upsampled latent is kept.
        audio_noise: share of noise mixed into the audio the model sees.
        guidance: scale, or None for one forward pass per step (as the released configurations run).
        first_frames: how many latent frames at the start get at most `first_frames_guidance`.
        first_frames_guidance: see `first_frames`.
    """

    num_steps: int = 5
    shift: float = 5.0
    noise_index: int = 220
    audio_noise: float = 0.7
    guidance: float | None = None
    first_frames: int = 13
    first_frames_guidance: float = 2.0


class Denoiser:
    """The Transformer bound to one clip's sizes and text, so that positions are computed once for all steps."""

    def __init__(self, transformer: Transformer, text_1LC: Tensor, latents: Latents):
        self.transformer = transformer
        self.text_LC = text_1LC[0]
        self.layout = SequenceLayout.of(latents.video_1CTHW, latents.audio_1AC, text_1LC)
        self.positions = transformer.positions(self.layout)

    def __call__(self, latents: Latents) -> Latents:
        """Predict the velocities of video and audio, shaped like the latents."""
        video_VC, audio_AC = self.transformer(
            patchify(latents.video_1CTHW), latents.audio_1AC[0], self.text_LC, self.positions
        )
        return Latents(unpatchify(video_VC, self.layout), audio_AC.unsqueeze(0))


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


def _with_image(video_1CTHW: Tensor, image_1C1HW: Tensor | None) -> Tensor:
    if image_1C1HW is None:
        return video_1CTHW
    return torch.cat([image_1C1HW[:, :, :1], video_1CTHW[:, :, 1:]], dim=2)


def _guide(without: Tensor, with_text: Tensor, scale: Tensor | float) -> Tensor:
    return without + scale * (with_text - without)


@torch.inference_mode()
def sample_guided(transformer: Transformer, start: Latents, conditions: Conditions, config: GuidedSampling) -> Latents:
    """Denoise with the base model.

    Args:
        transformer: base model.
        start: noise; with `conditions.audio_is_given` the audio is the recording's latents.
        conditions: text, negative text, and what else steers the clip.
        config: steps and scales.

    Returns:
        Clean latents.
    """
    denoise = Denoiser(transformer, conditions.text_1LC, start)
    denoise_negative = Denoiser(transformer, conditions.required_negative_text(), start)
    video_stepper = unipc_stepper(config.num_steps, config.shift)
    audio_stepper = unipc_stepper(config.num_steps, config.shift)
    video, audio = start.video_1CTHW, start.audio_1AC
    for timestep in video_stepper.timesteps:
        video = _with_image(video, conditions.image_1C1HW)
        positive, negative = denoise(Latents(video, audio)), denoise_negative(Latents(video, audio))
        is_early = timestep > config.late_timestep
        scale = config.video_guidance if is_early else config.late_video_guidance
        velocity = _guide(negative.video_1CTHW, positive.video_1CTHW, scale)
        video = video_stepper.step(velocity, timestep, video, return_dict=False)[0]
        if not conditions.audio_is_given:
            velocity = _guide(negative.audio_1AC, positive.audio_1AC, config.audio_guidance)
            audio = audio_stepper.step(velocity, timestep, audio, return_dict=False)[0]
    return Latents(_with_image(video, conditions.image_1C1HW), audio)


@torch.inference_mode()
def sample_distilled(
    transformer: Transformer, start: Latents, conditions: Conditions, config: DistilledSampling, noise: NoiseSource
) -> Latents:
    """Denoise with the distilled model: predict the clean latent, then noise it again to the next level.

    Fresh noise is drawn for video before audio in every step, the last included (where its weight is zero).
    """
    denoise = Denoiser(transformer, conditions.text_1LC, start)
    sigmas, _ = flow_sigmas(config.num_steps, config.shift)
    video, audio = start.video_1CTHW, start.audio_1AC

    def renoise(latent: Tensor, velocity: Tensor, step: int) -> Tensor:
        clean = latent - sigmas[step] * velocity
        return sigmas[step + 1] * noise(tuple(latent.shape)) + (1 - sigmas[step + 1]) * clean

    for step in range(config.num_steps):
        video = _with_image(video, conditions.image_1C1HW)
        velocity = denoise(Latents(video, audio))
        video = renoise(video, velocity.video_1CTHW, step)
        if not conditions.audio_is_given:
            audio = renoise(audio, velocity.audio_1AC, step)
    return Latents(_with_image(video, conditions.image_1C1HW), audio)


def prepare_super_resolution(
    base: Latents, latent_size: tuple[int, int], config: SuperResolutionSampling, noise: NoiseSource
) -> Latents:
    """Resize the base latent and noise it, video before audio.

    Args:
        base: result of base generation.
        latent_size: (H, W) of the larger latent.
        config: how much noise.
        noise: where it comes from.
    """
    frames = base.video_1CTHW.shape[2]
    video = F.interpolate(base.video_1CTHW, size=(frames, *latent_size), mode="trilinear", align_corners=True)
    kept = zero_snr_levels()[config.noise_index]
    video = video * kept + noise(tuple(video.shape)) * (1 - kept**2) ** 0.5
    audio_noise = noise(tuple(base.audio_1AC.shape))
    audio = audio_noise * config.audio_noise + base.audio_1AC * (1 - config.audio_noise)
    return Latents(video, audio)


@torch.inference_mode()
def sample_super_resolution(
    transformer: Transformer, start: Latents, conditions: Conditions, config: SuperResolutionSampling
) -> Tensor:
    """Refine a prepared latent (see `prepare_super_resolution`).

    Returns:
        The clean video latent (1, 48, T, H, W); the clip's sound stays the base model's.
    """
    denoise = Denoiser(transformer, conditions.text_1LC, start)
    denoise_negative = None
    scale = torch.empty(0)
    if config.guidance is not None:
        denoise_negative = Denoiser(transformer, conditions.required_negative_text(), start)
        scale = torch.full((start.video_1CTHW.shape[2], 1, 1), config.guidance, device=start.video_1CTHW.device)
        scale[: config.first_frames] = min(config.first_frames_guidance, config.guidance)
    stepper = unipc_stepper(config.num_steps, config.shift)
    video, audio = start.video_1CTHW, start.audio_1AC
    for timestep in stepper.timesteps:
        video = _with_image(video, conditions.image_1C1HW)
        velocity = denoise(Latents(video, audio)).video_1CTHW
        if denoise_negative is not None:
            velocity = _guide(denoise_negative(Latents(video, audio)).video_1CTHW, velocity, scale)
        video = stepper.step(velocity, timestep, video, return_dict=False)[0]
    return _with_image(video, conditions.image_1C1HW)
