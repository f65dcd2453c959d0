"""How the heads of the small world look and move, when they begin to speak, and how prompts say so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

RGB = tuple[int, int, int]

HAIR: dict[str, RGB] = {
    "black": (28, 26, 30),
    "brown": (112, 66, 34),
    "blond": (236, 200, 96),
    "red": (196, 64, 30),
    "grey": (158, 158, 164),
}
SKIN: dict[str, RGB] = {"fair": (250, 220, 196), "tan": (222, 170, 124), "brown": (172, 116, 76), "dark": (118, 78, 56)}
SHIRT: dict[str, RGB] = {
    "red": (200, 40, 48),
    "green": (40, 140, 72),
    "blue": (44, 84, 190),
    "yellow": (240, 208, 56),
    "purple": (126, 62, 160),
    "white": (242, 242, 240),
    "black": (34, 34, 40),
}
WALL: dict[str, RGB] = {
    "blue": (120, 168, 220),
    "green": (134, 190, 140),
    "orange": (240, 160, 84),
    "pink": (240, 172, 190),
    "grey": (176, 178, 184),
    "cream": (246, 234, 206),
}
PALETTES: dict[str, dict[str, RGB]] = {"hair": HAIR, "skin": SKIN, "shirt": SHIRT, "wall": WALL}
"""The coloured parts of a picture: name in prompts to colour."""

PERSONS = ("woman", "man")
HAIR_STYLES = {"short": "cut short", "long": "worn long", "tied-back": "tied back"}
EXPRESSIONS = {"smiling": "smiles", "serious": "looks serious", "surprised": "looks surprised"}
MOTIONS = {"still": "keeps still", "nodding": "nods", "swaying": "sways gently"}

STARTS = {"at once": 2, "after a short pause": 5, "after a long pause": 8}
"""When a word begins: how prompts say it, to the frame of 1/25 s."""

_PERSONS = ("A {} faces the camera", "A {} speaks to the viewer", "Close view of a {}")
_REFERENCES = ("The person in the picture speaks to the viewer.", "The same person, speaking.", "A person speaks.")
_VIEWS = (
    "",
    "Static camera.",
    "Medium close-up at eye level, static camera, soft light.",
    "Close-up, even light, plain background.",
    "The camera does not move and the light is warm.",
)


@dataclass(frozen=True)
class Look:
    """What a prompt asks for, by its words.

    Attributes:
        person: of `PERSONS`; decides the voice, too.
        hair: colour.
        hair_style: of `HAIR_STYLES`.
        skin: colour.
        shirt: colour.
        wall: colour behind the head.
        glasses: whether they are worn.
        beard: whether there is one.
        expression: of `EXPRESSIONS`.
        motion: of `MOTIONS`.
    """

    person: str
    hair: str
    hair_style: str
    skin: str
    shirt: str
    wall: str
    glasses: bool
    beard: bool
    expression: str
    motion: str

    def __post_init__(self) -> None:
        allowed: Mapping[str, Sequence[str]] = {
            "person": PERSONS,
            "hair_style": tuple(HAIR_STYLES),
            "expression": tuple(EXPRESSIONS),
            "motion": tuple(MOTIONS),
            **{name: tuple(palette) for name, palette in PALETTES.items()},
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} must be one of {', '.join(values)}, got {getattr(self, name)!r}")

    @property
    def colours(self) -> dict[str, RGB]:
        """Part to colour."""
        return {part: palette[getattr(self, part)] for part, palette in PALETTES.items()}

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Look:
        """Draw a look; every value of every trait is as likely, beards are half of the men's."""

        def one(values: Any) -> str:
            return str(rng.choice(list(values)))

        person = one(PERSONS)
        is_bearded = bool(rng.random() < 0.5)
        return cls(
            person=person,
            hair=one(HAIR),
            hair_style=one(HAIR_STYLES),
            skin=one(SKIN),
            shirt=one(SHIRT),
            wall=one(WALL),
            glasses=bool(rng.random() < 0.3),
            beard=is_bearded and person == "man",
            expression=one(EXPRESSIONS),
            motion=one(MOTIONS),
        )


def describe(look: Look, start: str, rng: np.random.Generator) -> str:
    """Put a look, and when the word begins, into words: a clause for each trait, in one of many orders and wordings.

    Args:
        look: who is seen.
        start: of `STARTS`.
        rng: source of the wording.
    """
    clauses = [f"{look.hair} hair", HAIR_STYLES[look.hair_style], f"{look.skin} skin", f"a {look.shirt} shirt"]
    clauses += ["glasses"] * look.glasses + ["a beard"] * look.beard
    rng.shuffle(clauses)
    wall = f"a {look.wall} wall behind".replace("a orange", "an orange")
    she = "She" if look.person == "woman" else "He"
    acts = f"{she} {EXPRESSIONS[look.expression]} and {MOTIONS[look.motion]}."
    person = str(rng.choice(_PERSONS)).format(look.person)
    sentences = (f"{person}: {', '.join(clauses)}, {wall}.", acts, _start(start), str(rng.choice(_VIEWS)))
    return " ".join(filter(None, sentences))


def describe_reference(start: str, rng: np.random.Generator) -> str:
    """A description that leaves the look to a reference image; `start` is of `STARTS`."""
    return f"{rng.choice(_REFERENCES)} {_start(start)}"


def _start(start: str) -> str:
    return f"Speech starts {start}."
