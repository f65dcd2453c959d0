"""How a base model is distilled, and the networks that takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from model.sampling import DistilledSampling
from model.training.clips import ConditionShares
from model.training.discriminator import Discriminator
from model.training.networks import frozen_transformer, trained_transformer
from model.training.optimiser import OptimiserConfig, require_decay
from model.training.scores import ScoreGuidance
from model.training.sharding import ON_CPU, Place, move_small
from model.transformer import Transformer
from model.transformer_config import TransformerConfig


@dataclass(frozen=True)
class GanConfig:
    """How much real clips count beside the scores.

    Attributes:
        student_weight: of the student's wish to look real, beside the matching loss.
        fake_weight: of telling real from made, beside the fake score's own loss.
    """

    student_weight: float = 5e-3
    fake_weight: float = 1e-2

    def __post_init__(self) -> None:
        for name in ("student_weight", "fake_weight"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be more than 0, got {getattr(self, name)!r}")


@dataclass(frozen=True)
class WarmUpConfig:
    """Steps before distribution matching in which the student learns where guided sampling of the base would end.

    A base model that is asked for the clean clip gives the mean of all that could be, and without guidance: far from
    what the student shall give, and the fewer steps a small budget allows, the more of them matching would need for
    what plain regression does at once. See `model.training.consistency`.

    Attributes:
        num_steps: how many; 0 leaves the warm-up out.
        num_substeps: of the guided sampling, for each of the student's steps.
    """

    num_steps: int = 0
    num_substeps: int = 4

    def __post_init__(self) -> None:
        if not self.num_steps >= 0:
            raise ValueError(f"num_steps must be at least 0, got {self.num_steps!r}")
        if not self.num_substeps >= 1:
            raise ValueError(f"num_substeps must be at least 1, got {self.num_substeps!r}")


@dataclass(frozen=True)
class DistillationConfig:
    """How the student is trained.

    Attributes:
        student: rates of the student.
        fake: rates of the fake score (and of the discriminator), over the same number of steps. Those of `warm_up`
            count, though the fake score rests meanwhile.
        sampling: what the student is trained for.
        guidance: of the real score.
        num_fake_updates: of the fake score for each of the student: the second of the two time scales.
        shift: of the noise levels at which the scores are compared.
        lowest_level: of these noise levels.
        highest_level: of these noise levels.
        audio_weight: of audio beside video.
        shares: how often image and audio are given; the text is never dropped, the student runs without guidance.
        gan: of the discriminator; None does without.
        warm_up: what comes first.
        average_decay: of the moving average of the student that is exported.
    """

    student: OptimiserConfig
    fake: OptimiserConfig
    sampling: DistilledSampling = field(default_factory=DistilledSampling)
    guidance: ScoreGuidance = field(default_factory=ScoreGuidance)
    num_fake_updates: int = 5
    shift: float = 2.0
    lowest_level: float = 0.02
    highest_level: float = 0.98
    audio_weight: float = 1.5
    shares: ConditionShares = field(default_factory=lambda: ConditionShares(dropped_text=0))
    gan: GanConfig | None = None
    warm_up: WarmUpConfig = field(default_factory=WarmUpConfig)
    average_decay: float = 0.99

    def __post_init__(self) -> None:
        require_decay(self.average_decay)
        if self.fake.num_steps != self.student.num_steps:
            raise ValueError(
                f"fake.num_steps must be {self.student.num_steps}, as student's, got {self.fake.num_steps}"
            )
        if self.warm_up.num_steps >= self.student.num_steps:
            allowed = f"less than {self.student.num_steps}, the steps of student"
            raise ValueError(f"warm_up.num_steps must be {allowed}, got {self.warm_up.num_steps}")
        if not self.num_fake_updates >= 1:
            raise ValueError(f"num_fake_updates must be at least 1, got {self.num_fake_updates!r}")
        if not self.shift > 0:
            raise ValueError(f"shift must be more than 0, got {self.shift!r}")
        if not 0 < self.lowest_level < self.highest_level <= 1:
            levels = f"{self.lowest_level!r} and {self.highest_level!r}"
            raise ValueError(f"lowest_level and highest_level must rise between 0 and 1, got {levels}")
        if not self.audio_weight >= 0:
            raise ValueError(f"audio_weight must be at least 0, got {self.audio_weight!r}")
        if self.shares.dropped_text:
            raise ValueError(f"shares.dropped_text must be 0 for distillation, got {self.shares.dropped_text!r}")


@dataclass(frozen=True)
class DistillationNetworks:
    """The networks of a distillation, all whole or all sharded.

    Attributes:
        student: becomes the distilled model.
        real: score of the real clips, which stays as it is.
        fake: score of the student's clips.
        discriminator: tells both apart, or None.
    """

    student: Transformer
    real: Transformer
    fake: Transformer
    discriminator: Discriminator | None = None

    @classmethod
    def from_base(
        cls,
        config: TransformerConfig,
        tensors: Mapping[str, Tensor],
        has_discriminator: bool,
        generator: torch.Generator,
        compute_dtype: torch.dtype = torch.bfloat16,
        place: Place = ON_CPU,
    ) -> DistillationNetworks:
        """All three begin as the base model, and are made of its tensors one after the other.

        Args:
            config: the base model.
            tensors: its weights, on the CPU; they are copied.
            has_discriminator: whether to make one.
            generator: source of the discriminator's first weights.
            compute_dtype: of the products inside the blocks; the weights of student and fake score are float32.
            place: where they shall be.

        Raises:
            ValueError: if the tensors are not those of the network.
        """
        student = trained_transformer(config, tensors, compute_dtype, place=place)
        real = frozen_transformer(config, tensors, compute_dtype, place=place)
        fake = trained_transformer(config, tensors, compute_dtype, place=place)
        head = Discriminator(config.hidden_size, generator) if has_discriminator else None
        if head is not None:
            move_small(head, place)
        return cls(student, real, fake, head)

    def critics(self) -> Iterator[nn.Module]:
        """What is trained beside the student."""
        yield self.fake
        if self.discriminator is not None:
            yield self.discriminator
