"""A line in another script than its language's."""

import pytest

from pipeline.localization.scripts import require_script


@pytest.mark.parametrize(
    ("language", "line"),
    [
        ("en", "Hello, café!"),
        ("de", "Straße"),
        ("fr", "Où êtes-vous ?"),
        ("zh", "欢迎来到 Paris"),
        ("yue", "喺香港食 brunch"),
        ("ja", "東京"),
        ("ja", "ｺｰﾋｰをAppleで"),
        ("ko", "서울 Seoul"),
        ("ko", "大韓民國 만세"),
    ],
)
def test_a_line_in_its_own_script_passes(language, line):
    require_script(line, language)


@pytest.mark.parametrize(
    ("language", "line", "reason"),
    [
        ("en", "こんにちは", r"must be in Latin letters as English is, got kana \(こ\)"),
        ("de", "Привет", r"must be in Latin letters as German is, got Cyrillic letters \(П\)"),
        ("fr", "欢迎", r"must be in Latin letters as French is, got Chinese characters \(欢\)"),
        ("zh", "Hello there", "must be in Chinese characters as Mandarin is, got mostly Latin letters"),
        ("zh", "ようこそ东京", r"must be in Chinese characters as Mandarin is, got kana \(よ\)"),
        ("yue", "Please 食 something now", "as Cantonese is, got mostly Latin letters"),
        ("ja", "안녕하세요", r"must be in kana or Chinese characters as Japanese is, got Hangul \(안\)"),
        ("ko", "ありがとう", r"must be in Hangul as Korean is, got kana \(あ\)"),
        ("ko", "大韓民國", "must be in Hangul as Korean is, got mostly Chinese characters"),
        ("en", "1, 2, 3", "has no letters"),
        ("en", "Hello привет", r"got Cyrillic letters \(п\)"),
    ],
)
def test_another_script_is_told_of(language, line, reason):
    with pytest.raises(ValueError, match=reason):
        require_script(line, language)
