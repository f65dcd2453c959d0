"""What is trained and how: one YAML file per stage, validated, and the tasks that recipes stand for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from actors.storage import read_bytes
from model.checkpoint import Checkpoint
from model.checkpoint_writer import write_audio_vae, write_transformer, write_turbo_vae, write_wan_vae
from model.oobleck import OobleckConfig
from model.training.audio_codec import AudioCodecConfig, AudioCodecTask
from model.training.distillation import DistillationTask
from model.training.distillation_config import DistillationConfig, DistillationNetworks
from model.training.flow_matching import FlowMatchingConfig, FlowMatchingTask
from model.training.networks import new_transformer
from model.training.optimiser import OptimiserConfig
from model.training.replicas import Replicas
from model.training.sharding import Place
from model.training.super_resolution import SuperResolutionConfig, SuperResolutionTask
from model.training.task import TrainingTask
from model.training.video_autoencoder import VideoAutoencoderConfig, VideoAutoencoderTask
from model.transformer import Transformer
from model.transformer_config import TransformerConfig
from model.turbo_vae import TurboVAEConfig
from model.wan_config import WanVaeConfig

Positive = Annotated[int, Field(ge=1)]
Stage = Literal["audio_codec", "video_autoencoder", "base", "super_resolution", "distillation"]

_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


class RecipeError(ValueError):
    """A recipe is wrong; the message names the field, its value and what is allowed."""


@dataclass(frozen=True)
class Worker:
    """What a task finds where it is made.

    Attributes:
        device: where its networks are.
        replicas: the workers of the run.
        checkpoint: holds what was trained earlier; None where nothing is needed.
        negative_text_LC: features of the negative prompt, None for autoencoders.
        mesh: over which Transformers are sharded; None keeps them whole on every worker.
    """

    device: torch.device
    replicas: Replicas
    checkpoint: Checkpoint | None = None
    negative_text_LC: Tensor | None = None
    mesh: DeviceMesh | None = None

    @property
    def place(self) -> Place:
        """Where Transformers are."""
        return Place(self.device, self.mesh)

    def required_negative_text(self) -> Tensor:
        """Features of the negative prompt (L, C), which every worker that learns from latents has."""
        assert self.negative_text_LC is not None
        return self.negative_text_LC


class _Recipe(BaseModel):
    """What all stages have.

    Attributes:
        seed: of first weights, order and noise.
        batch_size: clips per step, over all workers.
        max_clips: how many clips are used, over all workers; by default all.
        save_every: steps between two saved states.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: Annotated[int, Field(ge=0)] = 0
    batch_size: Positive = 16
    max_clips: Positive | None = None
    save_every: Positive = 200

    clip_tensors: ClassVar[tuple[str, ...]]
    """Tensors of a clip that the stage learns from."""
    uses_latents: ClassVar[bool]
    """Whether it learns from latents, and so knows the negative prompt, or from clips as they were drawn."""
    needed_component: ClassVar[str | None] = None
    """What it reads of the checkpoint."""
    learnt_components: ClassVar[tuple[str, ...]]
    """What it adds to the checkpoint."""

    @property
    @abstractmethod
    def optimiser(self) -> OptimiserConfig:
        """Rates, which tell the number of steps."""

    @abstractmethod
    def make_task(self, worker: Worker) -> TrainingTask:
        """Networks and optimisers at their start."""

    @abstractmethod
    def write(self, checkpoint_folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """Write what a task exports into a checkpoint's folder."""


class AudioCodecRecipe(_Recipe):
    """The audio autoencoder."""

    stage: Literal["audio_codec"]
    network: OobleckConfig
    training: AudioCodecConfig

    clip_tensors = ("waveform",)
    uses_latents = False
    learnt_components = ("audio_vae",)

    @property
    def optimiser(self) -> OptimiserConfig:
        """See `_Recipe.optimiser`."""
        return self.training.optimiser

    def make_task(self, worker: Worker) -> TrainingTask:
        """See `_Recipe.make_task`."""
        return AudioCodecTask(self.network, self.training, self.seed, worker.replicas, worker.device)

    def write(self, checkpoint_folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """See `_Recipe.write`."""
        write_audio_vae(checkpoint_folder, self.network, _halved(tensors))


class VideoAutoencoderRecipe(_Recipe):
    """The video autoencoder."""

    stage: Literal["video_autoencoder"]
    encoder: WanVaeConfig
    decoder: TurboVAEConfig
    training: VideoAutoencoderConfig

    clip_tensors = ("frames",)
    uses_latents = False
    learnt_components = ("wan_vae", "turbo_vae")

    @property
    def optimiser(self) -> OptimiserConfig:
        """See `_Recipe.optimiser`."""
        return self.training.optimiser

    def make_task(self, worker: Worker) -> TrainingTask:
        """See `_Recipe.make_task`."""
        sizes = (self.encoder, self.decoder)
        return VideoAutoencoderTask(*sizes, self.training, self.seed, worker.replicas, worker.device)

    def write(self, checkpoint_folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """See `_Recipe.write`."""
        parts: dict[str, dict[str, Tensor]] = {"wan": {}, "turbo": {}}
        for name, tensor in _halved(tensors).items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        write_wan_vae(checkpoint_folder, parts["wan"])
        write_turbo_vae(checkpoint_folder, asdict(self.decoder), parts["turbo"])


class _TransformerRecipe(_Recipe):
    """What the recipes of Transformers have.

    Attributes:
        precision: of the products inside the block.
        recomputes_layers: run layers again for their gradients instead of keeping what they need.
        is_sharded: divide weights, gradients and optimiser state over the workers.
    """

    precision: Literal["bf16", "fp32"] = "bf16"
    recomputes_layers: bool = False
    is_sharded: bool = False

    uses_latents = True

    @property
    def compute_dtype(self) -> torch.dtype:
        """Of the products inside the block."""
        return _DTYPES[self.precision]

    @property
    def optimisers(self) -> dict[str, OptimiserConfig]:
        """All rates, under their names in the recipe."""
        return {"training.optimiser": self.optimiser}

    def _new(self, config: TransformerConfig, worker: Worker) -> Transformer:
        generator = torch.Generator().manual_seed(self.seed)
        transformer = new_transformer(config, generator, self.compute_dtype, place=worker.place)
        transformer.block.recomputes_layers = self.recomputes_layers
        return transformer


class BaseRecipe(_TransformerRecipe):
    """The base model."""

    stage: Literal["base"]
    network: TransformerConfig
    training: FlowMatchingConfig

    clip_tensors = ("video", "audio", "text")
    learnt_components = ("base",)

    @property
    def optimiser(self) -> OptimiserConfig:
        """See `_Recipe.optimiser`."""
        return self.training.optimiser

    def make_task(self, worker: Worker) -> TrainingTask:
        """See `_Recipe.make_task`."""
        text_LC = worker.required_negative_text()
        return FlowMatchingTask(self._new(self.network, worker), text_LC, self.training, worker.replicas)

    def write(self, checkpoint_folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """See `_Recipe.write`."""
        write_transformer(checkpoint_folder, "base", tensors)


class SuperResolutionRecipe(_TransformerRecipe):
    """The super-resolution model, 256p to 540p."""

    stage: Literal["super_resolution"]
    network: TransformerConfig
    training: SuperResolutionConfig

    clip_tensors = ("video", "video_large", "audio", "text")
    learnt_components = ("sr_540p",)

    @property
    def optimiser(self) -> OptimiserConfig:
        """See `_Recipe.optimiser`."""
        return self.training.optimiser

    def make_task(self, worker: Worker) -> TrainingTask:
        """See `_Recipe.make_task`."""
        text_LC = worker.required_negative_text()
        transformer = self._new(replace(self.network, position_style="sr"), worker)
        return SuperResolutionTask(transformer, text_LC, self.training, worker.replicas)

    def write(self, checkpoint_folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """See `_Recipe.write`."""
        write_transformer(checkpoint_folder, "sr_540p", tensors)


class DistillationRecipe(_TransformerRecipe):
    """The distilled model, from the checkpoint's base model."""

    stage: Literal["distillation"]
    training: DistillationConfig

    clip_tensors = ("video", "audio", "text")
    needed_component = "base"
    learnt_components = ("distill",)

    @property
    def optimiser(self) -> OptimiserConfig:
        """See `_Recipe.optimiser`."""
        return self.training.student

    @property
    def optimisers(self) -> dict[str, OptimiserConfig]:
        """See `_TransformerRecipe.optimisers`."""
        return {"training.student": self.training.student, "training.fake": self.training.fake}

    def make_task(self, worker: Worker) -> TrainingTask:
        """See `_Recipe.make_task`."""
        assert worker.checkpoint is not None
        config, tensors = worker.checkpoint.transformer_tensors("base")
        text_LC = worker.required_negative_text()
        generator = torch.Generator().manual_seed(self.seed)
        networks = DistillationNetworks.from_base(
            config, tensors, self.training.gan is not None, generator, self.compute_dtype, worker.place
        )
        for network in (networks.student, networks.real, networks.fake):
            network.block.recomputes_layers = self.recomputes_layers
        return DistillationTask(networks, text_LC, self.training, worker.replicas)

    def write(self, checkpoint_folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """See `_Recipe.write`."""
        write_transformer(checkpoint_folder, "distill", tensors)


Recipe = Annotated[
    AudioCodecRecipe | VideoAutoencoderRecipe | BaseRecipe | SuperResolutionRecipe | DistillationRecipe,
    Field(discriminator="stage"),
]
_ADAPTER: TypeAdapter[Recipe] = TypeAdapter(Recipe)


def load_recipe(url: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe.

    Args:
        url: YAML file, any fsspec URL.
        overrides: dotted name to value; they win over the file.

    Raises:
        RecipeError: one line with the file, the field, its value and what is allowed.
    """
    try:
        values = yaml.safe_load(read_bytes(url))
    except (OSError, yaml.YAMLError) as error:
        raise RecipeError(f"recipe {url}: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"recipe {url}: must hold names and values, got {type(values).__name__}")
    for name, value in (overrides or {}).items():
        *sections, last = name.split(".")
        inner = values
        for section in sections:
            inner = inner.setdefault(section, {})
            if not isinstance(inner, dict):
                raise RecipeError(f"recipe {url}: {name} cannot be set, {section} is no section")
        inner[last] = value
    try:
        return _ADAPTER.validate_python(values)
    except ValidationError as error:
        item = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in item["loc"][1:]) or "stage"
        reason = item["msg"].removeprefix("Value error, ")
        raise RecipeError(f"recipe {url}: {name}={item.get('input')!r:.200}: {reason}") from error


def check_methods(recipe: Recipe) -> None:
    """Hold the optimisers of a recipe against its sharding.

    Raises:
        RecipeError: Muon, which needs whole matrices, shall train what is sharded.
    """
    if not isinstance(recipe, _TransformerRecipe) or not recipe.is_sharded:
        return
    for name, config in recipe.optimisers.items():
        if config.method != "adamw":
            raise RecipeError(f"{name}.method must be adamw with is_sharded, got {config.method}")


def _halved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """In bfloat16, as they are stored."""
    return {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in tensors.items()}
