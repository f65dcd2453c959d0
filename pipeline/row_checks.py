"""Reading a manifest of any length: the rows of a long one are validated by several processes.

Validating takes nearly all of the time that a driver spends on a manifest before its run begins.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

from pipeline.helper_process import begin_to_help
from pipeline.manifest import SUFFIXES, ManifestRow, RowValidator
from pipeline.row_files import RawRow, read_raw_rows
from pipeline.valid_row import ValidRow

if TYPE_CHECKING:
    from actors.fingerprint import LaneFingerprint  # which imports torch, and helpers are soon there without

LaneFingerprints = Mapping[tuple[str, bool], "LaneFingerprint"]
"""By resolution, and whether there is a reference image."""
NumberedRow = tuple[int, RawRow]
CheckedRow = ValidRow | ManifestRow
"""What a row has become; a `ManifestRow` where it is not valid."""

_ROWS_PER_BATCH = 500
_BYTES_PER_BATCH = 8 * 2**20
_BATCHES_ALONE = 40
"""In the time in which this process checks so many others are not even started."""
_MAX_HELPERS = 4
"""A fifth would wait: this process reads the file, and takes what they have done, at four times their speed."""
_AHEAD_PER_HELPER = 3


def checked_rows(
    url: str, validator: RowValidator, lanes: LaneFingerprints
) -> Generator[tuple[NumberedRow, CheckedRow]]:
    """Read a manifest and check each row for itself; of a large one no more than some blocks are in memory.

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
    num_helpers = min(os.cpu_count() or 1, _MAX_HELPERS)
    for batch in islice(batches, None if num_helpers == 1 else _BATCHES_ALONE):
        yield from zip(batch, _check(validator, lanes, batch), strict=True)
    # Not forked: this process has threads of the store's client and of the output's lock.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_helpers, context, begin_to_help)  # which starts them when there is something to do
    waiting: deque[tuple[list[NumberedRow], Future[list[CheckedRow]] | None]] = deque()

    def next_checked() -> Iterator[tuple[NumberedRow, CheckedRow]]:
        batch, future = waiting.popleft()
        checked = None
        with suppress(BrokenExecutor):  # a helper was killed, which takes the others with it
            checked = None if future is None else future.result()
        return zip(batch, _check(validator, lanes, batch) if checked is None else checked, strict=True)

    try:
        for batch in batches:
            future = None
            with suppress(BrokenExecutor):
                future = pool.submit(_check, validator, dict(lanes), batch)
            waiting.append((batch, future))
            if len(waiting) > _AHEAD_PER_HELPER * num_helpers:
                yield from next_checked()
        while waiting:
            yield from next_checked()
    finally:
        pool.shutdown(cancel_futures=True)


def _batches(rows: Iterator[NumberedRow]) -> Iterator[list[NumberedRow]]:
    batch: list[NumberedRow] = []
    num_bytes = 0
    for row in rows:
        batch.append(row)
        num_bytes += len(row[1]) if isinstance(row[1], bytes) else 0
        if len(batch) == _ROWS_PER_BATCH or num_bytes > _BYTES_PER_BATCH:
            yield batch
            batch, num_bytes = [], 0
    if batch:
        yield batch


def _check(validator: RowValidator, lanes: LaneFingerprints, batch: Sequence[NumberedRow]) -> list[CheckedRow]:
    return [_check_one(validator, lanes, *row) for row in batch]


def _check_one(validator: RowValidator, lanes: LaneFingerprints, line: int, raw: RawRow) -> CheckedRow:
    row = validator.validate(line, raw)
    if row.request is None:
        return row
    return ValidRow.of(line, row.request, lanes.get((row.request.resolution, row.request.image is not None)))
