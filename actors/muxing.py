"""The MP4 of a clip: frames and sound in, compressed as they come.

Legend: F frames, Y X pixel rows and columns, P = 3Y/2 rows of a frame's planes (`model.colour`), 2 stereo, S samples.
"""

import io
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from fractions import Fraction
from types import TracebackType
from typing import Self, cast

import av
import numpy as np
from av.container import OutputContainer
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation
from av.video.stream import VideoStream
from PIL import Image

from actors.video_encoding import VideoEncoding

POSTER_MAX_WIDTH = 480
# ITU-T H.273 table 4: matrix coefficients 1 mean BT.709. PyAV has names for the other three tags only.
_MATRIX_BT709 = 1
# Accurate rounding and bit exactness keep swscale's fast paths, which differ between processors, out of the poster.
_CONVERSION = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT


class ClipMuxer:
    """Encodes one clip as it is made: H.264 and AAC in an MP4 that starts playing before it is loaded.

    Frames come as `model.colour` makes them, and are tagged so: BT.709, limited range. Use it as a context manager; the
    temporary file goes in every case. Frames may come in any number of chunks and nothing but compressed data is kept.

    Args:
        width: of the picture, even.
        height: of the picture, even.
        fps: frames per second.
        sample_rate_hz: of the audio, one that AAC knows.
        encoding: how to compress.
        metadata: tags of the file, such as "title"; any key is kept.

    Raises:
        ValueError: a size is odd or not positive, or AAC does not know the sample rate.
    """

    def __init__(
        self,
        width: int,
        height: int,
        fps: int = 25,
        sample_rate_hz: int = 44_100,
        encoding: VideoEncoding | None = None,
        metadata: Mapping[str, str] | None = None,
    ):
        for name, value in (("width", width), ("height", height)):
            if value <= 0 or value % 2:
                raise ValueError(f"{name} {value} is not allowed: a positive even number")
        if fps <= 0:
            raise ValueError(f"fps {fps} is not allowed: a positive number")
        rates = av.Codec("aac", "w").audio_rates or []
        if sample_rate_hz not in rates:
            raise ValueError(f"sample_rate_hz {sample_rate_hz} is not allowed: one of {sorted(rates)}")
        self.width, self.height, self.fps, self.sample_rate_hz = width, height, fps, sample_rate_hz
        self.encoding = encoding or VideoEncoding()
        self.metadata = dict(metadata or {})
        self.num_frames = 0
        self.num_samples = 0
        self._poster: bytes | None = None
        self._container: OutputContainer | None = None

    def __enter__(self) -> Self:
        # "faststart" moves the index to the front at the end and for that needs a file, not a stream.
        handle, self._path = tempfile.mkstemp(suffix=".mp4")
        os.close(handle)
        try:
            self._open()
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._discard()

    def _open(self) -> None:
        options = {"movflags": "+faststart+use_metadata_tags", "max_interleave_delta": "0"}
        self._container = av.open(self._path, "w", format="mp4", options=options)
        self._container.metadata.update(sorted(self.metadata.items()))
        encoding = self.encoding
        video = cast(VideoStream, self._container.add_stream(encoding.codec, rate=self.fps, options=encoding.options))
        video.width, video.height, video.pix_fmt = self.width, self.height, "yuv420p"
        context = video.codec_context
        # PyAV's own choice, threads by slice, would cut every picture into stripes that are coded apart.
        context.thread_count, context.thread_type = encoding.threads, "FRAME"
        context.time_base = Fraction(1, self.fps)
        context.colorspace, context.color_range = _MATRIX_BT709, ColorRange.MPEG
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        audio = self._container.add_stream("aac", rate=self.sample_rate_hz, layout="stereo")
        audio.bit_rate = encoding.audio_bitrate_bps
        self._video, self._audio = video, audio

    def write_frames(self, planes_FPX: np.ndarray) -> None:
        """Append frames.

        Args:
            planes_FPX: uint8, (F, 3/2 height, width), see `model.colour.to_yuv420p`.

        Raises:
            ValueError: another dtype or another size than the clip's.
        """
        container = self._opened()
        expected = (self.height * 3 // 2, self.width)
        if planes_FPX.dtype != np.uint8 or planes_FPX.ndim != 3 or planes_FPX.shape[1:] != expected:
            raise ValueError(
                f"planes {planes_FPX.dtype} {planes_FPX.shape} do not fit this clip: "
                f"uint8 (F, {expected[0]}, {expected[1]})"
            )
        for planes_PX in planes_FPX:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(planes_PX), format="yuv420p")
            frame.pts, frame.time_base = self.num_frames, Fraction(1, self.fps)
            if self._poster is None:
                self._poster = _encode_poster(frame)
            container.mux(self._video.encode(frame))
            self.num_frames += 1

    def write_audio(self, samples_2S: np.ndarray) -> None:
        """Write the clip's whole audio, before or after the frames; what exceeds [-1, 1] is clipped.

        Args:
            samples_2S: float32, (2, S), left and right.

        Raises:
            ValueError: another dtype or shape, no samples, or samples that are not numbers.
        """
        container = self._opened()
        if self.num_samples:
            raise RuntimeError("the audio of this clip is written already")
        if samples_2S.dtype != np.float32 or samples_2S.ndim != 2 or samples_2S.shape[0] != 2 or not samples_2S.size:
            raise ValueError(f"audio {samples_2S.dtype} {samples_2S.shape} is not allowed: float32 (2, S), S above 0")
        num_bad = samples_2S.size - int(np.isfinite(samples_2S).sum())
        if num_bad:
            raise ValueError(f"audio holds {num_bad} values of {samples_2S.size} that are NaN or infinite")
        clipped_2S = np.ascontiguousarray(samples_2S.clip(-1.0, 1.0))
        frame = av.AudioFrame.from_ndarray(clipped_2S, format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = self.sample_rate_hz, 0, Fraction(1, self.sample_rate_hz)
        container.mux(self._audio.encode(frame))
        container.mux(self._audio.encode(None))
        self.num_samples = samples_2S.shape[1]

    def finish(self) -> bytes:
        """Close the clip and give the MP4's bytes; nothing can be written afterwards.

        Raises:
            ValueError: there are no frames or no audio.
        """
        container = self._opened()
        if not self.num_frames or not self.num_samples:
            raise ValueError(f"a clip of {self.num_frames} frames and {self.num_samples} audio samples is not allowed")
        container.mux(self._video.encode(None))
        container.close()
        self._container = None
        with open(self._path, "rb") as file:
            return file.read()

    @property
    def poster(self) -> bytes:
        """JPEG of the first frame written, at most `POSTER_MAX_WIDTH` pixels wide.

        Raises:
            ValueError: no frame has been written.
        """
        if self._poster is None:
            raise ValueError("a clip without frames has no poster")
        return self._poster

    def _opened(self) -> OutputContainer:
        if self._container is None:
            raise RuntimeError("the clip is not open: enter the context first, and write before finish()")
        return self._container

    def _discard(self) -> None:
        if self._container is not None:
            # Closing writes an index, which a half-written clip may refuse; the file is thrown away anyway.
            with suppress(av.FFmpegError, ValueError):
                self._container.close()
            self._container = None
        with suppress(FileNotFoundError):
            os.unlink(self._path)


def _encode_poster(frame: av.VideoFrame) -> bytes:
    rgb = frame.reformat(
        format="rgb24",
        src_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
        interpolation=_CONVERSION,
        threads=1,
    )
    image = rgb.to_image()
    if image.width > POSTER_MAX_WIDTH:
        height = max(1, round(image.height * POSTER_MAX_WIDTH / image.width))
        image = image.resize((POSTER_MAX_WIDTH, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
