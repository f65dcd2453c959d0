"""Sampling: a recipe becomes a partition's clips, each value within one clip of its share, no content twice."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

from pipeline.synthesis.axes import plain
from pipeline.synthesis.draw import Draw, SampledClip
from pipeline.synthesis.recipe import MAX_CLIPS, Recipe, RecipeError

_MOST_DRAWS, _CLIPS_OF_DRAWS = 8, 1000
"""Of one partition, and how many clips they may have together."""
_MOST_LENGTHS = 12
"""Numbers of clips that are tried for one number of hours."""


def sample(recipe: Recipe, partition: str, images: Mapping[str, str], taken: Collection[str] = ()) -> list[SampledClip]:
    """Draw the clips of a partition; the same arguments give the same clips.

    Args:
        recipe: what to draw from.
        partition: its name, which the draw depends on.
        images: value of the axis `image` to its URL.
        taken: contents of other partitions, which are not drawn again.

    Raises:
        RecipeError: constraints, lengths and contents taken leave no way to keep the weights.
    """
    taken = frozenset(taken)

    def draw(num_clips: int) -> list[SampledClip]:
        # Few clips may be rounded so that their values do not go together; rounded otherwise they do.
        for attempt in range(max(1, min(_MOST_DRAWS, _CLIPS_OF_DRAWS // num_clips))):
            drawn = Draw(recipe, partition, images, taken, num_clips, attempt)
            if drawn.mend():
                return drawn.clips()
        raise RecipeError(drawn.why())

    if recipe.clips is not None:
        return draw(recipe.clips)
    assert recipe.hours is not None
    wanted_s = recipe.hours * 3600
    return _as_long_as(wanted_s, max(1, round(wanted_s / recipe.mean_seconds())), draw)


def _as_long_as(wanted_s: float, num_clips: int, draw: Callable[[int], list[SampledClip]]) -> list[SampledClip]:
    """The draw whose length comes nearest, from a guess on; more clips are longer, but for what other counts change."""
    _require_possible(wanted_s, num_clips)
    found = draw(num_clips)
    for _ in range(_MOST_LENGTHS):
        length_s = _length_s(found)
        step = round((wanted_s - length_s) / (length_s / num_clips))
        if step == 0:
            break
        num_clips = max(1, num_clips + step)
        _require_possible(wanted_s, num_clips)
        other = draw(num_clips)
        if abs(_length_s(other) - wanted_s) >= abs(length_s - wanted_s):
            break
        found = other
    return found


def _require_possible(wanted_s: float, num_clips: int) -> None:
    if num_clips > MAX_CLIPS:
        raise RecipeError(f"hours={wanted_s / 3600:g} takes {num_clips:,} clips, {MAX_CLIPS:,} is the most")


def _length_s(clips: Sequence[SampledClip]) -> float:
    return sum(clip.request.seconds or 0.0 for clip in clips)


def expected_counts(recipe: Recipe, clips: Sequence[SampledClip]) -> dict[str, list[tuple[str, float, int]]]:
    """Of every axis, and of splits: each value, the clips its weight asks for, and the clips that have it."""
    weights = {axis: [(one.value, one.weight) for one in values] for axis, values in recipe.axes.items()}
    columns = {axis: Counter(clip.values[axis] for clip in clips) for axis in recipe.axes}
    weights["split"], columns["split"] = list(recipe.splits.items()), Counter(clip.split for clip in clips)
    found = {}
    for axis, values in weights.items():
        total = math.fsum(weight for _, weight in values)
        found[axis] = [(plain(value), len(clips) * weight / total, columns[axis][value]) for value, weight in values]
    return found
