"""The autoencoders against `turbo_vae_*`, `wan22_vae_*` and `oobleck_*`.

The recordings are float32 throughout, and so is what is judged. How far a bfloat16 run strays depends on the network
(a level of four random channels can put the original itself at 0.2), so that without the original's own run there is
nothing to hold ours to: its error is computed and told beside the verdict, and only NaN in it fails.

Legend: 1 one clip; C channels; T H W latent frames, height, width; F pixel frames; A audio latents; S samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial

import torch
from torch import Tensor

from model.audio_vae import AudioDecoder, AudioEncoder, load_audio_vae
from model.latent_statistics import WAN22_LATENT_MEAN, WAN22_LATENT_STD
from model.parity.report import GoldenSet, Group, Pair, prefixes
from model.turbo_vae import TurboVAEConfig, TurboVAEDecoder
from model.wan_config import WanVaeConfig
from model.wan_decoder import WanVideoDecoder, load_video_decoder
from model.wan_vae import WanImageEncoder, load_image_encoder

TURBO_FILES = ("turbo_vae_config.json", "turbo_vae_weights.safetensors", "turbo_vae_io.safetensors")
WAN_FILES = ("wan22_vae_config.json", "wan22_vae_weights.safetensors", "wan22_vae_io.safetensors")
OOBLECK_FILES = ("oobleck_config.json", "oobleck_weights.safetensors", "oobleck_io.safetensors")


def turbo_vae_groups(golden: GoldenSet) -> Iterator[Group]:
    """One group per recorded length."""
    config_name, weights_name, io_name = TURBO_FILES
    recorded = golden.tensors(io_name)

    @cache
    def decoder(dtype: torch.dtype) -> TurboVAEDecoder:
        raw = golden.config(config_name)
        # The original never reads it; ours refuses one that the blocks do not multiply to, a recording need not.
        ratio = raw["patch_size"] * 2 ** sum(raw["decoder_spatio_temporal_scaling"])
        model = TurboVAEDecoder(TurboVAEConfig.from_dict(raw | {"spatial_compression_ratio": ratio}))
        model.load_state_dict(golden.tensors(weights_name), strict=True)
        return model.to(golden.device, dtype).eval().requires_grad_(False)

    def frames(length: str, dtype: torch.dtype) -> Tensor:
        return _join(decoder(dtype).decode_chunks(recorded[f"{length}.latent"].to(dtype)))

    def pairs(length: str) -> Iterable[Pair]:
        yield golden.pair(partial(frames, length), recorded[f"{length}.frames"], None)

    for length in prefixes(recorded, "latent"):
        yield Group(f"turbo_vae.{length}", partial(pairs, length))


def wan_vae_groups(golden: GoldenSet) -> Iterator[Group]:
    """The channels' statistics, then encoding and decoding of every recorded length."""
    config_name, weights_name, io_name = WAN_FILES
    recorded = golden.tensors(io_name)

    @cache
    def config() -> WanVaeConfig:
        raw = golden.config(config_name)
        if raw["z_dim"] == len(WAN22_LATENT_MEAN):
            return WanVaeConfig.from_original(raw)
        return WanVaeConfig.from_original(raw, recorded["mean"].tolist(), recorded["std"].tolist())

    @cache
    def encoder(dtype: torch.dtype) -> WanImageEncoder:
        return load_image_encoder(golden.tensors(weights_name), dtype, golden.device, config())

    @cache
    def decoder(dtype: torch.dtype) -> WanVideoDecoder:
        return load_video_decoder(golden.tensors(weights_name), dtype, golden.device, config())

    def encode(length: str, dtype: torch.dtype) -> Tensor:
        return encoder(dtype).encode_pixels(recorded[f"{length}.pixels"])

    def decode(length: str, dtype: torch.dtype) -> Tensor:
        return _join(decoder(dtype).decode_chunks(recorded[f"{length}.latent"].to(dtype)))

    def statistics() -> Iterable[Pair]:
        yield Pair(torch.tensor(WAN22_LATENT_MEAN), recorded["mean"])
        yield Pair(torch.tensor(WAN22_LATENT_STD), recorded["std"])

    def pairs(key: str, compute: Callable[[torch.dtype], Tensor]) -> Iterable[Pair]:
        yield golden.pair(compute, recorded[key], None)

    if len(recorded["mean"]) == len(WAN22_LATENT_MEAN):
        yield Group("wan_vae.statistics", statistics)
    for name, key, given, compute in (("encode", "latent", "pixels", encode), ("decode", "decoded", "decoded", decode)):
        for length in prefixes(recorded, given):
            yield Group(f"wan_vae.{name}.{length}", partial(pairs, f"{length}.{key}", partial(compute, length)))


def audio_vae_groups(golden: GoldenSet) -> Iterator[Group]:
    """Decoding at both rates, and encoding; the original runs all of it in float32, in either precision."""
    config_name, weights_name, io_name = OOBLECK_FILES
    recorded = golden.tensors(io_name)
    vae = cache(lambda: load_audio_vae(golden.config(config_name), golden.tensors(weights_name)).to(golden.device))

    def waveform_at_model_rate() -> Iterable[Pair]:
        waveform_2S = AudioDecoder(vae().decoder).decode_at_model_rate(recorded["latent"].transpose(1, 2))
        yield Pair(waveform_2S.unsqueeze(0), recorded["waveform_51200hz"])

    def waveform() -> Iterable[Pair]:
        waveform_2S = AudioDecoder(vae().decoder).decode(recorded["latent"].transpose(1, 2))
        yield Pair(waveform_2S.T, recorded["waveform_44100hz"])

    def mean_and_scale() -> Iterable[Pair]:
        encoded_1CA = AudioEncoder(vae().encoder).encode_mean_and_scale(recorded["enc_input"][0])
        yield Pair(encoded_1CA, recorded["enc_mean_and_scale"])

    yield Group("audio_vae.decode_51200hz", waveform_at_model_rate)
    yield Group("audio_vae.decode_44100hz", waveform)
    yield Group("audio_vae.encode", mean_and_scale)


def _join(chunks: Iterator[Tensor]) -> Tensor:
    return torch.cat(list(chunks), dim=1).unsqueeze(0)
