"""How the workers of one training run keep the same weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch.distributed as dist
from torch import nn


class Replicas:
    """One worker, or several that each hold all weights and average their gradients.

    Works with any number of networks and forward passes per step, which torch's own wrapper does not.

    Args:
        num_workers: how many; with more than one torch's default process group must be there.
    """

    def __init__(self, num_workers: int = 1):
        if num_workers < 1:
            raise ValueError(f"num_workers must be at least 1, got {num_workers}")
        self.num_workers = num_workers

    def start_alike(self, module: nn.Module) -> None:
        """Give every worker the first one's weights."""
        if self.num_workers > 1:
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, src=0)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their mean over the workers; one that is absent counts as zero."""
        if self.num_workers > 1:
            for parameter in parameters:
                if parameter.grad is None:
                    parameter.grad = parameter.new_zeros(parameter.shape)
                dist.all_reduce(parameter.grad)
                parameter.grad /= self.num_workers
