"""The noise level as an input of the Transformer: what the release leaves out, kept to be compared with.

Legend: S clips; D hidden size; F frequency bands.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

NUM_BANDS = 64
HIGHEST_BAND = 1000.0
"""Radians that the fastest band turns through between noise level 0 and 1."""


class TimestepEmbedding(nn.Sequential):
    """Waves of the noise level through two linear layers, in float32; the result is added to every token of a clip."""

    def __init__(self, hidden_size: int):
        super().__init__(nn.Linear(2 * NUM_BANDS, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size))

    def forward(self, levels_S: Tensor) -> Tensor:
        """Embed noise levels (S,) float32 from 0 to 1 as (S, D) float32."""
        # Not a buffer: those that a checkpoint does not hold would stay on the meta device, where networks are built.
        exponents_F = torch.linspace(0, 1, NUM_BANDS, device=levels_S.device)
        angles_SF = levels_S.unsqueeze(1) * HIGHEST_BAND**exponents_F
        return super().forward(torch.cat([angles_SF.sin(), angles_SF.cos()], dim=1))
