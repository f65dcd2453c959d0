"""GPU memory of a lane's actors: what its checkpoint holds, at work on its largest clips."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from actors.request import ClipRequest
from model.autoencoder_memory import (
    audio_decoder_memory,
    audio_encoder_memory,
    chunk_bytes,
    image_encoder_memory,
    turbo_vae_memory,
    wan_decoder_memory,
)
from model.capabilities import BASE_RESOLUTION, Capabilities
from model.components import Contents
from model.geometry import AUDIO_LATENT_RATE_HZ, LATENT_STRIDE_TIME, ClipLength, latent_size
from model.memory import NetworkMemory, Precision, process_bytes, text_encoder_memory, transformer_memory
from model.oobleck import OobleckConfig
from model.packing import SequenceLayout
from model.text_encoder import MAX_TEXT_TOKENS
from model.turbo_vae import TurboVAEConfig
from model.variants import config_from_shapes
from model.wan_config import WanVaeConfig
from pipeline.lane import LaneWork
from pipeline.pools import CONCURRENT_CALLS

GPU_MEMORY_GB = {
    "A10G": 24.0,
    "A100-40G": 40.0,
    "A100-80G": 80.0,
    "B200": 180.0,
    "H100": 80.0,
    "H200": 141.0,
    "L4": 24.0,
    "L40S": 48.0,
}
"""Memory of a GPU by the names that Ray has for types (`ray.util.accelerators`), in 10^9 bytes: NVIDIA's data sheets.
Drivers give a little more. "A100" alone is not here, since Ray calls both sizes so."""


def known_gpu_memory_gb(setting: float | None, accelerator_type: str | None) -> float | None:
    """What one GPU has in GB: what the setting says, else the type; None where neither tells."""
    return setting if setting is not None else GPU_MEMORY_GB.get(accelerator_type or "")


class LaneMemory:
    """What each actor of a lane needs on its GPU.

    Args:
        work: the lane; its largest clips count.
        contents: of the components it is made with.
        capabilities: of the checkpoint.
        precision: of the networks.
        is_compiled: whether the Transformers are.
        packed_tokens: of clips that are denoised together, see `actors.base_generation.BaseGeneration`.
    """

    def __init__(
        self,
        work: LaneWork,
        contents: Mapping[str, Contents],
        capabilities: Capabilities,
        precision: Precision,
        is_compiled: bool,
        packed_tokens: int = 0,
    ):
        self.work, self.contents, self.capabilities = work, contents, capabilities
        self.precision, self.is_compiled, self.packed_tokens = precision, is_compiled, packed_tokens
        self.base_clips = _layouts(work.examples, capabilities, BASE_RESOLUTION)
        self.clips = _layouts(work.examples, capabilities, work.lane.resolution)

    def actors_gb(self) -> dict[str, float]:
        """GB of GPU memory by stage, the reserve of `model.memory.process_bytes` included."""
        lane, samplers = self.work.lane, self.work.samplers
        num_copies = 2 if lane.mode == "base" else 1
        transformers = {
            "base_generation": self._transformer(lane.mode, self.base_clips, num_copies, self.packed_tokens)
        }
        if lane.is_super_resolved:
            num_copies = 1 if samplers.super_resolution.guidance is None else 2
            transformers["super_resolution"] = self._transformer(f"sr_{lane.resolution}", self.clips, num_copies)
        needed = {stage: process_bytes([network], network.activations_bytes) for stage, network in transformers.items()}
        needed |= {"conditioning": self._conditioning(), "decoding": self._decoding()}
        return {stage: needed[stage] / 1e9 for stage in lane.stages if stage in needed}

    def _transformer(
        self, variant: str, clips: set[SequenceLayout], num_copies: int, packed_tokens: int = 0
    ) -> NetworkMemory:
        clip = max(clips, key=lambda clip: clip.num_tokens)
        contents = self.contents[variant]
        config = config_from_shapes(contents.shapes, variant, contents.config)
        num_clips = max(1, math.ceil(packed_tokens / clip.num_tokens))
        return transformer_memory(config, [clip] * num_clips * num_copies, self.precision, self.is_compiled)

    def _conditioning(self) -> int:
        text = self.contents["text_encoder"]
        networks = [text_encoder_memory(text.config, text.shapes, self.precision)]
        if self.work.reads_images:
            sizes = {self.capabilities.base_size(request.aspect) for request in self.work.examples}
            sizes |= {self.capabilities.pixel_size(r.resolution, r.aspect) for r in self.work.examples}
            largest = max(sizes, key=math.prod)
            networks.append(image_encoder_memory(self._wan_config(), largest, self.precision))
        if self.work.reads_audio:
            networks.append(audio_encoder_memory(self._audio_config(), self._num_audio()))
        return process_bytes(networks, max(network.activations_bytes for network in networks))

    def _decoding(self) -> int:
        clip = max(self.clips, key=lambda clip: (clip.tokens_per_frame, clip.latent_frames))
        if "turbo_vae" in self.work.components:
            turbo = TurboVAEConfig.from_dict(self.contents["turbo_vae"].config)
            video, num_frames = turbo_vae_memory(turbo, clip, self.precision), turbo.step_size * LATENT_STRIDE_TIME
        else:
            video, num_frames = wan_decoder_memory(self._wan_config(), clip, self.precision), LATENT_STRIDE_TIME
        sound = audio_decoder_memory(self._audio_config(), self._num_audio())
        # One call decodes pixels; every other holds a chunk that is being encoded. Sounds wait for nobody.
        waiting = (CONCURRENT_CALLS - 1) * chunk_bytes(clip, num_frames, self.precision)
        sounds = CONCURRENT_CALLS * sound.activations_bytes
        return process_bytes([video, sound], video.activations_bytes + waiting + sounds)

    def _num_audio(self) -> int:
        return max(clip.num_audio for clip in self.clips)

    def _wan_config(self) -> WanVaeConfig:
        contents = self.contents["wan_vae"]
        return (
            WanVaeConfig.from_diffusers(contents.config)
            if contents.config
            else WanVaeConfig.from_shapes(contents.shapes)
        )

    def _audio_config(self) -> OobleckConfig:
        return OobleckConfig.from_json(self.contents["audio_vae"].config)


def _layouts(requests: Sequence[ClipRequest], capabilities: Capabilities, resolution: str) -> set[SequenceLayout]:
    """Clips as the Transformer of a resolution takes them, with as much text as it ever gets."""
    lengths = {(request.aspect, _longest(request, capabilities)) for request in requests}
    return {
        SequenceLayout(
            length.num_video_latents,
            *latent_size(*capabilities.pixel_size(resolution, aspect)),
            length.num_audio_latents,
            MAX_TEXT_TOKENS,
        )
        for aspect, length in lengths
    }


def _longest(request: ClipRequest, capabilities: Capabilities) -> ClipLength:
    """How long a clip is; how long it may be, where that is for its recording to say."""
    if request.audio is None:
        return request.text_length(capabilities.default_seconds)
    limit = capabilities.max_clip_seconds(request.resolution, has_audio=True)
    seconds = limit if request.seconds is None else request.seconds
    return ClipLength.from_audio_latents(math.ceil(seconds * AUDIO_LATENT_RATE_HZ))
