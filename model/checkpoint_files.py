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

MAX_MESSAGE_CHARACTERS = 2000


class CheckpointError(ValueError):
    """A checkpoint lacks something or holds something else than it should; the message is one line.

    It quotes names out of files of unknown origin, so what cannot be printed is told by its number.
    """

    def __init__(self, message: str):
        line = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in message)
        super().__init__(line if len(line) <= MAX_MESSAGE_CHARACTERS else f"{line[:MAX_MESSAGE_CHARACTERS]} ...")


GIT_LFS_POINTER = b"version "
"""How the small text begins that Git keeps in place of a large file."""

GIT_LFS_HINT = "it is Git's pointer to a large file and not the file itself, `git lfs pull` fetches that"


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

        def refuse(error: OSError) -> None:
            raise CheckpointError(f"{error.filename} cannot be listed: {error.strerror}")

        found = {}
        true_paths = {str(self.folder): {self.folder.resolve()}}
        for parent, folders, names in os.walk(self.folder, followlinks=True, onerror=refuse):
            # A link back to a folder on the way here would be walked through again and again.
            behind = true_paths.pop(parent)
            ahead = {name: Path(parent, name).resolve() for name in folders}
            folders[:] = [name for name in folders if ahead[name] not in behind]
            true_paths |= {os.path.join(parent, name): behind | {ahead[name]} for name in folders}
            for name in names:
                path = Path(parent, name)
                if path.is_file():
                    found[path.relative_to(self.folder).as_posix()] = path.stat().st_size
        return dict(sorted(found.items()))

    def open(self, name: str) -> BufferedIOBase:
        """Open one file for reading.

        Raises:
            CheckpointError: it is not there any more, or may not be read.
        """
        try:
            return self.path(name).open("rb")
        except OSError as error:
            raise CheckpointError(f"{name} cannot be read: {error.strerror}") from error

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
    except (ValueError, RecursionError) as error:
        hint = f": {GIT_LFS_HINT}" if data.startswith(GIT_LFS_POINTER) else f": {error}"
        raise CheckpointError(f"{name} is not JSON{hint}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{name} must hold a JSON object, got {type(values).__name__}")
    return values
