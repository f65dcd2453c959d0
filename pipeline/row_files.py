"""Files of rows of unknown origin, row by row: what is no row, or no reasonable one, is kept beside the reason."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BufferedIOBase, TextIOBase
from pathlib import PurePosixPath
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from actors.limits import MAX_ROW_BYTES
from actors.redaction import redact
from actors.storage import open_binary
from actors.strict_json import parse_json
from pipeline.yaml_values import parse_yaml

MAX_YAML_FILE_BYTES = 16 * 2**20
"""YAML is read as a whole."""

_BLOCK_BYTES = 16 * 2**20
_PARQUET_ROWS = 1000
_KEPT_BYTES = 1000
_UNREADABLE = (OSError, EOFError, ValueError, zlib.error, csv.Error, OverflowError, pa.ArrowException)


class RowFileError(ValueError):
    """A file of rows cannot be read."""


@dataclass(frozen=True)
class BadLine:
    """A line that is no row.

    Attributes:
        text: the line, or where it is too long its beginning.
        reason: what is wrong with it, for the user.
    """

    text: str
    reason: str


Row = dict[str, Any] | BadLine
"""A row, or what is none."""
RawRow = bytes | Row
"""A row as it comes out of a file: of JSON a line, which `parse_row` takes apart."""


def read_rows(url: str, noun: str, suffixes: Sequence[str]) -> Iterator[tuple[int, Row]]:
    """Rows of a file and where each ends, see `read_raw_rows`."""
    return ((line, parse_row(row)) for line, row in read_raw_rows(url, noun, suffixes))


def read_raw_rows(url: str, noun: str, suffixes: Sequence[str]) -> Iterator[tuple[int, RawRow]]:
    """Rows of a file and where each ends; of a large one no more than a block is in memory.

    Args:
        url: JSONL, CSV, Parquet or YAML file, by its suffix; `.gz` on top is unpacked; any fsspec URL.
        noun: what messages call it.
        suffixes: those that are taken.

    Yields:
        Line, counted from 1, and row: in CSV the header is line 1; in Parquet and YAML the row's number counts.

    Raises:
        RowFileError: if the file cannot be read, now or further on, or has another suffix.
    """
    name = PurePosixPath(url.split("?")[0]).name.lower()
    is_packed = name.endswith(".gz")
    suffix = PurePosixPath(name.removesuffix(".gz")).suffix
    if suffix not in suffixes:
        raise RowFileError(f"{noun} {redact(url)}: name must end in one of {', '.join(suffixes)}")
    try:
        # Parquet is read here and there, which an unpacking file allows at the price of unpacking again.
        with open_binary(url, _BLOCK_BYTES) as file:
            opened = io.BufferedReader(cast(io.RawIOBase, gzip.GzipFile(fileobj=file))) if is_packed else file
            yield from _PARSERS[suffix](opened)
    except _UNREADABLE as error:
        raise RowFileError(f"{noun} {redact(url)}: {' '.join(str(error).split())}") from error


def parse_row(row: RawRow) -> Row:
    """What a raw row holds."""
    if not isinstance(row, bytes):
        return row
    try:
        values = parse_json(row.decode())
        reason = "is not a JSON object"
    except ValueError as error:
        values, reason = None, f"is not a JSON object: {' '.join(str(error).split())[:200]}"
    return values if isinstance(values, dict) else BadLine(row.decode(errors="replace").strip(), reason)


def read_json_lines(file: BufferedIOBase) -> Iterator[tuple[int, bytes | BadLine]]:
    """Lines of JSON and their numbers from 1; empty ones are left out, and none is in memory beyond `MAX_ROW_BYTES`."""
    number = 0
    while text := file.readline(MAX_ROW_BYTES + 1):
        number += 1
        if len(text) > MAX_ROW_BYTES:
            beginning = text[:_KEPT_BYTES].decode(errors="replace")
            while text and not text.endswith(b"\n"):
                text = file.readline(MAX_ROW_BYTES)
            yield number, BadLine(beginning, f"must be at most {MAX_ROW_BYTES:,} bytes long")
            continue
        text = text.removeprefix(codecs.BOM_UTF8) if number == 1 else text
        if text.strip():
            yield number, text


def limited_lines(file: TextIOBase) -> Iterator[str]:
    """Lines of a CSV file, as its reader takes them.

    Raises:
        csv.Error: one is too long to be a row; where it ends, nobody knows.
    """
    while line := file.readline(MAX_ROW_BYTES + 1):
        if len(line) > MAX_ROW_BYTES:
            raise csv.Error(f"a line must be at most {MAX_ROW_BYTES:,} characters long")
        yield line


def _parse_parquet(file: BufferedIOBase) -> Iterator[tuple[int, dict[str, Any]]]:
    line = 0
    for batch in pq.ParquetFile(file).iter_batches(_PARQUET_ROWS):
        for values in batch.to_pylist(maps_as_pydicts="lossy"):
            yield (line := line + 1), values


def _parse_csv(file: BufferedIOBase) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(MAX_ROW_BYTES)
    lines = io.TextIOWrapper(cast(IO[bytes], file), encoding="utf-8-sig", newline="")
    # Strict: a quote that is never closed would otherwise swallow the rest of the file without a word.
    reader = csv.DictReader(limited_lines(lines), restkey="(beyond the header)", strict=True)
    for values in reader:
        yield reader.line_num, values


def _parse_yaml_rows(file: BufferedIOBase) -> Iterator[tuple[int, Row]]:
    rows = parse_yaml(file.read(MAX_YAML_FILE_BYTES + 1), MAX_YAML_FILE_BYTES)
    if not isinstance(rows, list):
        raise ValueError(f"must hold a list of rows, got {type(rows).__name__}")
    for number, row in enumerate(rows, 1):
        yield number, row if isinstance(row, dict) else BadLine(str(row)[:_KEPT_BYTES], "holds no names and values")


_PARSERS: dict[str, Callable[[BufferedIOBase], Iterator[tuple[int, RawRow]]]] = {
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".csv": _parse_csv,
    ".parquet": _parse_parquet,
    ".yaml": _parse_yaml_rows,
    ".yml": _parse_yaml_rows,
}
