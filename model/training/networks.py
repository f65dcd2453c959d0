"""Transformers that are trained: float32 weights, products in the dtype of inference, and the way to a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy

import torch
from torch import Tensor, nn

from model.attention import AttentionBackend
from model.experts import ExpertLinear
from model.training.replicas import Replicas
from model.transformer import Transformer
from model.transformer_config import TransformerConfig


def new_transformer(
    config: TransformerConfig,
    generator: torch.Generator,
    compute_dtype: torch.dtype = torch.bfloat16,
    attention: AttentionBackend | None = None,
) -> Transformer:
    """Make a network to train from nothing, on the CPU.

    Inputs keep their variance; what is added to the residual stream is smaller the more layers add to it; the first
    prediction is zero.

    Args:
        config: what to build.
        generator: source of the first weights.
        compute_dtype: of the products inside the block; the weights are float32.
        attention: attention implementation, torch's by default.
    """
    transformer = Transformer(config, compute_dtype, attention, weight_dtype=torch.float32)
    for name, parameter in transformer.named_parameters():
        if name.startswith("final_linear") or name.endswith("bias") or "norm" in name:
            torch.nn.init.zeros_(parameter)
        else:
            adds_to_stream = name.endswith(("linear_proj.weight", "down_proj.weight"))
            share = (2 * config.num_layers) ** -0.5 if adds_to_stream else 1.0
            torch.nn.init.normal_(parameter, std=share * parameter.shape[1] ** -0.5, generator=generator)
    return transformer


def trained_transformer(
    config: TransformerConfig,
    tensors: Mapping[str, Tensor],
    compute_dtype: torch.dtype = torch.bfloat16,
    attention: AttentionBackend | None = None,
) -> Transformer:
    """Make a network to train on from a checkpoint's tensors, on the CPU.

    Raises:
        RuntimeError: if the tensors are not those of the network.
    """
    with torch.device("meta"):
        transformer = Transformer(config, compute_dtype, attention, weight_dtype=torch.float32)
    transformer.load_state_dict({n: t.detach().float().clone() for n, t in tensors.items()}, strict=True, assign=True)
    return transformer


def frozen_copy(transformer: Transformer) -> Transformer:
    """The same network with weights of its own that are not trained, each in the dtype it is used in."""
    copy = deepcopy(transformer).eval()
    for module in copy.modules():
        if isinstance(module, ExpertLinear):
            module.weight = nn.Parameter(module.weight.detach().to(module.compute_dtype))
    return copy.requires_grad_(False)


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
    with torch.device("meta"):
        expected = Transformer(config).state_dict()
    gathered = ((name, replicas.gathered(tensors[name], target.dtype)) for name, target in expected.items())
    return {name: tensor for name, tensor in gathered if tensor is not None}
