"""What recognisers of speech hear in clips, and how far that is from what was asked.

Legend: S audio samples at 16 kHz.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actors.small_world.listening import SAMPLE_RATE_HZ
from actors.small_world.vocabulary import CONCEPTS, WORDS

CHARACTER_LANGUAGES = frozenset({"zh", "yue", "ja", "ko"})
"""Languages judged by characters (CER); the others are judged by words (WER)."""

_NUM_DIGITS = 10
_DIGIT_WORDS: dict[tuple[str, str], str] = {
    (word.language, word.concept): word.line for word in WORDS if word.concept in CONCEPTS[:_NUM_DIGITS]
}
_SILENT_SAMPLES = SAMPLE_RATE_HZ // 5
_SECONDS_PER_PIECE = 30
_MOST_TOKENS = 200


def metric_name(language: str) -> str:
    """ "WER" or "CER"."""
    return "CER" if language in CHARACTER_LANGUAGES else "WER"


def normalise(text: str, language: str) -> str:
    """Text as it is compared: no case, no punctuation, digits as words; no spaces where characters count.

    Args:
        text: a line of dialogue, or what was heard.
        language: code; decides how a lone digit is said.
    """
    composed = unicodedata.normalize("NFKC", text).casefold()
    plain = "".join(" " if unicodedata.category(sign)[0] in "PSZC" else sign for sign in composed)
    words = [_DIGIT_WORDS.get((language, word), word).casefold() for word in plain.split()]
    return ("" if language in CHARACTER_LANGUAGES else " ").join(words)


def error_rate(asked: Sequence[str], heard: Sequence[str], language: str) -> float | None:
    """WER or CER of many clips together, 0 or more; None where nothing was asked.

    Args:
        asked: what each clip should say.
        heard: what was heard in it.
        language: code, the same for all.
    """
    import jiwer

    pairs = [(normalise(a, language), normalise(h, language)) for a, h in zip(asked, heard, strict=True)]
    if not (pairs := [pair for pair in pairs if pair[0]]):
        return None
    rate = jiwer.cer if language in CHARACTER_LANGUAGES else jiwer.wer
    return float(rate([reference for reference, _ in pairs], [hypothesis for _, hypothesis in pairs]))


class DigitRecogniser:
    """pocketsphinx with a grammar of the ten English digits; its wheel holds the model of English."""

    def __init__(self) -> None:
        from pocketsphinx import Decoder

        self.words = tuple(_DIGIT_WORDS["en", digit].casefold() for digit in CONCEPTS[:_NUM_DIGITS])
        self._decoder = Decoder(samprate=float(SAMPLE_RATE_HZ), lm=None, loglevel="FATAL")
        grammar = f"#JSGF V1.0;\ngrammar digits;\npublic <digit> = {' | '.join(self.words)} ;\n"
        self._decoder.add_jsgf_string("digits", grammar)
        self._decoder.activate_search("digits")

    def __reduce__(self) -> tuple[type[DigitRecogniser], tuple[()]]:
        # The decoder is C and cannot travel to another process: it is made anew there.
        return DigitRecogniser, ()

    def transcribe(self, samples_S: np.ndarray) -> str:
        """The digit's word, or "" where none is recognised."""
        padded_S = np.pad(samples_S, _SILENT_SAMPLES)
        peak = float(np.abs(padded_S).max())
        if peak < 1e-3:
            return ""
        self._decoder.start_utt()
        self._decoder.process_raw((padded_S * (0.7 / peak) * 32767).astype(np.int16).tobytes(), full_utt=True)
        self._decoder.end_utt()
        hypothesis = self._decoder.hyp()
        return hypothesis.hypstr if hypothesis else ""


class WhisperRecogniser:
    """A local Whisper checkpoint in the format of transformers.

    Args:
        folder: with `config.json`, weights, tokenizer and feature extractor.

    Raises:
        ValueError: if there is no such folder, or it holds something else.
    """

    def __init__(self, folder: str):
        from transformers import WhisperForConditionalGeneration, WhisperProcessor

        if not (Path(folder) / "config.json").is_file():
            raise ValueError(f"whisper must be a folder with a config.json, got {folder}")
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            self._processor = WhisperProcessor.from_pretrained(folder, local_files_only=True)
            model = WhisperForConditionalGeneration.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"whisper must be a folder that transformers can load, got {folder}: {reason}") from error
        self._model = model.eval().to(self._device)
        self._languages: dict[str, int] = getattr(model.generation_config, "lang_to_id", None) or {}

    def knows(self, language: str) -> bool:
        """Whether a language can be transcribed; checkpoints without a list of languages know English alone."""
        if not self._languages:
            return language == "en"
        return f"<|{_whisper_code(language, self._languages)}|>" in self._languages

    @torch.inference_mode()
    def transcribe(self, samples_S: np.ndarray, language: str) -> str:
        """Write down what is said, piece by piece of 30 s.

        Args:
            samples_S: float32.
            language: code; one that it `knows`.
        """
        options: dict[str, Any] = {"max_new_tokens": min(_MOST_TOKENS, self._model.config.max_target_positions // 2)}
        if self._languages:
            options |= {"language": _whisper_code(language, self._languages), "task": "transcribe"}
        texts = []
        step = _SECONDS_PER_PIECE * SAMPLE_RATE_HZ
        for start in range(0, len(samples_S), step):
            piece_S = samples_S[start : start + step]
            inputs = self._processor(
                piece_S, sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt", return_attention_mask=True
            )
            tokens = self._model.generate(
                inputs.input_features.to(self._device), attention_mask=inputs.attention_mask.to(self._device), **options
            )
            texts.append(self._processor.batch_decode(tokens, skip_special_tokens=True)[0].strip())
        return " ".join(filter(None, texts))


def _whisper_code(language: str, known: dict[str, int]) -> str:
    # Checkpoints before large-v3 have one code for everything Chinese.
    return "zh" if language == "yue" and "<|yue|>" not in known else language
