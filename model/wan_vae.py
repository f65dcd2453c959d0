"""The Wan 2.2 video autoencoder: its tensors under both names they go by, and encoding a reference image with it.

Tensor legend: B batch, C channels, T latent frames, H W latent height/width, F pixel frames, Y X pixel height/width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from diffusers import AutoencoderKLWan
from diffusers.utils import load_image
from diffusers.video_processor import VideoProcessor
from PIL import Image

from model.wan_config import PATCH_CHANNELS, PATCH_SIZE, WanVaeConfig

TensorNaming = Literal["original", "diffusers"]
"""Whose names: those of `Wan2.2_VAE.pth`, or those of diffusers' folder `vae`."""

Part = Literal["encoder", "decoder", "whole"]

_PREFIXES: dict[str, tuple[str, ...]] = {
    "encoder": ("encoder.", "quant_conv."),
    "decoder": ("decoder.", "post_quant_conv."),
    "whole": ("",),
}

# Name parts, diffusers' on the left and Wan2.2_VAE.pth's on the right. Rules of one group never match the same name.
_HEAD_RULES = (
    ("coder.conv_in.", "coder.conv1."),
    ("coder.norm_out.", "coder.head.0."),
    ("coder.conv_out.", "coder.head.2."),
    ("post_quant_conv.", "conv2."),
    ("quant_conv.", "conv1."),
    (".mid_block.resnets.0.", ".middle.0."),
    (".mid_block.attentions.0.", ".middle.1."),
    (".mid_block.resnets.1.", ".middle.2."),
)
_BLOCK_RULES = (
    ("encoder.down_blocks.", "encoder.downsamples."),
    ("decoder.up_blocks.", "decoder.upsamples."),
)
_RESNET_RULES = (
    (".norm1.", ".residual.0."),
    (".conv1.", ".residual.2."),
    (".norm2.", ".residual.3."),
    (".conv2.", ".residual.6."),
    (".conv_shortcut.", ".shortcut."),
)


def wan22_original_name(name: str, num_res_blocks: int = WanVaeConfig.num_res_blocks) -> str:
    """Name in `Wan2.2_VAE.pth` of the tensor that diffusers' `AutoencoderKLWan` calls `name`."""
    if ".resnets." in name:
        for ours, original in _RESNET_RULES:
            name = name.replace(ours, original)
    for ours, original in _HEAD_RULES:
        if ours in name:
            return name.replace(ours, original)
    for ours, original in _BLOCK_RULES:
        name = name.replace(ours, original)
    name = name.replace(".downsampler.", f".downsamples.{num_res_blocks}.")
    name = name.replace(".upsampler.", f".upsamples.{num_res_blocks + 1}.")
    inner = ".downsamples." if name.startswith("encoder.") else ".upsamples."
    return name.replace(".resnets.", inner)


def wan_tensor_shapes(
    config: WanVaeConfig, part: Part = "whole", naming: TensorNaming = "original"
) -> dict[str, tuple[int, ...]]:
    """Every tensor a checkpoint must hold for a part of the autoencoder, name to shape."""
    tensors = empty_wan_vae(config).state_dict()
    named = {name: tuple(t.shape) for name, t in tensors.items() if name.startswith(_PREFIXES[part])}
    if naming == "diffusers":
        return named
    return {wan22_original_name(name, config.num_res_blocks): shape for name, shape in named.items()}


def convert_wan22_state_dict(
    state_dict: Mapping[str, torch.Tensor], config: WanVaeConfig, part: Part
) -> dict[str, torch.Tensor]:
    """Rename the tensors of `Wan2.2_VAE.pth` to diffusers' names; names that are diffusers' already pass unchanged.

    diffusers' own single-file converter knows the 2.1 layout and lets tensors of the nested 2.2 decoder overwrite
    each other, so the names are mapped here, by asking the model itself which it has.

    Args:
        state_dict: may lack what `part` does not need.
        config: what the checkpoint is.
        part: what is taken out.

    Raises:
        ValueError: a tensor of the part is missing, or a name is unknown.
    """
    expected = list(wan_tensor_shapes(config, naming="diffusers"))
    to_diffusers = {wan22_original_name(name, config.num_res_blocks): name for name in expected}
    if "encoder.conv_in.weight" in state_dict or "decoder.conv_in.weight" in state_dict:
        to_diffusers = {}
    converted = {to_diffusers.get(name, name): tensor for name, tensor in state_dict.items()}
    if unexpected := sorted(converted.keys() - set(expected)):
        raise ValueError(f"Wan 2.2 VAE checkpoint holds {len(unexpected)} unknown tensors, first: {unexpected[:3]}")
    wanted = [name for name in expected if name.startswith(_PREFIXES[part])]
    if missing := sorted(set(wanted) - converted.keys()):
        raise ValueError(f"Wan 2.2 VAE checkpoint lacks {len(missing)} tensors, first: {missing[:3]}")
    return {name: converted[name] for name in wanted}


def load_wan_vae(
    state_dict: Mapping[str, torch.Tensor],
    part: Part,
    dtype: torch.dtype,
    device: torch.device | str,
    config: WanVaeConfig | None = None,
) -> AutoencoderKLWan:
    """The autoencoder with the given weights (either naming), reduced to one half of it where only that is asked for.

    Args:
        state_dict: tensors of `Wan2.2_VAE.pth` or of diffusers' folder `vae`.
        part: what is loaded; the other half is dropped.
        dtype: of the weights.
        device: where they go.
        config: what the checkpoint is; None reads it off the tensors.

    Raises:
        ValueError: a tensor is missing or unknown, or a shape does not fit the rest.
    """
    config = config or WanVaeConfig.from_shapes({name: tuple(tensor.shape) for name, tensor in state_dict.items()})
    vae = empty_wan_vae(config)
    if part == "encoder":
        del vae.decoder, vae.post_quant_conv
    elif part == "decoder":
        del vae.encoder, vae.quant_conv
    converted = convert_wan22_state_dict(state_dict, config, part)
    try:
        tensors = {name: tensor.to(device=device, dtype=dtype) for name, tensor in converted.items()}
        vae.load_state_dict(tensors, strict=True, assign=True)
    except RuntimeError as error:
        raise ValueError(f"Wan 2.2 VAE checkpoint does not fit the architecture: {error}") from error
    return vae.eval().requires_grad_(False)


def empty_wan_vae(config: WanVaeConfig) -> AutoencoderKLWan:
    """The architecture, weights on the meta device."""
    with torch.device("meta"):
        return AutoencoderKLWan(
            base_dim=config.base_dim,
            decoder_base_dim=config.decoder_base_dim,
            z_dim=config.latent_channels,
            dim_mult=list(config.channel_multiples),
            num_res_blocks=config.num_res_blocks,
            temperal_downsample=list(config.temporal_downsample),
            latents_mean=list(config.latent_mean),
            latents_std=list(config.latent_std),
            is_residual=True,
            in_channels=PATCH_CHANNELS,
            out_channels=PATCH_CHANNELS,
            patch_size=PATCH_SIZE,
            scale_factor_temporal=2 ** sum(config.temporal_downsample),
            scale_factor_spatial=config.spatial_compression,
        )


class WanImageEncoder:
    """Turns a picture into the normalised latent that the Transformer is conditioned on."""

    def __init__(self, vae: AutoencoderKLWan) -> None:
        """Take an autoencoder of which only the encoder and `quant_conv` are used."""
        self._vae = vae
        self._processor = VideoProcessor(vae_scale_factor=vae.spatial_compression_ratio)

    @torch.no_grad()
    def encode(self, image: Image.Image, height: int, width: int) -> torch.Tensor:
        """Encode `image`, cropped around its centre to height:width and then resized.

        Args:
            image: any mode and orientation tag; an alpha channel is dropped.
            height: in pixels, a multiple of 16.
            width: in pixels, a multiple of 16.

        Returns:
            (1, 48, 1, height/16, width/16) float32 on the model's device.

        Raises:
            ValueError: height or width is no positive multiple of 16.
        """
        cell = self._vae.spatial_compression_ratio
        for field, value in (("height", height), ("width", width)):
            if value <= 0 or value % cell:
                raise ValueError(f"{field} must be a positive multiple of {cell}, got {value}")
        cropped = centre_crop(load_image(image), height, width)
        pixels_1CYX = self._processor.preprocess(cropped, height=height, width=width)
        return self.encode_pixels(pixels_1CYX.unsqueeze(2))

    @torch.no_grad()
    def encode_pixels(self, pixels_BCFYX: torch.Tensor) -> torch.Tensor:
        """Encode frames.

        Args:
            pixels_BCFYX: (B, 3, F, Y, X) in [-1, 1], any float dtype; F = 4n + 1, Y and X multiples of 16.

        Returns:
            (B, 48, (F-1)/4+1, Y/16, X/16) float32, normalised per channel.
        """
        weight = self._vae.quant_conv.weight
        pixels_BCFYX = pixels_BCFYX.to(device=weight.device, dtype=weight.dtype)
        mean_BCTHW = self._vae.encode(pixels_BCFYX).latent_dist.mode()
        # The release keeps the statistics, and the reciprocal, in the dtype of the weights.
        mean = mean_BCTHW.new_tensor(self._vae.config.latents_mean).view(-1, 1, 1, 1)
        inverse_std = (1.0 / mean_BCTHW.new_tensor(self._vae.config.latents_std)).view(-1, 1, 1, 1)
        return ((mean_BCTHW - mean) * inverse_std).float()


def load_image_encoder(
    state_dict: Mapping[str, torch.Tensor],
    dtype: torch.dtype,
    device: torch.device | str,
    config: WanVaeConfig | None = None,
) -> WanImageEncoder:
    """Image encoder from the tensors of `Wan2.2_VAE.pth` or of diffusers' folder `vae`, see `load_wan_vae`."""
    return WanImageEncoder(load_wan_vae(state_dict, "encoder", dtype, device, config))


def centre_crop(image: Image.Image, height: int, width: int) -> Image.Image:
    """Largest centred part of `image` with the aspect ratio height:width; sizes are rounded down to whole pixels.

    The ratio is approached as the release does it, so a side can end up to one pixel short of the exact ratio.

    Raises:
        ValueError: the image is so thin that nothing of it would be left.
    """
    image_width, image_height = image.size
    if (image_width, image_height) == (width, height):
        return image
    if image_height / image_width > height / width:
        kept_width, kept_height = image_width, int(image_width * height / width)
    else:
        kept_width, kept_height = int(image_height * width / height), image_height
    if min(kept_width, kept_height) < 1:
        raise ValueError(f"image of {image_width}x{image_height} pixels is too thin to be cropped to {width}x{height}")
    left, top = (image_width - kept_width) / 2, (image_height - kept_height) / 2
    return image.crop((left, top, left + kept_width, top + kept_height))
