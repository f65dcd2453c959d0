import io
import json

import pytest
from rich.console import Console

from actors.storage import join, write_atomically
from pipeline.run_status import NoRunError, read_status
from pipeline.status_report import status_line, status_lines
from tests.run_files import PROGRESS, write_lock, write_marker, write_run


def printed(status, width=200) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(status_lines(status, with_bar=True), highlight=False)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("age_s", "state", "words"),
    [
        (5.0, "running", "last heartbeat 5 s ago\n"),
        (70.0, "silent", "last heartbeat 1 min 10 s ago; counts as dead when silent for 120 s"),
        (130.0, "killed", "last heartbeat 2 min 10 s ago: it is dead"),
    ],
)
def test_a_lock_tells_of_its_run(tmp_path, age_s, state, words):
    write_lock(str(tmp_path), age_s)
    status = read_status(str(tmp_path))
    assert status.state == state
    assert status.is_alive == (state != "killed")
    text = printed(status)
    assert words in text
    assert "run r1 on host gpu-7 (process 42), from 2026-01-02T03:00:00+00:00 on" in text
    assert "10 of 20 done (4 of them by earlier runs), 3 failed, 7 left, 2.0 clips/min" in text
    assert ("3 min 30 s to go" in text) == status.is_alive
    lane = next(line for line in text.splitlines() if line.startswith("distill/256p"))
    assert lane.split() == ["distill/256p", "10", "6", "1", "3", *(["decoding", "2"] if status.is_alive else [])]
    assert "manifest   language      2  must be one of 'zh' or 'de'" in text
    assert ("jobs.generate continues" in text) == (state == "killed")
    assert status_line(status).startswith(f"{state}: 10 of 20 done")


def test_books_of_an_earlier_run_are_not_taken_for_those_of_the_run_that_goes_on(tmp_path):
    write_run(str(tmp_path), "complete", run_id="r0")
    write_lock(str(tmp_path), progress={})
    status = read_status(str(tmp_path))
    assert (status.state, status.standing, status.text("manifest")) == ("running", None, "")
    assert "has not said yet how far it is" in printed(status)
    write_run(str(tmp_path), "running", run_id="r1")
    assert read_status(str(tmp_path)).text("manifest") == "s3://in/m.jsonl"


@pytest.mark.parametrize(
    ("said", "state", "words"),
    [
        ("complete", "complete", "mend a copy and use it as a manifest"),
        ("interrupted", "interrupted", "ended before its time: told to stop"),
        ("running", "killed", "--write books all its clips"),
        ("odd", "unknown", "no run.json that can be read"),
        (["odd"], "unknown", "no run.json that can be read"),
    ],
)
def test_books_tell_of_a_run_that_has_ended(tmp_path, said, state, words):
    clips = [{"resolution": "540p", "language": "ja", "num_clips": 1200, "video_s": 2400.0}]
    write_run(str(tmp_path), said, reason="told to stop" if said == "interrupted" else None, clips=clips)
    write_marker(str(tmp_path), "a")
    status = read_status(str(tmp_path))
    assert status.state == state
    assert status.elapsed_s == 1200.0
    assert [line.split() for line in printed(status).splitlines() if line.startswith("540p")] == [
        ["540p", "ja", "1,200", "40", "min", "00", "s"]
    ]
    assert words in printed(status)
    assert "to go" not in printed(status)


@pytest.mark.parametrize("content", ["", "[1]", "null", '"x"', "{", '{"progress": 3, "totals": [], "run_id": 5}'])
def test_what_is_damaged_says_nothing_and_breaks_nothing(tmp_path, content):
    write_marker(str(tmp_path), "a")
    write_atomically(join(str(tmp_path), "run.json"), content.encode())
    assert read_status(str(tmp_path)).state == "unknown"
    write_atomically(join(str(tmp_path), "run.lock"), content.encode() or b" ")
    status = read_status(str(tmp_path))
    assert (status.state, status.standing) == ("running", None)
    json.dumps(status.as_json(), allow_nan=False)
    assert "running" in printed(status)


@pytest.mark.parametrize(
    "wrong", [{"num_rows": -1}, {"num_done": "many"}, {"clips_per_minute": float("nan")}, {"lanes": {"x": 3}}]
)
def test_progress_of_another_kind_is_not_believed(tmp_path, wrong):
    write_lock(str(tmp_path), progress={**PROGRESS, **wrong})
    assert read_status(str(tmp_path)).standing is None


def test_texts_of_others_are_shown_as_they_are_and_do_nothing(tmp_path):
    failure = {"stage": "[red]", "field": "\x1b[2J", "reason": "[bold]odd[/]\nline", "num": 1}
    write_lock(str(tmp_path), progress={**PROGRESS, "failures": [failure]})
    text = printed(read_status(str(tmp_path)))
    assert "\x1b" not in text
    for words in ("[red]", r"\x1b[2J", r"[bold]odd[/]\nline"):
        assert words in text
    assert "2  others" in text


def test_an_output_without_a_run_is_an_error_of_one_line(tmp_path, s3_bucket):
    for output in (str(tmp_path / "absent"), str(tmp_path), join(s3_bucket, "out")):
        with pytest.raises(NoRunError, match=r"holds no run: neither run\.lock nor run\.json nor clips are there"):
            read_status(output)


def test_in_a_bucket_it_is_the_same(s3_bucket):
    output = join(s3_bucket, "out")
    write_lock(output)
    assert read_status(output).state == "running"
    assert read_status(output).standing.num_left == 7
