"""Reading a manifest of any length: the rows of a long one are validated by several processes.

Validating takes nearly all of the time that a driver spends on a manifest before its run begins.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import subprocess
import sys
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from itertools import chain, islice
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from pipeline.manifest import SUFFIXES, ManifestRow, RowValidator
from pipeline.row_files import RawRow, read_raw_rows
from pipeline.valid_row import ValidRow

if TYPE_CHECKING:
    from actors.fingerprint import LaneFingerprint  # which imports torch, and helpers are soon there without

logger = logging.getLogger(__name__)

LaneFingerprints = Mapping[tuple[str, bool], "LaneFingerprint"]
"""By resolution, and whether there is a reference image."""
NumberedRow = tuple[int, RawRow]
CheckedRow = ValidRow | ManifestRow
"""What a row has become; a `ManifestRow` where it is not valid."""

_ROWS_PER_BATCH = 500
_BYTES_PER_BATCH = 4 * 2**20
_BATCHES_ALONE = 40
"""In the time in which this process checks so many others are hardly started."""
_MAX_HELPERS = 4
"""A fifth would wait: this process reads the file and takes what they have done."""
# Modules come from where this process has them, not from a folder of the same name that it happens to be in.
_HELPER = (
    "import sys; number, *sys.path = sys.argv[1:]; from pipeline.row_helper import help_with; help_with(int(number))"
)


def checked_rows(
    url: str, validator: RowValidator, lanes: LaneFingerprints
) -> Generator[tuple[NumberedRow, CheckedRow]]:
    """Read a manifest and check each row for itself; of a large one no more than some batches are in memory.

    Args:
        url: see `pipeline.manifest.read_manifest`.
        validator: of its rows.
        lanes: what is known of them, so that rows get their fingerprints; entries may be added while this goes on.

    Yields:
        Rows as they are in the file, and what has become of them, in the file's order.

    Raises:
        RowFileError: if the file cannot be read, now or further on, or has another suffix.
    """
    batches = _batches(read_raw_rows(url, "manifest", SUFFIXES))
    for batch in islice(batches, _BATCHES_ALONE):
        yield from zip(batch, check(validator, lanes, batch), strict=True)
    if (first := next(batches, None)) is None:
        return
    helpers = [_Helper(validator) for _ in range(_num_helpers())]
    try:
        for batch, checked in _checked_by(helpers, chain([first], batches), lanes):
            yield from zip(batch, checked or check(validator, lanes, batch), strict=True)
    finally:
        for helper in helpers:
            helper.end()


def check(validator: RowValidator, lanes: LaneFingerprints, batch: Sequence[NumberedRow]) -> list[CheckedRow]:
    """What becomes of rows, each for itself."""
    return [_check_one(validator, lanes, *row) for row in batch]


def _check_one(validator: RowValidator, lanes: LaneFingerprints, line: int, raw: RawRow) -> CheckedRow:
    row = validator.validate(line, raw)
    if row.request is None:
        return row
    return ValidRow.of(line, row.request, lanes.get((row.request.resolution, row.request.image is not None)))


def _num_helpers() -> int:
    """As many as this process may use cores; one alone would only take turns with it."""
    try:
        num_cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        num_cores = os.cpu_count() or 1
    return 0 if num_cores == 1 else min(num_cores, _MAX_HELPERS)


def _batches(rows: Iterator[NumberedRow]) -> Iterator[list[NumberedRow]]:
    batch: list[NumberedRow] = []
    num_bytes = 0
    for row in rows:
        batch.append(row)
        num_bytes += _num_bytes(row[1])
        if len(batch) == _ROWS_PER_BATCH or num_bytes > _BYTES_PER_BATCH:
            yield batch
            batch, num_bytes = [], 0
    if batch:
        yield batch


def _num_bytes(raw: RawRow) -> int:
    """About; of a structure out of Parquet, of which a thousand are in memory anyway, less than it has."""
    if isinstance(raw, bytes):
        return len(raw)
    return sum(len(value) for value in raw.values() if isinstance(value, str)) if isinstance(raw, dict) else 0


def _checked_by(
    helpers: Sequence[_Helper], batches: Iterator[list[NumberedRow]], lanes: LaneFingerprints
) -> Iterator[tuple[list[NumberedRow], list[CheckedRow] | None]]:
    """Batches in their order and what helpers made of them, each of which has one at a time; None: nobody helped."""
    waiting: deque[tuple[_Helper, list[NumberedRow]]] = deque()
    for helper, batch in zip(helpers, batches, strict=False):
        helper.give(lanes, batch)
        waiting.append((helper, batch))
    while waiting:
        helper, batch = waiting.popleft()
        checked = helper.take()
        if (another := next(batches, None)) is not None:
            helper.give(lanes, another)
            waiting.append((helper, another))
        yield batch, checked
    yield from ((batch, None) for batch in batches)


class _Helper:
    """A process that checks batches; where it cannot be started, or has died, it checks none.

    Its own end of the pipe is closed here, so that its death shows, and that of this process shows there. It is in a
    process group of its own: Ctrl-C is for the driver.
    """

    def __init__(self, validator: RowValidator):
        self._validator = validator
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        try:
            self._connection, theirs = multiprocessing.Pipe()
            with theirs:
                number = theirs.fileno()
                command = [sys.executable, "-c", _HELPER, str(number), *sys.path]
                self._process = subprocess.Popen(command, pass_fds=[number], process_group=0)
        except OSError as error:
            self._give_up(error)

    def give(self, lanes: LaneFingerprints, batch: list[NumberedRow]) -> None:
        """Have a batch checked, when the one before has been taken."""
        if self._connection is not None:
            try:
                self._connection.send((self._validator, dict(lanes), batch))
            except OSError as error:
                self._give_up(error)

    def take(self) -> list[CheckedRow] | None:
        """What has become of the batch given; None where nobody has checked it."""
        if self._connection is None:
            return None
        try:
            checked: list[CheckedRow] = self._connection.recv()
        except (EOFError, OSError) as error:
            self._give_up(error)
            return None
        return checked

    def end(self) -> None:
        """End the process, whatever it is doing."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _give_up(self, error: Exception) -> None:
        reason = " ".join(f"{type(error).__name__} {error}".split())
        logger.warning("a process that helps to read the manifest is gone, another does its part (%s)", reason)
        if self._connection is not None:
            self._connection.close()
            self._connection = None
