"""A small checkpoint from nothing: clips of the small world, then every stage of training, each once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from actors.checkpoint_source import CheckpointSource
from actors.small_world.shards import ClipShards
from actors.storage import join, read_bytes, write_folder
from actors.training.recipe import (
    BaseRecipe,
    DistillationRecipe,
    Recipe,
    RecipeError,
    Stage,
    SuperResolutionRecipe,
    load_recipe,
)
from model.capabilities import Capabilities
from model.checkpoint_writer import write_capabilities
from pipeline.settings import DEFAULT_NEGATIVE_PROMPT
from pipeline.side_by_side import side_by_side
from pipeline.small_world import make_clips, make_latents, write_small_text_encoder
from pipeline.training import TrainingSpec, train

RECIPE_NAME = "checkpoint.yaml"

_SAMPLERS: dict[Stage, str] = {"distillation": "distill", "super_resolution": "super_resolution"}
"""Stages that train for a sampler, and its name in `config.json`."""

Positive = Annotated[int, Field(ge=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ClipsRecipe(_Part):
    """What is rendered; see `actors.small_world.shards.ClipShards`."""

    num_clips: Positive
    clips_per_shard: Positive
    seed: int


class LatentsRecipe(_Part):
    """What is encoded; see `actors.small_world.shards.LatentShards`."""

    num_large_shards: Positive


class TextEncoderRecipe(_Part):
    """What is drawn; see `pipeline.small_world.write_small_text_encoder`."""

    vocabulary_size: Positive
    min_frequency: Positive
    width: Positive
    seed: int


class CheckpointRecipe(_Part):
    """A checkpoint as a whole.

    Attributes:
        clips: training data.
        latents: of the clips, for the Transformers.
        text_encoder: what prompts are encoded with.
        stages: in their order; those of one entry do not need each other and run side by side.
        config: the checkpoint's `config.json`. Samplers that a stage trains for are told by that stage's recipe.
    """

    clips: ClipsRecipe
    latents: LatentsRecipe
    text_encoder: TextEncoderRecipe
    stages: tuple[tuple[Stage, ...], ...]
    config: dict[str, Any]


@dataclass(frozen=True)
class SmallCheckpoint:
    """A checkpoint that is being made, in a folder with everything that belongs to it.

    Attributes:
        folder_url: gets `clips`, `latents`, `runs` and `checkpoint`.
        recipe: of the whole.
        stage_recipes: stage to its recipe.
        cache_dir: for copies of the checkpoint where the folder is remote.
        num_cpus: processes at a time.
        num_gpus: processes of training at a time, each with a GPU; None trains on CPUs.
        report_every_s: seconds between two lines of progress.
    """

    folder_url: str
    recipe: CheckpointRecipe
    stage_recipes: Mapping[Stage, Recipe]
    cache_dir: str
    num_cpus: int
    num_gpus: int | None = None
    report_every_s: float = 20.0

    @property
    def checkpoint_url(self) -> str:
        """Where the checkpoint is."""
        return join(self.folder_url, "checkpoint")

    def make(self, tell: Callable[[str], None]) -> None:
        """Make what is not there yet.

        Args:
            tell: takes lines of progress.

        Raises:
            RecipeError: a recipe does not fit its workers or data.
            ValueError: the folder holds what was made by other recipes.
            SpeechError: espeak-ng cannot be run.
            StorageError: the store refuses or is out of reach.
        """
        clips_url, latents_url = join(self.folder_url, "clips"), join(self.folder_url, "latents")
        clips = self.recipe.clips
        tell("clips of the small world")
        _exhaust(make_clips(ClipShards(clips_url, clips.seed, clips.num_clips, clips.clips_per_shard), self.num_cpus))
        self._write_config()
        sizes = self.recipe.text_encoder.model_dump()
        write_small_text_encoder(clips_url, self.checkpoint_url, DEFAULT_NEGATIVE_PROMPT, **sizes)
        source = CheckpointSource(self.checkpoint_url, self.cache_dir)
        for stages in self.recipe.stages:
            if any(self.stage_recipes[stage].uses_latents for stage in stages):
                tell("latents")
                how_many = (self.num_cpus, self.recipe.latents.num_large_shards)
                _exhaust(make_latents(clips_url, latents_url, source, DEFAULT_NEGATIVE_PROMPT, *how_many))
            tell(f"training: {', '.join(stages)}")
            self._train(stages, source, clips_url, latents_url)

    def capabilities(self) -> Capabilities:
        """What the checkpoint's `config.json` says."""
        configured = Capabilities.from_json(self.recipe.config)
        trained: dict[str, Any] = {}
        for stage, sampler in _SAMPLERS.items():
            recipe = self.stage_recipes.get(stage)
            if isinstance(recipe, DistillationRecipe | SuperResolutionRecipe):
                trained[sampler] = recipe.training.sampling
        return replace(configured, samplers=replace(configured.samplers, **trained))

    def _write_config(self) -> None:
        with TemporaryDirectory() as folder:
            write_capabilities(Path(folder), self.capabilities())
            write_folder(self.checkpoint_url, Path(folder))

    def _train(self, stages: Sequence[Stage], source: CheckpointSource, clips_url: str, latents_url: str) -> None:
        """Train stages, side by side where there is room; the first fault is raised when all have ended."""
        specs, most = [], self.num_cpus if self.num_gpus is None else self.num_gpus
        for stage in stages:
            recipe = self.stage_recipes[stage]
            num_workers = largest_divisor(recipe.batch_size, max(1, most // len(stages)))
            specs.append(
                TrainingSpec(
                    recipe,
                    latents_url if recipe.uses_latents else clips_url,
                    source,
                    join(self.folder_url, "runs"),
                    num_workers,
                    self.num_gpus is not None,
                    report_every_s=self.report_every_s,
                )
            )
        side_by_side([partial(train, spec) for spec in specs], most)


def largest_divisor(number: int, most: int) -> int:
    """The largest divisor of a number that is at most `most`."""
    return next(divisor for divisor in range(min(number, most), 0, -1) if number % divisor == 0)


def load_checkpoint_recipe(folder_url: str) -> tuple[CheckpointRecipe, dict[Stage, Recipe]]:
    """Read `checkpoint.yaml` of a folder and the recipes of the stages it names, `<stage>.yaml` beside it.

    Raises:
        RecipeError: one line with the file, the field, its value and what is allowed.
    """
    url = join(folder_url, RECIPE_NAME)
    try:
        recipe = CheckpointRecipe.model_validate(yaml.safe_load(read_bytes(url)))
        Capabilities.from_json(recipe.config)
    except ValidationError as error:
        item = error.errors(include_url=False)[0]
        name = ".".join(map(str, item["loc"]))
        raise RecipeError(f"recipe {url}: {name}={item.get('input')!r:.200}: {item['msg']}") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RecipeError(f"recipe {url}: {' '.join(str(error).split())}") from error
    stages = [stage for wave in recipe.stages for stage in wave]
    recipes = {stage: load_recipe(join(folder_url, f"{stage}.yaml")) for stage in stages}
    for stage, found in recipes.items():
        if found.stage != stage:
            raise RecipeError(f"recipe {join(folder_url, stage)}.yaml: stage must be {stage}, got {found.stage}")
        sampler = _SAMPLERS.get(stage)
        if sampler in recipe.config.get("sampling", {}):
            given = recipe.config["sampling"][sampler]
            raise RecipeError(f"recipe {url}: config.sampling.{sampler} must be left to {stage}.yaml, got {given!r}")
    _check_agreement(recipe, recipes, folder_url)
    return recipe, recipes


def _check_agreement(recipe: CheckpointRecipe, stage_recipes: Mapping[Stage, Recipe], folder_url: str) -> None:
    """Whether the stages' recipes go with the data that `checkpoint.yaml` has made for them."""
    num_large = min(recipe.latents.num_large_shards * recipe.clips.clips_per_shard, recipe.clips.num_clips)
    for stage, found in stage_recipes.items():
        url = join(folder_url, f"{stage}.yaml")
        if isinstance(found, SuperResolutionRecipe) and num_large < (found.max_clips or recipe.clips.num_clips):
            allowed = f"at most {num_large}, the clips of latents.num_large_shards in {RECIPE_NAME}"
            raise RecipeError(f"recipe {url}: max_clips must be {allowed}, got {found.max_clips}")
        if isinstance(found, BaseRecipe | SuperResolutionRecipe):
            width, channels = recipe.text_encoder.width, found.network.text_channels
            if width != channels:
                allowed = f"{width}, as text_encoder.width in {RECIPE_NAME}"
                raise RecipeError(f"recipe {url}: network.text_channels must be {allowed}, got {channels}")


def _exhaust(results: Iterator[Any]) -> None:
    for _ in results:
        pass
