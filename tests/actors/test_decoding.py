"""Decoding as an actor does it, without Ray."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from actors.checkpoint_source import CheckpointSource
from actors.decoding import Decoding
from actors.media import probe
from actors.muxing import VideoEncoding
from actors.row import new_row, pack, unpack
from actors.stage import Compute
from tests.tiny_checkpoint import write_tiny_checkpoint


@pytest.fixture(scope="module")
def decoding(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    write_tiny_checkpoint(folder)
    return Decoding(Compute(), CheckpointSource(str(folder), "unused"), VideoEncoding())


def latent_row(seed, num_latents=3, num_frames=9):
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        "video": torch.randn(1, 48, num_latents, 16, 28, generator=generator),
        "audio": torch.randn(1, num_frames + 1, 64, generator=generator),
        "frames": torch.tensor([num_latents, num_frames, num_frames]),
    }
    request = json.dumps({"id": f"clip-{seed}", "prompt": "x", "language": "en"})
    return {**new_row(f"clip-{seed}", request), "payload": pack(tensors)}


def test_the_same_latents_give_the_same_bytes_every_time(decoding):
    # x264 with AVX-512 gave different files here; two clips in turn and two at once stir the memory.
    rows = [latent_row(0), latent_row(1)]
    mp4s = [[], []]
    for _ in range(6):
        for number, row in enumerate(rows):
            mp4s[number].append(unpack(decoding(row)["payload"])["mp4"].numpy().tobytes())
    with ThreadPoolExecutor(2) as pool:
        for number, row in enumerate(pool.map(decoding, rows * 2)):
            mp4s[number % 2].append(unpack(row["payload"])["mp4"].numpy().tobytes())
    assert [len(set(results)) for results in mp4s] == [1, 1]
    assert mp4s[0][0] != mp4s[1][0]


@pytest.mark.parametrize(("num_latents", "num_frames"), [(2, 5), (2, 4), (9, 33), (20, 75)])
def test_surplus_frames_and_sound_are_cut(decoding, num_latents, num_frames):
    row = decoding(latent_row(0, num_latents, num_frames))
    assert row["failure"] is None
    facts = probe(unpack(row["payload"])["mp4"].numpy().tobytes())
    assert facts.num_frames == num_frames
    assert facts.audio_s == pytest.approx(num_frames / 25, abs=0.04)
