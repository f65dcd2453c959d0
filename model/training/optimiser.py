"""AdamW or Muon with warm-up, cosine decay and clipping, and the moving average of weights that is shipped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from model.training.muon import Muon, muon_groups
from model.training.replicas import Replicas, whole

Method = Literal["adamw", "muon"]


@dataclass(frozen=True)
class OptimiserConfig:
    """How weights follow gradients.

    Attributes:
        learning_rate: at its highest.
        num_steps: of the whole run; the rate ends at `final_share` of its highest.
        num_warmup_steps: over which the rate rises.
        final_share: of the highest rate.
        betas: of AdamW.
        weight_decay: share of the rate by which weights shrink.
        max_gradient_norm: longer gradients are shortened to it.
        method: "adamw", or "muon" for matrices and convolutions (Jordan et al. 2024), with updates as large as AdamW's
            (Liu et al. 2025); everything else is trained by AdamW.
    """

    learning_rate: float
    num_steps: int
    num_warmup_steps: int = 50
    final_share: float = 0.02
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0
    method: Method = "adamw"

    def __post_init__(self) -> None:
        for name in ("learning_rate", "num_steps", "max_gradient_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be more than 0, got {getattr(self, name)!r}")
        if self.method not in ("adamw", "muon"):
            raise ValueError(f"method must be adamw or muon, got {self.method!r}")
        for name in ("num_warmup_steps", "weight_decay", "final_share"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)!r}")

    def rate(self, index: int) -> float:
        """Learning rate of a step, from 0."""
        if index < self.num_warmup_steps:
            return self.learning_rate * (index + 1) / self.num_warmup_steps
        done = min(1.0, (index - self.num_warmup_steps) / max(1, self.num_steps - self.num_warmup_steps))
        share = self.final_share + (1 - self.final_share) * 0.5 * (1 + math.cos(math.pi * done))
        return self.learning_rate * share


class Optimiser:
    """AdamW over the parameters of some networks, or Muon over the matrices among them and AdamW over the rest.

    Args:
        networks: what is trained; parameters that need no gradient are left out.
        config: rates.
        replicas: the workers whose gradients are averaged.

    Raises:
        ValueError: sharded parameters are to be trained with Muon, which needs whole matrices.
    """

    def __init__(self, networks: Sequence[nn.Module], config: OptimiserConfig, replicas: Replicas):
        self.config, self.replicas = config, replicas
        self.parameters = [p for network in networks for p in network.parameters() if p.requires_grad]
        groups = muon_groups(networks) if config.method == "muon" else []
        matrices = [parameter for group in groups for parameter in group["params"]]
        chosen = set(map(id, matrices))
        others = [p for p in self.parameters if id(p) not in chosen]
        if any(isinstance(parameter, DTensor) for parameter in matrices):
            raise ValueError("method must be adamw where networks are sharded, got muon")
        self._optimisers: dict[str, torch.optim.Optimizer] = {}
        if others:
            self._optimisers["adamw"] = torch.optim.AdamW(
                others, config.learning_rate, config.betas, weight_decay=config.weight_decay, fused=True
            )
        if matrices:
            self._optimisers["muon"] = Muon(groups, config.learning_rate, config.weight_decay, replicas=replicas)

    def step(self, loss: Tensor, index: int) -> float:
        """Follow the gradients of a loss; returns their norm before it is clipped.

        Raises:
            FloatingPointError: the loss or a gradient is not finite; weights are as before.
        """
        loss.backward()
        self.replicas.average_gradients(self.parameters)
        norm = float(whole(nn.utils.clip_grad_norm_(self.parameters, self.config.max_gradient_norm)))
        if not math.isfinite(norm):
            self._forget_gradients()
            raise FloatingPointError(f"gradients are not finite at step {index}, the loss is {loss.item():g}")
        for optimiser in self._optimisers.values():
            for group in optimiser.param_groups:
                group["lr"] = self.config.rate(index)
            optimiser.step()
        self._forget_gradients()
        return norm

    def _forget_gradients(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Moments, by method."""
        return {name: optimiser.state_dict() for name, optimiser in self._optimisers.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`."""
        for name, optimiser in self._optimisers.items():
            optimiser.load_state_dict(dict(state[name]))


def require_decay(value: float) -> None:
    """See that a moving average can be made with this `average_decay`.

    Raises:
        ValueError: it is not at least 0 and below 1.
    """
    if not 0 <= value < 1:
        raise ValueError(f"average_decay must be at least 0 and below 1, got {value!r}")


class MovingAverage:
    """Exponential moving average of a network's floating-point tensors, in float32.

    Args:
        module: the network.
        decay: share kept at every step (see `require_decay`); smaller at the start, so that the first weights are soon
            forgotten.
    """

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self.tensors = {name: tensor.detach().float().clone() for name, tensor in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, index: int) -> None:
        """Take in the weights after a step, from 0."""
        decay = min(self.decay, (1 + index) / (10 + index))
        for name, tensor in module.state_dict().items():
            self.tensors[name].lerp_(tensor.detach().float(), 1 - decay)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from earlier `tensors`."""
        for name, tensor in self.tensors.items():
            tensor.copy_(tensors[name])
