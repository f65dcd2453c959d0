import json

import pytest

from actors.request import ClipRequest
from actors.row import Failure
from pipeline import dead_letters as module
from pipeline.dead_letters import DeadLetters
from pipeline.manifest import ManifestRow
from pipeline.run_result import RunResult
from pipeline.valid_row import ValidRow
from pipeline.worklist import Status

VALUES = {"id": "a", "prompt": "x", "language": "en", "seconds": 3.0, "metadata": {"k": [1, None]}}


@pytest.fixture
def result():
    result = RunResult()
    for line, clip_id in enumerate("abc", start=1):
        result.counts.num_rows += 1
        result.worklist.add(ValidRow.of(line, ClipRequest.model_validate({**VALUES, "id": clip_id})))
    return result


def letters(result):
    return [json.loads(line) for line in result.dead_letters.to_jsonl().splitlines()]


def test_a_row_that_failed_in_a_stage_is_written_as_it_was_read(result):
    result.fail("b", Failure("decoding", "", None, "no luck"))
    reason = {"line": 2, "stage": "decoding", "field": "", "value": None, "reason": "no luck"}
    assert letters(result) == [{**VALUES, "id": "b", "dead_letter": reason}]
    assert result.worklist.status("b") == Status.FAILED


def test_a_refused_row_counts_once_and_is_not_to_do(result):
    result.counts.num_rows += 2
    valid = ManifestRow(4, {**VALUES, "id": "d"}, ClipRequest.model_validate({**VALUES, "id": "d"}))
    result.refuse(valid, Failure("manifest", "id", "d", "is another"))
    result.refuse(ManifestRow(5, {"raw": "?"}, failure=Failure("manifest", "row", "?", "is not a JSON object")))
    assert [letter["dead_letter"]["line"] for letter in letters(result)] == [4, 5]
    assert result.worklist.status("d") == Status.FAILED
    assert result.counts.num_failed == 2
    assert result.counts.num_left == 3
    with pytest.raises(ValueError, match="line 6 has no failure"):
        result.refuse(ManifestRow(6, {}))


def test_a_run_is_complete_when_every_row_is_a_clip_or_a_dead_letter(result):
    result.finish("a")
    result.finish("c")
    assert not result.is_complete
    result.fail("b", Failure("writing", "", None, "x"))
    assert result.is_complete
    assert result.committed_ids == {"a", "c"}


def test_of_many_dead_letters_the_first_are_at_hand_and_all_are_kept(monkeypatch):
    monkeypatch.setattr(module, "NUM_AT_HAND", 2)
    kept = DeadLetters()
    for number in range(5):
        kept.add({"id": str(number)})
    assert len(kept) == 5
    assert [letter["id"] for letter in kept.first] == ["0", "1"]
    assert [json.loads(line)["id"] for line in kept.to_jsonl().splitlines()] == list("01234")
    kept.add({"id": "half an emoji \ud83d"})
    assert len(kept.to_jsonl().splitlines()) == 6, "reading does not end writing"
