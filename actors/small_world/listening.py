"""Which word of the small world a sound is: the nearest of all words as espeak-ng says them.

Legend: S audio samples, K references, P moments of a word, M mel bands.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from actors.media import resample
from actors.small_world.looks import PERSONS
from actors.small_world.speech import PITCH, SPEED_WPM, speak
from actors.small_world.vocabulary import WORDS, Word
from model.geometry import MODEL_SAMPLE_RATE_HZ
from model.training.spectral import MelSpectrogram

SAMPLE_RATE_HZ = 16_000
"""Of the sounds that are compared; recognisers of speech want the same."""

_NUM_MOMENTS = 32
_NUM_BANDS = 40
_STEP = SAMPLE_RATE_HZ // 100
_LOUDEST = 0.7
_SHARE_OF_PEAK = 0.06
_TIMES_NOISE = 2.5
_MOST_FOR_NOISE = 0.2
_SILENT_SAMPLES = SAMPLE_RATE_HZ // 10
_LEAST_RMS = 1e-3
# Above the noise that a learnt codec leaves: under noise of 0.02 the floor of 0.003 alone hears 94 % of the words, this
# one 97 %; clean ones are heard as well.
_LOG_FLOOR = float(np.log(0.1))
_LENGTH_WEIGHT = 1.5

# The clips' own speed and pitch and others; one of which there is no reference tells how well other voices are heard.
_REFERENCE_SPEEDS_WPM, _REFERENCE_PITCHES = (SPEED_WPM, 180), (40, PITCH)
_UNSEEN_SPEED_WPM, _UNSEEN_PITCH = 172, 47


def trim(samples_S: np.ndarray) -> np.ndarray | None:
    """The word without the silence around it, its loudest sample at 0.7.

    Args:
        samples_S: float32 at 16 kHz, possibly with noise that goes on through the silence.

    Returns:
        (S,) float32, or None where there is nothing but silence.
    """
    num_steps = len(samples_S) // _STEP
    rms = np.sqrt((samples_S[: num_steps * _STEP].reshape(num_steps, _STEP) ** 2).mean(axis=1))
    if not num_steps or rms.max() < _LEAST_RMS:
        return None
    noise = min(_TIMES_NOISE * float(np.percentile(rms, 5)), _MOST_FOR_NOISE * float(rms.max()))
    loud = np.flatnonzero(rms > max(_SHARE_OF_PEAK * float(rms.max()), noise))
    word_S = samples_S[loud[0] * _STEP : (loud[-1] + 1) * _STEP]
    return (word_S * (_LOUDEST / np.abs(word_S).max())).astype(np.float32)


@dataclass(frozen=True)
class Heard:
    """What a sound was taken for.

    Attributes:
        word: the nearest one.
        distance: to its nearest reference; other renderings of the same word are 0.3 to 1.5 away.
        margin: how much further the nearest other word is.
    """

    word: Word
    distance: float
    margin: float


class WordRecogniser:
    """Compares log-mel spectra, each stretched to the same number of moments, and lengths.

    Args:
        words: of every reference.
        sounds: of every reference, (S,) float32 at 16 kHz.
    """

    def __init__(self, words: Sequence[Word], sounds: Sequence[np.ndarray]):
        self.words = tuple(words)
        self._mel = MelSpectrogram(SAMPLE_RATE_HZ, _NUM_BANDS, window=512, highest_hz=7600.0)
        features = [self._features(sound) for sound in sounds]
        silent = [word.name for word, feature in zip(words, features, strict=True) if feature is None]
        if silent:
            raise ValueError(f"sounds must not be silent, got silence for {silent[0]}")
        self._spectra_KD = np.stack([feature[0] for feature in features if feature])
        self._log_lengths_K = np.array([feature[1] for feature in features if feature])
        self._squares_K = (self._spectra_KD**2).sum(axis=1)
        self._names_K = np.array([word.name for word in self.words])

    @classmethod
    def of_small_world(cls, num_threads: int) -> WordRecogniser:
        """References of all words by every voice that training clips have.

        Args:
            num_threads: how many times espeak-ng runs at once.

        Raises:
            SpeechError: if espeak-ng cannot be run.
        """
        references = speak_references(num_threads)
        return cls([word for word, _ in references], [sound for _, sound in references])

    def hear(self, samples_S: np.ndarray) -> Heard | None:
        """The word that a sound at 16 kHz is nearest to, or None where there is silence."""
        features = self._features(samples_S)
        if features is None:
            return None
        spectrum_D, log_length = features
        squares_K = self._squares_K + spectrum_D @ spectrum_D - 2 * self._spectra_KD @ spectrum_D
        distances_K = np.sqrt(np.maximum(squares_K, 0) / _NUM_MOMENTS)
        distances_K = distances_K + _LENGTH_WEIGHT * np.abs(self._log_lengths_K - log_length)
        best = int(distances_K.argmin())
        others = distances_K[self._names_K != self._names_K[best]]
        margin = float(others.min() - distances_K[best]) if len(others) else float("inf")
        return Heard(self.words[best], float(distances_K[best]), margin)

    def _features(self, samples_S: np.ndarray) -> tuple[np.ndarray, float] | None:
        """Spectrum (P * M,) and logarithm of the length."""
        word_S = trim(samples_S)
        if word_S is None:
            return None
        with torch.inference_mode():
            mel_TM = self._mel(torch.from_numpy(np.pad(word_S, (0, max(0, 512 - len(word_S)))))[None])[0].T.numpy()
        mel_TM = np.logaddexp(mel_TM, _LOG_FLOOR)
        moments_P = np.linspace(0, len(mel_TM) - 1, _NUM_MOMENTS)
        before_P = np.minimum(moments_P.astype(int), len(mel_TM) - 2)
        share_P1 = (moments_P - before_P)[:, None]
        mel_PM = mel_TM[before_P] * (1 - share_P1) + mel_TM[before_P + 1] * share_P1
        return mel_PM.astype(np.float32).ravel(), float(np.log(len(word_S)))


@dataclass(frozen=True)
class UnseenVoice:
    """How words of espeak-ng are heard in a voice that is not among the references.

    Clips of the small world speak in one that is: they can do better.

    Attributes:
        word_accuracy: language code to the share of words heard rightly.
        language_accuracy: the same for the language of the word heard.
        confused: (word said, word heard) of every mistake, without repetition.
    """

    word_accuracy: dict[str, float]
    language_accuracy: dict[str, float]
    confused: list[tuple[str, str]]


def hear_unseen_voice(recogniser: WordRecogniser, num_threads: int) -> UnseenVoice:
    """Let the recogniser hear every word at a speed and pitch of which it has no reference.

    Raises:
        SpeechError: if espeak-ng cannot be run.
    """
    spoken = [(word, person, _UNSEEN_SPEED_WPM, _UNSEEN_PITCH) for word in WORDS for person in PERSONS]
    rights: dict[str, list[tuple[bool, bool]]] = {}
    confused = set()
    for (word, *_), sound in zip(spoken, _speak_all(spoken, num_threads), strict=True):
        heard = recogniser.hear(sound)
        assert heard is not None, word
        right = (heard.word.name == word.name, heard.word.language == word.language)
        rights.setdefault(word.language, []).append(right)
        if not right[0]:
            confused.add((word.name, heard.word.name))
    shares = {key: np.mean(values, axis=0) for key, values in rights.items()}
    return UnseenVoice(
        {key: float(share[0]) for key, share in shares.items()},
        {key: float(share[1]) for key, share in shares.items()},
        sorted(confused),
    )


def speak_references(num_threads: int) -> list[tuple[Word, np.ndarray]]:
    """All words by women and men at every speed and pitch of the references, (S,) float32 at 16 kHz.

    Raises:
        SpeechError: if espeak-ng cannot be run.
    """
    spoken = list(itertools.product(WORDS, PERSONS, _REFERENCE_SPEEDS_WPM, _REFERENCE_PITCHES))
    return list(zip([word for word, *_ in spoken], _speak_all(spoken, num_threads), strict=True))


def _speak_all(spoken: Iterable[tuple[Word, str, int, int]], num_threads: int) -> list[np.ndarray]:
    def one(voice: tuple[Word, str, int, int]) -> np.ndarray:
        # As in a clip, there is silence around the word: `trim` tells noise by it.
        return np.pad(resample(speak(*voice), MODEL_SAMPLE_RATE_HZ, SAMPLE_RATE_HZ), _SILENT_SAMPLES)

    with ThreadPoolExecutor(num_threads) as pool:
        return list(pool.map(one, spoken))
