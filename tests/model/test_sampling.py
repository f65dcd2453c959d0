import pytest
import torch
import torch.nn.functional as F

from model.denoiser import Conditions, Latents, initial_noise, seeded_noise
from model.sampling import (
    DistilledSampling,
    GuidedSampling,
    SuperResolutionSampling,
    prepare_super_resolution,
    sample_distilled,
    sample_guided,
)
from model.schedule import zero_snr_levels
from model.transformer import Transformer
from tests.tiny_checkpoint import tiny_config

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    transformer = Transformer(tiny_config("distill"), compute_dtype=torch.float32)
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return transformer


def start_latents(seed=0):
    return initial_noise((3, 4, 4), 9, (48, 64), seeded_noise(seed, CPU))


@pytest.mark.parametrize(
    ("config", "align_corners"),
    [
        (SuperResolutionSampling(), True),
        (SuperResolutionSampling(align_corners=True), True),
        (SuperResolutionSampling(align_corners=False), False),
    ],
)
def test_super_resolution_starts_from_resized_latents_and_known_noise(config, align_corners):
    base = start_latents()
    draws = [torch.randn(1, 48, 3, 8, 8), torch.randn(1, 9, 64)]
    queue = list(draws)
    start = prepare_super_resolution(base, (8, 8), config, lambda shape: queue.pop(0))
    kept = zero_snr_levels()[220]
    assert kept.item() == pytest.approx(0.8389, abs=5e-5)
    resized = F.interpolate(base.video_1CTHW, size=(3, 8, 8), mode="trilinear", align_corners=align_corners)
    torch.testing.assert_close(start.video_1CTHW, resized * kept + draws[0] * (1 - kept**2) ** 0.5)
    torch.testing.assert_close(start.audio_1AC, 0.7 * draws[1] + 0.3 * base.audio_1AC)


def test_given_audio_is_never_denoised_even_by_the_distilled_model(model):
    start, text = start_latents(), torch.randn(1, 5, 48)
    noise = seeded_noise(1, CPU)
    [given] = sample_distilled(model, [start], [Conditions(text, audio_is_given=True)], DistilledSampling(2), [noise])
    assert torch.equal(given.audio_1AC, start.audio_1AC)
    [made] = sample_distilled(model, [start], [Conditions(text)], DistilledSampling(2), [seeded_noise(1, CPU)])
    assert not torch.equal(made.audio_1AC, start.audio_1AC)


def test_the_image_is_the_first_latent_frame_to_the_bit(model):
    image = torch.randn(1, 48, 1, 4, 4)
    conditions = Conditions(torch.randn(1, 5, 48), image_1C1HW=image)
    noise = seeded_noise(1, CPU)
    [result] = sample_distilled(model, [start_latents()], [conditions], DistilledSampling(2), [noise])
    assert torch.equal(result.video_1CTHW[:, :, :1], image)


def test_samplers_leave_their_inputs_alone(model):
    start = start_latents()
    before = Latents(start.video_1CTHW.clone(), start.audio_1AC.clone())
    image = torch.zeros(1, 48, 1, 4, 4)
    conditions = Conditions(torch.randn(1, 5, 48), torch.randn(1, 5, 48), image_1C1HW=image)
    sample_guided(model, [start], [conditions], GuidedSampling(num_steps=2))
    assert torch.equal(start.video_1CTHW, before.video_1CTHW)
    assert torch.equal(start.audio_1AC, before.audio_1AC)


def test_guidance_without_a_negative_prompt_is_refused(model):
    with pytest.raises(ValueError, match="negative_text_1LC is needed for guidance, got None"):
        sample_guided(model, [start_latents()], [Conditions(torch.randn(1, 5, 48))], GuidedSampling(num_steps=2))


def test_the_lower_guidance_begins_at_timestep_500(model):
    """Six steps pass 499; the recorded eight pass no timestep near enough to tell."""
    conditions = Conditions(torch.randn(1, 5, 48), torch.randn(1, 4, 48))

    def video(**config):
        [result] = sample_guided(model, [start_latents()], [conditions], GuidedSampling(num_steps=6, **config))
        return result.video_1CTHW

    assert torch.equal(video(), video(late_timestep=499))
    assert not torch.equal(video(), video(late_timestep=498))


def test_a_seed_means_the_same_noise_every_time():
    assert torch.equal(seeded_noise(3, CPU)((4,)), seeded_noise(3, CPU)((4,)))
    assert not torch.equal(seeded_noise(3, CPU)((4,)), seeded_noise(4, CPU)((4,)))
