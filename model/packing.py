"""From latents to one token sequence and back; where every token sits in time and space.

Legend: C channels, T H W latent frames, height, width; V video tokens, A audio tokens, L text tokens, N = V + A + L.
The order in the sequence is video, audio, text. Source: the public release, see `tests/golden/dit_forward_*`. Several
clips share a sequence in the same order: the video tokens of all clips, then all audio, then all text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor

from model.geometry import PATCH_SIZE

PositionStyle = Literal["base", "sr"]
"""How audio and text coordinates relate to the video's: "base" ("v2" in the release) or "sr" ("v1")."""


@dataclass(frozen=True)
class SequenceLayout:
    """How many tokens of which kind one clip has.

    Attributes:
        latent_frames: T of the video latent.
        latent_height: H of the video latent, a multiple of 2.
        latent_width: W of the video latent, a multiple of 2.
        num_audio: A.
        num_text: L.
    """

    latent_frames: int
    latent_height: int
    latent_width: int
    num_audio: int
    num_text: int

    def __post_init__(self) -> None:
        for name in ("latent_height", "latent_width"):
            if getattr(self, name) % PATCH_SIZE:
                raise ValueError(f"{name} must be a multiple of {PATCH_SIZE}, got {getattr(self, name)}")
        for name in ("latent_frames", "latent_height", "latent_width", "num_audio", "num_text"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    @classmethod
    def of(cls, video_1CTHW: Tensor, audio_1AC: Tensor, text_1LC: Tensor) -> SequenceLayout:
        """Read the layout off a clip's latents and text features."""
        _, _, frames, height, width = video_1CTHW.shape
        return cls(frames, height, width, audio_1AC.shape[1], text_1LC.shape[1])

    @property
    def patch_grid(self) -> tuple[int, int, int]:
        """(T, H/2, W/2): the grid of video tokens."""
        return self.latent_frames, self.latent_height // PATCH_SIZE, self.latent_width // PATCH_SIZE

    @property
    def tokens_per_frame(self) -> int:
        """Video tokens in one latent frame."""
        return self.patch_grid[1] * self.patch_grid[2]

    @property
    def num_video(self) -> int:
        """V."""
        return self.latent_frames * self.tokens_per_frame

    @property
    def token_counts(self) -> tuple[int, int, int]:
        """(V, A, L), the order of the sequence and of the experts."""
        return self.num_video, self.num_audio, self.num_text

    @property
    def num_tokens(self) -> int:
        """N."""
        return sum(self.token_counts)


@dataclass(frozen=True)
class PackedLayout:
    """Several clips in one sequence, which keeps the tokens of a modality, and so of an expert, together.

    Attributes:
        clips: the clips' layouts; with one clip the sequence is that clip's own.
    """

    clips: tuple[SequenceLayout, ...]

    def __post_init__(self) -> None:
        if not self.clips:
            raise ValueError("clips must hold at least one layout, got none")

    @classmethod
    def from_table(cls, clips_5S: Tensor) -> PackedLayout:
        """Inverse of `table`."""
        return _from_numbers(tuple(clips_5S.tolist()))

    def table(self) -> Tensor:
        """The same as a tensor, which a compiled graph takes without being made for these numbers.

        Returns:
            (5 S,) int64 on the CPU: T, H, W, A and L of the first clip, then of the next.
        """
        numbers = [
            number
            for clip in self.clips
            for number in (clip.latent_frames, clip.latent_height, clip.latent_width, clip.num_audio, clip.num_text)
        ]
        return torch.tensor(numbers, dtype=torch.int64, device="cpu")

    @property
    def token_counts(self) -> tuple[int, int, int]:
        """(V, A, L), each summed over the clips."""
        video, audio, text = zip(*(clip.token_counts for clip in self.clips), strict=True)
        return sum(video), sum(audio), sum(text)

    def split(self, x_Nx: Tensor) -> list[Tensor]:
        """Take (N, ...) apart: one tensor per clip, in the order video, audio, text; a single clip is not copied."""
        if len(self.clips) == 1:
            return [x_Nx]
        counts = zip(*(clip.token_counts for clip in self.clips), strict=True)
        pieces = x_Nx.split([count for modality in counts for count in modality])
        num_clips = len(self.clips)
        return [torch.cat(pieces[index::num_clips]) for index in range(num_clips)]

    def join(self, clips_Nx: Sequence[Tensor]) -> Tensor:
        """Undo `split`: put one tensor per clip together into (N, ...); a single clip is not copied."""
        if len(self.clips) == 1:
            return clips_Nx[0]
        pieces = [x_Nx.split(clip.token_counts) for x_Nx, clip in zip(clips_Nx, self.clips, strict=True)]
        return torch.cat([piece for modality in zip(*pieces, strict=True) for piece in modality])


@lru_cache(maxsize=64)
def _from_numbers(numbers: tuple[int, ...]) -> PackedLayout:
    return PackedLayout(tuple(SequenceLayout(*numbers[start : start + 5]) for start in range(0, len(numbers), 5)))


def patchify(video_1CTHW: Tensor) -> Tensor:
    """Cut a video latent into tokens (V, 4 C), each laid out (channel, patch row, patch column)."""
    return rearrange(video_1CTHW, "1 c t (h ph) (w pw) -> (t h w) (c ph pw)", ph=PATCH_SIZE, pw=PATCH_SIZE).contiguous()


def unpatchify(tokens_VC: Tensor, layout: SequenceLayout) -> Tensor:
    """Put tokens the network gave, laid out (patch row, patch column, channel), back into a latent (1, C, T, H, W)."""
    frames, rows, columns = layout.patch_grid
    return rearrange(
        tokens_VC,
        "(t h w) (ph pw c) -> 1 c t (h ph) (w pw)",
        t=frames,
        h=rows,
        w=columns,
        ph=PATCH_SIZE,
        pw=PATCH_SIZE,
    ).contiguous()


def _grid(size: tuple[int, int, int], reference: tuple[int, int, int], first_t: int = 0) -> Tensor:
    axes = [torch.arange(length, dtype=torch.float32) for length in size]
    axes[0] = axes[0] + first_t
    positions = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)
    sizes = torch.tensor([*size, *reference], dtype=torch.float32).expand(len(positions), -1)
    return torch.cat([positions, sizes], dim=1)


def token_coordinates(layout: SequenceLayout, style: PositionStyle) -> Tensor:
    """Where each token sits, in patch units.

    Args:
        layout: the clip's token counts.
        style: "base" counts text backwards from the clip's start, "sr" forwards from it.

    Returns:
        (N, 9) float32: t, h, w, the grid's size T, H, W and the reference size T, H, W.

    Raises:
        ValueError: for an unknown style, or a single text token with "sr", which has no defined scale.
    """
    frames = layout.latent_frames
    num_audio, num_text = layout.num_audio, layout.num_text
    video_N9 = _grid(layout.patch_grid, layout.patch_grid)
    if style == "base":
        audio_N9 = _grid((num_audio, 1, 1), ((num_audio - 1) // 4 + 1, 1, 1))
        text_N9 = _grid((num_text, 1, 1), (1, 1, 1), first_t=-num_text)
    elif style == "sr":
        if num_text < 2:
            raise ValueError(f"num_text must be at least 2 for super-resolution, got {num_text}")
        if num_audio < 2 and frames > 1:
            raise ValueError(f"num_audio must be at least 2 for {frames} latent frames, got {num_audio}")
        audio_N9 = _grid((num_audio, 1, 1), (frames, 1, 1))
        text_N9 = _grid((num_text, 1, 1), (2, 1, 1))
    else:
        raise ValueError(f"style must be 'base' or 'sr', got {style!r}")
    return torch.cat([video_N9, audio_N9, text_N9])


@dataclass(frozen=True)
class LocalWindow:
    """Which tokens a token sees in a layer with local attention.

    A video token sees the video tokens of latent frames at most `radius` from its own, and all audio and text; audio
    and text tokens see everything.
    """

    layout: SequenceLayout
    radius: int

    def __post_init__(self) -> None:
        if self.radius < 0:
            raise ValueError(f"radius must be at least 0 latent frames, got {self.radius}")

    @property
    def covers_everything(self) -> bool:
        """Whether the window is wide enough to equal full attention."""
        return self.layout.latent_frames - 1 <= self.radius

    def frame_key_range(self, frame: int) -> tuple[int, int]:
        """Video keys [start, stop) that the queries of latent frame `frame` see."""
        per_frame, frames = self.layout.tokens_per_frame, self.layout.latent_frames
        return max(0, frame - self.radius) * per_frame, min(frames, frame + self.radius + 1) * per_frame

    def ranges(self) -> tuple[Tensor, Tensor]:
        """Query ranges and key ranges (T + 2, 2) int32 in the release's form.

        One pair per latent frame (video to video), one for video to audio and text, one for audio and text to all.
        """
        per_frame, num_video, num_tokens = self.layout.tokens_per_frame, self.layout.num_video, self.layout.num_tokens
        frames = range(self.layout.latent_frames)
        queries = [(frame * per_frame, (frame + 1) * per_frame) for frame in frames]
        keys = [self.frame_key_range(frame) for frame in frames]
        queries += [(0, num_video), (num_video, num_tokens)]
        keys += [(num_video, num_tokens), (0, num_tokens)]
        return torch.tensor(queries, dtype=torch.int32), torch.tensor(keys, dtype=torch.int32)
