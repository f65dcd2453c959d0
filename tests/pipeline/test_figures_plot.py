import numpy as np
import pytest

from actors.evaluation.clips import Asked, JudgedClip
from actors.small_world.looks import PALETTES, Look
from actors.small_world.vocabulary import find_word
from pipeline.figures import figures_by_language
from pipeline.figures_plot import plot


def test_what_is_not_known_has_no_bar():
    look = Look.sample(np.random.default_rng(0))
    asked = Asked(find_word("en", "One"), look, "One", None, has_image=True, is_driven=False)
    found = {"word": "en-2", "transcript": "one", "colours": {part: getattr(look, part) for part in PALETTES}}
    clip = JudgedClip("a", "en", "256p", asked, listened=True, **found)
    words, errors, mouths, colours = plot(figures_by_language([clip], None, {})).axes
    heights = [[bar.get_height() for bar in axes.patches] for axes in (words, errors, mouths, colours)]
    assert heights[0] == [0, 0], "a wrong word has a bar of no height, in all and in English"
    assert heights[1] == [0]
    assert heights[2] == []
    assert len(heights[3]) == 10
    assert np.isnan(heights[3][:5]).all()
    assert heights[3][5:] == [1] * 5
    assert colours.get_ylim() == pytest.approx((0, 1.02))
