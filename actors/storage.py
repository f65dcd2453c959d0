"""Reading and writing by URL: a thin layer on fsspec for local folders and object stores.

A URL is anything fsspec understands; a plain path is a local one. Endpoint and credentials of an S3 store are the ones
botocore finds by itself. Faults that pass are waited for, see `actors.storage_faults`; what is missing or forbidden
ends as one `StorageError` line with the URL, a store that stays out of reach as its sub-class `StoreUnavailableError`.
"""

import io
import os
import posixpath
import uuid
from collections.abc import Callable
from contextlib import suppress
from io import BufferedIOBase
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from botocore.exceptions import ClientError
from fsspec.implementations.local import LocalFileSystem

from actors import storage_faults
from actors.storage_faults import CredentialsError as CredentialsError
from actors.storage_faults import StorageError as StorageError
from actors.storage_faults import StoreUnavailableError as StoreUnavailableError
from actors.storage_faults import naming_the_url, persist, s3_code

PARTIAL_SUFFIX = ".partial"
SLOWEST_UPLOAD_BYTES_S = 2**20
"""An upload that is slower is given up and tried anew. A guess."""

Result = TypeVar("Result")


def read_bytes(url: str) -> bytes:
    """The whole content of one file.

    Raises:
        StorageError: the file is missing, forbidden or out of reach.
    """

    def read(fs: Any, path: str) -> bytes:
        # Otherwise s3fs asks for the size first, and reads a large object in pieces that may be of two versions.
        return fs.cat_file(path, max_concurrency=1) if is_s3(fs) else fs.cat_file(path)

    return _persist("read", url, read)


def open_binary(url: str, block_bytes: int = 2**20) -> BufferedIOBase:
    """Open one file for reading here and there in it; what is read is fetched in blocks.

    Raises:
        StorageError: the file is missing, forbidden or out of reach, now or when it is read from.
    """

    def open_file(fs: Any, path: str) -> _PersistentReads:
        try:
            return _PersistentReads(fs, fs.open(path, "rb", block_size=block_bytes), url)
        except OSError as error:
            if s3_code(error) in ("400", "403"):
                fs.cat_file(path, start=0, end=1)  # s3fs asks by HEAD, whose answer holds no reason; this one's does
            raise

    return io.BufferedReader(_persist("read", url, open_file))


class _PersistentReads(io.RawIOBase):
    """A file that a store may let down at any read; a read that failed leaves the position where it was."""

    def __init__(self, fs: Any, file: Any, url: str):
        self._fs, self._file, self._url = fs, file, url

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with naming_the_url("read", self._url):
            return self._file.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        return persist("read", self._url, self._fs, lambda: self._file.readinto(buffer))

    def close(self) -> None:
        self._file.close()
        super().close()


def local_path(url: str) -> Path | None:
    """Where a URL lies on this machine's disks, or None for one in a store; nothing is looked up."""
    with naming_the_url("read", url):
        fs, path = open_filesystem(url)
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

    def ls(fs: Any, path: str) -> list[str]:
        path = path.rstrip("/")
        try:
            if isinstance(fs, LocalFileSystem):  # fsspec takes three times as long for millions of names
                return sorted(name for name in os.listdir(path or "/") if not name.endswith(PARTIAL_SUFFIX))
            found = fs.ls(path, detail=False)
        except NotADirectoryError:
            return []
        except FileNotFoundError as error:
            # s3fs: an empty prefix is its own finding, a missing bucket the store's answer. The second is a typing
            # error of the user which must not look like a fresh output folder.
            if isinstance(error.__cause__, ClientError):
                raise
            return []
        inside = [name.rstrip("/") for name in found if not name.endswith(PARTIAL_SUFFIX)]
        return sorted(name.rpartition("/")[2] for name in inside if name.startswith(path + "/"))

    return _persist("list", folder_url, ls)


def exists(url: str) -> bool:
    """Whether there is a file.

    Raises:
        StorageError: the bucket is missing or forbidden, or the store is out of reach.
    """
    return _persist("look for", url, lambda fs, path: bool(fs.isfile(path)))


def list_sizes(folder_url: str) -> dict[str, tuple[int, str | None]]:
    """Size in bytes and etag (None where the store has none) of every file below a folder, by relative path.

    For one file the answer holds its own name.

    Raises:
        StorageError: there is nothing under this URL, or it is forbidden or out of reach.
    """
    files = _persist("list", folder_url, lambda fs, path: find_files(fs, path.rstrip("/")))
    return {relative or posixpath.basename(folder_url.rstrip("/")): facts for relative, facts in files.items()}


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

    def write(fs: Any, path: str) -> None:
        if isinstance(fs, LocalFileSystem):
            _write_local(Path(path), data)
        elif is_s3(fs):
            kept = {} if content_type is None else {"ContentType": content_type}
            fs.pipe_file(path, data, timeout=upload_limit_s(data), **kept)
        else:
            fs.pipe_file(path, data)

    _persist("write", url, write)


def write_folder(url: str, folder: Path) -> None:
    """Write every file below a local folder, one after the other, each as `write_atomically` does."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            write_atomically(join(url, *path.relative_to(folder).parts), path.read_bytes())


def remove(url: str) -> None:
    """Remove one file; nothing happens where there is none.

    Raises:
        StorageError: forbidden or out of reach.
    """

    def rm(fs: Any, path: str) -> None:
        with suppress(FileNotFoundError):
            fs.rm_file(path)

    _persist("remove", url, rm)


def find_files(fs: Any, path: str) -> dict[str, tuple[int, str | None]]:
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


def _persist(action: str, url: str, operation: Callable[[Any, str], Result]) -> Result:
    with naming_the_url(action, url):
        fs, path = open_filesystem(url)
    return persist(action, url, fs, lambda: operation(fs, path))


def is_s3(fs: Any) -> bool:
    """Whether a file system is an S3 store's."""
    return "s3" in fs.protocol


def upload_limit_s(data: bytes) -> float:
    """How long one upload may take: aiohttp waits without end for a store that does not ask for the content."""
    return 2 * storage_faults.PATIENCE.answer_s + len(data) / SLOWEST_UPLOAD_BYTES_S


def open_filesystem(url: str) -> tuple[Any, str]:
    """fsspec's file system for a URL, and the path inside it."""
    options: dict[str, Any] = {}
    protocol = fsspec.core.split_protocol(str(url))[0]
    if protocol in ("s3", "s3a"):
        # Three tries of every single call; botocore's own default makes five, with waits that ignore the store's load.
        of_the_user = fsspec.config.conf.get(protocol, {}).get("config_kwargs", {})
        ours = {"read_timeout": storage_faults.PATIENCE.answer_s, "retries": {"mode": "standard"}}
        options["config_kwargs"] = {**ours, **of_the_user}
    # Without this switch fsspec answers from listings it made earlier in the life of the process.
    fs, path = fsspec.url_to_fs(str(url), use_listings_cache=False, **options)
    if is_s3(fs):
        fs.retries = 1  # s3fs would repeat botocore's three tries five times; `persist` does so, and knows an end
    return fs, path
