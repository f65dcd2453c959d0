import pytest

from model.geometry import (
    ASPECTS,
    MAX_SECONDS,
    PIXEL_SIZES,
    RESOLUTIONS,
    ClipLength,
    latent_size,
    max_seconds,
)


def test_every_label_and_aspect_has_a_size_of_whole_patches():
    assert set(PIXEL_SIZES) == {(resolution, aspect) for resolution in RESOLUTIONS for aspect in ASPECTS}
    for width, height in PIXEL_SIZES.values():
        rows, columns = latent_size(width, height)
        assert (rows * 16, columns * 16) == (height, width)


def test_the_releases_sizes_are_kept():
    assert PIXEL_SIZES["256p", "16:9"] == (448, 256)
    assert PIXEL_SIZES["540p", "16:9"] == (896, 512)
    assert PIXEL_SIZES["1080p", "9:16"] == (1088, 1920)
    assert latent_size(480, 272) == (16, 30), "rounded down to a whole number of patches, as in the release"


@pytest.mark.parametrize(
    ("seconds", "audio_latents", "video_latents"), [(1, 26, 7), (2, 51, 13), (4, 101, 26), (5, 126, 32), (10, 251, 63)]
)
def test_latents_equal_the_releases_where_the_release_is_on_time(seconds, audio_latents, video_latents):
    length = ClipLength.from_seconds(seconds)
    assert (length.num_audio_latents, length.num_video_latents) == (audio_latents, video_latents)
    assert audio_latents == seconds * 25 + 1
    assert video_latents == (seconds * 25) // 4 + 1


@pytest.mark.parametrize("num_frames", range(5, 376))
def test_a_clip_is_never_more_than_one_frame_off(num_frames):
    length = ClipLength.from_seconds(num_frames / 25)
    assert abs(length.num_frames - num_frames) <= 1
    assert length.num_frames <= length.num_decoded_frames
    assert length.sound_frames == num_frames <= length.num_audio_latents
    assert length.num_video_latents == (length.num_audio_latents - 1) // 4 + 1


@pytest.mark.parametrize("hundredths", range(20, 1501, 7))
def test_lengths_between_whole_frames_are_met_to_within_one_frame(hundredths):
    length = ClipLength.from_seconds(hundredths / 100)
    assert abs(length.num_frames / 25 - hundredths / 100) <= 0.04 + 1e-9
    assert abs(length.sound_frames / 25 - hundredths / 100) <= 0.02 + 1e-9


def test_half_a_frame_counts():
    assert ClipLength.from_seconds(2.5).num_frames == 62, "62.5 frames are asked for, 61 would be one and a half short"


@pytest.mark.parametrize("num_latents", [*range(1, 60), *range(370, 380), *range(720, 730), *range(1490, 1501)])
def test_an_audio_driven_clip_is_as_long_as_its_sound(num_latents):
    length = ClipLength.from_audio_latents(num_latents)
    assert length.sound_frames == num_latents <= length.num_audio_latents <= num_latents + 3
    assert abs(length.num_frames - num_latents) <= 1


def test_a_recording_may_be_longer_where_the_picture_is_smaller():
    assert {name: max_seconds(name, has_audio=True) for name in RESOLUTIONS} == {"256p": 60, "540p": 60, "1080p": 15}
    assert {max_seconds(name, has_audio=False) for name in RESOLUTIONS} == {MAX_SECONDS}


@pytest.mark.parametrize("aspect", ASPECTS)
@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_no_clip_has_more_video_tokens_than_the_longest_from_text_at_1080p(resolution, aspect):
    def num_tokens(length, size):
        height, width = latent_size(*size)
        return length.num_video_latents * height * width // 4

    most = num_tokens(ClipLength.from_seconds(MAX_SECONDS), PIXEL_SIZES["1080p", "16:9"])
    longest = ClipLength.from_audio_latents(round(max_seconds(resolution, has_audio=True) * 25))
    assert num_tokens(longest, PIXEL_SIZES[resolution, aspect]) <= most == 95 * 2040


@pytest.mark.parametrize("seconds", [0.19, 15.01, float("nan"), -1])
def test_a_length_out_of_range_is_named(seconds):
    with pytest.raises(ValueError, match=r"seconds must be between 0.2 and 15, got"):
        ClipLength.from_seconds(seconds)


def test_unknown_labels_are_named():
    with pytest.raises(ValueError, match="resolution must be one of 256p, 540p, 1080p, got '720p'"):
        max_seconds("720p", has_audio=True)
