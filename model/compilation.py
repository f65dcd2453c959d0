"""Networks compiled to one graph each. A graph takes any clips: prompts, lengths and sizes do not compile anew."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from model.graph_cache import CompileCache, CompileError, load_or_compile
from model.opaque_attention import OpaqueAttention
from model.packing import SequenceLayout
from model.transformer import Attention, Transformer, call_layer
from model.turbo_vae import TurboVAEDecoder, WindowDecoder

Compiler = Literal["none", "torch", "magi_compiler"]
COMPILERS: tuple[Compiler, ...] = ("none", "torch", "magi_compiler")

_INPUTS = ("video_VC", "audio_AC", "text_LC", "rope_NR", "clips_5S")
"""Arguments of `Transformer.velocities`; the length of each is left open in the graph."""


def compile_transformer(
    transformer: Transformer, example: SequenceLayout, compiler: Compiler, cache: CompileCache | None = None
) -> None:
    """Let a compiled graph run a Transformer from now on, in inference mode; it is run once on the example.

    Args:
        transformer: on its device, with its weights.
        example: a typical clip; any other clips, and any number of them, run in the same graph.
        compiler: "torch" for torch.compile, "magi_compiler" for SandAI's package, "none" for neither.
        cache: where the graph is looked for and kept; by default nowhere. `magi_compiler` keeps its own.

    Raises:
        CompileError: if the compiler is not there or fails.
    """
    if compiler == "none":
        return
    attentions = [module for module in transformer.modules() if isinstance(module, Attention)]
    for attention in attentions:
        if not isinstance(attention.backend, OpaqueAttention):
            attention.backend = OpaqueAttention(attention.backend)
    if compiler == "magi_compiler":
        transformer.compiled = _with_magi_compiler(transformer)
        return
    # Layers of one kind are compiled once: a fifth of the time for 40 layers.
    transformer.block.run_layer = torch.compiler.nested_compile_region(call_layer)
    inputs = _example_inputs(transformer, example)
    facts = {
        "network": repr(transformer),
        "config": asdict(transformer.config),
        "tensors": [(name, list(t.shape), str(t.dtype)) for name, t in transformer.state_dict().items()],
        "attention": attentions[0].backend.name,
        "example": [len(tensor) for tensor in inputs],
    }
    open_dims = dict.fromkeys(range(1, 1 + len(inputs)), (0,))
    function = load_or_compile(Transformer.velocities, (transformer, *inputs), open_dims, facts, cache)
    transformer.compiled = partial(function, transformer)


def compile_video_decoder(
    decoder: TurboVAEDecoder, latent_size: tuple[int, int], compiler: Compiler, cache: CompileCache | None = None
) -> None:
    """Let compiled graphs decode a clip's windows from now on, in inference mode.

    For GPUs: on a CPU, PyTorch chooses the layout of a convolution's result by its size, and a graph made for another
    size takes that for an error.

    Args:
        decoder: on its device, with its weights.
        latent_size: (H, W) of a usual clip; any other clips run in the same graphs.
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
            "first": is_first,
        }
        function = load_or_compile(WindowDecoder.forward, (network, z_1CTHW, is_first), {1: (2, 3, 4)}, facts, cache)
        compiled[is_first] = partial(_decode, function, network, is_first)
    decoder.compiled = compiled


def _decode(function: Callable[..., Tensor], network: WindowDecoder, is_first: bool, z_1CTHW: Tensor) -> Tensor:
    return function(network, z_1CTHW, is_first)


def _example_inputs(transformer: Transformer, example: SequenceLayout) -> tuple[Tensor, ...]:
    """Inputs of which no two have the same length: the graph would take that for a rule."""
    config, device = transformer.config, transformer.device
    num_text = example.num_text
    while True:
        num_video, num_audio, _ = example.token_counts
        counts = (num_video, num_audio, num_text, num_video + num_audio + num_text, 5)
        if len(set(counts)) == len(counts):
            break
        num_text += 1
    layout = SequenceLayout(
        example.latent_frames, example.latent_height, example.latent_width, example.num_audio, num_text
    )
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
