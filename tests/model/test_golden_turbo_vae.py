"""turbo_vae_io.safetensors: clips of one to nine latent frames, decoded by the original window by window."""

import gc

import pytest
import torch

from model.latent_statistics import WAN22_LATENT_MEAN, WAN22_LATENT_STD
from model.tiny_autoencoders import tiny_turbo_vae
from model.turbo_vae import TurboVAEConfig, TurboVAEDecoder, denormalise, load_turbo_vae_state_dict, to_uint8
from tests.compare import FP32_LIMIT, relative_error


@pytest.fixture(scope="module")
def recorded(golden):
    return golden("turbo_vae_io.safetensors")


@pytest.fixture
def decoder(golden):
    model = TurboVAEDecoder(TurboVAEConfig.from_dict(golden("turbo_vae_config.json")))
    model.load_state_dict(golden("turbo_vae_weights.safetensors"), strict=True)
    return model.eval()


@pytest.mark.parametrize(
    ("num_latents", "chunk_lengths"),
    [(1, [1]), (3, [9]), (4, [9, 4]), (5, [9, 8]), (9, [9, 8, 8, 8])],
)
def test_chunks_equal_turbo_vae_io_recording(decoder, recorded, num_latents, chunk_lengths):
    # Windows of the golden config: three latent frames, then two at a time.
    chunks = list(decoder.decode_chunks(recorded[f"T{num_latents}.latent"]))
    assert [chunk.shape[1] for chunk in chunks] == chunk_lengths
    frames = torch.cat(chunks, dim=1)
    assert frames.shape[1] == 4 * (num_latents - 1) + 1
    assert relative_error(frames, recorded[f"T{num_latents}.frames"][0]) < FP32_LIMIT


def test_assigned_weights_equal_turbo_vae_io_recording(golden, recorded):
    with torch.device("meta"):
        model = TurboVAEDecoder(TurboVAEConfig.from_dict(golden("turbo_vae_config.json")))
    model.load_state_dict(golden("turbo_vae_weights.safetensors"), strict=True, assign=True)
    weight = model.decoder.mid_block.resnets[0].conv1.conv.weight
    assert weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert not weight.is_contiguous()
    frames = torch.cat(list(model.decode_chunks(recorded["T4.latent"])), dim=1)
    assert relative_error(frames, recorded["T4.frames"][0]) < FP32_LIMIT


def test_bf16_stays_near_turbo_vae_io_recording(decoder, recorded):
    frames = torch.cat(list(decoder.bfloat16().decode_chunks(recorded["T5.latent"].bfloat16())), dim=1)
    assert frames.dtype == torch.bfloat16
    assert relative_error(frames, recorded["T5.frames"][0]) < 5e-2


def test_names_and_shapes_equal_release_shapes(golden):
    release = golden("release_shapes.json")
    with torch.device("meta"):
        model = TurboVAEDecoder(TurboVAEConfig.from_dict(release["turbo_vae_config"]))
    ours = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    assert ours == {name: shape for name, (shape, _) in release["turbo_vae"].items()}


def test_only_one_chunk_is_alive(decoder, recorded):
    """The memory of a chunk is free before the next is computed, and nothing is computed before it is asked for."""
    num_started = 0

    def no_pixels_are_alive(_module, _inputs):
        nonlocal num_started
        num_started += 1
        tensors = [thing for thing in gc.get_objects() if isinstance(thing, torch.Tensor)]
        assert not [tensor.shape for tensor in tensors if tensor.ndim >= 4 and tensor.shape[-2:] == (48, 80)]

    decoder.decoder.register_forward_pre_hook(no_pixels_are_alive)
    latent = recorded["T9.latent"][..., :1, :1].expand(-1, -1, -1, 3, 5)
    chunks = decoder.decode_chunks(latent)
    assert num_started == 0
    for number in range(1, 5):
        chunk = next(chunks)
        assert num_started == number
        assert chunk.shape[-2:] == (48, 80)
        del chunk
    assert next(chunks, None) is None


def test_denormalise_computes_in_float32():
    latent = torch.randn(1, 48, 2, 3, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    mean, std = (torch.tensor(values).view(1, 48, 1, 1, 1) for values in (WAN22_LATENT_MEAN, WAN22_LATENT_STD))
    z = denormalise(latent)
    assert z.dtype == torch.bfloat16
    assert relative_error(z, latent.double() * std + mean) < 2**-8
    # bf16 arithmetic would round three times; float32 rounds once, so at least 99 % are the nearest bf16 number.
    assert (z == (latent.double() * std + mean).bfloat16()).double().mean() > 0.99


def test_to_uint8_clamps_and_truncates():
    pixels = (
        torch.tensor([-3.0, -1.0, -0.5, 0.0, 1 - 2 / 255 - 1e-3, 0.999, 1.0, 3.0]).view(1, 1, 2, 4).expand(3, 1, 2, 4)
    )
    frames = to_uint8(pixels)
    assert frames.shape == (1, 2, 4, 3)
    assert frames.dtype == torch.uint8
    assert frames[0, :, :, 0].flatten().tolist() == [0, 0, 63, 127, 253, 254, 255, 255]
    assert pixels[0, 0, 0, 0] == -3.0


def test_checkpoint_may_prefix_names_and_hold_training_heads(golden):
    weights = golden("turbo_vae_weights.safetensors")
    ema = {f"module.{name}": tensor for name, tensor in weights.items()} | {
        "module.aligned_feature_head.w": torch.ones(2)
    }
    loaded = load_turbo_vae_state_dict({"state_dict": {}, "ema_state_dict": ema})
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"state_dict": {}}, r"must hold ema_state_dict, got only \['state_dict'\]"),
        ({"ema_state_dict": {"head.weight": torch.ones(1)}}, r"must hold decoder.conv_in.conv.weight, got 1 others"),
        ({"ema_state_dict": {"decoder.conv_in.conv.weight": torch.ones(1)}}, r"must hold decoder.conv_out.conv.weight"),
    ],
)
def test_incomplete_checkpoint_is_named(raw, message):
    with pytest.raises(ValueError, match=message):
        load_turbo_vae_state_dict(raw)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder_causal": True}, "decoder_causal must be False"),
        ({"use_unpatchify": False}, "use_unpatchify must be True"),
        ({"patch_size_t": 2}, "patch_size_t must be 1: .*got 2"),
        ({"decoder_is_dw_conv": [False, True]}, r"decoder_is_dw_conv must be false everywhere, got \[False, True\]"),
        ({"latent_channels": 16}, "latent_channels must be 48, got 16"),
        ({"step_size": 0}, "step_size must be >= 1, got 0"),
        ({"decoder_spatio_only": [False]}, r"decoder_spatio_only must have 4 entries .* got \(False,\)"),
        ({"temporal_compression_ratio": 8}, "temporal_compression_ratio must be 4, .* got 8"),
        ({"patch_size": 4}, "spatial_compression_ratio must be 32, .* got 16"),
    ],
)
def test_config_names_what_is_wrong(golden, change, message):
    with pytest.raises(ValueError, match=message):
        TurboVAEConfig.from_dict(golden("turbo_vae_config.json") | change)


def test_config_names_missing_keys(golden):
    raw = golden("turbo_vae_config.json")
    del raw["step_size"], raw["out_channels"]
    with pytest.raises(ValueError, match=r"lacks \['out_channels', 'step_size'\]"):
        TurboVAEConfig.from_dict(raw)


@pytest.mark.parametrize("shape", [(48, 1, 2, 2), (2, 48, 1, 2, 2), (1, 16, 1, 2, 2), (1, 48, 0, 2, 2)])
def test_wrong_latent_is_named_before_decoding(decoder, shape):
    with pytest.raises(ValueError, match=r"latent must be \(1, 48, T, H, W\), got"):
        decoder.decode_chunks(torch.zeros(shape))


def test_tiny_decoder_makes_visible_noise():
    config, checkpoint = tiny_turbo_vae(torch.Generator().manual_seed(0))
    again = tiny_turbo_vae(torch.Generator().manual_seed(0))[1]["ema_state_dict"]
    model = TurboVAEDecoder(TurboVAEConfig.from_dict(config))
    weights = load_turbo_vae_state_dict(checkpoint)
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    model.load_state_dict(weights, strict=True)
    latent = torch.randn(1, 48, 8, 4, 4, generator=torch.Generator().manual_seed(1))
    frames = torch.cat([to_uint8(chunk) for chunk in model.decode_chunks(latent)])
    assert frames.shape == (29, 64, 64, 3)
    assert 20 < frames.float().std() < 70
    assert ((frames == 0) | (frames == 255)).float().mean() < 0.05
