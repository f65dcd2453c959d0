"""A clip's pixels and sound into its file as they are made: three threads, each at work on another chunk.

The thread that calls runs the network; a second one turns pixels into encoders' planes and brings them to the host; a
third one encodes. Each works ahead of the next by one chunk and then waits for it: however slow a part is, there are
two chunks of pixels at most, one of them in the making, and two of planes. A fourth thread makes the sound meanwhile.
Where there are fewer cores than work, the network's thread goes first, since all others wait for it.

Legend: F frames, Y X pixel rows and columns, P = 3Y/2 rows of a frame's planes (`model.colour`), 2 stereo, S samples.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress

import numpy as np
import torch
from torch import Tensor

from actors.muxing import ClipMuxer
from model.colour import to_yuv420p

_NICENESS = 10
"""Of the threads beside the network's, above its own: measured on two cores, five times each in turn, 1080p took 1.17
times as long as the network alone, without it 1.28 times."""


class FrameStream:
    """Writes clips; several threads may do so at once.

    Args:
        device: where the pixels are.
        computing: gives the context in which threads other than the caller's compute, entered anew in each: what
            PyTorch keeps per thread, such as the number of threads and inference mode.
    """

    def __init__(self, device: torch.device, computing: Callable[[], AbstractContextManager[object]]):
        self._computing = computing
        # On a stream of its own the conversion need not wait for the next chunk's network. One for all clips, since
        # PyTorch keeps freed memory for the stream that used it.
        self._stream = torch.cuda.Stream(device, priority=-1) if device.type == "cuda" else None

    def write(
        self,
        muxer: ClipMuxer,
        num_frames: int,
        next_pixels: Callable[[], Tensor | None],
        make_sound: Callable[[], np.ndarray],
    ) -> None:
        """Write a whole clip, the sound behind the first chunk: the same bytes as one after the other.

        Args:
            muxer: open, nothing written yet; to `finish` it is left to the caller.
            num_frames: frames to write; what goes beyond is cut, and not asked for where that is whole chunks.
            next_pixels: gives the next pixels (3, F, Y, X) in [-1, 1], or None after the last; is called in this
                thread and must not keep them.
            make_sound: gives (2, S) float32 at the muxer's rate; is called in another thread, beside the pixels.

        Raises:
            Exception: what a part raised, in whatever thread; no thread is left then.
        """

        def make() -> np.ndarray:
            with self._computing():
                return make_sound()

        def write(converted: Future[deque[np.ndarray]], is_first: bool) -> None:
            frames = converted.result()
            while frames:
                muxer.write_frames(frames.popleft())
            if is_first:
                muxer.write_audio(sound.result())

        with (
            ThreadPoolExecutor(1, "sound", _give_way) as sounder,
            ThreadPoolExecutor(1, "colour", _give_way) as converter,
            ThreadPoolExecutor(1, "encoder", _give_way) as encoder,
        ):
            sound = sounder.submit(make)
            writes: deque[Future[None]] = deque()
            converted: Future[deque[np.ndarray]] | None = None
            num_left = num_frames
            while num_left > 0 and (pixels_3FYX := next_pixels()) is not None:
                if converted is not None:
                    converted.result()
                while len(writes) > 1:
                    writes.popleft().result()
                is_made = torch.cuda.current_stream(pixels_3FYX.device).record_event() if self._stream else None
                is_first = converted is None
                converted = converter.submit(self._convert, pixels_3FYX[:, :num_left], is_made)
                writes.append(encoder.submit(write, converted, is_first))
                num_left -= pixels_3FYX.shape[1]
                del pixels_3FYX  # else it would live on while the next is made
            while writes:
                writes.popleft().result()

    def _convert(self, pixels_3FYX: Tensor, is_made: torch.cuda.Event | None) -> deque[np.ndarray]:
        """Planes of each frame, (1, P, X), in memory of their own, so that it is free once they are encoded."""
        with self._computing():
            if self._stream is None or is_made is None:
                return _host_planes(pixels_3FYX)
            with torch.cuda.stream(self._stream):
                self._stream.wait_event(is_made)
                pixels_3FYX.record_stream(self._stream)  # its memory is not given out again before this has read it
                return _host_planes(pixels_3FYX)


def _give_way() -> None:
    """Let this thread, and those it starts, such as x264's, have a processor after the one that runs the network."""
    if sys.platform != "linux":  # elsewhere niceness is of the process
        return
    thread = threading.get_native_id()
    with suppress(OSError):  # a sandbox may forbid it; clips are the same, if later
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _NICENESS)


def _host_planes(pixels_3FYX: Tensor) -> deque[np.ndarray]:
    return deque(to_yuv420p(frame_31YX).cpu().numpy() for frame_31YX in pixels_3FYX.split(1, dim=1))
