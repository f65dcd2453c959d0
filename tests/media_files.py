"""Small clips, recordings and pictures, for tests of what reads and writes media."""

import io
import struct
import zlib

import av
import numpy as np

from actors.muxing import ClipMuxer
from tests.pictures import as_planes

WIDTH, HEIGHT = 192, 128
COLOURS = [(200, 30, 40), (30, 200, 40), (40, 30, 200), (255, 255, 255), (0, 0, 0), (128, 128, 128)]


def colour_bars(num_frames: int) -> np.ndarray:
    picture = np.repeat(np.array(COLOURS, dtype=np.uint8), WIDTH // len(COLOURS), axis=0)
    return np.broadcast_to(picture, (num_frames, HEIGHT, WIDTH, 3))


def speech_like(num_samples: int, seed: int = 0) -> np.ndarray:
    """Band-limited noise under a slow envelope, another one on each side: a lag of one sample shows."""
    rng = np.random.default_rng(seed)
    spectrum_2F = np.fft.rfft(rng.standard_normal((2, num_samples)))
    frequencies_hz = np.fft.rfftfreq(num_samples, 1 / 44_100)
    spectrum_2F[:, (frequencies_hz < 150) | (frequencies_hz > 3000)] = 0
    noise_2S = np.fft.irfft(spectrum_2F, num_samples)
    envelope_S = 0.6 + 0.4 * np.sin(np.arange(num_samples) * 2 * np.pi * 3 / 44_100)
    return (noise_2S / np.abs(noise_2S).max() * envelope_S * 0.7).astype(np.float32)


def make_clip(
    frames_THWC: np.ndarray, samples_2S: np.ndarray, chunk: int = 7, audio_first: bool = True, **options
) -> bytes:
    with ClipMuxer(WIDTH, HEIGHT, **options) as muxer:
        if audio_first:
            muxer.write_audio(samples_2S)
        for start in range(0, len(frames_THWC), chunk):
            muxer.write_frames(as_planes(frames_THWC[start : start + chunk]))
        if not audio_first:
            muxer.write_audio(samples_2S)
        return muxer.finish()


def as_audio_file(samples_2S: np.ndarray, name: str, codec: str, rate_hz: int) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=name) as container:
        stream = container.add_stream(codec, rate=rate_hz, layout="stereo" if len(samples_2S) == 2 else "mono")
        sample_format = "s16" if codec in ("pcm_s16le", "flac") else "fltp"
        if sample_format == "s16":
            packed = (samples_2S.T * 32768).round().clip(-32768, 32767).astype(np.int16).reshape(1, -1)
        else:
            packed = samples_2S
        frame = av.AudioFrame.from_ndarray(packed, format=sample_format, layout=stream.layout.name)
        frame.sample_rate, frame.pts = rate_hz, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def png_of(width: int, height: int) -> bytes:
    """A header that promises a size, and nothing behind it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
