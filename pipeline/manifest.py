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
from pipeline.row_files import BadLine, read_rows

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
    references = references or AllowedReferences.of_manifest(url)
    base_folder = folder_of(url)
    first_lines: dict[str, int] = {}
    for line, values in read_rows(url, "manifest", SUFFIXES):
        if isinstance(values, BadLine):
            failure = Failure("manifest", "row", values.text, values.reason)
            yield ManifestRow(line, {RAW_KEY: values.text}, failure=failure)
        else:
            yield _validate(line, values, references, base_folder, first_lines)


def write_manifest(requests: Iterable[ClipRequest], url: str) -> None:
    """Write requests as a manifest."""
    lines = [request.model_dump_json(exclude_none=True) + "\n" for request in requests]
    write_atomically(url, "".join(lines).encode(), "application/x-ndjson")


def _validate(
    line: int,
    values: dict[str, Any],
    references: AllowedReferences,
    base_folder: str,
    first_lines: dict[str, int],
) -> ManifestRow:
    given = {str(key): value for key, value in values.items() if key != DEAD_LETTER_KEY}
    try:
        values = {key: plain_value(value) for key, value in given.items()}
    except ValueError as error:
        # Too deep to write down whole: the dead letter keeps the beginning of each value as text.
        values = {key: str(value)[:_MAX_TEXT] for key, value in given.items()}
        return ManifestRow(line, values, failure=Failure("manifest", "row", None, str(error)))
    if set(values) == {RAW_KEY}:
        return ManifestRow(line, values, failure=Failure("manifest", "row", values[RAW_KEY], "is not a JSON object"))
    for name in ("image", "audio"):
        # A dead letter is fed back from another folder, so it keeps the resolved reference.
        if isinstance(values.get(name), str) and values[name]:
            try:
                values[name] = references.resolve(values[name], base_folder)
            except ReferenceRefused as error:
                failure = Failure("manifest", name, redact(values[name]), str(error))
                return ManifestRow(line, values, failure=failure)
    try:
        request = ClipRequest.model_validate(_without_nulls(values))
    except ValidationError as error:
        field, value, reason = describe_validation_error(error)
        return ManifestRow(line, values, failure=Failure("manifest", field, values.get(field, value), reason))
    except (ValueError, RecursionError) as error:
        reason = f"cannot be written as JSON: {' '.join(str(error).split())}"
        return ManifestRow(line, values, failure=Failure("manifest", "row", None, reason))
    # Names of files: on a disk that ignores case, two such ids would be one clip.
    if (first_line := first_lines.setdefault(request.id.lower(), line)) != line:
        reason = f"is used already in line {first_line}; ids must be unique, also where upper and lower case are one"
        return ManifestRow(line, values, failure=Failure("manifest", "id", request.id, reason))
    return ManifestRow(line, values, request=request)


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
