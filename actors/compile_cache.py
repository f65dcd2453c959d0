"""Compiled graphs on a node's disk and in a store, so that a fleet compiles each of them once."""

from __future__ import annotations

import io
import logging
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from actors.storage import PARTIAL_SUFFIX, StorageError, join, list_names, read_bytes, write_atomically
from model.graph_cache import GRAPH_NAME, NoCompileCache

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SharedCompileCache:
    """A `model.graph_cache.CompileCache`: processes of a node wait for the one that compiles, nodes share by a store.

    Two nodes that lack the same graph at the same time both compile it, and the later upload stays.

    Attributes:
        folder: of this node.
        url: where graphs are looked for and kept besides, as one zip file each; None: nowhere. What lies there is code
            that actors run, so nobody else may write to it.
    """

    folder: str
    url: str | None = None

    @contextmanager
    def slot(self, key: str) -> Iterator[Path]:
        """See `model.graph_cache.CompileCache.slot`.

        Raises:
            StorageError: if the store refuses or is out of reach when the graph is looked for.
        """
        root = Path(self.folder).expanduser()
        graph = root / key / GRAPH_NAME
        try:
            root.mkdir(parents=True, exist_ok=True)
            lock = FileLock(root / f"{key}.lock")
            lock.acquire()
        except OSError as error:
            logger.warning("compiled graphs are not kept: %s", error)
            with NoCompileCache().slot(key) as folder:
                yield folder
            return
        try:
            if not graph.exists() and self.url is not None:
                self._download(key, root)
            before = _version(graph)
            graph.parent.mkdir(exist_ok=True)
            yield graph.parent
            if _version(graph) not in (None, before) and self.url is not None:
                self._upload(key, graph.parent)
        finally:
            lock.release()

    def _download(self, key: str, root: Path) -> None:
        assert self.url is not None
        name = f"{key}.zip"
        if name not in list_names(self.url):
            return
        partial = root / f"{key}{PARTIAL_SUFFIX}"
        for left in (partial, root / key):  # of a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        try:
            with zipfile.ZipFile(io.BytesIO(read_bytes(join(self.url, name)))) as archive:
                archive.extractall(partial)
        except (zipfile.BadZipFile, zlib.error) as error:
            logger.warning("compiling anew: %s is damaged: %s", join(self.url, name), error)
            shutil.rmtree(partial, ignore_errors=True)
            return
        partial.rename(root / key)

    def _upload(self, key: str, folder: Path) -> None:
        assert self.url is not None
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(folder.rglob("*")):
                if path.is_file() and path.suffix != ".lock":
                    archive.write(path, path.relative_to(folder))
        try:
            write_atomically(join(self.url, f"{key}.zip"), buffer.getvalue())
        except StorageError as error:  # this actor can work all the same
            logger.warning("the compiled graph stays on this node: %s", error)


def _version(graph: Path) -> tuple[int, int] | None:
    """Tells whether a file was replaced; None where there is none."""
    return (graph.stat().st_ino, graph.stat().st_mtime_ns) if graph.exists() else None
