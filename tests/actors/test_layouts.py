"""Every public folder layout gives the same latents, pixels and sound, from a disk and from a bucket."""

import json
import wave

import numpy as np
import pytest
import s3fs
import torch
from PIL import Image

from actors.base_generation import BaseGeneration
from actors.checkpoint_source import CheckpointSource, open_checkpoint
from actors.conditioning import Conditioning
from actors.row import new_row, unpack
from actors.stage import Compute
from actors.super_resolution import SuperResolution
from model.inspection import check_components
from model.layout import COMPONENTS
from model.sampling import DistilledSampling, SuperResolutionSampling
from tests.checkpoint_layouts import LAYOUTS
from tests.tiny_checkpoint import write_tiny_checkpoint

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_checkpoint(folder)
    return folder


@pytest.fixture(scope="module")
def request_json(tmp_path_factory):
    """A clip that needs every component: image, driving audio, 1080p."""
    folder = tmp_path_factory.mktemp("references")
    Image.effect_noise((60, 60), 60).convert("RGB").save(folder / "face.png")
    with wave.open(str(folder / "voice.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        tone = 8000 * np.sin(np.arange(16_000 // 4) * 0.1)
        file.writeframes(tone.astype("<i2").tobytes())
    request = {"id": "a", "prompt": "A woman speaks.", "language": "en", "resolution": "1080p", "aspect": "1:1"}
    return json.dumps(request | {"image": str(folder / "face.png"), "audio": str(folder / "voice.wav")})


def latents_and_decoders(source, request_json):
    row = new_row("a", request_json)
    for stage in (
        Conditioning(Compute(), source),
        BaseGeneration(Compute(), source, DistilledSampling(num_steps=2)),
        SuperResolution(Compute(), source, "1080p", SuperResolutionSampling(num_steps=1)),
    ):
        row = stage(row)
        assert row["failure"] is None
    checkpoint = source.fetch("video_decoder", "audio_vae")
    sound = checkpoint.audio_decoder(CPU).decode(unpack(row["payload"])["audio"])
    return unpack(row["payload"]) | {"sound": sound}, checkpoint.layout


@pytest.fixture(scope="module")
def expected(tiny, request_json):
    return latents_and_decoders(CheckpointSource(str(tiny), "unused"), request_json)[0]


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_gives_the_latents_of_the_others(tiny, tmp_path, request_json, expected, layout):
    LAYOUTS[layout](tiny, tmp_path / layout)
    found, layout_found = latents_and_decoders(CheckpointSource(str(tmp_path / layout), "unused"), request_json)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert layout_found.video_decoder == ("wan_vae" if layout.startswith("one_folder") else "turbo_vae")


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["release_packed", "one_folder_of_diffusers"])
def test_a_bucket_gives_the_same_and_only_what_is_needed_is_copied(
    tiny, tmp_path, s3_bucket, request_json, expected, layout
):
    LAYOUTS[layout](tiny, tmp_path / layout)
    (tmp_path / layout / "stray.safetensors").write_bytes(b"of another model")
    s3fs.S3FileSystem().put(str(tmp_path / layout), f"{s3_bucket}/{layout}", recursive=True)
    source = CheckpointSource(f"{s3_bucket}/{layout}", str(tmp_path / "cache"))
    found, _ = latents_and_decoders(source, request_json)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    copied = {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert "stray.safetensors" not in copied
    assert not any("540p_sr" in str(path) for path in (tmp_path / "cache").rglob("*"))


def test_both_video_decoders_make_the_frames_of_a_clip(tiny, tmp_path):
    LAYOUTS["one_folder"](tiny, tmp_path / "one")
    latent = torch.randn(1, 48, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    for folder in (tiny, tmp_path / "one"):
        checkpoint = CheckpointSource(str(folder), "unused").fetch("video_decoder")
        frames = torch.cat(list(checkpoint.video_decoder(torch.float32, CPU).decode_chunks(latent)), dim=1)
        assert frames.shape == (3, 9, 64, 96)
        assert frames.std() > 0.05


def test_a_checkpoint_in_a_bucket_is_understood_without_a_copy(tiny, s3_bucket):
    s3fs.S3FileSystem().put(str(tiny), f"{s3_bucket}/checkpoints", recursive=True)
    files = open_checkpoint(f"{s3_bucket}/checkpoints/")
    check_components(files, COMPONENTS)
    assert files.sizes["base/model.safetensors.index.json"] > 100
