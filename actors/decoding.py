"""Fourth pool: video and audio decoder make pixels and sound, and stream them into an MP4."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import numpy as np
import torch
from torch import Tensor

from actors.checkpoint_source import CheckpointSource
from actors.credentials import Credentials, SigningError
from actors.frame_stream import FrameStream
from actors.muxing import ClipMuxer
from actors.origin import Origin
from actors.request import ClipRequest
from actors.row import OUTPUT, RowError
from actors.stage import Compute, Stage, Work
from actors.video_encoding import VideoEncoding
from model.compilation import compile_video_decoder
from model.geometry import FRAMES_PER_SECOND, OUTPUT_SAMPLE_RATE_HZ, latent_size
from model.turbo_vae import TurboVAEDecoder
from model.widened_products import fast_bfloat16


class Decoding(Stage):
    """Decode chunk by chunk; a chunk is converted and encoded while the network makes the next.

    Takes `video`, `audio` and `frames`. Gives `mp4` and `poster` (JPEG), each the file's bytes as uint8.

    Args:
        compute: where it runs.
        source: the checkpoint.
        encoding: how the MP4 is encoded.
        resolution: label of the clips' pixel size; networks are compiled for the largest that has it.
        origin: what the clips are made by, which they say of themselves.
        credentials: what they are signed with; None: they are not.

    Raises:
        ImportError: they are to be signed, and the extra `c2pa` is not installed.
        ValueError: this machine lacks the encoder, or nothing can be signed with the credentials.
    """

    name = "decoding"

    def __init__(
        self,
        compute: Compute,
        source: CheckpointSource,
        encoding: VideoEncoding,
        resolution: str,
        origin: Origin,
        credentials: Credentials | None = None,
    ):
        super().__init__(compute)
        encoding.require_encoder()
        self.signer = None if credentials is None else credentials.signer()
        self.origin = origin
        self.encoding = encoding
        checkpoint = source.fetch("video_decoder", "audio_vae")
        self.capabilities = checkpoint.capabilities
        self.video_decoder = checkpoint.video_decoder(compute.dtype, self.device)
        if self.device.type == "cuda" and isinstance(self.video_decoder, TurboVAEDecoder):
            sizes = [size for (label, _), size in self.capabilities.pixel_sizes.items() if label == resolution]
            largest = latent_size(*max(sizes, key=math.prod))
            compile_video_decoder(self.video_decoder, largest, compute.compiler, compute.compile_cache)
        self.audio_decoder = checkpoint.audio_decoder(self.device)
        self.stream = FrameStream(self.device, self._computing)

    def process(self, work: Work) -> None:
        """See the class."""
        request, audio_1AC, made_at = work.request, work.tensors["audio"], datetime.now(UTC)
        _, num_frames, sound_frames = work.tensors["frames"].tolist()
        num_samples = sound_frames * OUTPUT_SAMPLE_RATE_HZ // FRAMES_PER_SECOND
        width, height = self.capabilities.pixel_size(request.resolution, request.aspect)
        chunks = self.video_decoder.decode_chunks(work.tensors["video"].to(self.device, self.compute.dtype))

        def next_pixels() -> Tensor | None:
            # The lock covers the network alone: while one clip is being encoded, another one's pixels are decoded.
            with self.lock, torch.inference_mode():
                return next(chunks, None)

        def make_sound() -> np.ndarray:
            # Without the lock: it would come after the pixels, and takes little memory beside them.
            return self.audio_decoder.decode(audio_1AC.to(self.device))[:, :num_samples].cpu().numpy()

        with ClipMuxer(width, height, encoding=self.encoding, metadata=self.origin.tags(request, made_at)) as muxer:
            self.stream.write(muxer, num_frames, next_pixels, make_sound)
            mp4, poster = muxer.finish(), muxer.poster
        mp4 = self._signed(mp4, request, made_at)
        work.tensors = {"mp4": _bytes_tensor(mp4), "poster": _bytes_tensor(poster)}

    def _signed(self, mp4: bytes, request: ClipRequest, made_at: datetime) -> bytes:
        if self.signer is None:
            return mp4
        try:
            return self.signer.sign(mp4, self.origin.claims(request, made_at))
        except SigningError as error:
            raise RowError(OUTPUT, None, str(error)) from error

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """As `Stage` prepares the thread it is called in, for the others."""
        torch.set_num_threads(self.compute.num_threads)
        with torch.inference_mode(), fast_bfloat16(self.device):
            yield


def _bytes_tensor(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)
