"""Reading a manifest: every row becomes a validated request or a failure that says what to mend."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from actors.redaction import redact
from actors.references import AllowedReferences, ReferenceRefused, folder_of
from actors.request import ClipRequest, describe_validation_error
from actors.row import Failure
from actors.storage import write_atomically
from pipeline.plain_values import plain_value
from pipeline.row_files import BadLine, RawRow, parse_row, read_raw_rows

SUFFIXES = (".jsonl", ".ndjson", ".csv", ".parquet")
"""Of a manifest's name; `.gz` may follow."""
DEAD_LETTER_KEY = "dead_letter"
"""Key under which a dead letter carries its reason; ignored when a dead-letter file is used as a manifest."""
RAW_KEY = "raw"
"""Key under which a line that is no JSON object is kept in a dead letter."""

_MAX_TEXT = 1000


@dataclass(frozen=True)
class ManifestRow:
    """One row of a manifest; exactly one of `request` and `failure` is set.

    Attributes:
        line: where it ends, counted from 1 (in CSV the header is line 1; in Parquet the row number).
        values: the row as it was read, without an earlier run's dead-letter reason; `image` and `audio` resolved.
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


def read_manifest(url: str, references: AllowedReferences | None = None) -> Iterator[ManifestRow]:
    """Read and validate a manifest row by row; of a large one no more than a block is in memory.

    Args:
        url: JSONL, CSV or Parquet file, by its suffix; `.gz` on top is unpacked; any fsspec URL.
        references: where images and recordings may lie; None: below the manifest's own folder, bucket or host.

    Raises:
        RowFileError: if the file cannot be read, now or further on, or has another suffix.
    """
    validator, ids = RowValidator(url, references), SeenIds()
    for line, raw in read_raw_rows(url, "manifest", SUFFIXES):
        row = validator.validate(line, raw)
        twice = None if row.request is None else ids.add(row.request.id, line)
        yield row if twice is None else ManifestRow(line, row.values, failure=twice)


class SeenIds:
    """Ids of a manifest's valid rows, and the lines they stand in."""

    def __init__(self) -> None:
        self._first_lines: dict[str, int] = {}

    def add(self, clip_id: str, line: int) -> Failure | None:
        """Take the id of a row; a failure where another row has it."""
        # Names of files: on a disk that ignores case, two such ids would be one clip.
        first = self._first_lines.setdefault(clip_id.lower(), line)
        if first == line:
            return None
        reason = f"is used already in line {first}; ids must be unique, also where upper and lower case are one"
        return _failure("id", clip_id, reason)


def write_manifest(requests: Iterable[ClipRequest], url: str) -> None:
    """Write requests as a manifest."""
    lines = [request.model_dump_json(exclude_none=True) + "\n" for request in requests]
    write_atomically(url, "".join(lines).encode(), "application/x-ndjson")


class RowValidator:
    """Validates rows of a manifest one by one, whatever the others hold.

    Args:
        manifest_url: images and recordings are relative to its folder.
        references: where they may lie; None: below that folder, its bucket or host.
    """

    def __init__(self, manifest_url: str, references: AllowedReferences | None = None):
        self.references = references or AllowedReferences.of_manifest(manifest_url)
        self.base_folder = folder_of(manifest_url)

    def validate(self, line: int, raw: RawRow) -> ManifestRow:
        """Validate a row, which ends in this line."""
        found = parse_row(raw)
        if isinstance(found, BadLine):
            return ManifestRow(line, {RAW_KEY: found.text}, failure=_failure("row", found.text, found.reason))
        given = {str(key): value for key, value in found.items() if key != DEAD_LETTER_KEY}
        try:
            values = {key: plain_value(value) for key, value in given.items()}
        except ValueError as error:
            # Too deep to write down whole: the dead letter keeps the beginning of each value as text.
            values = {key: str(value)[:_MAX_TEXT] for key, value in given.items()}
            return ManifestRow(line, values, failure=_failure("row", None, str(error)))
        if set(values) == {RAW_KEY}:
            return ManifestRow(line, values, failure=_failure("row", values[RAW_KEY], "is not a JSON object"))
        for name in ("image", "audio"):
            # A dead letter is fed back from another folder, so it keeps the resolved reference.
            if isinstance(values.get(name), str) and values[name]:
                try:
                    values[name] = self.references.resolve(values[name], self.base_folder)
                except ReferenceRefused as error:
                    return ManifestRow(line, values, failure=_failure(name, redact(values[name]), str(error)))
        try:
            return ManifestRow(line, values, request=ClipRequest.model_validate(_without_nulls(values)))
        except ValidationError as error:
            field, value, reason = describe_validation_error(error)
            return ManifestRow(line, values, failure=_failure(field, values.get(field, value), reason))
        except (ValueError, RecursionError) as error:
            reason = f"cannot be written as JSON: {' '.join(str(error).split())}"
            return ManifestRow(line, values, failure=_failure("row", None, reason))


def _failure(field: str, value: Any, reason: str) -> Failure:
    return Failure("manifest", field, value, reason)


def _without_nulls(values: Mapping[str, Any]) -> dict[str, Any]:
    """Drop what is not given: empty cells of flat files, and the nulls Arrow fills structures with."""
    given = {name: value for name, value in values.items() if value is not None and value != ""}
    if isinstance(prompt := given.get("prompt"), Mapping):
        parts = _given(prompt)
        if isinstance(lines := parts.get("dialogue"), list):
            parts["dialogue"] = [_given(line) if isinstance(line, Mapping) else line for line in lines]
        given["prompt"] = parts
    return given


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
