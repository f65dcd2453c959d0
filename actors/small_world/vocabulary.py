"""What the heads of the small world say: ten digits and four greetings in each of the seven languages."""

from __future__ import annotations

from dataclasses import dataclass

from actors.request import LANGUAGES, Language

CONCEPTS = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "hello", "good morning", "thank you", "goodbye")

ESPEAK_VOICES = {
    "zh": "cmn-latn-pinyin",
    "yue": "yue",
    "en": "en-us",
    "ja": "ja",
    "ko": "ko",
    "de": "de",
    "fr": "fr",
}
"""Language to espeak-ng's voice. Its Mandarin voice for Han text spells characters out in English where Debian's
package lacks the dictionary, so Mandarin is given in pinyin; `fr-fr` would pass over what makes it a woman or a man."""

# One entry per concept, in order. Where the voice cannot read the line as it is written, what it is given follows "|".
_LINES: dict[Language, str] = {
    "zh": "零|ling2 一|yi1 二|er4 三|san1 四|si4 五|wu3 六|liu4 七|qi1 八|ba1 九|jiu3 "
    "你好|ni3_hao3 早上好|zao3_shang4_hao3 谢谢|xie4_xie5 再见|zai4_jian4",
    "yue": "零 一 二 三 四 五 六 七 八 九 你好 早晨 多謝 再見",
    "en": "Zero One Two Three Four Five Six Seven Eight Nine Hello Good_morning Thank_you Goodbye",
    "ja": "ゼロ いち に さん よん ご ろく なな はち きゅう こんにちは|こんにちわ おはよう ありがとう さようなら",
    "ko": "영 일 이 삼 사 오 육 칠 팔 구 안녕하세요 좋은_아침 감사합니다 안녕히_가세요",
    "de": "Null Eins Zwei Drei Vier Fünf Sechs Sieben Acht Neun Hallo Guten_Morgen Danke Auf_Wiedersehen",
    "fr": "Zéro Un Deux Trois Quatre Cinq Six Sept Huit Neuf Salut Bonjour Merci Au_revoir",
}


_WIDE = ("", "。", "！", "!")
_NARROW = ("", "", ".", "!")
ENDINGS: dict[Language, tuple[str, ...]] = {
    "zh": _WIDE,
    "yue": _WIDE,
    "ja": _WIDE,
    "en": _NARROW,
    "ko": _NARROW,
    "de": _NARROW,
    "fr": ("", ".", "!", " !"),
}
"""How lines end, by language; each one is as likely."""


@dataclass(frozen=True)
class Word:
    """One thing that can be said.

    Attributes:
        language: code of the language.
        concept: one of `CONCEPTS`.
        line: as prompts write it.
        spoken: as espeak-ng's voice is given it.
    """

    language: Language
    concept: str
    line: str
    spoken: str

    @property
    def name(self) -> str:
        """Unique, for tables and file names: `de-good-morning`."""
        return f"{self.language}-{self.concept.replace(' ', '-')}"


def _words() -> tuple[Word, ...]:
    words = []
    for language in LANGUAGES:
        entries = [entry.replace("_", " ").partition("|") for entry in _LINES[language].split()]  # type: ignore[index]
        for concept, (line, _, spoken) in zip(CONCEPTS, entries, strict=True):
            words.append(Word(language, concept, line, spoken or line))  # type: ignore[arg-type]
    return tuple(words)


WORDS = _words()


def find_word(language: str, line: str) -> Word | None:
    """The word that a line of dialogue is, or None; spaces between characters and final punctuation do not count."""
    wanted = _bare(line)
    return next((word for word in WORDS if word.language == language and _bare(word.line) == wanted), None)


def _bare(line: str) -> str:
    return "".join(line.split()).rstrip(".!?。！？").casefold()
