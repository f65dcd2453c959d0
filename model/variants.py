"""The four Transformers of the release, at full size and tiny, and how a checkpoint's tensors tell its size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from model.packing import PositionStyle
from model.transformer import NUM_MODALITIES, TransformerConfig

VARIANTS = ("base", "distill", "sr_540p", "sr_1080p")

_FULL_ATTENTION_LAYERS_1080P = frozenset(range(3, 32, 4))
"""Layers of the 1080p model that keep full attention: 3, 7, ... 31 (source: the release)."""

_TINY = TransformerConfig(
    num_layers=6,
    hidden_size=64,
    head_dim=16,
    num_kv_heads=2,
    text_channels=48,
    expert_layers=(0, 1, 4, 5),
    gelu_layers=(0, 1),
)

_OVERRIDABLE = ("local_attention_layers", "local_attention_radius")


def _as_variant(config: TransformerConfig, variant: str) -> TransformerConfig:
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {variant!r}")
    local: tuple[int, ...] = ()
    if variant == "sr_1080p":
        local = tuple(layer for layer in range(config.num_layers) if layer not in _FULL_ATTENTION_LAYERS_1080P)
    style: PositionStyle = "sr" if variant.startswith("sr_") else "base"
    return replace(config, local_attention_layers=local, position_style=style)


def release_config(variant: str) -> TransformerConfig:
    """The release's 15.3 B-parameter Transformer in one of its four roles.

    Raises:
        ValueError: if `variant` is not one of `VARIANTS`.
    """
    return _as_variant(TransformerConfig(), variant)


def tiny_config(variant: str) -> TransformerConfig:
    """The same structure with about 0.7 M parameters, for laptops and tests."""
    return _as_variant(_TINY, variant)


def config_from_shapes(
    shapes: Mapping[str, Sequence[int]], variant: str, overrides: Mapping[str, Any] | None = None
) -> TransformerConfig:
    """Derive what a checkpoint is from its tensors' shapes.

    Args:
        shapes: tensor name to shape.
        variant: the role it is loaded for, which decides positions and windows.
        overrides: the checkpoint's own `config.json`; `local_attention_layers` (a list) and `local_attention_radius`
            are taken from it, whatever else it says is told by the tensors.

    Raises:
        ValueError: if a tensor that tells a size is missing, or an override has a value that is not allowed.
    """

    def shape(name: str) -> Sequence[int]:
        if name not in shapes:
            raise ValueError(f"tensor {name} is missing: this is no daVinci-MagiHuman Transformer")
        return shapes[name]

    num_layers = 0
    while f"block.layers.{num_layers}.attention.pre_norm.weight" in shapes:
        num_layers += 1
    if num_layers == 0:
        shape("block.layers.0.attention.pre_norm.weight")
    hidden, video = shape("adapter.video_embedder.weight")
    head_dim = shape("adapter.rope.bands")[0] * 8
    layers = range(num_layers)

    def num_experts(layer: int) -> int:
        return shape(f"block.layers.{layer}.attention.pre_norm.weight")[0] // hidden

    def is_gelu(layer: int) -> bool:
        up = shape(f"block.layers.{layer}.mlp.up_gate_proj.weight")[0] // num_experts(layer)
        return up == shape(f"block.layers.{layer}.mlp.down_proj.weight")[1]

    num_heads = shape("block.layers.0.attention.linear_proj.weight")[1] // head_dim
    projected = shape("block.layers.0.attention.linear_qkv.weight")[0] // num_experts(0)
    config = TransformerConfig(
        num_layers=num_layers,
        hidden_size=hidden,
        head_dim=head_dim,
        num_kv_heads=(projected - num_heads * (head_dim + 1)) // (2 * head_dim),
        video_channels=video,
        audio_channels=shape("adapter.audio_embedder.weight")[1],
        text_channels=shape("adapter.text_embedder.weight")[1],
        expert_layers=tuple(layer for layer in layers if num_experts(layer) == NUM_MODALITIES),
        gelu_layers=tuple(layer for layer in layers if is_gelu(layer)),
    )
    config = _as_variant(config, variant)
    known = {name: value for name, value in (overrides or {}).items() if name in _OVERRIDABLE}
    if "local_attention_layers" in known:
        if not isinstance(known["local_attention_layers"], list | tuple):
            raise ValueError(f"local_attention_layers must be a list, got {known['local_attention_layers']!r}")
        known["local_attention_layers"] = tuple(known["local_attention_layers"])
    return replace(config, **known)
