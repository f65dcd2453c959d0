"""The stages of inference, each the plain way and the fast ones."""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.floors import measure_rates, network_floor_s, transformer_floor_s, weight_bytes
from benchmarks.networks import random_audio_decoder, random_text_encoder, random_transformer, random_turbo_vae
from benchmarks.report import Report
from benchmarks.scale import RELEASE, Scale
from benchmarks.timing import Timing, measure
from model.attention import SdpaAttention, choose_attention
from model.compilation import compile_transformer, compile_video_decoder
from model.denoiser import Conditions, Denoiser, Latents, seeded_noise
from model.graph_cache import CompileCache, CompileError
from model.packed_linear import LinearFormat
from model.packing import SequenceLayout
from model.parity.report import relative_error
from model.sampling import DistilledSampling, sample_distilled
from model.transformer import Transformer
from model.turbo_vae import TurboVAEDecoder

Way = Literal["baseline", "eager", "compiled", "compiled fp8"]
"""`baseline`: the checkpoint's weights as they are, operation by operation, with PyTorch's choice of attention kernel;
`eager`: whole tiles, and the attention kernel that a job would choose; the others: such weights in a compiled graph."""

_FORMS: dict[Way, LinearFormat] = {
    "baseline": "plain",
    "eager": "packed",
    "compiled": "packed",
    "compiled fp8": "fp8",
}
NUM_BASE_STEPS = 8
NUM_SR_STEPS = 5
NUM_LOADED_LAYERS = 8
"""Of the checkpoint whose loading is timed: 4.4 GB of the release's 30.7."""


class Stages:
    """Measures a device.

    Args:
        device: which.
        scale: networks and clips.
        cache: where compiled graphs are looked for and kept.
        limit_s: after this long nothing more is begun.

    Attributes:
        rates: of the device.
        baseline: rows of the baseline.
        fast: rows of the other ways, and of stages that have one way only.
    """

    def __init__(self, device: torch.device, scale: Scale, cache: CompileCache, limit_s: float):
        self.device, self.scale, self.cache = device, scale, cache
        self.ends = time.monotonic() + limit_s
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.precision = "bf16" if device.type == "cuda" else "fp32"
        self.baseline, self.fast = Report(), Report()
        self.rates = measure_rates(device, self.dtype)
        self._velocities: dict[str, Tensor] = {}

    def measure_baseline(self) -> None:
        """The plain way."""
        self._attempt("base and SR 540p", "baseline", lambda: self._transformer("baseline", ("256p", "540p")))
        self._attempt("SR 1080p", "baseline", lambda: self._transformer("baseline", ("1080p",)))
        self._attempt("video", "baseline", lambda: self._video("baseline"))

    def measure_fast(self) -> None:
        """The other ways, what matters most first."""
        ways: list[Way] = ["compiled", "compiled fp8", "eager"]
        if self.device.type == "cuda" and "fp8" not in self.rates.matrix_tflops:
            ways.remove("compiled fp8")
            self.fast.skip("Transformer", "compiled fp8", "the device has no 8-bit products")
        for way in ways[:2]:
            self._attempt("base and SR 540p", way, partial(self._transformer, way, ("256p", "540p")))
        if self.device.type == "cuda":
            self._attempt("video", "compiled", lambda: self._video("compiled"))
        else:
            self.fast.skip("video", "compiled", "graphs of convolutions for any size are for GPUs")
        self._attempt("audio", "eager", self._audio)
        self._attempt("text", "eager", self._text)
        self._attempt("load", "bf16", self._loading)
        for way in ways:
            self._attempt("SR 1080p", way, partial(self._transformer, way, ("1080p",)))
        self._attempt("base and SR 540p", "eager", lambda: self._transformer("eager", ("256p", "540p")))

    def _report(self, way: str) -> Report:
        return self.baseline if way == "baseline" else self.fast

    def _attempt(self, stage: str, way: str, measure_it: Callable[[], None]) -> None:
        try:
            if time.monotonic() > self.ends:
                self._report(way).skip(stage, way, "out of time")
                return
            measure_it()
        except (ImportError, CompileError) as error:
            self._report(way).skip(stage, way, str(error))
        except RuntimeError as error:  # no memory, or a kernel that refuses: what is measured already stays
            self._report(way).skip(stage, way, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
            if isinstance(error, torch.AcceleratorError):
                raise
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _transformer(self, way: Way, resolutions: Sequence[str]) -> None:
        attention = SdpaAttention() if way == "baseline" else choose_attention(self.device, self.dtype)
        config = self.scale.config(resolutions[0])
        model = random_transformer(config, self.dtype, self.device, _FORMS[way], attention)
        started = time.perf_counter()
        if way.startswith("compiled"):
            compile_transformer(model, self.scale.layout(resolutions[-1]), "torch", self.cache)
        compile_s = time.perf_counter() - started
        for resolution in resolutions:
            self._denoise(model, way, resolution, compile_s)

    @torch.inference_mode()
    def _denoise(self, model: Transformer, way: Way, resolution: str, compile_s: float) -> None:
        layout, is_base = self.scale.layout(resolution), resolution == "256p"
        clip, text_1LC = noise_clip(layout, model.config.text_channels, self.device)
        denoise, levels_S = Denoiser(model, [text_1LC], [clip]), torch.full((1,), 0.5)

        def base() -> None:
            sampling, noise = DistilledSampling(NUM_BASE_STEPS), seeded_noise(0, self.device)
            sample_distilled(model, [clip], [Conditions(text_1LC)], sampling, [noise])

        velocity = denoise([clip], levels_S)[0].video_1CTHW.cpu()
        expected = self._velocities.setdefault(resolution, velocity)
        precision = "fp8" if "fp8" in way and self.device.type == "cuda" else self.precision
        floor_s = transformer_floor_s(model.config, layout, weight_bytes(model), self.rates, precision)
        # A forward pass of the release at 1080p takes seconds.
        num_repeats = 2 if resolution == "1080p" and self.scale is RELEASE else self.scale.num_repeats
        timing = measure(base if is_base else lambda: denoise([clip], levels_S), self.device, num_repeats)
        num_forwards = NUM_BASE_STEPS if is_base else NUM_SR_STEPS
        if not is_base:
            timing = Timing(num_forwards * timing.seconds, timing.spread, timing.peak_gb)
        self._report(way).add(
            f"{'base' if is_base else 'SR'} {self.scale.size(resolution)}",
            way,
            timing,
            num_forwards * floor_s,
            num_forwards=num_forwards,
            num_tokens=layout.num_tokens,
            weights_gb=weight_bytes(model) / 1e9,
            compile_s=compile_s if way.startswith("compiled") else None,
            difference_from_baseline=relative_error(velocity, expected) if way != "baseline" else None,
        )

    @torch.inference_mode()
    def _video(self, way: Way) -> None:
        decoder = random_turbo_vae(self.scale.turbo_vae, self.dtype, self.device)
        on_meta = random_turbo_vae(self.scale.turbo_vae, self.dtype, torch.device("meta"))
        largest, started = self.scale.layout("1080p"), time.perf_counter()
        if way == "compiled":
            compile_video_decoder(decoder, (largest.latent_height, largest.latent_width), "torch", self.cache)
        compile_s = time.perf_counter() - started
        for resolution in self.scale.sizes:
            layout = self.scale.layout(resolution)
            shape = (1, 48, layout.latent_frames, layout.latent_height, layout.latent_width)
            latent = torch.randn(shape).to(self.device, self.dtype)
            empty = torch.empty(shape, dtype=self.dtype, device="meta")
            timing = measure(partial(_decode, decoder, latent), self.device, 3)
            floor_s = network_floor_s(partial(_decode, on_meta, empty), on_meta, self.dtype.itemsize, self.rates)
            stage = f"video {self.scale.size(resolution)}"
            self._report(way).add(stage, way, timing, floor_s, compile_s=compile_s if way == "compiled" else None)

    @torch.inference_mode()
    def _audio(self) -> None:
        decoder, network = random_audio_decoder(self.scale.audio_channels, self.device)
        latent_1AC = torch.randn(1, self.scale.layout("256p").num_audio, 64).to(self.device)
        timing = measure(lambda: decoder.decode(latent_1AC), self.device, self.scale.num_repeats)
        floor_s = network_floor_s(lambda: network(latent_1AC.transpose(1, 2)), network, 4, self.rates)
        self.fast.add("audio", "eager", timing, floor_s)

    def _text(self) -> None:
        encoder = random_text_encoder(self.scale, self.dtype, self.device)
        timing = measure(lambda: encoder.encode(["a prompt"]), self.device, self.scale.num_repeats)
        used = sum(tensor.numel() for name, tensor in encoder.model.named_parameters() if "embed" not in name)
        floor_s = self.rates.floor_s(used * self.dtype.itemsize, **{self.precision: 2.0 * used * self.scale.num_text})
        self.fast.add("text", "eager", timing, floor_s, num_tokens=self.scale.num_text)

    def _loading(self) -> None:
        """Load a checkpoint of a few of the release's layers, whose files were just written and so are in memory."""
        from model.checkpoint import Checkpoint

        config = replace(self.scale.full, num_layers=NUM_LOADED_LAYERS, expert_layers=(), gelu_layers=())
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "distill" / "model.safetensors"
            path.parent.mkdir()
            network = random_transformer(config, torch.bfloat16, self.device, "plain", SdpaAttention())
            save_file({name: tensor.cpu() for name, tensor in network.state_dict().items()}, path)
            del network
            num_gb = path.stat().st_size / 1e9
            for is_fp8 in (False, True):
                if is_fp8 and self.device.type == "cuda" and "fp8" not in self.rates.matrix_tflops:
                    continue
                load = partial(Checkpoint(folder).transformer, "distill", torch.bfloat16, self.device, is_fp8)
                timing = measure(load, self.device, 3)
                self.fast.add("load", "fp8" if is_fp8 else "bf16", timing, gb=num_gb, gb_per_s=num_gb / timing.seconds)


def noise_clip(
    layout: SequenceLayout, text_channels: int, device: torch.device, seed: int = 0
) -> tuple[Latents, Tensor]:
    """Latents of noise and features of a prompt (1, L, C), both normal."""
    draw = seeded_noise(seed, device)
    video = draw((1, 48, layout.latent_frames, layout.latent_height, layout.latent_width))
    return Latents(video, draw((1, layout.num_audio, 64))), draw((1, layout.num_text, text_channels))


def _decode(decoder: TurboVAEDecoder, latent_1CTHW: Tensor) -> None:
    for chunk in decoder.decode_chunks(latent_1CTHW):
        del chunk  # as soon as it is there: no more than one is held
