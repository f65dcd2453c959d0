"""Networks compiled to one graph each. A graph takes any clips: prompts, lengths and sizes do not compile anew."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import lru_cache, partial
from typing import Any, Literal

import torch
from torch import Tensor

from model.experts import ExpertLinear
from model.graph_cache import CompileCache, CompileError, load_or_compile
from model.opaque_attention import OpaqueAttention
from model.packed_linear import PackedExpertLinear
from model.packing import SequenceLayout
from model.transformer import Attention, Transformer, call_layer
from model.turbo_vae import TurboVAEDecoder, WindowDecoder

Compiler = Literal["none", "torch", "magi_compiler"]
COMPILERS: tuple[Compiler, ...] = ("none", "torch", "magi_compiler")

_INT32_MAX = 2**31 - 1
"""Kernels count with 32 bits where the example lets them, and nothing checks later sizes."""

_INPUTS = ("video_VC", "audio_AC", "text_LC", "rope_NR", "clips_5S")
"""Arguments of `Transformer.velocities`; the length of each is left open in the graph."""


def compile_transformer(
    transformer: Transformer, example: SequenceLayout, compiler: Compiler, cache: CompileCache | None = None
) -> None:
    """Let a compiled graph run a Transformer from now on, in inference mode; it is run once on the example.

    One that is told noise levels stays as it is. Sequences so long that a tensor has more numbers than 32 bits count
    run in a second graph, which is compiled when the first of them comes.

    Args:
        transformer: on its device, with its weights.
        example: a typical clip; any other clips, and any number of them, run in the same graph.
        compiler: "torch" for torch.compile, "magi_compiler" for SandAI's package, "none" for neither.
        cache: where the graph is looked for and kept; by default nowhere. `magi_compiler` keeps its own.

    Raises:
        CompileError: if the compiler is not there or fails.
    """
    if compiler == "none" or transformer.config.timestep_embedding:
        return
    attentions = [module for module in transformer.modules() if isinstance(module, Attention)]
    for attention in attentions:
        if not isinstance(attention.backend, OpaqueAttention):
            attention.backend = OpaqueAttention(attention.backend)
    if compiler == "magi_compiler":
        transformer.compiled = _with_magi_compiler(transformer)
        return
    # Layers of one kind are compiled once: 43 instead of 81 s for 12 layers on a CPU.
    transformer.block.run_layer = torch.compiler.nested_compile_region(call_layer)
    most_tokens = _INT32_MAX // _widest(transformer)
    frames = -(-(most_tokens + 1) // example.tokens_per_frame)
    examples = {False: example, True: replace(example, latent_frames=max(frames, example.latent_frames))}
    facts = {
        "network": repr(transformer),
        "config": asdict(transformer.config),
        "tensors": [(name, list(t.shape), str(t.dtype)) for name, t in transformer.state_dict().items()],
        "attention": attentions[0].backend.name,
    }
    open_dims = dict.fromkeys(range(1, 1 + len(_INPUTS)), (0,))

    @lru_cache
    def graph(is_large: bool) -> Callable[..., tuple[Tensor, Tensor]]:
        inputs = _example_inputs(transformer, examples[is_large])
        about = {**facts, "example": [len(tensor) for tensor in inputs]}
        return load_or_compile(Transformer.velocities, (transformer, *inputs), open_dims, about, cache)

    def run(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        rope_NR = tensors[3]
        return graph(len(rope_NR) > most_tokens)(transformer, *tensors)

    graph(example.num_tokens > most_tokens)
    transformer.compiled = run


def _widest(transformer: Transformer) -> int:
    """Numbers that a token has in the widest tensor."""
    sizes: list[int] = []
    for module in transformer.modules():
        if isinstance(module, PackedExpertLinear):
            sizes += module.weight_EFC.shape[1:]
        elif isinstance(module, ExpertLinear):
            sizes += module.weight.unflatten(0, (module.num_experts, -1)).shape[1:]
    return max(sizes)


def compile_video_decoder(
    decoder: TurboVAEDecoder, latent_size: tuple[int, int], compiler: Compiler, cache: CompileCache | None = None
) -> None:
    """Let compiled graphs decode a clip's windows from now on, in inference mode.

    For GPUs: on a CPU, PyTorch chooses the layout of a convolution's result by its size, and a graph made for another
    size takes that for an error.

    Args:
        decoder: on its device, with its weights.
        latent_size: (H, W) of the largest clip; smaller ones run in the same graphs, larger ones without.
        compiler: anything but "none" is torch.compile here: `magi_compiler` is for Transformers.
        cache: where the graphs are looked for and kept; by default nowhere.

    Raises:
        CompileError: if the compiler is not there or fails.
    """
    if compiler == "none":
        return
    network, config = decoder.decoder, decoder.config
    weight = network.conv_in.conv.weight
    height, width = latent_size
    width += 2 * (height == width)  # equal lengths would be taken for a rule
    compiled = {}
    for is_first in (True, False):
        # With a latent frame of context on the sides where there is one; never as many frames as rows, which are even.
        num_frames = (config.first_chunk_size if is_first else config.step_size + 1) + 1
        num_frames += 1 - num_frames % 2
        z_1CTHW = torch.randn(1, config.latent_channels, num_frames, height, width).to(weight)
        facts = {
            "network": repr(network),
            "dtype": str(weight.dtype),
            "example": list(z_1CTHW.shape),
            "config": asdict(config),
            "first": is_first,
        }
        function = load_or_compile(WindowDecoder.forward, (network, z_1CTHW, is_first), {1: (2, 3, 4)}, facts, cache)
        compiled[is_first] = partial(_decode, function, network, is_first, z_1CTHW.numel())
    decoder.compiled = compiled


def _decode(
    function: Callable[..., Tensor], network: WindowDecoder, is_first: bool, most_numbers: int, z_1CTHW: Tensor
) -> Tensor:
    # Larger windows might have more numbers than the graph counts, see `compile_transformer`.
    if z_1CTHW.numel() > most_numbers:
        return network(z_1CTHW, is_first)
    return function(network, z_1CTHW, is_first)


def _example_inputs(transformer: Transformer, example: SequenceLayout) -> tuple[Tensor, ...]:
    """Inputs of which no two have the same length: the graph would take that for a rule."""
    config, device = transformer.config, transformer.device
    layout = example
    while True:
        counts = (*layout.token_counts, layout.num_tokens, 5)
        if len({1, *counts}) == 1 + len(counts):
            break
        frames, num_audio, num_text = layout.latent_frames + 1, layout.num_audio + 2, layout.num_text + 3
        layout = replace(layout, latent_frames=frames, num_audio=num_audio, num_text=num_text)
    positions = transformer.positions([layout])
    widths = (config.video_channels, config.audio_channels, config.text_channels)
    tokens = [torch.randn(count, width).to(device) for count, width in zip(counts, widths, strict=False)]
    return (*tokens, positions.rope_NR, positions.clips_5S)


def _with_magi_compiler(transformer: Transformer) -> Any:
    try:
        magi_compile = importlib.import_module("magi_compiler").magi_compile
    except ImportError as error:
        raise CompileError(f"compiler is magi_compiler, which does not load: {error}") from error
    return magi_compile(transformer.velocities, dynamic_arg_dims=dict.fromkeys(_INPUTS, 0), model_tag="magihuman")
