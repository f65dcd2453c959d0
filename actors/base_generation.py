"""Second pool: the base or distilled Transformer makes video and audio latents at 256p."""

from __future__ import annotations

from actors.checkpoint_source import CheckpointSource
from actors.stage import Compute, Stage, Work
from model.denoiser import Conditions, Latents, initial_noise, seeded_noise
from model.geometry import AUDIO_LATENT_CHANNELS, VIDEO_LATENT_CHANNELS, latent_size
from model.sampling import DistilledSampling, GuidedSampling, sample_distilled, sample_guided


class BaseGeneration(Stage):
    """Denoise from pure noise.

    Takes what `Conditioning` gives. Gives `video` (1, 48, T, H, W) and `audio` (1, A, 64) float32, and passes on what
    super-resolution needs.

    Args:
        compute: where it runs.
        source: the checkpoint.
        sampling: `GuidedSampling` runs the base model, `DistilledSampling` the distilled one.
    """

    name = "base_generation"

    def __init__(self, compute: Compute, source: CheckpointSource, sampling: GuidedSampling | DistilledSampling):
        super().__init__(compute)
        self.sampling = sampling
        variant = "base" if isinstance(sampling, GuidedSampling) else "distill"
        checkpoint = source.fetch(variant)
        self.capabilities = checkpoint.capabilities
        self.transformer = checkpoint.transformer(variant, compute.dtype, self.device)

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
        with self.lock:
            if isinstance(self.sampling, GuidedSampling):
                [latents] = sample_guided(self.transformer, [start], [conditions], self.sampling)
            else:
                [latents] = sample_distilled(self.transformer, [start], [conditions], self.sampling, [noise])
        work.tensors = {"video": latents.video_1CTHW, "audio": latents.audio_1AC, "frames": tensors["frames"]}
        if request.is_super_resolved:
            work.tensors |= {name: tensors[name] for name in ("text", "negative_text", "image_sr") if name in tensors}
