"""Operations that a Transformer takes for a clip, counted from its geometry."""

from __future__ import annotations

from functools import lru_cache

import torch

from model.experts import ExpertLinear
from model.packing import LocalWindow, SequenceLayout
from model.transformer import Transformer
from model.transformer_config import TransformerConfig


def transformer_flops(config: TransformerConfig, layout: SequenceLayout) -> tuple[float, float]:
    """Operations of one forward pass of one clip: those of the layers' linear layers, and those of attention."""
    window = LocalWindow(layout, config.local_attention_radius)
    num_local = len(set(config.local_attention_layers))
    num_pairs = num_local * _local_pairs(window) + (config.num_layers - num_local) * layout.num_tokens**2
    return 2 * layout.num_tokens * _weights_per_token(config), 4 * num_pairs * config.hidden_size


@lru_cache(maxsize=16)
def _weights_per_token(config: TransformerConfig) -> int:
    """Weights of the layers' linear layers that a token is multiplied with: of experts, its own."""
    with torch.device("meta"):
        model = Transformer(config)
    linears = [module for module in model.modules() if isinstance(module, ExpertLinear)]
    return sum(linear.weight.numel() // linear.num_experts for linear in linears)


def _local_pairs(window: LocalWindow) -> int:
    layout = window.layout
    num_others = layout.num_tokens - layout.num_video
    ranges = [window.frame_key_range(frame) for frame in range(layout.latent_frames)]
    of_video = sum(layout.tokens_per_frame * (stop - start + num_others) for start, stop in ranges)
    return of_video + num_others * layout.num_tokens
