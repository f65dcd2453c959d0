"""The single-stream Transformer of daVinci-MagiHuman.

Legend: N tokens = V video + A audio + L text, in this order, each of all clips; D hidden size; H query heads, G
key/value heads, K head dim; C input channels of a modality; R = 6 B rotary numbers per token from B frequency bands;
S clips in the sequence.
Parameter names, shapes and arithmetic follow the public release (`tests/golden`); linear layers compute in
`compute_dtype`, everything else (norms, rotary, gates, activations, residual stream) in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.attention import AttentionBackend, SdpaAttention
from model.experts import ExpertLinear, ExpertRMSNorm, Precision, TokenCounts
from model.packing import PackedLayout, SequenceLayout, token_coordinates
from model.timestep import TimestepEmbedding
from model.transformer_config import TransformerConfig

ROTARY_BASE = 10_000.0

CompiledVelocities = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Runs `Transformer.velocities`, without noise levels."""


@dataclass(frozen=True)
class Positions:
    """What the Transformer needs to know about where tokens are; the same for every denoising step of the clips.

    Attributes:
        rope_NR: rotary numbers (N, R) float32.
        clips_5S: how the clips share the sequence, see `PackedLayout.table`.
    """

    rope_NR: Tensor
    clips_5S: Tensor


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

    def __init__(self, config: TransformerConfig, layer: int, precision: Precision, backend: AttentionBackend):
        super().__init__()
        experts, heads, kv_heads = config.num_experts(layer), config.num_heads, config.num_kv_heads
        self.head_dim, self.backend, self.compute_dtype = config.head_dim, backend, precision.compute_dtype
        self.radius = config.local_attention_radius if layer in config.local_attention_layers else None
        num_gates = heads if config.attention_gates else 0
        self.split_sizes = [heads * self.head_dim, kv_heads * self.head_dim, kv_heads * self.head_dim, num_gates]
        self.pre_norm = ExpertRMSNorm(config.hidden_size, experts)
        self.linear_qkv = ExpertLinear(config.hidden_size, sum(self.split_sizes), experts, precision)
        self.linear_proj = ExpertLinear(heads * self.head_dim, config.hidden_size, experts, precision)
        self.q_norm = ExpertRMSNorm(self.head_dim, experts)
        self.k_norm = ExpertRMSNorm(self.head_dim, experts)

    def forward(self, x_ND: Tensor, counts: TokenCounts, positions: Positions) -> Tensor:
        """Return the update (N, D) of the residual stream, in the compute dtype."""
        qkvg = self.linear_qkv(self.pre_norm(x_ND, counts), counts).float()
        q, k, v, gate_NH = qkvg.split(self.split_sizes, dim=1)
        q_NHK, k_NGK, v_NGK = (x.unflatten(1, (-1, self.head_dim)) for x in (q, k, v))
        q_NHK = rotate(self.q_norm(q_NHK, counts), positions.rope_NR)
        k_NGK = rotate(self.k_norm(k_NGK, counts), positions.rope_NR)
        q_NHK, k_NGK, v_NGK = (x.to(self.compute_dtype) for x in (q_NHK, k_NGK, v_NGK))
        out_NHK = self.backend.attend_clips(q_NHK, k_NGK, v_NGK, positions.clips_5S, self.radius)
        if gate_NH.shape[1]:
            out_NHK = out_NHK * gate_NH.sigmoid().unsqueeze(-1)
        return self.linear_proj(out_NHK.flatten(1), counts)


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

    def __init__(self, config: TransformerConfig, layer: int, precision: Precision):
        super().__init__()
        experts, hidden = config.num_experts(layer), config.hidden_size
        self.is_gated = layer not in config.gelu_layers
        intermediate = int(hidden * 4 * 2 / 3) // 4 * 4 if self.is_gated else hidden * 4
        self.pre_norm = ExpertRMSNorm(hidden, experts)
        self.up_gate_proj = ExpertLinear(hidden, intermediate * (2 if self.is_gated else 1), experts, precision)
        self.down_proj = ExpertLinear(intermediate, hidden, experts, precision)

    def forward(self, x_ND: Tensor, counts: TokenCounts) -> Tensor:
        """Return the update (N, D) of the residual stream, in the compute dtype."""
        x_NF = self.up_gate_proj(self.pre_norm(x_ND, counts), counts).float()
        return self.down_proj(swiglu7(x_NF) if self.is_gated else gelu7(x_NF), counts)


class Layer(nn.Module):
    """Attention and MLP, each added to the float32 residual stream."""

    def __init__(self, config: TransformerConfig, layer: int, precision: Precision, backend: AttentionBackend):
        super().__init__()
        self.attention = Attention(config, layer, precision, backend)
        self.mlp = MLP(config, layer, precision)

    def forward(self, x_ND: Tensor, counts: TokenCounts, positions: Positions) -> Tensor:
        """Return the residual stream (N, D) float32 after this layer."""
        x_ND = x_ND + self.attention(x_ND, counts, positions)
        return x_ND + self.mlp(x_ND, counts)


class Adapter(nn.Module):
    """Embeds each modality's tokens, and the noise level where that is wanted; holds the rotary bands."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.video_embedder = nn.Linear(config.video_channels, config.hidden_size)
        self.text_embedder = nn.Linear(config.text_channels, config.hidden_size)
        self.audio_embedder = nn.Linear(config.audio_channels, config.hidden_size)
        self.rope = RotaryEmbedding(config.head_dim)
        self.timestep_embedder = TimestepEmbedding(config.hidden_size) if config.timestep_embedding else None

    def forward(
        self, video_VC: Tensor, audio_AC: Tensor, text_LC: Tensor, clips_5S: Tensor, levels_S: Tensor | None
    ) -> Tensor:
        """Return (N, D) float32."""
        parts = (self.video_embedder(video_VC), self.audio_embedder(audio_AC), self.text_embedder(text_LC))
        x_ND = torch.cat(parts)
        if self.timestep_embedder is None:
            return x_ND
        if levels_S is None:
            raise ValueError("levels_S is needed with a timestep embedding, got None")
        pack = PackedLayout.from_table(clips_5S)
        levels = zip(self.timestep_embedder(levels_S), pack.clips, strict=True)
        return x_ND + pack.join([level_D.expand(clip.num_tokens, -1) for level_D, clip in levels])


def call_layer(layer: Layer, x_ND: Tensor, counts: TokenCounts, positions: Positions) -> Tensor:
    """Call a layer."""
    return layer(x_ND, counts, positions)


class Block(nn.Module):
    """The stack of layers.

    Attributes:
        recomputes_layers: keep only what passes from layer to layer for the gradient, and run each layer again for its
            own; off, nothing is run twice.
        run_layer: calls a layer with its inputs; a compiler puts its own in place.
    """

    def __init__(self, config: TransformerConfig, precision: Precision, backend: AttentionBackend):
        super().__init__()
        self.recomputes_layers = False
        self.run_layer: Callable[..., Tensor] = call_layer
        self.layers = nn.ModuleList(Layer(config, layer, precision, backend) for layer in range(config.num_layers))

    def forward(self, x_ND: Tensor, counts: TokenCounts, positions: Positions) -> Tensor:
        """Return the residual stream (N, D) float32 after the last layer."""
        for layer in self.layers:
            if self.recomputes_layers and torch.is_grad_enabled():
                x_ND = checkpoint(layer, x_ND, counts, positions, use_reentrant=False, preserve_rng_state=False)
            else:
                x_ND = self.run_layer(layer, x_ND, counts, positions)
        return x_ND


class Transformer(nn.Module):
    """Predicts the flow velocity of video and audio tokens from noisy tokens and text features.

    Args:
        config: what to build.
        compute_dtype: dtype of the linear layers inside the block (the release: bfloat16).
        attention: attention implementation; by default torch's, with the kernel torch chooses.
        weight_dtype: dtype these layers' weights are kept in; by default `compute_dtype`, float32 in training.

    Attributes:
        compiled: what runs instead of `velocities` where no noise levels are told, see `model.compilation`.
    """

    def __init__(
        self,
        config: TransformerConfig,
        compute_dtype: torch.dtype = torch.bfloat16,
        attention: AttentionBackend | None = None,
        weight_dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.config = config
        self.adapter = Adapter(config)
        precision = Precision(compute_dtype, weight_dtype or compute_dtype)
        self.block = Block(config, precision, SdpaAttention() if attention is None else attention)
        self.final_norm_video = ExpertRMSNorm(config.hidden_size)
        self.final_norm_audio = ExpertRMSNorm(config.hidden_size)
        self.final_linear_video = nn.Linear(config.hidden_size, config.video_channels, bias=False)
        self.final_linear_audio = nn.Linear(config.hidden_size, config.audio_channels, bias=False)
        self.compiled: CompiledVelocities | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.adapter.rope.bands.device

    def positions(self, layouts: Sequence[SequenceLayout]) -> Positions:
        """Prepare the rotary numbers of the clips of one sequence, once for all their steps.

        Raises:
            ValueError: if there is no clip, or one has too few tokens for the position style.
        """
        pack, style = PackedLayout(tuple(layouts)), self.config.position_style
        coordinates_N9 = pack.join([token_coordinates(clip, style) for clip in pack.clips]).to(self.device)
        return Positions(self.adapter.rope(coordinates_N9), pack.table())

    def forward(
        self,
        video_VC: Tensor,
        audio_AC: Tensor,
        text_LC: Tensor,
        positions: Positions,
        levels_S: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Predict velocities of one or several clips, which do not influence each other.

        Args:
            video_VC: (V, 192) float32, clip after clip, each token laid out (channel, patch row, patch column).
            audio_AC: (A, 64) float32, clip after clip.
            text_LC: (L, text channels) float32, clip after clip.
            positions: from `positions`, for the same clips in the same order.
            levels_S: (S,) float32 noise levels from 0 to 1, one per clip; used with a timestep embedding only.

        Returns:
            Video velocity (V, 192), each token laid out (patch row, patch column, channel), and audio velocity (A, 64),
            both float32 and clip after clip.

        Raises:
            ValueError: with a timestep embedding, if there are no noise levels.
        """
        inputs = (video_VC, audio_AC, text_LC, positions.rope_NR, positions.clips_5S)
        if self.compiled is not None and levels_S is None:
            return self.compiled(*inputs)
        return self.velocities(*inputs, levels_S)

    def velocities(
        self,
        video_VC: Tensor,
        audio_AC: Tensor,
        text_LC: Tensor,
        rope_NR: Tensor,
        clips_5S: Tensor,
        levels_S: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The same as a function of tensors alone, as a compiler takes it; see `forward` and `Positions`."""
        counts, positions = (len(video_VC), len(audio_AC), len(text_LC)), Positions(rope_NR, clips_5S)
        x_ND = self.adapter(video_VC, audio_AC, text_LC, clips_5S, levels_S)
        x_VD, x_AD, _ = self.block(x_ND, counts, positions).split(counts)
        video_VC = self.final_linear_video(self.final_norm_video(x_VD))
        audio_AC = self.final_linear_audio(self.final_norm_audio(x_AD))
        return video_VC, audio_AC
