"""Encoding of a reference image with the Wan 2.2 video autoencoder.

Tensor legend: B batch, C channels, T latent frames, H W latent height/width, F pixel frames, Y X pixel height/width.
"""

from collections.abc import Iterable, Mapping

import torch
from diffusers import AutoencoderKLWan
from diffusers.utils import load_image
from diffusers.video_processor import VideoProcessor
from PIL import Image

from model.latent_statistics import WAN22_LATENT_MEAN, WAN22_LATENT_STD

LATENT_CHANNELS = 48
SPATIAL_COMPRESSION = 16
CHANNEL_MULTIPLES = (1, 2, 4, 4)

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
    (".downsampler.", ".downsamples.2."),
    (".upsampler.", ".upsamples.3."),
)
_RESNET_RULES = (
    (".norm1.", ".residual.0."),
    (".conv1.", ".residual.2."),
    (".norm2.", ".residual.3."),
    (".conv2.", ".residual.6."),
    (".conv_shortcut.", ".shortcut."),
)


def wan22_original_name(name: str) -> str:
    """Name in `Wan2.2_VAE.pth` of the tensor that diffusers' `AutoencoderKLWan` calls `name`."""
    if ".resnets." in name:
        for ours, original in _RESNET_RULES:
            name = name.replace(ours, original)
    for ours, original in _HEAD_RULES:
        if ours in name:
            return name.replace(ours, original)
    for ours, original in _BLOCK_RULES:
        name = name.replace(ours, original)
    inner = ".downsamples." if name.startswith("encoder.") else ".upsamples."
    return name.replace(".resnets.", inner)


def convert_wan22_state_dict(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename the tensors of `Wan2.2_VAE.pth` to diffusers' names; names that are diffusers' already pass unchanged.

    The checkpoint may lack the decoder (`decoder.*`, `conv2.*`), which encoding does not need.
    diffusers' own single-file converter knows the 2.1 layout and lets tensors of the nested 2.2 decoder overwrite
    each other, so the names are mapped here, by asking the model itself which it has.

    Raises:
        ValueError: an encoder tensor is missing, or a name is unknown.
    """
    expected = _empty_like(state_dict).state_dict()
    if "encoder.conv_in.weight" in state_dict:
        converted = dict(state_dict)
    else:
        to_diffusers = {wan22_original_name(name): name for name in expected}
        converted = {to_diffusers.get(name, name): tensor for name, tensor in state_dict.items()}
    unexpected = sorted(converted.keys() - expected.keys())
    if unexpected:
        raise ValueError(f"Wan 2.2 VAE checkpoint holds {len(unexpected)} unknown tensors, first: {unexpected[:3]}")
    _require(expected, converted, ("encoder.", "quant_conv."))
    return converted


def build_wan_vae(state_dict: Mapping[str, torch.Tensor]) -> AutoencoderKLWan:
    """Whole autoencoder, encoder and decoder, with the given weights (either naming) in their own dtype and device.

    `dim` and `dec_dim` are read from the tensors' shapes, everything else is the release's: multiples 1, 2, 4, 4, two
    residual blocks per level, no temporal downsampling on the first level, patch 2. The tensors are not copied.

    Raises:
        ValueError: a tensor is missing or unknown, or a shape does not fit the rest.
    """
    vae = _empty_like(state_dict)
    converted = convert_wan22_state_dict(state_dict)
    _require(vae.state_dict(), converted, ("",))
    return _load(vae, converted)


class WanImageEncoder:
    """Turns a picture into the normalised latent that the Transformer is conditioned on."""

    def __init__(self, vae: AutoencoderKLWan) -> None:
        """Take an autoencoder of which only the encoder and `quant_conv` are used."""
        self._vae = vae
        self._processor = VideoProcessor(vae_scale_factor=SPATIAL_COMPRESSION)

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
        for field, value in (("height", height), ("width", width)):
            if value <= 0 or value % SPATIAL_COMPRESSION:
                raise ValueError(f"{field} must be a positive multiple of {SPATIAL_COMPRESSION}, got {value}")
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
        mean = mean_BCTHW.new_tensor(WAN22_LATENT_MEAN).view(-1, 1, 1, 1)
        inverse_std = (1.0 / mean_BCTHW.new_tensor(WAN22_LATENT_STD)).view(-1, 1, 1, 1)
        return ((mean_BCTHW - mean) * inverse_std).float()


def load_image_encoder(
    state_dict: Mapping[str, torch.Tensor], dtype: torch.dtype, device: torch.device | str
) -> WanImageEncoder:
    """Image encoder from the tensors of `Wan2.2_VAE.pth` or of diffusers' folder `vae`, without the decoder's weights.

    Raises:
        ValueError: an encoder tensor is missing or does not fit, or a name is unknown.
    """
    vae = _empty_like(state_dict)
    del vae.decoder, vae.post_quant_conv
    kept = {
        name: tensor.to(device=device, dtype=dtype)
        for name, tensor in convert_wan22_state_dict(state_dict).items()
        if name.startswith(("encoder.", "quant_conv."))
    }
    return WanImageEncoder(_load(vae, kept))


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


def empty_wan_vae(base_dim: int, decoder_base_dim: int) -> AutoencoderKLWan:
    """The release's architecture with the given widths (release: 160 and 256), weights on the meta device."""
    with torch.device("meta"):
        return AutoencoderKLWan(
            base_dim=base_dim,
            decoder_base_dim=decoder_base_dim,
            z_dim=LATENT_CHANNELS,
            dim_mult=list(CHANNEL_MULTIPLES),
            num_res_blocks=2,
            temperal_downsample=[False, True, True],
            latents_mean=list(WAN22_LATENT_MEAN),
            latents_std=list(WAN22_LATENT_STD),
            is_residual=True,
            in_channels=12,
            out_channels=12,
            patch_size=2,
            scale_factor_temporal=4,
            scale_factor_spatial=SPATIAL_COMPRESSION,
        )


def _empty_like(state_dict: Mapping[str, torch.Tensor]) -> AutoencoderKLWan:
    """Empty model whose widths follow the shapes in `state_dict` (either naming)."""
    conv_in = _first(state_dict, "encoder.conv1.weight", "encoder.conv_in.weight")
    if conv_in is None:
        raise ValueError("Wan 2.2 VAE checkpoint has neither encoder.conv1.weight nor encoder.conv_in.weight")
    decoder_out = _first(state_dict, "decoder.head.2.weight", "decoder.conv_out.weight")
    base_dim = conv_in.shape[0]
    return empty_wan_vae(base_dim, base_dim if decoder_out is None else decoder_out.shape[1])


def _first(state_dict: Mapping[str, torch.Tensor], *names: str) -> torch.Tensor | None:
    return next((state_dict[name] for name in names if name in state_dict), None)


def _require(expected: Iterable[str], given: Mapping[str, torch.Tensor], prefixes: tuple[str, ...]) -> None:
    missing = sorted(name for name in expected if name.startswith(prefixes) and name not in given)
    if missing:
        raise ValueError(f"Wan 2.2 VAE checkpoint lacks {len(missing)} tensors, first: {missing[:3]}")


def _load(vae: AutoencoderKLWan, converted: Mapping[str, torch.Tensor]) -> AutoencoderKLWan:
    try:
        vae.load_state_dict(converted, strict=True, assign=True)
    except RuntimeError as error:
        raise ValueError(f"Wan 2.2 VAE checkpoint does not fit the architecture: {error}") from error
    return vae.eval().requires_grad_(False)
