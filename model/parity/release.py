"""Names and shapes of the full-size networks against `release_shapes.json`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from model.parity.report import GoldenSet, Group, Pair
from model.transformer import Transformer
from model.turbo_vae import TurboVAEConfig, TurboVAEDecoder
from model.variants import release_config

FILES = ("release_shapes.json",)


def release_groups(golden: GoldenSet) -> Iterator[Group]:
    """One group per network; a name that only one side has is an error of its own, not a shape."""
    raw = golden.config(FILES[0])

    def full_transformer() -> nn.Module:
        return Transformer(release_config("base"))

    def full_turbo_vae() -> nn.Module:
        return TurboVAEDecoder(TurboVAEConfig.from_dict(raw["turbo_vae_config"]))

    builders: dict[str, tuple[str, Callable[[], nn.Module]]] = {
        "dit": ("release.transformer", full_transformer),
        "turbo_vae": ("release.turbo_vae", full_turbo_vae),
    }
    for key, (name, build) in builders.items():

        def pairs(key: str = key, build: Callable[[], nn.Module] = build) -> Iterable[Pair]:
            with torch.device("meta"):
                tensors = build().state_dict()
            return list(_shape_pairs(tensors, raw[key]))

        if key in raw:
            yield Group(name, pairs)


def _shape_pairs(tensors: Mapping[str, Tensor], recorded: Mapping[str, Any]) -> Iterator[Pair]:
    if differing := sorted(tensors.keys() ^ recorded.keys()):
        raise ValueError(f"{len(differing)} names are on one side only, first: {differing[:3]}")
    for name, (shape, _) in recorded.items():
        if list(tensors[name].shape) != shape:
            raise ValueError(f"{name} has shape {list(tensors[name].shape)} instead of the recorded {shape}")
        yield Pair(torch.tensor(tensors[name].shape), torch.tensor(shape))
