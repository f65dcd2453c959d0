"""Sound: the Oobleck autoencoder of Stable Audio Open 1.0, and the change of rate to 44.1 kHz.

Tensor legend: B batch, C channels, A audio latents (25 per second), S samples.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderOobleck
from diffusers.models.autoencoders.autoencoder_oobleck import OobleckDecoder, OobleckEncoder
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import remove_weight_norm

from model.geometry import (
    AUDIO_LATENT_RATE_HZ,
    MODEL_SAMPLE_RATE_HZ,
    OUTPUT_SAMPLE_RATE_HZ,
    SAMPLES_PER_AUDIO_LATENT,
)
from model.oobleck import (
    CHECKPOINT_PREFIX,
    OobleckConfig,
    empty_oobleck,
    is_activation,
    oobleck_original_names,
)

# Long recordings are encoded in windows that overlap by half (release: 29 s of 51.2 kHz).
ENCODE_WINDOW_LATENTS = 29 * AUDIO_LATENT_RATE_HZ
ENCODE_WINDOW_SAMPLES = ENCODE_WINDOW_LATENTS * SAMPLES_PER_AUDIO_LATENT


def convert_oobleck_state_dict(state_dict: Mapping[str, Tensor], vae: AutoencoderOobleck) -> dict[str, Tensor]:
    """Rename Stable Audio's tensors to those of `vae`; names that are diffusers' already pass unchanged.

    Args:
        state_dict: original names, with or without the prefix `pretransform.model.`; where that prefix occurs, the
            tensors without it belong to other models of the same file and are left out.
        vae: what `empty_oobleck` gives; weights may lie on the meta device.

    Returns:
        Every tensor of `vae`, views of the given ones: the activations' alpha and beta get the shape (1, C, 1).

    Raises:
        ValueError: tensors are missing, unknown or of another shape.
    """
    expected = {name: tensor.shape for name, tensor in vae.state_dict().items()}
    given = {
        name.removeprefix(CHECKPOINT_PREFIX): tensor
        for name, tensor in state_dict.items()
        if name.startswith(CHECKPOINT_PREFIX)
    } or dict(state_dict)
    is_converted = "encoder.conv1.weight_g" in given
    source = {name: name for name in expected} if is_converted else oobleck_original_names(vae)
    missing = sorted(set(source.values()) - given.keys())
    unexpected = sorted(given.keys() - set(source.values()))
    if missing or unexpected:
        raise ValueError(
            f"audio checkpoint lacks {len(missing)} tensors, first: {missing[:3]}, "
            f"and holds {len(unexpected)} unknown ones, first: {unexpected[:3]}"
        )
    converted = {}
    for name, original in source.items():
        tensor = given[original]
        if is_activation(name):
            tensor = tensor.reshape(1, -1, 1)
        if tensor.shape != expected[name]:
            raise ValueError(f"{original} must have the shape {tuple(expected[name])}, got {tuple(tensor.shape)}")
        converted[name] = tensor
    return converted


def load_audio_vae(model_config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> AutoencoderOobleck:
    """The autoencoder with its weights in float32, the precision of the release.

    Args:
        model_config: Stable Audio's or diffusers' file, see `OobleckConfig.from_json`.
        state_dict: see `convert_oobleck_state_dict`.

    Raises:
        ValueError: config or weights do not fit.
    """
    vae = empty_oobleck(OobleckConfig.from_json(model_config))
    converted = convert_oobleck_state_dict(state_dict, vae)
    vae.load_state_dict({name: tensor.float() for name, tensor in converted.items()}, strict=True, assign=True)
    return fold_weight_norm(vae).requires_grad_(False)


def fold_weight_norm(vae: AutoencoderOobleck) -> AutoencoderOobleck:
    """Compute the product of direction and length of every weight once, instead of in every forward pass."""
    for module in vae.modules():
        if hasattr(module, "weight_g"):
            remove_weight_norm(module)
    return vae


class AudioDecoder:
    """Latents to the waveform of the finished clip. Holds the decoder half only."""

    def __init__(self, decoder: OobleckDecoder) -> None:
        """Take `load_audio_vae(...).decoder`, on the device where decoding shall run."""
        self._decoder = decoder

    @torch.no_grad()
    def decode_at_model_rate(self, latent_1AC: Tensor) -> Tensor:
        """(1, A, 64) -> (2, 2048 A) float32 at 51.2 kHz, not clamped."""
        channels = self._decoder.conv1.in_channels
        if latent_1AC.ndim != 3 or latent_1AC.shape[::2] != (1, channels) or not latent_1AC.shape[1]:
            raise ValueError(f"latent must be (1, A, {channels}), got {tuple(latent_1AC.shape)}")
        return self._decoder(latent_1AC.float().transpose(1, 2))[0]

    def decode(self, latent_1AC: Tensor) -> Tensor:
        """Decode a clip's audio.

        Args:
            latent_1AC: (1, A, 64), on the decoder's device.

        Returns:
            (2, 1764 A) float32 at 44.1 kHz, not clamped.

        Raises:
            ValueError: the latent is not of that shape.
        """
        waveform_2S = self.decode_at_model_rate(latent_1AC)
        num_samples = waveform_2S.shape[1] * OUTPUT_SAMPLE_RATE_HZ // MODEL_SAMPLE_RATE_HZ
        return resample_fourier(waveform_2S, num_samples)


class AudioEncoder:
    """Waveform to latents, for clips driven by a given recording. Holds the encoder half only."""

    def __init__(self, encoder: OobleckEncoder) -> None:
        """Take `load_audio_vae(...).encoder`, on the device where encoding shall run."""
        self._encoder = encoder

    @torch.no_grad()
    def encode_mean_and_scale(self, waveform_2S: Tensor) -> Tensor:
        """(2, S) at 51.2 kHz -> (1, 128, floor(S / 2048)): mean, then the scale before its softplus."""
        return self._encoder(waveform_2S.float().unsqueeze(0))

    @torch.no_grad()
    def encode(self, waveform_2S: Tensor, generator: torch.Generator) -> Tensor:
        """Draw a latent for a recording.

        Up to 29 s it is encoded in one piece to floor(S / 2048) latents: every stride is even, so the convolutions'
        own padding rounds down. Longer ones go through windows of 29 s that start every 14.5 s, the last filled with
        silence, cross-faded and cut to ceil(S / 2048) latents.

        Args:
            waveform_2S: (2, S) at 51.2 kHz on the encoder's device, at least 2048 samples; mono comes duplicated.
            generator: source of the noise, on any device; drawn window by window.

        Returns:
            (1, A, 64) float32.

        Raises:
            ValueError: the waveform is not stereo or shorter than one latent.
        """
        if waveform_2S.ndim != 2 or waveform_2S.shape[0] != 2 or waveform_2S.shape[1] < SAMPLES_PER_AUDIO_LATENT:
            raise ValueError(
                f"waveform must be (2, at least {SAMPLES_PER_AUDIO_LATENT}), got {tuple(waveform_2S.shape)}"
            )
        num_samples = waveform_2S.shape[1]
        if num_samples <= ENCODE_WINDOW_SAMPLES:
            return self._draw(waveform_2S, generator)
        windows = []
        for start in range(0, num_samples, ENCODE_WINDOW_SAMPLES // 2):
            window_2S = waveform_2S[:, start : start + ENCODE_WINDOW_SAMPLES]
            window_2S = F.pad(window_2S, (0, ENCODE_WINDOW_SAMPLES - window_2S.shape[1]))
            windows.append(self._draw(window_2S, generator))
            if start + ENCODE_WINDOW_SAMPLES >= num_samples:
                break
        return cross_fade(windows)[:, : math.ceil(num_samples / SAMPLES_PER_AUDIO_LATENT)]

    def _draw(self, waveform_2S: Tensor, generator: torch.Generator) -> Tensor:
        mean_1CA, scale_1CA = self.encode_mean_and_scale(waveform_2S).chunk(2, dim=1)
        noise_1CA = torch.randn(mean_1CA.shape, generator=generator, device=generator.device).to(mean_1CA.device)
        # Stable Audio's bottleneck: the floor keeps the deviation above zero.
        return (noise_1CA * (F.softplus(scale_1CA) + 1e-4) + mean_1CA).transpose(1, 2)


def cross_fade(windows_1AC: list[Tensor]) -> Tensor:
    """Join windows of A latents, each overlapping its predecessor by floor(A / 2), with linear weights.

    An odd A makes the step half a latent longer than half a window; the release does the same.
    """
    num_latents = windows_1AC[0].shape[1]
    overlap = num_latents // 2
    step = num_latents - overlap
    rise_A1 = (torch.arange(overlap, dtype=torch.float64) / overlap).to(windows_1AC[0]).unsqueeze(1)
    joined = windows_1AC[0]
    for index, window in enumerate(windows_1AC[1:], start=1):
        faded = joined[:, index * step :] * (1 - rise_A1) + window[:, :overlap] * rise_A1
        joined = torch.cat((joined[:, : index * step], faded, window[:, overlap:]), dim=1)
    return joined


def resample_fourier(waveform_CS: Tensor, num_samples: int) -> Tensor:
    """Change the number of samples over the whole length at once, by cutting the spectrum.

    The same numbers as `scipy.signal.resample` for real input and fewer samples, but on any device.

    Raises:
        ValueError: `num_samples` is below 1 or not below the given number.
    """
    num_given = waveform_CS.shape[-1]
    if not 1 <= num_samples < num_given:
        raise ValueError(f"num_samples must be in 1..{num_given - 1}, got {num_samples}")
    spectrum = torch.fft.rfft(waveform_CS)[..., : num_samples // 2 + 1]
    if num_samples % 2 == 0:
        # The new Nyquist bin takes the energy of its positive and its negative frequency.
        spectrum[..., -1] *= 2
    return torch.fft.irfft(spectrum, n=num_samples) * (num_samples / num_given)
