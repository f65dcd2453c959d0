"""Sharding of a Transformer over GPUs: parameters, gradients and optimiser state are divided, layer by layer.

Source: PyTorch's `fully_shard` (FSDP of the second kind).
"""

from __future__ import annotations

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from model.transformer import Transformer


def shard(transformer: Transformer, mesh: DeviceMesh) -> None:
    """Shard a network in place, before it is given to a task; every worker must hold the same weights.

    Each layer is gathered when it is its turn and let go afterwards; what is outside the layers is one unit more. The
    backward pass averages gradients over the workers by itself.

    Args:
        transformer: with its weights, on the mesh's device.
        mesh: of one dimension.
    """
    for layer in transformer.block.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(transformer, mesh=mesh)


def shard_whole(module: nn.Module, mesh: DeviceMesh) -> None:
    """Shard a small network in place as one unit."""
    fully_shard(module, mesh=mesh)
