"""How recordings of the original are compared; the limits are those under which they were recorded."""

import torch

FP32_LIMIT = 1e-4
BF16_FLOOR = 2e-2


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference over the norm of what is expected; shapes must agree."""
    assert actual.shape == expected.shape, f"{tuple(actual.shape)} != {tuple(expected.shape)}"
    return ((actual.double() - expected.double()).norm() / expected.double().norm()).item()


def bf16_limit(recorded_bf16: torch.Tensor, recorded_fp32: torch.Tensor) -> float:
    """A bf16 run is right where it strays from fp32 at most 1.5 times as far as the original's own bf16 run."""
    return max(1.5 * relative_error(recorded_bf16, recorded_fp32), BF16_FLOOR)
