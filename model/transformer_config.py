"""What a Transformer is: its sizes and which of its parts it has.

Source of the defaults: the public release (`tests/golden/release_shapes.json`).
"""

from __future__ import annotations

from dataclasses import dataclass

from model.packing import PositionStyle

NUM_MODALITIES = 3
"""Video, audio and text, in the order of the sequence and of the experts."""


@dataclass(frozen=True)
class TransformerConfig:
    """What the Transformer is; the defaults are the release's.

    Attributes:
        num_layers: depth.
        hidden_size: D, a multiple of `head_dim`.
        head_dim: K, even and at least 8; 6 of every whole 8 dims are rotated.
        num_kv_heads: G.
        video_channels: numbers per video token (48 latent channels x 2 x 2 patch).
        audio_channels: numbers per audio token.
        text_channels: width of the text encoder.
        expert_layers: layers that hold one expert per modality.
        gelu_layers: layers whose MLP is an ungated GELU7; the others use SwiGLU7.
        local_attention_layers: layers in which video tokens see only nearby latent frames.
        local_attention_radius: how many latent frames to each side they see there.
        position_style: coordinate convention, see `model.packing.token_coordinates`.
        attention_gates: whether each head's output is multiplied by a gate; off in comparisons only.
        timestep_embedding: whether the noise level is told to the network; on in comparisons only.
    """

    num_layers: int = 40
    hidden_size: int = 5120
    head_dim: int = 128
    num_kv_heads: int = 8
    video_channels: int = 192
    audio_channels: int = 64
    text_channels: int = 3584
    expert_layers: tuple[int, ...] = (0, 1, 2, 3, 36, 37, 38, 39)
    gelu_layers: tuple[int, ...] = (0, 1, 2, 3)
    local_attention_layers: tuple[int, ...] = ()
    local_attention_radius: int = 11
    position_style: PositionStyle = "base"
    attention_gates: bool = True
    timestep_embedding: bool = False

    def __post_init__(self) -> None:
        if self.hidden_size % self.head_dim:
            raise ValueError(f"hidden_size must be a multiple of head_dim {self.head_dim}, got {self.hidden_size}")
        if self.head_dim < 8 or self.head_dim % 2:
            raise ValueError(f"head_dim must be even and at least 8, got {self.head_dim}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_kv_heads must divide the {self.num_heads} query heads, got {self.num_kv_heads}")
        if not isinstance(self.local_attention_radius, int) or self.local_attention_radius < 0:
            raise ValueError(f"local_attention_radius must be a whole number >= 0, got {self.local_attention_radius!r}")
        for name in ("expert_layers", "gelu_layers", "local_attention_layers"):
            outside = [layer for layer in getattr(self, name) if not 0 <= layer < self.num_layers]
            if outside:
                raise ValueError(f"{name} must lie between 0 and {self.num_layers - 1}, got {outside}")

    @property
    def num_heads(self) -> int:
        """H."""
        return self.hidden_size // self.head_dim

    def num_experts(self, layer: int) -> int:
        """E of one layer."""
        return NUM_MODALITIES if layer in self.expert_layers else 1
