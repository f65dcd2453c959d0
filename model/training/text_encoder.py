"""Training of a small text encoder: each token's features shall tell all that the whole prompt asks for.

A text encoder that has read the world's text knows what an adjective belongs to; a small one that is drawn leaves that
to the Transformer, which sees far fewer prompts. Here linear heads must read a list of facts (what is said, which
colour a part has) off the features of every single token, with noise on them. The heads are thrown away.

Legend: N tokens of all prompts, C channels, K facts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.text_encoder import TextEncoder
from model.training.optimiser import MovingAverage, Optimiser, OptimiserConfig
from model.training.replicas import Replicas
from model.training.task import Sample, TrainingTask


@dataclass(frozen=True)
class TextEncoderConfig:
    """How a text encoder is trained.

    Attributes:
        optimiser: rates.
        feature_noise: deviation of the noise on features.
        average_decay: of the moving average that is exported.
    """

    optimiser: OptimiserConfig
    feature_noise: float = 0.1
    average_decay: float = 0.99

    def __post_init__(self) -> None:
        if not self.feature_noise >= 0:
            raise ValueError(f"feature_noise must be at least 0, got {self.feature_noise!r}")


class TextEncoderTask(TrainingTask):
    """Training of a text encoder on samples of `tokens` (L,) and `facts` (K,), both of whole numbers.

    Args:
        encoder: what is trained, with float32 weights, on its device.
        num_values: how many values each of the K facts has.
        config: how.
        seed: of the heads' first weights.
        replicas: the workers of the run.
    """

    def __init__(
        self, encoder: TextEncoder, num_values: Sequence[int], config: TextEncoderConfig, seed: int, replicas: Replicas
    ):
        self.encoder, self.config, self.num_values = encoder, config, list(num_values)
        self.device = encoder.model.device
        encoder.model.requires_grad_(True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            heads = nn.Linear(encoder.model.config.encoder.hidden_size, sum(num_values))
        self.networks = nn.ModuleDict({"model": encoder.model, "heads": heads.to(self.device)})
        replicas.start_alike(self.networks)
        self._optimiser = Optimiser([self.networks], config.optimiser, replicas)
        self._average = MovingAverage(encoder.model, config.average_decay)

    def step(self, batch: Sequence[Sample], index: int, generator: torch.Generator) -> dict[str, float]:
        """See `TrainingTask.step`; `told` is the share of tokens and facts that the heads read rightly."""
        states_NC = self.encoder.hidden_states([sample["tokens"].tolist() for sample in batch])[0]
        lengths = torch.tensor([len(sample["tokens"]) for sample in batch])
        facts_NK = torch.stack([sample["facts"] for sample in batch]).long().repeat_interleave(lengths, dim=0)
        facts_NK = facts_NK.to(self.device)
        noise_NC = torch.randn(states_NC.shape, generator=generator).to(self.device)
        logits = self.networks["heads"](states_NC + self.config.feature_noise * noise_NC).split(self.num_values, dim=1)
        columns = list(zip(logits, facts_NK.unbind(dim=1), strict=True))
        loss = torch.stack([F.cross_entropy(logits_NV, facts_N) for logits_NV, facts_N in columns]).sum()
        norm = self._optimiser.step(loss, index)
        self._average.update(self.encoder.model, index)
        told = [(logits_NV.argmax(dim=1) == facts_N).float().mean() for logits_NV, facts_N in columns]
        return {"loss": loss.item(), "told": torch.stack(told).mean().item(), "gradient_norm": norm}

    def state_dict(self) -> dict[str, Any]:
        """See `TrainingTask.state_dict`."""
        return {
            "networks": self.networks.state_dict(),
            "average": dict(self._average.tensors),
            "optimiser": self._optimiser.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `TrainingTask.load_state_dict`."""
        self.networks.load_state_dict(state["networks"])
        self._average.load(state["average"])
        self._optimiser.load_state_dict(state["optimiser"])

    def export(self) -> dict[str, Tensor]:
        """The encoder's averaged tensors, in float32, named as in the file of an encoder saved alone."""
        return dict(self._average.tensors)
