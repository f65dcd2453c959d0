import gc

import pytest
import torch

from model.latent_statistics import denormalise
from model.parity.report import BF16_FLOOR, FP32_LIMIT, relative_error
from model.wan_config import WanVaeConfig
from model.wan_decoder import load_video_decoder
from model.wan_vae import load_wan_vae


@pytest.fixture(scope="module")
def weights(golden):
    return golden("wan22_vae_weights.safetensors")


@pytest.fixture(scope="module")
def recorded(golden):
    return golden("wan22_vae_io.safetensors")


@pytest.fixture
def decoder(weights):
    return load_video_decoder(weights, torch.float32, "cpu")


def some_latent(num_frames):
    return torch.randn(1, 48, num_frames, 2, 3, generator=torch.Generator().manual_seed(0))


def test_chunks_equal_decoding_at_once(decoder, weights):
    latent = some_latent(4)
    chunks = list(decoder.decode_chunks(latent))
    assert [tuple(chunk.shape) for chunk in chunks] == [(3, 1, 32, 48), *[(3, 4, 32, 48)] * 3]
    at_once = load_wan_vae(weights, "whole", torch.float32, "cpu").decode(denormalise(latent)).sample[0]
    frames = torch.cat(chunks, dim=1)
    assert frames.abs().max() > 1, "the clamp inside the other must have something to do"
    assert relative_error(frames.clamp(-1, 1), at_once) < 1e-6


def test_clips_do_not_see_each_other(decoder):
    first, second = decoder.decode_chunks(some_latent(3)), decoder.decode_chunks(-some_latent(3))
    interleaved = [chunk for pair in zip(first, second, strict=True) for chunk in pair][::2]
    assert all(torch.equal(a, b) for a, b in zip(interleaved, decoder.decode_chunks(some_latent(3)), strict=True))


@pytest.mark.parametrize("run", ["T1", "T5"])
def test_bf16_stays_near_the_recording(weights, recorded, run):
    decoder = load_video_decoder(weights, torch.bfloat16, "cpu")
    frames = torch.cat(list(decoder.decode_chunks(recorded[f"{run}.latent"].bfloat16())), dim=1)
    assert frames.dtype == torch.bfloat16
    assert relative_error(frames, recorded[f"{run}.decoded"][0]) < BF16_FLOOR


def test_a_file_with_the_decoder_alone_is_enough(weights, recorded):
    config = WanVaeConfig(base_dim=4, decoder_base_dim=4)
    half = {name: tensor for name, tensor in weights.items() if name.startswith(("decoder.", "conv2."))}
    decoder = load_video_decoder(half, torch.float32, "cpu", config)
    frames = torch.cat(list(decoder.decode_chunks(recorded["T1.latent"])), dim=1)
    assert relative_error(frames, recorded["T1.decoded"][0]) < FP32_LIMIT


@pytest.mark.slow
def test_only_one_chunk_is_alive(decoder):
    """The pixels of a chunk are free before the next are computed, and nothing is computed before it is asked for."""
    num_started = 0

    def no_pixels_are_alive(_module, _inputs):
        nonlocal num_started
        num_started += 1
        tensors = [thing for thing in gc.get_objects() if isinstance(thing, torch.Tensor)]
        assert not [tensor.shape for tensor in tensors if tensor.ndim >= 4 and tensor.shape[-2:] == (32, 80)]

    decoder._vae.decoder.register_forward_pre_hook(no_pixels_are_alive)
    chunks = decoder.decode_chunks(torch.zeros(1, 48, 3, 2, 5))
    assert num_started == 0
    for number in range(1, 4):
        chunk = next(chunks)
        assert num_started == number
        assert chunk.shape[-2:] == (32, 80)
        del chunk
    assert next(chunks, None) is None


@pytest.mark.parametrize("shape", [(48, 1, 2, 2), (2, 48, 1, 2, 2), (1, 16, 1, 2, 2), (1, 48, 0, 2, 2)])
def test_wrong_latent_is_named_before_decoding(decoder, shape):
    with pytest.raises(ValueError, match=r"latent must be \(1, 48, T, H, W\), got"):
        decoder.decode_chunks(torch.zeros(shape))
