import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.manifest import ManifestError, read_manifest

GOOD = {"id": "a", "prompt": "A woman speaks.", "language": "en"}


def write_jsonl(path, *rows):
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return str(path)


def test_the_same_rows_read_alike_from_every_format(tmp_path):
    rows = [
        {**GOOD, "seconds": 2.5, "seed": 7, "image": None, "prompt": json.dumps({"description": "x"})},
        {**GOOD, "id": "b", "seconds": None, "seed": None, "image": "faces/b.png"},
    ]
    jsonl = write_jsonl(tmp_path / "m.jsonl", *rows)
    (tmp_path / "m.jsonl.gz").write_bytes(gzip.compress((tmp_path / "m.jsonl").read_bytes()))
    names = list(rows[0])
    cells = [
        ",".join("" if row[n] is None else '"' + str(row[n]).replace('"', '""') + '"' for n in names) for row in rows
    ]
    (tmp_path / "m.csv").write_text("\ufeff" + "\n".join([",".join(names), *cells]), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "m.parquet")
    expected = [row.request for row in read_manifest(jsonl)]
    assert None not in expected
    assert expected[0].prompt.description == "x"
    assert expected[1].image == str(tmp_path / "faces/b.png"), "relative to the manifest"
    for name in ("m.jsonl.gz", "m.csv", "m.parquet"):
        assert [row.request for row in read_manifest(str(tmp_path / name))] == expected, name


def test_bad_lines_fail_alone_and_say_where(tmp_path):
    url = write_jsonl(
        tmp_path / "m.jsonl",
        GOOD,
        b'{"id": "b", ',
        b"[1]",
        b"\xff\xfe",
        b"",
        {**GOOD, "id": "c", "language": "xx"},
        GOOD,
    )
    rows = read_manifest(url)
    assert [row.line for row in rows] == [1, 2, 3, 4, 6, 7]
    assert [row.request is None for row in rows] == [False, True, True, True, True, True]
    assert [row.failure.field for row in rows[1:]] == ["row", "row", "row", "language", "id"]
    assert rows[1].failure.reason == "is not a JSON object"
    assert rows[1].failure.value == '{"id": "b",'
    assert rows[5].failure.reason == "is used already in line 1; ids must be unique"


def test_a_dead_letter_is_the_row_plus_the_reason_and_can_be_fed_back(tmp_path):
    row = {**GOOD, "seconds": 99, "metadata": {"k": 1}}
    (bad,) = read_manifest(write_jsonl(tmp_path / "m.jsonl", row))
    letter = bad.dead_letter(bad.failure)
    assert {key: value for key, value in letter.items() if key != "dead_letter"} == row
    assert letter["dead_letter"] == {
        "line": 1,
        "stage": "manifest",
        "field": "seconds",
        "value": 99,
        "reason": "must be at most 15",
    }
    (mended,) = read_manifest(write_jsonl(tmp_path / "again.jsonl", {**letter, "seconds": 9}))
    assert mended.request is not None
    assert mended.request.seconds == 9
    assert "dead_letter" not in mended.values


def test_an_unreadable_manifest_is_one_clear_line(tmp_path):
    with pytest.raises(ManifestError, match=r"manifest .*absent\.jsonl: "):
        read_manifest(str(tmp_path / "absent.jsonl"))
    (tmp_path / "m.txt").write_text("x")
    with pytest.raises(ManifestError, match=r"name must end in one of \.jsonl, \.ndjson, \.csv, \.parquet"):
        read_manifest(str(tmp_path / "m.txt"))
    (tmp_path / "m.parquet").write_text("no parquet")
    with pytest.raises(ManifestError, match=r"manifest .*m\.parquet: "):
        read_manifest(str(tmp_path / "m.parquet"))
