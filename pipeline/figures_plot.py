"""The figures as a picture."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from actors.small_world.looks import PALETTES
from pipeline.figures import ALL, Figures

_BLUE, _GREY = "#2f6db5", "#b9bec6"


def draw(figures: Mapping[str, Figures]) -> bytes:
    """Plot words, error rates, mouths and colours; what is not known has no bar.

    Args:
        figures: by language, and "all".

    Returns:
        A PNG file.
    """
    buffer = io.BytesIO()
    plot(figures).savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def plot(figures: Mapping[str, Figures]) -> Any:
    """The figure of matplotlib that `draw` saves."""
    # The object, not pyplot: nothing is kept for the process, and no display is looked for.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    FigureCanvasAgg(figure)
    words, errors, mouths, colours = figure.subplots(2, 2).ravel()
    unseen_voice = ("espeak-ng, unseen voice", lambda one: one.unseen_voice_word_accuracy)
    _bars(words, "right word", figures, lambda one: one.word_accuracy, unseen_voice)
    others = ("originals", lambda one: one.original_error_rate)
    _bars(errors, "WER or CER of a recogniser", figures, lambda one: one.error_rate, others)
    mismatched = ("other clips' sound", lambda one: one.mismatched_correlation)
    _bars(mouths, "correlation of mouth and sound", figures, lambda one: one.mouth_correlation, mismatched)
    _colour_bars(colours, figures[ALL])
    return figure


Choice = Callable[[Figures], float | None]


def _bars(axes: Any, title: str, figures: Mapping[str, Figures], choose: Choice, beside: tuple[str, Choice]) -> None:
    name, choose_beside = beside
    keys = [key for key, one in figures.items() if choose(one) is not None]
    _grouped(
        axes,
        title,
        keys,
        ("clips", [choose(figures[key]) for key in keys]),
        (name, [choose_beside(figures[key]) for key in keys]),
    )


def _colour_bars(axes: Any, total: Figures) -> None:
    parts = [*PALETTES, ALL]
    if total.colours_right[ALL] is None and total.image_colours_right[ALL] is None:
        parts = []
    from_text = [total.colours_right[part] for part in parts]
    from_image = [total.image_colours_right[part] for part in parts]
    _grouped(axes, "right colours", parts, ("look in the prompt", from_text), ("look in an image", from_image))


Bars = tuple[str, Sequence[float | None]]


def _grouped(axes: Any, title: str, keys: list[str], own: Bars, beside: Bars) -> None:
    axes.set_title(title, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    if not keys:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no figure in this run", ha="center", va="center", transform=axes.transAxes)
        return
    has_beside = any(value is not None for value in beside[1])
    places = range(len(keys))
    width = 0.4 if has_beside else 0.6
    own_places = [place - (0.2 if has_beside else 0) for place in places]
    axes.bar(own_places, _heights(own[1]), width, label=own[0], color=_BLUE)
    if has_beside:
        axes.bar([place + 0.2 for place in places], _heights(beside[1]), width, label=beside[0], color=_GREY)
        axes.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2)
    axes.set_xticks(list(places), keys)
    known = [value for value in own[1] if value is not None]
    axes.set_ylim(min([0.0, *known]), max([1.0, *known]) * 1.02)
    axes.grid(axis="y", alpha=0.3)


def _heights(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]
