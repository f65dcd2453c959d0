"""The least time a stage can take on a machine: its products at the matrix rate, or its bytes at the copy bandwidth.

Legend: N tokens of a clip, M keys a token sees, D hidden size, H query heads, K head dim.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.timing import measure
from model.operations import transformer_flops
from model.packed_linear import quantise_rows
from model.packing import SequenceLayout
from model.transformer_config import TransformerConfig

_COPY_BYTES = {"cpu": 2**27, "cuda": 2**32}
_MATRIX_SIDE = {"cpu": 1024, "cuda": 8192}


@dataclass(frozen=True)
class Rates:
    """What a machine does at best, measured.

    Attributes:
        copy_gb_per_s: bytes read and written by a large copy.
        matrix_tflops: of a large square product, 10**12 operations per second by precision.
    """

    copy_gb_per_s: float
    matrix_tflops: dict[str, float]

    def floor_s(self, num_bytes: float, **flops: float) -> float:
        """The longer of two: all bytes at the copy bandwidth, or operations by precision, one after the other."""
        products_s = sum(count / (self.matrix_tflops[precision] * 1e12) for precision, count in flops.items())
        return max(num_bytes / (self.copy_gb_per_s * 1e9), products_s)

    def describe(self) -> dict[str, Any]:
        """For the record."""
        return asdict(self)


def measure_rates(device: torch.device, dtype: torch.dtype) -> Rates:
    """Measure a device, in the dtype that plain products are computed in and in 8-bit floats where it has them."""
    source = torch.ones(_COPY_BYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = measure(partial(target.copy_, source), device, num_repeats=5)
    del source, target
    side = _MATRIX_SIDE[device.type]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    ways: dict[str, Callable[[], Tensor]] = {"bf16" if dtype == torch.bfloat16 else "fp32": lambda: a @ b}
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9):
        (a8, scale_a), (b8, scale_b) = quantise_rows(a), quantise_rows(b)
        ways["fp8"] = lambda: torch._scaled_mm(
            a8, b8.t(), scale_a, scale_b.t(), out_dtype=torch.bfloat16, use_fast_accum=True
        )
    rates = {name: 2 * side**3 / measure(run, device, 9).seconds / 1e12 for name, run in ways.items()}
    return Rates(2 * _COPY_BYTES[device.type] / copy.seconds / 1e9, rates)


def weight_bytes(module: nn.Module) -> int:
    """Bytes of a network's weights."""
    return sum(tensor.nbytes for tensor in module.state_dict().values())


def transformer_floor_s(
    config: TransformerConfig, layout: SequenceLayout, weights: int, rates: Rates, precision: str
) -> float:
    """Floor of one forward pass.

    Args:
        config: the Transformer.
        layout: the clip.
        weights: bytes of its weights, read once.
        rates: of the machine.
        precision: of the linear layers; attention is never in 8-bit floats.
    """
    linear, attention = transformer_flops(config, layout)
    plain = next(name for name in rates.matrix_tflops if name != "fp8")
    if precision == "fp8":
        return rates.floor_s(weights, fp8=linear, **{plain: attention})
    return rates.floor_s(weights, **{plain: linear + attention})


def network_floor_s(run: Callable[[], Any], network: nn.Module, itemsize: int, rates: Rates) -> float:
    """Floor of a convolutional network: its products, or the inputs and outputs of its convolutions.

    Args:
        run: runs it; on the meta device it costs nothing.
        network: whose convolutions are counted.
        itemsize: bytes per number.
        rates: of the machine.
    """
    num_elements = 0

    def count(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal num_elements
        num_elements += inputs[0].numel() + output.numel()

    convolutions = [
        m for m in network.modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d)
    ]
    hooks = [module.register_forward_hook(count) for module in convolutions]
    with FlopCounterMode(display=False) as counter:
        run()
    for hook in hooks:
        hook.remove()
    plain = next(name for name in rates.matrix_tflops if name != "fp8")
    return rates.floor_s(num_elements * itemsize, **{plain: counter.get_total_flops()})
