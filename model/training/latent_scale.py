"""Latents of mean 0 and deviation 1 per channel while an autoencoder is trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LatentScale(nn.Module):
    """Normalises each channel by running statistics, which are folded into the encoder afterwards.

    A latent that always has the same spread can neither shrink below the noise added to it nor run away from it.

    Args:
        num_channels: C, dim 1 of the latents.
        momentum: share of a batch's statistics in the running ones.
    """

    mean: Tensor
    variance: Tensor
    num_seen: Tensor

    def __init__(self, num_channels: int, momentum: float = 0.02):
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(num_channels))
        self.register_buffer("variance", torch.ones(num_channels))
        self.register_buffer("num_seen", torch.zeros((), dtype=torch.int64))

    @property
    def deviation(self) -> Tensor:
        """(C,)."""
        return (self.variance + 1e-6).sqrt()

    def forward(self, latent_BCx: Tensor, is_learning: bool) -> Tensor:
        """Normalise; where statistics are still learnt, by those of the batch, through which gradients flow."""
        shape = (1, -1, *[1] * (latent_BCx.ndim - 2))
        if not is_learning:
            return (latent_BCx - self.mean.view(shape)) / self.deviation.view(shape)
        dims = [0, *range(2, latent_BCx.ndim)]
        variance, mean = torch.var_mean(latent_BCx, dim=dims, correction=0)
        with torch.no_grad():
            self.num_seen += 1
            share = max(self.momentum, 1 / int(self.num_seen))  # the first batches count alike
            self.mean.lerp_(mean, share)
            self.variance.lerp_(variance, share)
        return (latent_BCx - mean.view(shape)) / (variance + 1e-6).sqrt().view(shape)
