"""Decoding as an actor does it, without Ray."""

import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import av
import c2pa
import pytest
import torch

import actors.signing
from actors.checkpoint_source import CheckpointSource
from actors.decoding import Decoding
from actors.fingerprint import LaneFingerprint
from actors.media import hash_media, probe
from actors.muxing import ClipMuxer
from actors.origin import Origin
from actors.row import OUTPUT, Failure, new_row, pack, unpack
from actors.stage import Compute
from actors.video_encoding import VideoEncoding
from model.colour import to_yuv420p
from model.widened_products import fast_bfloat16
from tests.certificates import Authority
from tests.tiny_checkpoint import write_tiny_checkpoint

ORIGIN = Origin("0.1.0", LaneFingerprint("test"))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    write_tiny_checkpoint(folder)
    return CheckpointSource(str(folder), "unused")


@pytest.fixture(scope="module")
def decoding(source):
    return Decoding(Compute(), source, VideoEncoding(), "256p", ORIGIN)


def latent_row(seed, num_latents=3, num_frames=9):
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        "video": torch.randn(1, 48, num_latents, 16, 28, generator=generator),
        "audio": torch.randn(1, num_frames + 1, 64, generator=generator),
        "frames": torch.tensor([num_latents, num_frames, num_frames]),
    }
    request = json.dumps({"id": f"clip-{seed}", "prompt": "x", "language": "en"})
    return {**new_row(f"clip-{seed}", request), "payload": pack(tensors)}


def mp4_of(row):
    return unpack(row["payload"])["mp4"].numpy().tobytes()


@pytest.mark.slow
def test_the_same_latents_give_the_same_media_every_time(decoding):
    # x264 with AVX-512 gave different files here; two clips in turn and two at once stir the memory.
    rows = [latent_row(0), latent_row(1)]
    hashes = [[], []]
    for _ in range(6):
        for number, row in enumerate(rows):
            hashes[number].append(hash_media(mp4_of(decoding(row))))
    with ThreadPoolExecutor(2) as pool:
        for number, row in enumerate(pool.map(decoding, rows * 2)):
            hashes[number % 2].append(hash_media(mp4_of(row)))
    assert [len(set(results)) for results in hashes] == [1, 1]
    assert hashes[0][0] != hashes[1][0]


@pytest.mark.slow
@pytest.mark.parametrize(("num_latents", "num_frames"), [(2, 5), (2, 4), (9, 33), (20, 75)])
def test_surplus_frames_and_sound_are_cut(decoding, num_latents, num_frames):
    row = decoding(latent_row(0, num_latents, num_frames))
    assert row["failure"] is None
    facts = probe(mp4_of(row))
    assert facts.num_frames == num_frames
    assert facts.audio_s == pytest.approx(num_frames / 25, abs=0.04)


@pytest.mark.slow
def test_a_clip_is_what_the_parts_make_one_after_the_other(decoding):
    row = latent_row(3, 16, 61)
    tensors = unpack(row["payload"])
    with torch.inference_mode(), fast_bfloat16(decoding.device):
        sound_2S = decoding.audio_decoder.decode(tensors["audio"])[:, : 61 * 1764].numpy()
        chunks = list(decoding.video_decoder.decode_chunks(tensors["video"].bfloat16()))
        planes_FPX = to_yuv420p(torch.cat(chunks, dim=1)).numpy()
    with ClipMuxer(448, 256) as muxer:
        muxer.write_audio(sound_2S)
        muxer.write_frames(planes_FPX)
        made = muxer.finish()
        poster = muxer.poster
    tensors = unpack(decoding(row)["payload"])
    assert hash_media(tensors["mp4"].numpy().tobytes()) == hash_media(made)
    assert tensors["poster"].numpy().tobytes() == poster


@pytest.mark.slow
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


def test_clips_are_signed_and_say_so_with_the_same_media(decoding, source, tmp_path):
    authority = Authority()
    signing = Decoding(Compute(), source, VideoEncoding(), "256p", ORIGIN, authority.credentials(tmp_path))
    row = latent_row(0, 2, 5)
    mp4 = mp4_of(signing(row))
    assert hash_media(mp4) == hash_media(mp4_of(decoding(row)))
    with c2pa.Reader("video/mp4", io.BytesIO(mp4), context=authority.trusting()) as reader:
        assert reader.get_validation_state() == "Trusted"
        assert reader.get_active_manifest()["title"] == "clip-0"
    with av.open(io.BytesIO(mp4)) as container:
        assert container.metadata["request_id"] == "clip-0"
        made_at = datetime.fromisoformat(container.metadata["creation_time"])
    assert abs(datetime.now(UTC) - made_at) < timedelta(minutes=5)


def test_a_signature_that_fails_ends_the_run_and_blames_no_row(source, tmp_path, monkeypatch):
    credentials = Authority().credentials(tmp_path)
    signing = Decoding(Compute(), source, VideoEncoding(), "256p", ORIGIN, credentials)

    def fail(*_):
        raise c2pa.C2paError("Signature: the certificate was not valid at time of signing")

    monkeypatch.setattr(actors.signing, "_sign", fail)
    failure = Failure.from_json(signing(latent_row(0, 2, 5))["failure"])
    assert (failure.field, failure.value) == (OUTPUT, None)
    assert failure.reason == "a clip cannot be signed: Signature: the certificate was not valid at time of signing"


def test_an_encoder_that_the_machine_lacks_is_told_before_anything_is_loaded():
    """No GPU here, so NVENC cannot be opened; its options have been read by then, or the reason would be another."""
    encoding = VideoEncoding(codec="h264_nvenc", preset="p4", threads=1)
    message = (
        r"^setting encoding\.codec='h264_nvenc': this machine cannot encode with it \(.*\); it needs a GPU with NVENC"
    )
    with pytest.raises(ValueError, match=message) as caught:
        Decoding(Compute("cpu"), CheckpointSource("no/such/folder", "unused"), encoding, "256p", ORIGIN)
    assert "\n" not in str(caught.value)
    assert "Invalid argument" not in str(caught.value)
