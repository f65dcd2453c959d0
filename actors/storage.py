"""Reading and writing by URL: a thin layer on fsspec for local folders and object stores.

A URL is anything fsspec understands; a plain path is a local one. Endpoint and credentials of an S3 store are the ones
botocore finds by itself. Whatever is missing, forbidden or out of reach ends as one `StorageError` line with the URL.
"""

import glob
import hashlib
import io
import json
import logging
import os
import posixpath
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import aiohttp
import fsspec
from botocore.exceptions import BotoCoreError, ClientError
from filelock import FileLock
from fsspec.implementations.local import LocalFileSystem

logger = logging.getLogger(__name__)

PARTIAL_SUFFIX = ".partial"

PIECE_BYTES = 16 * 2**20
PIECES_AT_ONCE = 8
"""How large files are fetched: one connection rarely fills a data centre's network."""


class StorageError(OSError):
    """Something under a URL is missing, forbidden or out of reach; the message is one line that names the URL."""


def read_bytes(url: str) -> bytes:
    """The whole content of one file.

    Raises:
        StorageError: the file is missing, forbidden or out of reach.
    """
    with _naming_the_url("read", url):
        fs, path = _open_filesystem(url)
        # Otherwise s3fs asks for the size first, and reads a large object in pieces that may be of two versions.
        return fs.cat_file(path, max_concurrency=1) if "s3" in fs.protocol else fs.cat_file(path)


def open_binary(url: str) -> BufferedIOBase:
    """Open one file for reading here and there in it; what is read is fetched in blocks of 1 MiB.

    Raises:
        StorageError: the file is missing, forbidden or out of reach, now or when it is read from.
    """
    with _naming_the_url("read", url):
        fs, path = _open_filesystem(url)
        return io.BufferedReader(_NamedReads(fs.open(path, "rb", block_size=2**20), url))


class _NamedReads(io.RawIOBase):
    """A file that a store may let down at any read."""

    def __init__(self, file: Any, url: str):
        self._file, self._url = file, url

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with _naming_the_url("read", self._url):
            return self._file.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        with _naming_the_url("read", self._url):
            return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


def local_path(url: str) -> Path | None:
    """Where a URL lies on this machine's disks, or None for one in a store; nothing is looked up."""
    with _naming_the_url("read", url):
        fs, path = _open_filesystem(url)
    return Path(path) if isinstance(fs, LocalFileSystem) else None


def join(base_url: str, *parts: str) -> str:
    """`base_url` with `parts` appended, one slash between each.

    Raises:
        ValueError: a part is empty or climbs out of the base with "..".
    """
    for part in parts:
        if not part.strip("/") or ".." in part.split("/"):
            raise ValueError(
                f"path part {part!r} under {base_url} is not allowed: a name, or names split by '/', no '..'"
            )
    return "/".join([base_url.rstrip("/"), *(part.strip("/") for part in parts)])


def resolve(reference: str, base_folder_url: str) -> str:
    """Where a reference written in a manifest points to.

    A relative path is taken from `base_folder_url`, the manifest's folder ("../images/a.png" works); absolute paths and
    URLs stay as they are. The answer is absolute, so it means the same in every worker process.

    Raises:
        ValueError: the reference is empty, or climbs above the top of the store.
    """
    if not reference:
        raise ValueError(f"reference '' relative to {base_folder_url} is not allowed: a path or a URL")
    if "://" in reference or reference.startswith(("/", "~")):
        return reference
    protocol, separator, folder = base_folder_url.rpartition("://")
    if not separator:
        return os.path.abspath(os.path.join(os.path.expanduser(base_folder_url), reference))
    path = posixpath.normpath(posixpath.join(folder, reference))
    top = folder.split("/")[0]
    if path != top and not path.startswith(top + "/"):
        raise ValueError(
            f"reference {reference!r} relative to {base_folder_url} is not allowed: it leaves {protocol}://{top}"
        )
    return f"{protocol}://{path}"


def list_names(folder_url: str) -> list[str]:
    """Names of files and folders directly inside a folder, sorted; [] when there is no such folder.

    On S3 this is one LIST, read page by page, and always asks the store: other machines write to the same folder.

    Raises:
        StorageError: the bucket is missing or forbidden, or the store is out of reach.
    """
    with _naming_the_url("list", folder_url):
        fs, path = _open_filesystem(folder_url)
        path = path.rstrip("/")
        try:
            found = fs.ls(path, detail=False)
        except NotADirectoryError:
            return []
        except FileNotFoundError as error:
            # s3fs: an empty prefix is its own finding, a missing bucket the store's answer. The second is a typing
            # error of the user which must not look like a fresh output folder.
            if isinstance(error.__cause__, ClientError):
                raise
            return []
    inside = [name.rstrip("/") for name in found]
    return sorted(
        name.rpartition("/")[2] for name in inside if name.startswith(path + "/") and not name.endswith(PARTIAL_SUFFIX)
    )


def list_sizes(folder_url: str) -> dict[str, tuple[int, str | None]]:
    """Size in bytes and etag (None where the store has none) of every file below a folder, by relative path.

    For one file the answer holds its own name.

    Raises:
        StorageError: there is nothing under this URL, or it is forbidden or out of reach.
    """
    with _naming_the_url("list", folder_url):
        fs, path = _open_filesystem(folder_url)
        files = _find_files(fs, path.rstrip("/"))
    return {relative or posixpath.basename(path): facts for relative, facts in files.items()}


def write_atomically(url: str, data: bytes, content_type: str | None = None) -> None:
    """Write one file so that a reader sees the old content or the new, never a part.

    Local disks: a temporary sibling, flushed to the disk, then renamed; missing folders are made. Object stores: one
    PUT (from 100 MB on s3fs sends it in parts, which appear together or not at all).

    Args:
        url: where to write.
        data: the content.
        content_type: MIME type kept with an S3 object, so that a browser shows it instead of saving it.

    Raises:
        StorageError: forbidden, out of reach, or the bucket is missing.
    """
    with _naming_the_url("write", url):
        fs, path = _open_filesystem(url)
        if isinstance(fs, LocalFileSystem):
            _write_local(Path(path), data)
        elif content_type is not None and "s3" in fs.protocol:
            fs.pipe_file(path, data, ContentType=content_type)
        else:
            fs.pipe_file(path, data)


def remove(url: str) -> None:
    """Remove one file; nothing happens where there is none.

    Raises:
        StorageError: forbidden or out of reach.
    """
    with _naming_the_url("remove", url):
        fs, path = _open_filesystem(url)
        with suppress(FileNotFoundError):
            fs.rm_file(path)


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
    with _naming_the_url("read", url):
        fs, path = _open_filesystem(url)
        path = path.rstrip("/")
        if isinstance(fs, LocalFileSystem):
            for needed in [path] if parts is None else [join(path, part) for part in parts]:
                if not os.path.exists(needed):
                    raise FileNotFoundError(needed)
            return Path(path)
        slot = Path(cache_dir) / hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:16]
        slot.mkdir(parents=True, exist_ok=True)
        with FileLock(slot.with_suffix(".lock")):
            return _download(fs, path, slot, parts)


def _download(fs: Any, path: str, slot: Path, parts: Sequence[str] | None) -> Path:
    """Bring the files below `path` that `slot` lacks; the caller holds the lock of `slot`."""
    root = slot / posixpath.basename(path)
    wanted: dict[str, tuple[int, str | None]] = {}
    for part in [""] if parts is None else [part.strip("/") for part in parts]:
        for relative, facts in _find_files(fs, posixpath.join(path, part).rstrip("/")).items():
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
        _fetch_file(fs, source, partial, size_bytes)
        # Objects come in pieces; a writer in between would leave a mixture of the right size.
        if partial.stat().st_size != size_bytes or _find_files(fs, source) != {"": (size_bytes, etag)}:
            raise OSError(f"{relative} changed in the store while it was fetched, or came incomplete")
        os.replace(partial, target)
        fetched[relative] = [size_bytes, etag]
        _write_local(record_file, json.dumps(fetched).encode())
    return root


def _fetch_file(fs: Any, source: str, partial: Path, size_bytes: int) -> None:
    """Bring a file piece by piece, several at once, after those that are there already."""
    done_bytes = partial.stat().st_size if partial.exists() else 0
    starts = range(done_bytes, size_bytes, PIECE_BYTES)
    with partial.open("ab") as file, ThreadPoolExecutor(PIECES_AT_ONCE) as pool:
        for first in range(0, len(starts), PIECES_AT_ONCE):  # no more than these are ever held in memory
            turn = starts[first : first + PIECES_AT_ONCE]
            ends = [min(start + PIECE_BYTES, size_bytes) for start in turn]
            for piece in pool.map(lambda start, end: fs.cat_file(source, start=start, end=end), turn, ends):
                file.write(piece)
                file.flush()
        os.fsync(file.fileno())  # a record of a file that a power failure empties would be believed for ever


def _is_below(name: str, parts: Sequence[str] | None) -> bool:
    if parts is None:
        return True
    folders = [part.strip("/") for part in parts]
    return any(name == folder or name.startswith(folder + "/") for folder in folders)


def _find_files(fs: Any, path: str) -> dict[str, tuple[int, str | None]]:
    """Every file below `path` as relative path -> (bytes, etag); "" stands for `path` being a file itself."""
    files = {}
    for name, info in fs.find(path, detail=True).items():
        if info["type"] != "file" or name.endswith(("/", PARTIAL_SUFFIX)):
            continue
        relative = name.removeprefix(path).lstrip("/")
        if ".." in relative.split("/"):
            raise OSError(f"the name {relative!r} leaves its folder")
        etag = info.get("ETag")
        files[relative] = (info["size"], etag.strip('"') if etag else None)
    if not files:
        raise FileNotFoundError(path)
    return dict(sorted(files.items()))


def _write_local(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile.mkstemp: its files are readable by their owner alone, and rename keeps that.
    partial = path.with_name(f".{uuid.uuid4().hex}{PARTIAL_SUFFIX}")
    try:
        with open(partial, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _open_filesystem(url: str) -> tuple[Any, str]:
    # Without this switch fsspec answers from listings it made earlier in the life of the process.
    return fsspec.url_to_fs(str(url), use_listings_cache=False)


@contextmanager
def _naming_the_url(action: str, url: str) -> Iterator[None]:
    """Turn what the many file systems raise into one `StorageError` line."""
    try:
        yield
    except StorageError:
        raise
    except FileNotFoundError as error:
        is_news = str(error) not in str(url) and f"'{url}'" not in str(error)
        detail = f" ({_one_line(error)})" if is_news else ""
        raise StorageError(f"cannot {action} {url}: not found{detail}") from error
    except PermissionError as error:
        raise StorageError(f"cannot {action} {url}: access denied ({_one_line(error)})") from error
    except (OSError, ValueError, ImportError, BotoCoreError, ClientError, aiohttp.ClientError) as error:
        raise StorageError(f"cannot {action} {url}: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
