"""Damaged pictures and recordings: read all the same, or one line that says why not."""

import io

import numpy as np
import pytest
from hypothesis import example, given
from PIL import Image, features

from actors.media import hash_media, probe, read_waveform
from actors.pictures import FORMATS, read_image
from tests.hostile import damage, damages, outcome, repeatable
from tests.media_files import as_audio_file, colour_bars, make_clip, speech_like

SOUNDS = {
    "wav": ("pcm_s16le", 44_100),
    "flac": ("flac", 22_050),
    "mp3": ("libmp3lame", 44_100),
    "ipod": ("aac", 48_000),
}


@pytest.fixture(scope="module")
def pictures():
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {}
    for name in FORMATS:
        if name == "AVIF" and not features.check("avif"):
            continue
        file = io.BytesIO()
        Image.effect_noise((48, 32), 80).convert("RGB").save(file, name, **({"exif": exif} if name == "JPEG" else {}))
        files[name] = file.getvalue()
    return files


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_picture_is_read_or_told_of(pictures, name):
    if name not in pictures:
        pytest.skip("this Pillow has no AVIF")

    @repeatable(30)
    @given(damages())
    def read(how):
        data = damage(pictures[name], how)
        image, error = outcome(lambda: read_image(data), ValueError)
        if error is not None:
            assert str(error).startswith(("image of ", "image is over "))
            assert "\n" not in str(error)
        else:
            assert image.mode == "RGB"

    read()


@pytest.mark.parametrize("name", SOUNDS)
def test_a_damaged_recording_is_read_or_told_of(name):
    codec, rate_hz = SOUNDS[name]
    sound = as_audio_file(speech_like(20_000), name, codec, rate_hz)

    @repeatable(30)
    @given(damages())
    @example((0, "cut", 0.9375))  # an index that tells of no decoder
    def read(how):
        data = damage(sound, how)
        samples_S, error = outcome(lambda: read_waveform(data, 16_000, max_seconds=3), ValueError)
        if error is not None:
            assert str(error).startswith(f"audio of {len(data)} bytes cannot be decoded: ")
            assert "NoneType" not in str(error)
            assert "\n" not in str(error)
        else:
            assert 0 < len(samples_S) <= 48_000
            assert np.isfinite(samples_S).all()

    read()


def test_a_damaged_clip_is_read_or_told_of():
    clip = make_clip(colour_bars(3), speech_like(5292))

    @repeatable(40)
    @given(damages())
    @example((215, "flip many", 0.0))
    def read(how):
        data = damage(clip, how)
        for look in (probe, hash_media):
            found, error = outcome(lambda look=look: look(data), ValueError)
            if error is not None:
                assert str(error).startswith(f"MP4 of {len(data)} bytes cannot be read: ")
                assert "NoneType" not in str(error)
            elif look is probe:
                assert found.num_frames >= 0

    read()
