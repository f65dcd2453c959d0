"""First pool: everything that turns a request into what steers the Transformer.

Text through T5Gemma's encoder, a reference image through the Wan 2.2 VAE's, driving audio through Stable Audio's.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from actors.checkpoint_source import CheckpointSource
from actors.limits import MAX_AUDIO_BYTES, MAX_IMAGE_BYTES
from actors.media import read_waveform
from actors.pictures import read_image
from actors.redaction import redact
from actors.reference_files import read_reference
from actors.references import AllowedReferences, ReferenceRefused
from actors.request import ClipRequest
from actors.row import RowError
from actors.stage import Compute, Stage, Work
from actors.text_cache import TextCache
from model.geometry import (
    FRAMES_PER_SECOND,
    MIN_SECONDS,
    MODEL_SAMPLE_RATE_HZ,
    SAMPLES_PER_AUDIO_LATENT,
    ClipLength,
    max_seconds,
)
from model.text_encoder import MAX_TEXT_TOKENS

# What storage back ends raise for a bad reference.
_READING_ERRORS = (OSError, ValueError, RuntimeError, TypeError, ImportError)


class Conditioning(Stage):
    """Encode prompt, reference image and driving audio.

    Equal prompts are encoded once. Different ones are encoded one by one, though the encoder takes several: on a GPU a
    row's features could then depend, in the last bits, on the rows beside it.

    Gives `text` and, where asked for, `negative_text` (1, L, C) float16; `image_base` and `image_sr` (1, 48, 1, H, W)
    float32; `audio` (1, A, 64) float32; `num_audio_latents`; and `frames`: how many video latents, frames and frames
    of sound the clip has.

    Args:
        compute: where it runs.
        source: the checkpoint.
        negative_prompt: encoded along with every clip for guidance, or None.
        reads_images: load the image encoder; rows with an image need it.
        reads_audio: load the audio encoder; rows with audio need it.
        references: where images and recordings may lie; None: anywhere, for requests of one's own.
    """

    name = "conditioning"

    def __init__(
        self,
        compute: Compute,
        source: CheckpointSource,
        negative_prompt: str | None = None,
        reads_images: bool = True,
        reads_audio: bool = True,
        references: AllowedReferences | None = None,
    ):
        super().__init__(compute)
        components = ["text_encoder"] + ["wan_vae"] * reads_images + ["audio_vae"] * reads_audio
        checkpoint = source.fetch(*components)
        self.capabilities = checkpoint.capabilities
        self.texts = TextCache(checkpoint.text_encoder(compute.dtype, self.device))
        self.negative_prompt = negative_prompt
        self.references = references
        self.image_encoder = checkpoint.image_encoder(compute.dtype, self.device) if reads_images else None
        self.audio_encoder = checkpoint.audio_encoder(self.device) if reads_audio else None

    def process(self, work: Work) -> None:
        """See the class."""
        request, tensors = work.request, work.tensors
        image = self._read_image(request) if request.image is not None else None
        waveform = self._read_waveform(work) if request.audio is not None else None
        with self.lock:
            text = self.texts.encode(request.prompt_text())
            tensors["text"] = text.features_1LC
            if self.negative_prompt is not None:
                tensors["negative_text"] = self.texts.encode(self.negative_prompt).features_1LC
            if image is not None:
                base_size = self.capabilities.base_size(request.aspect)
                tensors["image_base"] = self._encode_image(request, image, base_size)
                if request.is_super_resolved:
                    clip_size = self.capabilities.pixel_size(request.resolution, request.aspect)
                    tensors["image_sr"] = self._encode_image(request, image, clip_size)
            if waveform is None:
                length = request.text_length(self.capabilities.default_seconds)
            else:
                length, tensors["audio"] = self._encode_audio(request, waveform)
        if text.num_tokens > MAX_TEXT_TOKENS:
            work.notes.append(f"prompt: {text.num_tokens} tokens, only the first {MAX_TEXT_TOKENS} steer the clip")
        tensors["frames"] = torch.tensor([length.num_video_latents, length.num_frames, length.sound_frames])
        tensors["num_audio_latents"] = torch.tensor(length.num_audio_latents)

    def _encode_image(self, request: ClipRequest, image: Image.Image, size: tuple[int, int]) -> Tensor:
        assert self.image_encoder is not None
        width, height = size
        try:
            return self.image_encoder.encode(image, height, width)
        except ValueError as error:
            what = f"{image.width}x{image.height} pixels cannot be cropped to {request.aspect}"
            raise RowError("image", redact(str(request.image)), f"{what}: {error}") from error

    def _read_file(self, field: str, url: str, max_bytes: int) -> bytes:
        try:
            return read_reference(url, max_bytes, self.references)
        except ReferenceRefused as error:
            raise RowError(field, redact(url), str(error)) from error
        except _READING_ERRORS as error:
            raise RowError(field, redact(url), f"cannot be read: {redact(str(error))}") from error

    def _read_image(self, request: ClipRequest) -> Image.Image:
        url = str(request.image)
        data = self._read_file("image", url, MAX_IMAGE_BYTES)
        try:
            return read_image(data)
        except ValueError as error:
            raise RowError("image", redact(url), f"cannot be read: {error}") from error

    def _read_waveform(self, work: Work) -> np.ndarray:
        request, url = work.request, str(work.request.audio)
        data = self._read_file("audio", url, MAX_AUDIO_BYTES)
        shortest = self.capabilities.min_seconds
        limit = self.capabilities.max_clip_seconds(request.resolution, has_audio=True)
        try:
            # One second more than is possible shows that a recording is too long; hours of it would fill the memory.
            wanted = request.seconds if request.seconds is not None else limit + 1
            samples = read_waveform(data, MODEL_SAMPLE_RATE_HZ, wanted)
        except ValueError as error:
            raise RowError("audio", redact(url), f"cannot be read: {error}") from error
        seconds = len(samples) / MODEL_SAMPLE_RATE_HZ
        if seconds > limit:
            is_release = limit == max_seconds(request.resolution, has_audio=True)
            possible = f"possible at {request.resolution}" if is_release else "possible for this checkpoint"
            reason = f"lasts more than the {limit:g} s that are {possible}: set seconds to use its beginning"
            raise RowError("audio", redact(url), reason)
        if len(samples) < int(shortest * MODEL_SAMPLE_RATE_HZ):  # as a recording is cut to whole samples
            needed = f"{shortest:g} are needed" + ("" if shortest == MIN_SECONDS else " for this checkpoint")
            raise RowError("audio", redact(url), f"lasts {seconds:.2f} s, at least {needed}")
        if request.seconds is not None and request.seconds - seconds > 1 / FRAMES_PER_SECOND:
            work.notes.append(
                f"audio lasts {seconds:.2f} s, so the clip is shorter than the {request.seconds:g} s asked"
            )
        return samples

    def _encode_audio(self, request: ClipRequest, samples: np.ndarray) -> tuple[ClipLength, Tensor]:
        assert self.audio_encoder is not None
        length = ClipLength.from_audio_latents(-(-len(samples) // SAMPLES_PER_AUDIO_LATENT))
        padded = np.zeros(length.num_audio_latents * SAMPLES_PER_AUDIO_LATENT, dtype=np.float32)
        padded[: len(samples)] = samples
        generator = torch.Generator().manual_seed(request.stage_seed(self.name))
        waveform_2S = torch.from_numpy(padded).expand(2, -1).to(self.device)
        return length, self.audio_encoder.encode(waveform_2S, generator)
