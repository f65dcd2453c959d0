"""How long lines take."""

import pytest

from pipeline.localization.speaking import CALM, LEAD_S, SYLLABLES_PER_SECOND, count_syllables, speaking_seconds


@pytest.mark.parametrize(
    ("language", "line", "expected"),
    [
        ("en", "Hello", 2),
        ("en", "Good morning!", 3),
        ("en", "We named the little table.", 7),
        ("en", "wanted walked", 3),
        ("en", "I'm here", 2),
        ("en", "the", 1),
        ("de", "Guten Morgen", 4),
        ("de", "Schöne Häuser", 4),
        ("fr", "Bonjour", 2),
        ("fr", "Les belles filles", 3),
        ("fr", "la réalité", 5),
        ("fr", "café", 2),
        ("fr", "ils mangent", 2),
        ("zh", "欢迎光临。", 4),
        ("zh", "我爱 Paris", 4),
        ("zh", "2026", 4),
        ("yue", "多謝晒", 3),
        ("ko", "감사합니다!", 5),
        ("ja", "ありがとう。", 5),
        ("ja", "きょう", 2),
        ("ja", "東京", 4),
        ("ja", "コーヒー", 4),
    ],
)
def test_syllables(language, line, expected):
    assert count_syllables(line, language) == expected


def test_letters_and_marks_written_apart_count_as_one():
    assert count_syllables("cafe\u0301", "fr") == count_syllables("café", "fr") == 2
    assert count_syllables("\u1112\u1161\u11ab\u1100\u116e\u11a8", "ko") == 2


@pytest.mark.parametrize("language", SYLLABLES_PER_SECOND)
def test_seconds_are_whole_frames_and_just_enough(language):
    line = {"zh": "你好", "yue": "你好", "ja": "はい", "ko": "감사"}.get(language, "mama")
    seconds = speaking_seconds(line, language)
    needed_s = 2 / (CALM * SYLLABLES_PER_SECOND[language]) + LEAD_S
    assert seconds * 25 == pytest.approx(round(seconds * 25))
    assert needed_s <= seconds + 1e-6 < needed_s + 0.0401


def test_pauses_inside_a_line_take_time_and_marks_at_its_end_none():
    plain = speaking_seconds("one two", "en")
    assert speaking_seconds("one two!!", "en") == plain
    assert speaking_seconds("One. Two.", "en") == pytest.approx(plain + 0.35, abs=0.04)
    assert speaking_seconds("你好。再见。", "zh") == pytest.approx(speaking_seconds("你好再见", "zh") + 0.35, abs=0.04)
    assert speaking_seconds("3.5 mal", "de") == speaking_seconds("35 mal", "de"), "a decimal point is no pause"
