"""What an output folder knows: which clips are done, and the files a run leaves behind.

A clip is done when its commit marker `clips/<id>.json` exists; nothing else counts.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from actors.row import STAGES
from actors.storage import join, list_names, read_bytes, write_atomically
from actors.writing import CLIPS_FOLDER, RECORD_VERSION, clip_name

logger = logging.getLogger(__name__)

RESULTS_NAME = "results.parquet"
DEAD_LETTER_NAME = "dead_letter.jsonl"
RUN_NAME = "run.json"
GALLERY_NAME = "index.html"

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
        ("num_bytes", pa.int64()),
        ("fingerprint", pa.string()),
        ("prompt_text", pa.string()),
        *[(f"{stage}_s", pa.float64()) for stage in _TIMED_STAGES],
        ("metadata", pa.string()),
        ("notes", pa.string()),
        ("written_at", pa.string()),
    ]
)


class Ledger:
    """The results of all runs into one output.

    Args:
        output_url: local folder or any fsspec URL.
    """

    def __init__(self, output_url: str):
        self.output_url = output_url

    def committed_ids(self) -> set[str]:
        """Ids of the clips that are done: one listing, no reading."""
        names = list_names(join(self.output_url, CLIPS_FOLDER))
        return {name.removesuffix(".json") for name in names if name.endswith(".json")}

    def read_records(self, clip_ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Read the records of clips that are done, several at a time.

        A file that is no record of this version (damaged, or somebody else's) is told of and counts as not there.
        """
        ids = sorted(clip_ids)
        with ThreadPoolExecutor(_READERS) as pool:
            records = dict(zip(ids, pool.map(self._read_record, ids), strict=True))
        return {clip_id: record for clip_id, record in records.items() if record is not None}

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

    def write_results(self, records: Sequence[dict[str, Any]]) -> None:
        """Write `results.parquet`: one row per clip that is done."""
        table = pa.Table.from_pylist([_result_row(record) for record in records], schema=_RESULTS_SCHEMA)
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        self._write(RESULTS_NAME, buffer.getvalue(), "application/vnd.apache.parquet")

    def write_dead_letters(self, dead_letters: Sequence[dict[str, Any]]) -> None:
        """Write `dead_letter.jsonl`: every row of this manifest that failed; empty where none did."""
        lines = [json.dumps(letter, ensure_ascii=False, default=str) + "\n" for letter in dead_letters]
        # Half an emoji has no bytes in UTF-8; written as the escape it was, it stays valid JSON.
        self._write(DEAD_LETTER_NAME, "".join(lines).encode(errors="backslashreplace"), "application/x-ndjson")

    def write_run(self, facts: dict[str, Any]) -> None:
        """Write `run.json`."""
        self._write(RUN_NAME, json.dumps(facts, ensure_ascii=False, indent=1).encode(), "application/json")

    def write_gallery(self, html: str) -> str:
        """Write `index.html` and return its URL."""
        self._write(GALLERY_NAME, html.encode(errors="replace"), "text/html; charset=utf-8")
        return join(self.output_url, GALLERY_NAME)

    def _write(self, name: str, data: bytes, content_type: str) -> None:
        write_atomically(join(self.output_url, name), data, content_type=content_type)


def _result_row(record: dict[str, Any]) -> dict[str, Any]:
    request, mp4 = record["request"], record["mp4"]
    row = {name: request[name] for name in ("id", "language", "resolution", "aspect")}
    row |= {name: mp4[name] for name in ("width", "height", "num_frames", "video_s", "audio_s", "sha256", "num_bytes")}
    row |= {name: record[name] for name in ("seed", "fingerprint", "prompt_text", "written_at")}
    row |= {f"{stage}_s": record["stage_seconds"].get(stage) for stage in _TIMED_STAGES}
    row |= {
        "mp4": clip_name(record["id"], "mp4"),
        "metadata": json.dumps(request.get("metadata", {}), ensure_ascii=False),
        "notes": "; ".join(record["notes"]),
    }
    return row
