"""Writes components of a checkpoint in the release's folder layout, under the names and in the formats it has there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from model.capabilities import Capabilities
from model.components import EMA_WEIGHTS
from model.layout import CONFIG_NAME
from model.oobleck import CHECKPOINT_PREFIX, OobleckConfig, OobleckHalf

_TRANSFORMER_FOLDERS = {"base": "base", "distill": "distill", "sr_540p": "540p_sr", "sr_1080p": "1080p_sr"}
TEXT_ENCODER_FOLDER = "t5gemma-9b-9b-ul2"


def write_capabilities(checkpoint: Path, capabilities: Capabilities) -> None:
    """Write the root `config.json`, which says what the checkpoint can be asked for."""
    write_json(_made(checkpoint) / CONFIG_NAME, capabilities.to_json())


def write_transformer(
    checkpoint: Path,
    variant: str,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any] | None = None,
    num_shards: int = 1,
) -> None:
    """Write one of the four Transformers.

    Args:
        checkpoint: its folder.
        variant: of `model.variants.VARIANTS`.
        tensors: under the Transformer's own names.
        config: `config.json` of this Transformer, for what its tensors do not tell.
        num_shards: files to spread the weights over; with more than one an index says what is where.
    """
    folder = _made(checkpoint / _TRANSFORMER_FOLDERS[variant])
    if config:
        write_json(folder / "config.json", config)
    if num_shards == 1:
        save_file(dict(tensors), folder / "model.safetensors")
        return
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for shard in range(num_shards):
        file_name = f"model-{shard + 1:05d}-of-{num_shards:05d}.safetensors"
        chosen = names[shard::num_shards]
        save_file({name: tensors[name] for name in chosen}, folder / file_name)
        weight_map |= dict.fromkeys(chosen, file_name)
    metadata = {"total_size": sum(tensor.nbytes for tensor in tensors.values())}
    write_json(folder / "model.safetensors.index.json", {"metadata": metadata, "weight_map": weight_map})


def write_turbo_vae(checkpoint: Path, config: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Write the Turbo VAE.

    Args:
        checkpoint: its folder.
        config: as in the release's JSON file.
        state: tensors under `TurboVAEDecoder`'s names.
    """
    folder = _made(checkpoint / "turbo_vae")
    write_json(folder / "TurboV3-Wan22-TinyShallow_7_7.json", config)
    torch.save({EMA_WEIGHTS: dict(state)}, folder / "checkpoint-340000.ckpt")


def write_wan_vae(checkpoint: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write the Wan 2.2 autoencoder, or its encoder alone; tensors have the names of `Wan2.2_VAE.pth`."""
    torch.save(dict(tensors), _made(checkpoint / "Wan2.2-TI2V-5B") / "Wan2.2_VAE.pth")


def write_audio_vae(checkpoint: Path, config: OobleckConfig, tensors: Mapping[str, Tensor]) -> None:
    """Write the audio autoencoder; tensors have Stable Audio's names without the prefix of its file."""
    folder = _made(checkpoint / "stable-audio-open-1.0")
    write_json(folder / "model_config.json", stable_audio_json(config))
    save_file({CHECKPOINT_PREFIX + name: tensor for name, tensor in tensors.items()}, folder / "model.safetensors")


def stable_audio_json(config: OobleckConfig) -> dict[str, Any]:
    """Content of Stable Audio's `model_config.json`, as far as it is about the autoencoder."""

    def half(part: OobleckHalf) -> dict[str, Any]:
        return {
            "channels": part.channels,
            "c_mults": list(part.multiples),
            "strides": list(part.strides),
            "latent_dim": part.latent_channels,
            "use_snake": True,
        }

    encoder, decoder = config.encoder, config.decoder
    autoencoder = {
        "encoder": {"type": "oobleck", "config": {"in_channels": encoder.audio_channels, **half(encoder)}},
        "decoder": {
            "type": "oobleck",
            "config": {"out_channels": decoder.audio_channels, "final_tanh": False, **half(decoder)},
        },
        "bottleneck": {"type": "vae"},
        "latent_dim": decoder.latent_channels,
        "downsampling_ratio": decoder.samples_per_latent,
        "io_channels": decoder.audio_channels,
    }
    return {
        "model_type": "diffusion_cond",
        "sample_rate": 44100,
        "audio_channels": decoder.audio_channels,
        "model": {"pretransform": {"type": "autoencoder", "iterate_batch": True, "config": autoencoder}},
    }


def write_json(path: Path, values: object) -> None:
    """Write readable JSON."""
    path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
