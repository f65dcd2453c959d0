from typing import Any

import pytest

from actors.evaluation.clips import Asked, JudgedClip
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
