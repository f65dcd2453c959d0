"""The head that tells real clips from a student's, on what the fake score has understood of them at some noise.

Legend: S clips; V A video and audio tokens of all clips; D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from model.packing import SequenceLayout
from model.transformer import Transformer


@contextmanager
def watched_features(transformer: Transformer) -> Iterator[list[Tensor]]:
    """Collect what a forward pass ends with before the output layers: normalised video (V, D), then audio (A, D)."""
    features: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        features.append(output)

    norms = (transformer.final_norm_video, transformer.final_norm_audio)
    handles = [norm.register_forward_hook(keep) for norm in norms]
    try:
        yield features
    finally:
        for handle in handles:
            handle.remove()


class Discriminator(nn.Module):
    """One logit for the video and one for the audio of each clip: more than 0 where it looks real.

    Args:
        hidden_size: D.
        generator: source of the first weights.
    """

    def __init__(self, hidden_size: int, generator: torch.Generator):
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(hidden_size, hidden_size), nn.SiLU(), nn.Linear(hidden_size, 1)) for _ in range(2)
        )
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5, generator=generator)

    def forward(self, features: Sequence[Tensor], layouts: Sequence[SequenceLayout]) -> Tensor:
        """Return logits (S, 2), each the mean over the tokens of a clip's video or audio.

        Args:
            features: from `watched_features`.
            layouts: of the clips, in their order.
        """
        counts = zip(*((layout.num_video, layout.num_audio) for layout in layouts), strict=True)
        logits = zip(self.heads, features, counts, strict=True)
        means = [[part.mean() for part in head(x_ND).squeeze(1).split(parts)] for head, x_ND, parts in logits]
        return torch.stack([torch.stack(modality) for modality in means], dim=1)
