"""Sound and moving pictures read: the audio files a request refers to, frames and facts of a finished MP4.

Legend: S audio samples, F frames, Y X pixel rows and columns.
"""

import hashlib
import io
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice

import av
import numpy as np
from av.audio.codeccontext import AudioCodecContext
from av.container import InputContainer
from av.stream import Stream
from PIL import Image

from actors.limits import MAX_CHANNELS, MAX_SAMPLE_RATE_HZ, MIN_SAMPLE_RATE_HZ

_DEMUXERS = "aac,ac3,aiff,amr,asf,au,avi,caf,flac,flv,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mp3,mpegts,ogg,w64,wav"
"""What is tried. FFmpeg knows playlists and session descriptions besides, which make it open files and ports."""


def read_waveform(data: bytes, sample_rate_hz: int = 51_200, max_seconds: float | None = None) -> np.ndarray:
    """Decode an audio file, or the sound of a video file, to one channel.

    As the release reads audio (whisper's loader): mixed and resampled by FFmpeg to 16-bit integers, then over 32768.
    Damaged packets are left out, as FFmpeg's command line does.

    Args:
        data: content of a WAV, MP3, M4A, FLAC, MP4... file.
        sample_rate_hz: of the result.
        max_seconds: cut after this long; None for all.

    Returns:
        float32, (S,), in [-1, 1).

    Raises:
        ValueError: not a media file, no audio in it, none that can be decoded, or of a sample rate or number of
            channels beyond `actors.limits`.
    """
    limit = math.inf if max_seconds is None else int(max_seconds * sample_rate_hz)
    try:
        pieces = _decode_mono(data, sample_rate_hz, limit)
    except Exception as error:  # a damaged file makes the decoders stumble in many ways
        raise ValueError(f"audio of {len(data)} bytes cannot be decoded: {_reason(error)}") from error
    samples = np.concatenate(pieces)
    return samples[: min(limit, len(samples))].astype(np.float32) / 32768.0


def _decode_mono(data: bytes, sample_rate_hz: int, num_needed: float) -> list[np.ndarray]:
    """Pieces of int16 samples, at least `num_needed` in all where the file has as many."""
    resampler = av.AudioResampler(format="s16", layout="mono", rate=sample_rate_hz)
    pieces: list[np.ndarray] = []
    num_samples = 0
    with _open(data) as container:
        _require_known(container.streams.audio, "audio")
        _require_sound(container.streams.audio[0].codec_context)
        for packet in container.demux(container.streams.audio[0]):
            frames: Sequence[av.AudioFrame] = ()
            with suppress(av.InvalidDataError):
                frames = packet.decode()
            for piece in (piece for frame in frames for piece in resampler.resample(frame)):
                pieces.append(piece.to_ndarray()[0])
                num_samples += piece.samples
            if num_samples >= num_needed:
                return pieces
        if not num_samples:
            raise ValueError("it holds no sample that can be decoded")
        # The resampler keeps the last few samples back until it is told that there are no more.
        return pieces + [piece.to_ndarray()[0] for piece in resampler.resample(None)]


def resample(samples_S: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """Resample one channel with FFmpeg.

    Args:
        samples_S: (S,) float32.
        from_hz: its samples per second.
        to_hz: those wanted.

    Returns:
        (S * to_hz / from_hz,) float32, to within a sample.
    """
    resampler = av.AudioResampler(format="flt", layout="mono", rate=to_hz)
    frame = av.AudioFrame.from_ndarray(samples_S.astype(np.float32)[None], format="flt", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = from_hz, 0, Fraction(1, from_hz)
    pieces = [*resampler.resample(frame), *resampler.resample(None)]
    return np.concatenate([piece.to_ndarray()[0] for piece in pieces])


def read_frames(data: bytes, max_frames: int | None = None) -> np.ndarray:
    """Decode the picture of a video file.

    Args:
        data: content of an MP4.
        max_frames: stop after this many; None for all.

    Returns:
        (F, Y, X, 3) uint8, red green blue.

    Raises:
        ValueError: not a video file, or one without a frame that can be decoded.
    """
    return np.stack([frame.to_ndarray(format="rgb24") for frame in islice(_decode_video(data), max_frames)])


def read_moments(data: bytes, num_moments: int, height: int) -> list[Image.Image]:
    """Decode pictures from begin to end of an MP4, equally far from each other, holding no others in memory.

    Args:
        data: content of the file.
        num_moments: how many, at least 2; a clip of fewer frames gives every frame.
        height: of the pictures in pixels; their width keeps the clip's proportions.

    Raises:
        ValueError: not an MP4, or one without a frame that can be decoded.
    """
    facts = probe(data)
    width = max(1, round(facts.width * height / facts.height))
    last = facts.num_frames - 1
    wanted = {round(last * moment / (num_moments - 1)) for moment in range(num_moments)}
    chosen = (frame for number, frame in enumerate(_decode_video(data)) if number in wanted)
    return [frame.reformat(width, height).to_image() for frame in chosen]


def _decode_video(data: bytes) -> Iterator[av.VideoFrame]:
    """Frames of a video file, of which there is at least one.

    Raises:
        ValueError: not a video file, or one without a frame that can be decoded.
    """
    try:
        with _open(data) as container:
            _require_known(container.streams.video, "video")
            frames = container.decode(container.streams.video[0])
            first = next(frames, None)
            if first is None:
                raise ValueError("it holds no frame that can be decoded")
            yield first
            yield from frames
    except Exception as error:
        raise ValueError(f"video of {len(data)} bytes cannot be decoded: {_reason(error)}") from error


@dataclass(frozen=True)
class ClipFacts:
    """What an MP4 says of itself; the audio fields are None where there is no audio."""

    width: int
    height: int
    fps: float
    num_frames: int
    video_s: float
    audio_s: float | None
    video_codec: str
    audio_codec: str | None
    sample_rate_hz: int | None


def probe(data: bytes) -> ClipFacts:
    """Read the facts of an MP4 from its index, decoding nothing.

    Raises:
        ValueError: not an MP4, or one without video.
    """
    try:
        with av.open(io.BytesIO(data), "r", format="mp4") as container:
            _require_known(container.streams.video, "video")
            video = container.streams.video[0]
            if container.streams.audio:
                _require_known(container.streams.audio, "audio")
            audio = container.streams.audio[0] if container.streams.audio else None
            return ClipFacts(
                width=video.codec_context.width,
                height=video.codec_context.height,
                fps=float(video.average_rate or 0),
                num_frames=video.frames,
                video_s=_duration_s(video),
                audio_s=None if audio is None else _duration_s(audio),
                video_codec=video.codec_context.name,
                audio_codec=None if audio is None else audio.codec_context.name,
                sample_rate_hz=None if audio is None else audio.codec_context.sample_rate,
            )
    except Exception as error:
        raise ValueError(f"MP4 of {len(data)} bytes cannot be read: {_reason(error)}") from error


def hash_media(data: bytes) -> str:
    """Hash what an MP4 shows and plays: the decoders' settings, then all packets in the file's order, with their times.

    Tags, time of making and signature do not count: two makings of the same clip have the same hash.

    Returns:
        SHA-256, hexadecimal.

    Raises:
        ValueError: not an MP4.
    """
    try:
        with av.open(io.BytesIO(data), "r", format="mp4") as container:
            digest = hashlib.sha256()
            for stream in container.streams:
                settings = stream.codec_context.extradata or b"" if stream.codec_context else b""
                digest.update(f"{stream.index} {stream.type} {stream.time_base} {len(settings)}\n".encode())
                digest.update(settings)
            for packet in container.demux():
                if packet.size:  # each stream ends with an empty one
                    digest.update(f"{packet.stream_index} {packet.pts} {packet.dts} {packet.size}\n".encode())
                    digest.update(memoryview(packet))
            return digest.hexdigest()
    except Exception as error:
        raise ValueError(f"MP4 of {len(data)} bytes cannot be read: {_reason(error)}") from error


def _open(data: bytes) -> InputContainer:
    return av.open(io.BytesIO(data), "r", options={"format_whitelist": _DEMUXERS})


def _require_known(streams: Sequence[Stream], kind: str) -> None:
    if not streams:
        raise ValueError(f"it holds no {kind} stream")
    if streams[0].codec_context is None:
        raise ValueError(f"its {kind} is of a kind that no decoder here knows")


def _require_sound(context: AudioCodecContext) -> None:
    rate_hz, num_channels = context.sample_rate, context.channels
    if not MIN_SAMPLE_RATE_HZ <= rate_hz <= MAX_SAMPLE_RATE_HZ:
        raise ValueError(f"its {rate_hz:,} samples per second must be {MIN_SAMPLE_RATE_HZ:,} to {MAX_SAMPLE_RATE_HZ:,}")
    if not 1 <= num_channels <= MAX_CHANNELS:
        raise ValueError(f"its {num_channels:,} channels must be 1 to {MAX_CHANNELS}")


def _duration_s(stream: Stream) -> float:
    return float((stream.duration or 0) * (stream.time_base or 0))


def _reason(error: Exception) -> str:
    # str() of an FFmpeg error adds a number and a file name, of which there is none here.
    return " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
