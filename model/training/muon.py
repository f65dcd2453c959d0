"""Muon: momentum whose singular values are made alike, so that a step changes every direction of a matrix as much.

Method and coefficients: Jordan et al. 2024; size of the updates: Liu et al. 2025 (arXiv 2502.16982). torch's own works
in bfloat16, which takes a CPU without such products many times as long, and takes no convolutions.

Legend: E matrices stacked in one weight; M outputs; N everything that goes into each.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from model.experts import ExpertLinear
from model.training.replicas import Replicas

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_NUM_ITERATIONS = 5
_RMS_OF_ADAMW = 0.2
_SMALLEST_SIDE = 8


def is_matrix(parameter: Tensor) -> bool:
    """Whether Muon suits it: outputs by everything that goes into each, neither of them a handful."""
    return parameter.ndim >= 2 and min(parameter.shape[0], parameter[0].numel()) >= _SMALLEST_SIDE


def muon_groups(modules: Iterable[nn.Module]) -> list[dict[str, Any]]:
    """The parameters of some networks for which `is_matrix`, by how many matrices of equal size each stacks.

    Weights of experts are matrices of their own: an expert's directions say nothing about another's.
    """
    groups: dict[int, list[nn.Parameter]] = defaultdict(list)
    for module in (inner for outer in modules for inner in outer.modules()):
        num_stacked = module.num_experts if isinstance(module, ExpertLinear) else 1
        for parameter in module.parameters(recurse=False):
            if parameter.requires_grad and is_matrix(parameter):
                groups[num_stacked].append(parameter)
    return [{"params": parameters, "num_stacked": number} for number, parameters in sorted(groups.items())]


class Muon(torch.optim.Optimizer):
    """Optimiser of matrices and convolutions.

    Args:
        parameters: for which `is_matrix`, or the groups of `muon_groups`.
        learning_rate: updates have the root mean square that AdamW's have at this rate.
        weight_decay: share of the rate by which weights shrink.
        momentum: of the gradients, Nesterov's.
        replicas: the workers of the run, all with the same gradients; each works out a share of the updates.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        learning_rate: float,
        weight_decay: float,
        momentum: float = 0.95,
        replicas: Replicas | None = None,
    ):
        self.replicas = replicas or Replicas()
        defaults = {"lr": learning_rate, "weight_decay": weight_decay, "momentum": momentum, "num_stacked": 1}
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Move weights along their gradients; `closure` is not used."""
        moved, matrices = [], []
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                gradient = parameter.grad.lerp(state["momentum"], group["momentum"])
                moved.append((parameter, group))
                matrices.append(gradient.flatten(1).unflatten(0, (group["num_stacked"], -1)))
        for (parameter, group), update in zip(moved, self.replicas.divide(_update, matrices), strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(update.view(parameter.shape), alpha=-group["lr"])


def _update(matrices_EMN: Tensor) -> Tensor:
    """What stacked matrices move against, for a learning rate of 1."""
    size = _RMS_OF_ADAMW * math.sqrt(max(matrices_EMN.shape[1:]))
    return size * torch.stack([orthogonal(matrix_MN) for matrix_MN in matrices_EMN])


def orthogonal(matrix_MN: Tensor) -> Tensor:
    """Bring all singular values near to 1 (0.7 to 1.2) by a Newton-Schulz iteration, in float32.

    Every step multiplies by a polynomial of the matrix times its transpose. The steps are taken on that small square,
    and only their product meets the matrix: for matrices five times as wide as high, a third of the work.
    """
    first, third, fifth = _COEFFICIENTS
    is_tall = matrix_MN.shape[0] > matrix_MN.shape[1]
    x = (matrix_MN.T if is_tall else matrix_MN).float()
    x = x / (x.norm() + 1e-7)
    square = x @ x.T
    identity = torch.eye(len(square), device=x.device)
    product = identity
    for _ in range(_NUM_ITERATIONS):
        factor = first * identity + third * square + fifth * square @ square
        product = factor @ product
        square = factor @ square @ factor
    x = (product @ x).to(matrix_MN.dtype)
    return x.T if is_tall else x
