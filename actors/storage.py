"""Reading and writing by URL: a thin layer on fsspec for local folders and object stores.

A URL is anything fsspec understands; a plain path is a local one. Endpoint and credentials of an S3 store are the ones
botocore finds by itself. Whatever is missing, forbidden or out of reach ends as one `StorageError` line with the URL.
"""

import io
import os
import posixpath
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import aiohttp
import fsspec
from botocore.exceptions import BotoCoreError, ClientError
from fsspec.implementations.local import LocalFileSystem

PARTIAL_SUFFIX = ".partial"


class StorageError(OSError):
    """Something under a URL is missing, forbidden or out of reach; the message is one line that names the URL."""


def read_bytes(url: str) -> bytes:
    """The whole content of one file.

    Raises:
        StorageError: the file is missing, forbidden or out of reach.
    """
    with naming_the_url("read", url):
        fs, path = open_filesystem(url)
        # Otherwise s3fs asks for the size first, and reads a large object in pieces that may be of two versions.
        return fs.cat_file(path, max_concurrency=1) if "s3" in fs.protocol else fs.cat_file(path)


def open_binary(url: str) -> BufferedIOBase:
    """Open one file for reading here and there in it; what is read is fetched in blocks of 1 MiB.

    Raises:
        StorageError: the file is missing, forbidden or out of reach, now or when it is read from.
    """
    with naming_the_url("read", url):
        fs, path = open_filesystem(url)
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
        with naming_the_url("read", self._url):
            return self._file.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        with naming_the_url("read", self._url):
            return self._file.readinto(buffer)

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
    with naming_the_url("list", folder_url):
        fs, path = open_filesystem(folder_url)
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
    with naming_the_url("list", folder_url):
        fs, path = open_filesystem(folder_url)
        files = find_files(fs, path.rstrip("/"))
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
    with naming_the_url("write", url):
        fs, path = open_filesystem(url)
        if isinstance(fs, LocalFileSystem):
            _write_local(Path(path), data)
        elif content_type is not None and "s3" in fs.protocol:
            fs.pipe_file(path, data, ContentType=content_type)
        else:
            fs.pipe_file(path, data)


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
    with naming_the_url("remove", url):
        fs, path = open_filesystem(url)
        with suppress(FileNotFoundError):
            fs.rm_file(path)


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


def open_filesystem(url: str) -> tuple[Any, str]:
    """fsspec's file system for a URL, and the path inside it."""
    # Without this switch fsspec answers from listings it made earlier in the life of the process.
    return fsspec.url_to_fs(str(url), use_listings_cache=False)


@contextmanager
def naming_the_url(action: str, url: str) -> Iterator[None]:
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
