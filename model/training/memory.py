"""Dry run of training: how much memory each GPU needs, for any size, without a GPU and without a weight.

Networks are built and run on the meta device. Counted are the tensors of PyTorch; the CUDA context, buffers of NCCL and
gaps between the allocator's blocks are not, for which a few GB per GPU should stay free. Neither is what an optimiser
makes within its step, which with Muon is as much as its matrices twice, when activations are gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from model.packing import PackedLayout, SequenceLayout
from model.peak_memory import AttentionWithoutNumbers, PeakMemory
from model.training.discriminator import Discriminator
from model.training.muon import muon_groups
from model.training.networks import on_meta
from model.training.optimiser import Method
from model.transformer import Transformer
from model.transformer_config import TransformerConfig

FLOAT32_BYTES = 4
NUM_GATHERED = 2
"""Layers that are whole at the same time: the one that runs and the next, which is fetched meanwhile."""


@dataclass(frozen=True)
class TrainingMemory:
    """What one GPU holds at the worst moment, in bytes.

    Attributes:
        parameters_bytes: its shards of all networks.
        gradients_bytes: its shards of the gradients of those that are trained.
        optimiser_bytes: both moments of AdamW; of the matrices that Muon trains, the one of Muon.
        average_bytes: the moving average that is exported.
        gathered_bytes: layers that are whole: weights of the one that runs and of the next, and the gradient of one,
            twice while it is handed over.
        activations_bytes: what passes between the layers, one layer's own while it is run again, and all temporaries,
            as measured.
    """

    parameters_bytes: int
    gradients_bytes: int
    optimiser_bytes: int
    average_bytes: int
    gathered_bytes: int
    activations_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return sum(getattr(self, field.name) for field in fields(self))


def base_training_memory(
    config: TransformerConfig,
    layouts: Sequence[SequenceLayout],
    num_gpus: int,
    recomputes_layers: bool = True,
    compute_dtype: torch.dtype = torch.bfloat16,
    method: Method = "adamw",
) -> TrainingMemory:
    """Memory of flow matching or super-resolution training, sharded as `model.training.sharding` does it.

    Args:
        config: the network.
        layouts: the clips that one GPU takes in one step.
        num_gpus: over which the network is sharded.
        recomputes_layers: run layers again for their gradients instead of keeping what they need.
        compute_dtype: of the products inside the block; the weights are float32.
        method: of the optimiser.

    Raises:
        ValueError: if `num_gpus` is less than 1, there is no clip, or Muon shall train what is sharded.
    """
    _require_gpus(num_gpus)
    network = _without_numbers(config, recomputes_layers, compute_dtype)
    shard, moments = shard_bytes(network, num_gpus), moments_bytes([network], num_gpus, method)
    run = _measure(network, layouts, has_gradient=True)
    return TrainingMemory(shard, shard, moments, shard, gathered_bytes(network), run.peak_bytes)


def distillation_memory(
    config: TransformerConfig,
    layouts: Sequence[SequenceLayout],
    num_gpus: int,
    has_discriminator: bool = False,
    num_steps: int = 8,
    recomputes_layers: bool = True,
    compute_dtype: torch.dtype = torch.bfloat16,
    student_method: Method = "adamw",
    fake_method: Method = "adamw",
) -> TrainingMemory:
    """Memory of distillation: student and fake score are trained, the real score is only run.

    Args:
        config: the networks, which are alike.
        layouts: the clips that one GPU takes in one step.
        num_gpus: over which all three are sharded.
        has_discriminator: whether there is one; the fake score then sees real clips besides.
        num_steps: of the student's sampler, all of which are kept.
        recomputes_layers: run layers again for their gradients instead of keeping what they need.
        compute_dtype: of the products inside the blocks, and of the real score's weights there.
        student_method: of the student's optimiser.
        fake_method: of the optimiser of fake score and discriminator.

    Raises:
        ValueError: if `num_gpus` is less than 1, there is no clip, or Muon shall train what is sharded.
    """
    _require_gpus(num_gpus)
    network = _without_numbers(config, recomputes_layers, compute_dtype)
    critics: list[nn.Module] = [network]
    if has_discriminator:
        with torch.device("meta"):
            critics.append(Discriminator(config.hidden_size, torch.Generator()))
    average = shard_bytes(network, num_gpus)
    trained = average + sum(shard_bytes(critic, num_gpus) for critic in critics)
    moments = moments_bytes([network], num_gpus, student_method) + moments_bytes(critics, num_gpus, fake_method)
    parameters = trained + shard_bytes(on_meta(config, compute_dtype, weight_dtype=compute_dtype), num_gpus)
    twice = [*layouts, *layouts]
    alone, together = _measure(network, layouts, has_gradient=True), _measure(network, twice, has_gradient=False)
    of_critics = _measure(network, twice, has_gradient=True) if has_discriminator else alone
    # While the scores look at the student's clips, what its own gradient needs is waiting.
    scores = max(together.peak_bytes, alone.peak_bytes if has_discriminator else 0)
    activations = max(of_critics.peak_bytes, alone.kept_bytes + scores) + _trajectory_bytes(config, layouts, num_steps)
    return TrainingMemory(parameters, trained, moments, average, gathered_bytes(network), activations)


def shard_bytes(module: nn.Module, num_gpus: int) -> int:
    """The most that one GPU holds of a module's parameters, each divided along its first dim."""
    return sum(
        -(-parameter.shape[0] // num_gpus) * (parameter.nbytes // parameter.shape[0])
        for parameter in module.parameters()
    )


def moments_bytes(modules: Sequence[nn.Module], num_gpus: int, method: Method) -> int:
    """What one GPU holds of an optimiser's moments: two for each parameter, one for those that Muon trains.

    Raises:
        ValueError: if Muon shall train what is sharded; it needs whole matrices.
    """
    if method == "muon" and num_gpus > 1:
        raise ValueError(f"method must be adamw over {num_gpus} GPUs, got muon")
    two_of_each = 2 * sum(shard_bytes(module, num_gpus) for module in modules)
    groups = muon_groups(modules) if method == "muon" else []
    return two_of_each - sum(parameter.nbytes for group in groups for parameter in group["params"])


def gathered_bytes(network: Transformer) -> int:
    """What is whole at the same time: weights of the largest layers, and the gradient of one, twice."""
    layers = [sum(parameter.nbytes for parameter in layer.parameters()) for layer in network.block.layers]
    return (NUM_GATHERED + 2) * max(layers)


@dataclass(frozen=True)
class _Run:
    """Bytes at the worst moment, and those kept between the forward and the backward pass."""

    peak_bytes: int
    kept_bytes: int


def _without_numbers(config: TransformerConfig, recomputes_layers: bool, compute_dtype: torch.dtype) -> Transformer:
    network = on_meta(config, compute_dtype, AttentionWithoutNumbers())
    network.block.recomputes_layers = recomputes_layers
    return network


def _measure(network: Transformer, layouts: Sequence[SequenceLayout], has_gradient: bool) -> _Run:
    """Run a network forwards, and backwards where there is a gradient; gradients of parameters are not kept."""

    def forget_gradient(parameter: Tensor) -> None:
        parameter.grad = None

    hooks = [parameter.register_post_accumulate_grad_hook(forget_gradient) for parameter in network.parameters()]
    kept = [*network.parameters(), *network.buffers()]
    with PeakMemory(without=kept) as memory, torch.device("meta"), torch.set_grad_enabled(has_gradient):
        positions = network.positions(layouts)
        channels = (network.config.video_channels, network.config.audio_channels, network.config.text_channels)
        tokens = [
            torch.empty(count, width)
            for count, width in zip(PackedLayout(tuple(layouts)).token_counts, channels, strict=True)
        ]
        video_VC, audio_AC = network(*tokens, positions, torch.empty(len(layouts)))
        kept_bytes = memory.live_bytes
        if has_gradient:
            (video_VC.square().mean() + audio_AC.square().mean()).backward()
    for hook in hooks:
        hook.remove()
    return _Run(memory.peak_bytes, kept_bytes)


def _trajectory_bytes(config: TransformerConfig, layouts: Sequence[SequenceLayout], num_steps: int) -> int:
    """What `model.sampling.distilled_steps` gives: noisy and clean clips of every step, and the result."""
    numbers = sum(clip.num_video * config.video_channels + clip.num_audio * config.audio_channels for clip in layouts)
    return (2 * num_steps + 1) * numbers * FLOAT32_BYTES


def _require_gpus(num_gpus: int) -> None:
    if num_gpus < 1:
        raise ValueError(f"num_gpus must be at least 1, got {num_gpus!r}")
