import numpy as np
import pytest

from actors.evaluation.transcribing import DigitRecogniser, WhisperRecogniser, error_rate, metric_name, normalise
from actors.media import resample
from actors.small_world.speech import speak
from actors.small_world.vocabulary import find_word
from tests.tiny_whisper import write_tiny_whisper


def test_text_is_compared_without_case_punctuation_and_figures():
    assert normalise(" Guten  MORGEN! ", "de") == "guten morgen"
    assert normalise("7.", "de") == "sieben"
    assert normalise("你 好。", "zh") == "你好"
    assert normalise("５", "yue") == "五"
    assert [metric_name(language) for language in ("en", "ja")] == ["WER", "CER"]


def test_error_rates_count_words_or_characters_of_all_clips_together():
    assert error_rate(["Good morning!", "One"], ["good morning", "two"], "en") == pytest.approx(1 / 3)
    assert error_rate(["こんにちは", "いち"], ["こんにちわ", "いち"], "ja") == pytest.approx(1 / 7)
    assert error_rate(["One"], [""], "en") == 1
    assert error_rate([""], ["one"], "en") is None


def test_digits_are_recognised_and_silence_is_none(espeak):
    recogniser = DigitRecogniser()
    heard = []
    for digit in recogniser.words:
        sound = resample(speak(find_word("en", digit), "woman", 165, 40), 51_200, 16_000)
        heard.append(recogniser.transcribe(sound))
    assert sum(a == b for a, b in zip(heard, recogniser.words, strict=True)) >= 7
    assert set(heard) <= {*recogniser.words, ""}
    assert recogniser.transcribe(np.zeros(16_000, np.float32)) == ""


def test_whisper_is_loaded_and_writes_down_something(tmp_path):
    whisper = WhisperRecogniser(write_tiny_whisper(tmp_path))
    sound = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    text = whisper.transcribe(sound, "de")
    assert isinstance(text, str)
    assert text == whisper.transcribe(sound, "de")
    assert "<|" not in text
    assert [whisper.knows(language) for language in ("en", "zh", "yue", "de", "fr")] == [True, True, True, True, False]


def test_a_folder_that_is_no_whisper_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"whisper must be a folder with a config\.json, got "):
        WhisperRecogniser(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "whisper"}')
    with pytest.raises(ValueError, match="whisper must be a folder that transformers can load") as raised:
        WhisperRecogniser(str(tmp_path))
    assert "\n" not in str(raised.value)
