"""sampling_fp32.safetensors and sampling_bf16.safetensors: seven whole runs, every noise draw replayed."""

import pytest
import torch

from model.sampling import (
    Conditions,
    DistilledSampling,
    GuidedSampling,
    Latents,
    SuperResolutionSampling,
    sample_distilled,
    sample_guided,
    sample_super_resolution,
)
from tests.compare import FP32_LIMIT, bf16_limit, relative_error
from tests.model.tiny_dit import recorded_transformer

RUNS = [
    "base_cfg8",
    "base_cfg8_image",
    "base_cfg8_audio_driven",
    "distilled8",
    "distilled8_image",
    "sr5",
    "sr5_cfg",
]
WITH_IMAGE = {"base_cfg8_image", "distilled8_image", "sr5"}
"""Runs whose recorded first latent frame is the reference image, to the bit."""


class RecordedNoise:
    """Replays the draws of one run in order, and insists on their shapes."""

    def __init__(self, recorded, run):
        self.draws = [recorded[name] for name in sorted(recorded) if name.startswith(f"{run}.noise.")]

    def __call__(self, shape):
        draw = self.draws.pop(0)
        assert tuple(draw.shape) == tuple(shape)
        return draw


def replay(golden, recorded, run, dtype) -> Latents:
    style = "sr" if run.startswith("sr") else "base"
    model = recorded_transformer(golden, style, dtype)
    start = Latents(recorded["video"], recorded["audio"])
    conditions = Conditions(
        recorded["text"],
        negative_text_1LC=recorded["text_null"],
        image_1C1HW=recorded["image"] if run in WITH_IMAGE else None,
        audio_is_given=run.endswith("audio_driven"),
    )
    if run.startswith("base"):
        return sample_guided(model, [start], [conditions], GuidedSampling(num_steps=8))[0]
    if run.startswith("distilled"):
        noise = RecordedNoise(recorded, run)
        [result] = sample_distilled(model, [start], [conditions], DistilledSampling(), [noise])
        assert not noise.draws, "not every recorded draw was used"
        return result
    config = SuperResolutionSampling(guidance=3.5 if run.endswith("cfg") else None)
    return Latents(sample_super_resolution(model, [start], [conditions], config)[0], start.audio_1AC)


@pytest.mark.parametrize("run", RUNS)
def test_run_in_fp32_equals_sampling_fp32_recording(golden, run):
    recorded = golden("sampling_fp32.safetensors")
    result = replay(golden, recorded, run, torch.float32)
    assert relative_error(result.video_1CTHW, recorded[f"{run}.video"]) < FP32_LIMIT
    assert relative_error(result.audio_1AC, recorded[f"{run}.audio"]) < FP32_LIMIT


@pytest.mark.parametrize("run", RUNS)
def test_run_in_bf16_is_as_near_as_sampling_bf16_recording(golden, run):
    fp32, bf16 = golden("sampling_fp32.safetensors"), golden("sampling_bf16.safetensors")
    result = replay(golden, bf16, run, torch.bfloat16)
    for ours, name in ((result.video_1CTHW, f"{run}.video"), (result.audio_1AC, f"{run}.audio")):
        assert relative_error(ours, fp32[name]) <= bf16_limit(bf16[name], fp32[name])
