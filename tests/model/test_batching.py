"""Several clips in one sequence: each result is the clip's own, whatever the company."""

from dataclasses import dataclass, replace

import pytest
import torch

from model.denoiser import Conditions, Denoiser, Latents, seeded_noise
from model.packing import PackedLayout
from model.parity.report import relative_error
from model.sampling import (
    DistilledSampling,
    GuidedSampling,
    SuperResolutionSampling,
    sample_distilled,
    sample_guided,
    sample_super_resolution,
)
from model.transformer import Transformer
from tests.tiny_checkpoint import tiny_config

LIMIT = 1e-5
LEVELS_S = torch.full((3,), 0.5)
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Clip:
    start: Latents
    conditions: Conditions
    seed: int


def make_clip(seed, video, num_audio, num_text, num_negative, has_image=False, audio_is_given=False) -> Clip:
    draw = seeded_noise(seed, CPU)
    frames, height, width = video
    conditions = Conditions(
        draw((1, num_text, 48)),
        negative_text_1LC=draw((1, num_negative, 48)),
        image_1C1HW=draw((1, 48, 1, height, width)) if has_image else None,
        audio_is_given=audio_is_given,
    )
    return Clip(Latents(draw((1, 48, frames, height, width)), draw((1, num_audio, 64))), conditions, seed)


CLIPS = [
    make_clip(1, (5, 4, 6), num_audio=17, num_text=9, num_negative=4, has_image=True),
    make_clip(2, (2, 8, 4), num_audio=5, num_text=23, num_negative=6),
    make_clip(3, (7, 2, 10), num_audio=28, num_text=2, num_negative=11, audio_is_given=True),
]


def lively_transformer(variant) -> Transformer:
    torch.manual_seed(0)
    config = tiny_config(variant)
    if config.local_attention_layers:
        config = replace(config, local_attention_radius=1)
    model = Transformer(config, compute_dtype=torch.float32)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return model


def guided(model, clips):
    starts, conditions = [clip.start for clip in clips], [clip.conditions for clip in clips]
    return sample_guided(model, starts, conditions, GuidedSampling(num_steps=6))


def distilled(model, clips):
    starts, conditions = [clip.start for clip in clips], [clip.conditions for clip in clips]
    noises = [seeded_noise(clip.seed, CPU) for clip in clips]
    return sample_distilled(model, starts, conditions, DistilledSampling(), noises)


def super_resolved(model, clips, guidance=None):
    starts, conditions = [clip.start for clip in clips], [clip.conditions for clip in clips]
    config = SuperResolutionSampling(guidance=guidance, first_frames=3)
    videos = sample_super_resolution(model, starts, conditions, config)
    return [Latents(video, start.audio_1AC) for video, start in zip(videos, starts, strict=True)]


def super_resolved_with_guidance(model, clips):
    return super_resolved(model, clips, guidance=3.5)


SAMPLERS = [
    pytest.param("base", guided, id="base"),
    pytest.param("distill", distilled, id="distill"),
    pytest.param("sr_540p", super_resolved, id="sr_540p"),
    pytest.param("sr_1080p", super_resolved, id="sr_1080p-local-windows"),
    pytest.param("sr_1080p", super_resolved_with_guidance, id="sr_1080p-local-windows-guidance"),
]


def with_text(clip, text_1LC):
    return replace(clip, conditions=replace(clip.conditions, text_1LC=text_1LC))


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "sample"), SAMPLERS)
def test_a_clip_in_company_equals_the_clip_alone(variant, sample):
    model = lively_transformer(variant)
    together = sample(model, CLIPS)
    assert len(together) == len(CLIPS)
    for clip, result in zip(CLIPS, together, strict=True):
        [alone] = sample(model, [clip])
        assert relative_error(result.video_1CTHW, alone.video_1CTHW) < LIMIT
        assert relative_error(result.audio_1AC, alone.audio_1AC) < LIMIT
        [other] = sample(model, [with_text(clip, -clip.conditions.text_1LC)])
        assert relative_error(other.video_1CTHW, alone.video_1CTHW) > 100 * LIMIT, "the model must not ignore its input"


@pytest.mark.parametrize(("variant", "sample"), SAMPLERS)
def test_clips_do_not_influence_each_other_at_all(variant, sample):
    """Not a number spreads through everything that so much as looks at it."""
    model = lively_transformer(variant)
    poisoned = with_text(CLIPS[1], torch.full_like(CLIPS[1].conditions.text_1LC, float("nan")))
    before, after = sample(model, CLIPS), sample(model, [CLIPS[0], poisoned, CLIPS[2]])
    for index in (0, 2):
        assert torch.equal(before[index].video_1CTHW, after[index].video_1CTHW)
        assert torch.equal(before[index].audio_1AC, after[index].audio_1AC)
    assert before[1].video_1CTHW.isfinite().all()
    assert after[1].video_1CTHW.isnan().all()


def test_the_order_of_the_clips_is_the_order_of_the_results():
    model = lively_transformer("distill")
    forward, backward = distilled(model, CLIPS), distilled(model, CLIPS[::-1])
    for one, other in zip(forward, backward[::-1], strict=True):
        assert relative_error(one.video_1CTHW, other.video_1CTHW) < LIMIT


def test_clips_of_one_size_keep_their_own_noise_and_text():
    twin = replace(CLIPS[1], seed=7)
    results = distilled(lively_transformer("distill"), [CLIPS[1], twin, CLIPS[1]])
    assert relative_error(results[2].video_1CTHW, results[0].video_1CTHW) < LIMIT
    assert relative_error(results[1].video_1CTHW, results[0].video_1CTHW) > 100 * LIMIT


def test_positions_of_a_pack_are_those_of_its_clips():
    model = lively_transformer("sr_1080p")
    layouts = Denoiser(model, [clip.conditions.text_1LC for clip in CLIPS], [clip.start for clip in CLIPS]).layouts
    positions = model.positions(layouts)
    pack = PackedLayout.from_table(positions.clips_5S)
    assert pack.clips == tuple(layouts)
    for layout, rope_NR in zip(layouts, pack.split(positions.rope_NR), strict=True):
        assert torch.equal(rope_NR, model.positions([layout]).rope_NR)


@torch.inference_mode()
def test_local_windows_are_each_clips_own():
    """Radius 1 hides nothing from a clip of two latent frames, and much from longer ones beside it."""
    local = lively_transformer("sr_1080p")
    full = lively_transformer("sr_540p")
    full.load_state_dict(local.state_dict())
    texts, starts = [clip.conditions.text_1LC for clip in CLIPS], [clip.start for clip in CLIPS]
    pairs = zip(
        Denoiser(local, texts, starts)(starts, LEVELS_S), Denoiser(full, texts, starts)(starts, LEVELS_S), strict=True
    )
    assert [torch.equal(one.video_1CTHW, other.video_1CTHW) for one, other in pairs] == [False, True, False]


def test_several_clips_are_one_forward_pass():
    model = lively_transformer("base")
    calls = []
    model.register_forward_pre_hook(lambda module, inputs: calls.append(inputs[0].shape[0]))
    distilled(model, CLIPS)
    assert calls == [sum(clip.start.video_1CTHW[0, 0].numel() // 4 for clip in CLIPS)] * 8


@pytest.mark.parametrize(("sample", "num_steps"), [(guided, 6), (super_resolved_with_guidance, 5)])
def test_guidance_is_one_forward_pass_with_every_clip_twice(sample, num_steps):
    model = lively_transformer("base")
    calls = []
    model.register_forward_pre_hook(lambda module, inputs: calls.append(inputs[0].shape[0]))
    sample(model, CLIPS)
    assert calls == [2 * sum(clip.start.video_1CTHW[0, 0].numel() // 4 for clip in CLIPS)] * num_steps


def test_lengths_must_agree():
    model, clip = lively_transformer("base"), CLIPS[1]
    starts, conditions, noise = [clip.start, clip.start], [clip.conditions], seeded_noise(1, CPU)
    message = r"conditions must hold one entry per clip \(2\), got 1"
    with pytest.raises(ValueError, match=message):
        sample_guided(model, starts, conditions, GuidedSampling(num_steps=1))
    with pytest.raises(ValueError, match=message):
        sample_distilled(model, starts, conditions, DistilledSampling(1), [noise, noise])
    with pytest.raises(ValueError, match=message):
        sample_super_resolution(model, starts, conditions, SuperResolutionSampling())
    with pytest.raises(ValueError, match=r"noises must hold one entry per clip \(2\), got 1"):
        sample_distilled(model, starts, conditions * 2, DistilledSampling(1), [noise])
    with pytest.raises(ValueError, match="clips must hold at least one layout, got none"):
        sample_distilled(model, [], [], DistilledSampling(1), [])
