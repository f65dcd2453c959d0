"""Where networks are trained: Transformers may be sharded over GPUs, which divides all that is kept, layer by layer.

Source: PyTorch's `fully_shard` (FSDP of the second kind).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from model.transformer import Transformer


@dataclass(frozen=True)
class Place:
    """Where the weights of a network are.

    Attributes:
        device: this worker's.
        mesh: of one dimension, over which parameters, gradients and optimiser state are divided; None keeps them whole.
    """

    device: torch.device
    mesh: DeviceMesh | None = None


ON_CPU = Place(torch.device("cpu"))


@torch.no_grad()
def fill(transformer: Transformer, weights: Iterable[tuple[str, Tensor]], place: Place) -> None:
    """Bring a network to its place and give it its weights, one tensor at a time.

    With a mesh it is sharded before it has weights, and a device takes of each tensor no more than its own part.

    Args:
        transformer: on the meta device.
        weights: name and value of all that is in its state, on the CPU, of any floating-point dtype; the same on every
            worker. None is asked for before the one ahead of it is in place.
        place: where to.

    Raises:
        ValueError: a tensor is absent, of another shape, or none of the network's.
    """
    if place.mesh is not None:
        _shard(transformer, place.mesh)
    transformer.to_empty(device=place.device)
    empty = transformer.state_dict()
    for name, weight in weights:
        if name not in empty:
            raise ValueError(f"weights must be the network's, got {name}")
        target = empty.pop(name)
        if weight.shape != target.shape:
            raise ValueError(f"{name} must be of shape {tuple(target.shape)}, got {tuple(weight.shape)}")
        if isinstance(target, DTensor):
            target.to_local().copy_(_own_part(weight, target.device_mesh))
        else:
            target.copy_(weight)
    if empty:
        raise ValueError(f"weights must be all of the network's, got none of {', '.join(empty)}")


def move_small(module: nn.Module, place: Place) -> None:
    """Bring a small network with its weights to its place; with a mesh it is sharded as one unit."""
    if place.mesh is None:
        module.to(place.device)
    else:
        fully_shard(module, mesh=place.mesh)


def _shard(transformer: Transformer, mesh: DeviceMesh) -> None:
    """Shard a network in place.

    Each layer is gathered when it is its turn and let go afterwards; what is outside the layers is one unit more. The
    backward pass averages gradients over the workers by itself.
    """
    for layer in transformer.block.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(transformer, mesh=mesh)


def _own_part(tensor: Tensor, mesh: DeviceMesh) -> Tensor:
    """The rows that are this worker's where all but the last ones have equally many, as a view."""
    num_rows = -(-len(tensor) // mesh.size())
    return tensor[mesh.get_local_rank() * num_rows :][:num_rows]
