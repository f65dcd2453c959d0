"""GPU memory that the autoencoders need to run; see `model.memory`, which this belongs to."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from model.geometry import LATENT_STRIDE_SPACE, VIDEO_LATENT_CHANNELS
from model.memory import DTYPES, NetworkMemory, Precision, held_bytes, peak_bytes
from model.oobleck import OobleckConfig, empty_oobleck
from model.packing import SequenceLayout
from model.turbo_vae import TurboVAEConfig, TurboVAEDecoder
from model.wan_config import WanVaeConfig


def turbo_vae_memory(config: TurboVAEConfig, clip: SequenceLayout, precision: Precision) -> NetworkMemory:
    """The Turbo VAE's decoder at work on a clip, with the chunk of pixels before the one it makes."""
    dtype = DTYPES[precision]
    with torch.device("meta"):
        decoder = TurboVAEDecoder(config).to(dtype)
    peak = _decoding_peak_bytes(decoder, decoder.decode_chunks, clip, clip.latent_frames, dtype)
    return NetworkMemory(held_bytes(decoder), peak)


def wan_decoder_memory(config: WanVaeConfig, clip: SequenceLayout, precision: Precision) -> NetworkMemory:
    """The Wan 2.2 autoencoder's decoder at work on a clip, with the chunk of pixels before the one it makes."""
    from model.wan_decoder import WanVideoDecoder
    from model.wan_vae import empty_wan_vae

    dtype = DTYPES[precision]
    vae = nn.Module.to(empty_wan_vae(config), dtype)
    del vae.encoder, vae.quant_conv
    decode = WanVideoDecoder(vae).decode_chunks
    # From the third latent frame on all that is remembered of earlier ones is there: a fourth stands for all others.
    peak = _decoding_peak_bytes(vae, decode, clip, min(clip.latent_frames, 4), dtype)
    return NetworkMemory(held_bytes(vae), peak)


def image_encoder_memory(config: WanVaeConfig, size: tuple[int, int], precision: Precision) -> NetworkMemory:
    """The Wan 2.2 autoencoder's encoder at work on a picture of (width, height) pixels."""
    from model.wan_vae import WanImageEncoder, empty_wan_vae

    vae = nn.Module.to(empty_wan_vae(config), DTYPES[precision])
    del vae.decoder, vae.post_quant_conv
    width, height = size

    def run() -> None:
        WanImageEncoder(vae).encode_pixels(torch.empty(1, 3, 1, height, width))

    return NetworkMemory(held_bytes(vae), peak_bytes(vae, run))


def audio_decoder_memory(config: OobleckConfig, num_latents: int) -> NetworkMemory:
    """The audio autoencoder's decoder at work on a clip of so many audio latents, in float32."""
    from model.audio_vae import AudioDecoder, fold_weight_norm

    decoder = fold_weight_norm(empty_oobleck(config)).decoder

    def run() -> None:
        AudioDecoder(decoder).decode(torch.empty(1, num_latents, config.decoder.latent_channels))

    return NetworkMemory(held_bytes(decoder), peak_bytes(decoder, run))


def audio_encoder_memory(config: OobleckConfig, num_latents: int) -> NetworkMemory:
    """The audio autoencoder's encoder at work on a recording of so many audio latents, in float32."""
    from model.audio_vae import ENCODE_WINDOW_LATENTS, AudioEncoder, fold_weight_norm

    encoder = fold_weight_norm(empty_oobleck(config)).encoder
    num_samples = min(num_latents, ENCODE_WINDOW_LATENTS) * config.encoder.samples_per_latent

    def run() -> None:
        AudioEncoder(encoder).encode_mean_and_scale(torch.empty(config.encoder.audio_channels, num_samples))

    return NetworkMemory(held_bytes(encoder), peak_bytes(encoder, run))


def chunk_bytes(clip: SequenceLayout, num_frames: int, precision: Precision) -> int:
    """A decoder's pixels of so many frames of a clip."""
    pixels = clip.latent_height * clip.latent_width * LATENT_STRIDE_SPACE**2
    return 3 * num_frames * pixels * DTYPES[precision].itemsize


def _decoding_peak_bytes(
    network: nn.Module,
    decode: Callable[[Tensor], Iterator[Tensor]],
    clip: SequenceLayout,
    num_latent_frames: int,
    dtype: torch.dtype,
) -> int:
    size = (num_latent_frames, clip.latent_height, clip.latent_width)

    def run() -> None:
        chunk = None
        for chunk in decode(torch.empty(1, VIDEO_LATENT_CHANNELS, *size, dtype=dtype)):  # noqa: B007 it is held
            pass

    return peak_bytes(network, run)
