"""Long manifests, which several processes read; short ones are read by every test of the job."""

import json
from pathlib import Path

import pytest

from benchmarks.earlier_run import write_earlier_run, write_manifest
from pipeline import row_checks
from pipeline.intake import Intake
from pipeline.ledger import Ledger
from pipeline.run_result import RunResult
from pipeline.run_spec import RunSpec
from pipeline.settings import Settings
from pipeline.worklist import Status

MINI = Path(__file__).parents[2] / "checkpoints" / "mini"


def read(manifest, output):
    result = RunResult()
    works = Intake(RunSpec(str(manifest), str(output), str(MINI), Settings()), Ledger(str(output)), result).read()
    rows = {clip_id: (result.worklist.status(clip_id), result.worklist.row(clip_id)) for clip_id in result.worklist}
    letters = [json.loads(line) for line in result.dead_letters.to_jsonl().splitlines()]
    counts = result.counts.num_rows, result.counts.num_skipped, result.counts.num_failed
    return rows, letters, counts, [(work.lane, work.counts, work.examples) for work in works]


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_manifest_read_by_several_processes_is_sorted_as_by_one(tmp_path, monkeypatch):
    manifest, output = tmp_path / "m.jsonl", tmp_path / "out"
    write_manifest(manifest, 400)
    write_earlier_run(output, manifest, MINI, 200)
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    lines[150]["seed"] = 7  # another clip now
    lines[250]["seconds"] = 9  # longer than this checkpoint makes
    lines[350]["id"] = lines[20]["id"].upper()
    lines[360]["language"] = "xx"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setattr(row_checks, "_num_helpers", lambda: 0)
    alone = read(manifest, output)
    monkeypatch.setattr(row_checks, "_num_helpers", lambda: 2)
    monkeypatch.setattr(row_checks, "_ROWS_PER_BATCH", 20)
    monkeypatch.setattr(row_checks, "_BATCHES_ALONE", 2)
    # Helpers learn of the lane while they help, and find the fingerprints of what comes after.
    assert read(manifest, output) == alone
    rows, letters, counts, works = alone
    assert counts == (400, 199, 4)
    assert [(letter["dead_letter"]["line"], letter["dead_letter"]["field"]) for letter in letters] == [
        *((151, "id"), (251, "seconds"), (351, "id"), (361, "language"))
    ]
    assert sum(status == Status.TODO for status, _ in rows.values()) == sum(works[0][1]) == 197
