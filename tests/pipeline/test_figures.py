from typing import Any

import numpy as np
import pytest

from actors.evaluation.clips import Asked, JudgedClip
from actors.evaluation.sync import correlation
from actors.small_world.listening import UnseenVoice
from actors.small_world.vocabulary import WORDS, Word, find_word
from pipeline.figures import ALL, confusions, figures_by_language

UNSEEN_VOICE = UnseenVoice({"zh": 0.5, "en": 1.0, "de": 0.9}, {"zh": 0.6, "en": 1.0, "de": 0.95}, [])


def judged(name: str, asks: Word, *, driven: bool = False, **found: Any):
    asked = Asked(asks, None, asks.line, None, False, driven)
    return JudgedClip(name, asks.language, "256p", asked, listened=True, **found)


def english(line: str) -> Word:
    word = find_word("en", line)
    assert word is not None
    return word


def test_clips_that_a_recording_drives_do_not_count_for_what_is_said():
    one, two = english("One"), english("Two")
    right = judged("a", one, word=one.name, transcript="one")
    driven = judged("b", two, driven=True, word=one.name, transcript="one")
    total = figures_by_language([right, driven], UNSEEN_VOICE, {})
    assert total["en"].num_clips == 2
    assert total["en"].num_words == 1
    assert total["en"].word_accuracy == total["en"].language_accuracy == 1
    assert total["en"].error_rate == 0
    assert confusions([right, driven]) == []


def test_a_clip_with_a_problem_is_not_heard_as_silence():
    assert confusions([judged("a", WORDS[0], problem="damaged")]) == []
    assert confusions([judged("a", WORDS[0])]) == [(WORDS[0].name, "silence", 1)]


def test_the_unseen_voice_is_the_mean_over_the_languages_of_the_words_asked_for():
    german, mandarin = find_word("de", "Hallo"), find_word("zh", "你好")
    clips = [judged("a", german), judged("b", german), judged("c", german)]
    alone = figures_by_language(clips, UNSEEN_VOICE, {})
    assert alone[ALL].unseen_voice_word_accuracy == alone["de"].unseen_voice_word_accuracy == pytest.approx(0.9)
    driven, damaged = judged("e", mandarin, driven=True), judged("f", mandarin, problem="damaged")
    mixed = figures_by_language([*clips, judged("d", mandarin), driven, damaged], UNSEEN_VOICE, {})
    assert mixed[ALL].unseen_voice_word_accuracy == pytest.approx((3 * 0.9 + 0.5) / 4)
    assert mixed[ALL].unseen_voice_language_accuracy == pytest.approx((3 * 0.95 + 0.6) / 4)
    assert mixed["zh"].unseen_voice_word_accuracy == pytest.approx(0.5)
    assert figures_by_language(clips, None, {})[ALL].unseen_voice_word_accuracy is None


def sound(onset_frame: int, *shape: float) -> np.ndarray:
    sound_F = np.zeros(40)
    sound_F[onset_frame : onset_frame + len(shape)] = shape
    return sound_F


def mouths(*sounds: np.ndarray) -> list[JudgedClip]:
    """Clips of different words whose mouths follow their own sounds."""
    return [
        judged(f"clip-{number}", WORDS[number], mouth_F=one, sound_F=one, correlation=correlation(one, one))
        for number, one in enumerate(sounds)
    ]


def test_a_mouth_is_compared_with_sounds_that_begin_when_its_own_does():
    rising, falling = (0.3, 0.6, 0.9, 1.0), (1.0, 0.9, 0.6, 0.3)
    clips = mouths(sound(2, *rising), sound(3, *falling), sound(20, *rising), sound(22, *falling))
    figures = figures_by_language(clips, None, {})[ALL]
    near = correlation(clips[0].mouth_F, clips[1].sound_F)
    assert near > 0.4
    # Those that begin at 20 and 22 are two frames from each other: they have nobody.
    assert figures.same_onset_correlation == pytest.approx(near)
    assert figures.mismatched_correlation < 0.3
    assert figures.mouth_correlation == pytest.approx(1)
    assert figures.correlation_gap == pytest.approx(1 - figures.mismatched_correlation)


def test_a_mouth_that_only_opens_when_told_is_found_out():
    rng = np.random.default_rng(0)
    clips = []
    for number in range(60):
        onset_frame = (2, 12, 22)[number % 3]
        own = sound(onset_frame, 0.8, *rng.random(10))
        mouth = sound(onset_frame, *[1.0] * 11)
        found = {"mouth_F": mouth, "sound_F": own, "correlation": correlation(mouth, own)}
        clips.append(judged(f"clip-{number:02d}", WORDS[number], **found))
    figures = figures_by_language(clips, None, {})[ALL]
    assert figures.correlation_gap > 0.3
    assert figures.mouth_correlation - figures.same_onset_correlation == pytest.approx(0, abs=0.02)


def test_without_another_sound_of_the_same_onset_there_is_no_such_figure():
    silence = np.zeros(40)
    figures = figures_by_language(mouths(sound(2, 1, 0.5), sound(20, 1, 0.5), silence, silence), None, {})[ALL]
    assert figures.same_onset_correlation is None
    assert figures.mismatched_correlation is not None
    again = judged("again", WORDS[0], mouth_F=sound(2, 1, 0.5), sound_F=sound(2, 1, 0.5))
    figures = figures_by_language([*mouths(sound(2, 1, 0.5)), again], None, {})[ALL]
    assert figures.same_onset_correlation is None, "the same word would rightly fit"
