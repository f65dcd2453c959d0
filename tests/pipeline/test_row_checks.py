import gzip
import json
import subprocess
import sys
import time

import psutil
import pytest

from actors.fingerprint import LaneFingerprint
from pipeline import row_checks
from pipeline.manifest import ManifestRow, RowValidator
from pipeline.row_checks import checked_rows
from pipeline.row_files import RowFileError
from pipeline.valid_row import ClipKind, ValidRow

NUM_ROWS = 2000
LANE = LaneFingerprint("lane")


def row(number):
    if number % 9 == 5:
        return '{"id": '
    fields = {"id": f"c{number}", "prompt": f"says {number}", "language": "xx" if number % 7 == 3 else "en"}
    return json.dumps(fields | ({"resolution": "540p", "seconds": 2} if number % 2 else {}))


@pytest.fixture
def manifest(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text("".join(row(number) + "\n" for number in range(NUM_ROWS)))
    return str(path)


@pytest.fixture
def soon(monkeypatch):
    """Helpers begin after a few rows, and there are two, whatever the machine has."""
    monkeypatch.setattr(row_checks, "_ROWS_PER_BATCH", 50)
    monkeypatch.setattr(row_checks, "_BATCHES_ALONE", 2)
    monkeypatch.setattr(row_checks, "_num_helpers", lambda: 2)


def helpers(pid=None):
    children = psutil.Process(pid).children()
    return [child for child in children if any("row_helper" in part for part in child.cmdline())]


@pytest.mark.slow
@pytest.mark.usefixtures("soon")
@pytest.mark.timeout(120)
def test_helpers_find_what_one_process_finds_in_the_same_order(manifest, monkeypatch):
    lanes, found, most_helpers = {("256p", False): LANE}, [], 0
    for numbered, checked in checked_rows(manifest, RowValidator(manifest), lanes):
        if len(found) == 1000:
            lanes["540p", False] = LANE  # as the one who reads finds out about them
        found.append((numbered, checked))
        most_helpers = max(most_helpers, len(helpers())) if len(found) % 100 == 0 else most_helpers
    assert most_helpers == 2
    assert helpers() == []
    monkeypatch.setattr(row_checks, "_num_helpers", lambda: 0)
    lanes = {("256p", False): LANE, ("540p", False): LANE}
    alone = list(checked_rows(manifest, RowValidator(manifest), lanes))
    assert [numbered for numbered, _ in found] == [numbered for numbered, _ in alone]
    for (_, helped), (_, own) in zip(found, alone, strict=True):
        assert type(helped) is type(own)
        assert helped == own or (helped.fingerprint == "" and helped == own._replace(fingerprint=""))
    with_fingerprint = [checked.line for _, checked in found if isinstance(checked, ValidRow) and checked.fingerprint]
    assert all(line % 2 for line in with_fingerprint if line <= 1000), "the others' lane was not known yet"
    assert any(line % 2 == 0 for line in with_fingerprint)


def test_a_valid_row_is_what_its_request_says_and_others_say_what_is_wrong(manifest):
    rows = [checked for _, checked in checked_rows(manifest, RowValidator(manifest), {})][:6]
    valid = [row for row in rows if isinstance(row, ValidRow)]
    assert [(row.line, row.id, row.kind.resolution) for row in valid] == [
        *((1, "c0", "256p"), (2, "c1", "540p"), (3, "c2", "256p"), (5, "c4", "256p"))
    ]
    assert valid[1].kind == ClipKind("540p", "16:9", 2.0, has_image=False, has_audio=False)
    assert valid[1] == ValidRow.of(2, valid[1].parsed())
    assert [row.failure.field for row in rows if isinstance(row, ManifestRow)] == ["language", "row"]


@pytest.mark.usefixtures("soon")
@pytest.mark.timeout(120)
def test_without_its_helpers_the_process_goes_on_alone(tmp_path, caplog):
    """They are killed while they write: what has become of a batch is more than a pipe holds."""
    path, long = tmp_path / "m.jsonl", "long " * 3000
    rows = [{"id": f"c{number}", "prompt": f"{long}{number}", "language": "en"} for number in range(600)]
    path.write_text("".join(json.dumps(values) + "\n" for values in rows))
    found = []
    for _, checked in checked_rows(str(path), RowValidator(str(path)), {}):
        found.append(checked.id)
        if len(found) == 300:
            for helper in helpers():
                while helper.status() != psutil.STATUS_SLEEPING:
                    time.sleep(0.05)
                helper.kill()
    assert found == [values["id"] for values in rows]
    assert "got end of file during message" in caplog.text


@pytest.mark.usefixtures("soon")
@pytest.mark.timeout(120)
def test_a_folder_of_the_same_name_is_not_taken_for_ours(manifest, tmp_path, monkeypatch, caplog):
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline/__init__.py").write_text("raise ImportError('somebody else')")
    monkeypatch.chdir(tmp_path)
    assert len(list(checked_rows(manifest, RowValidator(manifest), {}))) == NUM_ROWS
    assert not caplog.records, "they helped"


@pytest.mark.usefixtures("soon")
@pytest.mark.timeout(120)
def test_where_no_process_can_be_started_there_is_no_help(manifest, monkeypatch, caplog):
    def refuse(*_, **__):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    assert len(list(checked_rows(manifest, RowValidator(manifest), {}))) == NUM_ROWS
    assert "Resource temporarily unavailable" in caplog.text


@pytest.mark.usefixtures("soon")
@pytest.mark.timeout(120)
def test_a_file_that_ends_too_soon_is_told_of_and_no_helper_stays(tmp_path):
    path = tmp_path / "m.jsonl.gz"
    lines = "".join(row(number) + "\n" for number in range(NUM_ROWS)).encode()
    path.write_bytes(gzip.compress(lines)[:-20])
    with pytest.raises(RowFileError, match="ended before the end-of-stream marker"):
        list(checked_rows(str(path), RowValidator(str(path)), {}))
    assert helpers() == []


_READER = """
import sys
from pipeline import row_checks
from pipeline.manifest import RowValidator
row_checks._ROWS_PER_BATCH, row_checks._BATCHES_ALONE, row_checks._num_helpers = 50, 2, lambda: 2
for number, _ in enumerate(row_checks.checked_rows(sys.argv[1], RowValidator(sys.argv[1]), {})):
    if number == 300:
        print("reading", flush=True)
        input()
"""


@pytest.mark.timeout(120)
def test_helpers_end_with_a_driver_that_is_killed(manifest):
    command = [sys.executable, "-c", _READER, manifest]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout.readline() == "reading\n"
        children = helpers(reader.pid)
        assert len(children) == 2
        reader.kill()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []


def test_a_short_manifest_starts_no_process(tmp_path, monkeypatch):
    monkeypatch.setattr(row_checks, "_Helper", None)
    path = tmp_path / "m.jsonl"
    path.write_text(row(0) + "\n")
    assert [checked.id for _, checked in checked_rows(str(path), RowValidator(str(path)), {})] == ["c0"]
