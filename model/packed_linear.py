"""Linear layers as a GPU's matrix units take them: sides of a whole number of tiles, in bfloat16 or in 8-bit floats.

Legend: N tokens in the order video, audio, text; C input channels; F output features; E experts (3 or 1); R rows; Cp,
Fp the same as C, F rounded up to a multiple of `TILE`.

The release's MLPs are 13,652 wide, so that rows of the down projection are 27,304 bytes, no multiple of the 16 that
Hopper's fast loads need, and 8-bit products want multiples of 16 numbers. Zeros behind both sides change no result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.experts import ExpertLinear, TokenCounts
from model.transformer import MLP, Transformer

TILE = 64
FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0
"""Largest number of the format (IEEE-like E4M3 without infinities, Micikevicius et al., arXiv 2209.05433, table 1)."""
_SMALLEST_SCALE = 1e-12
_ROWS_AT_ONCE = 2048

LinearFormat = Literal["plain", "packed", "fp8"]
"""As the checkpoint has them, with whole tiles, or with whole tiles of 8-bit floats."""


def quantise_rows(x_RC: Tensor) -> tuple[Tensor, Tensor]:
    """Scale every row so that its largest number is the largest of the format, and round.

    Args:
        x_RC: (R, C) in any floating-point dtype.

    Returns:
        (R, C) in `FP8` and the scales (R, 1) float32 that undo it.
    """
    x_RC = x_RC.float()
    scale_R1 = (x_RC.abs().amax(dim=1, keepdim=True) / FP8_MAX).clamp(min=_SMALLEST_SCALE)
    return (x_RC / scale_R1).clamp(-FP8_MAX, FP8_MAX).to(FP8), scale_R1


class PackedExpertLinear(nn.Module):
    """What `ExpertLinear` computes, from weights with whole tiles.

    With 8-bit floats weights have a scale per output feature and inputs one per token; products are summed up in
    float32 and given in the compute dtype.

    Args:
        plain: the layer this stands for; only its sizes are looked at.
        is_fp8: whether weights and inputs are 8-bit floats.
        keeps_padding: whether the zeros behind the output features are given too, for a layer that takes them.
    """

    weight_EFC: Tensor
    scale_EF: Tensor | None

    def __init__(self, plain: ExpertLinear, is_fp8: bool, keeps_padding: bool = False):
        super().__init__()
        rows, self.in_features = plain.weight.shape
        self.num_experts, self.compute_dtype = plain.num_experts, plain.compute_dtype
        self.out_features, self.keeps_padding = rows // plain.num_experts, keeps_padding
        shape = (self.num_experts, _whole_tiles(self.out_features), _whole_tiles(self.in_features))
        self.register_buffer("weight_EFC", torch.empty(shape, dtype=FP8 if is_fp8 else plain.weight.dtype))
        self.register_buffer("scale_EF", torch.empty(shape[:2], dtype=torch.float32) if is_fp8 else None)

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        """Bring a checkpoint's weight (E F, C) into the form of this layer's buffers, by name."""
        given_EFC = weight.unflatten(0, (self.num_experts, -1))
        if self.scale_EF is None:
            if given_EFC.shape == self.weight_EFC.shape:
                return {"weight_EFC": given_EFC}
            packed_EFC = weight.new_zeros(self.weight_EFC.shape)
            packed_EFC[:, : self.out_features, : self.in_features] = given_EFC
            return {"weight_EFC": packed_EFC}
        packed_EFC = weight.new_zeros(self.weight_EFC.shape, dtype=FP8)
        scale_EF = weight.new_full(self.scale_EF.shape, _SMALLEST_SCALE, dtype=torch.float32)
        for expert, given_FC in enumerate(given_EFC):
            # Piece by piece: a whole weight in float32, several times over, would not fit beside those already there.
            for start in range(0, self.out_features, _ROWS_AT_ONCE):
                quantised, scales = quantise_rows(given_FC[start : start + _ROWS_AT_ONCE])
                rows = slice(start, start + len(quantised))
                packed_EFC[expert, rows, : self.in_features] = quantised
                scale_EF[expert, rows] = scales.squeeze(1)
        return {"weight_EFC": packed_EFC, "scale_EF": scale_EF}

    def forward(self, x_NC: Tensor, counts: TokenCounts) -> Tensor:
        """Map (N, C) or (N, Cp) of any dtype to (N, F) in the compute dtype, or (N, Fp) with padding."""
        num_missing = self.weight_EFC.shape[2] - x_NC.shape[1]
        if num_missing:
            x_NC = F.pad(x_NC, (0, num_missing))
        out_NF = self._fp8(x_NC, counts) if self.scale_EF is not None else self._wide(x_NC, counts)
        return out_NF if self.keeps_padding else out_NF[:, : self.out_features]

    def _wide(self, x_NC: Tensor, counts: TokenCounts) -> Tensor:
        x_NC = x_NC.to(self.compute_dtype)
        parts = x_NC.split(counts) if self.num_experts > 1 else (x_NC,)
        return _joined([F.linear(x, weight) for x, weight in zip(parts, self.weight_EFC.unbind(), strict=True)])

    def _fp8(self, x_NC: Tensor, counts: TokenCounts) -> Tensor:
        assert self.scale_EF is not None
        # Each expert's tokens apart: of a scale for all of them a slice might begin where no fast product can read it.
        parts = x_NC.split(counts) if self.num_experts > 1 else (x_NC,)
        weights = zip(self.weight_EFC.unbind(), self.scale_EF.unbind(), strict=True)
        return _joined([self._fp8_product(x, *weight) for x, weight in zip(parts, weights, strict=True)])

    def _fp8_product(self, x_NC: Tensor, weight_FC: Tensor, scale_F: Tensor) -> Tensor:
        x8_NC, scale_N1 = quantise_rows(x_NC)
        if x8_NC.device.type == "cpu":  # not every PyTorch has the other on a CPU, and none a fast one
            return (x8_NC.float() @ weight_FC.float().t() * scale_N1 * scale_F).to(self.compute_dtype)
        return torch._scaled_mm(
            x8_NC, weight_FC.t(), scale_N1, scale_F.unsqueeze(0), out_dtype=self.compute_dtype, use_fast_accum=True
        )


def _whole_tiles(size: int) -> int:
    return -(-size // TILE) * TILE


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def choose_format(device: torch.device, is_fp8: bool) -> LinearFormat:
    """How a device takes linear layers; a CPU's are the checkpoint's own tensors, mapped from the file.

    Raises:
        ValueError: if 8-bit floats are asked for on a GPU that has no products of them.
    """
    if not is_fp8:
        return "packed" if device.type == "cuda" else "plain"
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 9):
        name = torch.cuda.get_device_name(device)
        raise ValueError(f"precision fp8 needs a GPU of compute capability 8.9 (Ada, Hopper) or later, got {name}")
    return "fp8"


def pack_linears(transformer: Transformer, form: LinearFormat) -> Callable[[str, Tensor], dict[str, Tensor]]:
    """Replace the layers' linear layers of a Transformer on the meta device, whose weights are still to come.

    Args:
        transformer: changed in place.
        form: what its linear layers shall be.

    Returns:
        What makes the state dict's entries of the changed Transformer out of a tensor of the checkpoint, by its name.
    """
    packed: dict[str, PackedExpertLinear] = {}
    for prefix, parent in list(transformer.named_modules()) if form != "plain" else ():
        for name, child in list(parent.named_children()):
            if isinstance(child, ExpertLinear):
                # Zeros of the up projection stay zeros through the activation, and meet zeros of the down projection.
                keeps_padding = isinstance(parent, MLP) and name == "up_gate_proj"
                layer = PackedExpertLinear(child, form == "fp8", keeps_padding)
                setattr(parent, name, layer)
                packed[f"{prefix}.{name}"] = layer

    def convert(name: str, tensor: Tensor) -> dict[str, Tensor]:
        module, _, _ = name.rpartition(".")
        if module not in packed:
            return {name: tensor}
        return {f"{module}.{entry}": value for entry, value in packed[module].pack(tensor).items()}

    return convert
