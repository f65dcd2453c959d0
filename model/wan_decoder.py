"""Decoding with the Wan 2.2 video autoencoder, for checkpoints that hold no Turbo VAE.

Tensor legend: C channels, T latent frames, H W latent height/width, F pixel frames, Y X pixel height/width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, unpatchify
from torch import Tensor

from model.latent_statistics import denormalise
from model.wan_config import PATCH_SIZE, WanVaeConfig
from model.wan_vae import load_wan_vae


class WanVideoDecoder:
    """Decodes a clip latent frame by latent frame, so that memory does not grow with its length."""

    def __init__(self, vae: AutoencoderKLWan) -> None:
        """Take an autoencoder of which only the decoder and `post_quant_conv` are used."""
        self._vae = vae
        self._num_caches = sum(isinstance(module, WanCausalConv3d) for module in vae.decoder.modules())

    def decode_chunks(self, latent_1CTHW: Tensor) -> Iterator[Tensor]:
        """Decode a normalised latent, chunk after chunk, each computed when it is asked for.

        Args:
            latent_1CTHW: (1, 48, T, H, W), the Transformer's output, in the dtype and on the device of the weights.

        Returns:
            One chunk per latent frame: pixels (3, F, 16H, 16W) in about [-1, 1], not clamped, in the latent's dtype;
            F is 1 for the first chunk and 4 for every other.

        Raises:
            ValueError: the latent is not of that shape.
        """
        channels = self._vae.config.z_dim
        if latent_1CTHW.ndim != 5 or latent_1CTHW.shape[:2] != (1, channels) or 0 in latent_1CTHW.shape:
            raise ValueError(f"latent must be (1, {channels}, T, H, W), got {tuple(latent_1CTHW.shape)}")
        return self._chunks(latent_1CTHW)

    def _chunks(self, latent_1CTHW: Tensor) -> Iterator[Tensor]:
        # What each causal convolution has seen last; the decoder fills it in place.
        cache: list[Any] = [None] * self._num_caches
        for index in range(latent_1CTHW.shape[2]):
            # No local name, which would hold the chunk while the next is computed.
            yield self._decode_frame(latent_1CTHW[:, :, index : index + 1], cache, index == 0)

    @torch.no_grad()
    def _decode_frame(self, latent_1C1HW: Tensor, cache: list[Any], is_first: bool) -> Tensor:
        config = self._vae.config
        z_1C1HW = self._vae.post_quant_conv(denormalise(latent_1C1HW, config.latents_mean, config.latents_std))
        patches = self._vae.decoder(z_1C1HW, feat_cache=cache, feat_idx=[0], first_chunk=is_first)
        return unpatchify(patches, PATCH_SIZE)[0]


def load_video_decoder(
    state_dict: Mapping[str, Tensor],
    dtype: torch.dtype,
    device: torch.device | str,
    config: WanVaeConfig | None = None,
) -> WanVideoDecoder:
    """Video decoder from the tensors of `Wan2.2_VAE.pth` or of diffusers' folder `vae`, see `load_wan_vae`."""
    return WanVideoDecoder(load_wan_vae(state_dict, "decoder", dtype, device, config))
