import io
import wave

import numpy as np
import pytest
from PIL import Image

from actors.media import hash_media, probe, read_frames, read_waveform
from tests.media_files import as_audio_file, colour_bars, make_clip, speech_like


@pytest.mark.parametrize(
    ("name", "codec", "rate_hz", "floor", "gain"),
    [
        ("wav", "pcm_s16le", 44_100, 0.9999, 1.0),
        ("flac", "flac", 22_050, 0.9999, 1.0),
        # LAME turns the volume down to 95 %.
        ("mp3", "libmp3lame", 44_100, 0.99, 0.95),
        ("ipod", "aac", 48_000, 0.99, 1.0),
    ],
)
def test_waveform_of_every_format_is_the_signal_in_mono(name, codec, rate_hz, floor, gain):
    seconds = 2
    time_S = np.arange(seconds * rate_hz) / rate_hz
    left_S, right_S = (0.4 * np.sin(2 * np.pi * (f * time_S + 200 * time_S**2)) for f in (200, 330))
    waveform_S = read_waveform(as_audio_file(np.stack([left_S, right_S]).astype(np.float32), name, codec, rate_hz))
    assert waveform_S.dtype == np.float32
    assert waveform_S.ndim == 1
    # Lossy formats fill their last packet.
    assert seconds * 51_200 - 2 <= len(waveform_S) <= seconds * 51_200 + 3000
    time_S = np.arange(seconds * 51_200) / 51_200
    mixed_S = sum(0.2 * np.sin(2 * np.pi * (f * time_S + 200 * time_S**2)) for f in (200, 330))
    window = slice(2000, 100_000)
    assert np.corrcoef(waveform_S[window], mixed_S[window])[0, 1] > floor
    np.testing.assert_allclose(waveform_S[window].std(), gain * mixed_S[window].std(), rtol=0.02)


def test_waveform_at_its_own_rate_is_exact_16_bit():
    values_S = np.array([0, 1, -1, 12_345, -32_768, 32_767] * 500, dtype=np.int16)
    wav = as_audio_file((values_S / 32_768)[None].astype(np.float32), "wav", "pcm_s16le", 16_000)
    np.testing.assert_array_equal(read_waveform(wav, 16_000), values_S / np.float32(32_768))


def test_waveform_is_flushed_and_cut():
    wav = as_audio_file(speech_like(44_100), "wav", "pcm_s16le", 44_100)
    whole_S = read_waveform(wav)
    assert len(whole_S) == 51_200
    cut_S = read_waveform(wav, max_seconds=0.5)
    np.testing.assert_array_equal(cut_S, whole_S[:25_600])
    assert len(read_waveform(wav, max_seconds=60.0)) == 51_200


def test_waveform_of_a_clip_and_of_a_damaged_file():
    samples_2S = speech_like(44_100)
    assert len(read_waveform(make_clip(colour_bars(25), samples_2S))) == pytest.approx(51_200, abs=1200)
    mp3 = bytearray(as_audio_file(samples_2S, "mp3", "libmp3lame", 44_100))
    mp3[8000:9000] = bytes(1000)
    assert 40_000 < len(read_waveform(bytes(mp3))) < 53_000


def test_what_is_no_audio_is_refused():
    picture = io.BytesIO()
    Image.new("RGB", (16, 16)).save(picture, "PNG")
    wav = as_audio_file(speech_like(100), "wav", "pcm_s16le", 44_100)
    for data in (b"", b"not a media file" * 50, picture.getvalue(), wav[:44]):
        with pytest.raises(ValueError, match=f"audio of {len(data)} bytes cannot be decoded: "):
            read_waveform(data)


def test_probe_refuses_what_is_no_clip():
    mp4 = make_clip(colour_bars(3), speech_like(5292))
    sound = as_audio_file(speech_like(4410), "ipod", "aac", 44_100)
    for data in (b"", mp4[: len(mp4) // 20], b"RIFF" + bytes(500), sound):
        with pytest.raises(ValueError, match=f"MP4 of {len(data)} bytes cannot be read: "):
            probe(data)


def silence(rate_hz: int, num_channels: int, num_frames: int = 4096) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((num_channels, 2, rate_hz, 0, "NONE", ""))
        out.writeframes(bytes(2 * num_channels * num_frames))
    return file.getvalue()


@pytest.mark.parametrize(
    ("recording", "reason"),
    [
        (silence(1, 1), "its 1 samples per second must be 4,000 to 768,000"),
        (silence(3_999, 1), "its 3,999 samples per second must be 4,000 to 768,000"),
        (silence(2_000_000, 1), "its 2,000,000 samples per second must be 4,000 to 768,000"),
        (silence(44_100, 65), "its 65 channels must be 1 to 64"),
    ],
    ids=["an hour of four thousand samples", "just too slow", "too fast", "too many channels"],
)
def test_a_recording_that_would_not_be_one_is_refused_before_it_is_decoded(recording, reason):
    with pytest.raises(ValueError, match=f"audio of {len(recording)} bytes cannot be decoded: {reason}"):
        read_waveform(recording)
    assert len(read_waveform(silence(4_000, 2))) == pytest.approx(1.024 * 51_200, abs=2)


def test_half_an_hour_of_silence_are_decoded_no_further_than_asked():
    long = as_audio_file(np.zeros((1, 16_000 * 1_800), np.float32), "flac", "flac", 16_000)
    assert len(long) < 500_000
    assert len(read_waveform(long, 16_000, max_seconds=2)) == 32_000


PLAYLISTS = {
    "hls": b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n",
    "concat": b"ffconcat version 1.0\nfile /etc/hostname\n",
    "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 49170 RTP/AVP 0\n",
}


@pytest.mark.parametrize("data", PLAYLISTS.values(), ids=PLAYLISTS.keys())
def test_what_makes_ffmpeg_open_other_files_or_ports_is_not_tried(data):
    """A session description was opened, and a port of this machine with it, before demuxers were named."""
    for read in (read_waveform, read_frames):
        with pytest.raises(ValueError, match="cannot be decoded: Invalid"):
            read(data)


def test_the_hash_of_media_is_of_what_is_shown_and_played():
    frames_FYX3, samples_2S = colour_bars(10), speech_like(17_640)
    tags = {"title": "a", "creation_time": "2026-01-02T03:04:05Z"}
    clip = make_clip(frames_FYX3, samples_2S, metadata=tags)
    later = make_clip(frames_FYX3, samples_2S, metadata={"title": "b", "creation_time": "2026-01-02T03:04:06Z"})
    assert later != clip
    assert hash_media(later) == hash_media(clip)
    one_changed = frames_FYX3.copy()
    one_changed[6] = 255 - one_changed[6]
    others = [
        make_clip(one_changed, samples_2S),
        make_clip(frames_FYX3, np.roll(samples_2S, 1)),
        make_clip(frames_FYX3[:9], samples_2S),
        make_clip(frames_FYX3, samples_2S, fps=24),
    ]
    assert len({hash_media(mp4) for mp4 in (clip, *others)}) == 5
    turned = bytearray(clip)
    turned[-1] ^= 1
    assert hash_media(bytes(turned)) != hash_media(clip)


def test_a_hash_of_no_mp4_is_refused():
    with pytest.raises(ValueError, match=r"^MP4 of 7 bytes cannot be read: "):
        hash_media(b"no clip")
