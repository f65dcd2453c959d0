"""Where an actor gets its weights from: any URL, fetched once per node."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from actors.storage import local_copy
from model.checkpoint import Checkpoint, component_parts


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
        """Make the named components local and return the checkpoint; other components may be absent."""
        parts = [part for name in components for part in component_parts(name)]
        return Checkpoint(local_copy(self.url, Path(self.cache_dir).expanduser(), parts))
