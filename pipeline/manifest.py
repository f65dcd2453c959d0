"""Reading a manifest: every row becomes a validated request or a failure that says what to mend."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from actors.request import ClipRequest, describe_validation_error
from actors.row import Failure
from actors.storage import read_bytes, resolve

SUFFIXES = (".jsonl", ".ndjson", ".csv", ".parquet")
DEAD_LETTER_KEY = "dead_letter"
"""Key under which a dead letter carries its reason; ignored when a dead-letter file is used as a manifest."""
RAW_KEY = "raw"
"""Key under which a line that is no JSON object is kept in a dead letter."""


class ManifestError(ValueError):
    """The manifest as a whole cannot be read."""


@dataclass(frozen=True)
class ManifestRow:
    """One row of a manifest; exactly one of `request` and `failure` is set.

    Attributes:
        line: where it stands, counted from 1 (in CSV the header is line 1; in Parquet the row number).
        values: the row as it was read, without an earlier run's dead-letter reason.
        request: validated, with `image` and `audio` resolved against the manifest's folder.
        failure: what is wrong.
    """

    line: int
    values: dict[str, Any]
    request: ClipRequest | None = None
    failure: Failure | None = None

    def dead_letter(self, failure: Failure) -> dict[str, Any]:
        """The row in manifest form plus the reason: mend it and feed the file back."""
        reason = {"line": self.line, "stage": failure.stage, "field": failure.field}
        return {**self.values, DEAD_LETTER_KEY: {**reason, "value": failure.value, "reason": failure.reason}}


def read_manifest(url: str) -> list[ManifestRow]:
    """Read and validate a manifest.

    Args:
        url: JSONL, CSV or Parquet file, by its suffix; `.gz` on top is unpacked; any fsspec URL.

    Raises:
        ManifestError: if the file cannot be read at all or has another suffix.
    """
    name = PurePosixPath(url.split("?")[0]).name.lower()
    try:
        data = read_bytes(url)
        if name.endswith(".gz"):
            name, data = name.removesuffix(".gz"), gzip.decompress(data)
        if not name.endswith(SUFFIXES):
            raise ManifestError(f"manifest {url}: name must end in one of {', '.join(SUFFIXES)}")
        rows = list(_parse(name, data))
    except (OSError, EOFError, csv.Error, UnicodeError, pa.ArrowException) as error:
        raise ManifestError(f"manifest {url}: {error}") from error
    base_folder = url.rpartition("/")[0] or "."
    first_lines: dict[str, int] = {}
    return [_validate(line, values, base_folder, first_lines) for line, values in rows]


def _parse(name: str, data: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    if name.endswith(".parquet"):
        yield from enumerate(pq.read_table(io.BytesIO(data)).to_pylist(maps_as_pydicts="lossy"), start=1)
    elif name.endswith(".csv"):
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), restkey="(beyond the header)")
        for values in reader:
            yield reader.line_num, values
    else:
        for line, text in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
            if text.strip():
                yield line, _parse_json(text)


def _parse_json(text: bytes) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError:
        values = None
    return values if isinstance(values, dict) else {RAW_KEY: text.decode("utf-8", errors="replace").strip()}


def _validate(line: int, values: dict[str, Any], base_folder: str, first_lines: dict[str, int]) -> ManifestRow:
    values = {key: value for key, value in values.items() if key != DEAD_LETTER_KEY}
    if set(values) == {RAW_KEY}:
        return ManifestRow(line, values, failure=Failure("manifest", "row", values[RAW_KEY], "is not a JSON object"))
    # An empty cell of a flat file means that the field is not given.
    given = {key: value for key, value in values.items() if value is not None and value != ""}
    try:
        request = ClipRequest.model_validate(given)
    except ValidationError as error:
        field, value, reason = describe_validation_error(error)
        if field in values:
            value = values[field]
        return ManifestRow(line, values, failure=Failure("manifest", field, value, reason))
    if request.id in first_lines:
        reason = f"is used already in line {first_lines[request.id]}; ids must be unique"
        return ManifestRow(line, values, failure=Failure("manifest", "id", request.id, reason))
    first_lines[request.id] = line
    references = {name: getattr(request, name) for name in ("image", "audio")}
    resolved = {name: resolve(value, base_folder) for name, value in references.items() if value is not None}
    return ManifestRow(line, values, request=request.model_copy(update=resolved))
