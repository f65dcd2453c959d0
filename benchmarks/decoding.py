"""`python -m benchmarks.decoding`: time and host memory of decoding, encoding and muxing a five-second clip on a CPU.

Real frames, 448x256 and 1920x1088, come out of a Turbo VAE with the release's windows and scalings and as few channels
as it can have, random weights, in bfloat16; the latents are noise that is smooth over space and time, so the pictures
move softly and carry grain, which encoders find neither empty nor hopeless. Every figure is of a process of its own,
after a clip of 448x256 has warmed it up:

- parts: each alone, one after the other: the network, pixels to planes, H.264, sound (a network and AAC), the MP4.
- buffered: the same in one go, all pixels first, then all planes, then encoding. Its time is the sum of the parts.
- streamed: as the decoding actor does it, part beside part. It cannot take less than its slowest part, nor than the
  processor time of all parts on all cores of the machine, their bound; on many cores the two are one.

PyTorch computes with one thread in each of these; x264 has as many as its default says. The peak is of resident memory
above that of the idle process, its networks loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from actors.frame_stream import FrameStream
from actors.muxing import ClipMuxer
from benchmarks.machine import describe_machine, process_memory_bytes
from benchmarks.networks import random_audio_decoder
from benchmarks.scale import turbo_vae_config
from model.colour import to_yuv420p
from model.geometry import AUDIO_LATENT_CHANNELS
from model.turbo_vae import TurboVAEDecoder
from model.widened_products import fast_bfloat16

SIZES = ("448x256", "1920x1088")
NUM_LATENTS = 32
NUM_FRAMES = 4 * (NUM_LATENTS - 1) + 1
CPU = torch.device("cpu")
WIDTHS = (4, 4, 4, 4)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decoding", description=__doc__)
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    parser.add_argument("--part", choices=("parts", "buffered", "streamed"), help=argparse.SUPPRESS)  # of one process
    parser.add_argument("--size", choices=SIZES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.part:
        print(json.dumps(_measure(options.part, options.size)))
        return 0
    results = {size: _summary({part: _apart(part, size) for part in _WAYS}) for size in SIZES}
    print(f"{'':20}" + "".join(f"{size:>12}" for size in results))
    for name in results[SIZES[0]]:
        print(f"{name:20}" + "".join(f"{result[name]:12}" for result in results.values()))
    if options.output:
        report = {"machine": describe_machine(), "num_frames": NUM_FRAMES, "results": results}
        options.output.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def _apart(part: str, size: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.decoding", "--part", part, "--size", size]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _summary(measured: dict[str, dict[str, Any]]) -> dict[str, float]:
    parts = measured["parts"]["seconds"]
    slowest = max(parts.values())
    bound_s = max(slowest, measured["parts"]["processor_s"] / (os.cpu_count() or 1))
    streamed_s = measured["streamed"]["seconds"]["streamed"]
    figures = {f"{name}_s": value for name, value in parts.items()}
    figures |= {
        "sum_s": sum(parts.values()),
        "bound_s": bound_s,
        "buffered_s": measured["buffered"]["seconds"]["buffered"],
        "streamed_s": streamed_s,
        "streamed_to_slowest": streamed_s / slowest,
        "streamed_to_bound": streamed_s / bound_s,
        "buffered_peak_gb": measured["buffered"]["peak_gb"],
        "streamed_peak_gb": measured["streamed"]["peak_gb"],
    }
    return {name: float(f"{value:.3g}") for name, value in figures.items()}


class _Clip:
    """Networks and latents of a clip.

    Args:
        width: of the picture in pixels.
        height: of the picture in pixels.
        num_latents: latent frames.
    """

    def __init__(self, width: int, height: int, num_latents: int):
        self.width, self.height, self.num_frames = width, height, 4 * (num_latents - 1) + 1
        generator = torch.Generator().manual_seed(0)
        self.video_decoder, self.audio_decoder = _video_decoder(generator), random_audio_decoder(8, CPU)[0]
        size = (num_latents, height // 16, width // 16)
        coarse = torch.randn(1, 48, *(max(2, n // 4) for n in size), generator=generator)
        self.video_1CTHW = 1.5 * F.interpolate(coarse, size=size, mode="trilinear").bfloat16()
        self.audio_1AC = torch.randn(1, self.num_frames, AUDIO_LATENT_CHANNELS, generator=generator)

    def chunks(self) -> Iterator[Tensor]:
        """Pixels as the network makes them."""
        return self.video_decoder.decode_chunks(self.video_1CTHW)

    def sound(self) -> np.ndarray:
        """The waveform."""
        return self.audio_decoder.decode(self.audio_1AC).numpy()

    def muxer(self) -> ClipMuxer:
        """A new file."""
        return ClipMuxer(self.width, self.height)


def _parts(clip: _Clip) -> dict[str, float]:
    seconds = dict.fromkeys(("network", "colour", "encoding", "sound", "mux"), 0.0)

    @contextmanager
    def timed(part: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        seconds[part] += time.perf_counter() - started

    with timed("sound"):
        samples_2S = clip.sound()
    chunks, planes = clip.chunks(), []
    while True:
        with timed("network"):
            pixels_3FYX = next(chunks, None)
        if pixels_3FYX is None:
            break
        with timed("colour"):
            planes.append(to_yuv420p(pixels_3FYX).numpy())
        del pixels_3FYX
    with clip.muxer() as muxer:
        with timed("sound"):
            muxer.write_audio(samples_2S)
        with timed("encoding"):
            for planes_FPX in planes:
                muxer.write_frames(planes_FPX)
        with timed("mux"):  # and the last frames, which x264 keeps back
            muxer.finish()
    return seconds


def _buffered(clip: _Clip) -> dict[str, float]:
    started = time.perf_counter()
    with clip.muxer() as muxer:
        muxer.write_audio(clip.sound())
        chunks = list(clip.chunks())
        planes = [to_yuv420p(pixels_3FYX).numpy() for pixels_3FYX in chunks]
        for planes_FPX in planes:
            muxer.write_frames(planes_FPX)
        muxer.finish()
    return {"buffered": time.perf_counter() - started}


def _streamed(clip: _Clip) -> dict[str, float]:
    chunks = clip.chunks()
    started = time.perf_counter()
    with clip.muxer() as muxer:
        FrameStream(CPU, _computing).write(muxer, clip.num_frames, lambda: next(chunks, None), clip.sound)
        muxer.finish()
    return {"streamed": time.perf_counter() - started}


_WAYS: dict[str, Callable[[_Clip], dict[str, float]]] = {
    "parts": _parts, "buffered": _buffered, "streamed": _streamed,
}  # fmt: skip


@contextmanager
def _computing() -> Iterator[None]:
    torch.set_num_threads(1)
    with torch.inference_mode(), fast_bfloat16(CPU):
        yield


def _measure(part: str, size: str) -> dict[str, Any]:
    width, height = map(int, size.split("x"))
    with _computing():
        _WAYS[part](_Clip(448, 256, NUM_LATENTS))  # a worker is idle between clips, not before the first
        clip = _Clip(width, height, NUM_LATENTS)
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        before = process_memory_bytes("VmRSS")
        started = time.process_time()
        seconds = _WAYS[part](clip)
        processor_s = time.process_time() - started
        peak = process_memory_bytes("VmHWM") - before
    return {"seconds": seconds, "processor_s": processor_s, "peak_gb": peak / 1e9, "num_frames": clip.num_frames}


def _video_decoder(generator: torch.Generator) -> TurboVAEDecoder:
    config = turbo_vae_config(WIDTHS, (0, 0, 3, 0, 1))
    decoder = TurboVAEDecoder(config)
    weights = {}
    for name, like in sorted(decoder.state_dict().items()):
        # Each layer keeps the spread of what it is given; the last makes a picture of it.
        scale = 0.05 if name.endswith("bias") else (0.6 if "conv_out" in name else 1.0) * like[0].numel() ** -0.5
        weights[name] = scale * torch.randn(like.shape, generator=generator)
    decoder.load_state_dict(weights, strict=True)
    return decoder.to(torch.bfloat16).requires_grad_(False)


if __name__ == "__main__":
    sys.exit(main())
