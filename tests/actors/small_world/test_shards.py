import numpy as np
import pytest
import torch
import torch.nn.functional as F

from actors.checkpoint_source import CheckpointSource
from actors.row import unpack
from actors.small_world.clips import SmallWorldClip
from actors.small_world.shards import (
    NEGATIVE_PROMPT_FILE,
    ClipShards,
    LatentShards,
    missing_shards,
    read_shard,
    shard_name,
)
from actors.storage import read_bytes
from tests.tiny_checkpoint import write_tiny_checkpoint

pytestmark = pytest.mark.usefixtures("espeak")


def test_shards_hold_the_clips_of_their_numbers(s3_bucket):
    shards = ClipShards(f"{s3_bucket}/clips", seed=7, num_clips=5, clips_per_shard=2)
    assert shards.num_shards == 3
    assert missing_shards(shards.folder_url, 3) == [0, 1, 2]
    assert [shards.write(number) for number in (0, 2)] == [2, 1]
    assert missing_shards(shards.folder_url, 3) == [1]
    (row,) = read_shard(f"{shards.folder_url}/{shard_name(2)}")
    clip, tensors = SmallWorldClip.sample(7, 4), unpack(row["tensors"])
    assert row["id"] == clip.id
    assert row["prompt"] == clip.request().prompt_text()
    assert torch.equal(tensors["frames"], torch.from_numpy(clip.frames()))
    assert torch.allclose(tensors["waveform"].float() / 32767, torch.from_numpy(clip.waveform()), atol=1e-4)


@pytest.mark.slow
def test_latents_are_what_the_pipeline_would_make_of_the_same_pictures(tmp_path):
    write_tiny_checkpoint(tmp_path / "checkpoint")
    ClipShards(str(tmp_path / "clips"), seed=7, num_clips=6, clips_per_shard=6).write(0)
    source = CheckpointSource(str(tmp_path / "checkpoint"), str(tmp_path / "cache"))
    latents = LatentShards(str(tmp_path / "clips"), str(tmp_path / "latents"), source)
    assert latents.write(0) == 6
    latents.write_negative_prompt("nothing of this")
    clips = [SmallWorldClip.sample(7, index) for index in range(6)]
    shapes = [clip.frames("256p").shape for clip in clips]
    assert len({shape[1:3] for shape in shapes}) > 1, "of several sizes"
    assert len(set(shapes)) > len({shape[1:3] for shape in shapes}), "of several lengths per size"
    rows = list(read_shard(str(tmp_path / "latents" / shard_name(0))))
    assert [row["id"] for row in rows] == [clip.id for clip in clips]
    for clip, row in zip(clips, rows, strict=True):
        tensors = unpack(row["tensors"])
        # Shorter clips are encoded beside longer ones; alone they give the same.
        large = _pixels(clip.frames())
        for name, pixels in (("video", F.avg_pool3d(large, (1, 2, 2))), ("video_large", large)):
            alone = latents.video.encode_pixels(pixels)
            assert tensors[name].shape == alone.shape[1:]
            assert torch.allclose(tensors[name].float(), alone[0], atol=4e-3, rtol=2e-3), (clip.id, name)
    small = LatentShards(str(tmp_path / "clips"), str(tmp_path / "small"), source, num_large_shards=0)
    small.write(0)
    for row, both in zip(read_shard(str(tmp_path / "small" / shard_name(0))), rows, strict=True):
        tensors, expected = unpack(row["tensors"]), unpack(both["tensors"])
        assert tensors.keys() == expected.keys() - {"video_large"}
        assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors.items())
    clip, tensors = clips[1], unpack(rows[1]["tensors"])
    height, width = shapes[1][1:3]
    assert tensors["video"].shape == (48, clip.length.num_video_latents, height // 16, width // 16)
    assert tensors["audio"].shape == (clip.length.num_audio_latents, 64)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    # The encoder is causal: the first latent frame is what a reference image gives.
    image = latents.video.encode_pixels(_pixels(clip.frames()[:1]))
    assert torch.allclose(tensors["video_large"][:, :1].float(), image[0], atol=2e-3, rtol=2e-3)
    text = source.fetch("text_encoder").text_encoder(torch.float32, torch.device("cpu"))
    assert torch.equal(tensors["text"], text.encode([clip.request().prompt_text()])[0].features_1LC[0])
    negative = unpack(read_bytes(str(tmp_path / "latents" / NEGATIVE_PROMPT_FILE)))["text"]
    assert torch.equal(negative, text.encode(["nothing of this"])[0].features_1LC[0])


def _pixels(frames_FYX3: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(frames_FYX3.copy()).permute(3, 0, 1, 2)[None] / 127.5 - 1
