"""Tiny random autoencoders in the file formats of the release, for tests.

They make visible noise and audible noise: every layer keeps the spread of its input, and the outputs are scaled to
stay inside what a picture and a sound can hold. The numbers depend on the generator alone.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from model.geometry import AUDIO_LATENT_CHANNELS
from model.oobleck import OobleckConfig, OobleckHalf, empty_oobleck, oobleck_original_names
from model.turbo_vae import TurboVAEConfig, TurboVAEDecoder
from model.wan_config import WanVaeConfig
from model.wan_vae import empty_wan_vae, wan22_original_name

# Second moment of SiLU(x) for normal x is 0.36, of ReLU(x) 0.5: a convolution behind one needs about 1/0.4.
ACTIVATION_GAIN = math.sqrt(1 / 0.4)
PIXEL_STD = 0.35
SAMPLE_STD = 0.1


def tiny_turbo_vae(
    generator: torch.Generator, changes: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config (as in the release's JSON) and tensors of a decoder of 86,220 parameters.

    Blocks, scalings and window sizes are the release's, but for `changes`; only widths and depths are smaller.
    """
    config = {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 48,
        "patch_size": 2,
        "patch_size_t": 1,
        "resnet_norm_eps": 1e-6,
        "scaling_factor": 1.0,
        "decoder_causal": False,
        "decoder_spatio_temporal_scaling": [False, True, True, True],
        "decoder_spatio_only": [False, True, False, False],
        "decoder_is_dw_conv": [False] * 5,
        "decoder_dw_kernel_size": 5,
        "use_unpatchify": True,
        "spatial_compression_ratio": 16,
        "temporal_compression_ratio": 4,
        "decoder_block_out_channels": [8, 8, 12, 16],
        "decoder_layers_per_block": [1, 1, 1, 1, 1],
        "first_chunk_size": 7,
        "step_size": 7,
        **(changes or {}),
    }
    with torch.device("meta"):
        shapes = TurboVAEDecoder(TurboVAEConfig.from_dict(config)).state_dict()

    def gain(name: str) -> float:
        if name.startswith("decoder.conv_out"):
            return PIXEL_STD * ACTIVATION_GAIN
        return ACTIVATION_GAIN if ".conv1." in name or ".conv2." in name else 1.0

    return config, _random_weights(shapes, gain, generator)


def tiny_wan_vae_state_dict(generator: torch.Generator) -> dict[str, Tensor]:
    """State dict of a small Wan 2.2 autoencoder, width 4, with the names of `Wan2.2_VAE.pth`."""
    shapes = empty_wan_vae(WanVaeConfig(base_dim=4, decoder_base_dim=4)).state_dict()

    def gain(name: str) -> float:
        return ACTIVATION_GAIN if ".conv1." in name or ".conv2." in name or ".conv_out." in name else 1.0

    weights = _random_weights(shapes, gain, generator)
    return {wan22_original_name(name): tensor for name, tensor in weights.items()}


def tiny_oobleck(generator: torch.Generator) -> tuple[OobleckConfig, dict[str, Tensor]]:
    """Sizes and tensors, under Stable Audio's names without the file's prefix, of a small audio autoencoder."""
    sizes: dict[str, Any] = {"channels": 4, "multiples": (1, 2, 4, 8, 16), "strides": (2, 4, 4, 8, 8)}
    config = OobleckConfig(
        OobleckHalf(latent_channels=2 * AUDIO_LATENT_CHANNELS, audio_channels=2, **sizes),
        OobleckHalf(latent_channels=AUDIO_LATENT_CHANNELS, audio_channels=2, **sizes),
    )
    vae = empty_oobleck(config)
    names = oobleck_original_names(vae)
    tensors = {}
    for name, tensor in sorted(vae.state_dict().items()):
        tensors[names[name]] = _random_oobleck_tensor(name, tensor, generator)
    return config, tensors


def _random_oobleck_tensor(name: str, like: Tensor, generator: torch.Generator) -> Tensor:
    if name.endswith((".alpha", ".beta")):
        return 0.1 * torch.randn(like.shape[1], generator=generator)
    if name.endswith(".bias"):
        return 0.05 * torch.randn(like.shape, generator=generator)
    if name.endswith(".weight_v"):
        return torch.randn(like.shape, generator=generator)
    # weight_g is the length of each row of weights, and 1 about keeps the spread; residual branches add but little.
    if name == "decoder.conv2.weight_g":
        return torch.full(like.shape, SAMPLE_STD)
    if ".res_unit" in name and ".conv2." in name:
        return torch.full(like.shape, 0.3)
    return torch.full(like.shape, 1.0)


def _random_weights(
    shapes: Mapping[str, Tensor], gain: Callable[[str], float], generator: torch.Generator
) -> dict[str, Tensor]:
    weights = {}
    for name, like in sorted(shapes.items()):
        if name.endswith(".gamma"):
            weights[name] = torch.ones(like.shape)
        elif name.endswith(".bias"):
            weights[name] = 0.05 * torch.randn(like.shape, generator=generator)
        else:
            fan_in = like[0].numel()
            weights[name] = gain(name) / math.sqrt(fan_in) * torch.randn(like.shape, generator=generator)
    return weights
