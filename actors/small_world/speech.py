"""The voices of the small world: espeak-ng, and how far its sound opens a mouth.

Legend: S audio samples, F frames.
"""

from __future__ import annotations

import subprocess
from functools import lru_cache

import numpy as np

from actors.media import read_waveform
from actors.small_world.vocabulary import ESPEAK_VOICES, Word
from model.geometry import MODEL_SAMPLE_RATE_HZ, SAMPLES_PER_AUDIO_LATENT

VOICE_VARIANTS = {"woman": "f2", "man": "m3"}
SPEED_WPM, PITCH = 165, 55
"""Of everyone in the small world."""
_SILENCE = 0.01


class SpeechError(RuntimeError):
    """espeak-ng is absent or failed."""


@lru_cache(maxsize=4096)
def speak(word: Word, person: str, speed_wpm: int, pitch: int) -> np.ndarray:
    """Say a word; silence before and behind is cut off.

    Args:
        word: what.
        person: "woman" or "man".
        speed_wpm: words per minute, 80 to 450.
        pitch: 0 to 99.

    Returns:
        (S,) float32 at 51.2 kHz, its loudest sample 0.7; do not change it.

    Raises:
        SpeechError: if espeak-ng cannot be run.
    """
    voice = f"{ESPEAK_VOICES[word.language]}+{VOICE_VARIANTS[person]}"
    command = ["espeak-ng", "-v", voice, "-s", str(speed_wpm), "-p", str(pitch), "--stdout", word.spoken]
    try:
        wav = subprocess.run(command, capture_output=True, check=True).stdout
    except FileNotFoundError as error:
        raise SpeechError("espeak-ng is not installed; on Debian: apt-get install espeak-ng") from error
    except subprocess.CalledProcessError as error:
        raise SpeechError(f"espeak-ng failed: {error.stderr.decode(errors='replace').strip()}") from error
    samples = read_waveform(wav, MODEL_SAMPLE_RATE_HZ)
    loud = np.flatnonzero(np.abs(samples) > _SILENCE * np.abs(samples).max())
    if not len(loud):
        raise SpeechError(f"espeak-ng says nothing for {word.spoken!r}")
    samples = samples[loud[0] : loud[-1] + 1]
    return samples * np.float32(0.7 / np.abs(samples).max())


def place(samples_S: np.ndarray, onset_frame: int, num_frames: int) -> np.ndarray:
    """Put speech into silence.

    Args:
        samples_S: at 51.2 kHz.
        onset_frame: where it begins, in frames of 1/25 s.
        num_frames: length of the result.

    Returns:
        (num_frames * 2048,) float32; what does not fit is cut off.
    """
    placed = np.zeros(num_frames * SAMPLES_PER_AUDIO_LATENT, np.float32)
    start = onset_frame * SAMPLES_PER_AUDIO_LATENT
    fitting = samples_S[: len(placed) - start]
    placed[start : start + len(fitting)] = fitting
    return placed


def mouth_shapes(samples_S: np.ndarray) -> np.ndarray:
    """How the mouth follows a sound: open as far as it is loud, wide as far as it is bright.

    Args:
        samples_S: whole frames at 51.2 kHz.

    Returns:
        (F, 2) float32: opening and width, 0 to 1.
    """
    frames = samples_S.reshape(-1, SAMPLES_PER_AUDIO_LATENT)
    loudness = np.sqrt((frames**2).mean(axis=1))
    spectrum = np.abs(np.fft.rfft(frames * np.hanning(frames.shape[1]), axis=1))[:, : int(4000 / 25)]
    hertz = np.arange(spectrum.shape[1]) * 25
    brightness = (spectrum * hertz).sum(axis=1) / (spectrum.sum(axis=1) + 1e-3)
    opening = np.clip(loudness / 0.2, 0, 1) ** 0.7
    width = np.clip((brightness - 300) / 1500, 0, 1) * (opening > 0.05)
    return np.stack([opening, width], axis=1).astype(np.float32)
