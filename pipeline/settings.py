"""Everything a run can be told besides its manifest, output and checkpoint: one YAML file plus overrides."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from actors.compile_cache import SharedCompileCache
from actors.credentials import Credentials
from actors.references import as_prefix
from actors.stage import Compute
from actors.video_encoding import VideoEncoding
from model.capabilities import Samplers
from model.compilation import Compiler
from model.sampling import (
    MAX_GUIDANCE,
    MAX_SHIFT,
    MAX_STEPS,
    DistilledSampling,
    GuidedSampling,
    SuperResolutionSampling,
)
from pipeline.patience import Patience
from pipeline.settings_values import read_values, tell

Steps = Annotated[int, Field(ge=1, le=MAX_STEPS)]
Scale = Annotated[float, Field(ge=0, le=MAX_GUIDANCE, allow_inf_nan=False)]
Shift = Annotated[float, Field(gt=0, le=MAX_SHIFT)]
Sampler = TypeVar("Sampler", GuidedSampling, DistilledSampling, SuperResolutionSampling)

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
    """How clips are denoised; what is left out is as the checkpoint says, and else as the release has it."""

    base_steps: Steps | None = None
    distill_steps: Steps | None = None
    sr_steps: Steps | None = None
    shift: Shift | None = None
    sr_shift: Shift | None = None
    """Shift of super-resolution, where it is not to be `shift`."""
    video_guidance: Scale | None = None
    late_video_guidance: Scale | None = None
    audio_guidance: Scale | None = None
    sr_guidance: Scale | None = None
    """Guidance scale of super-resolution; 0 for none, as the released configurations run."""
    sr_align_corners: bool | None = None
    """How super-resolution enlarges the latent; false is the known remedy for ghosting in the first frames."""
    negative_prompt: str = DEFAULT_NEGATIVE_PROMPT

    def samplers(self, defaults: Samplers) -> Samplers:
        """The samplers of a run.

        Args:
            defaults: what the checkpoint says.

        Raises:
            SettingsError: if super-resolution has guidance, and no negative prompt.
        """
        super_resolution = _changed(
            defaults.super_resolution,
            num_steps=self.sr_steps,
            shift=self.shift if self.sr_shift is None else self.sr_shift,
            guidance=self.sr_guidance,
            align_corners=self.sr_align_corners,
        )
        if self.sr_guidance == 0:
            super_resolution = replace(super_resolution, guidance=None)
        if not self.negative_prompt and super_resolution.guidance is not None:
            # A single token has no defined position there: every clip would fail, after base generation.
            reason = f"must not be empty where super-resolution has guidance, here {super_resolution.guidance:g}"
            raise SettingsError(f"setting sampling.negative_prompt='': {reason}")
        return Samplers(
            base=_changed(
                defaults.base,
                num_steps=self.base_steps,
                shift=self.shift,
                video_guidance=self.video_guidance,
                late_video_guidance=self.late_video_guidance,
                audio_guidance=self.audio_guidance,
            ),
            distill=_changed(defaults.distill, num_steps=self.distill_steps, shift=self.shift),
            super_resolution=super_resolution,
        )

    def resolved(self, mode: str, samplers: Samplers) -> SamplingSettings:
        """The same with every number that `samplers` has, for the books of a run in this mode."""
        refining = samplers.super_resolution
        numbers = {
            "base_steps": samplers.base.num_steps,
            "distill_steps": samplers.distill.num_steps,
            "sr_steps": refining.num_steps,
            "shift": samplers.of_mode(mode).shift,
            "sr_shift": refining.shift,
            "video_guidance": samplers.base.video_guidance,
            "late_video_guidance": samplers.base.late_video_guidance,
            "audio_guidance": samplers.base.audio_guidance,
            "sr_guidance": self.sr_guidance if refining.guidance is None else refining.guidance,
            "sr_align_corners": refining.align_corners,
        }
        return self.model_copy(update=numbers)


def _changed(sampler: Sampler, **values: Any) -> Sampler:
    return replace(sampler, **{name: value for name, value in values.items() if value is not None})


_NVENC_DEFAULTS = {"preset": "p4", "threads": 1}
X264Preset = Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow"]
NvencPreset = Literal["p1", "p2", "p3", "p4", "p5", "p6", "p7"]


class EncodingSettings(_Section):
    """How MP4s are encoded."""

    codec: Literal["libx264", "h264_nvenc"] = "libx264"
    """Never chosen by what a machine has: a row gives the same clip everywhere."""
    crf: Annotated[int, Field(ge=0, le=51)] = 18
    preset: X264Preset | NvencPreset = "veryfast"
    """`p4` where the codec is h264_nvenc."""
    threads: Annotated[int, Field(ge=1, le=64)] = 4
    """Frames that x264 works on at once; the output depends on it. 1 where the codec is h264_nvenc."""
    audio_bitrate_bps: Annotated[int, Field(ge=32_000, le=512_000)] = 192_000

    @model_validator(mode="before")
    @classmethod
    def _take_the_codecs_defaults(cls, values: Any) -> Any:
        is_nvenc = isinstance(values, dict) and values.get("codec") == "h264_nvenc"
        return {**_NVENC_DEFAULTS, **values} if is_nvenc else values

    @model_validator(mode="after")
    def _require_that_they_go_together(self) -> Self:
        self.video_encoding()
        return self

    def video_encoding(self) -> VideoEncoding:
        """As the muxer takes it."""
        return VideoEncoding(**self.model_dump())


class PoolSettings(_Section):
    """One pool of actors; what is left out is planned."""

    size: Annotated[int, Field(ge=1, le=100_000)] | None = None
    num_cpus: Annotated[float, Field(ge=0, le=1000)] | None = None
    num_gpus: Annotated[float, Field(ge=0, le=1000)] | None = None


class PoolsSettings(_Section):
    """The five pools."""

    conditioning: PoolSettings = PoolSettings()
    base_generation: PoolSettings = PoolSettings()
    super_resolution: PoolSettings = PoolSettings()
    decoding: PoolSettings = PoolSettings()
    writing: PoolSettings = PoolSettings()


class ProvenanceSettings(_Section):
    """What clips are signed with, see `actors.signing`; they are not where nothing is named."""

    certificate: str | None = None
    """URL of the signer's certificate (PEM), behind it those between it and the root."""
    private_key: str | None = None
    """URL of its key (PEM, not encrypted). Every decoding actor reads it by itself."""
    timestamp_authority: Annotated[str, Field(pattern=r"^https?://\S+$")] | None = None
    """URL of a server (RFC 3161) that attests when a clip was signed: it then holds after the certificate's time."""

    @model_validator(mode="after")
    def _require_that_they_go_together(self) -> Self:
        if (self.certificate is None) != (self.private_key is None):
            absent = "certificate" if self.certificate is None else "private_key"
            raise ValueError(f"{absent} is missing: certificate and private_key go together")
        if self.timestamp_authority is not None and self.certificate is None:
            raise ValueError("timestamp_authority needs certificate and private_key")
        return self

    @property
    def credentials(self) -> Credentials | None:
        """As who signs takes them; None where clips are not signed."""
        if self.certificate is None or self.private_key is None:
            return None
        return Credentials(_absolute(self.certificate), _absolute(self.private_key), self.timestamp_authority)


class PatienceSettings(_Section):
    """How long the driver waits before it starts a lane anew, see `pipeline.supervision.Patience`."""

    stall_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1800.0
    """Without any report of an actor; loading and compiling of models count as silence."""
    replacement_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 300.0
    """Without a finished clip while the cluster has less than the pools need; a lost node's replacement may come."""
    max_fruitless: Annotated[int, Field(ge=1)] = 3
    """Starts one after the other that bring no clip; then the run ends, to be continued."""

    def patience(self) -> Patience:
        """As the watch takes it."""
        return Patience(**self.model_dump())


class Settings(_Section):
    """Settings of a run."""

    mode: Literal["base", "distill"] = "distill"
    """`distill`: few steps (the release: 8) without guidance. `base`: many (32) with guidance."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["bf16", "fp32", "fp8"] = "bf16"
    """`fp8`: the products of the Transformers' layers take 8-bit floats, all else is as with bf16."""
    compiler: Literal["auto", "none", "torch", "magi_compiler"] = "auto"
    """Of the networks; `auto`: torch on GPUs, none on CPUs, where a C++ compiler and a minute would be needed."""
    compile_cache: str | None = None
    """URL where compiled graphs are shared between nodes; each node keeps its own in `cache_dir` besides."""
    threads_per_actor: Annotated[int, Field(ge=1, le=256)] = 1
    """CPU threads of an actor; on a CPU results depend on it in the last bits, so it is part of the fingerprint."""
    num_gpus: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    """GPUs the run may use; by default those the cluster has now. Name it where GPUs are autoscaled."""
    accelerator_type: str | None = None
    """GPU type actors are pinned to, as Ray names it; by default H100 where there are some."""
    gpu_memory_gb: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Memory of one GPU in 10^9 bytes; by default what the GPU type has, where that is pinned and known."""
    packed_tokens: Annotated[int, Field(ge=0, le=200_000)] = 0
    """Base generation denoises clips that wait together, up to so many tokens; 0: each alone. Worth it for short clips;
    a clip's last bits then depend on its company."""
    cache_dir: str = "~/.cache/magihuman-ray"
    """Folder on every node for copies of a remote checkpoint."""
    allowed_references: tuple[str, ...] | None = None
    """Folders and beginnings of URLs below which rows may name images and recordings; relative ones start at the
    manifest's folder. By default that folder alone, or for a manifest in a store its bucket or host."""
    sampling: SamplingSettings = SamplingSettings()
    encoding: EncodingSettings = EncodingSettings()
    pools: PoolsSettings = PoolsSettings()
    provenance: ProvenanceSettings = ProvenanceSettings()
    """No part of the fingerprint: signing makes a clip no other clip."""
    execution: Literal["auto", "streaming", "phased"] = "auto"
    """`streaming`: all stages at once. `phased`: stage after stage, one model at a time. `auto`: phased only where
    all models do not fit the GPUs' memory."""
    costs: str | None = None
    """URL of what `jobs.benchmark` measured, for planning; by default the published figures."""
    max_attempts: Annotated[int, Field(ge=1)] = 3
    """How often a clip's processing is begun in one stage, where its worker process dies each time."""
    patience: PatienceSettings = PatienceSettings()

    @field_validator("allowed_references")
    @classmethod
    def _require_folders(cls, folders: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for folder in folders or ():
            as_prefix(folder, "/")
        return folders

    def compute(self, num_gpus: float = 0) -> Compute:
        """What an actor with this many GPUs runs on."""
        device = "cuda" if num_gpus and self.device != "cpu" else "cpu"  # never a GPU held and not used
        chosen: Compiler = "torch" if device == "cuda" else "none"
        return Compute(
            device=device,
            precision=self.precision,
            num_threads=self.threads_per_actor,
            compiler=chosen if self.compiler == "auto" else self.compiler,
            compile_cache=SharedCompileCache(
                f"{self.cache_dir.rstrip('/')}/compiled",
                None if self.compile_cache is None else _absolute(self.compile_cache),
            ),
        )


def _absolute(url: str) -> str:
    """A path means the same to actors, which have another working directory."""
    return url if "://" in url else os.path.abspath(os.path.expanduser(url))


def load_settings(url: str | None, overrides: Sequence[str] = ()) -> Settings:
    """Read settings.

    Args:
        url: YAML file, any fsspec URL, or None for the defaults.
        overrides: `name=value` or `section.name=value`, values in YAML; they win over the file.

    Raises:
        SettingsError: one line with the name, the value and what is allowed.
    """
    try:
        settings = Settings.model_validate(read_values(url, overrides))
    except ValidationError as error:
        raise SettingsError(tell(error, Settings)) from error
    except ValueError as error:
        raise SettingsError(str(error)) from error
    settings.sampling.samplers(Samplers())  # what goes with no checkpoint is told now
    return settings
