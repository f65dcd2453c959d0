"""Floors against figures that were published or counted otherwise."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.floors import Rates, measure_rates, network_floor_s, transformer_floor_s
from benchmarks.networks import random_transformer, random_turbo_vae
from benchmarks.scale import RELEASE, SMALL
from benchmarks.stages import noise_clip
from model.attention import SdpaAttention
from model.denoiser import Denoiser
from model.operations import transformer_flops

CPU = torch.device("cpu")
RATES = Rates(copy_gb_per_s=1000, matrix_tflops={"bf16": 790, "fp8": 1580})


@pytest.mark.parametrize(
    ("resolution", "petaflop", "floor_s"), [("256p", 0.10, 1.1), ("540p", 0.5, 3.2), ("1080p", 3.8, 24)]
)
def test_the_releases_cost_is_that_of_the_model_card(resolution, petaflop, floor_s):
    """Per forward pass; eight of base generation, five of super-resolution, at 790 TFLOP/s."""
    config, layout = RELEASE.config(resolution), RELEASE.layout(resolution)
    assert sum(transformer_flops(config, layout)) / 1e15 == pytest.approx(petaflop, rel=0.05)
    num_forwards = 8 if resolution == "256p" else 5
    assert num_forwards * transformer_floor_s(config, layout, 0, RATES, "bf16") == pytest.approx(floor_s, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["full", "windowed"])
def test_operations_are_those_that_pytorch_counts(name):
    layout = SMALL.layout("1080p" if name == "windowed" else "256p")
    model = random_transformer(getattr(SMALL, name), torch.float32, CPU, "plain", SdpaAttention("math"))
    clip, text = noise_clip(layout, model.config.text_channels, CPU)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        Denoiser(model, [text], [clip])([clip], torch.full((1,), 0.5))
    # Embedders and the last layers are not counted, and the release has hardly any of them either.
    outer = {"adapter", "final_linear_video", "final_linear_audio"}
    counted = counter.get_total_flops() - sum(
        sum(flops.values()) for module, flops in counter.get_flop_counts().items() if module.split(".")[-1] in outer
    )
    assert sum(transformer_flops(model.config, layout)) == pytest.approx(counted, rel=0.02)


def test_a_floor_is_the_longer_of_products_and_bytes():
    assert RATES.floor_s(2e12, bf16=79e12) == 2
    assert RATES.floor_s(1e9, bf16=79e12) == pytest.approx(0.1)
    assert RATES.floor_s(0, bf16=79e12, fp8=158e12) == pytest.approx(0.2)
    config, layout = RELEASE.full, RELEASE.layout("256p")
    assert transformer_floor_s(config, layout, 0, RATES, "fp8") < transformer_floor_s(config, layout, 0, RATES, "bf16")


def test_a_decoders_floor_counts_its_convolutions():
    decoder = random_turbo_vae(SMALL.turbo_vae, torch.float32, torch.device("meta"))

    def decode(num_frames: int) -> None:
        for _ in decoder.decode_chunks(torch.empty(1, 48, num_frames, 8, 14, device="meta")):
            pass

    slow, fast = replace(RATES, matrix_tflops={"bf16": 1e-3}), replace(RATES, matrix_tflops={"bf16": 1e9})
    seven, fourteen = (network_floor_s(lambda n=n: decode(n), decoder, 4, slow) for n in (7, 14))
    # Seven frames are one window, 25 pixel frames; fourteen are two of eight, as each sees one frame of the other.
    assert fourteen / seven == pytest.approx((29 + 32) / 25, rel=0.03)
    assert network_floor_s(lambda: decode(7), decoder, 4, fast) == pytest.approx(
        2 * network_floor_s(lambda: decode(7), decoder, 2, fast)
    )


def test_rates_are_measured():
    rates = measure_rates(CPU, torch.float32)
    assert 0.1 < rates.copy_gb_per_s < 2000
    assert rates.matrix_tflops.keys() == {"fp32"}
    assert 1e-3 < rates.matrix_tflops["fp32"] < 100
