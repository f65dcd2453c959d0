"""What came out of two runs of one manifest, side by side."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow.parquet as pq

from actors.clip_files import CLIPS_FOLDER
from actors.storage import join, list_names, read_bytes
from pipeline.ledger import DEAD_LETTER_NAME, GALLERY_NAME, RESULTS_NAME, RUN_NAME
from pipeline.manifest import DEAD_LETTER_KEY

_READERS = 8
_PASSING_FACTS = ("written_at", "stage_seconds")
_FILES_OF_A_RUN = {DEAD_LETTER_NAME, GALLERY_NAME, RESULTS_NAME, RUN_NAME}
_SUFFIXES = ("mp4", "jpg", "json")


@dataclass
class Outcomes:
    """What an output holds.

    Attributes:
        clips: id to what it is: its record without what may differ, such as the MP4's hash, and the poster's hash.
        dead_letters: id to the reason; all that were written, one after the other.
        table: ids in the table of results.
        strays: files that no run should leave.
    """

    clips: dict[str, dict[str, Any]] = field(default_factory=dict)
    dead_letters: list[tuple[str, str]] = field(default_factory=list)
    table: list[str] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)


def read_outcomes(output_url: str) -> Outcomes:
    """Read all of an output.

    Raises:
        StorageError: it cannot be read.
    """
    names = list_names(join(output_url, CLIPS_FOLDER))
    found = Outcomes()
    ids = sorted(name.removesuffix(".json") for name in names if name.endswith(".json"))
    with ThreadPoolExecutor(_READERS) as pool:
        found.clips = dict(zip(ids, pool.map(lambda clip_id: _clip(output_url, clip_id), ids), strict=True))
    for letter in map(json.loads, read_bytes(join(output_url, DEAD_LETTER_NAME)).splitlines()):
        reason = letter[DEAD_LETTER_KEY]
        found.dead_letters.append((str(letter.get("id", reason["line"])), f"{reason['field']}: {reason['reason']}"))
    table = pq.read_table(io.BytesIO(read_bytes(join(output_url, RESULTS_NAME))), columns=["id"])
    found.table = table["id"].to_pylist()
    expected = {f"{clip_id}.{suffix}" for clip_id in ids for suffix in _SUFFIXES}
    found.strays = sorted({*names} - expected)
    found.strays += sorted(name for name in list_names(output_url) if name not in _FILES_OF_A_RUN | {CLIPS_FOLDER})
    return found


def _clip(output_url: str, clip_id: str) -> dict[str, Any]:
    files = {suffix: read_bytes(join(output_url, CLIPS_FOLDER, f"{clip_id}.{suffix}")) for suffix in _SUFFIXES}
    record = json.loads(files["json"])
    facts = {name: value for name, value in record.items() if name not in _PASSING_FACTS}
    # The file says when it was made; what it shows and plays is in `media_sha256`.
    facts["mp4"] = {name: value for name, value in record["mp4"].items() if name != "sha256"}
    facts["jpg"] = hashlib.sha256(files["jpg"]).hexdigest()
    if (digest := hashlib.sha256(files["mp4"]).hexdigest()) != record["mp4"]["sha256"]:
        facts["damaged"] = digest
    return facts


def find_differences(ids: Sequence[str], undisturbed: Outcomes, disturbed: Outcomes) -> list[str]:
    """What is not as it must be, a line each; empty where every row has one outcome and every clip is the same.

    Args:
        ids: of the manifest's rows.
        undisturbed: what came out of a run that nobody broke.
        disturbed: what came out of the other.
    """
    lines = []
    for name, found in (("undisturbed", undisturbed), ("disturbed", disturbed)):
        outcomes = Counter([*found.clips, *(clip_id for clip_id, _ in found.dead_letters)])
        lines += [
            f"{name}: row {clip_id} has {outcomes[clip_id]} outcomes" for clip_id in ids if outcomes[clip_id] != 1
        ]
        lines += [f"{name}: {clip_id} is no row of the manifest" for clip_id in sorted(outcomes.keys() - {*ids})]
        in_table, in_folder = Counter(found.table), Counter(found.clips.keys())
        if wrong := sorted({*(in_table - in_folder), *(in_folder - in_table)}):
            lines.append(f"{name}: the table of results and the clips differ in {', '.join(wrong)}")
        lines += [f"{name}: {clip_id} is damaged" for clip_id, clip in found.clips.items() if "damaged" in clip]
        lines += [f"{name}: {stray} was left behind" for stray in found.strays]
    for clip_id in sorted(undisturbed.clips.keys() & disturbed.clips.keys()):
        one, other = undisturbed.clips[clip_id], disturbed.clips[clip_id]
        wrong = sorted(fact for fact in one.keys() | other.keys() if one.get(fact) != other.get(fact))
        if wrong:
            lines.append(f"clip {clip_id} differs in {', '.join(wrong)}")
    reasons, others = dict(undisturbed.dead_letters), dict(disturbed.dead_letters)
    for clip_id in sorted(reasons.keys() | others.keys()):
        if reasons.get(clip_id) != others.get(clip_id):
            lines.append(f"row {clip_id} failed otherwise: {reasons.get(clip_id)} and {others.get(clip_id)}")
    return lines
