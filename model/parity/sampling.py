"""The samplers against `sampling_*`, whole runs with every noise draw replayed, and the tables of `schedules`.

Legend: 1 one clip; C channels; T H W video latent frames, height, width; A audio latents.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor

from model.denoiser import Conditions, Latents, NoiseSource
from model.packing import PositionStyle
from model.parity import transformer
from model.parity.report import GoldenSet, Group, Pair, prefixes
from model.sampling import (
    DistilledSampling,
    GuidedSampling,
    SuperResolutionSampling,
    sample_distilled,
    sample_guided,
    sample_super_resolution,
)
from model.schedule import flow_sigmas, zero_snr_levels
from model.transformer import Transformer

SAMPLING = "sampling"
FILES = (transformer.CONFIG, transformer.WEIGHTS, f"{SAMPLING}_fp32.safetensors")
SCHEDULE_FILES = ("schedules.safetensors",)

FLOW_SHIFT = 5.0
SR_GUIDANCE = 3.5
"""Scale of a super-resolution run with guidance (source: the release's configuration)."""

_RUN_NAME = re.compile(r"(base_cfg|distilled|sr)(\d+)((?:_cfg|_image|_audio_driven)*)")


@dataclass(frozen=True)
class RecordedRun:
    """What a run's name says: `distilled8_image` is the distilled sampler, 8 steps, with a reference image."""

    name: str
    sampler: str
    num_steps: int
    options: frozenset[str]

    @classmethod
    def parse(cls, name: str) -> RecordedRun:
        """Read the name.

        Raises:
            ValueError: it is not known.
        """
        match = _RUN_NAME.fullmatch(name)
        if match is None:
            raise ValueError(f"run must be base_cfg<n>, distilled<n> or sr<n> with known endings, got {name!r}")
        options = frozenset(re.findall(r"cfg|image|audio_driven", match[3]))
        return cls(name, match[1], int(match[2]), options)

    @property
    def style(self) -> PositionStyle:
        """Which of the two models it runs."""
        return "sr" if self.sampler == "sr" else "base"

    def uses_image(self, recorded: Mapping[str, Tensor]) -> bool:
        """Whether the name says so, or the recorded first latent frame is the reference image to the bit."""
        first_frame = recorded[f"{self.name}.video"][:, :, :1]
        return "image" in self.options or ("image" in recorded and torch.equal(first_frame, recorded["image"]))


class RecordedNoise:
    """Replays the draws of one run in order, and insists on their shapes."""

    def __init__(self, recorded: Mapping[str, Tensor], run: str):
        names = [name for name in recorded if name.startswith(f"{run}.noise.")]
        names.sort(key=lambda name: int(name.rsplit(".", 1)[1]))
        self.draws = [recorded[name] for name in names]

    def __call__(self, shape: tuple[int, ...]) -> Tensor:
        """Return the next draw."""
        if not self.draws:
            raise ValueError(f"more noise is drawn than was recorded: {shape}")
        draw = self.draws.pop(0)
        if tuple(draw.shape) != tuple(shape):
            raise ValueError(f"noise of shape {shape} is drawn where {tuple(draw.shape)} was recorded")
        return draw


def sampling_groups(golden: GoldenSet) -> Iterator[Group]:
    """Two groups per recorded run: its video and its audio."""
    recorded, recorded_bf16 = golden.tensors(FILES[2]), golden.bf16_recording(SAMPLING)
    model = cache(lambda style, dtype: transformer.recorded_transformer(golden, style, dtype))

    @cache
    def result_of(name: str, dtype: torch.dtype) -> Latents:
        run, noise = RecordedRun.parse(name), RecordedNoise(recorded, name)
        result = replay(model(run.style, dtype), recorded, run, noise)
        if noise.draws:
            raise ValueError(f"{len(noise.draws)} recorded draws of noise were not used")
        return result

    def video(name: str) -> Iterable[Pair]:
        key = f"{name}.video"
        yield golden.pair(lambda dtype: result_of(name, dtype).video_1CTHW, recorded[key], recorded_bf16.get(key))

    def audio(name: str) -> Iterable[Pair]:
        key = f"{name}.audio"
        yield golden.pair(lambda dtype: result_of(name, dtype).audio_1AC, recorded[key], recorded_bf16.get(key))

    for name in sorted(prefixes(recorded, "video")):
        yield Group(f"sampling.{name}.video", partial(video, name))
        yield Group(f"sampling.{name}.audio", partial(audio, name))


def replay(model: Transformer, recorded: Mapping[str, Tensor], run: RecordedRun, noise: NoiseSource) -> Latents:
    """Run the sampler from the recorded start."""
    start = Latents(recorded["video"], recorded["audio"])
    conditions = Conditions(
        recorded["text"],
        negative_text_1LC=recorded.get("text_null"),
        image_1C1HW=recorded["image"] if run.uses_image(recorded) else None,
        audio_is_given="audio_driven" in run.options,
    )
    if run.sampler == "base_cfg":
        guided = GuidedSampling(num_steps=run.num_steps, shift=FLOW_SHIFT)
        return sample_guided(model, [start], [conditions], guided)[0]
    if run.sampler == "distilled":
        distilled = DistilledSampling(num_steps=run.num_steps, shift=FLOW_SHIFT)
        return sample_distilled(model, [start], [conditions], distilled, [noise])[0]
    guidance = SR_GUIDANCE if "cfg" in run.options else None
    config = SuperResolutionSampling(num_steps=run.num_steps, shift=FLOW_SHIFT, guidance=guidance)
    return Latents(sample_super_resolution(model, [start], [conditions], config)[0], start.audio_1AC)


def schedule_groups(golden: GoldenSet) -> Iterator[Group]:
    """One group per recorded number of steps, and one for the zero-terminal-SNR table."""
    recorded = golden.tensors(SCHEDULE_FILES[0])

    def pairs(name: str) -> Iterable[Pair]:
        if name == "zerosnr":
            yield Pair(zero_snr_levels(), recorded["zerosnr.sigmas"])
            return
        kind, num_steps = name.split(".")
        if kind != "flow":
            raise ValueError(f"schedule must be flow.<n> or zerosnr, got {name!r}")
        sigmas, timesteps = flow_sigmas(int(num_steps), FLOW_SHIFT)
        yield Pair(sigmas, recorded[f"{name}.sigmas"])
        yield Pair(timesteps, recorded[f"{name}.timesteps"])

    for name in prefixes(recorded, "sigmas", "timesteps"):
        yield Group(f"schedule.{name}", partial(pairs, name))
