import json

import pyarrow.parquet as pq
import pytest

from pipeline.late_books import write_late_books
from pipeline.run_lock import LockedError
from pipeline.run_status import read_status
from tests.run_files import write_lock, write_marker, write_run


def test_a_killed_run_gets_its_books(tmp_path):
    output = str(tmp_path)
    write_run(output, "running", finished_at=None, allowed_references=["/in/"])
    write_lock(output, age_s=200.0)
    write_marker(output, "earlier", written_at="2026-01-01T00:00:00+00:00")
    for number in range(8):
        write_marker(output, f"c{number}")
    status = read_status(output)
    assert (status.state, status.standing.num_done) == ("killed", 6)
    assert write_late_books(output, status) == 9
    assert len(pq.read_table(tmp_path / "results.parquet")) == 9
    assert not (tmp_path / "run.lock").exists()
    run = json.loads((tmp_path / "run.json").read_text())
    assert (run["state"], run["reason"], run["finished_at"]) == ("interrupted", "killed", "2026-01-02T03:10:00+00:00")
    assert run["allowed_references"] == ["/in/"]
    after = read_status(output)
    assert after.state == "interrupted"
    assert after.standing.num_done == 8, "two came after the last heartbeat; the earlier one is not this run's"
    assert after.standing.lanes["distill/256p"].num_done == 8
    assert after.standing.failures == status.standing.failures
    assert sum(count.num_clips for count in after.clips) == 9


def test_books_of_a_run_that_ended_in_order_stay(tmp_path):
    write_run(str(tmp_path), "complete")
    write_marker(str(tmp_path), "a")
    before = (tmp_path / "run.json").read_bytes()
    assert write_late_books(str(tmp_path), read_status(str(tmp_path))) == 1
    assert (tmp_path / "run.json").read_bytes() == before


def test_nothing_is_written_under_a_run_that_goes_on(tmp_path):
    write_run(str(tmp_path), "running")
    write_lock(str(tmp_path))
    write_marker(str(tmp_path), "a")
    with pytest.raises(LockedError, match="in use by run r1 on host gpu-7"):
        write_late_books(str(tmp_path), read_status(str(tmp_path)))
    assert {path.name for path in tmp_path.iterdir()} == {"run.json", "run.lock", "clips"}
