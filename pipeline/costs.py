"""What a clip costs in each stage: a versioned table of figures, and how they scale to other clips and samplers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.resources import files
from statistics import median
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from actors.request import ClipRequest
from actors.storage import read_bytes
from model.capabilities import Capabilities, Samplers
from model.components import Contents
from model.geometry import AUDIO_LATENT_RATE_HZ, ClipLength, latent_size
from model.operations import transformer_flops
from model.packing import SequenceLayout
from model.sampling import GuidedSampling
from model.transformer_config import TransformerConfig
from model.variants import VARIANTS, config_from_shapes, release_config
from pipeline.lane import Lane

USUAL_TEXT_TOKENS = 300
"""Length of a prompt, as the release's own are. Texts differ, but few of a clip's tokens are text."""

MIN_OBSERVED = 3
"""Clips that must have passed a stage before its figure is replaced: the median of fewer could be a start's."""

_RESOURCE = "costs.yaml"
_CPU = "cpu"


class CostError(ValueError):
    """A costs file cannot be used, or lacks a figure."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Figure(_Part):
    """How long one clip keeps one actor of a stage busy.

    Attributes:
        stage: of the pipeline.
        resolution: of the finished clip.
        seconds: on the table's device.
        clip_seconds: length of the clip behind the figure, in the first aspect ratio there is (the release: 16:9).
        passes: forward passes of the Transformer behind it; 1 where the stage has none.
        source: where it comes from.
    """

    stage: Literal["conditioning", "base_generation", "super_resolution", "decoding", "writing"]
    resolution: Literal["256p", "540p", "1080p"]
    seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    clip_seconds: Annotated[float, Field(ge=0.2, le=15)] = 5.0
    passes: Annotated[int, Field(ge=1)] = 1
    source: str


class CostTable(_Part):
    """Figures of one device.

    Attributes:
        version: of the file's form; another number when fields change their meaning.
        device: name of the GPU, or "cpu".
        figures: at most one for a stage and a resolution.
    """

    version: Literal[1] = 1
    device: str
    figures: tuple[Figure, ...]

    @cached_property
    def by_key(self) -> dict[tuple[str, str], Figure]:
        """(stage, resolution) to its figure."""
        return {(figure.stage, figure.resolution): figure for figure in self.figures}

    @property
    def is_of_cpu(self) -> bool:
        """Whether the figures are those of a machine without a GPU."""
        return self.device == _CPU

    def figure(self, stage: str, resolution: str) -> Figure:
        """Look one up.

        Raises:
            CostError: if it is not there.
        """
        if (stage, resolution) not in self.by_key:
            there = ", ".join(dict.fromkeys(figure.resolution for figure in self.figures if figure.stage == stage))
            reason = f"no figure for {stage} at {resolution} on {self.device}, there is {there or 'none'}"
            raise CostError(f"costs: {reason}; jobs.benchmark --resolution {resolution} measures it")
        return self.by_key[stage, resolution]

    def replaced_by(self, other: CostTable) -> CostTable:
        """The same with another table's figures where it has some.

        What a GPU takes says nothing about a CPU: from there on only writing, which is the network's time, is kept.
        """
        kept = self.figures if not other.is_of_cpu else tuple(f for f in self.figures if f.stage == "writing")
        merged = {(figure.stage, figure.resolution): figure for figure in (*kept, *other.figures)}
        return CostTable(device=other.device, figures=tuple(merged.values()))

    @classmethod
    def from_yaml(cls, data: bytes, name: str) -> CostTable:
        """Read a file.

        Args:
            data: its content.
            name: for messages.

        Raises:
            CostError: if it says what is not possible; the message names the field, its value and what is allowed.
        """
        try:
            table = cls.model_validate(yaml.safe_load(data))
        except (yaml.YAMLError, UnicodeError) as error:
            raise CostError(f"costs {name}: is not YAML: {' '.join(str(error).split())}") from error
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"])) or "file"
            value = "" if first["type"] == "missing" else f"={first['input']!r:.80}"
            raise CostError(f"costs {name}: {place}{value}: {first['msg'].lower()}") from error
        twice = [key for key, number in Counter((f.stage, f.resolution) for f in table.figures).items() if number > 1]
        if twice:
            raise CostError(f"costs {name}: figures: {' at '.join(twice[0])} must be there once, is there twice")
        return table

    def to_yaml(self) -> bytes:
        """Content of a file; the inverse of `from_yaml`."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True).encode()


def published_costs() -> CostTable:
    """The release's published figures, estimates where it gives none."""
    return CostTable.from_yaml(files("pipeline").joinpath(_RESOURCE).read_bytes(), _RESOURCE)


def load_costs(url: str | None) -> CostTable:
    """Published figures, and on top those of a file that `jobs.benchmark` wrote, if one is named.

    Raises:
        CostError: if the file cannot be used.
        StorageError: if it cannot be read.
    """
    published = published_costs()
    return published if url is None else published.replaced_by(CostTable.from_yaml(read_bytes(url), url))


def expected_length(request: ClipRequest, capabilities: Capabilities) -> ClipLength:
    """How long a clip will be; the checkpoint's default where that is for a recording to say."""
    if request.audio is None:
        return request.text_length(capabilities.default_seconds)
    seconds = capabilities.default_seconds if request.seconds is None else request.seconds
    return ClipLength.from_audio_latents(math.ceil(seconds * AUDIO_LATENT_RATE_HZ))


def has_unknown_length(request: ClipRequest) -> bool:
    """Whether a recording decides how long the clip is."""
    return request.audio is not None and request.seconds is None


def networks_in(contents: Mapping[str, Contents]) -> dict[str, TransformerConfig]:
    """The Transformers among a checkpoint's components."""
    return {
        name: config_from_shapes(contents[name].shapes, name, contents[name].config)
        for name in VARIANTS
        if name in contents
    }


@dataclass(frozen=True)
class CostModel:
    """Seconds of any clip, from the figures of a table.

    A stage with a Transformer takes as long as its operations: passes of the sampler times those of a pass, counted
    from the clip's tokens, attention and its windows included. Decoding takes as long as there are pixels. Conditioning
    and writing take the same for every clip, which is an estimate.

    Attributes:
        table: the figures.
        capabilities: pixel sizes and lengths of the checkpoint.
        samplers: how clips are denoised.
        networks: the checkpoint's Transformers.
    """

    table: CostTable
    capabilities: Capabilities = field(default_factory=Capabilities)
    samplers: Samplers = field(default_factory=Samplers)
    networks: Mapping[str, TransformerConfig] = field(
        default_factory=lambda: {name: release_config(name) for name in VARIANTS}
    )

    def lane_seconds(
        self, lane: Lane, examples: Sequence[ClipRequest], counts: Sequence[int] | None = None
    ) -> dict[str, float]:
        """Seconds per clip by stage, on average over the clips of a lane.

        Args:
            lane: the lane.
            examples: one clip of every aspect ratio and length.
            counts: how many of each there are; by default equally many.

        Raises:
            CostError: if the table lacks a figure.
        """
        clips: Counter[tuple[str, ClipLength]] = Counter()
        for request, number in zip(examples, counts or [1] * len(examples), strict=True):
            clips[request.aspect, expected_length(request, self.capabilities)] += number
        return {
            stage: sum(number * self._seconds(lane, stage, *clip) for clip, number in clips.items()) / clips.total()
            for stage in lane.stages
        }

    def observed(self, lane: Lane, clips: Iterable[tuple[ClipRequest, Mapping[str, float]]]) -> CostModel:
        """The same with medians of what a running job took, for stages that enough clips have passed.

        Args:
            lane: whose clips they are.
            clips: each with the seconds its stages were busy with it, without waiting for other clips. Those whose
                length a recording decided are left out.
        """
        seen: dict[str, list[float]] = {}
        for request, stage_seconds in clips:
            if has_unknown_length(request):
                continue
            clip = request.aspect, expected_length(request, self.capabilities)
            for stage, seconds in stage_seconds.items():
                if stage in lane.stages and seconds > 0:
                    seen.setdefault(stage, []).append(seconds / self._times_the_figure(lane, stage, *clip))
        figures = [
            self.table.figure(stage, lane.resolution).model_copy(
                update={"seconds": median(values), "source": f"observed, {len(values)} clips"}
            )
            for stage, values in seen.items()
            if len(values) >= MIN_OBSERVED
        ]
        return replace(self, table=self.table.replaced_by(CostTable(device=self.table.device, figures=tuple(figures))))

    def passes(self, lane: Lane, stage: str) -> int:
        """Forward passes of the stage's Transformer for a clip; 1 where it has none."""
        if stage == "base_generation":
            sampler = self.samplers.of_mode(lane.mode)
            return sampler.num_steps * (2 if isinstance(sampler, GuidedSampling) else 1)
        if stage == "super_resolution":
            refining = self.samplers.super_resolution
            return refining.num_steps * (1 if refining.guidance is None else 2)
        return 1

    def _seconds(self, lane: Lane, stage: str, aspect: str, length: ClipLength) -> float:
        figure = self.table.figure(stage, lane.resolution)
        return figure.seconds * self._times_the_figure(lane, stage, aspect, length)

    def _times_the_figure(self, lane: Lane, stage: str, aspect: str, length: ClipLength) -> float:
        """How many times the work of the figure's clip a clip is."""
        figure = self.table.figure(stage, lane.resolution)
        usual = self.capabilities.aspects(lane.resolution)[0], ClipLength.from_seconds(figure.clip_seconds)
        work = self._work(lane, stage, aspect, length) / self._work(lane, stage, *usual)
        return work * self.passes(lane, stage) / figure.passes

    def _work(self, lane: Lane, stage: str, aspect: str, length: ClipLength) -> float:
        """Of one pass, in units of the stage's own."""
        if stage == "base_generation":
            return self._operations(lane.mode, self.capabilities.base_size(aspect), length)
        size = self.capabilities.pixel_size(lane.resolution, aspect)
        if stage == "super_resolution":
            return self._operations(f"sr_{lane.resolution}", size, length)
        return math.prod(size) * length.num_frames if stage == "decoding" else 1.0

    def _operations(self, variant: str, size: tuple[int, int], length: ClipLength) -> float:
        audio, video = length.num_audio_latents, length.num_video_latents
        layout = SequenceLayout(video, *latent_size(*size), audio, USUAL_TEXT_TOKENS)
        return sum(transformer_flops(self.networks[variant], layout))
