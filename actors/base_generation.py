"""Second pool: the base or distilled Transformer makes video and audio latents at 256p."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from actors.checkpoint_source import CheckpointSource
from actors.clip_packing import ClipPacker
from actors.stage import Compute, Stage, Work
from actors.transformer_loading import load_transformer
from model.capabilities import BASE_RESOLUTION
from model.denoiser import Conditions, Latents, NoiseSource, initial_noise, seeded_noise
from model.geometry import AUDIO_LATENT_CHANNELS, VIDEO_LATENT_CHANNELS, latent_size
from model.packing import SequenceLayout
from model.sampling import DistilledSampling, GuidedSampling, sample_distilled, sample_guided


@dataclass(frozen=True)
class _Clip:
    start: Latents
    conditions: Conditions
    noise: NoiseSource


class BaseGeneration(Stage):
    """Denoise from pure noise.

    Takes what `Conditioning` gives. Gives `video` (1, 48, T, H, W) and `audio` (1, A, 64) float32, and passes on what
    super-resolution needs.

    Args:
        compute: where it runs.
        source: the checkpoint.
        sampling: `GuidedSampling` runs the base model, `DistilledSampling` the distilled one.
        packed_tokens: clips that wait are denoised together as long as they have no more tokens than this; 0: each
            alone, so that its numbers depend on nothing but itself.
    """

    name = "base_generation"

    def __init__(
        self,
        compute: Compute,
        source: CheckpointSource,
        sampling: GuidedSampling | DistilledSampling,
        packed_tokens: int = 0,
    ):
        super().__init__(compute)
        self.sampling = sampling
        variant = "base" if isinstance(sampling, GuidedSampling) else "distill"
        checkpoint = source.fetch(variant)
        self.capabilities = checkpoint.capabilities
        self.transformer = load_transformer(compute, checkpoint, variant, BASE_RESOLUTION)
        self.denoise = ClipPacker(self._denoise, packed_tokens, self.waited)

    def process(self, work: Work) -> None:
        """See the class."""
        request, tensors = work.request, {name: tensor.to(self.device) for name, tensor in work.tensors.items()}
        frames = tensors["frames"].tolist()
        noise = seeded_noise(request.stage_seed(self.name), self.device)
        width, height = self.capabilities.base_size(request.aspect)
        start = initial_noise(
            (frames[0], *latent_size(width, height)),
            int(tensors["num_audio_latents"]),
            (VIDEO_LATENT_CHANNELS, AUDIO_LATENT_CHANNELS),
            noise,
        )
        if "audio" in tensors:
            start = Latents(start.video_1CTHW, tensors["audio"])
        negative = tensors.get("negative_text")
        conditions = Conditions(
            tensors["text"].float(),
            negative_text_1LC=None if negative is None else negative.float(),
            image_1C1HW=tensors.get("image_base"),
            audio_is_given="audio" in tensors,
        )
        layout = SequenceLayout.of(start.video_1CTHW, start.audio_1AC, conditions.text_1LC)
        latents = self.denoise(_Clip(start, conditions, noise), layout.num_tokens)
        work.tensors = {"video": latents.video_1CTHW, "audio": latents.audio_1AC, "frames": tensors["frames"]}
        if request.is_super_resolved:
            work.tensors |= {name: tensors[name] for name in ("text", "negative_text", "image_sr") if name in tensors}

    def _denoise(self, clips: Sequence[_Clip]) -> list[Latents]:
        starts, conditions = [clip.start for clip in clips], [clip.conditions for clip in clips]
        with self.lock:  # always free, since batches come one by one: it ends when the GPU has ended
            if isinstance(self.sampling, GuidedSampling):
                return sample_guided(self.transformer, starts, conditions, self.sampling)
            noises = [clip.noise for clip in clips]
            return sample_distilled(self.transformer, starts, conditions, self.sampling, noises)
