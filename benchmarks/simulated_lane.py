"""A lane whose stages sleep as long as a GPU would compute, and pass on as many bytes as the real ones.

Seconds are those of `pipeline/costs.yaml`: published ones of an H100, estimates for conditioning and writing, times a
scale. Every clip takes up to a tenth more or less in each stage, as prompts and pictures differ, on average the figure.

Bytes of a clip of five seconds, worked out from `model.geometry` and the release's text encoder: 32 latent frames of 48
channels in 2 bytes, a sixteenth as high and wide as the pixels (base 1.4 MB, 540p 5.5 MB, 1080p 25 MB); 126 audio
latents of 64 numbers; 300 tokens of text of 3,584 numbers (2.2 MB), which super-resolution needs as well. What an MP4
takes depends on the picture: 3 Mbit/s at 540p and 12 Mbit/s at 1080p stand for x264 at crf 18, a guess.

An actor on a GPU first loads its weights, the release's in bfloat16, at 1 GB/s: slower than a local disk, as fast as a
store may be that a whole fleet reads from. That rate is an assumption; its seconds are scaled like all others.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from actors.request import ClipRequest
from actors.row import STAGES
from actors.stage import Compute, Stage, Work
from benchmarks.steady_state import MIN_CLIPS
from model.geometry import (
    AUDIO_LATENT_CHANNELS,
    DEFAULT_SECONDS,
    PIXEL_SIZES,
    VIDEO_LATENT_CHANNELS,
    ClipLength,
    latent_size,
)
from pipeline.costs import USUAL_TEXT_TOKENS, CostModel, published_costs
from pipeline.lane import Lane
from pipeline.plan import GPU_STAGES, plan_lane
from pipeline.pools import Cluster, LanePlan, Pool
from pipeline.settings import Settings

RESOLUTIONS = ("540p", "1080p")
CPUS_PER_GPU = 4

_BF16_BYTES = 2
_TEXT_CHANNELS = 3584
_MP4_BITS_PER_S = {"540p": 3_000_000, "1080p": 12_000_000}
_POSTER_BYTES = 60_000
_RECORD_BYTES = 2_000
_OFFSETS = 1000
_PROMPT = {"prompt": "A person speaks to the camera.", "language": "en"}
_SPREAD = 0.1
_WEIGHTS_GB = {"conditioning": 18.5, "base_generation": 30.6, "super_resolution": 30.6, "decoding": 1.0}
_LOAD_GB_PER_S = 1.0
_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


class SimulatedStage(Stage):
    """Computes by sleeping, one clip at a time as on a GPU; its payload is random, so that nothing can be packed.

    Args:
        compute: as of every stage.
        seconds: that a clip takes on average.
        load_s: that loading the weights takes.
        num_bytes: of each tensor that the next stage needs.
    """

    def __init__(self, compute: Compute, seconds: float, load_s: float, num_bytes: Mapping[str, int]):
        super().__init__(compute)
        time.sleep(load_s)
        self.seconds, self.num_bytes = seconds, num_bytes
        self.noise = {
            name: torch.randint(256, (size + _OFFSETS,), dtype=torch.uint8) for name, size in num_bytes.items()
        }

    def process(self, work: Work) -> None:
        """See the class."""
        number = number_of(work.request.id)
        with self.lock:
            begun = time.time()
            time.sleep(self.seconds * relative_seconds(number, self.name))
            work.notes.append(f"{self.name} {begun:.6f} {time.time():.6f}")
        work.tensors = self.tensors(number)

    def tensors(self, number: int) -> dict[str, torch.Tensor]:
        """What the next stage needs of a clip, other bytes for each."""
        start = number % _OFFSETS
        return {name: self.noise[name][start : start + size] for name, size in self.num_bytes.items()}


class SimulatedConditioning(SimulatedStage):
    """Text in, features out."""

    name = "conditioning"


class SimulatedBaseGeneration(SimulatedStage):
    """Features in, small latents out."""

    name = "base_generation"


class SimulatedSuperResolution(SimulatedStage):
    """Small latents in, large ones out."""

    name = "super_resolution"


class SimulatedDecoding(SimulatedStage):
    """Latents in, an MP4 out."""

    name = "decoding"


class SimulatedWriting(SimulatedStage):
    """An MP4 in, a record out; a store takes several at once, so nothing waits for its neighbour."""

    name = "writing"

    def process(self, work: Work) -> None:
        """See the class."""
        number = number_of(work.request.id)
        time.sleep(self.seconds * relative_seconds(number, self.name))
        work.tensors = self.tensors(number)


_CLASSES: dict[str, type[SimulatedStage]] = {
    each.name: each
    for each in (
        SimulatedConditioning,
        SimulatedBaseGeneration,
        SimulatedSuperResolution,
        SimulatedDecoding,
        SimulatedWriting,
    )
}


@dataclass(frozen=True)
class SimulatedLane:
    """What is to be made, and on what.

    Attributes:
        resolution: of the clips.
        num_gpus: logical GPUs; 0: every stage has one actor and no GPU.
        num_clips: clips.
        scale: simulated seconds for a second of an H100.
    """

    resolution: str
    num_gpus: int
    num_clips: int
    scale: float

    def __post_init__(self) -> None:
        if self.resolution not in RESOLUTIONS:
            raise ValueError(f"resolution must be one of {', '.join(RESOLUTIONS)}, got {self.resolution!r}")
        if self.num_gpus != 0 and self.num_gpus < len(GPU_STAGES):
            raise ValueError(f"num_gpus must be 0, or {len(GPU_STAGES)} (stages) or more, got {self.num_gpus}")
        if self.num_clips < MIN_CLIPS:
            raise ValueError(f"num_clips must be at least {MIN_CLIPS}, got {self.num_clips}")
        if not 0 < self.scale < math.inf:
            raise ValueError(f"scale must be a number above 0, got {self.scale}")

    @property
    def lane(self) -> Lane:
        """Distilled clips, as the published seconds are."""
        return Lane("distill", self.resolution)

    @property
    def num_cpus(self) -> int:
        """Logical CPUs, so many that none of the ways lacks any."""
        return 16 + CPUS_PER_GPU * self.num_gpus

    @property
    def requests(self) -> list[ClipRequest]:
        """What is asked for."""
        return [
            ClipRequest.model_validate({**_PROMPT, "id": f"clip-{number:06}", "resolution": self.resolution})
            for number in range(self.num_clips)
        ]

    @property
    def seconds(self) -> dict[str, float]:
        """That a clip takes on average, by stage."""
        seconds = CostModel(published_costs()).lane_seconds(self.lane, self.requests[:1])
        return {stage: self.scale * seconds[stage] for stage in self.lane.stages}

    def load_s(self, stage: str) -> float:
        """Seconds until a new actor of a stage has its weights."""
        return self.scale * _WEIGHTS_GB.get(stage, 0.0) / _LOAD_GB_PER_S

    @property
    def stages(self) -> dict[str, tuple[type[SimulatedStage], dict[str, Any]]]:
        """Stage name to its class and constructor arguments."""
        seconds, num_bytes = self.seconds, payload_bytes(self.resolution)
        compute = Compute(device="cpu")
        return {
            stage: (
                _CLASSES[stage],
                {
                    "compute": compute,
                    "seconds": seconds[stage],
                    "load_s": self.load_s(stage),
                    "num_bytes": num_bytes[stage],
                },
            )
            for stage in self.lane.stages
        }

    def plan(self) -> LanePlan:
        """As for a run whose GPUs' memory is not known: a whole GPU for every actor that computes on one."""
        cluster = Cluster(self.num_gpus, self.num_cpus)
        return plan_lane(self.lane, Settings(), cluster, self.seconds, num_clips=self.num_clips)

    @property
    def bottleneck(self) -> Pool:
        """The plan's slowest pool of those on GPUs."""
        seconds = self.seconds
        pools = [pool for pool in self.plan().pools if pool.stage in GPU_STAGES]
        return max(pools, key=lambda pool: seconds[pool.stage] / pool.size)

    @property
    def bound_per_s(self) -> float:
        """Clips per second if none of the slowest pool's GPUs ever waited."""
        return self.bottleneck.size / self.seconds[self.bottleneck.stage]


def number_of(clip_id: str) -> int:
    """Place of a clip in the manifest."""
    return int(clip_id.rpartition("-")[2])


def relative_seconds(number: int, stage: str) -> float:
    """How much longer than usual a clip takes: spread evenly over any stretch of clips, other for each stage."""
    place = (number + 0.37 * STAGES.index(stage)) * _GOLDEN_RATIO * (1 + STAGES.index(stage)) % 1.0
    return 1 + _SPREAD * (2 * place - 1)


def payload_bytes(resolution: str) -> dict[str, dict[str, int]]:
    """Bytes of the tensors that each stage passes on, see above."""
    length = ClipLength.from_seconds(DEFAULT_SECONDS)

    def video(label: str) -> int:
        height, width = latent_size(*PIXEL_SIZES[label, "16:9"])
        return VIDEO_LATENT_CHANNELS * length.num_video_latents * height * width * _BF16_BYTES

    audio = length.num_audio_latents * AUDIO_LATENT_CHANNELS * _BF16_BYTES
    text = USUAL_TEXT_TOKENS * _TEXT_CHANNELS * _BF16_BYTES
    mp4 = round(_MP4_BITS_PER_S[resolution] * DEFAULT_SECONDS / 8)
    return {
        "conditioning": {"text": text},
        "base_generation": {"video": video("256p"), "audio": audio, "text": text},
        "super_resolution": {"video": video(resolution), "audio": audio},
        "decoding": {"mp4": mp4, "poster": _POSTER_BYTES},
        "writing": {"record": _RECORD_BYTES},
    }


def computed(notes: Sequence[str], stage: str) -> list[tuple[float, float]]:
    """When a stage began and ended to compute a clip, by the machine's clock, from the notes in its row."""
    parts = [note.split() for note in notes]
    return [(float(begun), float(ended)) for name, begun, ended in parts if name == stage]
