"""Whether super-resolution gives more than enlarging does: PSNR against renders at the large size.

Legend: F frames, Y X pixel rows and columns, C latent channels, T H W latent frames, height, width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from actors.checkpoint_source import CheckpointSource
from actors.small_world.clips import SIZES, SmallWorldClip
from model.denoiser import Conditions, Latents, seeded_noise
from model.geometry import latent_size
from model.sampling import SuperResolutionSampling, prepare_super_resolution, sample_super_resolution

RESOLUTION = "540p"
_VARIANT = f"sr_{RESOLUTION}"
_LARGE_SCALE = SIZES[RESOLUTION]["1:1"][0] // SIZES["256p"]["1:1"][0]


@dataclass(frozen=True)
class Enlarged:
    """PSNR in dB against the render at the large size, of one clip.

    Attributes:
        id: of the clip.
        super_resolution_db: small latents through the Transformer and the video decoder.
        bilinear_db: the same latents decoded and enlarged.
        bilinear_render_db: the large render averaged to the small size and enlarged, which no checkpoint can spoil.
        autoencoder_db: the large render through encoder and decoder: what this checkpoint could reach.
    """

    id: str
    super_resolution_db: float
    bilinear_db: float
    bilinear_render_db: float
    autoencoder_db: float


class Enlarging:
    """Enlarges clips with a checkpoint.

    Args:
        source: the checkpoint; its `wan_vae`, `audio_vae`, `text_encoder`, `sr_540p` and video decoder are used.
        sampling: of super-resolution.
        negative_prompt: what guidance leads away from, where `sampling` has any.

    Raises:
        CheckpointError: a component is absent or incomplete.
    """

    def __init__(self, source: CheckpointSource, sampling: SuperResolutionSampling, negative_prompt: str):
        self.sampling, self.negative_prompt = sampling, negative_prompt
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        checkpoint = source.fetch("wan_vae", "audio_vae", "text_encoder", _VARIANT, "video_decoder")
        self.encoder = checkpoint.image_encoder(torch.float32, self.device)
        self.audio = checkpoint.audio_encoder(self.device)
        self.text = checkpoint.text_encoder(torch.float32, self.device)
        self.transformer = checkpoint.transformer(_VARIANT, torch.float32, self.device)
        self.decoder = checkpoint.video_decoder(torch.float32, self.device)

    @torch.inference_mode()
    def compare(self, clip: SmallWorldClip) -> Enlarged:
        """Enlarge one clip in every way."""
        truth_F3YX = torch.from_numpy(clip.frames(RESOLUTION)).to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        # As the latents are made that super-resolution learns from (see `LatentShards`).
        small_F3YX = F.avg_pool2d(truth_F3YX, _LARGE_SCALE)
        small_1CTHW, truth_1CTHW = self._encode(small_F3YX), self._encode(truth_F3YX)
        enlarged_F3YX = self._decode(self._super_resolve(clip, small_1CTHW))
        results = {
            "super_resolution_db": enlarged_F3YX,
            "bilinear_db": _bilinear(self._decode(small_1CTHW)),
            "bilinear_render_db": _bilinear(small_F3YX),
            "autoencoder_db": self._decode(truth_1CTHW),
        }
        return Enlarged(clip.id, **{name: psnr_db(made_F3YX, truth_F3YX) for name, made_F3YX in results.items()})

    def _super_resolve(self, clip: SmallWorldClip, small_1CTHW: Tensor) -> Tensor:
        waveform_2S = torch.from_numpy(clip.waveform()).to(self.device).expand(2, -1)
        audio_1AC = self.audio.encode_mean_and_scale(waveform_2S).chunk(2, dim=1)[0].transpose(1, 2)
        conditions = Conditions(
            self._encode_text(clip.request(RESOLUTION).prompt_text()),
            None if self.sampling.guidance is None else self._encode_text(self.negative_prompt),
        )
        width, height = SIZES[RESOLUTION][clip.aspect]
        base = Latents(small_1CTHW, audio_1AC)
        noise = seeded_noise(clip.seed, self.device)
        start = prepare_super_resolution(base, latent_size(width, height), self.sampling, noise)
        [video_1CTHW] = sample_super_resolution(self.transformer, [start], [conditions], self.sampling)
        return video_1CTHW

    def _encode_text(self, text: str) -> Tensor:
        return self.text.encode([text])[0].features_1LC.float()

    def _encode(self, pixels_F3YX: Tensor) -> Tensor:
        return self.encoder.encode_pixels(pixels_F3YX.transpose(0, 1).unsqueeze(0))

    def _decode(self, latent_1CTHW: Tensor) -> Tensor:
        return torch.cat(list(self.decoder.decode_chunks(latent_1CTHW)), dim=1).transpose(0, 1).float()


def psnr_db(made_F3YX: Tensor, truth_F3YX: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pixels in [-1, 1], over all frames; what lies outside is clipped.

    Raises:
        ValueError: if the shapes differ.
    """
    if made_F3YX.shape != truth_F3YX.shape:
        raise ValueError(f"made_F3YX must be {tuple(truth_F3YX.shape)} like the truth, got {tuple(made_F3YX.shape)}")
    error = float(F.mse_loss(made_F3YX.clamp(-1, 1), truth_F3YX))
    return 10 * float(torch.log10(torch.tensor(4 / max(error, 1e-10))))


def _bilinear(small_F3YX: Tensor) -> Tensor:
    return F.interpolate(small_F3YX, scale_factor=_LARGE_SCALE, mode="bilinear", align_corners=False)
