"""Third pool: a second Transformer refines the enlarged video latent at 540p or 1080p."""

from __future__ import annotations

from actors.checkpoint_source import CheckpointSource
from actors.stage import Compute, Stage, Work
from actors.transformer_loading import load_transformer
from model.denoiser import Conditions, Latents, seeded_noise
from model.geometry import latent_size
from model.sampling import SuperResolutionSampling, prepare_super_resolution, sample_super_resolution


class SuperResolution(Stage):
    """Enlarge, noise and denoise the video latent; the sound stays as it is.

    Takes what `BaseGeneration` gives. Gives `video` (1, 48, T, H, W) in the decoder's dtype and `audio` float32.

    Args:
        compute: where it runs.
        source: the checkpoint.
        resolution: "540p" or "1080p".
        sampling: steps, noise and guidance.
    """

    name = "super_resolution"

    def __init__(self, compute: Compute, source: CheckpointSource, resolution: str, sampling: SuperResolutionSampling):
        super().__init__(compute)
        self.sampling = sampling
        variant = f"sr_{resolution}"
        checkpoint = source.fetch(variant)
        self.capabilities = checkpoint.capabilities
        self.transformer = load_transformer(compute, checkpoint, variant, resolution)

    def process(self, work: Work) -> None:
        """See the class."""
        request, tensors = work.request, {name: tensor.to(self.device) for name, tensor in work.tensors.items()}
        width, height = self.capabilities.pixel_size(request.resolution, request.aspect)
        noise = seeded_noise(request.stage_seed(self.name), self.device)
        negative = tensors.get("negative_text")
        conditions = Conditions(
            tensors["text"].float(),
            negative_text_1LC=None if negative is None else negative.float(),
            image_1C1HW=tensors.get("image_sr"),
        )
        base = Latents(tensors["video"], tensors["audio"])
        with self.lock:
            start = prepare_super_resolution(base, latent_size(width, height), self.sampling, noise)
            [video] = sample_super_resolution(self.transformer, [start], [conditions], self.sampling)
        # The decoder rounds to its own dtype first thing, so sending that loses nothing and halves the row.
        work.tensors = {"video": video.to(self.compute.dtype), "audio": base.audio_1AC, "frames": tensors["frames"]}
