"""Transformers that are trained: float32 weights, products in the dtype of inference, and the way to a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from model.attention import AttentionBackend
from model.training.replicas import Replicas
from model.training.sharding import ON_CPU, Place, fill
from model.transformer import RotaryEmbedding, Transformer
from model.transformer_config import TransformerConfig


def new_transformer(
    config: TransformerConfig,
    generator: torch.Generator,
    compute_dtype: torch.dtype = torch.bfloat16,
    attention: AttentionBackend | None = None,
    place: Place = ON_CPU,
) -> Transformer:
    """Make a network to train from nothing; sharded or not, it has the same weights.

    Inputs keep their variance; what is added to the residual stream is smaller the more layers add to it; the first
    prediction is zero.

    Args:
        config: what to build.
        generator: source of the first weights.
        compute_dtype: of the products inside the block; the weights are float32.
        attention: attention implementation, torch's by default.
        place: where it shall be.
    """
    transformer = on_meta(config, compute_dtype, attention)
    fill(transformer, _first_weights(config, generator), place)
    return transformer


def trained_transformer(
    config: TransformerConfig,
    tensors: Mapping[str, Tensor],
    compute_dtype: torch.dtype = torch.bfloat16,
    place: Place = ON_CPU,
) -> Transformer:
    """Make a network to train on from a checkpoint's tensors, which it copies.

    Raises:
        ValueError: if the tensors are not those of the network.
    """
    transformer = on_meta(config, compute_dtype)
    fill(transformer, tensors.items(), place)
    return transformer


def frozen_transformer(
    config: TransformerConfig,
    tensors: Mapping[str, Tensor],
    compute_dtype: torch.dtype = torch.bfloat16,
    place: Place = ON_CPU,
) -> Transformer:
    """Make a network that is run beside others that are trained: each of its weights is in the dtype it is used in.

    Raises:
        ValueError: if the tensors are not those of the network.
    """
    transformer = on_meta(config, compute_dtype, weight_dtype=compute_dtype).eval().requires_grad_(False)
    fill(transformer, tensors.items(), place)
    return transformer


def on_meta(
    config: TransformerConfig,
    compute_dtype: torch.dtype = torch.bfloat16,
    attention: AttentionBackend | None = None,
    weight_dtype: torch.dtype = torch.float32,
) -> Transformer:
    """A network without numbers; its linear layers inside the block keep their weights in `weight_dtype`."""
    with torch.device("meta"):
        return Transformer(config, compute_dtype, attention, weight_dtype)


def _first_weights(config: TransformerConfig, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
    """Name and value of every tensor, in the order in which they are drawn."""
    for name, parameter in on_meta(config).named_parameters():
        weight = torch.empty(parameter.shape)
        if name.startswith("final_linear") or name.endswith("bias") or "norm" in name:
            nn.init.zeros_(weight)
        else:
            adds_to_stream = name.endswith(("linear_proj.weight", "down_proj.weight"))
            share = (2 * config.num_layers) ** -0.5 if adds_to_stream else 1.0
            nn.init.normal_(weight, std=share * weight.shape[1] ** -0.5, generator=generator)
        yield name, weight
    yield "adapter.rope.bands", RotaryEmbedding(config.head_dim).bands


def checkpoint_tensors(
    config: TransformerConfig, tensors: Mapping[str, Tensor], replicas: Replicas
) -> dict[str, Tensor]:
    """Tensors in the dtypes a checkpoint has them: linear layers inside the block in bfloat16, all others in float32.

    Sharded ones are put together one at a time, so that a device has no more than one of them whole.

    Args:
        config: the network they belong to.
        tensors: float32, by name.
        replicas: the workers of the run, all of which must call this.

    Returns:
        All tensors, on the CPU, on the first worker; nothing on the others.
    """
    expected = on_meta(config, weight_dtype=torch.bfloat16).state_dict()
    gathered = ((name, replicas.gathered(tensors[name], target.dtype)) for name, target in expected.items())
    return {name: tensor for name, tensor in gathered if tensor is not None}
