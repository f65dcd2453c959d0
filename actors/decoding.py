"""Fourth pool: video and audio decoder make pixels and sound, and stream them into an MP4."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from actors.checkpoint_source import CheckpointSource
from actors.frame_stream import FrameStream
from actors.muxing import ClipMuxer
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

    Raises:
        ValueError: this machine lacks the encoder.
    """

    name = "decoding"

    def __init__(self, compute: Compute, source: CheckpointSource, encoding: VideoEncoding, resolution: str):
        super().__init__(compute)
        encoding.require_encoder()
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
        request, audio_1AC = work.request, work.tensors["audio"]
        _, num_frames, sound_frames = work.tensors["frames"].tolist()
        num_samples = sound_frames * OUTPUT_SAMPLE_RATE_HZ // FRAMES_PER_SECOND
        width, height = self.capabilities.pixel_size(request.resolution, request.aspect)
        metadata = {"title": request.id, "comment": "AI-generated with daVinci-MagiHuman", "language": request.language}
        chunks = self.video_decoder.decode_chunks(work.tensors["video"].to(self.device, self.compute.dtype))

        def next_pixels() -> Tensor | None:
            # The lock covers the network alone: while one clip is being encoded, another one's pixels are decoded.
            with self.lock, torch.inference_mode():
                return next(chunks, None)

        def make_sound() -> np.ndarray:
            # Without the lock: it would come after the pixels, and takes little memory beside them.
            return self.audio_decoder.decode(audio_1AC.to(self.device))[:, :num_samples].cpu().numpy()

        with ClipMuxer(width, height, encoding=self.encoding, metadata=metadata) as muxer:
            self.stream.write(muxer, num_frames, next_pixels, make_sound)
            mp4, poster = muxer.finish(), muxer.poster
        work.tensors = {"mp4": _bytes_tensor(mp4), "poster": _bytes_tensor(poster)}

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """As `Stage` prepares the thread it is called in, for the others."""
        torch.set_num_threads(self.compute.num_threads)
        with torch.inference_mode(), fast_bfloat16(self.device):
            yield


def _bytes_tensor(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)
