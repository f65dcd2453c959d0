import gc

import pytest
import torch

from model.parity.report import BF16_FLOOR, FP32_LIMIT, relative_error
from model.turbo_vae import ResidualBlock, TurboVAEConfig, TurboVAEDecoder, turbo_vae_names
from tests.tiny_autoencoders import tiny_turbo_vae


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
def test_chunks_are_the_windows_of_the_config(decoder, recorded, num_latents, chunk_lengths):
    # Windows of the golden config: three latent frames, then two at a time.
    chunks = decoder.decode_chunks(recorded[f"T{num_latents}.latent"])
    assert [chunk.shape[1] for chunk in chunks] == chunk_lengths
    assert sum(chunk_lengths) == 4 * (num_latents - 1) + 1


def test_assigned_weights_equal_turbo_vae_io_recording(golden, recorded):
    with torch.device("meta"):
        model = TurboVAEDecoder(TurboVAEConfig.from_dict(golden("turbo_vae_config.json")))
    model.load_state_dict(golden("turbo_vae_weights.safetensors"), strict=True, assign=True)
    weight = model.decoder.mid_block.resnets[0].conv1.conv.weight
    assert weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert not weight.is_contiguous()
    frames = torch.cat(list(model.decode_chunks(recorded["T4.latent"])), dim=1)
    assert relative_error(frames, recorded["T4.frames"][0]) < FP32_LIMIT


def test_residual_norms_have_an_epsilon_of_1e_8_whatever_the_shortcuts():
    """The recordings' activations are of order one, where it does not show."""
    block = ResidualBlock(4, 4, shortcut_eps=1.0, first_relu=True)
    torch.nn.init.zeros_(block.conv1.conv.weight)
    torch.nn.init.constant_(block.conv1.conv.bias, 1e-4)
    seen = []
    for conv in (block.conv1, block.conv2):
        conv.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    block(torch.full((1, 4, 1, 1, 1), 1e-4))
    half = torch.full((1, 4, 1, 1, 1), 0.5**0.5)  # 1e-4 over the root of 1e-4 squared and 1e-8
    torch.testing.assert_close(seen, [half, torch.nn.functional.silu(half)])


@pytest.mark.parametrize("num_latents", [1, 3, 4, 5, 9])
def test_bf16_stays_within_the_limit_that_the_original_exceeds(decoder, recorded, num_latents):
    """The original's own bf16 run, rounded between norm and activation, is 2.16e-2 off over five latent frames."""
    frames = torch.cat(list(decoder.bfloat16().decode_chunks(recorded[f"T{num_latents}.latent"].bfloat16())), dim=1)
    assert frames.dtype == torch.bfloat16
    assert relative_error(frames, recorded[f"T{num_latents}.frames"][0]) < BF16_FLOOR


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


@pytest.mark.parametrize("written_as", ["decoder.{}", "module.decoder.{}", "{}", "module.{}"])
def test_names_of_a_checkpoint_may_be_prefixed_or_bare(golden, written_as):
    names = list(golden("turbo_vae_weights.safetensors"))
    written = {name: written_as.format(name.removeprefix("decoder.")) for name in names}
    heads = ["module.aligned_feature_head.w", "decoder.feature_head.bias", "encoder.conv_in.conv.weight"]
    assert turbo_vae_names([*written.values(), *heads[:2]]) == written


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
    config, weights = tiny_turbo_vae(torch.Generator().manual_seed(0))
    again = tiny_turbo_vae(torch.Generator().manual_seed(0))[1]
    model = TurboVAEDecoder(TurboVAEConfig.from_dict(config))
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    model.load_state_dict(weights, strict=True)
    latent = torch.randn(1, 48, 8, 4, 4, generator=torch.Generator().manual_seed(1))
    pixels_3FYX = torch.cat(list(model.decode_chunks(latent)), dim=1)
    assert pixels_3FYX.shape == (3, 29, 64, 64)
    assert 0.15 < pixels_3FYX.std() < 0.55
    assert (pixels_3FYX.abs() >= 1).float().mean() < 0.05


def test_pixels_are_the_same_however_many_frames_the_last_convolution_makes_at_once(decoder, recorded, monkeypatch):
    at_once = torch.cat(list(decoder.decode_chunks(recorded["T9.latent"])), dim=1)
    for num_frames in (1, 3, 100):
        monkeypatch.setattr("model.turbo_vae.OUTPUT_FRAMES_AT_ONCE", num_frames)
        pixels_3FYX = torch.cat(list(decoder.decode_chunks(recorded["T9.latent"])), dim=1)
        torch.testing.assert_close(pixels_3FYX, at_once)
