"""What an output folder knows: which clips are done, and the files a run leaves behind.

A clip is done when its commit marker `clips/<id>.json` exists; nothing else counts. What the markers say is kept in
tables besides, since a million small files are slow to read: `results.parquet`, written when a run ends, and before
that parts of it in `ledger/`.
"""

from __future__ import annotations

import io
import json
import logging
import time
import uuid
from collections.abc import Container, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from actors.clip_files import CLIPS_FOLDER, RECORD_VERSION, clip_name
from actors.row import STAGES
from actors.storage import join, list_names, open_binary, read_bytes, remove, write_atomically

if TYPE_CHECKING:
    from pipeline.board import Attempts

logger = logging.getLogger(__name__)

RESULTS_NAME = "results.parquet"
PARTS_FOLDER = "ledger"
DEATHS_NAME = "deaths.json"
DEAD_LETTER_NAME = "dead_letter.jsonl"
RUN_NAME = "run.json"
RUNNING, COMPLETE, INTERRUPTED = "running", "complete", "interrupted"
"""What `run.json` says of a run: it has begun; it has ended with a clip or a dead letter for every row, or before."""
GALLERY_NAME = "index.html"

PART_ROWS = 500
PART_EVERY_S = 60.0
_READERS = 32
_TIMED_STAGES = [stage for stage in STAGES if stage != "writing"]  # a record cannot hold its own writing's time

_RESULTS_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("language", pa.string()),
        ("resolution", pa.string()),
        ("aspect", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("num_frames", pa.int32()),
        ("video_s", pa.float64()),
        ("audio_s", pa.float64()),
        ("seed", pa.int64()),
        ("mp4", pa.string()),
        ("sha256", pa.string()),
        ("media_sha256", pa.string()),
        ("num_bytes", pa.int64()),
        ("fingerprint", pa.string()),
        ("prompt_text", pa.string()),
        *[(f"{stage}_s", pa.float64()) for stage in _TIMED_STAGES],
        ("metadata", pa.string()),
        ("notes", pa.string()),
        ("written_at", pa.string()),
    ]
)
_LATER_COLUMNS = ("media_sha256",)
"""Which tables of older versions lack, and their records, too."""


@dataclass(frozen=True)
class ClipCount:
    """Clips of one resolution and language.

    Attributes:
        resolution: "256p", "540p" or "1080p".
        language: code.
        num_clips: how many are done.
        video_s: their length together.
    """

    resolution: str
    language: str
    num_clips: int
    video_s: float


class Ledger:
    """The results of all runs into one output.

    Args:
        output_url: local folder or any fsspec URL.
    """

    def __init__(self, output_url: str):
        self.output_url = output_url
        self._rows: list[dict[str, Any]] = []
        self._part_is_due = time.monotonic() + PART_EVERY_S

    def committed_ids(self) -> set[str]:
        """Ids of the clips that are done: one listing, no reading."""
        names = list_names(join(self.output_url, CLIPS_FOLDER))
        return {name.removesuffix(".json") for name in names if name.endswith(".json")}

    def fingerprints(self, clip_ids: Iterable[str]) -> dict[str, str]:
        """What clips that are done were made from: from the tables, and from the markers of those they lack.

        A marker that is no record of this version (damaged, or somebody else's) is told of and counts as not there.
        """
        wanted = set(clip_ids)
        known: dict[str, str] = {}
        for table in self._tables(["id", "fingerprint"]):
            known.update(zip(table["id"].to_pylist(), table["fingerprint"].to_pylist(), strict=True))
        known = {clip_id: known[clip_id] for clip_id in wanted & known.keys()}
        for record in self.records(wanted - known.keys()):
            known[record["id"]] = record["fingerprint"]
            self.add(record)
        return known

    def records(self, clip_ids: Iterable[str]) -> Iterator[dict[str, Any]]:
        """Read the records of clips that are done, several at a time, in the order of their ids.

        What is no record of this version (damaged, or somebody else's) is told of and left out.
        """
        with ThreadPoolExecutor(_READERS) as pool:
            for record in pool.map(self._read_record, sorted(clip_ids)):
                if record is not None:
                    yield record

    def _read_record(self, clip_id: str) -> dict[str, Any] | None:
        url = join(self.output_url, clip_name(clip_id, "json"))
        try:
            record = json.loads(read_bytes(url))
            if record["id"] != clip_id or record["version"] != RECORD_VERSION:
                raise ValueError("another id or version")
        except (ValueError, TypeError, KeyError) as error:
            logger.warning("%s is not a record of a clip and is ignored (%s)", url, error)
            return None
        return record

    def add(self, record: Mapping[str, Any]) -> None:
        """Take the record of a clip that is done; every so often a part of the results' table is written.

        Raises:
            StorageError: it could not be.
        """
        self._rows.append(_result_row(record))
        if len(self._rows) >= PART_ROWS or time.monotonic() > self._part_is_due:
            self._write_part()

    def _write_part(self) -> None:
        if self._rows:
            # Names sort by time: where a clip was made twice, the later row counts.
            name = f"{time.time():.3f}-{uuid.uuid4().hex[:8]}.parquet"
            table = pa.Table.from_pylist(self._rows, schema=_RESULTS_SCHEMA)
            self._write(f"{PARTS_FOLDER}/{name}", _parquet([table]), "application/vnd.apache.parquet")
            self._rows = []
        self._part_is_due = time.monotonic() + PART_EVERY_S

    def write_results(self, committed_ids: Container[str]) -> list[ClipCount]:
        """Make one table, `results.parquet`, of all there are: one row per clip that is done.

        Args:
            committed_ids: of the clips that are done; rows of others are dropped.

        Returns:
            How many there are, by resolution and language.
        """
        self._write_part()
        part_names = self._part_names()
        last: dict[str, int] = {}
        numbers = iter(range(2**62))
        for table in self._tables(["id"]):
            last.update(zip(table["id"].to_pylist(), numbers, strict=False))
        number = 0
        counts: dict[tuple[str, str], ClipCount] = {}

        def kept() -> Iterator[pa.Table]:
            nonlocal number
            for table in self._tables():
                ids = table["id"].to_pylist()
                places = enumerate(ids, number)
                is_kept = [last[clip_id] == place and clip_id in committed_ids for place, clip_id in places]
                number += len(ids)
                table = table.filter(pa.array(is_kept, pa.bool_()))
                _count(table, counts)
                yield table

        self._write(RESULTS_NAME, _parquet(kept()), "application/vnd.apache.parquet")
        for name in part_names:
            remove(join(self.output_url, PARTS_FOLDER, name))
        return [counts[key] for key in sorted(counts)]

    def clip_counts(self, since: str) -> list[ClipCount]:
        """What `results.parquet` holds of clips written since then (ISO 8601, UTC), by resolution and language."""
        found: dict[tuple[str, str], ClipCount] = {}
        for table in self._rows_of([RESULTS_NAME], ["resolution", "language", "video_s", "written_at"]):
            _count(table.filter(pc.greater_equal(table["written_at"], since)), found)
        return [found[key] for key in sorted(found)]

    def _part_names(self) -> list[str]:
        return [name for name in list_names(join(self.output_url, PARTS_FOLDER)) if name.endswith(".parquet")]

    def _tables(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """Rows of the results' table and its parts, in the order they were written."""
        results = [RESULTS_NAME] if RESULTS_NAME in list_names(self.output_url) else []
        return self._rows_of([*results, *(f"{PARTS_FOLDER}/{name}" for name in self._part_names())], columns)

    def _rows_of(self, names: list[str], columns: list[str] | None) -> Iterator[pa.Table]:
        for name in names:
            url = join(self.output_url, name)
            try:
                with open_binary(url) as file:
                    for batch in pq.ParquetFile(file).iter_batches(10_000, columns=columns):
                        yield _as_results(pa.Table.from_batches([batch]), all_columns=columns is None)
            except (pa.ArrowException, KeyError) as error:
                logger.warning("%s is not a table of results and is ignored (%s)", url, error)

    def read_deaths(self) -> Attempts:
        """How many workers died over clips of earlier runs that did not come to an end."""
        if DEATHS_NAME not in list_names(join(self.output_url, PARTS_FOLDER)):
            return {}
        try:
            found = json.loads(read_bytes(join(self.output_url, PARTS_FOLDER, DEATHS_NAME)))
            return {clip: {stage: int(n) for stage, n in stages.items()} for clip, stages in found.items()}
        except (ValueError, TypeError, AttributeError) as error:
            logger.warning("%s/%s is damaged and is ignored (%s)", PARTS_FOLDER, DEATHS_NAME, error)
            return {}

    def write_deaths(self, deaths: Attempts) -> None:
        """Keep them for the next run, which may have to count on; nothing stays where there are none."""
        if deaths:
            self._write(f"{PARTS_FOLDER}/{DEATHS_NAME}", json.dumps(deaths).encode(), "application/json")
        else:
            remove(join(self.output_url, PARTS_FOLDER, DEATHS_NAME))

    def write_dead_letters(self, jsonl: bytes) -> None:
        """Write `dead_letter.jsonl`: every row of this manifest that failed; empty where none did."""
        self._write(DEAD_LETTER_NAME, jsonl, "application/x-ndjson")

    def read_references(self) -> tuple[str, ...]:
        """Below which folders earlier runs into this output were allowed to read, see `actors.references`."""
        found = self.read_run().get("allowed_references", [])
        prefixes = found if isinstance(found, list) else []
        return tuple(prefix for prefix in prefixes if isinstance(prefix, str) and prefix.endswith("/"))

    def read_run(self) -> dict[str, Any]:
        """What `run.json` says; nothing where there is none, or it is damaged or somebody else's."""
        if RUN_NAME in list_names(self.output_url):
            with suppress(ValueError, TypeError):
                return dict(json.loads(read_bytes(join(self.output_url, RUN_NAME))))
        return {}

    def write_run(self, facts: dict[str, Any]) -> None:
        """Write `run.json`."""
        self._write(RUN_NAME, json.dumps(facts, ensure_ascii=False, indent=1).encode(), "application/json")

    def write_gallery(self, html: str) -> str:
        """Write `index.html` and return its URL."""
        self._write(GALLERY_NAME, html.encode(errors="replace"), "text/html; charset=utf-8")
        return join(self.output_url, GALLERY_NAME)

    def _write(self, name: str, data: bytes, content_type: str) -> None:
        write_atomically(join(self.output_url, name), data, content_type=content_type)


def _as_results(table: pa.Table, all_columns: bool) -> pa.Table:
    """In the types of the results' table; of all columns, those that are absent because they are new hold nulls.

    Raises:
        ArrowException: a value does not fit.
        KeyError: a column is none of the results' table.
    """
    for name in _LATER_COLUMNS:
        if all_columns and name not in table.column_names:
            place = _RESULTS_SCHEMA.get_field_index(name)
            table = table.add_column(place, name, pa.nulls(len(table), pa.string()))
    return table.cast(pa.schema([_RESULTS_SCHEMA.field(name) for name in table.column_names]))


def _parquet(tables: Iterable[pa.Table]) -> bytes:
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, _RESULTS_SCHEMA) as writer:
        for table in tables:
            writer.write_table(table)
    return buffer.getvalue()


def _count(table: pa.Table, counts: dict[tuple[str, str], ClipCount]) -> None:
    groups = table.group_by(["resolution", "language"]).aggregate([("video_s", "sum"), ([], "count_all")])
    for group in groups.to_pylist():
        key = group["resolution"], group["language"]
        so_far = counts.get(key, ClipCount(*key, 0, 0.0))
        num_clips, video_s = so_far.num_clips + group["count_all"], so_far.video_s + group["video_s_sum"]
        counts[key] = ClipCount(*key, num_clips, video_s)


def _result_row(record: Mapping[str, Any]) -> dict[str, Any]:
    request, mp4 = record["request"], record["mp4"]
    row = {name: request[name] for name in ("id", "language", "resolution", "aspect")}
    row |= {name: mp4[name] for name in ("width", "height", "num_frames", "video_s", "audio_s", "sha256", "num_bytes")}
    row |= {name: mp4.get(name) for name in _LATER_COLUMNS}
    row |= {name: record[name] for name in ("seed", "fingerprint", "prompt_text", "written_at")}
    row |= {f"{stage}_s": record["stage_seconds"].get(stage) for stage in _TIMED_STAGES}
    row |= {
        "mp4": clip_name(record["id"], "mp4"),
        "metadata": json.dumps(request.get("metadata", {}), ensure_ascii=False),
        "notes": "; ".join(record["notes"]),
    }
    return row
