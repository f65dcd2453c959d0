"""One draw of a partition: values shared out by weights, dealt out at random, and swapped until nothing is broken.

How often each value comes is fixed first, by systematic sampling (W. G. Madow, L. H. Madow, Annals of Mathematical
Statistics 15(1), 1944): with one random offset every count is its share rounded down or up, and over many partitions
the shares come out without a bias. Swaps between clips change no count.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from pydantic import ValidationError

from actors.request import ClipRequest, Language
from pipeline.localization.speaking import speaking_seconds
from pipeline.synthesis.recipe import REQUEST_AXES, SIZE_AXES, Recipe, RecipeError, tell

_CONTENT_BYTES = 16
_MOST_FRUITLESS = 15
"""Passes over what is broken without less of it, after which a draw is given up."""
_MOST_PARTNERS = 400
_TRIALS, _TRIALS_PER_CLIP = 300_000, 300
"""Swaps that a draw may try in all."""
_SIDEWAYS = 0.05
"""Of swaps that change nothing for the better or worse, the share that is kept: so a dead end is left again."""
_LINE, _SPLIT = "line", "split"


@dataclass(frozen=True)
class SampledClip:
    """One clip of a partition.

    Attributes:
        values: axis to value, in the recipe's order.
        line: what is said.
        split: where it belongs.
        content: digest of what is seen and said, hexadecimal.
        request: a manifest's row.
    """

    values: Mapping[str, str | float]
    line: str
    split: str
    content: str
    request: ClipRequest


def share_out(weights: Sequence[float], num_clips: int, offset: float) -> list[int]:
    """How often each weight comes among so many: its share, rounded down or up.

    Args:
        weights: from 0, one of them above.
        num_clips: the sum of what is returned.
        offset: from 0 to below 1, drawn evenly: then each count has its share for a mean.
    """
    total, so_far, before, counts = math.fsum(weights), 0.0, 0, []
    for number, weight in enumerate(weights, 1):
        so_far += weight
        # The last bound is exact, whatever the sum's last bits are.
        bound = num_clips if number == len(weights) else math.floor(num_clips * so_far / total + offset)
        bound = min(num_clips, bound)
        counts.append(bound - before)
        before = bound
    return counts


class Draw:
    """The columns of a partition while they are put right.

    Args:
        recipe: what to draw from.
        partition: its name.
        images: value of the axis `image` to its URL.
        taken: contents that are not drawn again.
        num: clips.
        attempt: another number is another draw.
    """

    def __init__(
        self, recipe: Recipe, partition: str, images: Mapping[str, str], taken: frozenset[str], num: int, attempt: int
    ):
        self.recipe, self.partition, self.images, self.taken, self.num_clips = recipe, partition, images, taken, num
        self._random = random.Random(_number(recipe.seed, partition, num, attempt))
        self._contents: dict[tuple[str | float, ...], str] = {}
        self._num_trials_left = _TRIALS + _TRIALS_PER_CLIP * num
        self._line_seconds: dict[tuple[str | float, str | float], float] = {
            (language, line): speaking_seconds(line, language)
            for language, lines in recipe.lines.items()
            for line in lines
        }
        self._columns: dict[str, list[str | float]] = {
            axis: self._column([one.value for one in recipe.drawn(axis)], [one.weight for one in recipe.drawn(axis)])
            for axis in recipe.axes
        }
        self._columns[_SPLIT] = self._column(list(recipe.splits), list(recipe.splits.values()))
        self._columns[_LINE] = self._lines()
        self._content_axes = [axis for axis in recipe.axes if axis not in SIZE_AXES]
        self._counts = Counter(self._content(place) for place in range(num))
        # A line goes where its language goes, or to another clip of its language.
        self._swaps: list[tuple[str, ...]] = [
            ("language", _LINE) if axis == "language" else (axis,)
            for axis in recipe.axes
            if len(recipe.drawn(axis)) > 1
        ]
        self._swaps.append((_LINE,))

    def _column(self, values: Sequence[str | float], weights: Sequence[float]) -> list[str | float]:
        counts = share_out(weights, self.num_clips, self._random.random())
        column = [value for value, count in zip(values, counts, strict=True) for _ in range(count)]
        self._random.shuffle(column)
        return column

    def _lines(self) -> list[str | float]:
        """Lines of each clip's language, all of a language about equally often."""
        waiting: dict[str, list[str | float]] = {}
        for language, number in sorted(Counter(map(str, self._columns["language"])).items()):
            lines = self.recipe.lines[cast(Language, language)]
            order = self._random.sample(lines, len(lines))
            column: list[str | float] = [order[place % len(order)] for place in range(number)]
            self._random.shuffle(column)
            waiting[language] = column
        return [waiting[str(language)].pop() for language in self._columns["language"]]

    def clips(self) -> list[SampledClip]:
        """The clips as they stand."""
        return [self._clip(place) for place in range(self.num_clips)]

    def mend(self) -> bool:
        """Swap values until nothing is broken; whether that was to be had.

        Raises:
            RecipeError: there are not as many contents as clips.
        """
        self._require_enough_contents()
        if self._why_impossible():
            return False
        fewest, num_fruitless = self.num_clips + 1, 0
        while num_fruitless < _MOST_FRUITLESS and self._num_trials_left > 0:
            broken = [place for place in range(self.num_clips) if self._cost(place)]
            if not broken:
                return True
            num_fruitless = 0 if len(broken) < fewest else num_fruitless + 1
            fewest = min(fewest, len(broken))
            self._random.shuffle(broken)
            for place in broken:
                self._mend(place)
        return False

    def _mend(self, place: int) -> None:
        """Swap values of one clip with others' until it is right, or nobody has what it needs."""
        partners = self._random.sample(range(self.num_clips), min(self.num_clips, _MOST_PARTNERS))
        own = self._cost(place)
        for axes in self._random.sample(self._swaps, len(self._swaps)):
            for partner in partners:
                if partner == place or not self._differ(place, partner, axes):
                    continue
                self._num_trials_left -= 1
                before = own + self._cost(partner)
                self._swap(place, partner, axes)
                after = (own_after := self._cost(place)) + self._cost(partner)
                if after > before or (after == before and self._random.random() > _SIDEWAYS):
                    self._swap(place, partner, axes)
                    continue
                own = own_after
                if not own:
                    return

    def _differ(self, one: int, other: int, axes: tuple[str, ...]) -> bool:
        if axes == (_LINE,) and self._columns["language"][one] != self._columns["language"][other]:
            return False
        return any(self._columns[axis][one] != self._columns[axis][other] for axis in axes)

    def _swap(self, one: int, other: int, axes: tuple[str, ...]) -> None:
        for place in (one, other):
            self._counts[self._content(place)] -= 1
        for axis in axes:
            column = self._columns[axis]
            column[one], column[other] = column[other], column[one]
        for place in (one, other):
            self._counts[self._content(place)] += 1

    def _cost(self, place: int) -> int:
        values = self._values(place)
        broken = sum(constraint.is_broken_by(values) for constraint in self.recipe.constraints)
        return broken + self._is_too_long(place) + self._is_there(place)

    def _is_too_long(self, place: int) -> bool:
        if "seconds" not in self._columns:
            return False
        needed_s = self._line_seconds[self._columns["language"][place], self._columns[_LINE][place]]
        return needed_s > float(self._columns["seconds"][place])

    def _is_there(self, place: int) -> bool:
        content = self._content(place)
        return self._counts[content] > 1 or content in self.taken

    def _values(self, place: int) -> dict[str, str | float]:
        return {axis: self._columns[axis][place] for axis in self.recipe.axes}

    def _content(self, place: int) -> str:
        """Digest of what the model gets, whatever the values are called."""
        values, line = self._values(place), str(self._columns[_LINE][place])
        key = (*(values[axis] for axis in self._content_axes), line)
        found = self._contents.get(key)
        if found is None:
            image = self.images[str(values["image"])].partition("?")[0] if "image" in values else None
            told = [values["language"], self.recipe.describe(values), _speaker(values), line]
            text = json.dumps([*told, values.get("background_sound"), image], ensure_ascii=False)
            found = self._contents[key] = hashlib.sha256(text.encode()).hexdigest()[: 2 * _CONTENT_BYTES]
        return found

    def _request(self, place: int) -> ClipRequest:
        values, line = self._values(place), str(self._columns[_LINE][place])
        language = cast(Language, values["language"])
        prompt = {
            "description": self.recipe.describe(values),
            "dialogue": [{"speaker": _speaker(values), "line": line}],
            "background_sound": values.get("background_sound"),
        }
        given: dict[str, str | float] = {
            axis: values[axis] for axis in ("language", "resolution", "aspect") if axis in values
        }
        if "image" in values:
            given["image"] = self.images[str(values["image"])]
        labels = {axis: value for axis, value in values.items() if axis not in REQUEST_AXES}
        try:
            return ClipRequest.model_validate(
                {
                    **given,
                    "id": f"{self.recipe.name}-{self.partition}-{place:06d}",
                    "prompt": prompt,
                    "seconds": self.recipe.seconds(line, language, values.get("seconds")),
                    "seed": _number(self.recipe.seed, self.partition, "clip", place),
                    "metadata": {"partition": self.partition, "split": self._columns[_SPLIT][place], **labels},
                }
            )
        except ValidationError as error:
            raise RecipeError(f"a clip of the recipe cannot be asked for: {tell(error)}") from error

    def _clip(self, place: int) -> SampledClip:
        return SampledClip(
            values=self._values(place),
            line=str(self._columns[_LINE][place]),
            split=str(self._columns[_SPLIT][place]),
            content=self._content(place),
            request=self._request(place),
        )

    def _require_enough_contents(self) -> None:
        others = math.prod(len(self.recipe.drawn(axis)) for axis in self._content_axes if axis != "language")
        wanted = Counter(self._columns["language"])
        for language, number in wanted.items():
            possible = others * len(self.recipe.lines[cast(Language, language)])
            if number > possible:
                raise RecipeError(
                    f"{number:,} clips in {language} are asked for, and its lines and the axes give {possible:,} "
                    "different ones: add lines or values, or ask for fewer clips"
                )

    def _why_impossible(self) -> str:
        """What no dealing out can keep, seen by counting; "" where a trial is worth while."""
        counts = {axis: Counter(self._columns[axis]) for axis in self.recipe.axes}
        for number, constraint in enumerate(self.recipe.constraints, 1):
            (axis, wanted), *more = constraint.when.items()
            for other, values in (constraint.allow or constraint.forbid or {}).items():
                num_wanted = sum(counts[axis][value] for value in wanted)
                num_listed = sum(counts[other][value] for value in values)
                room = num_listed if constraint.allow else self.num_clips - num_listed
                if not more and axis != other and num_wanted > room:
                    return (
                        f"constraint {number} ({constraint}) cannot hold: by weights {num_wanted:,} of "
                        f"{self.num_clips:,} clips are of its first part, and {room:,} have what it asks of {other}"
                    )
        return ""

    def why(self) -> str:
        """What is in the way: still broken, the most frequent first."""
        if impossible := self._why_impossible():
            return impossible
        reasons: Counter[str] = Counter()
        for place in range(self.num_clips):
            values = self._values(place)
            for number, constraint in enumerate(self.recipe.constraints, 1):
                reasons[f"break constraint {number} ({constraint})"] += constraint.is_broken_by(values)
            reasons["have a line that takes longer than their seconds"] += self._is_too_long(place)
            content = self._content(place)
            reasons["are the same as another clip"] += self._counts[content] > 1
            reasons["are in another partition already"] += content in self.taken
        told = "; ".join(f"{number:,} {reason}" for reason, number in reasons.most_common(3) if number)
        return (
            f"no way was found to keep the weights of {self.num_clips:,} clips: {told}. Change weights or constraints, "
            "add lines or values, or ask for fewer clips"
        )


def _speaker(values: Mapping[str, str | float]) -> str:
    return str(values.get("speaker", "Speaker"))


def _number(*parts: object) -> int:
    """48 bits drawn from names and numbers."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:6])
