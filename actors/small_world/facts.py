"""What a prompt of the small world asks for, in numbers that a network can be asked to tell."""

from __future__ import annotations

from actors.small_world.clips import SmallWorldClip
from actors.small_world.looks import EXPRESSIONS, HAIR_STYLES, MOTIONS, PALETTES, PERSONS, tells_look
from actors.small_world.vocabulary import WORDS

_LOOK: dict[str, tuple[str | bool, ...]] = {
    **{part: tuple(palette) for part, palette in PALETTES.items()},
    "hair_style": HAIR_STYLES,
    "glasses": (False, True),
    "beard": (False, True),
    "expression": tuple(EXPRESSIONS),
    "motion": tuple(MOTIONS),
}
_WORD_NAMES = [word.name for word in WORDS]

NUM_VALUES = (len(WORDS), len(PERSONS), *(len(values) + 1 for values in _LOOK.values()))
"""How many values each fact has; a look that the prompt does not tell is a value of its own."""


def facts_of(clip: SmallWorldClip) -> list[int]:
    """What a prompt tells, as numbers below those of `NUM_VALUES`.

    Returns:
        Word, person, hair, skin, shirt, wall, hair style, glasses, beard, expression and motion; the last value of a
        trait stands for one that the prompt leaves to a reference image.
    """
    facts = [_WORD_NAMES.index(clip.word.name), PERSONS.index(clip.look.person)]
    is_told = tells_look(clip.description)
    for trait, values in _LOOK.items():
        facts.append(values.index(getattr(clip.look, trait)) if is_told else len(values))
    return facts
