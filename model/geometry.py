"""Sizes of a clip: pixels, latents and lengths.

Source of the numbers: the public release (25 frames per second; video latent stride 4 in time and 16 in space; one
audio latent per frame) and its example sizes. The square sizes are ours: the multiple of 32 pixels nearest below the
pixel count of the landscape size.
"""

from __future__ import annotations

from dataclasses import dataclass

FRAMES_PER_SECOND = 25
LATENT_STRIDE_TIME = 4
LATENT_STRIDE_SPACE = 16
PATCH_SIZE = 2
VIDEO_LATENT_CHANNELS = 48
AUDIO_LATENT_CHANNELS = 64
AUDIO_LATENT_RATE_HZ = 25
SAMPLES_PER_AUDIO_LATENT = 2048
MODEL_SAMPLE_RATE_HZ = 51_200
OUTPUT_SAMPLE_RATE_HZ = 44_100
MIN_SECONDS = 0.2
MAX_SECONDS = 15.0
"""Of a clip made from text."""
DEFAULT_SECONDS = 5.0

RESOLUTIONS = ("256p", "540p", "1080p")
ASPECTS = ("16:9", "9:16", "1:1")

PIXEL_SIZES: dict[tuple[str, str], tuple[int, int]] = {
    ("256p", "16:9"): (448, 256),
    ("256p", "9:16"): (256, 448),
    ("256p", "1:1"): (320, 320),
    ("540p", "16:9"): (896, 512),
    ("540p", "9:16"): (512, 896),
    ("540p", "1:1"): (672, 672),
    ("1080p", "16:9"): (1920, 1088),
    ("1080p", "9:16"): (1088, 1920),
    ("1080p", "1:1"): (1440, 1440),
}
"""(width, height) in pixels of each resolution label and aspect ratio in the release; `model.capabilities` tells what
another checkpoint makes of them."""

MAX_AUDIO_SECONDS = {"256p": 60.0, "540p": 60.0, "1080p": MAX_SECONDS}
"""Of a clip driven by a recording, by resolution. No clip has more video tokens than the longest from text at 1080p,
which is what memory is planned for: 15 s there are 95 latent frames of 2,040 tokens, 60 s at 540p 376 frames of 448."""


def max_seconds(resolution: str, has_audio: bool) -> float:
    """Return how long a clip may be: 15 s from text; driven by a recording, what `MAX_AUDIO_SECONDS` says.

    Raises:
        ValueError: if the label is unknown.
    """
    if resolution not in RESOLUTIONS:
        raise ValueError(f"resolution must be one of {', '.join(RESOLUTIONS)}, got {resolution!r}")
    return MAX_AUDIO_SECONDS[resolution] if has_audio else MAX_SECONDS


def latent_size(width: int, height: int) -> tuple[int, int]:
    """Return (latent height, latent width) of a picture, each rounded down to a whole number of patches."""
    cell = LATENT_STRIDE_SPACE * PATCH_SIZE
    if width < cell or height < cell:
        raise ValueError(f"width and height must be at least {cell} pixels, got {width}x{height}")
    return height // cell * PATCH_SIZE, width // cell * PATCH_SIZE


@dataclass(frozen=True)
class ClipLength:
    """How long a clip is, in every unit the stages need.

    Attributes:
        num_frames: pixel frames in the finished clip; the sound lasts as many frames, to within one.
        num_audio_latents: audio latents to generate, one per frame and one more, as in the release.
        num_video_latents: latent frames to generate; they decode to ``4 * (num_video_latents - 1) + 1`` frames.
        sound_frames: length of the finished sound, in frames of 1/25 s.
    """

    num_frames: int
    num_audio_latents: int
    num_video_latents: int
    sound_frames: int

    @property
    def num_decoded_frames(self) -> int:
        """Frames the video decoder gives before they are cut to `num_frames`."""
        return LATENT_STRIDE_TIME * (self.num_video_latents - 1) + 1

    @classmethod
    def from_seconds(cls, seconds: float) -> ClipLength:
        """Length of a clip made from text: the release's ``25 * s + 1`` audio latents.

        Raises:
            ValueError: if `seconds` is outside 0.2 to 15.
        """
        if not MIN_SECONDS <= seconds <= MAX_SECONDS:
            raise ValueError(f"seconds must be between {MIN_SECONDS:g} and {MAX_SECONDS:g}, got {seconds:g}")
        wanted_frames = seconds * FRAMES_PER_SECOND
        return cls._covering(wanted_frames, round(wanted_frames) + 1)

    @classmethod
    def from_audio_latents(cls, num_latents: int) -> ClipLength:
        """Length of an audio-driven clip: the sound decides.

        Raises:
            ValueError: if `num_latents` is not positive.
        """
        if num_latents < 1:
            raise ValueError(f"num_latents must be at least 1, got {num_latents}")
        return cls._covering(num_latents, num_latents)

    @classmethod
    def _covering(cls, wanted_frames: float, num_audio_latents: int) -> ClipLength:
        # Video latents come in steps of four frames. Where the release would end two or three frames early (3 s, 7 s,
        # 11 s, 15 s) we generate one latent frame more and cut, so that the length asked for is the length delivered.
        while True:
            num_video_latents = (num_audio_latents - 1) // LATENT_STRIDE_TIME + 1
            num_decoded = LATENT_STRIDE_TIME * (num_video_latents - 1) + 1
            if wanted_frames - num_decoded <= 1:
                num_frames = round(wanted_frames)
                return cls(min(num_frames, num_decoded), num_audio_latents, num_video_latents, num_frames)
            num_audio_latents += 1
