"""Reading a campaign: every row becomes a scene, or a failure that says what to mend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from actors.limits import MAX_ROW_BYTES
from actors.plain_text import NonEmpty, Reference, Text, printable
from actors.request import ID_PATTERN, describe_validation_error
from actors.row import Failure
from actors.strict_json import parse_json
from pipeline.plain_values import plain_value
from pipeline.row_files import BadLine, read_rows

SUFFIXES = (".jsonl", ".ndjson", ".csv", ".parquet", ".yaml", ".yml")
"""Of a campaign's name; `.gz` may follow."""
MIN_SECONDS, MAX_SECONDS = 1.0, 10.0
"""How long a clip of a campaign may be."""
MAX_ID_CHARACTERS = 100
"""Of a scene: language and number follow in a clip's id, which may have 128."""

_LINE_PREFIX = "line."


class Scene(BaseModel):
    """One row of a campaign: what is seen, and what is said in each language.

    Attributes:
        id: first part of the clips' ids.
        scene: description, in English.
        speaker: who speaks, as the prompt names them.
        line: language code to what is said; checked one by one, see `pipeline.localization.expansion`.
        image: what the clips start with; as written, relative to the campaign's folder.
        background_sound: what is heard besides.
        resolution: label.
        aspect: label.
        seconds: length of every clip; None: as long as its line takes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    scene: NonEmpty
    speaker: NonEmpty = "Speaker"
    line: dict[str, Any]
    image: Reference | None = None
    background_sound: Text | None = None
    resolution: Literal["256p", "540p", "1080p"] = "256p"
    aspect: Literal["16:9", "9:16", "1:1"] = "16:9"
    seconds: Annotated[float, Field(ge=MIN_SECONDS, le=MAX_SECONDS, allow_inf_nan=False)] | None = None

    @field_validator("id")
    @classmethod
    def _id_is_a_safe_name(cls, value: str) -> str:
        if not ID_PATTERN.fullmatch(value) or len(value) > MAX_ID_CHARACTERS:
            most = f"1 to {MAX_ID_CHARACTERS} letters, digits, dots, underscores or hyphens"
            raise ValueError(f"must be {most}, starting with a letter or digit")
        return value

    @field_validator("seconds", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError("must be a number")
        return value


@dataclass(frozen=True)
class CampaignRow:
    """One row of a campaign; exactly one of `scene` and `failure` is set.

    Attributes:
        row: where it ends, counted from 1 (in CSV the header is line 1; in Parquet and YAML the row's number).
        id: of the scene, as far as it can be told.
        scene: validated.
        failure: what is wrong with all of it.
    """

    row: int
    id: str
    scene: Scene | None = None
    failure: Failure | None = None


def read_campaign(url: str) -> list[CampaignRow]:
    """Read and validate a campaign.

    Raises:
        RowFileError: if the file cannot be read, or has another suffix.
    """
    first_rows: dict[str, int] = {}
    rows = []
    for number, values in read_rows(url, "campaign", SUFFIXES):
        row = (
            _refused(number, "", "row", values.text, values.reason)
            if isinstance(values, BadLine)
            else _row(number, values)
        )
        if row.scene is not None and (first := first_rows.setdefault(row.id.lower(), number)) != number:
            reason = f"is used already in row {first}; ids must be unique, also where upper and lower case are one"
            row = _refused(number, row.id, "id", row.id, reason)
        rows.append(row)
    return rows


def _row(number: int, values: Mapping[str, Any]) -> CampaignRow:
    scene_id = printable(str(values.get("id") or ""))
    try:
        nested = _nested({str(name): plain_value(value) for name, value in values.items()})
    except ValueError as error:
        return _refused(number, scene_id, "row", None, str(error))
    if unknown := next((name for name in nested if name not in Scene.model_fields), None):
        known = ", ".join([*(name for name in Scene.model_fields if name != "line"), "line.<language>"])
        return _refused(number, scene_id, printable(unknown), nested[unknown], f"is unknown; known here: {known}")
    try:
        return CampaignRow(number, scene_id, scene=Scene.model_validate(nested))
    except ValidationError as error:
        field, value, reason = describe_validation_error(error)
        return _refused(number, scene_id, field, value, reason)


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """The row with its lines in one map, without empty cells.

    Raises:
        ValueError: `line` holds what is no map.
    """
    lines = values.get("line") or {}
    if isinstance(lines, str) and len(lines) <= MAX_ROW_BYTES:
        lines = parse_json(lines)
    if not isinstance(lines, Mapping):
        raise ValueError("line must map languages to what is said, or be written as line.en, line.ja, ...")
    lines = dict(lines)
    nested: dict[str, Any] = {}
    for name, value in values.items():
        if name.startswith(_LINE_PREFIX):
            lines[name.removeprefix(_LINE_PREFIX)] = value
        elif name != "line" and value not in (None, ""):
            nested[name] = value
    return nested | {"line": {language: text for language, text in lines.items() if text not in (None, "")}}


def _refused(number: int, scene_id: str, field: str, value: Any, reason: str) -> CampaignRow:
    return CampaignRow(number, scene_id, failure=Failure("campaign", field, value, reason))
