"""Copies of remote files on a node's own disk: downloaded once, by one process, and in pieces that survive a kill."""

import glob
import hashlib
import json
import logging
import os
import posixpath
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from filelock import FileLock
from fsspec.implementations.local import LocalFileSystem

from actors.storage import PARTIAL_SUFFIX, find_files, join, open_filesystem, write_atomically
from actors.storage_faults import naming_the_url, persist

logger = logging.getLogger(__name__)

PIECE_BYTES = 16 * 2**20
PIECES_AT_ONCE = 8
"""How large files are fetched: in ranges, several side by side. Chosen, not tuned."""


def local_copy(url: str, cache_dir: str | Path, parts: Sequence[str] | None = None) -> Path:
    """A path on this machine for a file or folder; a remote one is downloaded once per node into `cache_dir`.

    Files come one by one through a temporary name and those already here with the same size and etag are not fetched
    again, so a killed download goes on where it stopped, within a file too. Processes of one node wait for each other
    on a lock file.

    Args:
        url: file or folder; a local one is returned as it is.
        cache_dir: folder of this node for downloads; the copy lies in a sub-folder named by a hash of the URL.
        parts: sub-folders or files below `url` that are needed; None for everything.

    Raises:
        StorageError: the URL or one of the parts is missing, forbidden or out of reach.
    """
    with naming_the_url("read", url):
        fs, path = open_filesystem(url)
        path = path.rstrip("/")
        if isinstance(fs, LocalFileSystem):
            for needed in [path] if parts is None else [join(path, part) for part in parts]:
                if not os.path.exists(needed):
                    raise FileNotFoundError(needed)
            return Path(path)
        slot = Path(cache_dir) / hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:16]
        slot.mkdir(parents=True, exist_ok=True)
        with FileLock(slot.with_suffix(".lock")):
            return _download(url, fs, path, slot, parts)


def _download(url: str, fs: Any, path: str, slot: Path, parts: Sequence[str] | None) -> Path:
    """Bring the files below `path` that `slot` lacks; the caller holds the lock of `slot`."""
    root = slot / posixpath.basename(path)
    wanted: dict[str, tuple[int, str | None]] = {}
    for part in [""] if parts is None else [part.strip("/") for part in parts]:
        for relative, facts in _find(url, fs, posixpath.join(path, part).rstrip("/")).items():
            wanted[posixpath.join(part, relative).rstrip("/")] = facts

    record_file = slot / "fetched.json"
    fetched: dict[str, Any] = json.loads(record_file.read_bytes()) if record_file.exists() else {}
    # A shard that the store no longer has must not be picked up by a loader that looks at the folder.
    for gone in [name for name in fetched if name not in wanted and _is_below(name, parts)]:
        (root / gone).unlink(missing_ok=True)
        del fetched[gone]

    for relative, (size_bytes, etag) in wanted.items():
        target = root / relative
        if fetched.get(relative) == [size_bytes, etag] and target.is_file() and target.stat().st_size == size_bytes:
            continue
        logger.info("fetching %s/%s (%d bytes)", path, relative, size_bytes)
        target.parent.mkdir(parents=True, exist_ok=True)
        version = hashlib.sha256(f"{size_bytes} {etag}".encode()).hexdigest()[:8]
        partial = target.with_name(f"{target.name}.{version}{PARTIAL_SUFFIX}")
        source = posixpath.join(path, relative).rstrip("/")
        for left in target.parent.glob(f"{glob.escape(target.name)}.{'[0-9a-f]' * 8}{PARTIAL_SUFFIX}"):
            # Without an etag nothing tells whether what an earlier process left is of this version.
            if left != partial or etag is None:
                left.unlink()
        _fetch_file(url, fs, source, partial, size_bytes)
        # Objects come in pieces; a writer in between would leave a mixture of the right size.
        if partial.stat().st_size != size_bytes or _find(url, fs, source) != {"": (size_bytes, etag)}:
            partial.unlink()
            raise OSError(f"{relative} changed in the store while it was fetched")
        os.replace(partial, target)
        fetched[relative] = [size_bytes, etag]
        write_atomically(str(record_file), json.dumps(fetched).encode())
    return root


def _find(url: str, fs: Any, path: str) -> dict[str, tuple[int, str | None]]:
    return persist("read", url, fs, lambda: find_files(fs, path))


def _fetch_file(url: str, fs: Any, source: str, partial: Path, size_bytes: int) -> None:
    """Bring a file piece by piece, several at once, after those that are there already."""

    def fetch(start: int, end: int) -> bytes:
        return persist("read", url, fs, lambda: fs.cat_file(source, start=start, end=end))

    done_bytes = partial.stat().st_size if partial.exists() else 0
    starts = range(done_bytes, size_bytes, PIECE_BYTES)
    with partial.open("ab") as file, ThreadPoolExecutor(PIECES_AT_ONCE) as pool:
        for first in range(0, len(starts), PIECES_AT_ONCE):  # no more than these are ever held in memory
            turn = starts[first : first + PIECES_AT_ONCE]
            ends = [min(start + PIECE_BYTES, size_bytes) for start in turn]
            pieces = pool.map(fetch, turn, ends)
            for start, end, piece in zip(turn, ends, pieces, strict=True):
                if len(piece) != end - start:  # written, it would shift all that follows, now or in a later try
                    raise OSError(f"{source} came incomplete: {len(piece)} of {end - start} bytes from {start} on")
                file.write(piece)
                file.flush()
        os.fsync(file.fileno())  # a record of a file that a power failure empties would be believed for ever


def _is_below(name: str, parts: Sequence[str] | None) -> bool:
    if parts is None:
        return True
    folders = [part.strip("/") for part in parts]
    return any(name == folder or name.startswith(folder + "/") for folder in folders)
