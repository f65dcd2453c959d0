"""YAML that users write: plain values, or one line that says what is wrong."""

from __future__ import annotations

from collections import Counter
from typing import Any

import yaml

from actors.plain_text import printable

MAX_YAML_BYTES = 2**20


class _Loader(yaml.SafeLoader):
    """Plain values and nothing that is run; a name twice in one section is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = next((name for name, number in Counter(names).items() if number > 1 and name != "<<"), None)
        if twice is not None:
            raise ValueError(f"it names {printable(twice)} twice")
        return super().construct_mapping(node, deep)


def parse_yaml(text: str | bytes, max_bytes: int = MAX_YAML_BYTES) -> Any:
    """What a YAML text of unknown origin holds.

    Raises:
        ValueError: one line: it is longer than `max_bytes`, or no YAML, or names something twice.
    """
    if len(text) > max_bytes:
        raise ValueError(f"must be at most {max_bytes:,} bytes of YAML, got {len(text):,}")
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        place = "" if error.problem_mark is None else f" in line {error.problem_mark.line + 1}"
        raise ValueError(printable(f"{error.problem or error.context}{place}", 300)) from error
    except Exception as error:  # dates that are none, nesting without end, and more that its constructors stumble over
        raise ValueError(printable(" ".join(str(error).split()) or type(error).__name__, 300)) from error
