"""Pictures for tests of what takes planes."""

import numpy as np
import torch

from model.colour import to_yuv420p


def as_planes(frames_FYX3: np.ndarray) -> np.ndarray:
    """(F, Y, X, 3) uint8, red green blue -> (F, 3Y/2, X) uint8, as the muxer takes it."""
    # Half a level above, so that truncation gives the levels back.
    pixels_3FYX = (torch.from_numpy(frames_FYX3.copy()).permute(3, 0, 1, 2).float() + 0.5) / 127.5 - 1
    return to_yuv420p(pixels_3FYX).numpy()
