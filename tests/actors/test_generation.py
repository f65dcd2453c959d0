"""Conditioning, base generation and super-resolution as actors run them, without Ray."""

import io
import json

import pytest
import torch
from PIL import Image

from actors.base_generation import BaseGeneration
from actors.checkpoint_source import CheckpointSource
from actors.conditioning import Conditioning
from actors.row import Failure, new_row, unpack
from actors.stage import Compute
from actors.super_resolution import SuperResolution
from model.sampling import DistilledSampling, SuperResolutionSampling
from model.tiny import write_tiny_checkpoint


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    write_tiny_checkpoint(folder)
    return CheckpointSource(str(folder), "unused")


@pytest.fixture(scope="module")
def conditioning(source):
    return Conditioning(Compute(), source, negative_prompt="noise")


@pytest.fixture(scope="module")
def base(source):
    return BaseGeneration(Compute(), source, DistilledSampling(num_steps=2))


def fresh(**fields):
    request = {"id": "a", "prompt": "A woman speaks.", "language": "en", "seconds": 0.2, **fields}
    return new_row("a", json.dumps(request))


@pytest.fixture
def picture(tmp_path):
    Image.effect_noise((120, 90), 60).convert("RGB").save(tmp_path / "face.png")
    return str(tmp_path / "face.png")


def test_conditioning_gives_what_the_clip_needs_and_nothing_else(conditioning, picture):
    plain = unpack(conditioning(fresh())["payload"])
    assert set(plain) == {"text", "negative_text", "frames", "num_audio_latents"}
    assert plain["text"].dtype == torch.float16
    tensors = unpack(conditioning(fresh(image=picture, resolution="1080p", aspect="9:16"))["payload"])
    assert tensors["image_base"].shape == (1, 48, 1, 28, 16)
    assert tensors["image_sr"].shape == (1, 48, 1, 120, 68)
    assert "image_sr" not in unpack(conditioning(fresh(image=picture))["payload"])


def test_base_generation_keeps_the_reference_image(conditioning, base, picture):
    row = conditioning(fresh(image=picture))
    image = unpack(row["payload"])["image_base"]
    tensors = unpack(base(row)["payload"])
    assert tensors["video"].shape == (1, 48, 2, 16, 28)
    assert tensors["audio"].shape == (1, 6, 64)
    assert torch.equal(tensors["video"][:, :, :1], image)


def test_a_driving_recording_is_kept_and_decides_the_length(conditioning, base, tmp_path):
    import av
    import numpy as np

    with av.open(str(tmp_path / "voice.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        tone = (9000 * np.sin(np.arange(16_000) / 10)).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(tone[None], format="s16", layout="mono")
        frame.sample_rate = 16_000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    voice = str(tmp_path / "voice.wav")
    row = conditioning(fresh(audio=voice, seconds=None))
    given = unpack(row["payload"])
    assert given["frames"].tolist() == [7, 25, 25], "one second"
    assert torch.equal(unpack(base(row)["payload"])["audio"], given["audio"])
    cut = conditioning(fresh(audio=voice, seconds=0.4))
    assert unpack(cut["payload"])["frames"].tolist()[2] == 10
    longer = conditioning(fresh(audio=voice, seconds=3))
    assert "shorter than the 3 s asked" in json.loads(longer["notes"])[0]


@pytest.mark.parametrize(
    ("fields", "field", "reason"),
    [
        ({"image": "/nowhere.png"}, "image", "cannot be read: cannot read /nowhere.png: not found"),
        ({"image": __file__}, "image", "cannot be read: image of"),
        ({"audio": __file__}, "audio", "cannot be read: audio of"),
    ],
)
def test_media_that_cannot_be_read_fail_the_row_with_the_field(conditioning, fields, field, reason):
    failure = Failure.from_json(conditioning(fresh(**fields))["failure"])
    assert (failure.stage, failure.field, failure.value) == ("conditioning", field, fields[field])
    assert failure.reason.startswith(reason)


@pytest.mark.parametrize(("resolution", "size"), [("540p", (32, 56)), ("1080p", (68, 120))])
def test_super_resolution_enlarges_the_picture_and_leaves_the_sound(source, conditioning, base, resolution, size):
    stage = SuperResolution(Compute(), source, resolution, SuperResolutionSampling(num_steps=2))
    row = base(conditioning(fresh(resolution=resolution)))
    tensors = unpack(stage(row)["payload"])
    assert tensors["video"].shape == (1, 48, 2, *size)
    assert tensors["video"].dtype == torch.bfloat16
    assert torch.equal(tensors["audio"], unpack(row["payload"])["audio"])
    assert torch.equal(unpack(stage(row)["payload"])["video"], tensors["video"])


def test_rows_do_not_depend_on_which_rows_came_before(conditioning, base):
    alone = unpack(base(conditioning(fresh(seed=5)))["payload"])["video"]
    base(conditioning(fresh(seed=6, seconds=1)))
    again = unpack(base(conditioning(fresh(seed=5)))["payload"])["video"]
    assert torch.equal(alone, again)


def test_a_picture_with_an_orientation_tag_is_turned(conditioning, tmp_path):
    image = Image.effect_noise((90, 120), 60).convert("RGB")
    image.save(tmp_path / "upright.png")
    turned = image.transpose(Image.Transpose.ROTATE_90)
    exif = turned.getexif()
    exif[0x0112] = 6  # to be shown turned clockwise by 90 degrees
    buffer = io.BytesIO()
    turned.save(buffer, "PNG", exif=exif)
    (tmp_path / "tagged.png").write_bytes(buffer.getvalue())
    upright, tagged = (
        unpack(conditioning(fresh(image=str(tmp_path / name)))["payload"])["image_base"]
        for name in ("upright.png", "tagged.png")
    )
    assert torch.equal(upright, tagged)
