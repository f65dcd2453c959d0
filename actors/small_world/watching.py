"""What a picture of the small world shows: the colours of its parts, and how far its mouth is open.

Places are those of `faces`: units of the head's height around its centre, and heads move by 0.09 at most.

Legend: F frames, Y X pixel rows and columns, N pixels, P colours of a palette.
"""

from __future__ import annotations

import numpy as np

from actors.small_world.faces import INSIDE, head_frame
from actors.small_world.looks import PALETTES

Box = tuple[float, float, float, float]
"""Left, right, top, bottom."""

# Where a part shows in every look and at every moment: hair above the forehead; skin between mouth, nose, beard and
# glasses; the shirt below long hair and its collar; the wall beside the longest hair and above the shoulders.
_PLACES: dict[str, tuple[Box, ...]] = {
    "hair": ((-0.2, 0.2, -0.42, -0.24),),
    "skin": ((-0.2, -0.06, 0.13, 0.22), (0.06, 0.2, 0.13, 0.22)),
    "shirt": ((-0.5, 0.5, 0.75, 0.9),),
    "wall": ((-0.9, -0.6, -0.6, 0.25), (0.6, 0.9, -0.6, 0.25)),
}
_MOUTH: Box = (-0.2, 0.2, 0.05, 0.54)
_MOUTH_REACH = 40.0
_PALETTE_REACH = 30.0


def see_colours(frames_FYX3: np.ndarray) -> dict[str, str]:
    """Name the colour of every part of a look: of its palette, the one that most pixels of its place come close to.

    Pixels count by how close they come, in all frames. A blurred edge, such as that of glasses on a small head, mixes
    skin with ink into colours between two skins: the median, or the nearest name of each pixel, says the darker one.

    Args:
        frames_FYX3: (F, Y, X, 3) uint8, of any size.

    Returns:
        Part ("hair", "skin", "shirt", "wall") to a name of its palette.
    """
    seen = {}
    for part in PALETTES:
        pixels_N3 = np.concatenate([_cut(frames_FYX3, box).reshape(-1, 3) for box in _PLACES[part]])
        palette_P3 = np.array(list(PALETTES[part].values()), np.float64)
        squares_NP = ((pixels_N3[:, None] - palette_P3) ** 2).sum(axis=-1)
        counts_P = np.exp(-squares_NP / _PALETTE_REACH**2).sum(axis=0)
        seen[part] = list(PALETTES[part])[counts_P.argmax()]
    return seen


def mouth_openings(frames_FYX3: np.ndarray) -> np.ndarray:
    """How high the inside of the mouth is in every frame, wherever in its place the head has moved it.

    A pixel counts by how near its colour is to the inside's, which no hair, skin or lip has; a row counts by its best
    pixel, so that the width of the mouth does not matter.

    Args:
        frames_FYX3: (F, Y, X, 3) uint8, of any size.

    Returns:
        (F,) float64, in units of the head's height.
    """
    mouth_FYX3 = _cut(frames_FYX3, _MOUTH).astype(np.float64)
    squares_FYX = ((mouth_FYX3 - np.array(INSIDE)) ** 2).sum(axis=-1)
    rows_FY = np.exp(-squares_FYX.min(axis=2) / _MOUTH_REACH**2)
    _, _, unit = head_frame(frames_FYX3.shape[2], frames_FYX3.shape[1])
    return rows_FY.sum(axis=1) / unit


def _cut(frames_FYX3: np.ndarray, box: Box) -> np.ndarray:
    height, width = frames_FYX3.shape[1:3]
    centre_x, centre_y, unit = head_frame(width, height)
    left, right = (min(max(round(centre_x + x * unit), 0), width) for x in box[:2])
    top, bottom = (min(max(round(centre_y + y * unit), 0), height) for y in box[2:])
    # At least one pixel, however small or wide the picture.
    left, top = min(left, width - 1), min(top, height - 1)
    return frames_FYX3[:, top : max(bottom, top + 1), left : max(right, left + 1)]
