import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
from PIL import Image

from model.parity.report import BF16_FLOOR, FP32_LIMIT, relative_error
from model.wan_config import WanVaeConfig
from model.wan_vae import (
    centre_crop,
    convert_wan22_state_dict,
    load_image_encoder,
    load_wan_vae,
    wan_tensor_shapes,
)
from tests.tiny_autoencoders import tiny_wan_vae_state_dict

TINY = WanVaeConfig(base_dim=4, decoder_base_dim=4)


@pytest.fixture(scope="module")
def weights(golden):
    return golden("wan22_vae_weights.safetensors")


@pytest.fixture(scope="module")
def recorded(golden):
    return golden("wan22_vae_io.safetensors")


@pytest.fixture(scope="module")
def encoder(weights):
    return load_image_encoder(weights, torch.float32, "cpu")


@pytest.mark.parametrize("run", ["T1", "T5"])
def test_bf16_encoding_stays_near_the_recording(weights, recorded, run):
    latent = load_image_encoder(weights, torch.bfloat16, "cpu").encode_pixels(recorded[f"{run}.pixels"])
    assert latent.dtype == torch.float32
    assert relative_error(latent, recorded[f"{run}.latent"]) < BF16_FLOOR


@pytest.mark.parametrize("naming", ["original", "diffusers"])
def test_expected_tensors_are_those_of_the_files(weights, naming):
    given = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if naming == "diffusers":
        converted = convert_wan22_state_dict(weights, TINY, "whole")
        given = {name: tuple(tensor.shape) for name, tensor in converted.items()}
    assert wan_tensor_shapes(TINY, "whole", naming) == given
    encoder, decoder = (wan_tensor_shapes(TINY, part, naming) for part in ("encoder", "decoder"))
    assert encoder | decoder == given
    assert len(encoder) + len(decoder) == len(given)
    quantiser = "conv1.weight" if naming == "original" else "quant_conv.weight"
    assert quantiser in encoder
    assert all(name.startswith(("encoder.", quantiser[:-6])) for name in encoder)


def test_release_size_has_half_a_billion_weights_in_the_decoder():
    shapes = wan_tensor_shapes(WanVaeConfig(), "decoder")
    assert shapes["decoder.conv1.weight"] == (1024, 48, 3, 3, 3)
    assert sum(math.prod(shape) for shape in shapes.values()) / 1e6 == pytest.approx(555, abs=1)


@pytest.mark.parametrize("num_res_blocks", [1, 3])
def test_names_follow_the_number_of_residual_blocks(num_res_blocks):
    config = replace(TINY, num_res_blocks=num_res_blocks)
    names = wan_tensor_shapes(config)
    assert len(names) == len(wan_tensor_shapes(config, naming="diffusers"))
    assert f"encoder.downsamples.0.downsamples.{num_res_blocks}.resample.1.weight" in names
    assert f"decoder.upsamples.0.upsamples.{num_res_blocks + 1}.time_conv.weight" in names


def test_renaming_agrees_with_the_converter_of_diffusers(weights):
    """Outside the nested blocks, which that converter does not know, both must give the same names."""
    flat = {
        name: tensor for name, tensor in weights.items() if ".upsamples." not in name and ".downsamples." not in name
    }
    theirs = convert_wan_vae_to_diffusers(dict(flat))
    ours = convert_wan22_state_dict(weights, TINY, "whole")
    assert len(theirs) == 48
    assert all(ours[name] is tensor for name, tensor in theirs.items())


def test_converted_names_and_a_checkpoint_without_decoder_are_accepted(weights, recorded, encoder):
    converted = convert_wan22_state_dict(weights, TINY, "whole")
    encoder_only = {name: tensor for name, tensor in weights.items() if not name.startswith(("decoder.", "conv2."))}
    expected = encoder.encode_pixels(recorded["T1.pixels"])
    for state_dict in (converted, encoder_only):
        assert torch.equal(
            load_image_encoder(state_dict, torch.float32, "cpu").encode_pixels(recorded["T1.pixels"]), expected
        )


def test_decoder_weights_are_not_kept(encoder, weights):
    kept = encoder._vae.state_dict()
    assert all(name.startswith(("encoder.", "quant_conv.")) for name in kept)
    assert len(kept) == sum(name.startswith(("encoder.", "conv1.")) for name in weights)


def test_wrong_checkpoints_are_named(weights):
    without = {name: tensor for name, tensor in weights.items() if name != "encoder.middle.1.proj.bias"}
    with pytest.raises(ValueError, match=r"lacks 1 tensors, first: \['encoder.mid_block.attentions.0.proj.bias'\]"):
        load_image_encoder(without, torch.float32, "cpu")
    with pytest.raises(ValueError, match=r"1 unknown tensors, first: \['encoder.extra'\]"):
        load_image_encoder(weights | {"encoder.extra": torch.ones(1)}, torch.float32, "cpu")
    with pytest.raises(ValueError, match=r"does not fit the architecture"):
        load_image_encoder(weights | {"conv1.bias": torch.ones(5)}, torch.float32, "cpu")
    with pytest.raises(ValueError, match=r"neither encoder.conv1.weight nor encoder.conv_in.weight"):
        load_image_encoder({}, torch.float32, "cpu")
    without = {name: tensor for name, tensor in weights.items() if not name.startswith("conv2.")}
    with pytest.raises(ValueError, match=r"lacks 2 tensors, first: \['post_quant_conv.bias'"):
        load_wan_vae(without, "whole", torch.float32, "cpu")


@pytest.mark.parametrize(
    ("size", "height", "width", "box"),
    [
        ((500, 301), 256, 448, (0, 8, 500, 285)),
        ((301, 500), 256, 448, (0, 164, 301, 172)),
        ((448, 256), 256, 448, (0, 0, 448, 256)),
        ((1023, 577), 1088, 1920, (2, 0, 1018, 577)),
        ((333, 334), 480, 272, (72, 0, 189, 334)),
        ((7, 1000), 256, 448, (0, 498, 7, 4)),
    ],
)
def test_centre_crop_takes_the_part_the_original_takes(size, height, width, box):
    """Boxes (left, top, width, height) were read from the original's results."""
    columns, rows = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    position = (rows * size[0] + columns).astype(np.int32)
    cropped = np.asarray(centre_crop(Image.fromarray(position), height, width))
    left, top, kept_width, kept_height = box
    assert np.array_equal(cropped, position[top : top + kept_height, left : left + kept_width])


def test_centre_crop_names_an_image_that_is_too_thin():
    with pytest.raises(ValueError, match="1x1000 pixels is too thin to be cropped to 448x256"):
        centre_crop(Image.new("RGB", (1, 1000)), 256, 448)


def test_picture_is_scaled_to_minus_one_to_one(encoder):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    latent = encoder.encode(Image.fromarray(pixels), 32, 48)
    scaled = torch.from_numpy(pixels).permute(2, 0, 1)[None, :, None] / 127.5 - 1
    assert latent.shape == (1, 48, 1, 2, 3)
    assert relative_error(latent, encoder.encode_pixels(scaled)) < FP32_LIMIT


def test_alpha_and_orientation_tag_are_resolved(encoder):
    upright = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 32, 3), dtype=np.uint8))
    tagged = upright.transpose(Image.Transpose.ROTATE_90).convert("RGBA")
    tagged.getexif()[0x0112] = 6  # shown after a quarter turn clockwise
    assert torch.equal(encoder.encode(tagged, 64, 32), encoder.encode(upright, 64, 32))


@pytest.mark.parametrize(("height", "width", "message"), [(250, 448, "height .* got 250"), (256, 0, "width .* got 0")])
def test_encoder_names_a_size_it_cannot_make(encoder, height, width, message):
    with pytest.raises(ValueError, match=message):
        encoder.encode(Image.new("RGB", (64, 64)), height, width)


def test_tiny_checkpoint_has_original_names_and_makes_latents_of_unit_spread(weights):
    tiny = tiny_wan_vae_state_dict(torch.Generator().manual_seed(0))
    again = tiny_wan_vae_state_dict(torch.Generator().manual_seed(0))
    assert {name: tensor.shape for name, tensor in tiny.items()} == {n: t.shape for n, t in weights.items()}
    assert all(torch.equal(tiny[name], again[name]) for name in tiny)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 14, 3), dtype=np.uint8))
    latent = load_image_encoder(tiny, torch.float32, "cpu").encode(picture, 128, 224)
    assert 0.4 < latent.std() < 2.5
