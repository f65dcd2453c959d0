"""The recorded small Transformer: same structure as the release, random weights."""

import torch

from model.transformer import Transformer, TransformerConfig


def recorded_transformer(golden, style: str, dtype: torch.dtype) -> Transformer:
    recorded = golden("dit_config.json")
    config = TransformerConfig(
        num_layers=recorded["num_layers"],
        hidden_size=recorded["hidden_size"],
        head_dim=recorded["head_dim"],
        num_kv_heads=recorded["num_query_groups"],
        video_channels=recorded["video_in_channels"],
        audio_channels=recorded["audio_in_channels"],
        text_channels=recorded["text_in_channels"],
        expert_layers=tuple(recorded["mm_layers"]),
        gelu_layers=tuple(recorded["gelu7_layers"]),
        local_attention_layers=tuple(recorded["local_attn_layers_sr" if style == "sr" else "local_attn_layers"]),
        local_attention_radius=recorded["frame_receptive_field_sr"],
        position_style=style,
    )
    model = Transformer(config, compute_dtype=dtype)
    model.load_state_dict(golden("dit_weights.safetensors"), strict=True)
    return model.eval()
