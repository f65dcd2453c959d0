"""What a folder was made from: written into it first, so that nothing of another make is added to it later."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from actors.checkpoint_source import open_checkpoint
from actors.storage import join, list_names, read_bytes, write_atomically
from model.layout import find_layout
from pipeline.lane import component_fingerprint

MADE_FROM_NAME = "made_from.json"


def read_made_from(folder_url: str) -> dict[str, Any] | None:
    """What `claim` wrote into a folder, or None."""
    if MADE_FROM_NAME not in list_names(folder_url):
        return None
    return dict(json.loads(read_bytes(join(folder_url, MADE_FROM_NAME))))


def claim(folder_url: str, made_from: Mapping[str, Any]) -> None:
    """Say what a folder is made from, if it does not say so yet.

    Args:
        folder_url: may not exist yet.
        made_from: names to what JSON can hold.

    Raises:
        ValueError: it is made from something else; the message names what differs.
        StorageError: the store refuses or is out of reach.
    """
    asked = json.dumps(made_from, indent=1)
    found = read_made_from(folder_url)
    if found is None:
        write_atomically(join(folder_url, MADE_FROM_NAME), asked.encode())
        return
    before, now = dict(_flat(found)), dict(_flat(json.loads(asked)))
    if before != now:
        name = next(name for name in {**before, **now} if before.get(name) != now.get(name))
        differs = f"{name}={before.get(name)!r}, not {now.get(name)!r}"
        raise ValueError(f"{folder_url} was made from {differs}: name another folder, or remove this one")


def component_fingerprints(checkpoint_url: str, *components: str) -> dict[str, str | None]:
    """Fingerprint of each of a checkpoint's components, None where it is absent.

    Raises:
        CheckpointError: this is no checkpoint.
        StorageError: it cannot be read.
    """
    files = open_checkpoint(checkpoint_url)
    layout = find_layout(files)
    return {name: component_fingerprint(files, layout, name) if layout.has(name) else None for name in components}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values; nothing of what is None or an empty mapping."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif value is not None:
            yield f"{prefix}{name}", value
