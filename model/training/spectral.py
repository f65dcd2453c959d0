"""How far apart two sounds are to the ear: spectra at several resolutions, and the mel scale.

Legend: B sounds, S samples, M mel bands, W windows of the transform, Q frequencies.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_FLOOR = 3e-3
"""Of magnitudes, in units of a sound's amplitude: what is 50 dB below full scale is silence."""
_WINDOW_SIZES = (256, 512, 1024, 2048)


def _transform(sound_BS: Tensor, hann: Tensor) -> Tensor:
    """Complex spectra (B, Q, W) whose magnitudes do not grow with the window."""
    window = len(hann)
    return torch.stft(sound_BS, window, window // 4, window=hann, normalized=True, return_complex=True)


class MelSpectrogram(nn.Module):
    """Logarithm of the energy in mel bands.

    Args:
        sample_rate_hz: of the sound.
        num_bands: M.
        window: samples per window; a quarter of it is the step.
        highest_hz: upper end of the last band.
    """

    filters: Tensor
    hann: Tensor

    def __init__(self, sample_rate_hz: int, num_bands: int = 64, window: int = 2048, highest_hz: float = 11_800.0):
        super().__init__()
        from transformers.audio_utils import mel_filter_bank

        filters_QM = mel_filter_bank(window // 2 + 1, num_bands, 40.0, highest_hz, sample_rate_hz, mel_scale="htk")
        self.window = window
        self.register_buffer("filters", torch.from_numpy(filters_QM).float())
        self.register_buffer("hann", torch.hann_window(window))

    def forward(self, sound_BS: Tensor) -> Tensor:
        """(B, S) -> (B, M, S // (window / 4) + 1), natural logarithm."""
        spectrum = _transform(sound_BS, self.hann)
        return (spectrum.abs().transpose(1, 2) @ self.filters + _FLOOR).log().transpose(1, 2)


class SpectralDistance(nn.Module):
    """Mean distance of two sounds' spectra over several window sizes and on the mel scale.

    Each size counts the distance of magnitudes relative to the target's (spectral convergence) and that of logarithms
    (source of the form: Parallel WaveGAN, arXiv 1910.11480).

    Args:
        sample_rate_hz: of both.
        window_sizes: samples per window.
        highest_hz: what lies above counts for nothing.
    """

    def __init__(self, sample_rate_hz: int, window_sizes: Sequence[int] = _WINDOW_SIZES, highest_hz: float = 11_800.0):
        super().__init__()
        self.sample_rate_hz, self.highest_hz, self.window_sizes = sample_rate_hz, highest_hz, tuple(window_sizes)
        self.mel = MelSpectrogram(sample_rate_hz, highest_hz=highest_hz)

    def _magnitudes(self, sound_BS: Tensor, window: int) -> Tensor:
        spectrum_BQW = _transform(sound_BS, torch.hann_window(window, device=sound_BS.device))
        return spectrum_BQW[:, : int(self.highest_hz * window / self.sample_rate_hz)].abs()

    def forward(self, made_BS: Tensor, target_BS: Tensor) -> Tensor:
        """Two times (B, S) -> a number."""
        total = F.l1_loss(self.mel(made_BS), self.mel(target_BS))
        for window in self.window_sizes:
            made, target = self._magnitudes(made_BS, window), self._magnitudes(target_BS, window)
            convergence = (made - target).norm() / target.norm().clamp(min=_FLOOR)
            logarithms = F.l1_loss((made + _FLOOR).log(), (target + _FLOOR).log())
            total = total + (convergence + 0.5 * logarithms) / len(self.window_sizes)
        return total
