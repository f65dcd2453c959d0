import math

import pytest
import torch

from model.audio_vae import (
    AUDIO_LATENT_RATE_HZ,
    ENCODE_WINDOW_SAMPLES,
    MODEL_SAMPLE_RATE_HZ,
    OUTPUT_SAMPLE_RATE_HZ,
    SAMPLES_PER_AUDIO_LATENT,
    AudioDecoder,
    AudioEncoder,
    convert_oobleck_state_dict,
    cross_fade,
    load_audio_vae,
    resample_fourier,
)
from model.checkpoint_writer import stable_audio_json
from model.oobleck import CHECKPOINT_PREFIX, OobleckConfig, empty_oobleck
from model.parity.report import FP32_LIMIT, relative_error
from tests.tiny_autoencoders import tiny_oobleck


@pytest.fixture(scope="module")
def recorded(golden):
    return golden("oobleck_io.safetensors")


@pytest.fixture(scope="module")
def weights(golden):
    return golden("oobleck_weights.safetensors")


@pytest.fixture(scope="module")
def vae(golden, weights):
    return load_audio_vae(golden("oobleck_config.json"), weights)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_rates_belong_together():
    assert AUDIO_LATENT_RATE_HZ * SAMPLES_PER_AUDIO_LATENT == MODEL_SAMPLE_RATE_HZ
    assert MODEL_SAMPLE_RATE_HZ * 441 == OUTPUT_SAMPLE_RATE_HZ * 512


def test_resampling_alone_equals_oobleck_io_recording(recorded):
    resampled = resample_fourier(recorded["waveform_51200hz"][0], 14112)
    assert relative_error(resampled, recorded["waveform_44100hz"].T) < FP32_LIMIT


def test_drawn_latent_follows_oobleck_io_mean_and_scale(vae, recorded):
    mean, scale = recorded["enc_mean_and_scale"].chunk(2, dim=1)
    noise = torch.randn(mean.shape, generator=seeded(7))
    expected = mean + noise * ((1 + scale.exp()).log() + 1e-4)
    latent = AudioEncoder(vae.encoder).encode(recorded["enc_input"][0], seeded(7))
    assert latent.shape == (1, 4, 64)
    assert relative_error(latent, expected.transpose(1, 2)) < FP32_LIMIT


def test_nested_config_prefix_and_foreign_tensors_give_the_same_weights(golden, weights, vae):
    bare = golden("oobleck_config.json")
    nested = {"model_type": "diffusion_cond", "model": {"pretransform": {"config": bare["model"]}, "diffusion": {}}}
    file = {CHECKPOINT_PREFIX + name: tensor for name, tensor in weights.items()} | {"model.model.x": torch.ones(3)}
    other = load_audio_vae(nested, file)
    ours = vae.state_dict()
    assert all(torch.equal(tensor, ours[name]) for name, tensor in other.state_dict().items())


def test_converted_names_are_accepted(golden, weights):
    empty = empty_oobleck(OobleckConfig.from_json(golden("oobleck_config.json")))
    converted = convert_oobleck_state_dict(weights, empty)
    again = convert_oobleck_state_dict(converted, empty)
    assert again.keys() == converted.keys() == empty.state_dict().keys()
    assert all(torch.equal(again[name], converted[name]) for name in converted)
    assert converted["decoder.snake1.alpha"].shape == (1, 4, 1)


def test_wrong_checkpoints_are_named(golden, weights):
    empty = empty_oobleck(OobleckConfig.from_json(golden("oobleck_config.json")))
    without = {name: tensor for name, tensor in weights.items() if name != "decoder.layers.6.beta"}
    with pytest.raises(ValueError, match=r"lacks 1 tensors, first: \['decoder.layers.6.beta'\].*0 unknown"):
        convert_oobleck_state_dict(without, empty)
    with pytest.raises(ValueError, match=r"lacks 0 tensors.*1 unknown ones, first: \['decoder.layers.9.bias'\]"):
        convert_oobleck_state_dict(weights | {"decoder.layers.9.bias": torch.ones(1)}, empty)
    with pytest.raises(ValueError, match=r"encoder.layers.0.bias must have the shape \(4,\), got \(5,\)"):
        convert_oobleck_state_dict(weights | {"encoder.layers.0.bias": torch.ones(5)}, empty)


@pytest.mark.parametrize("num_samples", [2048, 4095, 4096, 10_001])
def test_short_recordings_round_the_number_of_latents_down(vae, num_samples):
    waveform = 0.1 * torch.randn(2, num_samples, generator=seeded())
    assert AudioEncoder(vae.encoder).encode(waveform, seeded()).shape == (1, num_samples // 2048, 64)


@pytest.mark.slow
def test_long_recordings_go_through_overlapping_windows(vae):
    encoder = AudioEncoder(vae.encoder)
    num_samples = ENCODE_WINDOW_SAMPLES + 5000
    waveform = 0.1 * torch.randn(2, num_samples, generator=seeded())
    latent = encoder.encode(waveform, seeded(3))
    assert latent.shape == (1, math.ceil(num_samples / SAMPLES_PER_AUDIO_LATENT), 64)
    generator = seeded(3)
    first = encoder.encode(waveform[:, :ENCODE_WINDOW_SAMPLES], generator)
    second = torch.zeros(2, ENCODE_WINDOW_SAMPLES)
    rest = waveform[:, ENCODE_WINDOW_SAMPLES // 2 :]
    second[:, : rest.shape[1]] = rest
    joined = cross_fade([first, encoder.encode(second, generator)])
    assert torch.equal(latent, joined[:, : latent.shape[1]])
    assert torch.equal(latent[:, :363], first[:, :363])


def test_cross_fade_blends_linearly():
    # Seven latents: three overlap, so windows start four apart.
    ones = torch.ones(1, 7, 1)
    joined = cross_fade([ones, 4 * ones, 7 * ones])
    assert joined.flatten().tolist() == pytest.approx([1, 1, 1, 1, 1, 2, 3, 4, 4, 5, 6, 7, 7, 7, 7])


@pytest.mark.parametrize("num_samples", [800, 801])
def test_resampling_keeps_a_tone(num_samples):
    """A tone that fits the length must come out as the same tone, sampled at the new places."""
    given = torch.sin(2 * torch.pi * 37 * torch.arange(1000, dtype=torch.float64) / 1000 + 0.3)
    expected = torch.sin(2 * torch.pi * 37 * torch.arange(num_samples, dtype=torch.float64) / num_samples + 0.3)
    torch.testing.assert_close(resample_fourier(given[None], num_samples)[0], expected, atol=1e-12, rtol=0)


def test_wrong_inputs_are_named(vae):
    with pytest.raises(ValueError, match=r"latent must be \(1, A, 64\), got \(1, 64, 5\)"):
        AudioDecoder(vae.decoder).decode(torch.zeros(1, 64, 5))
    with pytest.raises(ValueError, match=r"waveform must be \(2, at least 2048\), got \(2, 2047\)"):
        AudioEncoder(vae.encoder).encode(torch.zeros(2, 2047), seeded())
    with pytest.raises(ValueError, match=r"num_samples must be in 1\.\.9, got 10"):
        resample_fourier(torch.zeros(2, 10), 10)


def test_tiny_checkpoint_is_audible(weights):
    config, tiny = tiny_oobleck(seeded())
    assert tiny.keys() == weights.keys()
    assert all(torch.equal(tensor, tiny[name]) for name, tensor in tiny_oobleck(seeded())[1].items())
    vae = load_audio_vae(stable_audio_json(config), tiny)
    waveform = AudioDecoder(vae.decoder).decode(torch.randn(1, 26, 64, generator=seeded(1)))
    assert waveform.shape == (2, 26 * 1764)
    assert 0.01 < waveform.std() < 0.3
    assert waveform.abs().max() < 1
    latent = AudioEncoder(vae.encoder).encode(0.1 * torch.randn(2, 51_200, generator=seeded(2)), seeded(3))
    assert latent.shape == (1, 25, 64)
    assert 0.3 < latent.std() < 2
