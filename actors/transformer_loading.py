"""A Transformer as the actors of two pools run it."""

from __future__ import annotations

from actors.stage import Compute
from model.checkpoint import Checkpoint
from model.compilation import compile_transformer
from model.geometry import ClipLength, latent_size
from model.packing import SequenceLayout
from model.transformer import Transformer

_NUM_TEXT_TOKENS = 300
"""Of a usual prompt; the release's own prompts have about as many."""


def load_transformer(compute: Compute, checkpoint: Checkpoint, variant: str, resolution: str) -> Transformer:
    """Load one of a checkpoint's Transformers, and compile it where that is asked for.

    Args:
        compute: where and how it computes.
        checkpoint: which has it.
        variant: "base", "distill", "sr_540p" or "sr_1080p".
        resolution: label of the clips' pixel size; kernels are chosen for a clip of this and of the usual length.

    Raises:
        CheckpointError: if it is absent or not sound.
        CompileError: if it cannot be compiled.
        ValueError: if the device has no 8-bit products and they are asked for.
    """
    transformer = checkpoint.transformer(variant, compute.dtype, compute.torch_device, compute.is_fp8)
    capabilities = checkpoint.capabilities
    aspect = next(aspect for label, aspect in capabilities.pixel_sizes if label == resolution)
    length = ClipLength.from_seconds(capabilities.default_seconds)
    height, width = latent_size(*capabilities.pixel_size(resolution, aspect))
    typical = SequenceLayout(length.num_video_latents, height, width, length.num_audio_latents, _NUM_TEXT_TOKENS)
    compile_transformer(transformer, typical, compute.compiler, compute.compile_cache)
    return transformer
