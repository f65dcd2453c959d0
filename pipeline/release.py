"""The release's components as far as a plan needs them, for planning without a checkpoint at hand."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from model.components import Contents
from model.layout import ComponentFiles
from model.text_encoder import expected_encoder_tensors
from model.transformer import Transformer
from model.variants import VARIANTS, release_config
from model.wan_config import WanVaeConfig
from model.wan_vae import wan_tensor_shapes

_TEXT_ENCODER: dict[str, Any] = {
    "model_type": "t5_gemma_module",
    "vocab_size": 256_000,
    "hidden_size": 3584,
    "intermediate_size": 14_336,
    "num_hidden_layers": 42,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}
"""Encoder of t5gemma-9b-9b-ul2."""

_TURBO_VAE: dict[str, Any] = {
    "latent_channels": 48,
    "out_channels": 3,
    "patch_size": 2,
    "decoder_block_out_channels": [64, 128, 256, 512],
    "decoder_layers_per_block": [2, 2, 2, 3, 3],
    "decoder_spatio_temporal_scaling": [False, True, True, True],
    "decoder_spatio_only": [False, True, False, False],
    "resnet_norm_eps": 1e-6,
    "first_chunk_size": 7,
    "step_size": 7,
    "temporal_compression_ratio": 4,
    "spatial_compression_ratio": 16,
}
"""TurboV3-Wan22-TinyShallow_7_7.json."""

_AUDIO_HALF = {"channels": 128, "c_mults": [1, 2, 4, 8, 16], "strides": [2, 4, 4, 8, 8], "use_snake": True}
_AUDIO_VAE: dict[str, Any] = {
    "model": {
        "encoder": {"type": "oobleck", "config": {"in_channels": 2, "latent_dim": 128, **_AUDIO_HALF}},
        "decoder": {
            "type": "oobleck",
            "config": {"out_channels": 2, "latent_dim": 64, "final_tanh": False, **_AUDIO_HALF},
        },
        "bottleneck": {"type": "vae"},
    }
}
"""The autoencoder of stable-audio-open-1.0."""


def release_components(mode: str, resolution: str, reads_images: bool) -> tuple[str, ...]:
    """Components that clips of the release are made with, as `model.layout.Layout.components_for` names them."""
    refining = () if resolution == "256p" else (f"sr_{resolution}",)
    return (mode, *refining, "text_encoder", "turbo_vae", "audio_vae", *(["wan_vae"] if reads_images else []))


@cache
def release_contents() -> dict[str, Contents]:
    """Shapes and configurations of the release's components; nothing is read, and no file is named."""
    transformers = {name: _contents({}, _transformer_shapes(name)) for name in VARIANTS}
    decoder = {**_TEXT_ENCODER, "cross_attention_hidden_size": _TEXT_ENCODER["hidden_size"]}
    text = {"model_type": "t5gemma", "encoder": _TEXT_ENCODER, "decoder": decoder}
    return {
        **transformers,
        "text_encoder": _contents(text, expected_encoder_tensors(text)),
        "turbo_vae": _contents(_TURBO_VAE, {}),
        "audio_vae": _contents(_AUDIO_VAE, {}),
        "wan_vae": _contents({}, wan_tensor_shapes(WanVaeConfig())),
    }


def _transformer_shapes(variant: str) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        state = Transformer(release_config(variant)).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _contents(config: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> Contents:
    return Contents(ComponentFiles("", ()), config, headers={}, names={}, shapes=dict(shapes))
