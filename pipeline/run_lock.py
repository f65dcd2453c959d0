"""One run at a time per output: a file in the output that its run keeps fresh, and that tells others about the run.

A run that ends removes it. A run that was killed leaves it, and gives way once it has not been rewritten for a while.
"""

from __future__ import annotations

import json
import logging
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from actors import storage_faults
from actors.guarded_file import GuardedFile, Seen, guarded_file
from actors.redaction import redact
from actors.storage import StorageError, StoreUnavailableError, join, local_path
from actors.storage_faults import Patience

logger = logging.getLogger(__name__)

LOCK_NAME = "run.lock"
_MOST_CLAIMS = 20
_BETWEEN_CLAIMS_S = 0.1
_jitter = random.Random()  # not the global one, which others seed


class LockedError(OSError):
    """The output belongs to another run; the message is one line that says which, and what to do."""


@dataclass(frozen=True)
class LockFacts:
    """What a lock tells of its run.

    Attributes:
        run_id: of this run alone.
        host: name of the machine the run was started on.
        pid: its process there.
        process: the same for as long as the machine is up, see `_process`; "" where that is not known.
        started_at: when it took the lock; ISO 8601, UTC.
        heartbeat_at: when it last wrote the lock, by its own clock.
        num_heartbeats: times it did.
        stale_s: age of the last heartbeat from which on the run counts as dead.
        progress: what the run says of itself.
        age_s: of the last heartbeat, by the store's clock.
    """

    run_id: str = "of unknown name"
    host: str = "unknown"
    pid: int = 0
    process: str = ""
    started_at: str = "unknown"
    heartbeat_at: str = "unknown"
    num_heartbeats: int = 0
    stale_s: float = 120.0
    progress: dict[str, Any] = field(default_factory=dict)
    age_s: float = 0.0

    @property
    def is_stale(self) -> bool:
        """Whether the run counts as dead: silent for too long, or a process of this machine that is no more."""
        return self.age_s > self.stale_s or self._is_gone

    @property
    def _is_gone(self) -> bool:
        ours = _process(os.getpid()).rsplit(" ", 2)[0]  # machine and name space
        return bool(ours) and self.process.startswith(f"{ours} ") and _process(self.pid) != self.process


def read_lock(output_url: str) -> LockFacts | None:
    """What the lock of an output tells, or None where no run holds it.

    Raises:
        StorageError: it cannot be read.
    """
    seen = guarded_file(join(output_url, LOCK_NAME)).read()
    return None if seen is None else _facts(seen)


class RunLock:
    """The lock of an output, held inside a `with`.

    Args:
        output_url: local folder or any fsspec URL.
        heartbeat_s: between two writings of the lock.
        stale_s: see `LockFacts`; several times `heartbeat_s`.
        on_lost: called once, from another thread, when the lock is lost; gets the reason.

    Attributes:
        run_id: of this run.
        progress: written with the next heartbeat, for others to read; values that JSON has, or their `str`.
        lost: one line that says why this run must stop; None while the lock is held.

    Raises:
        LockedError: on entering, another run holds the output.
        StorageError: on entering, the output cannot be read or written.
        ValueError: `stale_s` is less than twice `heartbeat_s`.
    """

    def __init__(
        self,
        output_url: str,
        heartbeat_s: float = 20.0,
        stale_s: float = 120.0,
        on_lost: Callable[[str], None] | None = None,
    ):
        if not 0 < 2 * heartbeat_s <= stale_s:
            raise ValueError(f"stale_s must be at least twice heartbeat_s, which is {heartbeat_s:g}, got {stale_s:g}")
        self.output_url, self.heartbeat_s, self.stale_s = output_url, heartbeat_s, stale_s
        self.progress: Mapping[str, Any] = {}
        self.lost: str | None = None
        self.run_id = uuid.uuid4().hex
        self._on_lost = on_lost
        self._num_heartbeats, self._started_at = 0, _now()
        self._ends = threading.Event()
        self._thread: threading.Thread | None = None
        self._mine: Seen | None = None
        self._written_at = 0.0
        self._new_folder: Path | None = None

    def __enter__(self) -> RunLock:
        folder = local_path(self.output_url)
        self._new_folder = folder if folder is not None and not folder.exists() else None
        try:
            self._mine = self._claim(self._file())
        except StoreUnavailableError:
            raise
        except StorageError as error:
            reason = f"must be a folder that can be read and written: {error}"
            raise StorageError(f"output {redact(self.output_url)} {reason}") from error
        self._thread = threading.Thread(target=self._keep, name="run-lock", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        if self._thread is not None:
            self._thread.join(timeout=self.stale_s)
        if self._mine is None:
            return
        try:
            self._file(self._brief_patience()).remove(self._mine)
            if self._new_folder is not None:
                with suppress(OSError):  # a run that wrote nothing leaves nothing
                    self._new_folder.rmdir()
        except StorageError as error:
            logger.warning("the lock stays until it is stale: %s", error)

    def raise_if_lost(self) -> None:
        """Raise where the lock is lost.

        Raises:
            LockedError: this run must stop.
        """
        if self.lost is not None:
            raise LockedError(self.lost)

    def _file(self, patience: Patience | None = None) -> GuardedFile:
        return guarded_file(join(self.output_url, LOCK_NAME), patience)

    def _brief_patience(self) -> Patience:
        """Not longer with one heartbeat than until the next: what is late says less than what comes."""
        usual = storage_faults.PATIENCE
        limits = (min(self.heartbeat_s, usual.limit_s), min(self.heartbeat_s, usual.credentials_limit_s))
        return replace(usual, limit_s=limits[0], credentials_limit_s=limits[1])

    def _content(self) -> bytes:
        self._num_heartbeats += 1
        facts = LockFacts(
            run_id=self.run_id,
            host=socket.gethostname(),
            pid=os.getpid(),
            process=_process(os.getpid()),
            started_at=self._started_at,
            heartbeat_at=_now(),
            num_heartbeats=self._num_heartbeats,
            stale_s=self.stale_s,
            progress=dict(self.progress),
        )
        # Not `asdict`, which takes a Counter in the progress apart.
        names = [known.name for known in fields(facts) if known.name != "age_s"]
        content = {name: getattr(facts, name) for name in names}
        return json.dumps(content, ensure_ascii=False, indent=1, default=str).encode(errors="replace")

    def _claim(self, file: GuardedFile) -> Seen:
        held_by = None
        for _ in range(_MOST_CLAIMS):
            last = file.read()
            held_by = None if last is None else _facts(last)
            if held_by is not None and not held_by.is_stale:
                break
            self._written_at = time.monotonic()
            mine = file.write(self._content(), last)
            if mine is not None:
                if held_by is not None:
                    logger.warning("took over from run %s, silent for %.0f s", held_by.run_id, held_by.age_s)
                return mine
            time.sleep(_jitter.uniform(0.0, _BETWEEN_CLAIMS_S))
        raise LockedError(self._refusal(held_by))

    def _refusal(self, held_by: LockFacts | None) -> str:
        if held_by is None or held_by.is_stale:
            return f"output {self.output_url} is being taken by another run at this moment: try again"
        which = f"run {held_by.run_id} on host {held_by.host}"
        return (
            f"output {self.output_url} is in use by {which} (process {held_by.pid}, started {held_by.started_at}, last "
            f"heartbeat {held_by.age_s:.0f} s ago): wait for its end, stop it, or write to another output; if it was "
            f"killed, it gives way {held_by.stale_s:g} s after its last heartbeat"
        )

    def _keep(self) -> None:
        file = self._file(self._brief_patience())
        while self.lost is None and not self._ends.wait(self.heartbeat_s):
            try:
                self._beat(file)
            except Exception as error:  # whatever it is, a run without heartbeats must come to know
                silent_s = time.monotonic() - self._written_at
                logger.warning("no heartbeat for %.0f s: %s: %s", silent_s, type(error).__name__, error)
                if silent_s > self.stale_s:
                    self._lose(f"its heartbeat could not be written for {silent_s:.0f} s ({error})")

    def _beat(self, file: GuardedFile) -> None:
        began = time.monotonic()
        written = file.write(self._content(), self._mine)
        if written is not None:
            self._mine, self._written_at = written, began
            return
        found = file.read()
        if found is None:
            self._lose("its lock was removed")
        elif (facts := _facts(found)).run_id != self.run_id:
            self._lose(f"run {facts.run_id} on host {facts.host} (process {facts.pid}) took it over")
        else:  # somebody looked at it in the same instant, or an earlier writing came late
            self._mine = found

    def _lose(self, reason: str) -> None:
        self.lost = f"output {self.output_url} no longer belongs to this run: {reason}"
        logger.error("%s", self.lost)
        if self._on_lost is not None:
            self._on_lost(self.lost)


def _process(pid: int) -> str:
    """Start of the machine, name space of processes, number and start of a process; "" if there is none, or no Linux.

    A container has a name space of its own, so nobody takes another one's process for absent.
    """
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        with open(f"/proc/{pid}/stat") as file:
            started = file.read().rpartition(")")[2].split()[19]
        return f"{boot} {os.readlink('/proc/self/ns/pid')} {pid} {started}"
    except (OSError, IndexError):
        return ""


def _facts(seen: Seen) -> LockFacts:
    """Read leniently: a file that is no lock, or one of another version, is a lock of a run that one knows less of."""
    try:
        content = json.loads(seen.data)
        known = {known.name: content[known.name] for known in fields(LockFacts) if known.name in content}
        facts = LockFacts(**{**known, "age_s": seen.age_s})
        return replace(facts, stale_s=float(facts.stale_s), progress=dict(facts.progress))
    except (ValueError, TypeError):
        return LockFacts(age_s=seen.age_s)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
