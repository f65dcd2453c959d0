"""A recipe: which values clips draw from, how often, and which do not go together."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Self, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from actors.limits import MAX_PROMPT_CHARACTERS
from actors.plain_text import NonEmpty, Text, printable, require_plain, shown
from actors.redaction import redact
from actors.references import AllowedReferences, ReferenceRefused, folder_of
from actors.request import LANGUAGES, Language, describe_validation_error
from actors.storage import read_bytes
from pipeline.localization.campaign import MAX_SECONDS, MIN_SECONDS
from pipeline.localization.scripts import require_sayable
from pipeline.localization.speaking import speaking_seconds
from pipeline.yaml_values import parse_yaml

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
"""Of recipes, partitions and splits: they stand in names of files, and a dot would cut the keys of shards."""
MAX_CLIPS = 1_000_000
"""Of one partition."""
MAX_WEIGHT = 1_000_000_000
MAX_RECIPE_BYTES = 16 * 2**20
"""Lines stand in it."""

REQUEST_AXES = ("language", "resolution", "aspect", "seconds", "image", "background_sound")
"""Axes that are fields of a request; `speaker` names who speaks, and it and every other axis tell what is seen."""
SIZE_AXES = ("resolution", "aspect", "seconds")
"""Clips that differ in these alone are the same content."""

_AXIS_PATTERN = re.compile(r"[a-z][a-z0-9_]{0,39}")
COLUMNS_OF_ALL = (
    *("id", "partition", "split", "content", "caption", "transcript", "prompt", "seconds", "audio_seconds"),
    *("num_frames", "width", "height", "seed", "media", "sha256", "media_sha256", "num_bytes", "fingerprint"),
    *("shard", "place"),
)
"""Columns of every index, beside those of axes that are fields of a request."""
_PLACE = re.compile(r"\{([^{}]*)\}")
_FIXED = {
    "language": tuple(LANGUAGES),
    "resolution": ("256p", "540p", "1080p"),
    "aspect": ("16:9", "9:16", "1:1"),
}


class RecipeError(ValueError):
    """A recipe cannot be followed; one line that names the field, its value and what is allowed."""


@dataclass(frozen=True)
class AxisValue:
    """One value of an axis.

    Attributes:
        value: its name, which the index keeps; of `seconds` a number.
        weight: how often it comes, beside the others.
        texts: what stands in the description for it: "text" for `{axis}`, and others for `{axis.name}`.
    """

    value: str | float
    weight: float
    texts: Mapping[str, str]


def _number(given: Any, what: str) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given <= MAX_WEIGHT:
        raise ValueError(f"must have {what} from 0 to {MAX_WEIGHT:,}, got {shown(given)}")
    return float(given)


def _value(given: Any) -> str | float:
    """A value's name: text, or a number."""
    if isinstance(given, str) and given.strip():
        require_plain(given)
        return given.strip()
    if isinstance(given, bool) or not isinstance(given, int | float) or not abs(given) <= MAX_WEIGHT:
        hint = "yes, no and times such as 16:9 need quotes"
        raise ValueError(f"must have texts or numbers for values, got {shown(given)}; {hint}")
    return float(given)


def _axis(given: Any) -> tuple[AxisValue, ...]:
    """Values of an axis, from a list, a map to weights, or one value."""
    if isinstance(given, Mapping):
        items: list[Any] = [{"value": value, "weight": weight} for value, weight in given.items()]
    else:
        items = list(given) if isinstance(given, list | tuple) else [given]
    values = [_axis_value(item) for item in items]
    if not values:
        raise ValueError("must have a value")
    twice = _first_double(value.value for value in values)
    if twice is not None:
        raise ValueError(f"must not have {shown(twice)} twice")
    if not any(value.weight for value in values):
        raise ValueError("must have a weight above 0")
    return tuple(values)


def _first_double(values: Iterable[Any]) -> Any:
    return next((value for value, number in Counter(values).items() if number > 1), None)


def _axis_value(item: Any) -> AxisValue:
    if isinstance(item, AxisValue):
        return item
    if not isinstance(item, Mapping):
        item = {"value": item}
    value, weight = _value(item.get("value")), _number(item.get("weight", 1), "weights")
    others = {str(name): text for name, text in item.items() if name not in ("value", "weight")}
    texts = {"text": _plain(value)} | others
    for name, text in [("value", _plain(value)), *texts.items()]:
        if not isinstance(text, str):
            raise ValueError(f"must have texts besides value and weight, got {name}: {shown(text)}")
        require_plain(text, allows_layout=True)
        if len(text) > MAX_PROMPT_CHARACTERS or _PLACE.search(text):
            raise ValueError(f"must not hold braces, or more than {MAX_PROMPT_CHARACTERS:,} characters: {shown(text)}")
    texts = {name: text.strip() for name, text in texts.items()}
    return AxisValue(value, weight, texts)


def _condition(given: Any) -> dict[str, tuple[str | float, ...]]:
    """Axis to the values meant, of which each may be written without a list."""
    if not isinstance(given, Mapping) or not given:
        raise ValueError("must map axes to their values")
    found: dict[str, tuple[str | float, ...]] = {}
    for axis, values in given.items():
        values = values if isinstance(values, list | tuple) else [values]
        if not values:
            raise ValueError(f"must name a value of {shown(axis)}")
        found[str(axis)] = tuple(_value(value) for value in values)
    return found


def _share(given: Any) -> float:
    weight = _number(given, "weights")
    if not weight:
        raise ValueError("must have weights above 0")
    return weight


def _line(given: Any) -> Any:
    return given.strip() if isinstance(given, str) else given


def _name_of_files(given: Any) -> str:
    if not isinstance(given, str) or not NAME_PATTERN.fullmatch(given):
        allowed = "1 to 40 letters, digits, underscores or hyphens, starting with a letter or digit"
        raise ValueError(f"must be {allowed}, got {shown(given)}")
    return given


Axis = Annotated[tuple[AxisValue, ...], BeforeValidator(_axis)]
Condition = Annotated[dict[str, tuple[str | float, ...]], BeforeValidator(_condition)]
Name = Annotated[str, BeforeValidator(_name_of_files)]
Line = Annotated[NonEmpty, BeforeValidator(_line)]


class Constraint(BaseModel):
    """Values that do not go together: where all of `when` holds, each of `allow` must and none of `forbid` may.

    Attributes:
        when: axis to values.
        allow: axis to the values it may have then.
        forbid: axis to the values it must not have then.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    when: Condition
    allow: Condition | None = None
    forbid: Condition | None = None

    @model_validator(mode="before")
    @classmethod
    def _says_something(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or set(given) - {"when", "allow", "forbid"} or "when" not in given:
            raise ValueError("must hold when, and allow or forbid")
        if (given.get("allow") is None) == (given.get("forbid") is None):
            raise ValueError("must hold one of allow and forbid")
        return given

    def is_broken_by(self, values: Mapping[str, str | float]) -> bool:
        """Whether a clip's values are not allowed together."""
        if any(values[axis] not in wanted for axis, wanted in self.when.items()):
            return False
        if self.allow is not None:
            return any(values[axis] not in allowed for axis, allowed in self.allow.items())
        return any(values[axis] in refused for axis, refused in (self.forbid or {}).items())

    def mentions(self) -> Iterator[tuple[str, str | float]]:
        """Axes and values it speaks of."""
        for part in (self.when, self.allow, self.forbid):
            for axis, values in (part or {}).items():
                yield from ((axis, value) for value in values)

    def __str__(self) -> str:
        kind, values = ("allow", self.allow) if self.allow is not None else ("forbid", self.forbid)
        return f"when {_told(self.when)} {kind} {_told(values or {})}"


def _told(condition: Mapping[str, Sequence[str | float]]) -> str:
    parts = (f"{axis} {'|'.join(map(_plain, values))}" for axis, values in condition.items())
    return ", ".join(parts)


def _plain(value: str | float) -> str:
    return f"{value:g}" if isinstance(value, float) else printable(value, 40)


class Recipe(BaseModel):
    """What the clips of a partition draw from.

    Attributes:
        name: first part of the clips' ids.
        seed: of all that is drawn.
        clips: of a partition; or
        hours: of a partition, as lines and `seconds` say.
        axes: name to values; `language` is asked for, and each that is no field of a request stands in `description`.
        lines: language to what may be said in it.
        description: what is seen, with the axes' texts in braces: `{axis}`, or `{axis.name}` for others than "text".
        constraints: what does not go together.
        splits: name to weight.
        about: what the data card says first.
        license: for the data card.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    seed: Annotated[int, Field(ge=0, lt=2**63, strict=True)] = 0
    clips: Annotated[int, Field(ge=1, le=MAX_CLIPS, strict=True)] | None = None
    hours: Annotated[float, Field(gt=0, le=10_000, strict=True)] | None = None
    axes: dict[str, Axis]
    lines: dict[Language, tuple[Line, ...]]
    description: NonEmpty
    constraints: tuple[Constraint, ...] = ()
    splits: Annotated[dict[Name, Annotated[float, BeforeValidator(_share)]], Field(min_length=1)] = {"train": 1.0}
    about: Text = ""
    license: Annotated[str, Field(max_length=100)] = ""

    @model_validator(mode="after")
    def _hangs_together(self) -> Self:
        if (self.clips is None) == (self.hours is None):
            raise ValueError("one of clips and hours must be there")
        if (twice := _first_double(split.lower() for split in self.splits)) is not None:
            raise ValueError(f"splits must differ where upper and lower case are one, got {twice} twice")
        self._check_axes()
        self._check_lines()
        for number, constraint in enumerate(self.constraints, 1):
            for axis, value in constraint.mentions():
                if axis not in self.axes:
                    raise ValueError(
                        f"constraint {number} speaks of {printable(axis)}, axes are {', '.join(self.axes)}"
                    )
                if value not in (known := [one.value for one in self.axes[axis]]):
                    told = ", ".join(map(_plain, known))
                    raise ValueError(f"constraint {number} speaks of {axis} {_plain(value)}, which has {told}")
        return self

    def drawn(self, axis: str) -> tuple[AxisValue, ...]:
        """Values of an axis that come at all."""
        return tuple(one for one in self.axes[axis] if one.weight)

    def _check_axes(self) -> None:
        if "language" not in self.axes:
            raise ValueError("axes must have language")
        places = [place.partition(".")[::2] for place in _PLACE.findall(self.description)]
        for axis, values in self.axes.items():
            if not _AXIS_PATTERN.fullmatch(axis):
                raise ValueError(
                    f"axes must have names of lower-case letters, digits and underscores, got {shown(axis)}"
                )
            if axis in COLUMNS_OF_ALL and axis not in REQUEST_AXES:
                raise ValueError(f"axes must not have {axis}: the index has a column of this name")
            for value in values:
                _check_value(axis, value.value)
            if axis not in (*REQUEST_AXES, "speaker"):
                _require_different_texts(axis, values)
            if axis not in (*REQUEST_AXES, "speaker") and axis not in [name for name, _ in places]:
                raise ValueError(f"description must hold {{{axis}}}, else the axis changes nothing")
        for axis, piece in places:
            if axis not in self.axes:
                raise ValueError(f"description must name axes in its braces, got {shown(axis)}")
            if lacking := next((one for one in self.axes[axis] if piece and piece not in one.texts), None):
                reason = f"which {shown(lacking.value)} of the axis does not have"
                raise ValueError(f"description must name texts of axes, got {{{axis}.{printable(piece)}}}, {reason}")

    def _check_lines(self) -> None:
        spoken = {one.value for one in self.drawn("language")}
        if missing := next((language for language in LANGUAGES if language in spoken - self.lines.keys()), None):
            raise ValueError(f"lines must have {missing}, which axes.language has")
        longest = max((float(one.value) for one in self.axes.get("seconds", ()) if one.weight), default=MAX_SECONDS)
        for language, lines in self.lines.items():
            if not lines:
                raise ValueError(f"lines.{language} must have a line")
            if (twice := _first_double(lines)) is not None:
                raise ValueError(f"lines.{language} must not have a line twice: {shown(twice)}")
            for line in lines:
                try:
                    require_sayable(line, language)
                except ValueError as error:
                    raise ValueError(f"lines.{language} {shown(line)} {error}") from error
                if (needed_s := speaking_seconds(line, language)) > longest:
                    reason = f"takes about {needed_s:.1f} s, the longest clip has {longest:g}: shorten it"
                    raise ValueError(f"lines.{language} {shown(line)} {reason}")

    @cached_property
    def texts(self) -> dict[str, dict[str | float, Mapping[str, str]]]:
        """Axis and value to what stands in the description for it."""
        return {axis: {one.value: one.texts for one in values} for axis, values in self.axes.items()}

    def describe(self, values: Mapping[str, str | float]) -> str:
        """What is seen in a clip of these values."""

        def text(place: re.Match[str]) -> str:
            axis, _, piece = place.group(1).partition(".")
            return self.texts[axis][values[axis]][piece or "text"]

        return _PLACE.sub(text, self.description)

    def mean_seconds(self) -> float:
        """Length of a clip in the mean over weights and lines."""
        if values := self.axes.get("seconds"):
            return sum(float(one.value) * one.weight for one in values) / sum(one.weight for one in values)
        total = 0.0
        for one in self.drawn("language"):
            language = cast(Language, one.value)
            lines = self.lines[language]
            total += one.weight * sum(self.seconds(line, language, None) for line in lines) / len(lines)
        return total / sum(one.weight for one in self.drawn("language"))

    def seconds(self, line: str, language: Language, value: str | float | None) -> float:
        """Length of a clip: that of its axis, or as its line takes."""
        return float(value) if value is not None else max(MIN_SECONDS, speaking_seconds(line, language))


def _require_different_texts(axis: str, values: Sequence[AxisValue]) -> None:
    by_texts: dict[tuple[tuple[str, str], ...], str | float] = {}
    for one in values:
        first = by_texts.setdefault(tuple(sorted(one.texts.items())), one.value)
        if first != one.value:
            raise ValueError(
                f"axes.{axis} must have another text for each value, got one for {shown([first, one.value])}"
            )


def _check_value(axis: str, value: str | float) -> None:
    if axis == "seconds":
        if isinstance(value, str) or not MIN_SECONDS <= value <= MAX_SECONDS:
            raise ValueError(
                f"axes.seconds must be numbers from {MIN_SECONDS:g} to {MAX_SECONDS:g}, got {shown(value)}"
            )
    elif not isinstance(value, str):
        raise ValueError(f"axes.{axis} must be texts, got {shown(value)}: put it in quotes")
    elif axis in _FIXED and value not in _FIXED[axis]:
        raise ValueError(f"axes.{axis} must be of {', '.join(_FIXED[axis])}, got {shown(value)}")


def read_recipe(url: str, references: AllowedReferences | None = None) -> Recipe:
    """Read and validate a recipe.

    Args:
        url: YAML file, any fsspec URL. `lines` of a language may name a file beside it, one line each.
        references: where such files may lie; None: below the recipe's own folder, bucket or host.

    Raises:
        RecipeError: what is wrong with it.
        StorageError: it cannot be read.
    """
    about = f"recipe {redact(url)}"
    try:
        values = parse_yaml(read_bytes(url), MAX_RECIPE_BYTES)
        if not isinstance(values, dict):
            raise ValueError(f"must hold names and values, got {type(values).__name__}")
        values = {str(name): value for name, value in values.items()}
        if (unknown := next((name for name in values if name not in Recipe.model_fields), None)) is not None:
            raise ValueError(f"{shown(unknown)} is unknown; known here: {', '.join(Recipe.model_fields)}")
        return Recipe.model_validate(values | {"lines": _with_files(values.get("lines"), url, references)})
    except ValidationError as error:
        raise RecipeError(f"{about}: {tell(error)}") from error
    except ValueError as error:
        raise RecipeError(f"{about}: {error}") from error


def tell(error: ValidationError) -> str:
    """The first problem of a recipe, or of a request drawn from it, in one line."""
    field, value, reason = describe_validation_error(error)
    return reason if field == "row" else f"{field}={shown(value)} {reason}"


def _with_files(lines: Any, recipe_url: str, references: AllowedReferences | None) -> Any:
    if not isinstance(lines, Mapping):
        raise ValueError(f"lines must map languages to lists of lines or to files of them, got {shown(lines)}")
    references = references or AllowedReferences.of_manifest(recipe_url)
    read: dict[str, Any] = {}
    for language, given in lines.items():
        if isinstance(given, str):
            try:
                url = references.resolve(given, folder_of(recipe_url))
                text = read_bytes(url).decode("utf-8-sig")
            except (ReferenceRefused, UnicodeDecodeError) as error:
                raise ValueError(f"lines.{printable(str(language))}={redact(shown(given))}: {error}") from error
            given = [line.strip() for line in text.splitlines() if line.strip()]
        read[str(language)] = given
    return read
