"""Everything a run can be told besides its manifest, output and checkpoint: one YAML file plus overrides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from actors.muxing import VideoEncoding
from actors.stage import Compute
from actors.storage import read_bytes
from model.sampling import DistilledSampling, GuidedSampling, SuperResolutionSampling

Steps = Annotated[int, Field(ge=1, le=1000)]
Scale = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]

DEFAULT_NEGATIVE_PROMPT = (
    "frozen picture, flicker, smeared face, warped hands, additional fingers, doubled limbs, blocky compression, "
    "washed-out colours, burnt-in captions, watermark; hiss, hum, crackle, clipping, muffled voice, hall echo, "
    "background music, sudden silence; lifeless reading, robotic tone, mumbling, mispronounced words, second voice"
)
"""Our own wording: visual faults, audio faults, lifeless delivery."""


class SettingsError(ValueError):
    """A setting is wrong; the message names it, its value and what is allowed."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SamplingSettings(_Section):
    """How clips are denoised; the defaults are the release's."""

    base_steps: Steps = 32
    distill_steps: Steps = 8
    sr_steps: Steps = 5
    shift: Annotated[float, Field(gt=0, le=100)] = 5.0
    video_guidance: Scale = 5.0
    late_video_guidance: Scale = 2.0
    audio_guidance: Scale = 5.0
    sr_guidance: Scale | None = None
    """Guidance scale of super-resolution; none, as the released configurations run."""
    sr_align_corners: bool = True
    """How super-resolution enlarges the latent; false is the known remedy for ghosting in the first frames."""
    negative_prompt: str = DEFAULT_NEGATIVE_PROMPT

    @field_validator("negative_prompt")
    @classmethod
    def _super_resolution_needs_two_tokens(cls, value: str, info: ValidationInfo) -> str:
        if not value and info.data.get("sr_guidance") is not None:
            # A single token has no defined position there: every clip would fail, after base generation.
            raise ValueError("must not be empty where sampling.sr_guidance is set")
        return value

    def base(self, mode: str) -> GuidedSampling | DistilledSampling:
        """Sampler of base generation in a mode."""
        if mode == "distill":
            return DistilledSampling(num_steps=self.distill_steps, shift=self.shift)
        return GuidedSampling(
            num_steps=self.base_steps,
            shift=self.shift,
            video_guidance=self.video_guidance,
            late_video_guidance=self.late_video_guidance,
            audio_guidance=self.audio_guidance,
        )

    def super_resolution(self) -> SuperResolutionSampling:
        """Sampler of latent super-resolution."""
        return SuperResolutionSampling(
            num_steps=self.sr_steps,
            shift=self.shift,
            guidance=self.sr_guidance,
            align_corners=self.sr_align_corners,
        )


class EncodingSettings(_Section):
    """How MP4s are encoded."""

    crf: Annotated[int, Field(ge=0, le=51)] = 18
    preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow"] = "veryfast"
    audio_bitrate_bps: Annotated[int, Field(ge=32_000, le=512_000)] = 192_000

    def video_encoding(self) -> VideoEncoding:
        """As the muxer takes it."""
        return VideoEncoding(crf=self.crf, preset=self.preset, audio_bitrate_bps=self.audio_bitrate_bps)


class PoolSettings(_Section):
    """One pool of actors; what is left out is planned."""

    size: Annotated[int, Field(ge=1)] | None = None
    num_cpus: Annotated[float, Field(ge=0)] | None = None
    num_gpus: Annotated[float, Field(ge=0)] | None = None


class PoolsSettings(_Section):
    """The five pools."""

    conditioning: PoolSettings = PoolSettings()
    base_generation: PoolSettings = PoolSettings()
    super_resolution: PoolSettings = PoolSettings()
    decoding: PoolSettings = PoolSettings()
    writing: PoolSettings = PoolSettings()


class Settings(_Section):
    """Settings of a run."""

    mode: Literal["base", "distill"] = "distill"
    """`distill`: 8 steps without guidance. `base`: 32 steps with guidance."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["bf16", "fp32"] = "bf16"
    threads_per_actor: Annotated[int, Field(ge=1)] = 1
    """CPU threads of an actor; on a CPU results depend on it in the last bits, so it is part of the fingerprint."""
    num_gpus: Annotated[int, Field(ge=0)] | None = None
    """GPUs the run may use; by default those the cluster has now. Name it where GPUs are autoscaled."""
    accelerator_type: str | None = None
    """GPU type actors are pinned to, as Ray names it; by default H100 where there are some."""
    cache_dir: str = "~/.cache/magihuman-ray"
    """Folder on every node for copies of a remote checkpoint."""
    sampling: SamplingSettings = SamplingSettings()
    encoding: EncodingSettings = EncodingSettings()
    pools: PoolsSettings = PoolsSettings()

    def compute(self, num_gpus: float = 0) -> Compute:
        """What an actor with this many GPUs runs on."""
        device = "cuda" if num_gpus and self.device != "cpu" else "cpu"  # never a GPU held and not used
        return Compute(device=device, precision=self.precision, num_threads=self.threads_per_actor)


def load_settings(url: str | None, overrides: Sequence[str] = ()) -> Settings:
    """Read settings.

    Args:
        url: YAML file, any fsspec URL, or None for the defaults.
        overrides: `name=value` or `section.name=value`, values in YAML; they win over the file.

    Raises:
        SettingsError: one line with the name, the value and what is allowed.
    """
    values: dict[str, Any] = {}
    if url is not None:
        try:
            values = yaml.safe_load(read_bytes(url)) or {}
        except (OSError, yaml.YAMLError) as error:
            raise SettingsError(f"settings {url}: {error}") from error
        if not isinstance(values, dict):
            raise SettingsError(f"settings {url}: must hold names and values, got {type(values).__name__}")
    for override in overrides:
        _apply(values, override)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        item = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            raise SettingsError(f"setting {name} is unknown") from error
        raise SettingsError(f"setting {name}={item['input']!r}: {item['msg']}") from error


def _apply(values: dict[str, Any], override: str) -> None:
    name, separator, text = override.partition("=")
    if not separator or not name:
        raise SettingsError(f"override {override!r}: must look like name=value")
    *sections, last = name.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise SettingsError(f"override {override!r}: {section} is no section")
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"override {override!r}: the value is not YAML") from error
