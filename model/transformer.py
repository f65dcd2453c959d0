"""The single-stream Transformer of daVinci-MagiHuman.

Legend: N tokens = V video + A audio + L text, in this order, each of all clips; D hidden size; H query heads, G
key/value heads, K head dim; C input channels of a modality; R = 6 B rotary numbers per token from B frequency bands;
E experts (3 or 1).
Parameter names, shapes and arithmetic follow the public release (`tests/golden`); linear layers compute in
`compute_dtype`, everything else (norms, rotary, gates, activations, residual stream) in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.attention import AttentionBackend, SdpaAttention
from model.packing import LocalWindow, PackedLayout, PositionStyle, SequenceLayout, token_coordinates

NUM_MODALITIES = 3
NORM_EPS = 1e-6
ROTARY_BASE = 10_000.0

TokenCounts = tuple[int, int, int]


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


@dataclass(frozen=True)
class Positions:
    """What the Transformer needs to know about where tokens are; the same for every denoising step of the clips.

    Attributes:
        rope_NR: rotary numbers (N, R) float32.
        pack: how the clips share the sequence.
        counts: (V, A, L), the pack's.
        windows: what local-attention layers see, one per clip.
    """

    rope_NR: Tensor
    pack: PackedLayout
    counts: TokenCounts
    windows: tuple[LocalWindow, ...]


class ExpertLinear(nn.Module):
    """Linear layer without bias whose weight stacks E experts along dim 0; a token uses its modality's."""

    def __init__(self, in_features: int, out_features: int, num_experts: int, dtype: torch.dtype):
        super().__init__()
        self.num_experts = num_experts
        self.weight = nn.Parameter(torch.empty(num_experts * out_features, in_features, dtype=dtype))

    def forward(self, x_NC: Tensor, counts: TokenCounts) -> Tensor:
        """Map (N, in) to (N, out), both in the weight's dtype."""
        x_NC = x_NC.to(self.weight.dtype)
        if self.num_experts == 1:
            return F.linear(x_NC, self.weight)
        parts = zip(x_NC.split(counts), self.weight.chunk(self.num_experts), strict=True)
        return torch.cat([F.linear(x, weight) for x, weight in parts])


class ExpertRMSNorm(nn.Module):
    """RMSNorm in float32 over the last dim; the weight is an offset from one and stacks E experts."""

    def __init__(self, dim: int, num_experts: int = 1):
        super().__init__()
        self.num_experts = num_experts
        self.weight = nn.Parameter(torch.zeros(num_experts * dim, dtype=torch.float32))

    def forward(self, x_NxD: Tensor, counts: TokenCounts | None = None) -> Tensor:
        """Normalise (N, ..., dim) float32; `counts` is needed where there are several experts."""
        x_NxD = x_NxD * torch.rsqrt(x_NxD.square().mean(dim=-1, keepdim=True) + NORM_EPS)
        if self.num_experts == 1 or counts is None:
            return x_NxD * (self.weight + 1)
        parts = zip(x_NxD.split(counts), self.weight.chunk(self.num_experts), strict=True)
        return torch.cat([x * (weight + 1) for x, weight in parts])


class RotaryEmbedding(nn.Module):
    """Angles from (t, h, w) coordinates; holds the B = head_dim / 8 inverse-frequency bands."""

    bands: Tensor

    def __init__(self, head_dim: int):
        super().__init__()
        num_bands = head_dim // 8
        # From plain numbers: arithmetic on the meta device imports PyTorch's compiler, a second of every actor's start.
        self.register_buffer("bands", torch.tensor([ROTARY_BASE ** (-band / num_bands) for band in range(num_bands)]))

    def forward(self, coordinates_N9: Tensor) -> Tensor:
        """Return (N, 6 B) float32: 3 B sines, then 3 B cosines."""
        positions, sizes, references = coordinates_N9.split(3, dim=1)
        scales = torch.where((references == 1) & (sizes == 1), 1.0, (references - 1) / (sizes - 1))
        centres = (sizes - 1) / 2
        centres[:, 0] = 0  # time is not centred
        angles_N3B = (positions - centres).unsqueeze(-1) * scales.unsqueeze(-1) * self.bands
        return torch.cat([angles_N3B.sin(), angles_N3B.cos()], dim=1).flatten(1)


def rotate(x_NHK: Tensor, rope_NR: Tensor) -> Tensor:
    """Rotate the first R dims of each head, pairing dim i with dim i + R/2; the rest passes through."""
    sin_N1B, cos_N1B = rope_NR.unsqueeze(1).chunk(2, dim=-1)
    half = sin_N1B.shape[-1]
    first, second, rest = x_NHK.split([half, half, x_NHK.shape[-1] - 2 * half], dim=-1)
    return torch.cat([first * cos_N1B - second * sin_N1B, second * cos_N1B + first * sin_N1B, rest], dim=-1)


class Attention(nn.Module):
    """Norm, q k v and gate projection, per-head norm, rotary embedding, attention, sigmoid gate, output projection.

    Each clip attends by itself; everything else runs on the tokens of all clips at once.
    """

    def __init__(self, config: TransformerConfig, layer: int, dtype: torch.dtype, backend: AttentionBackend):
        super().__init__()
        experts, heads, kv_heads = config.num_experts(layer), config.num_heads, config.num_kv_heads
        self.head_dim, self.backend = config.head_dim, backend
        self.is_local = layer in config.local_attention_layers
        self.split_sizes = [heads * self.head_dim, kv_heads * self.head_dim, kv_heads * self.head_dim, heads]
        self.pre_norm = ExpertRMSNorm(config.hidden_size, experts)
        self.linear_qkv = ExpertLinear(config.hidden_size, sum(self.split_sizes), experts, dtype)
        self.linear_proj = ExpertLinear(heads * self.head_dim, config.hidden_size, experts, dtype)
        self.q_norm = ExpertRMSNorm(self.head_dim, experts)
        self.k_norm = ExpertRMSNorm(self.head_dim, experts)

    def forward(self, x_ND: Tensor, positions: Positions) -> Tensor:
        """Return the update (N, D) of the residual stream, in the compute dtype."""
        counts, pack = positions.counts, positions.pack
        qkvg = self.linear_qkv(self.pre_norm(x_ND, counts), counts).float()
        q, k, v, gate_NH = qkvg.split(self.split_sizes, dim=1)
        q_NHK, k_NGK, v_NGK = (x.unflatten(1, (-1, self.head_dim)) for x in (q, k, v))
        q_NHK = rotate(self.q_norm(q_NHK, counts), positions.rope_NR)
        k_NGK = rotate(self.k_norm(k_NGK, counts), positions.rope_NR)
        dtype = self.linear_proj.weight.dtype
        clips = zip(*(pack.split(x.to(dtype)) for x in (q_NHK, k_NGK, v_NGK)), positions.windows, strict=True)
        out_NHK = pack.join([self.backend(q, k, v, window if self.is_local else None) for q, k, v, window in clips])
        gated_NHK = out_NHK * gate_NH.sigmoid().unsqueeze(-1)
        return self.linear_proj(gated_NHK.flatten(1), counts)


def gelu7(x: Tensor) -> Tensor:
    """Clamped GELU approximation: c * sigmoid(1.702 c) with c = min(x, 7)."""
    clamped = x.clamp(max=7)
    return clamped * torch.sigmoid(1.702 * clamped)


def swiglu7(x_NF: Tensor) -> Tensor:
    """Clamped SwiGLU over interleaved pairs (even: gate, odd: linear): gelu7(gate) * (clamp(linear, -7, 7) + 1)."""
    gate, linear = x_NF[..., ::2], x_NF[..., 1::2]
    return gelu7(gate) * (linear.clamp(-7, 7) + 1)


class MLP(nn.Module):
    """Norm, up projection, GELU7 or SwiGLU7, down projection."""

    def __init__(self, config: TransformerConfig, layer: int, dtype: torch.dtype):
        super().__init__()
        experts, hidden = config.num_experts(layer), config.hidden_size
        self.is_gated = layer not in config.gelu_layers
        intermediate = int(hidden * 4 * 2 / 3) // 4 * 4 if self.is_gated else hidden * 4
        self.pre_norm = ExpertRMSNorm(hidden, experts)
        self.up_gate_proj = ExpertLinear(hidden, intermediate * (2 if self.is_gated else 1), experts, dtype)
        self.down_proj = ExpertLinear(intermediate, hidden, experts, dtype)

    def forward(self, x_ND: Tensor, counts: TokenCounts) -> Tensor:
        """Return the update (N, D) of the residual stream, in the compute dtype."""
        x_NF = self.up_gate_proj(self.pre_norm(x_ND, counts), counts).float()
        return self.down_proj(swiglu7(x_NF) if self.is_gated else gelu7(x_NF), counts)


class Layer(nn.Module):
    """Attention and MLP, each added to the float32 residual stream."""

    def __init__(self, config: TransformerConfig, layer: int, dtype: torch.dtype, backend: AttentionBackend):
        super().__init__()
        self.attention = Attention(config, layer, dtype, backend)
        self.mlp = MLP(config, layer, dtype)

    def forward(self, x_ND: Tensor, positions: Positions) -> Tensor:
        """Return the residual stream (N, D) float32 after this layer."""
        x_ND = x_ND + self.attention(x_ND, positions)
        return x_ND + self.mlp(x_ND, positions.counts)


class Adapter(nn.Module):
    """Embeds each modality's tokens into the hidden size; holds the rotary bands."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.video_embedder = nn.Linear(config.video_channels, config.hidden_size)
        self.text_embedder = nn.Linear(config.text_channels, config.hidden_size)
        self.audio_embedder = nn.Linear(config.audio_channels, config.hidden_size)
        self.rope = RotaryEmbedding(config.head_dim)

    def forward(self, video_VC: Tensor, audio_AC: Tensor, text_LC: Tensor) -> Tensor:
        """Return (N, D) float32."""
        parts = (self.video_embedder(video_VC), self.audio_embedder(audio_AC), self.text_embedder(text_LC))
        return torch.cat(parts)


class Block(nn.Module):
    """The stack of layers: the part that is worth compiling as one graph."""

    def __init__(self, config: TransformerConfig, dtype: torch.dtype, backend: AttentionBackend):
        super().__init__()
        self.layers = nn.ModuleList(Layer(config, layer, dtype, backend) for layer in range(config.num_layers))

    def forward(self, x_ND: Tensor, positions: Positions) -> Tensor:
        """Return the residual stream (N, D) float32 after the last layer."""
        for layer in self.layers:
            x_ND = layer(x_ND, positions)
        return x_ND


class Transformer(nn.Module):
    """Predicts the flow velocity of video and audio tokens from noisy tokens and text features.

    Args:
        config: what to build.
        compute_dtype: dtype of the linear layers inside the block (the release: bfloat16).
        attention: attention implementation; by default torch's, with the kernel torch chooses.
    """

    def __init__(
        self,
        config: TransformerConfig,
        compute_dtype: torch.dtype = torch.bfloat16,
        attention: AttentionBackend | None = None,
    ):
        super().__init__()
        self.config = config
        self.adapter = Adapter(config)
        self.block = Block(config, compute_dtype, SdpaAttention() if attention is None else attention)
        self.final_norm_video = ExpertRMSNorm(config.hidden_size)
        self.final_norm_audio = ExpertRMSNorm(config.hidden_size)
        self.final_linear_video = nn.Linear(config.hidden_size, config.video_channels, bias=False)
        self.final_linear_audio = nn.Linear(config.hidden_size, config.audio_channels, bias=False)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.adapter.rope.bands.device

    def positions(self, layouts: Sequence[SequenceLayout]) -> Positions:
        """Prepare rotary numbers and windows of the clips of one sequence, once for all their steps.

        Raises:
            ValueError: if there is no clip, or one has too few tokens for the position style.
        """
        pack, style = PackedLayout(tuple(layouts)), self.config.position_style
        coordinates_N9 = pack.join([token_coordinates(clip, style) for clip in pack.clips]).to(self.device)
        windows = tuple(LocalWindow(clip, self.config.local_attention_radius) for clip in pack.clips)
        return Positions(self.adapter.rope(coordinates_N9), pack, pack.token_counts, windows)

    def forward(
        self, video_VC: Tensor, audio_AC: Tensor, text_LC: Tensor, positions: Positions
    ) -> tuple[Tensor, Tensor]:
        """Predict velocities of one or several clips, which do not influence each other.

        Args:
            video_VC: (V, 192) float32, clip after clip, each token laid out (channel, patch row, patch column).
            audio_AC: (A, 64) float32, clip after clip.
            text_LC: (L, text channels) float32, clip after clip.
            positions: from `positions`, for the same clips in the same order.

        Returns:
            Video velocity (V, 192), each token laid out (patch row, patch column, channel), and audio velocity (A, 64),
            both float32 and clip after clip.
        """
        x_ND = self.block(self.adapter(video_VC, audio_AC, text_LC), positions)
        x_VD, x_AD, _ = x_ND.split(positions.counts)
        video_VC = self.final_linear_video(self.final_norm_video(x_VD))
        audio_AC = self.final_linear_audio(self.final_norm_audio(x_AD))
        return video_VC, audio_AC
