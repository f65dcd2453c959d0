"""A recipe: what clips of a partition draw from, and how many there are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Self, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from actors.plain_text import NonEmpty, Text, printable, shown
from actors.redaction import redact
from actors.references import AllowedReferences, ReferenceRefused, folder_of
from actors.request import LANGUAGES, Language, describe_validation_error
from actors.storage import read_bytes
from pipeline.localization.campaign import MAX_SECONDS, MIN_SECONDS
from pipeline.localization.scripts import require_sayable
from pipeline.localization.speaking import speaking_seconds
from pipeline.synthesis.axes import PLACE, Axis, AxisValue, Constraint, first_double, plain, weight_of
from pipeline.yaml_values import parse_yaml

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
"""Of recipes, partitions and splits: they stand in names of files, and a dot would cut the keys of shards."""
MAX_CLIPS = 1_000_000
"""Of one partition."""
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
_FIXED = {
    "language": tuple(LANGUAGES),
    "resolution": ("256p", "540p", "1080p"),
    "aspect": ("16:9", "9:16", "1:1"),
}


class RecipeError(ValueError):
    """A recipe cannot be followed; one line that names the field, its value and what is allowed."""


def _share(given: Any) -> float:
    weight = weight_of(given)
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


Name = Annotated[str, BeforeValidator(_name_of_files)]
Line = Annotated[NonEmpty, BeforeValidator(_line)]


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
        if (twice := first_double(split.lower() for split in self.splits)) is not None:
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
                    told = ", ".join(map(plain, known))
                    raise ValueError(f"constraint {number} speaks of {axis} {plain(value)}, which has {told}")
        return self

    def drawn(self, axis: str) -> tuple[AxisValue, ...]:
        """Values of an axis that come at all."""
        return tuple(one for one in self.axes[axis] if one.weight)

    def _check_axes(self) -> None:
        if "language" not in self.axes:
            raise ValueError("axes must have language")
        places = [place.partition(".")[::2] for place in PLACE.findall(self.description)]
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
            if (twice := first_double(lines)) is not None:
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

        return PLACE.sub(text, self.description)

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
