"""GPU memory that a network needs to run: its weights, and the most that its activations take at the same time.

Nothing is allocated: networks are built, and where that says it exactly run, on the meta device.

Legend: N tokens of a sequence; D hidden size; V video, A audio and L text tokens of a clip.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal

import torch
from torch import nn

from model.packed_linear import LinearFormat, pack_linears
from model.packing import PackedLayout, SequenceLayout
from model.peak_memory import AttentionWithoutNumbers, PeakMemory
from model.transformer import Transformer
from model.transformer_config import TransformerConfig

Precision = Literal["bf16", "fp32", "fp8"]

CONTEXT_BYTES = 1_000_000_000
"""Of each process on a GPU: the CUDA context with its loaded kernels, about 0.3 to 0.5 GB since they are loaded when
they are first used (PyTorch's maintainers in pytorch/pytorch#107667 and #109888), and workspaces of cuBLAS and cuDNN.
An estimate, not measured here."""

ALLOCATOR_SHARE = 0.1
"""Of the activations, on top: blocks of PyTorch's caching allocator that are larger than what lies in them, and gaps
between them. An estimate, not measured here."""

SAMPLER_LATENTS = 10
"""How many times a sampler holds the clip's latents in float32 while the Transformer runs: noise, state, solver's
memory, velocities. A test counts them."""

PENDING_UPDATES = 3
"""Updates of the residual stream that compiled code keeps unsummed beside it: inductor writes a sum down when five
tensors would have to be read for it (`torch._inductor.config.realize_reads_threshold` is 4)."""

PROMPT_TOKENS = 1280
"""Length of the longest prompt that is planned for; twice what steers a clip."""

_FLOAT32_BYTES = 4
DTYPES: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp8": torch.bfloat16}
"""What is not 8 bits wide under fp8 is bfloat16."""


@dataclass(frozen=True)
class NetworkMemory:
    """What one network takes on a GPU.

    Attributes:
        weights_bytes: parameters and buffers.
        activations_bytes: the most that lives at the same time while it runs, inputs included.
    """

    weights_bytes: int
    activations_bytes: int


def process_bytes(networks: Sequence[NetworkMemory], activations_bytes: int) -> int:
    """What a process takes on its GPU, with the reserve for what PyTorch's tensors do not tell.

    Args:
        networks: whose weights it holds.
        activations_bytes: the most that lives at the same time in it.
    """
    weights_bytes = sum(network.weights_bytes for network in networks)
    return CONTEXT_BYTES + weights_bytes + round((1 + ALLOCATOR_SHARE) * activations_bytes)


def transformer_memory(
    config: TransformerConfig, clips: Sequence[SequenceLayout], precision: Precision, is_compiled: bool
) -> NetworkMemory:
    """A Transformer at work in a sampler.

    Args:
        config: the network.
        clips: that share its sequence; under guidance each twice.
        precision: of its linear layers.
        is_compiled: whether torch.compile made one graph of it, see `compiled_activations_bytes`.

    Raises:
        ValueError: if there is no clip.
    """
    pack = PackedLayout(tuple(clips))
    form: LinearFormat = "fp8" if precision == "fp8" else "packed"
    weights_bytes = held_bytes(_transformer_on_meta(config, precision, form))
    if is_compiled:
        activations_bytes = compiled_activations_bytes(config, pack, precision)
    else:
        activations_bytes = plain_activations_bytes(one_of_each_kind(config), pack, precision, form)
    numbers = sum(clip.num_video * config.video_channels + clip.num_audio * config.audio_channels for clip in clips)
    return NetworkMemory(weights_bytes, activations_bytes + SAMPLER_LATENTS * _FLOAT32_BYTES * numbers)


def plain_activations_bytes(
    config: TransformerConfig, pack: PackedLayout, precision: Precision, form: LinearFormat
) -> int:
    """Peak of a forward pass, operation by operation as written, inputs included; exact but for what kernels need.

    Args:
        config: the network.
        pack: the clips of its sequence.
        precision: of its linear layers.
        form: of their weights, see `model.packed_linear`.
    """
    network = _transformer_on_meta(config, precision, form)

    def run() -> None:
        positions = network.positions(pack.clips)
        counts = zip(pack.token_counts, _channels(config), strict=True)
        tokens = [torch.empty(count, channels) for count, channels in counts]
        network(*tokens, positions, torch.empty(len(pack.clips)))

    return peak_bytes(network, run)


def one_of_each_kind(config: TransformerConfig) -> TransformerConfig:
    """The same with a layer of each kind: its peak is the whole's, for layers of a kind take the same.

    The first layer stays the first: it alone runs on the very tensor that the embedders gave.
    """

    def kind(layer: int) -> tuple[bool, bool, bool]:
        return (
            layer in config.expert_layers,
            layer in config.gelu_layers,
            layer in config.local_attention_layers,
        )

    others = {kind(layer): layer for layer in range(1, config.num_layers)}
    kinds = [kind(layer) for layer in (*range(min(1, config.num_layers)), *others.values())]
    experts, gelu, local = (tuple(layer for layer, values in enumerate(kinds) if values[index]) for index in range(3))
    return replace(config, num_layers=len(kinds), expert_layers=experts, gelu_layers=gelu, local_attention_layers=local)


def compiled_activations_bytes(config: TransformerConfig, pack: PackedLayout, precision: Precision) -> int:
    """Peak of a forward pass in one compiled graph, inputs included.

    All element-wise work is fused into the kernels that read its results, so that between kernels there is only: the
    residual stream in float32 with updates not yet summed up (`PENDING_UPDATES`), the rotary numbers, and in turn

    - q, k, v and gates of one product, q and k rotated in float32, and what attention takes of them;
    - the same product for its gates, attention's inputs and its output, once more each where they are taken apart and
      put together, and the keys and values of one window;
    - the up projection and its activation, the most of all at the release's sizes. Under fp8 the activation is taken
      to be float32, in which its rows are scaled.

    A bound for all kinds of layers together; code for a GPU may fuse more.
    """
    width, kv_width = config.hidden_size, config.num_kv_heads * config.head_dim
    narrow, wide = DTYPES[precision].itemsize, _FLOAT32_BYTES
    is_split, is_local = len(pack.clips) > 1, bool(config.local_attention_layers)
    inputs = narrow * (width + 2 * kv_width)
    product = inputs + narrow * config.num_heads * config.attention_gates
    rotating = product + wide * (width + kv_width) + inputs
    attending = product + (1 + is_split) * inputs + (1 + is_split + is_local) * narrow * width
    activated = wide if precision == "fp8" else narrow
    projecting = max(narrow * up + activated * down for up, down in _mlp_widths(config))
    kept = wide * width + PENDING_UPDATES * narrow * width + wide * 6 * (config.head_dim // 8)
    window = 2 * narrow * kv_width * max(_window_tokens(clip, config.local_attention_radius) for clip in pack.clips)
    tokens = sum(count * channels for count, channels in zip(pack.token_counts, _channels(config), strict=True))
    per_token = kept + max(rotating, attending, projecting)
    return sum(pack.token_counts) * per_token + is_local * window + wide * tokens


def _mlp_widths(config: TransformerConfig) -> list[tuple[int, int]]:
    """Width of the up projection and of its activation, for each kind of MLP there is."""
    gated = int(config.hidden_size * 4 * 2 / 3) // 4 * 4
    widths = [(2 * gated, gated)] if len(set(config.gelu_layers)) < config.num_layers else []
    return widths + ([(4 * config.hidden_size, 4 * config.hidden_size)] if config.gelu_layers else [])


def _window_tokens(clip: SequenceLayout, radius: int) -> int:
    return min(clip.latent_frames, 2 * radius + 1) * clip.tokens_per_frame + clip.num_audio + clip.num_text


def _channels(config: TransformerConfig) -> tuple[int, int, int]:
    return config.video_channels, config.audio_channels, config.text_channels


def _transformer_on_meta(config: TransformerConfig, precision: Precision, form: LinearFormat) -> Transformer:
    with torch.device("meta"):
        network = Transformer(config, DTYPES[precision], AttentionWithoutNumbers())
        pack_linears(network, form)
    return network


def text_encoder_memory(
    config: Mapping[str, Any], shapes: Mapping[str, Sequence[int]], precision: Precision
) -> NetworkMemory:
    """T5Gemma's encoder at work on one prompt of `PROMPT_TOKENS`: a bound by its widths.

    Args:
        config: its `config.json`.
        shapes: of its tensors, see `model.text_encoder.expected_encoder_tensors`.
        precision: of its weights and products.
    """
    dtype_bytes, sizes = DTYPES[precision].itemsize, config["encoder"]
    weights_bytes = dtype_bytes * sum(map(prod, shapes.values()))
    # The stream and its copies beside an MLP; a prompt's scores and their softmax, which is float32.
    mlp = PROMPT_TOKENS * (8 * _FLOAT32_BYTES * sizes["hidden_size"] + 3 * dtype_bytes * sizes["intermediate_size"])
    scores = PROMPT_TOKENS**2 * sizes["num_attention_heads"] * (_FLOAT32_BYTES + 2 * dtype_bytes)
    return NetworkMemory(weights_bytes, mlp + scores)


def peak_bytes(network: nn.Module, run: Callable[[], None]) -> int:
    """The most that lives at the same time beside a network on the meta device while a function runs."""
    kept = [*network.parameters(), *network.buffers()]
    with torch.inference_mode(), torch.device("meta"), PeakMemory(without=kept) as memory:
        run()
    return memory.peak_bytes


def held_bytes(network: nn.Module) -> int:
    """All parameters and buffers of a network, wherever it is."""
    return sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))
