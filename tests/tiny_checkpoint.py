"""A complete tiny checkpoint in the release's folder layout: the true structures with seeded random weights.

It makes noise, not people; it is there so that everything around the networks is tested in little time.
`python -m tests.tiny_checkpoint FOLDER` writes one.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

from model.checkpoint_writer import (
    TEXT_ENCODER_FOLDER,
    write_audio_vae,
    write_transformer,
    write_turbo_vae,
    write_wan_vae,
)
from model.small_text_encoder import phrase_tokenizer, write_text_encoder
from model.transformer import Transformer
from model.transformer_config import TransformerConfig
from model.variants import VARIANTS, as_variant
from tests.tiny_autoencoders import tiny_oobleck, tiny_turbo_vae, tiny_wan_vae_state_dict

NUM_TOKENS = 260
"""Bytes and special tokens."""

_TINY = TransformerConfig(
    num_layers=6,
    hidden_size=64,
    head_dim=16,
    num_kv_heads=2,
    text_channels=48,
    expert_layers=(0, 1, 4, 5),
    gelu_layers=(0, 1),
)

_LOCAL_ATTENTION_RADIUS = 2
"""Small, so that local windows matter in clips of a second."""


def tiny_config(variant: str) -> TransformerConfig:
    """The release's structure with about 0.7 M parameters."""
    return as_variant(_TINY, variant)


def write_tiny_checkpoint(folder: str | Path, seed: int = 0) -> None:
    """Write every component; the same seed gives the same tensors.

    Args:
        folder: made if absent; files of an earlier tiny checkpoint are replaced.
        seed: of the random weights.
    """
    root = Path(folder)
    for number, variant in enumerate(VARIANTS):
        generator = torch.Generator().manual_seed(seed * 1000 + number)
        model = Transformer(tiny_config(variant))
        tensors = {name: _random_like(name, tensor, generator) for name, tensor in model.state_dict().items()}
        config = {"local_attention_radius": _LOCAL_ATTENTION_RADIUS} if variant == "sr_1080p" else None
        write_transformer(root, variant, tensors, config, num_shards=2 if variant == "base" else 1)
    width = tiny_config("base").text_channels
    write_text_encoder(root / TEXT_ENCODER_FOLDER, phrase_tokenizer([], NUM_TOKENS), width, seed)
    generator = torch.Generator().manual_seed(seed)
    write_turbo_vae(root, *tiny_turbo_vae(generator))
    write_wan_vae(root, tiny_wan_vae_state_dict(generator))
    write_audio_vae(root, *tiny_oobleck(generator))


def _random_like(name: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    if name.endswith("bands"):
        return tensor
    if "norm" in name:
        return 0.1 * torch.randn(tensor.shape, generator=generator)
    scale = 0.02 if name.endswith("bias") else tensor.shape[-1] ** -0.5
    return (scale * torch.randn(tensor.shape, generator=generator)).to(tensor.dtype)


if __name__ == "__main__":
    write_tiny_checkpoint(sys.argv[1])
    print(f"tiny checkpoint in {sys.argv[1]}")
