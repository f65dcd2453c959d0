"""What a Wan 2.2 video autoencoder is: read from the original's arguments, diffusers' file, or the tensors alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model.config_types import as_tuple, require_types
from model.geometry import LATENT_STRIDE_SPACE, LATENT_STRIDE_TIME, VIDEO_LATENT_CHANNELS
from model.latent_statistics import WAN22_LATENT_MEAN, WAN22_LATENT_STD

PATCH_SIZE = 2
PATCH_CHANNELS = 3 * PATCH_SIZE**2

_FIRST_HALVING = re.compile(r"encoder\.downsamples\.0\.downsamples\.([1-9])\.resample\.1\.weight")


@dataclass(frozen=True)
class WanVaeConfig:
    """What the autoencoder is; the defaults are the release's.

    Attributes:
        base_dim: width of the encoder's first level.
        decoder_base_dim: width of the decoder's last level.
        latent_channels: channels of the latent.
        channel_multiples: width of each level, in units of the base width; between two levels the picture halves.
        num_res_blocks: residual blocks per level of the encoder; the decoder has one more.
        temporal_downsample: whether the halving after each level but the last halves time too.
        latent_mean: per channel, of the latent before it is normalised.
        latent_std: per channel.
    """

    base_dim: int = 160
    decoder_base_dim: int = 256
    latent_channels: int = 48
    channel_multiples: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    temporal_downsample: tuple[bool, ...] = (False, True, True)
    latent_mean: tuple[float, ...] = WAN22_LATENT_MEAN
    latent_std: tuple[float, ...] = WAN22_LATENT_STD

    def __post_init__(self) -> None:
        require_types(self)
        for name in ("base_dim", "decoder_base_dim", "latent_channels", "num_res_blocks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name, length in (
            ("temporal_downsample", len(self.channel_multiples) - 1),
            ("latent_mean", self.latent_channels),
            ("latent_std", self.latent_channels),
        ):
            if len(getattr(self, name)) != length:
                raise ValueError(f"{name} must have {length} entries, got {len(getattr(self, name))}")

    @property
    def spatial_compression(self) -> int:
        """Pixels per latent position, in each direction."""
        return PATCH_SIZE * 2 ** len(self.temporal_downsample)

    @property
    def temporal_compression(self) -> int:
        """Pixel frames per latent frame."""
        return 2 ** sum(self.temporal_downsample)

    def require_pipeline_sizes(self) -> None:
        """Check that the Transformer's latents fit: 48 channels, 4 frames and 16 x 16 pixels per position.

        Raises:
            ValueError: they do not.
        """
        for name, value, allowed in (
            ("latent channels", self.latent_channels, VIDEO_LATENT_CHANNELS),
            ("pixels per latent position", self.spatial_compression, LATENT_STRIDE_SPACE),
            ("frames per latent frame", self.temporal_compression, LATENT_STRIDE_TIME),
        ):
            if value != allowed:
                raise ValueError(f"{name} of the Wan 2.2 VAE must be {allowed}, got {value}")

    @classmethod
    def from_original(
        cls,
        raw: Mapping[str, Any],
        latent_mean: Sequence[float] = WAN22_LATENT_MEAN,
        latent_std: Sequence[float] = WAN22_LATENT_STD,
    ) -> WanVaeConfig:
        """Read the arguments that the original's class takes: `dim`, `dec_dim`, `z_dim`, `dim_mult`, ...

        Raises:
            ValueError: a key is missing or a value is not allowed.
        """
        widths = ("dim", "dec_dim", "z_dim", "dim_mult", "num_res_blocks", "temporal_downsample")
        return cls._read(raw, widths, latent_mean, latent_std)

    @classmethod
    def from_diffusers(cls, raw: Mapping[str, Any]) -> WanVaeConfig:
        """Read the `config.json` that diffusers writes for an `AutoencoderKLWan`.

        Raises:
            ValueError: a key is missing, a value is not allowed, or the file describes another kind of autoencoder.
        """
        for key, allowed in (
            ("is_residual", True),
            ("patch_size", PATCH_SIZE),
            ("in_channels", PATCH_CHANNELS),
            ("out_channels", PATCH_CHANNELS),
        ):
            if raw.get(key) != allowed:
                raise ValueError(f"{key} of the Wan 2.2 VAE must be {allowed}, got {raw.get(key)}")
        if raw.get("attn_scales"):
            raise ValueError(f"attn_scales of the Wan 2.2 VAE must be [], got {raw['attn_scales']}")
        widths = ("base_dim", "decoder_base_dim", "z_dim", "dim_mult", "num_res_blocks", "temperal_downsample")
        mean, std = raw.get("latents_mean", WAN22_LATENT_MEAN), raw.get("latents_std", WAN22_LATENT_STD)
        config = cls._read(raw, widths, mean, std)
        for key, derived in (
            ("scale_factor_spatial", config.spatial_compression),
            ("scale_factor_temporal", config.temporal_compression),
        ):
            if raw.get(key, derived) != derived:
                raise ValueError(f"{key} of the Wan 2.2 VAE must be {derived}, as its levels give, got {raw[key]}")
        return config

    @classmethod
    def _read(
        cls, raw: Mapping[str, Any], keys: Sequence[str], mean: Sequence[float], std: Sequence[float]
    ) -> WanVaeConfig:
        if missing := [key for key in keys if raw.get(key) is None]:
            raise ValueError(f"Wan 2.2 VAE config lacks {missing}")
        dim, decoder_dim, channels, multiples, blocks, temporal = (raw[key] for key in keys)
        lists = [as_tuple(value) for value in (multiples, temporal, mean, std)]
        return cls(dim, decoder_dim, channels, lists[0], blocks, *lists[1:])

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, Sequence[int]]) -> WanVaeConfig:
        """Read widths and depth off a checkpoint's tensors (either naming); everything else is the release's.

        The decoder's may be absent: its width is then taken for the encoder's. The depth is where the encoder's first
        halving stands in the original's naming; without that it is the release's.

        Raises:
            ValueError: the tensor that tells the encoder's width is missing.
        """
        encoder_in = shapes.get("encoder.conv1.weight") or shapes.get("encoder.conv_in.weight")
        if not encoder_in:
            raise ValueError("Wan 2.2 VAE checkpoint has neither encoder.conv1.weight nor encoder.conv_in.weight")
        decoder_out = shapes.get("decoder.head.2.weight") or shapes.get("decoder.conv_out.weight") or ()
        halvings = map(_FIRST_HALVING.fullmatch, shapes)
        return cls(
            base_dim=encoder_in[0],
            decoder_base_dim=decoder_out[1] if len(decoder_out) > 1 else encoder_in[0],
            num_res_blocks=next((int(found[1]) for found in halvings if found), cls.num_res_blocks),
        )
