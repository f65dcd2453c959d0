"""Conditioning, base generation and super-resolution as actors run them, without Ray.

A clip of a recording of several windows is generated for `-m soak` alone: its encoding is tested for every number of
windows, its generation with a short one (`test_a_driving_recording_is_kept_and_decides_the_length`).
"""

import io
import json
import time
import wave
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from actors.base_generation import BaseGeneration
from actors.checkpoint_source import CheckpointSource
from actors.compile_cache import SharedCompileCache
from actors.conditioning import Conditioning
from actors.decoding import Decoding
from actors.fingerprint import LaneFingerprint
from actors.media import probe
from actors.origin import Origin
from actors.row import Failure, new_row, unpack
from actors.stage import Compute
from actors.super_resolution import SuperResolution
from actors.video_encoding import VideoEncoding
from model.capabilities import Capabilities
from model.checkpoint_writer import write_capabilities
from model.sampling import DistilledSampling, SuperResolutionSampling
from tests.tiny_checkpoint import write_tiny_checkpoint


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


def record(path, seconds, rate_hz=16_000):
    """Write a tone as a mono WAV file; returns its name."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate_hz, 0, "NONE", ""))
        file.writeframes((9000 * np.sin(np.arange(round(seconds * rate_hz)) / 10)).astype("<i2").tobytes())
    return str(path)


def test_a_driving_recording_is_kept_and_decides_the_length(conditioning, base, tmp_path):
    voice = record(tmp_path / "voice.wav", 1)
    row = conditioning(fresh(audio=voice, seconds=None))
    given = unpack(row["payload"])
    assert given["frames"].tolist() == [7, 25, 25], "one second"
    assert torch.equal(unpack(base(row)["payload"])["audio"], given["audio"])
    cut = conditioning(fresh(audio=voice, seconds=0.4))
    assert unpack(cut["payload"])["frames"].tolist()[2] == 10
    longer = conditioning(fresh(audio=voice, seconds=3))
    assert "shorter than the 3 s asked" in json.loads(longer["notes"])[0]


def count_forwards(module):
    calls = []
    hook = module.register_forward_hook(lambda *_: calls.append(1))
    return calls, hook


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seconds", "num_windows", "frames", "num_latents"),
    [
        (28.9, 1, [182, 723, 723], 725),
        (29, 1, [182, 725, 725], 725),
        (29.01, 2, [182, 725, 726], 726),
        (29.05, 2, [183, 727, 727], 729),
        (60, 4, [376, 1500, 1500], 1501),
    ],
)
def test_recordings_over_29_s_are_encoded_in_windows(conditioning, tmp_path, seconds, num_windows, frames, num_latents):
    calls, hook = count_forwards(conditioning.audio_encoder._encoder)
    with hook:
        row = conditioning(fresh(audio=record(tmp_path / "voice.wav", seconds), seconds=None))
    tensors = unpack(row["payload"])
    assert len(calls) == num_windows
    assert tensors["audio"].shape == (1, num_latents, 64)
    assert tensors["num_audio_latents"].item() == num_latents
    assert tensors["frames"].tolist() == frames
    assert row["notes"] == "[]"
    assert abs(frames[1] / 25 - seconds) <= 0.04
    assert abs(frames[2] / 25 - seconds) <= 0.04


@pytest.mark.soak
def test_base_generation_keeps_a_recording_of_several_windows(conditioning, base, tmp_path):
    voice = record(tmp_path / "voice.wav", 31, rate_hz=44_100)
    row = conditioning(fresh(audio=voice, seconds=None))
    given = unpack(row["payload"])
    assert given["audio"].shape == (1, 777, 64)
    tensors = unpack(base(row)["payload"])
    assert torch.equal(tensors["audio"], given["audio"])
    assert tensors["video"].shape == (1, 48, 195, 16, 28)
    assert tensors["frames"].tolist() == [195, 775, 775]
    assert torch.isfinite(tensors["video"]).all()


@pytest.mark.slow
@pytest.mark.parametrize(("resolution", "limit"), [("256p", 60), ("540p", 60), ("1080p", 15)])
def test_a_recording_over_the_limit_of_its_resolution_is_cut_only_if_seconds_says_so(
    conditioning, tmp_path, resolution, limit
):
    voice = record(tmp_path / "voice.wav", limit + 0.5)
    failure = Failure.from_json(conditioning(fresh(audio=voice, resolution=resolution, seconds=None))["failure"])
    assert (failure.field, failure.value) == ("audio", voice)
    assert failure.reason == (
        f"lasts more than the {limit} s that are possible at {resolution}: set seconds to use its beginning"
    )
    cut = conditioning(fresh(audio=voice, resolution=resolution, seconds=limit))
    assert unpack(cut["payload"])["frames"].tolist()[1:] == [25 * limit, 25 * limit]


@pytest.fixture(scope="module")
def small_source(tmp_path_factory):
    """A checkpoint that makes 96x64 pixels and twice that, for 0.4 to 1.4 seconds."""
    folder = tmp_path_factory.mktemp("small")
    write_tiny_checkpoint(folder)
    sizes = {("256p", "16:9"): (96, 64), ("540p", "16:9"): (192, 128)}
    write_capabilities(folder, Capabilities(sizes, min_seconds=0.4, max_seconds=1.4, default_seconds=0.6))
    return CheckpointSource(str(folder), "unused")


@pytest.mark.slow
def test_every_stage_takes_sizes_and_the_default_length_from_the_checkpoint(small_source, picture):
    conditioning = Conditioning(Compute(), small_source, reads_audio=False)
    row = conditioning(fresh(image=picture, resolution="540p", seconds=None))
    tensors = unpack(row["payload"])
    assert tensors["image_base"].shape == (1, 48, 1, 4, 6)
    assert tensors["image_sr"].shape == (1, 48, 1, 8, 12)
    assert tensors["frames"].tolist() == [5, 15, 15], "0.6 s"
    row = BaseGeneration(Compute(), small_source, DistilledSampling(num_steps=1))(row)
    assert unpack(row["payload"])["video"].shape == (1, 48, 5, 4, 6)
    row = SuperResolution(Compute(), small_source, "540p", SuperResolutionSampling(num_steps=1))(row)
    assert unpack(row["payload"])["video"].shape == (1, 48, 5, 8, 12)
    row = Decoding(Compute(), small_source, VideoEncoding(), "256p", Origin("0.1.0", LaneFingerprint("test")))(row)
    facts = probe(unpack(row["payload"])["mp4"].numpy().tobytes())
    assert (facts.width, facts.height) == (192, 128)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recorded", "asked", "reason"),
    [
        (
            1.5,
            None,
            "lasts more than the 1.4 s that are possible for this checkpoint: set seconds to use its beginning",
        ),
        (0.3, None, "lasts 0.30 s, at least 0.4 are needed for this checkpoint"),
        (0.3, 1.4, "lasts 0.30 s, at least 0.4 are needed for this checkpoint"),
        (1.5, 1.4, None),
        (0.4, None, None),
        (1.4, None, None),
    ],
)
def test_recordings_are_held_against_the_checkpoints_limits(small_source, tmp_path, recorded, asked, reason):
    conditioning = Conditioning(Compute(), small_source, reads_images=False)
    voice = record(tmp_path / "voice.wav", recorded)
    row = conditioning(fresh(audio=voice, seconds=asked))
    if reason is None:
        assert row["failure"] is None
        assert unpack(row["payload"])["frames"].tolist()[2] == round(min(recorded, 1.4) * 25)
    else:
        failure = Failure.from_json(row["failure"])
        assert (failure.stage, failure.field, failure.value) == ("conditioning", "audio", voice)
        assert failure.reason == reason


def test_equal_prompts_are_encoded_once(source):
    conditioning = Conditioning(Compute(), source, "noise", reads_images=False, reads_audio=False)
    calls, _ = count_forwards(conditioning.texts.encoder.model)
    first = unpack(conditioning(fresh())["payload"])
    assert len(calls) == 2, "the prompt and the negative one"
    again = unpack(conditioning(fresh(seed=3))["payload"])
    assert len(calls) == 2
    for name in ("text", "negative_text"):
        assert torch.equal(again[name], first[name])
    other = unpack(conditioning(fresh(prompt="A man speaks."))["payload"])
    assert len(calls) == 3
    assert not torch.equal(other["text"], first["text"])
    own = unpack(conditioning(fresh(prompt="noise"))["payload"])
    assert len(calls) == 3
    assert torch.equal(own["text"], first["negative_text"])


def test_two_threads_with_the_same_prompts_encode_each_once(source):
    conditioning = Conditioning(Compute(), source, "noise", reads_images=False, reads_audio=False)
    calls, _ = count_forwards(conditioning.texts.encoder.model)
    rows = [fresh(prompt=f"Prompt {number % 4}.") for number in range(16)]
    with ThreadPoolExecutor(2) as threads:
        texts = [unpack(row["payload"])["text"] for row in threads.map(conditioning, rows)]
    assert len(calls) == 5
    for number, text in enumerate(texts):
        assert torch.equal(text, texts[number % 4])
    assert not torch.equal(texts[0], texts[1])


def test_a_prompt_over_640_tokens_is_cut_and_noted_whenever_it_comes(conditioning):
    for _ in range(2):
        row = conditioning(fresh(prompt="a" * 700))
        assert unpack(row["payload"])["text"].shape[1] == 640
        assert json.loads(row["notes"]) == ["prompt: 701 tokens, only the first 640 steer the clip"]
    assert conditioning(fresh(prompt="a" * 639))["notes"] == "[]"


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


def video_of(row):
    assert row["failure"] is None, row["failure"]
    return unpack(row["payload"])["video"]


def test_clips_that_wait_are_denoised_together_and_come_out_as_alone(source, conditioning):
    alone = BaseGeneration(Compute(precision="fp32"), source, DistilledSampling(num_steps=2))
    packing = BaseGeneration(Compute(precision="fp32"), source, DistilledSampling(num_steps=2), packed_tokens=2000)
    rows = [conditioning(fresh(id=name, seconds=seconds)) for name, seconds in (("a", 1), ("b", 0.2), ("c", 0.5))]
    sizes = []
    packing.transformer.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    packing.denoise._computing.acquire()  # until all three wait
    with ThreadPoolExecutor(3) as pool:
        results = [pool.submit(packing, row) for row in rows]
        while len(packing.denoise._waiting) < 3:
            time.sleep(0.01)
        packing.denoise._computing.release()
        together = [video_of(result.result()) for result in results]
    assert sizes == [sum(video.shape[2] for video in together) * 8 * 14] * 2
    for video, row in zip(together, rows, strict=True):
        torch.testing.assert_close(video, video_of(alone(row)), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_compiled_actors_make_the_same_clip(source, conditioning, tmp_path):
    plain = BaseGeneration(Compute(precision="fp32"), source, DistilledSampling(num_steps=2))
    compute = Compute(precision="fp32", compiler="torch", compile_cache=SharedCompileCache(str(tmp_path)))
    compiled = BaseGeneration(compute, source, DistilledSampling(num_steps=2))
    assert compiled.transformer.compiled is not None
    for seconds in (0.2, 1):
        row = conditioning(fresh(seconds=seconds))
        with ThreadPoolExecutor(1) as pool:  # as Ray calls, from other threads than the one that loaded
            ours, expected = video_of(pool.submit(compiled, row).result()), video_of(plain(row))
        assert not torch.equal(ours, expected)
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_8_bit_floats_make_a_clip_that_is_alike(source, conditioning):
    row = conditioning(fresh())
    clips = [
        video_of(BaseGeneration(Compute(precision=precision), source, DistilledSampling(num_steps=2))(row))
        for precision in ("fp32", "bf16", "fp8")
    ]
    errors = [((clip - clips[0]).norm() / clips[0].norm()).item() for clip in clips[1:]]
    assert 1e-4 < errors[0] < errors[1] < 0.5
