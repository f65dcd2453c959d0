"""The heads of the small world, drawn.

Legend: F frames, Y X pixel rows and columns.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from actors.small_world.looks import RGB, Look

_OVERSAMPLING = 2
_LIPS: RGB = (150, 40, 50)
INSIDE: RGB = (70, 10, 20)
"""Of a mouth."""
_INK: RGB = (30, 24, 28)


def head_frame(width: int, height: int) -> tuple[float, float, float]:
    """Where a head at rest is: x and y of its centre, and its height, in pixels of a picture of this size."""
    return width * 0.5, height * 0.46, 0.66 * min(height, width * 0.95)


def _mixed(colour: RGB, other: RGB, share: float) -> RGB:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(colour, other, strict=True))
    return red, green, blue


class _Pen:
    """Draws in units of the head's height, around a centre that moves."""

    def __init__(self, draw: ImageDraw.ImageDraw, centre_x: float, centre_y: float, unit: float):
        self.draw, self.x, self.y, self.unit = draw, centre_x, centre_y, unit

    def _box(self, x: float, y: float, half_width: float, half_height: float) -> tuple[float, float, float, float]:
        x, y = self.x + x * self.unit, self.y + y * self.unit
        half_width, half_height = half_width * self.unit, half_height * self.unit
        return x - half_width, y - half_height, x + half_width, y + half_height

    def ellipse(self, x: float, y: float, half_width: float, half_height: float, colour: RGB) -> None:
        self.draw.ellipse(self._box(x, y, half_width, half_height), fill=colour)

    def box(self, x: float, y: float, half_width: float, half_height: float, colour: RGB, radius: float = 0) -> None:
        self.draw.rounded_rectangle(self._box(x, y, half_width, half_height), radius * self.unit, fill=colour)

    def upper_half(self, x: float, y: float, half_width: float, half_height: float, colour: RGB) -> None:
        self.draw.pieslice(self._box(x, y, half_width, half_height), 180, 360, fill=colour)

    def lower_half(self, x: float, y: float, half_width: float, half_height: float, colour: RGB) -> None:
        self.draw.pieslice(self._box(x, y, half_width, half_height), 0, 180, fill=colour)

    def ring(self, x: float, y: float, radius: float, colour: RGB) -> None:
        width = max(1, round(0.025 * self.unit))
        self.draw.ellipse(self._box(x, y, radius, radius), outline=colour, width=width)

    def line(self, points: list[tuple[float, float]], width: float, colour: RGB) -> None:
        placed = [(self.x + x * self.unit, self.y + y * self.unit) for x, y in points]
        self.draw.line(placed, fill=colour, width=max(1, round(width * self.unit)), joint="curve")


def render(look: Look, mouth_F2: np.ndarray, size: tuple[int, int], seed: int) -> np.ndarray:
    """Draw a clip.

    Args:
        look: who, where, and how it moves.
        mouth_F2: opening and width of the mouth in every frame, 0 to 1 (see `speech.mouth_shapes`).
        size: (width, height) in pixels.
        seed: of blinks and of where the motion begins.

    Returns:
        (F, Y, X, 3) uint8.
    """
    rng = np.random.default_rng(seed)
    num_frames = len(mouth_F2)
    blinks = rng.uniform(0.2, 2.2, size=1)
    phase = rng.uniform(0, 2 * np.pi)
    offset_x, offset_y = rng.uniform(-0.03, 0.03, size=2)
    frames = []
    for frame in range(num_frames):
        seconds = frame / 25
        swing = np.sin(2 * np.pi * 0.8 * seconds + phase)
        x = offset_x + (0.06 * swing if look.motion == "swaying" else 0)
        y = offset_y + (0.05 * swing if look.motion == "nodding" else 0)
        eyes = float(np.clip(np.abs(seconds - blinks).min() / 0.08, 0, 1))
        frames.append(_draw_frame(look, tuple(mouth_F2[frame]), eyes, (float(x), float(y)), size))
    return np.stack(frames)


def _draw_frame(
    look: Look, mouth: tuple[float, ...], eyes: float, shift: tuple[float, float], size: tuple[int, int]
) -> np.ndarray:
    width, height = size[0] * _OVERSAMPLING, size[1] * _OVERSAMPLING
    colours = look.colours
    image = Image.new("RGB", (width, height), colours["wall"])
    centre_x, centre_y, unit = head_frame(width, height)
    pen = _Pen(ImageDraw.Draw(image), centre_x, centre_y, unit)
    _draw_body(pen, look)
    pen.x, pen.y = pen.x + shift[0] * unit, pen.y + shift[1] * unit
    _draw_head(pen, look)
    _draw_eyes(pen, look, eyes)
    _draw_mouth(pen, look, mouth[0], mouth[1])
    return np.asarray(image.reduce(_OVERSAMPLING))


def _draw_body(pen: _Pen, look: Look) -> None:
    skin, shirt = look.colours["skin"], look.colours["shirt"]
    pen.box(0, 1.15, 0.62, 0.6, shirt, radius=0.28)
    pen.box(0, 0.5, 0.13, 0.2, _mixed(skin, _INK, 0.15), radius=0.05)
    pen.lower_half(0, 0.56, 0.2, 0.12, _mixed(shirt, _INK, 0.25))


def _draw_head(pen: _Pen, look: Look) -> None:
    skin, hair = look.colours["skin"], look.colours["hair"]
    if look.hair_style == "long":
        pen.box(0, 0.12, 0.43, 0.56, hair, radius=0.3)
    elif look.hair_style == "tied-back":
        pen.ellipse(0, -0.55, 0.16, 0.14, hair)
    pen.ellipse(0, -0.1, 0.41, 0.44, hair)
    for side in (-1, 1):
        pen.ellipse(side * 0.37, 0.05, 0.07, 0.1, skin)
    pen.ellipse(0, 0.03, 0.36, 0.46, skin)
    if look.beard:
        pen.lower_half(0, 0.13, 0.36, 0.38, hair)
        pen.ellipse(0, 0.12, 0.3, 0.14, skin)
    pen.upper_half(0, -0.14, 0.39, 0.36, hair)
    pen.ellipse(0, 0.12, 0.045, 0.06, _mixed(skin, _INK, 0.18))


def _draw_eyes(pen: _Pen, look: Look, openness: float) -> None:
    raised = {"surprised": -0.06, "serious": 0.03, "smiling": -0.01}[look.expression]
    tilt = {"surprised": 0.0, "serious": 0.04, "smiling": -0.02}[look.expression]
    brow = _mixed(look.colours["hair"], _INK, 0.4)
    for side in (-1, 1):
        x = side * 0.15
        if openness > 0.2:
            size = 0.085 if look.expression == "surprised" else 0.065
            pen.ellipse(x, 0.0, 0.085, size * openness, (250, 250, 250))
            pen.ellipse(x, 0.0, 0.045, min(0.05, size * openness), _INK)
        else:
            pen.line([(x - 0.08, 0.0), (x + 0.08, 0.0)], 0.025, _INK)
        pen.line([(x - side * 0.08, -0.12 + raised + tilt), (x + side * 0.09, -0.12 + raised - tilt)], 0.035, brow)
        if look.glasses:
            pen.ring(x, 0.0, 0.125, _INK)
    if look.glasses:
        pen.line([(-0.03, 0.0), (0.03, 0.0)], 0.025, _INK)


def _draw_mouth(pen: _Pen, look: Look, opening: float, width: float) -> None:
    corners = {"smiling": -0.035, "serious": 0.0, "surprised": 0.0}[look.expression]
    half_width = 0.13 + 0.05 * width + (0.02 if look.expression == "smiling" else 0)
    half_height = 0.012 + 0.13 * opening
    y = 0.29
    pen.line([(-half_width, y + corners), (0, y), (half_width, y + corners)], 0.03, _LIPS)
    if opening > 0.06:
        pen.ellipse(0, y, half_width, half_height + 0.02, _LIPS)
        pen.ellipse(0, y, half_width * 0.8, half_height, INSIDE)
        if opening > 0.5:
            pen.box(0, y - half_height * 0.6, half_width * 0.5, half_height * 0.2, (245, 245, 240))
