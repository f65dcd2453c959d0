"""Input nobody means well with: what fuzz tests draw from, and how files are damaged. The same cases in every run."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st


def repeatable(max_examples: int) -> settings:
    """Settings of a fuzz test."""
    return settings(
        max_examples=max_examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def outcome(call: Callable[[], Any], *errors: type[Exception]) -> tuple[Any, Any]:
    """What a call gives and None, or None and the error; any other error is not caught."""
    try:
        return call(), None
    except errors as error:
        return None, error


ODD_TEXTS = [
    *("", " ", "\x00", "a\x00b", "\x1b[31mred", "a\r\nb", "\u202egnp.exe", "\ud83d", "\ufeffid", "{", "[" * 3000),
    *("../../etc/passwd", "/etc/passwd", "~/x", "file:///etc/passwd", "http://169.254.169.254/", "a::b", "zip://a::b"),
    *("NaN", "Infinity", "-1", "1e400", "9" * 5000, "0x10", "true", "null", "${jndi:ldap://x}", "{{7*7}}", "%s%n"),
    *("<script>alert(1)</script>", "'; DROP TABLE clips; --", "x" * 30_000, "[/red]", "!!python/object:os.system x"),
]
ODD_NUMBERS = [float("nan"), float("inf"), -1, -0.0, 0, 1e308, 2**63, 2**64, 10**400, 1e-320, True, False]

texts = st.one_of(
    st.sampled_from(ODD_TEXTS), st.text(max_size=40), st.text(st.characters(categories=["Cs", "Cc", "Cf"]))
)
numbers = st.one_of(st.sampled_from(ODD_NUMBERS), st.integers(), st.floats())
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=12,
)


def nested(depth: int) -> Any:
    """Objects in objects."""
    value: Any = "end"
    for _ in range(depth):
        value = {"k": value}
    return value


@st.composite
def rows(draw: st.DrawFn) -> dict[str, Any]:
    """A row of a manifest that was good before one to three of its fields were replaced, added or taken away."""
    row: dict[str, Any] = {"id": "a", "prompt": "A woman speaks.", "language": "en", "seconds": 1, "seed": 3}
    known = [*row, "image", "audio", "resolution", "aspect", "metadata", "dead_letter", "raw"]
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.one_of(st.sampled_from(known), texts))
        kind = draw(st.integers(0, 9))
        if kind == 0:
            row.pop(name, None)
        elif kind == 1:
            row[name] = nested(draw(st.sampled_from([1, 49, 60, 400])))
        elif kind == 2:
            row["prompt"] = {"description": draw(values), "dialogue": draw(st.lists(values, max_size=3)), name: 1}
        else:
            row[name] = draw(values)
    return row


def to_json(value: Any) -> bytes:
    """JSON with everything Python lets pass; numbers of any length are cut, as no parser here reads them."""
    return json.dumps(value).encode()


@st.composite
def damages(draw: st.DrawFn) -> tuple[int, str, float]:
    """What `damage` takes."""
    kind = draw(st.sampled_from(["cut", "flip", "flip many", "zeros", "ones", "twice", "swap", "tail"]))
    return draw(st.integers(0, 2**32)), kind, draw(st.floats(0, 1))


def damage(data: bytes, how: tuple[int, str, float]) -> bytes:
    """Damage a file in one way at one place.

    Args:
        data: of the file.
        how: seed, kind, and where, from 0 to 1.
    """
    seed, kind, where = how
    rng = random.Random(seed)
    place = min(int(where * len(data)), len(data) - 1)
    few = rng.randrange(1, 40)
    match kind:
        case "cut":
            return data[:place]
        case "flip":
            return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]
        case "flip many":
            changed = bytearray(data)
            for _ in range(few):
                changed[rng.randrange(len(changed))] = rng.randrange(256)
            return bytes(changed)
        case "zeros":
            return data[:place] + bytes(few) + data[place + few :]
        case "ones":
            return data[:place] + b"\xff" * few + data[place + few :]
        case "twice":
            return data[:place] + data[place // 2 :]
        case "swap":
            return data[place:] + data[:place]
        case _:
            return data + rng.randbytes(few * 50)
