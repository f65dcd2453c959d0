"""Noise levels of the samplers, and diffusers' UniPC stepper set up for them.

Source: the public release; the tables are recorded in `tests/golden/schedules.safetensors`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from diffusers import UniPCMultistepScheduler

NUM_TRAIN_TIMESTEPS = 1000

Levels = TypeVar("Levels", Tensor, np.ndarray)


def flow_sigmas(num_steps: int, shift: float) -> tuple[Tensor, Tensor]:
    """Noise levels of a flow-matching sampler.

    Args:
        num_steps: denoising steps, at least 1.
        shift: more than 1 spends more steps at high noise (the release: 5).

    Returns:
        sigmas (num_steps + 1,) float32 from about 1 to 0, and timesteps (num_steps,) int64 out of 1000.
    """
    if not 1 <= num_steps <= NUM_TRAIN_TIMESTEPS:
        raise ValueError(f"num_steps must be between 1 and {NUM_TRAIN_TIMESTEPS}, got {num_steps}")
    # The highest level is rounded to float32 before it is shifted, as the release does.
    highest = np.float32(1 - 1 / NUM_TRAIN_TIMESTEPS).item()
    levels = np.linspace(highest, 0.0, num_steps + 1)[:-1]
    levels = shift_levels(levels, shift)
    timesteps = torch.from_numpy((levels * NUM_TRAIN_TIMESTEPS).astype(np.int64))
    return torch.from_numpy(np.append(levels, 0.0).astype(np.float32)), timesteps


def shift_levels(levels: Levels, shift: float) -> Levels:
    """Move noise levels from 0 to 1 towards 1, by a shift of more than 1."""
    return shift * levels / (1 + (shift - 1) * levels)


def zero_snr_levels() -> Tensor:
    """Signal levels of a zero-terminal-SNR diffusion with 1000 steps, scaled linearly in sqrt(beta), 8.5e-4 to 1.2e-2.

    Returns:
        (1000,) float32, falling entries are noisier: entry 0 is nearly clean, the last is pure noise.
    """
    betas = torch.linspace(0.00085**0.5, 0.0120**0.5, NUM_TRAIN_TIMESTEPS, dtype=torch.float64).square()
    levels = torch.from_numpy(np.cumprod(1 - betas.numpy())).to(torch.float32).sqrt()
    first, last = levels[0].clone(), levels[-1].clone()
    return (levels - last) * (first / (first - last))


def unipc_stepper(num_steps: int, shift: float) -> UniPCMultistepScheduler:
    """UniPC of order 2 (bh2, predicts the clean sample) with the release's sigmas, which differ from diffusers' own."""
    from diffusers import (
        UniPCMultistepScheduler,  # takes seconds to import, and the distilled sampler has no use for it
    )

    stepper = UniPCMultistepScheduler(
        num_train_timesteps=NUM_TRAIN_TIMESTEPS,
        solver_order=2,
        solver_type="bh2",
        predict_x0=True,
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        lower_order_final=True,
        final_sigmas_type="zero",
    )
    stepper.set_timesteps(num_steps)
    stepper.sigmas, stepper.timesteps = flow_sigmas(num_steps, shift)
    stepper.set_begin_index(0)
    return stepper
