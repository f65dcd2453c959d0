"""One small file that several processes change, each only while it is as it was last seen.

S3 stores do this with conditional writes (AWS, MinIO and Ceph honour them); local and networked disks with a lock on
the file; other stores can only write and look afterwards who was last. Ages are differences of two times of the store's
own clock, so it does not matter how the machines' clocks differ.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from actors.storage import PARTIAL_SUFFIX, is_s3, naming_the_url, open_filesystem, upload_limit_s
from actors.storage_faults import Patience, persist, s3_code

_SETTLE_S = 1.0
"""How long a store without conditional writes is left alone before one looks who was last. A guess."""
_CHANGED_CODES = ("PreconditionFailed", "412", "NoSuchKey", "404")
_NO_FILE_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


@dataclass(frozen=True)
class Seen:
    """A file at a moment.

    Attributes:
        data: the content.
        version: changes with every writing; opaque.
        age_s: since it was written, by the store's clock.
    """

    data: bytes
    version: str | bytes
    age_s: float


class GuardedFile(ABC):
    """See the module. Every content must differ from all others: a writer knows its own by it.

    Args:
        url: of the file.
        fs: its file system.
        path: in there.
        patience: with the store's faults.

    Raises:
        StorageError: by every method, see `actors.storage_faults.persist`.
    """

    def __init__(self, url: str, fs: Any, path: str, patience: Patience | None):
        self.url, self._fs, self._path, self._patience = url, fs, path, patience

    def read(self) -> Seen | None:
        """The file as it is, or None where there is none."""
        return persist("read", self.url, self._fs, self._read, self._patience)

    def write(self, data: bytes, last: Seen | None) -> Seen | None:
        """Write the file unless somebody else has.

        Args:
            data: the new content.
            last: the file as it was last seen; None: it was not there.

        Returns:
            The new file, or None where it was not as it had been.
        """
        return persist("write", self.url, self._fs, lambda: self._write(data, last), self._patience)

    def remove(self, last: Seen) -> None:
        """Remove the file unless it has changed."""
        persist("remove", self.url, self._fs, lambda: self._remove(last), self._patience)

    @abstractmethod
    def _read(self) -> Seen | None: ...

    @abstractmethod
    def _write(self, data: bytes, last: Seen | None) -> Seen | None: ...

    @abstractmethod
    def _remove(self, last: Seen) -> None: ...


def guarded_file(url: str, patience: Patience | None = None) -> GuardedFile:
    """A file under a URL; nothing is looked up.

    Raises:
        StorageError: nothing is known of this kind of URL.
    """
    with naming_the_url("read", url):
        fs, path = open_filesystem(url)
    kind = _LocalFile if isinstance(fs, LocalFileSystem) else _S3File if is_s3(fs) else _OtherFile
    return kind(url, fs, path, patience)


class _S3File(GuardedFile):
    def _read(self) -> Seen | None:
        bucket, key, _ = self._fs.split_path(self._path)

        async def get() -> Seen:  # s3fs's own reading gives the content alone
            answer = await self._fs._call_s3("get_object", Bucket=bucket, Key=key)
            async with answer["Body"] as body:
                data = await body.read()
            now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
            return Seen(data, answer["ETag"], max(0.0, (now - answer["LastModified"]).total_seconds()))

        try:
            return fsspec.asyn.sync(self._fs.loop, get)
        except FileNotFoundError as error:
            if s3_code(error) == "NoSuchBucket":
                raise
            return None

    def _write(self, data: bytes, last: Seen | None) -> Seen | None:
        if last is None:
            return self._put(data, IfNoneMatch="*")
        version = str(last.version)
        written = self._put(data, IfMatch=version)
        seen = self._read() if written is None else None
        if seen is not None and (seen.data, seen.version) == (last.data, last.version):
            # It is as it was: a store that compares the hash without its quotation marks, as Ceph's gateway does.
            written = self._put(data, IfMatch=version.strip('"'))
        return written

    def _put(self, data: bytes, **condition: str) -> Seen | None:
        bucket, key, _ = self._fs.split_path(self._path)
        try:
            answer = self._fs.call_s3(
                "put_object", Bucket=bucket, Key=key, Body=data, timeout=upload_limit_s(data), **condition
            )
        except OSError as error:
            if s3_code(error) not in _CHANGED_CODES:
                raise
            # An earlier try may have written it, and its answer was lost.
            seen = self._read()
            return seen if seen is not None and seen.data == data else None
        return Seen(data, answer["ETag"], 0.0)

    def _remove(self, last: Seen) -> None:
        seen = self._read()
        if seen is None or seen.data != last.data:
            return
        bucket, key, _ = self._fs.split_path(self._path)
        try:
            # Not every store honours this condition; hence the look before.
            self._fs.call_s3("delete_object", Bucket=bucket, Key=key, IfMatch=seen.version)
        except OSError as error:
            if s3_code(error) not in _CHANGED_CODES:
                raise


class _LocalFile(GuardedFile):
    def _read(self) -> Seen | None:
        path = Path(self._path)
        for wait_s in (0.05, 0.2, 0.5, 0.0):
            try:
                with open(path, "rb") as file:
                    data, written_at = file.read(), os.fstat(file.fileno()).st_mtime
            except FileNotFoundError:
                return None
            if data:
                break
            time.sleep(wait_s)  # somebody has made it and is about to fill it
        return Seen(data, data, max(0.0, _disk_time(path.parent) - written_at))

    def _write(self, data: bytes, last: Seen | None) -> Seen | None:
        path = Path(self._path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if last is None:
            try:
                file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
            except FileExistsError:
                return self._if_mine(data)
            try:
                os.write(file, data)
            except OSError:
                path.unlink()
                raise
            finally:
                os.close(file)
            return Seen(data, data, 0.0)
        with self._locked(last) as is_unchanged:
            if not is_unchanged:
                return self._if_mine(data)
            partial = path.with_name(f".{uuid.uuid4().hex}{PARTIAL_SUFFIX}")
            try:
                partial.write_bytes(data)
                os.replace(partial, path)
            finally:
                partial.unlink(missing_ok=True)
        return Seen(data, data, 0.0)

    def _if_mine(self, data: bytes) -> Seen | None:
        seen = self._read()
        return seen if seen is not None and seen.data == data else None

    def _remove(self, last: Seen) -> None:
        with self._locked(last) as is_unchanged:
            if is_unchanged:
                Path(self._path).unlink(missing_ok=True)

    @contextmanager
    def _locked(self, last: Seen) -> Iterator[bool]:
        """Hold the lock of the file, if it is still the one that was seen; every writing makes another file."""
        try:
            descriptor = os.open(self._path, os.O_RDWR)  # to lock, a networked disk wants it open for writing
        except FileNotFoundError:
            yield False
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            yield False  # somebody else is changing it
            return
        except OSError as error:
            if error.errno not in _NO_FILE_LOCKS:
                os.close(descriptor)
                raise
            # Without locks, of two that write in the same instant the first learns of it later.
        with open(descriptor, "rb") as file:
            try:
                is_same = os.path.samestat(os.fstat(descriptor), os.stat(self._path))
            except FileNotFoundError:
                is_same = False
            yield is_same and file.read() == last.data


class _OtherFile(GuardedFile):
    def _read(self) -> Seen | None:
        probe = f"{self._path}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}"
        try:
            data, written_at = self._fs.cat_file(self._path), self._fs.modified(self._path)
        except FileNotFoundError:
            return None
        try:
            self._fs.pipe_file(probe, b"")
            age_s = (self._fs.modified(probe) - written_at).total_seconds()
        finally:
            with suppress(FileNotFoundError):
                self._fs.rm_file(probe)
        return Seen(data, data, max(0.0, age_s))

    def _write(self, data: bytes, last: Seen | None) -> Seen | None:
        seen = self._read()
        if seen is not None and seen.data == data:
            return seen
        if (seen and seen.version) != (last and last.version):
            return None
        if last is None:
            with suppress(FileExistsError):
                self._fs.pipe_file(self._path, data, mode="create")
        else:
            self._fs.pipe_file(self._path, data)
        time.sleep(_SETTLE_S)
        seen = self._read()
        return seen if seen is not None and seen.data == data else None

    def _remove(self, last: Seen) -> None:
        seen = self._read()
        if seen is not None and seen.data == last.data:
            self._fs.rm_file(self._path)


def _disk_time(folder: Path) -> float:
    """The time that a file written to this folder now would bear: a networked disk has a clock of its own."""
    probe = folder / f".{uuid.uuid4().hex}{PARTIAL_SUFFIX}"
    try:
        probe.write_bytes(b"")
        return probe.stat().st_mtime
    except OSError:  # a folder that one may only look at
        return time.time()
    finally:
        with suppress(OSError):
            probe.unlink()
