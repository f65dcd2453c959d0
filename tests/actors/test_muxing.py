import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from actors.media import probe
from actors.muxing import ClipMuxer
from actors.video_encoding import VideoEncoding
from tests.media_files import COLOURS, HEIGHT, WIDTH, colour_bars, make_clip, speech_like
from tests.pictures import as_planes


def decode_audio(mp4: bytes) -> np.ndarray:
    with av.open(io.BytesIO(mp4)) as container:
        frames = list(container.decode(audio=0))
    assert frames[0].pts == 0
    return np.concatenate([frame.to_ndarray() for frame in frames], axis=1)


@pytest.mark.parametrize("num_frames", [1, 26, 101])
@pytest.mark.parametrize("audio_first", [True, False])
def test_clip_has_exact_lengths_and_starts_with_its_index(num_frames, audio_first):
    num_samples = num_frames * 44_100 // 25
    mp4 = make_clip(colour_bars(num_frames), speech_like(num_samples), audio_first=audio_first)
    facts = probe(mp4)
    assert (facts.width, facts.height, facts.fps, facts.num_frames) == (WIDTH, HEIGHT, 25.0, num_frames)
    assert (facts.video_codec, facts.audio_codec, facts.sample_rate_hz) == ("h264", "aac", 44_100)
    assert facts.video_s == num_frames / 25
    assert abs(facts.audio_s - num_samples / 44_100) < 1024 / 44_100
    assert 0 < mp4.find(b"moov") < mp4.find(b"mdat")
    with av.open(io.BytesIO(mp4)) as container:
        assert [stream.start_time for stream in container.streams] == [0, 0]
        frames = list(container.decode(video=0))
    assert [frame.time for frame in frames] == pytest.approx([i / 25 for i in range(num_frames)], abs=1e-9)


@pytest.mark.parametrize("num_samples", [1024, 44_100, 46_305, 100_001])
def test_any_audio_length_is_kept_to_a_video_frame(num_samples):
    facts = probe(make_clip(colour_bars(5), speech_like(num_samples)))
    assert abs(facts.audio_s - num_samples / 44_100) < 0.04


def test_long_clip_keeps_audio_and_video_near_each_other_in_the_file():
    """A player that loads from a network must not need the end of the file for its beginning."""
    num_frames = 14 * 25
    mp4 = make_clip(colour_bars(num_frames), speech_like(14 * 44_100), audio_first=False)
    with av.open(io.BytesIO(mp4)) as container:
        packets = sorted((packet.pos, packet.stream.type) for packet in container.demux() if packet.size)
    positions = [place for place, (_, kind) in enumerate(packets) if kind == "audio"]
    assert positions[0] < 60
    assert max(np.diff(positions)) < 60


def test_decoded_audio_is_the_input_at_lag_zero():
    samples_2S = speech_like(2 * 44_100)
    decoded_2S = decode_audio(make_clip(colour_bars(50), samples_2S))
    window = slice(30_000, 38_000)
    for side in range(2):
        scores = {
            lag: np.corrcoef(samples_2S[side, window], decoded_2S[side, window.start + lag : window.stop + lag])[0, 1]
            for lag in range(-1100, 1101)
        }
        assert max(scores, key=scores.__getitem__) == 0
        assert scores[0] > 0.99
    assert np.corrcoef(samples_2S[0, window], decoded_2S[1, window])[0, 1] < 0.5


def test_audio_over_full_scale_is_clipped():
    loud_2S = 4 * speech_like(44_100)
    same = make_clip(colour_bars(25), loud_2S.clip(-1, 1)) == make_clip(colour_bars(25), loud_2S)
    assert same
    assert np.abs(loud_2S).max() > 1.5


def test_colours_come_back_through_the_bt709_matrix():
    """Undone by hand with the matrix of ITU-R BT.709 and limited range, so tags and conversion must both be right."""
    mp4 = make_clip(colour_bars(25), speech_like(44_100))
    with av.open(io.BytesIO(mp4)) as container:
        context = container.streams.video[0].codec_context
        assert context.pix_fmt == "yuv420p"
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)
        frame = list(container.decode(video=0))[12]
    planes = [np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size) for plane in frame.planes]
    for place, colour in enumerate(COLOURS):
        x = (place * 2 + 1) * WIDTH // len(COLOURS) // 2
        y, cb, cr = planes[0][64, x], planes[1][32, x // 2], planes[2][32, x // 2]
        luma, blue, red = (y - 16.0) / 219, (cb - 128.0) / 224, (cr - 128.0) / 224
        r, b = luma + 1.5748 * red, luma + 1.8556 * blue
        g = (luma - 0.2126 * r - 0.0722 * b) / 0.7152
        np.testing.assert_allclose(np.array([r, g, b]) * 255, colour, atol=4)


def test_same_input_gives_same_bytes_whatever_the_chunks():
    rng = np.random.default_rng(3)
    frames_THWC = rng.integers(0, 256, (20, HEIGHT, WIDTH, 3), dtype=np.uint8)
    samples_2S = speech_like(20 * 1764)
    first = make_clip(frames_THWC, samples_2S, chunk=7, metadata={"title": "a", "seed": "5"})
    assert make_clip(frames_THWC, samples_2S, chunk=3, metadata={"seed": "5", "title": "a"}) == first
    assert make_clip(frames_THWC, samples_2S, chunk=7, metadata={"title": "b", "seed": "5"}) != first


def test_encoding_reaches_the_encoders():
    rng = np.random.default_rng(3)
    frames_THWC = rng.integers(0, 256, (10, HEIGHT, WIDTH, 3), dtype=np.uint8)
    samples_2S = speech_like(44_100 * 3)
    sizes = {
        encoding: len(make_clip(frames_THWC, samples_2S, encoding=encoding))
        for encoding in (VideoEncoding(), VideoEncoding(crf=40), VideoEncoding(audio_bitrate_bps=48_000))
    }
    plain, coarse, thin = sizes.values()
    assert coarse < 0.7 * plain
    assert thin < plain - 20_000
    parallel = VideoEncoding(threads=3, preset="medium")
    with_threads = make_clip(frames_THWC, samples_2S, encoding=parallel)
    assert make_clip(frames_THWC, samples_2S, encoding=parallel) == with_threads
    # x264 writes its settings into the stream.
    assert b" threads=3 " in with_threads
    assert b"sliced_threads=0 " in with_threads
    assert b"subme=7 " in with_threads
    assert b"crf=18.0 " in with_threads


def test_metadata_is_kept_in_the_file():
    tags = {"title": "row-17", "comment": "Gerät — 你好", "language": "de"}
    with av.open(io.BytesIO(make_clip(colour_bars(3), speech_like(5000), metadata=tags))) as container:
        assert {name: container.metadata[name] for name in tags} == tags


def test_poster_is_the_first_frame_and_narrow():
    frames_THWC = np.zeros((2, 540, 960, 3), dtype=np.uint8)
    frames_THWC[0] = (220, 60, 20)
    with ClipMuxer(960, 540) as muxer:
        with pytest.raises(ValueError, match="no poster"):
            _ = muxer.poster
        muxer.write_frames(as_planes(frames_THWC))
        muxer.write_audio(speech_like(3528))
        muxer.finish()
        poster = Image.open(io.BytesIO(muxer.poster))
    assert (poster.format, poster.size) == ("JPEG", (480, 270))
    np.testing.assert_allclose(np.asarray(poster)[100, 100], (220, 60, 20), atol=4)
    with ClipMuxer(WIDTH, HEIGHT) as muxer:
        muxer.write_frames(as_planes(colour_bars(1)))
        assert Image.open(io.BytesIO(muxer.poster)).size == (WIDTH, HEIGHT)


def test_wrong_sizes_are_refused_with_their_values():
    with pytest.raises(ValueError, match="width 191 "):
        ClipMuxer(191, 128)
    with pytest.raises(ValueError, match="height 0 "):
        ClipMuxer(192, 0)
    with pytest.raises(ValueError, match="sample_rate_hz 51200 "):
        ClipMuxer(192, 128, sample_rate_hz=51_200)
    with pytest.raises(ValueError, match="fps 0 "):
        ClipMuxer(192, 128, fps=0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"codec": "libx265"}, "codec 'libx265'"),
        ({"crf": 52}, "crf 52"),
        ({"preset": "quick"}, "preset 'quick'"),
        ({"preset": "p4"}, "preset 'p4' is not allowed with libx264: one of ultrafast"),
        ({"codec": "h264_nvenc"}, "preset 'veryfast' is not allowed with h264_nvenc: one of p1"),
        ({"codec": "h264_nvenc", "preset": "p4"}, "threads 4 is not allowed with h264_nvenc: 1 to 1"),
        ({"codec": "h264_nvenc", "preset": "p4", "threads": 1, "crf": 0}, "crf 0 is not allowed with h264_nvenc"),
        ({"threads": 0}, "threads 0"),
        ({"audio_bitrate_bps": 192}, "audio_bitrate_bps 192"),
    ],
)
def test_bad_encoding_names_field_and_value(values, message):
    with pytest.raises(ValueError, match=message):
        VideoEncoding(**values)


def test_bad_frames_and_audio_are_refused_with_their_values():
    good_2S = speech_like(1764)
    bad_2S = good_2S.copy()
    bad_2S[1, 7] = np.nan
    bad_2S[0, 9] = np.inf
    planes_FPX = as_planes(colour_bars(1))
    with ClipMuxer(WIDTH, HEIGHT) as muxer:
        with pytest.raises(ValueError, match=r"float32 \(1, 192, 192\)"):
            muxer.write_frames(planes_FPX.astype(np.float32))
        with pytest.raises(ValueError, match=r"uint8 \(1, 192, 190\) .*\(F, 192, 192\)"):
            muxer.write_frames(planes_FPX[:, :, :190])
        with pytest.raises(ValueError, match="2 values of 3528"):
            muxer.write_audio(bad_2S)
        for wrong in (good_2S[:1], good_2S[:, :0], good_2S.astype(np.float64)):
            with pytest.raises(ValueError, match="float32"):
                muxer.write_audio(wrong)
        muxer.write_audio(good_2S)
        with pytest.raises(RuntimeError, match="already"):
            muxer.write_audio(good_2S)
        with pytest.raises(ValueError, match="0 frames and 1764 audio samples"):
            muxer.finish()
        muxer.write_frames(planes_FPX)
        assert probe(muxer.finish()).num_frames == 1
        with pytest.raises(RuntimeError, match="not open"):
            muxer.write_frames(planes_FPX)


def test_no_temporary_file_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with ClipMuxer(WIDTH, HEIGHT) as muxer:
        assert len(os.listdir(tmp_path)) == 1
        muxer.write_frames(as_planes(colour_bars(30)))
        muxer.write_audio(speech_like(30 * 1764))
        muxer.finish()
    assert os.listdir(tmp_path) == []
    with pytest.raises(KeyError):
        fail_in_the_middle()
    assert os.listdir(tmp_path) == []
    with pytest.raises(TypeError), ClipMuxer(WIDTH, HEIGHT, metadata={"title": "a", 5: "b"}):
        pass
    assert os.listdir(tmp_path) == []


def fail_in_the_middle() -> None:
    with ClipMuxer(WIDTH, HEIGHT) as muxer:
        muxer.write_frames(as_planes(colour_bars(60)))
        raise KeyError


def test_a_clip_without_audio_is_refused():
    with ClipMuxer(WIDTH, HEIGHT) as muxer:
        muxer.write_frames(as_planes(colour_bars(1)))
        with pytest.raises(ValueError, match="1 frames and 0 audio"):
            muxer.finish()


def test_memory_does_not_grow_with_the_number_of_frames():
    """In a fresh process, since the peak of this one holds whatever ran before."""
    code = """
import resource, sys
import numpy as np
from actors.muxing import ClipMuxer
from actors.video_encoding import VideoEncoding
chunk = np.zeros((4, 1632, 1920), np.uint8)
peaks = []
with ClipMuxer(1920, 1088, encoding=VideoEncoding(preset="ultrafast")) as muxer:
    for i in range(40):
        chunk[:] = i
        muxer.write_frames(chunk)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(peaks[19], peaks[39])
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    half_kib, whole_kib = map(int, done.stdout.split())
    frame_kib = 1920 * 1632 // 1024
    # 80 more frames went by; were they kept, the peak would be 245 MB higher.
    assert whole_kib - half_kib < 16 * frame_kib
