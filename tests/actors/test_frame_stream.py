"""Overlapping decoding, conversion and encoding: the same bytes, little memory, no thread left whatever fails.

Little memory is that few chunks are alive (`test_the_network_is_two_chunks_ahead_of_the_encoder_and_no_more`);
gigabytes are measured for `-m soak` alone.
"""

import json
import os
import subprocess
import sys
import threading
import time
import weakref
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.frame_stream import FrameStream
from actors.media import probe
from actors.muxing import ClipMuxer
from model.colour import to_yuv420p

WIDTH, HEIGHT = 64, 48
CPU = torch.device("cpu")


def some_chunks(num_chunks, num_frames=5):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, num_frames, HEIGHT, WIDTH, generator=generator).mul_(0.4) for _ in range(num_chunks)]


def some_sound(num_frames=25):
    return np.random.default_rng(0).standard_normal((2, num_frames * 1764)).astype(np.float32) * 0.1


def giving(chunks):
    """As a decoder gives chunks: one by one, and kept by nobody."""
    left = iter(chunks)
    return lambda: next(left, None)


def streamed(num_frames, next_pixels, make_sound, computing=nullcontext):
    with ClipMuxer(WIDTH, HEIGHT) as muxer:
        FrameStream(CPU, computing).write(muxer, num_frames, next_pixels, make_sound)
        return muxer.finish()


def one_after_the_other(chunks, num_frames, sound_2S):
    planes_FPX = np.concatenate([to_yuv420p(chunk_3FYX).numpy() for chunk_3FYX in chunks])[:num_frames]
    with ClipMuxer(WIDTH, HEIGHT) as muxer:
        muxer.write_audio(sound_2S)
        muxer.write_frames(planes_FPX)
        return muxer.finish()


@pytest.fixture
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) == before


@pytest.mark.parametrize(("num_chunks", "num_frames"), [(1, 5), (2, 10), (5, 25), (5, 21)])
@pytest.mark.usefixtures("no_thread_is_left")
def test_the_bytes_are_those_of_one_part_after_the_other(num_chunks, num_frames):
    chunks, sound_2S = some_chunks(num_chunks), some_sound()
    mp4 = streamed(num_frames, giving(chunks), lambda: sound_2S)
    assert mp4 == one_after_the_other(chunks, num_frames, sound_2S)
    assert probe(mp4).num_frames == num_frames


@pytest.mark.skipif(sys.platform != "linux", reason="niceness of a thread is Linux's")
def test_the_network_goes_first():
    niceness, chunks = {}, iter(some_chunks(1))

    def note(part, result):
        niceness[part] = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        return result

    streamed(5, lambda: note("network", next(chunks, None)), lambda: note("sound", some_sound(5)))
    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    assert niceness == {"network": own, "sound": min(19, own + 10)}


def test_chunks_beyond_the_clip_are_not_made():
    chunks = iter(some_chunks(4))
    streamed(9, lambda: next(chunks, None), some_sound)
    assert len(list(chunks)) == 2


def test_the_other_threads_compute_in_the_context_given():
    seen = []

    class Context(nullcontext):
        def __enter__(self):
            seen.append(threading.current_thread())

    streamed(10, giving(some_chunks(2)), some_sound, Context)
    assert len(seen) == 3, "sound and two conversions"
    assert len(set(seen) | {threading.current_thread()}) == 3


@pytest.mark.timeout(60)
def test_the_network_is_two_chunks_ahead_of_the_encoder_and_no_more():
    third_is_asked_for = threading.Event()
    num_asked, num_alive, asked_meanwhile = 0, [], []

    class WaitingMuxer(ClipMuxer):
        def write_frames(self, planes_FPX):
            if not self.num_frames:
                assert third_is_asked_for.wait(20), "the network waits for the encoder"
                time.sleep(0.3)
                asked_meanwhile.append(num_asked)
            super().write_frames(planes_FPX)

    def pixels():
        nonlocal num_asked
        made = []
        while True:
            num_asked += 1
            if num_asked == 3:
                third_is_asked_for.set()
            time.sleep(0.05)
            num_alive.append(sum(memory() is not None for memory in made[:-1]))  # the last may be in conversion
            memory_3FYX = np.zeros((3, 5, HEIGHT, WIDTH), np.float32)
            made.append(weakref.ref(memory_3FYX))
            held = [torch.from_numpy(memory_3FYX)]
            del memory_3FYX
            yield held.pop()

    chunks = pixels()
    with WaitingMuxer(WIDTH, HEIGHT) as muxer:
        FrameStream(CPU, nullcontext).write(muxer, 30, lambda: next(chunks), some_sound)
        assert muxer.num_frames == 30
    assert asked_meanwhile == [3]
    assert num_alive == [0] * 6


@pytest.mark.usefixtures("no_thread_is_left")
@pytest.mark.timeout(30)
def test_an_encoder_that_fails_in_the_middle_ends_the_clip():
    class FailingMuxer(ClipMuxer):
        def write_frames(self, planes_FPX):
            if self.num_frames >= 10:
                raise OSError("no space left on device")
            super().write_frames(planes_FPX)

    num_made = 0

    def next_pixels():
        nonlocal num_made
        num_made += 1
        return torch.zeros(3, 5, HEIGHT, WIDTH)

    with pytest.raises(OSError, match="no space left"), FailingMuxer(WIDTH, HEIGHT) as muxer:
        FrameStream(CPU, nullcontext).write(muxer, 10_000, next_pixels, some_sound)
    assert num_made <= 6, "ten frames are two chunks"


@pytest.mark.usefixtures("no_thread_is_left")
@pytest.mark.timeout(30)
@pytest.mark.parametrize("num_good", [0, 1, 4])
def test_a_decoder_that_fails_in_the_middle_ends_the_clip(num_good):
    def pixels():
        yield from some_chunks(num_good)
        raise RuntimeError("out of memory")

    chunks = pixels()
    with pytest.raises(RuntimeError, match="out of memory"):
        streamed(100, lambda: next(chunks), some_sound)


@pytest.mark.usefixtures("no_thread_is_left")
@pytest.mark.timeout(30)
def test_a_conversion_that_fails_ends_the_clip():
    with pytest.raises(ValueError, match=r"pixels must be \(3, F, Y, X\)"):
        streamed(100, lambda: torch.zeros(3, 5, HEIGHT + 1, WIDTH), some_sound)


@pytest.mark.usefixtures("no_thread_is_left")
@pytest.mark.timeout(30)
@pytest.mark.parametrize("num_chunks", [1, 5])
def test_sound_that_is_no_number_ends_the_clip(num_chunks):
    sound_2S = some_sound()
    sound_2S[0, 7] = np.nan
    with pytest.raises(ValueError, match="1 values of 88200 that are NaN"):
        streamed(25, giving(some_chunks(num_chunks)), lambda: sound_2S)


@pytest.mark.soak
def test_a_long_clip_of_1080p_takes_less_than_1_5_gb():
    """Real frames out of a narrow Turbo VAE in bfloat16, five seconds of them, in a process of its own.

    Widths are as small as they go; chunks are the release's, 28 frames of 1920x1088. All pixels together are 1.6 GB.
    The C library gives back what is freed, as `docs/performance.md` advises for decoding on a CPU.
    """
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "benchmarks.decoding", "--part", "streamed", "--size", "1920x1088"]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**20)}
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, env=environment)
    measured = json.loads(done.stdout)
    assert measured["num_frames"] == 125
    assert 0.3 < measured["peak_gb"] < 1.5
