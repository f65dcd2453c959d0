import pytest
import torch

from model.audio_vae import convert_oobleck_state_dict, load_audio_vae
from model.oobleck import OobleckConfig, empty_oobleck, oobleck_tensor_shapes

RELEASE_IN_DIFFUSERS_WORDS = {
    "_class_name": "AutoencoderOobleck",
    "audio_channels": 2,
    "channel_multiples": [1, 2, 4, 8, 16],
    "decoder_channels": 128,
    "decoder_input_channels": 64,
    "downsampling_ratios": [2, 4, 4, 8, 8],
    "encoder_hidden_size": 128,
    "sampling_rate": 44100,
}


@pytest.fixture
def raw(golden):
    return golden("oobleck_config.json")


@pytest.fixture
def release(raw):
    for half in ("encoder", "decoder"):
        raw["model"][half]["config"]["channels"] = 128
    return OobleckConfig.from_json(raw)


def test_both_files_of_the_release_say_the_same(release):
    assert OobleckConfig.from_json(RELEASE_IN_DIFFUSERS_WORDS) == release
    release.require_pipeline_sizes()


def test_release_size_needs_no_other_last_convolution(release):
    shapes = oobleck_tensor_shapes(release, "diffusers")
    assert len(shapes) == 365
    assert shapes["encoder.conv2.weight_v"] == (128, 2048, 3)
    assert shapes["decoder.conv1.weight_v"] == (2048, 64, 7)
    assert shapes["decoder.snake1.alpha"] == (1, 128, 1)


def test_expected_tensors_are_those_of_the_files(golden, raw):
    weights = golden("oobleck_weights.safetensors")
    config = OobleckConfig.from_json(raw)
    assert oobleck_tensor_shapes(config) == {name: tuple(tensor.shape) for name, tensor in weights.items()}
    empty = empty_oobleck(config)
    assert all(tensor.is_meta for tensor in empty.state_dict().values())
    converted = convert_oobleck_state_dict(weights, empty)
    assert oobleck_tensor_shapes(config, "diffusers") == {name: tuple(t.shape) for name, t in converted.items()}


def test_halves_may_differ_in_all_but_the_length_of_a_latent(raw):
    encoder, decoder = (raw["model"][half]["config"] for half in ("encoder", "decoder"))
    encoder |= {"channels": 3, "c_mults": [1, 3], "strides": [2, 4], "latent_dim": 10, "in_channels": 1}
    decoder |= {"channels": 5, "c_mults": [2, 1, 3], "strides": [2, 2, 2], "latent_dim": 7, "out_channels": 1}
    config = OobleckConfig.from_json(raw)
    shapes = oobleck_tensor_shapes(config)
    assert shapes["encoder.layers.0.weight_v"] == (3, 1, 7)
    assert shapes["encoder.layers.4.weight_v"] == (10, 9, 3)
    assert shapes["decoder.layers.0.weight_v"] == (15, 7, 7)
    assert shapes["decoder.layers.5.weight_v"] == (1, 5, 7)
    generator = torch.Generator().manual_seed(0)
    vae = load_audio_vae(raw, {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()})
    with torch.no_grad():
        assert vae.encoder(torch.zeros(1, 1, 64)).shape == (1, 10, 8)
        assert vae.decoder(torch.zeros(1, 7, 8)).shape == (1, 1, 64)


@pytest.mark.parametrize(
    ("half", "change", "message"),
    [
        ("decoder", {"final_tanh": True}, "decoder.final_tanh of the audio autoencoder must be False, got True"),
        ("encoder", {"use_snake": False}, "encoder.use_snake .* must be True"),
        ("decoder", {"use_nearest_upsample": True}, "decoder.use_nearest_upsample .* must be False"),
        ("decoder", {"strides": [2, 4]}, r"multiples and strides .* must be as many, got \(1, 2, 4, 8, 16\), \(2, 4\)"),
        ("encoder", {"channels": 0}, "channels of the audio autoencoder must be at least 1, got 0"),
    ],
)
def test_config_names_what_cannot_be_built(raw, half, change, message):
    raw["model"][half]["config"] |= change
    with pytest.raises(ValueError, match=message):
        OobleckConfig.from_json(raw)


@pytest.mark.parametrize(
    ("half", "change", "message"),
    [
        ("decoder", {"latent_dim": 32}, "latent_dim of the audio autoencoder's decoder must be 64, got 32"),
        ("encoder", {"latent_dim": 64}, "latent_dim of the audio autoencoder's encoder must be 128, got 64"),
        ("encoder", {"in_channels": 1}, "audio channels of the audio autoencoder's encoder must be 2, got 1"),
        ("decoder", {"strides": [2, 4, 4, 8, 4]}, "product of strides .* decoder must be 2048, got 1024"),
    ],
)
def test_config_names_what_the_pipeline_cannot_use(raw, half, change, message):
    raw["model"][half]["config"] |= change
    config = OobleckConfig.from_json(raw)
    with pytest.raises(ValueError, match=message):
        config.require_pipeline_sizes()


@pytest.mark.parametrize("key", ["latent_dim", "channels"])
def test_config_names_a_missing_key(raw, key):
    del raw["model"]["encoder"]["config"][key]
    with pytest.raises(ValueError, match=f"lacks the key '{key}'"):
        OobleckConfig.from_json(raw)


def test_config_names_a_missing_key_of_diffusers():
    raw = dict(RELEASE_IN_DIFFUSERS_WORDS)
    del raw["decoder_channels"]
    with pytest.raises(ValueError, match="lacks the key 'decoder_channels'"):
        OobleckConfig.from_json(raw)
