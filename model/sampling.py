"""Samplers: base generation with guidance, distilled generation, latent super-resolution.

Legend: 1 one clip; S clips; C channels; T H W video latent frames, height, width. All latents are float32. Source: the
public release, recorded in `tests/golden/sampling_*`. Samplers take several clips of any mix of sizes and run them
through the Transformer as one sequence; each clip has its own text, solver and noise, so it does not matter in which
company it is sampled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model.config_types import require_types
from model.denoiser import Conditions, Denoiser, Latents, NoiseSource, with_images
from model.schedule import NUM_TRAIN_TIMESTEPS, flow_sigmas, unipc_stepper, zero_snr_levels
from model.transformer import Transformer

MAX_STEPS = 1000
MAX_SHIFT = 100
MAX_GUIDANCE = 100


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

    def __post_init__(self) -> None:
        scales = dict.fromkeys(("video_guidance", "late_video_guidance", "audio_guidance"), (0, MAX_GUIDANCE))
        _require_sampler(self, late_timestep=(0, NUM_TRAIN_TIMESTEPS), **scales)


@dataclass(frozen=True)
class DistilledSampling:
    """Distilled model, few steps, one forward pass each."""

    num_steps: int = 8
    shift: float = 5.0

    def __post_init__(self) -> None:
        _require_sampler(self)


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
        align_corners: whether resizing lays the corner samples of both latents on each other, as the release does;
            False, which lays the outer edges on each other, is the known remedy for ghosting in the first frames.
    """

    num_steps: int = 5
    shift: float = 5.0
    noise_index: int = 220
    audio_noise: float = 0.7
    guidance: float | None = None
    first_frames: int = 13
    first_frames_guidance: float = 2.0
    align_corners: bool = True

    def __post_init__(self) -> None:
        scales = dict.fromkeys(("guidance", "first_frames_guidance"), (0, MAX_GUIDANCE))
        _require_sampler(self, noise_index=(0, NUM_TRAIN_TIMESTEPS - 1), audio_noise=(0, 1), **scales)


def _require_sampler(config: Any, **ranges: tuple[float, float]) -> None:
    require_types(config)
    for name, (least, most) in {"num_steps": (1, MAX_STEPS), **ranges}.items():
        value = getattr(config, name)
        if value is not None and not least <= value <= most:
            raise ValueError(f"{name} must be between {least} and {most}, got {value!r:.200}")
    if not 0 < config.shift <= MAX_SHIFT:
        raise ValueError(f"shift must be above 0 and at most {MAX_SHIFT}, got {config.shift!r:.200}")


def guide(without: Tensor, with_text: Tensor, scale: Tensor | float) -> Tensor:
    """Classifier-free guidance: away from the negative prompt's prediction, by `scale`; 1 gives `with_text`."""
    return without + scale * (with_text - without)


def _frame_scales(guidance: float, config: SuperResolutionSampling, video_1CTHW: Tensor) -> Tensor:
    scale_T11 = torch.full((video_1CTHW.shape[2], 1, 1), guidance, device=video_1CTHW.device)
    scale_T11[: config.first_frames] = min(config.first_frames_guidance, guidance)
    return scale_T11


def _guided_denoiser(
    transformer: Transformer, starts: Sequence[Latents], conditions: Sequence[Conditions]
) -> Callable[[Sequence[Latents], Tensor], Iterator[tuple[Latents, Latents]]]:
    """Velocities with the prompt and with the negative prompt, both in one forward pass over every clip twice."""
    texts = [condition.text_1LC for condition in conditions]
    negative_texts = [condition.required_negative_text() for condition in conditions]
    denoise = Denoiser(transformer, [*texts, *negative_texts], [*starts, *starts])

    def velocities(clips: Sequence[Latents], level: Tensor) -> Iterator[tuple[Latents, Latents]]:
        both = denoise([*clips, *clips], level.expand(2 * len(clips)))
        return zip(both[: len(clips)], both[len(clips) :], strict=True)

    return velocities


def _require_one_per_clip(starts: Sequence[Latents], **others: Sequence[object]) -> None:
    for name, values in others.items():
        if len(values) != len(starts):
            raise ValueError(f"{name} must hold one entry per clip ({len(starts)}), got {len(values)}")


@torch.inference_mode()
def sample_guided(
    transformer: Transformer, starts: Sequence[Latents], conditions: Sequence[Conditions], config: GuidedSampling
) -> list[Latents]:
    """Denoise with the base model.

    Args:
        transformer: base model.
        starts: noise, one per clip; with `Conditions.audio_is_given` the audio is the recording's latents.
        conditions: text, negative text, and what else steers a clip, one per clip.
        config: steps and scales.

    Returns:
        Clean latents, one per clip.

    Raises:
        ValueError: if the sequences differ in length or are empty, or a clip has no negative text.
    """
    _require_one_per_clip(starts, conditions=conditions)
    denoise = _guided_denoiser(transformer, starts, conditions)
    video_steppers = [unipc_stepper(config.num_steps, config.shift) for _ in starts]
    audio_steppers = [unipc_stepper(config.num_steps, config.shift) for _ in starts]
    clips = with_images(starts, conditions)
    for step, timestep in enumerate(video_steppers[0].timesteps):
        is_early = timestep > config.late_timestep
        scale = config.video_guidance if is_early else config.late_video_guidance
        for index, (positive, negative) in enumerate(denoise(clips, video_steppers[0].sigmas[step])):
            video, audio = clips[index].video_1CTHW, clips[index].audio_1AC
            velocity = guide(negative.video_1CTHW, positive.video_1CTHW, scale)
            video = video_steppers[index].step(velocity, timestep, video, return_dict=False)[0]
            if not conditions[index].audio_is_given:
                velocity = guide(negative.audio_1AC, positive.audio_1AC, config.audio_guidance)
                audio = audio_steppers[index].step(velocity, timestep, audio, return_dict=False)[0]
            clips[index] = Latents(video, audio)
        clips = with_images(clips, conditions)
    return clips


@dataclass(frozen=True)
class DistilledStep:
    """What one step of the distilled sampler did.

    Attributes:
        noisy: the clips it began with.
        clean: the clean clips it predicted, with image and given recording in place.
        renoised: the clips of the next step; after the last one the result.
    """

    noisy: list[Latents]
    clean: list[Latents]
    renoised: list[Latents]


def distilled_steps(
    transformer: Transformer,
    starts: Sequence[Latents],
    conditions: Sequence[Conditions],
    config: DistilledSampling,
    noises: Sequence[NoiseSource],
) -> Iterator[DistilledStep]:
    """Run the distilled sampler step by step; see `sample_distilled`, which gives the last step's result."""
    _require_one_per_clip(starts, conditions=conditions, noises=noises)
    denoise = Denoiser(transformer, [condition.text_1LC for condition in conditions], starts)
    sigmas, _ = flow_sigmas(config.num_steps, config.shift)

    clips = with_images(starts, conditions)
    for step in range(config.num_steps):
        clean, renoised = [], []
        velocities = denoise(clips, sigmas[step].expand(len(clips)))
        for clip, velocity, condition, noise in zip(clips, velocities, conditions, noises, strict=True):
            video, next_video = renoise(clip.video_1CTHW, velocity.video_1CTHW, sigmas[step : step + 2], noise)
            audio = next_audio = clip.audio_1AC
            if not condition.audio_is_given:
                audio, next_audio = renoise(clip.audio_1AC, velocity.audio_1AC, sigmas[step : step + 2], noise)
            clean.append(Latents(video, audio))
            renoised.append(Latents(next_video, next_audio))
        renoised = with_images(renoised, conditions)
        yield DistilledStep(clips, with_images(clean, conditions), renoised)
        clips = renoised


def renoise(latent: Tensor, velocity: Tensor, sigmas: Tensor, noise: NoiseSource) -> tuple[Tensor, Tensor]:
    """Predict the clean latent at the first of two noise levels, and noise it to the second."""
    clean = latent - sigmas[0] * velocity
    return clean, sigmas[1] * noise(tuple(latent.shape)) + (1 - sigmas[1]) * clean


@torch.inference_mode()
def sample_distilled(
    transformer: Transformer,
    starts: Sequence[Latents],
    conditions: Sequence[Conditions],
    config: DistilledSampling,
    noises: Sequence[NoiseSource],
) -> list[Latents]:
    """Denoise with the distilled model: predict the clean latent, then noise it again to the next level.

    A clip's fresh noise is drawn for video before audio in every step, the last included (where its weight is zero).

    Args:
        transformer: distilled model.
        starts: noise, one per clip; with `Conditions.audio_is_given` the audio is the recording's latents.
        conditions: text, and what else steers a clip, one per clip.
        config: steps.
        noises: fresh noise, one source per clip.

    Returns:
        Clean latents, one per clip.

    Raises:
        ValueError: if the sequences differ in length or are empty.
    """
    result: list[Latents] = []
    for step in distilled_steps(transformer, starts, conditions, config, noises):
        result = step.renoised
    return result


def prepare_super_resolution(
    base: Latents, latent_size: tuple[int, int], config: SuperResolutionSampling, noise: NoiseSource
) -> Latents:
    """Resize the base latent and noise it, video before audio.

    Args:
        base: result of base generation.
        latent_size: (H, W) of the larger latent.
        config: how much noise, and how to resize.
        noise: where it comes from.
    """
    size = (base.video_1CTHW.shape[2], *latent_size)
    video = F.interpolate(base.video_1CTHW, size=size, mode="trilinear", align_corners=config.align_corners)
    kept = zero_snr_levels()[config.noise_index]
    video = video * kept + noise(tuple(video.shape)) * (1 - kept**2) ** 0.5
    audio_noise = noise(tuple(base.audio_1AC.shape))
    audio = audio_noise * config.audio_noise + base.audio_1AC * (1 - config.audio_noise)
    return Latents(video, audio)


@torch.inference_mode()
def sample_super_resolution(
    transformer: Transformer,
    starts: Sequence[Latents],
    conditions: Sequence[Conditions],
    config: SuperResolutionSampling,
) -> list[Tensor]:
    """Refine prepared latents (see `prepare_super_resolution`).

    Args:
        transformer: super-resolution model.
        starts: prepared latents, one per clip.
        conditions: text, negative text where there is guidance, and image, one per clip.
        config: steps and scales.

    Returns:
        Clean video latents (1, 48, T, H, W), one per clip; a clip's sound stays the base model's.

    Raises:
        ValueError: if the sequences differ in length or are empty, or a clip has no negative text for guidance.
    """
    _require_one_per_clip(starts, conditions=conditions)
    if config.guidance is None:
        denoise = Denoiser(transformer, [condition.text_1LC for condition in conditions], starts)
    else:
        denoise_guided = _guided_denoiser(transformer, starts, conditions)
        scales_T11 = [_frame_scales(config.guidance, config, start.video_1CTHW) for start in starts]
    steppers = [unipc_stepper(config.num_steps, config.shift) for _ in starts]
    clips = with_images(starts, conditions)
    for step, timestep in enumerate(steppers[0].timesteps):
        level = steppers[0].sigmas[step]
        if config.guidance is None:
            velocities = [velocity.video_1CTHW for velocity in denoise(clips, level.expand(len(clips)))]
        else:
            velocities = [
                guide(negative.video_1CTHW, positive.video_1CTHW, scale_T11)
                for (positive, negative), scale_T11 in zip(denoise_guided(clips, level), scales_T11, strict=True)
            ]
        for index, velocity in enumerate(velocities):
            video = steppers[index].step(velocity, timestep, clips[index].video_1CTHW, return_dict=False)[0]
            clips[index] = replace(clips[index], video_1CTHW=video)
        clips = with_images(clips, conditions)
    return [clip.video_1CTHW for clip in clips]
