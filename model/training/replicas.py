"""How the workers of one training run keep the same weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def whole(tensor: Tensor) -> Tensor:
    """A tensor put together where it is sharded over workers, all of which must ask; any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


class Replicas:
    """One worker, or several that each hold all weights, or a shard of them, and average their gradients.

    Works with any number of networks and forward passes per step, which torch's own wrapper does not. What is sharded
    (`model.training.sharding`) is left alone: there the backward pass itself averages gradients.

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
                if not isinstance(tensor, DTensor):
                    dist.broadcast(tensor, src=0)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their mean over the workers; one that is absent counts as zero."""
        if self.num_workers > 1:
            for parameter in parameters:
                if isinstance(parameter, DTensor):
                    continue
                if parameter.grad is None:
                    parameter.grad = parameter.new_zeros(parameter.shape)
                dist.all_reduce(parameter.grad)
                parameter.grad /= self.num_workers
