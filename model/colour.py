"""Pixels to the planes that video encoders take: Y'CbCr of BT.709, limited range, 4:2:0.

Tensor legend: F frames, Y X pixel rows and columns, P = 3Y/2 rows of a frame's planes laid out one after the other:
luma takes Y rows; the blue and then the red colour difference, Y/2 rows of X/2 numbers, take Y/4 rows each.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Shares of red, green and blue in luma: ITU-R BT.709-6, item 3.2; MatrixCoefficients 1 of ITU-T H.273.
LUMA_RED, LUMA_BLUE = 0.2126, 0.0722
LUMA_GREEN = 1 - LUMA_RED - LUMA_BLUE
# Limited range in 8 bit (H.273, equations for VideoFullRangeFlag 0): luma 16 to 235, differences 16 to 240 about 128.
BLACK, LUMA_RANGE = 16, 219
NEUTRAL, DIFFERENCE_RANGE = 128, 224

ROWS_AT_ONCE = 272
"""Pixel rows converted at once, an even number: what a processor's cache holds takes two thirds of the time."""

# Per level of red, green and blue in 0..255.
_LUMA = tuple(LUMA_RANGE / 255 * share for share in (LUMA_RED, LUMA_GREEN, LUMA_BLUE))
_BLUE_DIFFERENCE = tuple(
    DIFFERENCE_RANGE / 255 * share / (2 * (1 - LUMA_BLUE)) for share in (-LUMA_RED, -LUMA_GREEN, 1 - LUMA_BLUE)
)
_RED_DIFFERENCE = tuple(
    DIFFERENCE_RANGE / 255 * share / (2 * (1 - LUMA_RED)) for share in (1 - LUMA_RED, -LUMA_GREEN, -LUMA_BLUE)
)


@torch.no_grad()
def to_yuv420p(pixels_3FYX: Tensor) -> Tensor:
    """Convert pictures to 8-bit planes, on the device where they are, in little memory beside them.

    Pixels are clamped and truncated to 8 bits first, as the release does: its pictures are what is converted. A colour
    difference stands between two rows and on the left of its two columns, where H.264 and H.265 expect it unless told
    otherwise (chroma_sample_loc_type 0): the mean over rows, weights 1 2 1 over columns, the first column repeated.

    Args:
        pixels_3FYX: (3, F, Y, X) in [-1, 1], any float dtype: red, green, blue; Y and X even.

    Returns:
        (F, 3Y/2, X) uint8, what FFmpeg calls yuv420p.

    Raises:
        ValueError: the pixels are not of that shape.
    """
    if pixels_3FYX.ndim != 4 or pixels_3FYX.shape[0] != 3 or pixels_3FYX.shape[2] % 2 or pixels_3FYX.shape[3] % 2:
        raise ValueError(f"pixels must be (3, F, Y, X), Y and X even, got {tuple(pixels_3FYX.shape)}")
    _, num_frames, height, width = pixels_3FYX.shape
    planes_FPX = torch.empty(num_frames, height * 3 // 2, width, dtype=torch.uint8, device=pixels_3FYX.device)
    for frame, planes_PX in enumerate(planes_FPX):
        luma_YX, differences_2YX = planes_PX[:height], planes_PX[height:].view(2, height // 2, width // 2)
        for top in range(0, height, ROWS_AT_ONCE):
            bottom = min(top + ROWS_AT_ONCE, height)
            rgb_3YX = pixels_3FYX[:, frame, top:bottom].to(torch.float32, copy=True)
            rgb_3YX.mul_(127.5).add_(127.5).clamp_(0, 255).floor_()
            luma_YX[top:bottom].copy_(_weighted(rgb_3YX, _LUMA, BLACK))
            # The mean before the matrix: the same numbers, for a quarter of the work. Eight pixels' weights in each.
            rows_3YX = rgb_3YX[:, 0::2] + rgb_3YX[:, 1::2]
            left, right = rows_3YX[..., 0::2], rows_3YX[..., 1::2]
            sums_3YX = right.add(left, alpha=2)
            sums_3YX[..., 1:] += right[..., :-1]
            sums_3YX[..., 0] += left[..., 0]
            for difference_YX, shares in zip(differences_2YX, (_BLUE_DIFFERENCE, _RED_DIFFERENCE), strict=True):
                weighted_YX = _weighted(sums_3YX, tuple(share / 8 for share in shares), NEUTRAL)
                difference_YX[top // 2 : bottom // 2].copy_(weighted_YX)
    return planes_FPX


def _weighted(rgb_3YX: Tensor, weights: Sequence[float], offset: int) -> Tensor:
    """A weighted sum plus an offset, half a level more so that truncation rounds.

    One operation per colour and no matrix product, which on a GPU may be told to round its factors to ten bits.
    """
    red, green, blue = rgb_3YX
    return (red * weights[0]).add_(green, alpha=weights[1]).add_(blue, alpha=weights[2]).add_(offset + 0.5)
