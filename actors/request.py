"""What a user asks for: one validated request per clip, and the prompt text composed from it."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from actors.limits import MAX_METADATA_BYTES, MAX_PROMPT_CHARACTERS, MAX_ROW_BYTES
from actors.plain_text import NonEmpty, Reference, Text, printable, require_plain_values
from actors.strict_json import parse_json
from model.geometry import MIN_SECONDS, ClipLength, max_seconds

LANGUAGES = {
    "zh": "Mandarin",
    "yue": "Cantonese",
    "en": "English",
    "ja": "Japanese",
    "ko": "Korean",
    "de": "German",
    "fr": "French",
}
"""BCP 47 code to the name prompts use."""

Language = Literal["zh", "yue", "en", "ja", "ko", "de", "fr"]

MAX_SEED = 2**63 - 1
ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

_MAX_LINES = 1000
_MAX_TOLD = 5
"""Problems of one row that are told of; the rest is counted."""

_CJK = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_BETWEEN_CJK = re.compile(f"(?<=[{_CJK}])(?=[{_CJK}])")


class DialogueLine(BaseModel):
    """One thing somebody says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    speaker: NonEmpty
    line: NonEmpty
    language: Language | None = None
    """Defaults to the request's language."""


class StructuredPrompt(BaseModel):
    """A prompt in the parts the model was trained on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: NonEmpty
    dialogue: tuple[DialogueLine, ...] = ()
    background_sound: Text | None = None

    @field_validator("dialogue", mode="before")
    @classmethod
    def _dialogue_is_not_too_long(cls, value: Any) -> Any:
        if isinstance(value, list | tuple) and len(value) > _MAX_LINES:  # before each of them is looked at
            raise ValueError(f"must have at most {_MAX_LINES:,} lines, got {len(value):,}")
        return value

    @property
    def num_characters(self) -> int:
        """Of all its parts."""
        spoken = sum(len(line.speaker) + len(line.line) for line in self.dialogue)
        return len(self.description) + spoken + len(self.background_sound or "")


Prompt = Annotated[
    Annotated[NonEmpty, Tag("text")] | Annotated[StructuredPrompt, Tag("structured")],
    Discriminator(lambda value: "structured" if isinstance(value, dict | StructuredPrompt) else "text"),
]
"""Free text, or the parts."""


class ClipRequest(BaseModel):
    """One row of a manifest, validated.

    `seconds` defaults to the length of `audio` where there is one, else to what the checkpoint says (the release: 5).
    How long it may be depends on `audio` and `resolution`, so it stands behind them: fields are validated in order.
    What is checked here is what the release allows; a checkpoint may allow less, see `model.capabilities`. `seed`
    defaults to a hash of the id, so that a row gives the same clip wherever and however often it runs.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    prompt: Prompt
    language: Language
    image: Reference | None = None
    audio: Reference | None = None
    resolution: Literal["256p", "540p", "1080p"] = "256p"
    aspect: Literal["16:9", "9:16", "1:1"] = "16:9"
    seconds: Annotated[float, Field(ge=MIN_SECONDS, allow_inf_nan=False)] | None = None
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)

    @field_validator("id")
    @classmethod
    def _id_is_a_safe_name(cls, value: str) -> str:
        if not ID_PATTERN.fullmatch(value):
            raise ValueError(
                "must be 1 to 128 letters, digits, dots, underscores or hyphens, starting with a letter or digit"
            )
        return value

    @field_validator("prompt", "metadata", mode="before")
    @classmethod
    def _may_be_json_text(cls, value: Any) -> Any:
        # A flat file (CSV) can hold a structure only as JSON in one cell.
        if isinstance(value, str) and value.lstrip().startswith("{"):
            if len(value) > MAX_ROW_BYTES:
                raise ValueError(f"must be at most {MAX_ROW_BYTES:,} characters of JSON, got {len(value):,}")
            try:
                return parse_json(value)
            except ValueError as error:
                raise ValueError(f"starts like JSON but is not: {error}") from error
        return value

    @field_validator("prompt")
    @classmethod
    def _prompt_is_not_too_long(cls, value: str | StructuredPrompt) -> str | StructuredPrompt:
        if isinstance(value, StructuredPrompt) and value.num_characters > MAX_PROMPT_CHARACTERS:
            most = f"at most {MAX_PROMPT_CHARACTERS:,} characters long in all"
            raise ValueError(f"must be {most}, got {value.num_characters:,}")
        return value

    @field_validator("metadata")
    @classmethod
    def _metadata_is_small_and_plain(cls, value: dict[str, Any]) -> dict[str, Any]:
        if value:
            require_plain_values(value)
            num_bytes = len(json.dumps(value, ensure_ascii=False, default=str).encode())
            if num_bytes > MAX_METADATA_BYTES:
                raise ValueError(f"must be at most {MAX_METADATA_BYTES:,} bytes of JSON, got {num_bytes:,}")
        return value

    @field_validator("seconds", "seed", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError("must be a number")
        return value

    @field_validator("seconds")
    @classmethod
    def _seconds_are_possible(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is None or not {"audio", "resolution"} <= info.data.keys():
            return value  # a field at fault is not there, and is told of itself
        has_audio, resolution = info.data["audio"] is not None, info.data["resolution"]
        limit = max_seconds(resolution, has_audio)
        if value > limit:
            raise ValueError(f"must be at most {limit:g} " + (f"at {resolution}" if has_audio else "without audio"))
        return value

    @property
    def resolved_seed(self) -> int:
        """The seed given, or one derived from the id."""
        if self.seed is not None:
            return self.seed
        return int.from_bytes(hashlib.sha256(self.id.encode()).digest()[:6])  # exact in JavaScript and spreadsheets too

    def stage_seed(self, stage: str) -> int:
        """A seed of its own for every stage, so that no stage depends on how many numbers another one drew."""
        return int.from_bytes(hashlib.sha256(f"{self.resolved_seed}/{stage}".encode()).digest()[:8]) & MAX_SEED

    @property
    def is_super_resolved(self) -> bool:
        """Whether the clip passes latent super-resolution."""
        return self.resolution != "256p"

    def text_length(self, default_seconds: float) -> ClipLength:
        """Length of a clip that is made from text; where there is audio, that decides.

        Args:
            default_seconds: of a request that names no length, as the checkpoint says.
        """
        return ClipLength.from_seconds(self.seconds if self.seconds is not None else default_seconds)

    def prompt_text(self) -> str:
        """The text the encoder sees: free text as it is, a structured prompt in the release's form."""
        if isinstance(self.prompt, str):
            return self.prompt
        parts = [self.prompt.description.strip()]
        if self.prompt.dialogue:
            lines = [self._dialogue_text(line) for line in self.prompt.dialogue]
            parts.append("\n".join(["Dialogue:", *lines]))
        sound = self.prompt.background_sound or "No prominent background sound"
        parts.append(f"Background Sound:\n<{sound.strip()}>")
        return "\n\n".join(parts)

    def _dialogue_text(self, line: DialogueLine) -> str:
        language = LANGUAGES[line.language or self.language]
        return f'<{line.speaker}, {language}>: "{space_cjk(line.line.strip())}"'


def space_cjk(text: str) -> str:
    """Put a space between neighbouring Han, kana and Hangul characters, as the release's prompts do."""
    return _BETWEEN_CJK.sub(" ", text)


def describe_validation_error(error: ValidationError) -> tuple[str, Any, str]:
    """Turn pydantic's report into (field, value, what is wrong and what is allowed), first problem first.

    More problems are appended to the reason, the first few of them, so that a user mends a row once.
    """
    problems: dict[str, tuple[Any, str]] = {}
    for item in error.errors(include_url=False):
        path = [str(part) for part in item["loc"]]
        if path[:1] == ["prompt"]:
            path[1:2] = []  # the name of the alternative, which no user knows
        value = None if item["type"] == "missing" else item.get("input")
        problems.setdefault(".".join(path) or "row", (value, _reason(item, path)))
    (field, (value, reason)), *others = problems.items()
    more = "".join(f"; also {printable(name)} {why}" for name, (_, why) in others[:_MAX_TOLD])
    more += f"; and {len(others) - _MAX_TOLD:,} more" if len(others) > _MAX_TOLD else ""
    return printable(field), value, reason + more


def _reason(item: Any, path: list[str]) -> str:
    context = item.get("ctx", {})
    match item["type"]:
        case "missing":
            return "is missing"
        case "extra_forbidden":
            owner = {"prompt": StructuredPrompt}.get(path[0], ClipRequest) if len(path) < 3 else DialogueLine
            return f"is unknown; known here: {', '.join(owner.model_fields)}"
        case "literal_error":
            return f"must be one of {context['expected']}"
        case "string_pattern_mismatch" | "string_too_short":
            return "must not be empty"
        case "string_too_long":
            return f"must be at most {context['max_length']:,} characters long"
        case "string_unicode":
            return "must not hold half a character (a surrogate without its partner)"
        case "string_type":
            return "must be text"
        case "dict_type" | "model_type":
            return "must be an object"
        case "tuple_type" | "list_type":
            return "must be a list"
        case "greater_than_equal":
            return f"must be at least {_number(context['ge'])}"
        case "less_than_equal":
            return f"must be at most {_number(context['le'])}"
        case "float_parsing" | "float_type" | "int_parsing" | "int_parsing_size" | "finite_number":
            return "must be a number"
        case "int_from_float" | "int_type":
            return "must be a whole number"
        case _:
            message = " ".join(item["msg"].removeprefix("Value error, ").split())
            return message[0].lower() + message[1:]


def _number(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
