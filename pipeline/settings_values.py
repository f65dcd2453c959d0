"""Settings as text: a YAML file and overrides become plain values, or one line that says what is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml
from pydantic import ValidationError

from actors.plain_text import printable, shown
from actors.redaction import redact
from actors.storage import read_bytes

MAX_YAML_BYTES = 2**20


class _Loader(yaml.SafeLoader):
    """Plain values and nothing that is run; a name twice in one section is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = next((name for name in names if names.count(name) > 1 and name != "<<"), None)
        if twice is not None:
            raise ValueError(f"it names {printable(twice)} twice")
        return super().construct_mapping(node, deep)


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
            found = _parse(read_bytes(url))
        except (OSError, ValueError) as error:
            raise ValueError(f"{about}: {error}") from error
        values = {} if found is None else found
        if not isinstance(values, dict):
            raise ValueError(f"{about}: must hold names and values, got {type(values).__name__}")
    for override in overrides:
        _apply(values, override)
    return values


def tell(error: ValidationError) -> str:
    """The first problem in one line: name, value and what is allowed."""
    item = error.errors(include_url=False)[0]
    name = printable(".".join(str(part) for part in item["loc"]))
    if item["type"] == "extra_forbidden":
        return f"setting {name} is unknown"
    return f"setting {name}={shown(item['input'])}: {item['msg']}"


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
        values[last] = _parse(text)
    except ValueError as error:
        raise ValueError(f"{about}: the value is not YAML: {error}") from error


def _parse(text: str | bytes) -> Any:
    if len(text) > MAX_YAML_BYTES:
        raise ValueError(f"must be at most {MAX_YAML_BYTES:,} bytes of YAML, got {len(text):,}")
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        place = "" if error.problem_mark is None else f" in line {error.problem_mark.line + 1}"
        raise ValueError(printable(f"{error.problem or error.context}{place}", 300)) from error
    except Exception as error:  # dates that are none, nesting without end, and more that its constructors stumble over
        raise ValueError(printable(" ".join(str(error).split()) or type(error).__name__, 300)) from error
