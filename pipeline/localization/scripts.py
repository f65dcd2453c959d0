"""Whether a line can be said: by its marks, and by the script it is written in."""

from __future__ import annotations

import unicodedata
from collections import Counter

from actors.plain_text import require_plain
from actors.request import LANGUAGES, Language

_HAN, _KANA, _HANGUL, _LATIN = "Chinese characters", "kana", "Hangul", "Latin letters"
_SCRIPTS = {
    "CJK": _HAN,
    "HIRAGANA": _KANA,
    "KATAKANA": _KANA,
    "KATAKANA-HIRAGANA": _KANA,
    "HALFWIDTH": _KANA,
    "IDEOGRAPHIC": _HAN,
    "HANGUL": _HANGUL,
    "LATIN": _LATIN,
    "FULLWIDTH": _LATIN,
}
_OWN: dict[Language, tuple[str, ...]] = {
    "zh": (_HAN,),
    "yue": (_HAN,),
    "en": (_LATIN,),
    "ja": (_KANA, _HAN),
    "ko": (_HANGUL,),
    "de": (_LATIN,),
    "fr": (_LATIN,),
}
_BESIDE: dict[Language, tuple[str, ...]] = {
    "zh": (_LATIN,), "yue": (_LATIN,), "ja": (_LATIN,), "ko": (_LATIN, _HAN), "en": (), "de": (), "fr": (),
}  # fmt: skip
"""What a language takes in besides: names in Latin letters, Chinese characters in Korean."""


_MARKUP = frozenset('"<>{}\\')


def require_sayable(line: str, language: Language) -> None:
    """Refuse a line that prompts or subtitles would misread, or that cannot be in its language.

    Raises:
        ValueError: it holds control characters, or marks that mean something there; or see `require_script`.
    """
    require_plain(line)
    if found := next((letter for letter in line if letter in _MARKUP), None):
        hint = ": take “ ” or none" if found == '"' else ""
        raise ValueError(f"must not hold {found}, which prompts or subtitles take for a mark of their own{hint}")
    require_script(line, language)


def require_script(line: str, language: Language) -> None:
    """Refuse a line that cannot be in its language.

    Raises:
        ValueError: it has no letters, more of another script than of its own, or letters that the language never has.
    """
    letters = [letter for letter in line if unicodedata.category(letter)[0] == "L"]
    if not letters:
        raise ValueError("has no letters, so nobody can say it")
    found = Counter(_script(letter) for letter in letters)
    own, beside = _OWN[language], _BESIDE[language]
    wanted = " or ".join(own)
    for script in found:
        if script not in own and script not in beside:
            example = next(letter for letter in letters if _script(letter) == script)
            raise ValueError(f"must be in {wanted} as {LANGUAGES[language]} is, got {script} ({example})")
    num_own = sum(found[script] for script in own)
    # A character says about as much as three letters: a name does not make a line English.
    num_latin = 0 if _LATIN in own else found[_LATIN]
    if 3 * num_own < num_latin or not num_own:
        others = " and ".join(script for script in found if script not in own)
        raise ValueError(f"must be in {wanted} as {LANGUAGES[language]} is, got mostly {others}")


def _script(letter: str) -> str:
    word = unicodedata.name(letter, "unnamed").split()[0]
    return _SCRIPTS.get(word, word.capitalize() + " letters")
