"""How the workers of one training run keep the same weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
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

    @property
    def is_first(self) -> bool:
        """Whether this is the worker that keeps what one is enough for."""
        return self.num_workers == 1 or dist.get_rank() == 0

    def gathered(self, tensor: Tensor, dtype: torch.dtype) -> Tensor | None:
        """A tensor, put together where it is sharded, in `dtype` on the CPU of the first worker; None on the others.

        All workers must ask.
        """
        full = whole(tensor).detach()
        return full.to(dtype).cpu() if self.is_first else None

    def start_alike(self, module: nn.Module) -> None:
        """Give every worker the first one's weights."""
        if self.num_workers > 1:
            for tensor in module.state_dict().values():
                if not isinstance(tensor, DTensor):
                    dist.broadcast(tensor, src=0)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients, all of one dtype, by their mean over the workers; one that is absent counts as zero."""
        if self.num_workers == 1:
            return
        own = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
        for parameter in own:
            if parameter.grad is None:
                parameter.grad = parameter.new_zeros(parameter.shape)
        gradients = [parameter.grad for parameter in own if parameter.grad is not None]
        if gradients:
            flat = _flat(gradients)
            dist.all_reduce(flat)
            flat /= self.num_workers
            for gradient, mean in zip(gradients, _like(flat, gradients), strict=True):
                gradient.copy_(mean)

    def pooled(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance over all workers' numbers, from each worker's own over equally many."""
        if self.num_workers == 1:
            return mean, variance
        moments = torch.stack([mean, variance + mean.square()])
        dist.all_reduce(moments)
        mean_of_all, square = moments / self.num_workers
        return mean_of_all, (square - mean_of_all.square()).clamp(min=0)

    def divide(self, function: Callable[[Tensor], Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
        """Apply a function to tensors, to each on one worker only, and give every worker all results.

        Args:
            function: its result has the shape and dtype of what it takes.
            inputs: the same on every worker, of one dtype.
        """
        if self.num_workers == 1:
            return [function(tensor) for tensor in inputs]
        shares = [inputs[worker :: self.num_workers] for worker in range(self.num_workers)]
        mine = [function(tensor) for tensor in shares[dist.get_rank()]]
        results: list[Tensor | None] = [None] * len(inputs)
        for worker, share in enumerate(shares):
            if share:
                flat = _flat(mine if worker == dist.get_rank() else share)
                dist.broadcast(flat, src=worker)
                results[worker :: self.num_workers] = _like(flat, share)
        return [result for result in results if result is not None]


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors as one vector: workers wait for each other once, not once for every tensor."""
    return torch.cat([tensor.flatten() for tensor in tensors])


def _like(flat: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Undo `_flat`."""
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
