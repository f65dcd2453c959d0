"""Settings as text: a YAML file and overrides become plain values, or one line that says what is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from pydantic import BaseModel, ValidationError

from actors.plain_text import printable, shown
from actors.redaction import redact
from actors.storage import read_bytes
from pipeline.yaml_values import parse_yaml


def read_values(url: str | None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Values of a YAML file, with overrides on top.

    Args:
        url: any fsspec URL, or None for no file.
        overrides: `name=value` or `section.name=value`, values in YAML.

    Raises:
        ValueError: one line that names the file or the override.
    """
    values: dict[str, Any] = {}
    if url is not None:
        about = f"settings {redact(url)}"
        try:
            found = parse_yaml(read_bytes(url))
        except (OSError, ValueError) as error:
            raise ValueError(f"{about}: {error}") from error
        values = {} if found is None else found
        if not isinstance(values, dict):
            raise ValueError(f"{about}: must hold names and values, got {type(values).__name__}")
    for override in overrides:
        _apply(values, override)
    return values


def tell(error: ValidationError, settings: type[BaseModel]) -> str:
    """The first problem with values of `settings` in one line: name, value and what is allowed."""
    item = error.errors(include_url=False)[0]
    name = printable(".".join(str(part) for part in item["loc"]))
    if item["type"] == "extra_forbidden":
        return f"setting {name} is unknown; known here: {', '.join(_section(settings, item['loc']).model_fields)}"
    return redact(f"setting {name}={shown(item['input'])}: {item['msg']}")


def _section(settings: type[BaseModel], path: Sequence[int | str]) -> type[BaseModel]:
    """The section in which the last part of a path stands."""
    for part in path[:-1]:
        settings = cast(type[BaseModel], settings.model_fields[str(part)].annotation)
    return settings


def _apply(values: dict[str, Any], override: str) -> None:
    about = f"override {shown(override)}"
    name, separator, text = override.partition("=")
    if not separator or not name:
        raise ValueError(f"{about}: must look like name=value")
    *sections, last = name.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ValueError(f"{about}: {printable(section)} is no section")
    try:
        values[last] = parse_yaml(text)
    except ValueError as error:
        raise ValueError(f"{about}: the value is not YAML: {error}") from error
