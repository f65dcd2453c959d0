from dataclasses import replace

import numpy as np
import pytest

from actors.media import read_waveform, resample
from actors.small_world.listening import SAMPLE_RATE_HZ, WordRecogniser, hear_unseen_voice, trim
from actors.small_world.speech import place, speak
from actors.small_world.vocabulary import WORDS
from tests.finished_runs import mux

pytestmark = pytest.mark.usefixtures("espeak")


@pytest.fixture(scope="module")
def recogniser(espeak) -> WordRecogniser:
    return WordRecogniser.of_small_world(2)


def said(word, person="woman", speed_wpm=172, pitch=47, onset_frame=3) -> np.ndarray:
    speech = speak(word, person, speed_wpm, pitch)
    return place(speech, onset_frame, onset_frame + len(speech) // 2048 + 4)


@pytest.mark.slow
def test_words_by_voices_without_a_reference_are_heard(recogniser):
    unseen_voice = hear_unseen_voice(recogniser, 2)
    for shares in (unseen_voice.word_accuracy, unseen_voice.language_accuracy):
        assert set(shares) == {word.language for word in WORDS}
        assert np.mean(list(shares.values())) >= 0.98


@pytest.mark.slow
def test_coded_quiet_and_noisy_words_are_heard(recogniser):
    rng = np.random.default_rng(0)
    picture = np.zeros((60, 64, 64, 3), np.uint8)
    num_right = 0
    for word in WORDS[::4]:
        sound = 0.3 * said(word, "man", 180, 55)
        sound = sound + rng.normal(0, 0.001, len(sound)).astype(np.float32)
        heard = recogniser.hear(read_waveform(mux(picture, sound)[0], SAMPLE_RATE_HZ))
        num_right += heard.word is word
    assert num_right >= len(WORDS[::4]) - 1


@pytest.mark.slow
def test_a_reference_is_nearest_to_itself_and_other_words_are_further(recogniser):
    for word in WORDS[::9]:
        sound = resample(said(word, speed_wpm=165, pitch=40), 51_200, SAMPLE_RATE_HZ)
        heard = recogniser.hear(sound)
        assert heard.word is word
        assert heard.distance < 0.5
        assert heard.margin > 0


@pytest.mark.slow
def test_silence_is_no_word_and_cannot_be_a_reference(recogniser):
    assert recogniser.hear(np.zeros(16_000, np.float32)) is None
    assert recogniser.hear(np.zeros(0, np.float32)) is None
    with pytest.raises(ValueError, match="sounds must not be silent, got silence for zh-0"):
        WordRecogniser(WORDS[:1], [np.zeros(8000, np.float32)])


def test_silence_is_cut_off_also_under_noise():
    tone = np.sin(np.arange(8000) * 0.3).astype(np.float32) * 0.2
    rng = np.random.default_rng(1)
    for noise in (0.0, 0.01):
        sound = np.pad(tone, (4000, 6000)) + rng.normal(0, noise, 18_000).astype(np.float32)
        word = trim(sound)
        assert abs(len(word) - 8000) <= 320
        assert np.abs(word).max() == pytest.approx(0.7)


@pytest.mark.slow
def test_the_word_is_told_from_the_line_of_another_language(recogniser):
    eight = replace(WORDS[0], language="de", spoken="Acht")
    assert recogniser.hear(resample(said(eight), 51_200, SAMPLE_RATE_HZ)).word.name == "de-8"
