"""Decoding as an actor does it, without Ray."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from actors.checkpoint_source import CheckpointSource
from actors.decoding import Decoding
from actors.media import probe
from actors.muxing import ClipMuxer
from actors.row import Failure, new_row, pack, unpack
from actors.stage import Compute
from actors.video_encoding import VideoEncoding
from model.colour import to_yuv420p
from model.widened_products import fast_bfloat16
from tests.tiny_checkpoint import write_tiny_checkpoint


@pytest.fixture(scope="module")
def decoding(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    write_tiny_checkpoint(folder)
    return Decoding(Compute(), CheckpointSource(str(folder), "unused"), VideoEncoding(), "256p")


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


def test_a_clip_is_what_the_parts_make_one_after_the_other(decoding):
    row = latent_row(3, 16, 61)
    tensors = unpack(row["payload"])
    with torch.inference_mode(), fast_bfloat16(decoding.device):
        sound_2S = decoding.audio_decoder.decode(tensors["audio"])[:, : 61 * 1764].numpy()
        chunks = list(decoding.video_decoder.decode_chunks(tensors["video"].bfloat16()))
        planes_FPX = to_yuv420p(torch.cat(chunks, dim=1)).numpy()
    metadata = {"title": "clip-3", "comment": "AI-generated with daVinci-MagiHuman", "language": "en"}
    with ClipMuxer(448, 256, metadata=metadata) as muxer:
        muxer.write_audio(sound_2S)
        muxer.write_frames(planes_FPX)
        made = muxer.finish()
        poster = muxer.poster
    tensors = unpack(decoding(row)["payload"])
    assert tensors["mp4"].numpy().tobytes() == made
    assert tensors["poster"].numpy().tobytes() == poster


def test_sound_that_is_no_number_fails_the_row_and_leaves_no_thread(decoding):
    row = latent_row(0, 16, 61)
    tensors = unpack(row["payload"])
    tensors["audio"][0, 3, 5] = torch.nan
    before = set(threading.enumerate())
    failure = Failure.from_json(decoding({**row, "payload": pack(tensors)})["failure"])
    assert failure.stage == "decoding"
    assert "NaN" in failure.reason
    assert set(threading.enumerate()) == before
    assert decoding(row)["failure"] is None, "the next one is made"


def test_an_encoder_that_the_machine_lacks_is_told_before_anything_is_loaded():
    """No GPU here, so NVENC cannot be opened; its options have been read by then, or the reason would be another."""
    encoding = VideoEncoding(codec="h264_nvenc", preset="p4", threads=1)
    message = (
        r"^setting encoding\.codec='h264_nvenc': this machine cannot encode with it \(.*\); it needs a GPU with NVENC"
    )
    with pytest.raises(ValueError, match=message) as caught:
        Decoding(Compute("cpu"), CheckpointSource("no/such/folder", "unused"), encoding, "256p")
    assert "\n" not in str(caught.value)
    assert "Invalid argument" not in str(caught.value)
