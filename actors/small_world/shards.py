"""Training data of the small world: shards of clips, and of the latents that a checkpoint makes of them.

A shard is a Parquet file with the columns `id`, `prompt` (text as the encoder sees it) and `tensors` (a safetensors
blob). It is written once, under a name that follows from its number, so that a job that was stopped goes on.

Legend: F frames, Y X pixel rows and columns, S audio samples.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from torch import Tensor

from actors.checkpoint_source import CheckpointSource
from actors.row import pack, unpack
from actors.small_world.clips import SIZES, SmallWorldClip
from actors.storage import join, list_names, open_binary, write_atomically
from model.geometry import LATENT_STRIDE_TIME

_SCHEMA = pa.schema([("id", pa.string()), ("prompt", pa.string()), ("tensors", pa.large_binary())])
_LARGE_SCALE = SIZES["540p"]["1:1"][0] // SIZES["256p"]["1:1"][0]
_VIDEOS_AT_A_TIME = 8  # the convolutions of one small clip at a time take more than twice as long on a CPU
NEGATIVE_PROMPT_FILE = "negative_prompt.safetensors"
ENCODERS = ("wan_vae", "audio_vae", "text_encoder")
"""Components that make latents."""


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"part-{number:05d}.parquet"


def write_shard(url: str, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows of `id`, `prompt` and `tensors` as one file that appears when it is whole."""
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=_SCHEMA), buffer, compression="zstd")
    write_atomically(url, buffer.getvalue())


def read_shard(url: str) -> Iterator[dict[str, Any]]:
    """Rows of a shard, one after the other."""
    with open_binary(url) as file:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=16):
            yield from batch.to_pylist()


def shard_urls(folder_url: str) -> list[str]:
    """Shards of a folder, in order."""
    return [join(folder_url, name) for name in list_names(folder_url) if name.endswith(".parquet")]


def read_column(folder_url: str, name: str) -> Iterator[str]:
    """`id` or `prompt` of all clips of a folder, shard by shard.

    Raises:
        ValueError: it holds no shard.
    """
    urls = shard_urls(folder_url)
    if not urls:
        raise ValueError(f"{folder_url} must hold shards of clips, found none")
    for url in urls:
        with open_binary(url) as file:
            yield from pq.read_table(file, columns=[name])[name].to_pylist()


def missing_shards(folder_url: str, num_shards: int) -> list[int]:
    """Numbers of the shards that a folder does not hold yet."""
    present = set(list_names(folder_url))
    return [number for number in range(num_shards) if shard_name(number) not in present]


@dataclass(frozen=True)
class ClipShards:
    """Renders shards of clips.

    Attributes:
        folder_url: where they go.
        seed: of the world.
        num_clips: in all.
        clips_per_shard: the last one may hold fewer.
    """

    folder_url: str
    seed: int
    num_clips: int
    clips_per_shard: int

    @property
    def num_shards(self) -> int:
        """How many files there will be."""
        return -(-self.num_clips // self.clips_per_shard)

    def write(self, number: int) -> int:
        """Render and write one shard; returns how many clips it holds."""
        indices = _indices(number, self.clips_per_shard, self.num_clips)
        rows = [_clip_row(SmallWorldClip.sample(self.seed, index)) for index in indices]
        write_shard(f"{self.folder_url}/{shard_name(number)}", rows)
        return len(rows)


def _indices(number: int, per_shard: int, num_rows: int) -> range:
    return range(number * per_shard, min((number + 1) * per_shard, num_rows))


def _clip_row(clip: SmallWorldClip) -> dict[str, Any]:
    waveform_S = torch.from_numpy((clip.waveform() * 32767).round().astype(np.int16))
    tensors = {"frames": torch.from_numpy(clip.frames()), "waveform": waveform_S}
    return {"id": clip.id, "prompt": clip.request().prompt_text(), "tensors": pack(tensors)}


class LatentShards:
    """Turns shards of clips into shards of latents with a checkpoint's encoders.

    A row's tensors are `video` (48, T, H, W) at the size of base generation, `video_large` (48, T, 2H, 2W), `audio`
    (A, 64) and `text` (L, C), all float16. `video_large`, of four times as many pixels as `video`, is
    what super-resolution alone learns from.

    Args:
        clips_url: folder of clip shards.
        folder_url: where latents go.
        source: the checkpoint, whose `ENCODERS` are used.
        num_large_shards: so many shards, the first ones, have `video_large`; None gives it to all.
    """

    def __init__(self, clips_url: str, folder_url: str, source: CheckpointSource, num_large_shards: int | None = None):
        self.clips_url, self.folder_url, self.num_large_shards = clips_url, folder_url, num_large_shards
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        checkpoint = source.fetch(*ENCODERS)
        self.device = device
        self.video = checkpoint.image_encoder(torch.float32, device)
        self.audio = checkpoint.audio_encoder(device)
        self.text = checkpoint.text_encoder(torch.float32, device)

    def write(self, number: int) -> int:
        """Encode and write one shard; returns how many clips it holds."""
        name = shard_name(number)
        rows = list(read_shard(f"{self.clips_url}/{name}"))
        clips = [unpack(row["tensors"]) for row in rows]
        has_large = self.num_large_shards is None or number < self.num_large_shards
        videos = self._encode_videos([clip["frames"] for clip in clips], has_large)
        latents = [
            video | {"audio": self._encode_audio(clip["waveform"]), "text": self._encode_text(row["prompt"])}
            for row, clip, video in zip(rows, clips, videos, strict=True)
        ]
        blobs = [pack({key: tensor.half() for key, tensor in tensors.items()}) for tensors in latents]
        write_shard(
            f"{self.folder_url}/{name}", [row | {"tensors": blob} for row, blob in zip(rows, blobs, strict=True)]
        )
        return len(rows)

    def write_negative_prompt(self, prompt: str) -> None:
        """Write the features, `text` (L, C) float16, of what stands in for a prompt that is dropped."""
        write_atomically(f"{self.folder_url}/{NEGATIVE_PROMPT_FILE}", pack({"text": self._encode_text(prompt)}))

    def _encode_text(self, prompt: str) -> Tensor:
        return self.text.encode([prompt])[0].features_1LC[0].half()

    def _encode_audio(self, waveform_S: Tensor) -> Tensor:
        waveform_2S = waveform_S.to(self.device).float().div(32768).expand(2, -1)
        return self.audio.encode_mean_and_scale(waveform_2S).chunk(2, dim=1)[0][0].T

    def _encode_videos(self, frames_FYX3: Sequence[Tensor], has_large: bool) -> list[dict[str, Tensor]]:
        """Latents of clips, at both sizes where `has_large`; clips of one size a few at a time."""
        latents: dict[int, dict[str, Tensor]] = {}
        for indices in _batches_of_one_size([tuple(frames.shape[:3]) for frames in frames_FYX3], _VIDEOS_AT_A_TIME):
            # A latent frame depends on no later one, so that shorter clips may be longer while they are encoded.
            longest = max(len(frames_FYX3[index]) for index in indices)
            padded = [_hold_last_frame(frames_FYX3[index].to(self.device), longest) for index in indices]
            pixels_B3FYX = torch.stack(padded).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
            pixels = {"video": F.avg_pool3d(pixels_B3FYX, (1, _LARGE_SCALE, _LARGE_SCALE))}
            if has_large:
                pixels["video_large"] = pixels_B3FYX
            encoded = {name: self.video.encode_pixels(pixels_B3FYX) for name, pixels_B3FYX in pixels.items()}
            for place, index in enumerate(indices):
                num_latents = (len(frames_FYX3[index]) - 1) // LATENT_STRIDE_TIME + 1
                latents[index] = {name: of_all[place][:, :num_latents] for name, of_all in encoded.items()}
        return [latents[index] for index in range(len(frames_FYX3))]


def _batches_of_one_size(shapes_FYX: Sequence[tuple[int, ...]], most: int) -> Iterator[list[int]]:
    """Indices of clips, put together where pixel rows and columns agree and lengths are close, at most `most` each."""
    order = sorted(range(len(shapes_FYX)), key=lambda index: (shapes_FYX[index][1:], shapes_FYX[index][0]))
    for _, group in groupby(order, key=lambda index: shapes_FYX[index][1:]):
        indices = list(group)
        yield from (indices[first : first + most] for first in range(0, len(indices), most))


def _hold_last_frame(frames_FYX3: Tensor, num_frames: int) -> Tensor:
    return torch.cat([frames_FYX3, frames_FYX3[-1:].expand(num_frames - len(frames_FYX3), -1, -1, -1)])
