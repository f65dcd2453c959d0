"""How long a line takes to say, by syllables and published speaking rates."""

from __future__ import annotations

import math
import re
import unicodedata

from actors.request import Language
from model.geometry import FRAMES_PER_SECOND

SYLLABLES_PER_SECOND: dict[Language, float] = {
    "zh": 5.18,
    "yue": 5.18,
    "en": 6.19,
    "ja": 7.84,
    "ko": 5.97,
    "de": 5.97,
    "fr": 7.18,
}
"""Mean rates of people who read aloud, pauses left out, by F. Pellegrino, C. Coupé, E. Marsico: A cross-language
perspective on speech information rate, Language 87(3), 2011. Cantonese and Korean are not in that study: they have the
rates of Mandarin and German, by judgement."""

CALM = 0.85
"""Share of that rate at which a person speaks to a camera, by judgement."""

LEAD_S = 0.4
"""Before the first and after the last syllable, together, by judgement."""

_PAUSES_S = {".": 0.35, "!": 0.35, "?": 0.35, ",": 0.15, ";": 0.25, ":": 0.25, "—": 0.25, "…": 0.35}
_WIDE = str.maketrans("。！？，、；：．・", ".!?,,;:.,")
_MARKS = re.compile(r"[.!?,;:—…]+(?=\s|$|[^\d\s])")
_WORDS = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*|\d")
_VOWELS = re.compile("é|[aeiouyàâäæèêëîïôöœùûüÿ]+")
_SILENT_END = {
    "en": re.compile(r"(?<![aeiouy])(?<!l)e$|(?<=[^aeiouytd])ed$"),
    "fr": re.compile(r"(?<=[^aeiouy])(?:es?|ent)$"),
}
_KANJI_MORAE = 2
_SMALL_KANA = frozenset("ゃゅょぁぃぅぇぉゎャュョァィゥェォヮ")


def speaking_seconds(line: str, language: Language) -> float:
    """Seconds a clip needs for a line: its syllables at the language's rate, its pauses, a beginning and an end.

    Args:
        line: what is said.
        language: in which.

    Returns:
        A whole number of frames of 1/25 s.
    """
    spoken_s = count_syllables(line, language) / (CALM * SYLLABLES_PER_SECOND[language])
    inner = line.translate(_WIDE).rstrip(" .!?,;:—…\"'”’»）)")
    pauses_s = sum(max(_PAUSES_S[mark] for mark in marks) for marks in _MARKS.findall(inner))
    return math.ceil(round((spoken_s + pauses_s + LEAD_S) * FRAMES_PER_SECOND, 6)) / FRAMES_PER_SECOND


def count_syllables(line: str, language: Language) -> int:
    """Syllables of a line, as its letters tell.

    A Han character and a block of Hangul are one each. Of Japanese, morae are counted: a kana is one, and a kanji,
    whose reading is not written, two. In Latin script a group of vowels is one, without what English and French do not
    pronounce at a word's end. A digit is one, in Latin scripts and Japanese two.
    """
    total = 0
    for word in _WORDS.findall(unicodedata.normalize("NFC", line)):
        if word.isdigit():
            total += 1 if language in ("zh", "yue", "ko") else 2
            continue
        latin = "".join(letter for letter in word if _is_latin(letter))
        total += sum(_wide_syllables(letter, language) for letter in word if not _is_latin(letter))
        total += _latin_syllables(latin.lower(), language) if latin else 0
    return max(1, total)


def _is_latin(letter: str) -> bool:
    return letter < "\u0250"


def _wide_syllables(letter: str, language: Language) -> int:
    if letter in _SMALL_KANA:
        return 0
    is_kanji = "\u3400" <= letter <= "\u9fff" or "\uf900" <= letter <= "\ufaff"
    return _KANJI_MORAE if is_kanji and language == "ja" else 1


def _latin_syllables(word: str, language: Language) -> int:
    if (silent := _SILENT_END.get(language)) and len(word) > 2:
        word = silent.sub("", word)
    return max(1, len(_VOWELS.findall(word)))
