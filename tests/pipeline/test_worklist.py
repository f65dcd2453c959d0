import pytest

from actors.request import ClipRequest
from pipeline import worklist as module
from pipeline.valid_row import ValidRow
from pipeline.worklist import Status, Worklist, unpack_rows


def request(clip_id, **fields):
    return ClipRequest.model_validate({"id": clip_id, "prompt": f"says {clip_id}", "language": "en", **fields})


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(module, "ROWS_PER_CHUNK", 3)


@pytest.fixture
def worklist(small_chunks):
    """Eight rows in two resolutions; number 1 is done, number 5 has failed."""
    rows = Worklist()
    for number in range(8):
        status = {1: Status.SKIPPED, 5: Status.FAILED}.get(number, Status.TODO)
        resolution = "540p" if number % 2 else "256p"
        rows.add(ValidRow.of(10 + number, request(f"c{number}", resolution=resolution, seconds=2)), status)
    return rows


def ids(rows, resolution):
    return [[clip_id for clip_id, _ in unpack_rows(chunk)] for chunk in rows.chunks(resolution)]


def test_what_is_to_do_comes_in_the_manifests_order_one_resolution_at_a_time(worklist):
    assert list(worklist) == [f"c{number}" for number in range(8)]
    assert ids(worklist, "256p") == [["c0", "c2"], ["c4"], ["c6"]]
    assert ids(worklist, "540p") == [["c3"], ["c7"]]
    assert ids(worklist, "1080p") == []
    assert [worklist.num_todo(name) for name in ("256p", "540p", "1080p")] == [4, 2, 0]


def test_what_is_done_or_failed_meanwhile_does_not_come_again(worklist):
    worklist.mark("c4", Status.DONE)
    worklist.mark("c0", Status.FAILED)
    assert ids(worklist, "256p") == [["c2"], ["c6"]]
    assert worklist.num_todo("256p") == 2
    assert worklist.num_made == 2
    assert worklist.status("c4") == Status.DONE


def test_a_row_is_found_by_its_id_whole_and_with_its_line(worklist):
    for number in (0, 3, 7):
        line, text = worklist.row(f"c{number}")
        assert line == 10 + number
        resolution = "540p" if number % 2 else "256p"
        assert ClipRequest.model_validate_json(text) == request(f"c{number}", resolution=resolution, seconds=2)
    assert "c3" in worklist
    assert "c9" not in worklist


def test_actors_get_the_requests_themselves(worklist):
    rows = [row for chunk in worklist.chunks("540p") for row in unpack_rows(chunk)]
    assert [ClipRequest.model_validate_json(text).id for _, text in rows] == ["c3", "c7"]
