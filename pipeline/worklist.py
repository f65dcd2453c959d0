"""The rows of a manifest that the driver keeps: a million of them in a few hundred megabytes.

Requests lie compressed in chunks of a thousand. Ray Data gets them so, and unpacks them as it goes.
"""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from enum import IntEnum
from functools import lru_cache

import pyarrow as pa
import zstandard

from actors.row import new_row
from model.geometry import RESOLUTIONS
from pipeline.valid_row import ValidRow

ROWS_PER_CHUNK = 1000

_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("request", pa.string()),
        ("payload", pa.large_binary()),
        ("failure", pa.string()),
        ("stage_seconds", pa.string()),
        ("notes", pa.string()),
    ]
)


class Status(IntEnum):
    """Where a row stands."""

    TODO = 0
    SKIPPED = 1
    DONE = 2
    FAILED = 3


class Worklist:
    """Valid rows in the manifest's order, each with its status."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._status = bytearray()
        self._resolutions = bytearray()
        self._lines = array("q")
        self._chunks: list[bytes] = []
        self._open: list[tuple[str, str]] = []
        self._unpacked = lru_cache(maxsize=4)(self._unpack)

    def add(self, row: ValidRow, status: Status = Status.TODO) -> None:
        """Append a row.

        Args:
            row: with an id that no other row has.
            status: where it stands.
        """
        self._numbers[row.id] = len(self._status)
        self._status.append(status)
        self._resolutions.append(RESOLUTIONS.index(row.kind.resolution))
        self._lines.append(row.line)
        self._open.append((row.id, row.request))
        if len(self._open) == ROWS_PER_CHUNK:
            self._chunks.append(_pack(self._open))
            self._open = []

    def __contains__(self, clip_id: str) -> bool:
        return clip_id in self._numbers

    def __iter__(self) -> Iterator[str]:
        """Ids in the manifest's order."""
        return iter(self._numbers)

    def status(self, clip_id: str) -> Status:
        """Where a row stands."""
        return Status(self._status[self._numbers[clip_id]])

    def mark(self, clip_id: str, status: Status) -> None:
        """Say where a row stands now."""
        self._status[self._numbers[clip_id]] = status

    def row(self, clip_id: str) -> tuple[int, str]:
        """Line and request (JSON) of a row."""
        number = self._numbers[clip_id]
        chunk, place = divmod(number, ROWS_PER_CHUNK)
        rows = self._open if chunk == len(self._chunks) else self._unpacked(chunk)
        return self._lines[number], rows[place][1]

    @property
    def num_made(self) -> int:
        """Rows whose clip is in the output."""
        return self._status.count(Status.DONE) + self._status.count(Status.SKIPPED)

    def num_todo(self, resolution: str) -> int:
        """Rows of a resolution that are still to do."""
        return sum(1 for _ in self._todo(resolution))

    def chunks(self, resolution: str) -> Iterator[bytes]:
        """Rows of a resolution that are still to do, for `unpack_rows`, in the manifest's order."""
        per_chunk = Counter(number // ROWS_PER_CHUNK for number in self._todo(resolution))
        for chunk, num_todo in per_chunk.items():
            if chunk == len(self._chunks):
                rows = self._open
            elif num_todo == ROWS_PER_CHUNK:
                yield self._chunks[chunk]
                continue
            else:
                rows = self._unpack(chunk)
            first = chunk * ROWS_PER_CHUNK
            wanted = RESOLUTIONS.index(resolution)
            yield _pack(
                [
                    row
                    for number, row in enumerate(rows, first)
                    if self._status[number] == Status.TODO and self._resolutions[number] == wanted
                ]
            )

    def _todo(self, resolution: str) -> Iterator[int]:
        wanted = RESOLUTIONS.index(resolution)
        rows = zip(self._status, self._resolutions, strict=True)
        return (n for n, (status, r) in enumerate(rows) if status == Status.TODO and r == wanted)

    def _unpack(self, chunk: int) -> list[tuple[str, str]]:
        return unpack_rows(self._chunks[chunk])


def unpack_rows(chunk: bytes) -> list[tuple[str, str]]:
    """Id and request (JSON) of the rows of a chunk, see `Worklist.chunks`."""
    rows = json.loads(zstandard.ZstdDecompressor().decompress(chunk))
    return [(clip_id, request) for clip_id, request in rows]


def unpack_requests(chunks: pa.Table) -> Iterator[pa.Table]:
    """Rows of chunks of requests, as the first stage takes them.

    A task of its own on Ray, which shows this name: here rather than beside the graph, so that its process is spared
    the second that importing torch takes.

    Args:
        chunks: column `rows` (binary): each a chunk, see `Worklist.chunks`.

    Yields:
        A chunk's rows with the columns of `actors.row`.
    """
    for chunk in chunks["rows"]:
        rows = [new_row(clip_id, request) for clip_id, request in unpack_rows(chunk.as_py())]
        yield pa.Table.from_pylist(rows, schema=_SCHEMA)


def _pack(rows: Sequence[tuple[str, str]]) -> bytes:
    return zstandard.ZstdCompressor(level=1).compress(json.dumps(rows, ensure_ascii=False).encode())
