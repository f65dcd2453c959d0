"""The four Transformers of the release, at full size, and how a checkpoint's tensors tell its size."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

from model.packing import PositionStyle
from model.transformer_config import NUM_MODALITIES, TransformerConfig

VARIANTS = ("base", "distill", "sr_540p", "sr_1080p")

_FULL_ATTENTION_LAYERS_1080P = frozenset(range(3, 32, 4))
"""Layers of the 1080p model that keep full attention: 3, 7, ... 31 (source: the release)."""

_LAYER_NAME = re.compile(r"block\.layers\.(\d+)\.")
_HIDDEN_VECTORS = (
    "adapter.video_embedder.bias",
    "adapter.audio_embedder.bias",
    "adapter.text_embedder.bias",
    "final_norm_video.weight",
    "final_norm_audio.weight",
)
"""Tensors whose length is the hidden size."""


def as_variant(config: TransformerConfig, variant: str) -> TransformerConfig:
    """A Transformer of some size in one of the four roles, which decides positions and windows.

    Raises:
        ValueError: if `variant` is not one of `VARIANTS`.
    """
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
    return as_variant(TransformerConfig(), variant)


def config_from_shapes(
    shapes: Mapping[str, Sequence[int]], variant: str, overrides: Mapping[str, Any] | None = None
) -> TransformerConfig:
    """Derive what a checkpoint is from its tensors' shapes.

    A single tensor that is missing, transposed or of a wrong length does not change the answer wherever others tell the
    same, so that comparing names and shapes with the answer points at that tensor.

    Args:
        shapes: tensor name to shape.
        variant: the role it is loaded for, which decides positions and windows.
        overrides: the checkpoint's own `config.json`; `local_attention_layers` (a list; `local_attn_layers` where that
            is no empty one) and `local_attention_radius` are taken from it, the tensors tell everything else.

    Raises:
        ValueError: if these are not the tensors of such a Transformer, or an override has a value that is not allowed.
    """
    sizes = _Sizes(shapes)
    layers, release = range(sizes.num_layers), TransformerConfig()
    num_kv_heads, has_gates = sizes.attention()
    config = TransformerConfig(
        num_layers=sizes.num_layers,
        hidden_size=sizes.hidden,
        head_dim=sizes.head_dim,
        num_kv_heads=num_kv_heads,
        video_channels=sizes.channels(release.video_channels, "final_linear_video", "adapter.video_embedder"),
        audio_channels=sizes.channels(release.audio_channels, "final_linear_audio", "adapter.audio_embedder"),
        text_channels=sizes.channels(release.text_channels, "adapter.text_embedder"),
        expert_layers=tuple(layer for layer in layers if sizes.num_experts(layer) == NUM_MODALITIES),
        gelu_layers=tuple(layer for layer in layers if sizes.is_gelu(layer)),
        attention_gates=has_gates,
        timestep_embedding=any(name.startswith("adapter.timestep_embedder.") for name in shapes),
    )
    return replace(as_variant(config, variant), **_windows(overrides or {}))


class _Sizes:
    """What the number of elements of tensors tells; where several tell the same, the majority."""

    def __init__(self, shapes: Mapping[str, Sequence[int]]):
        self.shapes = shapes
        self.counts = {name: prod(shape) for name, shape in shapes.items()}
        layers = [int(match[1]) for name in shapes if (match := _LAYER_NAME.match(name))]
        self.num_layers = max(layers, default=-1) + 1
        if self.num_layers > len(shapes):
            raise ValueError(f"layer {self.num_layers - 1} cannot be, there are {len(shapes)} tensors in all")
        self.hidden = _most_common([self.counts[name] for name in _HIDDEN_VECTORS if name in self.counts])
        head_norms = [(layer, f"attention.{name}_norm") for layer in range(self.num_layers) for name in "qk"]
        self.head_dim = _most_common(
            [self.layer_count(*norm) // (self.num_experts(norm[0]) or 1) for norm in head_norms]
        )
        if not (self.hidden and self.head_dim):
            missing = f"{_HIDDEN_VECTORS[0]} or block.layers.0.attention.q_norm.weight"
            raise ValueError(f"{missing} is missing: this is no daVinci-MagiHuman Transformer")

    def channels(self, usual: int, *modules: str) -> int:
        """The other side of those of these modules' weights that have a side of the hidden size.

        Where they disagree one is spoilt: then `usual`, the release's number, counts if one of them says so.
        """
        found = []
        for module in modules:
            shape = list(self.shapes.get(f"{module}.weight", ()))
            if self.hidden in shape:
                shape.remove(self.hidden)
                found.append(prod(shape))
        return found[0] if found and usual not in found else usual

    def layer_count(self, layer: int, module: str) -> int:
        return self.counts.get(f"block.layers.{layer}.{module}.weight", 0)

    def num_experts(self, layer: int) -> int:
        if not self.hidden:
            return 0
        return (self.layer_count(layer, "attention.pre_norm") or self.layer_count(layer, "mlp.pre_norm")) // self.hidden

    def is_gelu(self, layer: int) -> bool:
        """Whether one of the MLP's two weights has the size that only an ungated MLP's has."""
        plain = self.num_experts(layer) * 4 * self.hidden**2
        return plain in (self.layer_count(layer, "mlp.up_gate_proj"), self.layer_count(layer, "mlp.down_proj"))

    def attention(self) -> tuple[int, bool]:
        """Number of key/value heads and whether there are gates: the reading of qkv's rows that gives whole heads.

        Where both do, as can be with twice as many heads as a head has dims, there are gates; where none does one head.
        """
        layers = [layer for layer in range(self.num_layers) if self.num_experts(layer)]
        counts = [self.layer_count(n, "attention.linear_qkv") // self.num_experts(n) for n in layers]
        num_heads, rows = self.hidden // self.head_dim, _most_common(counts) // self.hidden
        for has_gates in (True, False):
            kv_rows = rows - num_heads * (self.head_dim + has_gates)
            found, rest = divmod(kv_rows, 2 * self.head_dim)
            if found > 0 and rest == 0 and num_heads % found == 0:
                return found, has_gates
        return 1, True


def _most_common(values: Sequence[int]) -> int:
    """The most frequent of these numbers, 0 if there is none."""
    return Counter(values).most_common(1)[0][0] if values else 0


def _windows(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint's own `config.json` says about local windows."""
    known = {}
    # The second name is the original's; converted checkpoints leave its list empty and mean that the role decides.
    for name in ("local_attention_layers", "local_attn_layers"):
        if name in values and (values[name] or name == "local_attention_layers"):
            if not isinstance(values[name], list | tuple) or not all(type(layer) is int for layer in values[name]):
                raise ValueError(f"{name} must be a list of whole numbers, got {values[name]!r}")
            known["local_attention_layers"] = tuple(values[name])
            break
    if "local_attention_radius" in values:
        known["local_attention_radius"] = values["local_attention_radius"]
    return known
