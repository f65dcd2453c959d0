"""Fourth pool: video and audio decoder make pixels and sound, and stream them into an MP4."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from actors.checkpoint_source import CheckpointSource
from actors.muxing import ClipMuxer, VideoEncoding
from actors.stage import Compute, Stage, Work
from model.geometry import FRAMES_PER_SECOND, OUTPUT_SAMPLE_RATE_HZ
from model.turbo_vae import to_uint8


class Decoding(Stage):
    """Decode chunk by chunk: no more than one chunk of pixels is ever held.

    Takes `video`, `audio` and `frames`. Gives `mp4` and `poster` (JPEG), each the file's bytes as uint8.

    Args:
        compute: where it runs.
        source: the checkpoint.
        encoding: how the MP4 is encoded.
    """

    name = "decoding"

    def __init__(self, compute: Compute, source: CheckpointSource, encoding: VideoEncoding):
        super().__init__(compute)
        self.encoding = encoding
        checkpoint = source.fetch("video_decoder", "audio_vae")
        self.capabilities = checkpoint.capabilities
        self.video_decoder = checkpoint.video_decoder(compute.dtype, self.device)
        self.audio_decoder = checkpoint.audio_decoder(self.device)

    def process(self, work: Work) -> None:
        """See the class."""
        request = work.request
        _, num_frames, sound_frames = work.tensors["frames"].tolist()
        width, height = self.capabilities.pixel_size(request.resolution, request.aspect)
        metadata = {"title": request.id, "comment": "AI-generated with daVinci-MagiHuman", "language": request.language}
        with ClipMuxer(width, height, encoding=self.encoding, metadata=metadata) as muxer:
            num_samples = sound_frames * OUTPUT_SAMPLE_RATE_HZ // FRAMES_PER_SECOND
            muxer.write_audio(self._decode_audio(work.tensors["audio"])[:, :num_samples])
            num_left = num_frames
            for frames_THWC in self._decode_video(work.tensors["video"]):
                if num_left > 0:
                    muxer.write_frames(frames_THWC[:num_left])
                num_left -= len(frames_THWC)
            mp4, poster = muxer.finish(), muxer.poster
        work.tensors = {"mp4": _bytes_tensor(mp4), "poster": _bytes_tensor(poster)}

    @torch.inference_mode()
    def _decode_audio(self, audio_1AC: Tensor) -> np.ndarray:
        with self.lock:
            return self.audio_decoder.decode(audio_1AC.to(self.device)).cpu().numpy()

    def _decode_video(self, video_1CTHW: Tensor) -> Iterator[np.ndarray]:
        chunks = self.video_decoder.decode_chunks(video_1CTHW.to(self.device, self.compute.dtype))
        while True:
            # The lock covers the network alone: while one clip is being encoded, another one's pixels are decoded.
            with self.lock, torch.inference_mode():
                chunk_3THW = next(chunks, None)
                if chunk_3THW is None:
                    return
                frames_THWC = to_uint8(chunk_3THW).cpu().numpy()
            yield frames_THWC


def _bytes_tensor(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)
