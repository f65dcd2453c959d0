"""The MP4 of a clip: frames and sound in, compressed as they come.

Legend: T frames, H W picture height/width in pixels, C colour channels (red, green, blue), 2 stereo, S audio samples.
"""

import io
import os
import platform
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from types import TracebackType
from typing import Self

import av
import numpy as np
from av.container import OutputContainer
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter
from PIL import Image

PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")
POSTER_MAX_WIDTH = 480
# ITU-T H.273 table 4: matrix coefficients 1 mean BT.709. PyAV has names for the other three tags only.
_MATRIX_BT709 = 1
# x264's AVX-512 code gives other bits now and then for the same frames: two results in seven runs with these options,
# seven in seven with subme=1; with AVX2 one in twenty, and SSE4.2 gives the same one. The same row must give the same
# clip, so it stays at AVX2, measured 11 to 19 % slower.
_X264_OPTIONS = {"x264-params": "asm=AVX2"} if platform.machine() in ("x86_64", "AMD64") else {}
# Accurate rounding and bit exactness keep swscale's fast paths, which differ between processors, out of the picture.
_CONVERSION = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT


@dataclass(frozen=True)
class VideoEncoding:
    """How a clip is compressed; every field changes the bytes.

    `threads` is a fixed number, never the machine's: x264's output depends on it, and a row gives one clip everywhere.
    """

    codec: str = "libx264"
    crf: int = 18
    preset: str = "veryfast"
    pixel_format: str = "yuv420p"
    threads: int = 1
    audio_bitrate_bps: int = 192_000

    def __post_init__(self) -> None:
        for name, allowed in (("codec", ("libx264",)), ("preset", PRESETS), ("pixel_format", ("yuv420p", "yuv444p"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} {getattr(self, name)!r} is not allowed: one of {', '.join(allowed)}")
        # x264 takes 0 for "all processors", which is what must not happen.
        for name, low, high in (("crf", 0, 51), ("threads", 1, 128), ("audio_bitrate_bps", 32_000, 512_000)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} {getattr(self, name)} is not allowed: {low} to {high}")


class ClipMuxer:
    """Encodes one clip as it is made: H.264 and AAC in an MP4 that starts playing before it is loaded.

    Colours are converted to BT.709, limited range, and tagged so. Use it as a context manager; the temporary file goes
    in every case. Frames may come in any number of chunks and nothing but compressed data is kept of them.

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
        video = self._container.add_stream(
            "libx264", rate=self.fps, options={"crf": str(encoding.crf), "preset": encoding.preset, **_X264_OPTIONS}
        )
        video.width, video.height, video.pix_fmt = self.width, self.height, encoding.pixel_format
        context = video.codec_context
        # PyAV's own choice, threads by slice, would cut every picture into stripes that are coded apart.
        context.thread_count, context.thread_type = encoding.threads, "FRAME"
        context.time_base = Fraction(1, self.fps)
        context.colorspace, context.color_range = _MATRIX_BT709, ColorRange.MPEG
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        audio = self._container.add_stream("aac", rate=self.sample_rate_hz, layout="stereo")
        audio.bit_rate = encoding.audio_bitrate_bps
        self._video, self._audio, self._reformatter = video, audio, VideoReformatter()

    def write_frames(self, frames_THWC: np.ndarray) -> None:
        """Append frames.

        Args:
            frames_THWC: uint8, (T, height, width, 3), red green blue.

        Raises:
            ValueError: another dtype or another size than the clip's.
        """
        container = self._opened()
        expected = (self.height, self.width, 3)
        if frames_THWC.dtype != np.uint8 or frames_THWC.ndim != 4 or frames_THWC.shape[1:] != expected:
            raise ValueError(
                f"frames {frames_THWC.dtype} {frames_THWC.shape} do not fit this clip: "
                f"uint8 (T, {self.height}, {self.width}, 3)"
            )
        for picture_HWC in frames_THWC:
            if self._poster is None:
                self._poster = _encode_poster(picture_HWC)
            container.mux(self._video.encode(self._convert(picture_HWC)))
            self.num_frames += 1

    def _convert(self, picture_HWC: np.ndarray) -> av.VideoFrame:
        frame = self._reformatter.reformat(
            av.VideoFrame.from_ndarray(np.ascontiguousarray(picture_HWC), format="rgb24"),
            format=self.encoding.pixel_format,
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            interpolation=_CONVERSION,
            threads=1,
        )
        frame.pts, frame.time_base = self.num_frames, Fraction(1, self.fps)
        return frame

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


def _encode_poster(picture_HWC: np.ndarray) -> bytes:
    image = Image.fromarray(np.ascontiguousarray(picture_HWC))
    if image.width > POSTER_MAX_WIDTH:
        height = max(1, round(image.height * POSTER_MAX_WIDTH / image.width))
        image = image.resize((POSTER_MAX_WIDTH, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
