"""Layers whose weight stacks one expert per modality, as the sandwich's outer layers have them.

Legend: N tokens in the order video, audio, text; C input channels; D or dim normalised size; E experts (3 or 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPS = 1e-6

TokenCounts = tuple[int, int, int]
"""How many video, audio and text tokens a sequence has."""


@dataclass(frozen=True)
class Precision:
    """Dtypes of a linear layer.

    Attributes:
        compute_dtype: of its product.
        weight_dtype: its weight is kept in; wider than `compute_dtype` in training, where it takes in small updates.
    """

    compute_dtype: torch.dtype
    weight_dtype: torch.dtype


class ExpertLinear(nn.Module):
    """Linear layer without bias whose weight stacks E experts along dim 0; a token uses its modality's.

    Args:
        in_features: C.
        out_features: of each expert.
        num_experts: E.
        precision: dtypes of the product and of the weight.
    """

    def __init__(self, in_features: int, out_features: int, num_experts: int, precision: Precision):
        super().__init__()
        self.num_experts, self.compute_dtype = num_experts, precision.compute_dtype
        self.weight = nn.Parameter(torch.empty(num_experts * out_features, in_features, dtype=precision.weight_dtype))

    def forward(self, x_NC: Tensor, counts: TokenCounts) -> Tensor:
        """Map (N, C) of any dtype to (N, out) in the compute dtype."""
        x_NC, weight = x_NC.to(self.compute_dtype), self.weight.to(self.compute_dtype)
        if self.num_experts == 1:
            return F.linear(x_NC, weight)
        parts = zip(x_NC.split(counts), weight.chunk(self.num_experts), strict=True)
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
