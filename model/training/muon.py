"""Muon: momentum whose singular values are made alike, so that a step changes every direction of a matrix as much.

Method and coefficients: Jordan et al. 2024; size of the updates: Liu et al. 2025 (arXiv 2502.16982). torch's own works
in bfloat16, which takes a CPU without such products many times as long, and takes no convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_NUM_ITERATIONS = 5
_RMS_OF_ADAMW = 0.2
_SMALLEST_SIDE = 8


def is_matrix(parameter: Tensor) -> bool:
    """Whether Muon suits it: outputs by everything that goes into each, neither of them a handful."""
    return parameter.ndim >= 2 and min(parameter.shape[0], parameter[0].numel()) >= _SMALLEST_SIDE


class Muon(torch.optim.Optimizer):
    """Optimiser of matrices and convolutions.

    Args:
        parameters: for which `is_matrix`.
        learning_rate: updates have the root mean square that AdamW's have at this rate.
        weight_decay: share of the rate by which weights shrink.
        momentum: of the gradients, Nesterov's.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float, momentum: float = 0.95
    ):
        super().__init__(parameters, {"lr": learning_rate, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Move weights along their gradients; `closure` is not used."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(state["momentum"], group["momentum"]).flatten(1)
                size = _RMS_OF_ADAMW * math.sqrt(max(update.shape))
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(orthogonal(update).view(parameter.shape), alpha=-group["lr"] * size)


def orthogonal(matrix_MN: Tensor) -> Tensor:
    """Bring all singular values near to 1 (0.7 to 1.2) by a Newton-Schulz iteration, in the matrix' own dtype."""
    first, third, fifth = _COEFFICIENTS
    is_tall = matrix_MN.shape[0] > matrix_MN.shape[1]
    x = matrix_MN.T if is_tall else matrix_MN
    x = x / (x.norm() + 1e-7)
    for _ in range(_NUM_ITERATIONS):
        square = x @ x.T
        x = first * x + (third * square + fifth * square @ square) @ x
    return x.T if is_tall else x
