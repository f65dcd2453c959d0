"""Latents of mean 0 and deviation 1 per channel while an autoencoder is trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.training.replicas import Replicas

_MOST_SCALED, _MOST_MOVED = 3.0, 5.0
"""How far a batch may lie from the running statistics; what lies further is held (values: Ioffe 2017)."""


class LatentScale(nn.Module):
    """Normalises each channel by running statistics, which are folded into the encoder afterwards.

    A latent that always has the same spread can neither shrink below the noise added to it nor run away from it. While
    statistics are learnt, numbers are those of running statistics, as at inference, and gradients those of the batch's:
    batch renormalisation (Ioffe 2017). Plain normalisation by a batch of few clips would take from each what it has
    in common with itself, the colour of a wall for example.

    Args:
        num_channels: C, dim 1 of the latents.
        replicas: the workers, whose running statistics are those of all their clips together.
        momentum: share of a batch's statistics in the running ones.
    """

    mean: Tensor
    variance: Tensor
    num_seen: Tensor

    def __init__(self, num_channels: int, replicas: Replicas, momentum: float = 0.02):
        super().__init__()
        self.replicas, self.momentum = replicas, momentum
        self.register_buffer("mean", torch.zeros(num_channels))
        self.register_buffer("variance", torch.ones(num_channels))
        self.register_buffer("num_seen", torch.zeros((), dtype=torch.int64))

    @property
    def deviation(self) -> Tensor:
        """(C,)."""
        return (self.variance + 1e-6).sqrt()

    def forward(self, latent_BCx: Tensor, is_learning: bool) -> Tensor:
        """Normalise; where statistics are still learnt, with the batch's, through which gradients flow."""
        shape = (1, -1, *[1] * (latent_BCx.ndim - 2))
        if not is_learning:
            return (latent_BCx - self.mean.view(shape)) / self.deviation.view(shape)
        dims = [0, *range(2, latent_BCx.ndim)]
        variance, mean = torch.var_mean(latent_BCx, dim=dims, correction=0)
        deviation = (variance + 1e-6).sqrt()
        with torch.no_grad():
            self.num_seen += 1
            share = max(self.momentum, 1 / int(self.num_seen))  # the first batches count alike
            mean_of_all, variance_of_all = self.replicas.pooled(mean, variance)
            self.mean.lerp_(mean_of_all, share)
            self.variance.lerp_(variance_of_all, share)
            scale = (deviation / self.deviation).clamp(1 / _MOST_SCALED, _MOST_SCALED)
            offset = ((mean - self.mean) / self.deviation).clamp(-_MOST_MOVED, _MOST_MOVED)
        normalised = (latent_BCx - mean.view(shape)) / deviation.view(shape)
        return normalised * scale.view(shape) + offset.view(shape)
