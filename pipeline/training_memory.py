"""The dry run of training: what each GPU must hold, from a recipe alone."""

from __future__ import annotations

from dataclasses import fields

from actors.training.recipe import (
    BaseRecipe,
    DistillationRecipe,
    Recipe,
    RecipeError,
    SuperResolutionRecipe,
    check_methods,
)
from model.geometry import ClipLength, latent_size
from model.packing import SequenceLayout
from model.training.memory import TrainingMemory, base_training_memory, distillation_memory
from model.transformer_config import TransformerConfig


def clip_layout(width: int, height: int, seconds: float, num_text: int) -> SequenceLayout:
    """Tokens of a clip.

    Args:
        width: of the picture that the network sees, in pixels.
        height: likewise.
        seconds: its length, 0.2 to 15.
        num_text: tokens of its prompt.

    Raises:
        ValueError: a size or the length is not possible.
    """
    length = ClipLength.from_seconds(seconds)
    rows, columns = latent_size(width, height)
    return SequenceLayout(length.num_video_latents, rows, columns, length.num_audio_latents, num_text)


def training_memory(
    recipe: Recipe, base_config: TransformerConfig, clip: SequenceLayout, num_workers: int
) -> TrainingMemory:
    """What one GPU holds at the worst moment of training a Transformer.

    Args:
        recipe: of the base model, super-resolution or distillation.
        base_config: what is distilled.
        clip: every clip of a batch.
        num_workers: GPUs of the run.

    Raises:
        RecipeError: the recipe is of an autoencoder, its batch cannot be shared out, or Muon cannot be sharded.
    """
    if not isinstance(recipe, BaseRecipe | SuperResolutionRecipe | DistillationRecipe):
        raise RecipeError(f"stage must be that of a Transformer for a dry run, got {recipe.stage}")
    if recipe.batch_size % num_workers:
        raise RecipeError(f"batch_size must be a multiple of the {num_workers} workers, got {recipe.batch_size}")
    check_methods(recipe)
    clips = [clip] * (recipe.batch_size // num_workers)
    num_gpus = num_workers if recipe.is_sharded else 1
    if isinstance(recipe, DistillationRecipe):
        training = recipe.training
        return distillation_memory(
            base_config,
            clips,
            num_gpus,
            training.gan is not None,
            training.sampling.num_steps,
            recipe.recomputes_layers,
            recipe.compute_dtype,
            training.student.method,
            training.fake.method,
        )
    method = recipe.training.optimiser.method
    return base_training_memory(recipe.network, clips, num_gpus, recipe.recomputes_layers, recipe.compute_dtype, method)


def memory_lines(memory: TrainingMemory) -> list[tuple[str, float]]:
    """Name and gigabytes of every part, the total last."""
    parts = [(field.name.removesuffix("_bytes"), getattr(memory, field.name)) for field in fields(memory)]
    return [(name, num_bytes / 1e9) for name, num_bytes in [*parts, ("total", memory.total_bytes)]]
