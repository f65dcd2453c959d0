"""The files of a checkpoint, wherever they lie: names, sizes, and a way to open them for reading.

Looking at a checkpoint needs no more than that, so it works on a bucket as on a disk; loading needs a `LocalFiles`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import cached_property
from io import BufferedIOBase
from pathlib import Path
from typing import Any, Protocol


class CheckpointError(ValueError):
    """A checkpoint lacks something or holds something else than it should; the message is one line."""


class CheckpointFiles(Protocol):
    """What is needed to look at a checkpoint.

    Attributes:
        url: address of the checkpoint, for messages.
        sizes: every file's size in bytes, by its path relative to the checkpoint, parts split by "/".
    """

    @property
    def url(self) -> str:
        """See the class."""
        ...

    @property
    def sizes(self) -> Mapping[str, int]:
        """See the class."""
        ...

    def open(self, name: str) -> BufferedIOBase:
        """Open one file for reading; it can seek."""
        ...


class LocalFiles:
    """A checkpoint folder on a disk of this machine.

    Args:
        folder: the checkpoint.

    Raises:
        CheckpointError: if there is no such folder.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise CheckpointError("there is no such folder")

    @property
    def url(self) -> str:
        """Path of the folder."""
        return str(self.folder)

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        """Sizes in bytes by relative path; links are followed, as model caches are made of them."""
        found = {}
        for parent, _, names in os.walk(self.folder, followlinks=True):
            for name in names:
                path = Path(parent, name)
                if path.is_file():
                    found[path.relative_to(self.folder).as_posix()] = path.stat().st_size
        return dict(sorted(found.items()))

    def open(self, name: str) -> BufferedIOBase:
        """Open one file for reading."""
        return self.path(name).open("rb")

    def path(self, name: str) -> Path:
        """Where a file lies."""
        return self.folder / name


def read_json(files: CheckpointFiles, name: str) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        CheckpointError: the file is absent or holds something else.
    """
    if name not in files.sizes:
        raise CheckpointError(f"{name} is missing")
    with files.open(name) as file:
        data = file.read()
    try:
        values = json.loads(data)
    except ValueError as error:
        raise CheckpointError(f"{name} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{name} must hold a JSON object, got {type(values).__name__}")
    return values
