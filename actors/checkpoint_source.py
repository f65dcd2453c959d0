"""Where an actor gets its weights from: any URL, fetched once per node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from io import BufferedIOBase
from pathlib import Path

from actors.local_copy import local_copy
from actors.storage import join, list_sizes, local_path, open_binary
from model.checkpoint import Checkpoint
from model.checkpoint_files import CheckpointFiles, LocalFiles
from model.layout import find_layout


class StoredFiles:
    """A checkpoint in an object store, to look at without copying it.

    Args:
        url: its folder.

    Raises:
        StorageError: there is nothing under this URL, or it is forbidden or out of reach.
    """

    def __init__(self, url: str):
        self.url = url.rstrip("/")

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        """Sizes in bytes by relative path, listed once."""
        return {name: size for name, (size, _) in list_sizes(self.url).items()}

    def open(self, name: str) -> BufferedIOBase:
        """Open one file for reading; only what is read is fetched, and a little more."""
        return open_binary(join(self.url, name))


def open_checkpoint(url: str) -> CheckpointFiles:
    """Files of a checkpoint, wherever they lie.

    Raises:
        StorageError: the store refuses or is out of reach.
        CheckpointError: a local path is no folder.
    """
    path = local_path(url)
    return StoredFiles(url) if path is None else LocalFiles(path)


@dataclass(frozen=True)
class CheckpointSource:
    """A checkpoint's address and the folder that keeps copies of remote ones.

    Attributes:
        url: local path or any fsspec URL.
        cache_dir: folder on the node's own disk; not used for local paths.
    """

    url: str
    cache_dir: str

    def fetch(self, *components: str) -> Checkpoint:
        """Make the files of the named components local; other components may be absent.

        Args:
            components: names of components, or `video_decoder` for the one that makes pixels in this checkpoint.

        Raises:
            CheckpointError: a component is absent or incomplete.
            StorageError: the store refuses or is out of reach.
        """
        files = open_checkpoint(self.url)
        layout = find_layout(files)
        if isinstance(files, LocalFiles):
            return Checkpoint(files.folder, layout)
        chosen = [layout.video_decoder if name == "video_decoder" else name for name in components]
        names = [name for component in chosen for name in layout.files(component).all]
        names += [layout.config] if layout.config else []
        return Checkpoint(local_copy(self.url, Path(self.cache_dir).expanduser(), names), layout)
