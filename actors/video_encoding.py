"""How a clip is compressed: codec, quality, speed; and whether this machine can."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from fractions import Fraction
from typing import cast

import av

PRESETS = {
    "libx264": ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow"),
    "h264_nvenc": ("p1", "p2", "p3", "p4", "p5", "p6", "p7"),
}
"""Codec to its presets, from fast to small."""

# x264's AVX-512 code gives other bits now and then for the same frames: two results in seven runs with these options,
# seven in seven with subme=1; with AVX2 one in twenty, and SSE4.2 gives the same one. The same row must give the same
# clip, so it stays at AVX2, measured 11 to 19 % slower.
_X264_PARAMETERS = {"x264-params": "asm=AVX2"} if platform.machine() in ("x86_64", "AMD64") else {}


@dataclass(frozen=True)
class VideoEncoding:
    """How a clip is compressed; every field changes the bytes.

    The codec is what is named here, and `threads` is a fixed number: neither is ever chosen by what a machine has, for
    the output depends on both, and a row gives one clip everywhere.

    Attributes:
        codec: "libx264", or "h264_nvenc" for the encoder that some NVIDIA GPUs have.
        crf: quality, 0 (x264: lossless) to 51; NVENC's constant quality `cq`, which starts at 1.
        preset: one of the codec's `PRESETS`.
        threads: frames that x264 works on at once; 1 for NVENC, which uses none.
        audio_bitrate_bps: of the sound, AAC.

    Raises:
        ValueError: a value is not allowed, or not with this codec.
    """

    codec: str = "libx264"
    crf: int = 18
    preset: str = "veryfast"
    threads: int = 4
    audio_bitrate_bps: int = 192_000

    def __post_init__(self) -> None:
        if self.codec not in PRESETS:
            raise ValueError(f"codec {self.codec!r} is not allowed: one of {', '.join(PRESETS)}")
        allowed = PRESETS[self.codec]
        if self.preset not in allowed:
            raise ValueError(f"preset {self.preset!r} is not allowed with {self.codec}: one of {', '.join(allowed)}")
        is_x264 = self.codec == "libx264"
        # x264 takes 0 for "all processors", which is what must not happen; NVENC takes 0 for "any quality".
        for name, low, high in (
            ("crf", 0 if is_x264 else 1, 51),
            ("threads", 1, 64 if is_x264 else 1),
            ("audio_bitrate_bps", 32_000, 512_000),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} {getattr(self, name)} is not allowed with {self.codec}: {low} to {high}")

    @property
    def options(self) -> dict[str, str]:
        """Options of the codec, as FFmpeg names them."""
        if self.codec == "libx264":
            return {"crf": str(self.crf), "preset": self.preset, **_X264_PARAMETERS}
        # Without "b" 0 the quality would be that of FFmpeg's default bit rate.
        return {"rc": "vbr", "cq": str(self.crf), "b": "0", "preset": self.preset}

    def require_encoder(self) -> None:
        """Open the encoder once, so that what is absent is told before any clip.

        Raises:
            ValueError: one line with the setting, its value and what is needed.
        """
        try:
            context = cast(av.VideoCodecContext, av.CodecContext.create(self.codec, "w"))
            context.width, context.height, context.pix_fmt, context.framerate = 256, 256, "yuv420p", Fraction(25)
            context.options = self.options
            context.open()
        except (av.FFmpegError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ValueError(
                f"setting encoding.codec={self.codec!r}: this machine cannot encode with it ({reason}); "
                f"{_NEEDS[self.codec]}"
            ) from error


_NEEDS = {
    "libx264": "it needs a build of PyAV with x264",
    "h264_nvenc": "it needs a GPU with NVENC, such as L4, L40S or RTX, which A100, H100 and H200 are not; "
    "libx264 encodes on any CPU",
}
