import io
import json
import multiprocessing
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from actors.evaluation.clips import Asked, JudgedClip
from actors.request import ClipRequest
from pipeline import evaluation_report
from pipeline.evaluation import EvaluationBrokenError, EvaluationError, EvaluationSpec, evaluate
from pipeline.evaluation_report import write_evaluation
from tests.finished_runs import commit

GREY = np.full((5, 64, 64, 3), 128, np.uint8)
SILENCE = np.zeros(10_240, np.float32)


def commit_grey(folder, *names: str) -> None:
    """Finished clips of five grey frames, the same file for all."""
    first, *others = names
    commit(str(folder), ClipRequest(id=first, prompt="A wall.", language="en", seconds=0.2), GREY, SILENCE)
    record = json.loads((folder / f"clips/{first}.json").read_text())
    for name in others:
        record["id"] = record["request"]["id"] = name
        (folder / f"clips/{name}.json").write_text(json.dumps(record))
        shutil.copy(folder / f"clips/{first}.mp4", folder / f"clips/{name}.mp4")


def change(folder, name: str, **fields) -> None:
    path = folder / f"clips/{name}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_records_that_cannot_be_used_are_left_out_and_noted(tmp_path):
    commit_grey(tmp_path, "good", "damaged", "later", "odd", "empty")
    (tmp_path / "clips/damaged.json").write_text("{")
    change(tmp_path, "later", version=2)
    change(tmp_path, "odd", request={"id": "odd", "prompt": "A wall.", "language": "en", "seconds": 99, "tempo": 1})
    change(tmp_path, "empty", request=None)
    found = evaluate(EvaluationSpec(str(tmp_path), 1))
    assert [clip.id for clip in found.clips] == ["good"]
    assert [note for note in found.notes if note.startswith("left out")] == [
        "left out: 2 of 5 records are damaged or of another version",
        "left out: empty, whose request is not valid: row must be an object",
        "left out: odd, whose request is not valid: seconds must be at most 15 without audio; also tempo is unknown; "
        f"known here: {', '.join(ClipRequest.model_fields)}",
    ]


def test_a_run_of_nothing_but_such_records_is_one_line(tmp_path):
    commit_grey(tmp_path, "damaged")
    (tmp_path / "clips/damaged.json").write_text("{")
    with pytest.raises(EvaluationError, match="no finished clips; left out: 1 of 1 records are damaged") as raised:
        evaluate(EvaluationSpec(str(tmp_path), 1))
    assert "\n" not in str(raised.value)


@pytest.mark.slow
def test_a_killed_process_is_one_line(tmp_path):
    commit_grey(tmp_path, *[f"clip-{number}" for number in range(24)])

    def kill_all(done: int, total: int) -> None:
        for process in multiprocessing.active_children():
            process.kill()

    with pytest.raises(EvaluationBrokenError, match=r"when \d+ of 24 clips were judged"):
        evaluate(EvaluationSpec(str(tmp_path), 2), kill_all)


def test_nothing_is_written_unless_everything_can_be(tmp_path, monkeypatch):
    commit_grey(tmp_path, "clip")
    found = evaluate(EvaluationSpec(str(tmp_path), 1))

    def fail(facts) -> bytes:
        raise RuntimeError("no plot")

    monkeypatch.setattr(evaluation_report, "draw", fail)
    with pytest.raises(RuntimeError, match="no plot"):
        write_evaluation(str(tmp_path / "report"), found)
    assert not (tmp_path / "report").exists()


def test_the_table_of_clips_is_written_in_batches(monkeypatch):
    monkeypatch.setattr(evaluation_report, "_CLIPS_PER_BATCH", 2)
    asked = Asked(None, None, "", 1.2, False, False)
    clips = [JudgedClip(f"clip-{number}", "en", "256p", asked, correlation=number / 10) for number in range(5)]
    table = pq.ParquetFile(io.BytesIO(evaluation_report.clips_table(clips)))
    assert table.num_row_groups == 3
    rows = table.read().to_pylist()
    assert [row["id"] for row in rows] == [clip.id for clip in clips]
    assert [row["mouth_correlation"] for row in rows] == [0, 0.1, 0.2, 0.3, 0.4]
    assert rows[0]["asked_s"] == 1.2
