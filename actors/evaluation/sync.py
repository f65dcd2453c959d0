"""How well a mouth follows a sound.

Legend: F frames.
"""

from __future__ import annotations

import numpy as np

MAX_LAG_FRAMES = 6
_LEAST_FRAMES = 10
# An RMS of 0.028, which a learnt codec's noise does not reach.
_LEAST_OPENING = 0.25


def correlation(mouth_F: np.ndarray, sound_F: np.ndarray) -> float:
    """Pearson's correlation over the frames that both have; 0 where one of them never changes.

    Args:
        mouth_F: opening of the mouth.
        sound_F: how far the sound would open it.
    """
    length = min(len(mouth_F), len(sound_F))
    mouth_F, sound_F = mouth_F[:length] - mouth_F[:length].mean(), sound_F[:length] - sound_F[:length].mean()
    spread = float(np.sqrt((mouth_F**2).sum() * (sound_F**2).sum()))
    return float((mouth_F * sound_F).sum()) / spread if spread > 1e-6 else 0.0


def best_lag(mouth_F: np.ndarray, sound_F: np.ndarray) -> int | None:
    """By how many frames the mouth is late, early if negative, where it follows the sound best.

    Args:
        mouth_F: opening of the mouth.
        sound_F: how far the sound would open it.

    Returns:
        -6 to 6; the smallest of equally good ones; None for less than 10 frames, or where nothing correlates.
    """
    length = min(len(mouth_F), len(sound_F))
    best: tuple[float, int] | None = None
    for lag in sorted(range(-MAX_LAG_FRAMES, MAX_LAG_FRAMES + 1), key=abs):
        mouth, sound = mouth_F[max(lag, 0) : length + min(lag, 0)], sound_F[max(-lag, 0) : length - max(lag, 0)]
        if len(mouth) >= _LEAST_FRAMES and (value := correlation(mouth, sound)) > (best[0] if best else 0.0):
            best = value, lag
    return best[1] if best else None


def onset(sound_F: np.ndarray) -> int | None:
    """The first frame in which a sound opens a mouth by a quarter; None where none does.

    Args:
        sound_F: how far the sound would open a mouth, 0 to 1.
    """
    loud = np.flatnonzero(sound_F > _LEAST_OPENING)
    return int(loud[0]) if len(loud) else None
